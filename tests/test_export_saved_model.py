"""SavedModels against the Keras models they were made from."""

import os

import keras
import numpy as np
import pytest
from keras import layers

from keras_sparse_rnn import GroupedLSTM

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


def test_invalid_models(tmp_path):
    stateful = keras.Sequential(
        [keras.Input((3, 2), batch_size=1), GroupedLSTM(2, 2, stateful=True)]
    )
    with pytest.raises(ValueError, match="stateful=False"):
        export_saved_model(stateful, tmp_path / "served")
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
