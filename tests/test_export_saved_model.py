"""SavedModels against the Keras models they were made from."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_sparse_rnn import GroupedGRU, GroupedLSTM, TieredEmbedding

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports need the TensorFlow backend", allow_module_level=True)
tf = pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

from keras_sparse_rnn.export import export_saved_model  # noqa: E402


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def serve(path, **inputs):
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    outputs = signature(**{name: tf.constant(x) for name, x in inputs.items()})
    return {name: output.numpy() for name, output in outputs.items()}


def two_inputs():
    a, b = keras.Input((6, 4), name="zeta"), keras.Input((3,), name="alpha")
    y = GroupedLSTM(6, 2, return_sequences=True, dropout=0.5)(a)
    y = layers.Bidirectional(layers.LSTM(4), name="both")(layers.Dropout(0.5)(y))
    return keras.Model([a, b], [y, layers.Dense(2, name="dense")(b)])


def test_signature_and_values(tmp_path):
    model = two_inputs()
    export_saved_model(model, tmp_path / "served")
    # The batch size stays open.
    for batch in (1, 5):
        a, b = values((batch, 6, 4)), values((batch, 3), seed=1)
        got = serve(tmp_path / "served", zeta=a, alpha=b)
        assert sorted(got) == ["both", "dense"]
        both, dense = model([a, b], training=False)
        np.testing.assert_allclose(got["both"], both, atol=1e-6)
        np.testing.assert_allclose(got["dense"], dense, atol=1e-6)


def test_unknown_number_of_steps(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="words"),
            layers.Embedding(9, 4, mask_zero=True),
            layers.LSTM(5, return_sequences=True),
            layers.GRU(3, name="out"),
        ]
    )
    export_saved_model(model, str(tmp_path / "served"))
    for length in (1, 7):
        words = np.random.default_rng(length).integers(0, 9, (2, length), "int32")
        got = serve(tmp_path / "served", words=words)["out"]
        np.testing.assert_allclose(got, model(words), atol=1e-6)


def test_batch_size_and_no_cudnn(tmp_path):
    model = keras.Sequential([keras.Input((4, 3)), layers.LSTM(2)])
    export_saved_model(model, tmp_path / "served", batch_size=3)
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    signature = loaded.signatures["serving_default"]
    (spec,) = signature.structured_input_signature[1].values()
    assert spec.shape == (3, 4, 3)
    assert model.layers[0].use_cudnn == "auto"
    graph = signature.graph.as_graph_def()
    names = {node.op for node in graph.node}
    names |= {node.op for f in graph.library.function for node in f.node_def}
    assert not [name for name in names if "Cudnn" in name]


def test_an_older_one_is_replaced_and_nothing_is_left(tmp_path):
    path = tmp_path / "served"
    for units in (2, 3):
        x = keras.Input((2,), name="x")
        export_saved_model(keras.Model(x, layers.Dense(units, name="y")(x)), path)
    assert serve(path, x=values((1, 2)))["y"].shape == (1, 3)
    assert os.listdir(tmp_path) == ["served"]


def test_invalid_targets(tmp_path):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    (tmp_path / "file").write_text("kept")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("kept")
    for name, message in (
        ("missing/served", "does not exist"),
        ("file/served", "does not exist, or is a file"),
        ("file", "is not replaced"),
        ("other", "is not replaced"),
    ):
        with pytest.raises(ValueError, match=message):
            export_saved_model(model, tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]
    assert os.listdir(tmp_path / "other") == ["thesis.tex"]


def streamed(path, report, x):
    """The outputs of signature `step` for each time step of a sequence."""
    step = tf.saved_model.load(str(path)).signatures["step"]
    specs = step.structured_input_signature[1]
    states = {
        name: tf.zeros((len(x), specs[name].shape[1])) for name in report.states["step"]
    }
    (name,) = report.inputs
    made = []
    for t in range(x.shape[1]):
        results = step(**{name: tf.constant(x[:, t : t + 1])}, **states)
        states = {state: results[state] for state in states}
        made.append({name: results[name].numpy() for name in report.outputs})
    return made


def test_steps_of_a_stream_are_the_sequence(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="words"),
            TieredEmbedding(12, 4, density=0.5),
            GroupedLSTM(6, 2, return_sequences=True),
            layers.TimeDistributed(layers.Dense(5)),
            layers.GRU(4, return_sequences=True, name="out"),
        ]
    )
    report = export_saved_model(model, tmp_path / "served")
    assert report.signatures == ["serving_default", "sequence", "step"]
    assert report.notes == []
    words = np.random.default_rng(0).integers(0, 12, (3, 6), "int32")
    made = streamed(tmp_path / "served", report, words)
    got = np.concatenate([step["out"] for step in made], axis=1)
    np.testing.assert_allclose(got, model(words), atol=1e-6)
    assert "state_" in str(report)


def test_without_a_step_it_is_said_why(tmp_path):
    x = keras.Input((6, 3), name="x")
    y = layers.LSTM(4, return_sequences=True)(x)
    for model, why in (
        (two_inputs(), "'both' also goes backwards"),
        (keras.Model(x, layers.Conv1D(2, 3)(y)), "more than one time step"),
        # Only the numbers tell.
        (keras.Model(x, ops.cumsum(y, axis=1)), "differs from that of the whole"),
        (keras.Model(x, layers.Reshape((24,))(y)), "size"),
    ):
        report = export_saved_model(model, tmp_path / "served")
        assert report.signatures == ["serving_default", "sequence"]
        (note,) = report.notes
        assert why in note


def test_states_of_stateful_layers_are_inputs_and_outputs(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4, 3), batch_size=2, name="x"),
            layers.LSTM(5, stateful=True, return_sequences=True, name="first"),
            GroupedGRU(4, 2, stateful=True, name="out"),
        ]
    )
    report = export_saved_model(model, tmp_path / "served")
    names = ["state_first_h", "state_first_c", "state_out_h"]
    assert report.states["sequence"] == names
    states = {name: np.zeros((2, 5), "float32") for name in names[:2]}
    states[names[2]] = np.zeros((2, 4), "float32")
    for seed in range(3):
        x = values((2, 4, 3), seed)
        got = serve(tmp_path / "served", x=x, **states)
        np.testing.assert_allclose(got["out"], model(x), atol=1e-6)
        states = {name: got[name] for name in names}


LOADING = """
import sys
import numpy as np
import tensorflow as tf
signatures = tf.saved_model.load(sys.argv[1]).signatures
x = np.load(sys.argv[2])
np.save(sys.argv[3], signatures["sequence"](x=tf.constant(x))["out"].numpy())
assert "keras_sparse_rnn" not in sys.modules
"""


def test_loads_where_this_package_is_not(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, 3), name="x"), GroupedLSTM(4, 2, name="out")]
    )
    export_saved_model(model, tmp_path / "served")
    x = values((2, 5, 3))
    np.save(tmp_path / "x.npy", x)
    paths = [str(tmp_path / name) for name in ("served", "x.npy", "y.npy")]
    # Isolated, and from an empty folder, so that it is not on the path by accident.
    (tmp_path / "empty").mkdir()
    subprocess.run(
        [sys.executable, "-c", LOADING, *paths],
        check=True,
        cwd=tmp_path / "empty",
        capture_output=True,
    )
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(x), atol=1e-6)


def test_invalid_arguments(tmp_path):
    with pytest.raises(ValueError, match="batch_size='2'"):
        export_saved_model(two_inputs(), tmp_path / "served", batch_size="2")
    assert os.listdir(tmp_path) == []


def test_nothing_is_left_after_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "served"
    model = two_inputs()
    export_saved_model(model, path)

    def fail(*_args, **_kwargs):
        raise RuntimeError("disk full")

    monkeypatch.setattr(type(keras.export.ExportArchive()), "write_out", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        export_saved_model(model, path)
    assert os.listdir(tmp_path) == ["served"]
    assert (path / "saved_model.pb").exists()


def test_text_is_refused(tmp_path):
    vocabulary = layers.TextVectorization(output_sequence_length=4)
    vocabulary.adapt(["a rose is a rose"])
    text = keras.Input((1,), dtype="string", name="text")
    vectors = layers.Embedding(vocabulary.vocabulary_size(), 4)(vocabulary(text))
    model = keras.Model(text, layers.LSTM(3, name="lstm")(vectors))
    with pytest.raises(ValueError, match=r"'text'.*takes text.*before the model"):
        export_saved_model(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
