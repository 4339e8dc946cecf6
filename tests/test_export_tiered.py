"""Tiered tables in TFLite files: looked up, multiplied with, and stored once."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_sparse_rnn import TieredEmbedding

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports need the TensorFlow backend", allow_module_level=True)
pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

from keras_sparse_rnn import export_saved_model, export_tflite
from keras_sparse_rnn.command_line import tflite_file

WORDS, WIDTH = 600, 32
# None of the blocks is so small that the converter leaves it in float.
TIERS = [(80, 32), (120, 16), (400, 8)]
WEIGHTS = 80 * 32 + 120 * 16 + 400 * 8


def model_of(length=None, **arguments):
    keras.utils.set_random_seed(2)
    words = keras.Input((length,), dtype="int32", name="ids")
    table = TieredEmbedding(
        WORDS,
        WIDTH,
        tiers=TIERS,
        embeddings_initializer=keras.initializers.RandomNormal(0, 0.5),
        name="words",
        **arguments,
    )
    hidden = layers.LSTM(WIDTH, return_sequences=True, name="lstm")(table(words))
    model = keras.Model(words, table(hidden, reverse=True))
    for number, variable in enumerate(table.weights):
        if "table" not in variable.name and "embeddings" not in variable.name:
            noise = np.random.default_rng(number).standard_normal(variable.shape)
            variable.assign(variable + 0.1 * noise)
    return model


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"reverse_bias": True, "mask_zero": True}, marks=pytest.mark.long),
        pytest.param(
            {"tie_weights": False, "logit_soft_cap": 2.0}, marks=pytest.mark.long
        ),
        {"projection": True, "dropout": 0.5, "word_dropout": 0.5},
    ],
    ids=str,
)
def test_both_directions_are_those_of_the_layer(tmp_path, arguments):
    model = model_of(**arguments)
    # Compared with Keras in both runtimes, or nothing is written.
    for form in ({}, {"streaming": "states"}):
        report = export_tflite(model, tmp_path / "model.tflite", **form)
        assert len(report.runtimes) == 2
        assert report.max_difference < 1e-5
    assert export_saved_model(model, tmp_path / "saved").notes == []


@pytest.mark.parametrize(
    ("quantize", "kind", "bytes_each"),
    [(None, "float32", 4), ("float16", "float16", 2), ("dynamic", "int8", 1)],
)
def test_a_table_is_in_the_file_once(tmp_path, quantize, kind, bytes_each):
    path = tmp_path / "model.tflite"
    report = export_tflite(model_of(), path, quantize=quantize)
    stored = tflite_file.stored(path.read_bytes())
    lstm = 2 * 4 * WIDTH * WIDTH
    within = WEIGHTS + lstm
    assert within <= stored[kind]["numbers"] < 1.04 * within + 4 * WIDTH
    assert stored[kind]["bytes"] < bytes_each * (1.04 * within + 4 * WIDTH)
    told = any("one scale" in note for note in report.notes)
    assert told == (quantize == "dynamic")
    assert report.max_share < {None: 1e-5, "float16": 0.01, "dynamic": 0.1}[quantize]


@pytest.mark.parametrize("stock", [False, True])
def test_signatures_of_a_saved_model_share_the_table(tmp_path, stock):
    words = keras.Input((None,), dtype="int32", name="ids")
    table = (
        layers.ReversibleEmbedding(30_000, WIDTH)
        if stock
        else TieredEmbedding(30_000, WIDTH, tiers=[(500, WIDTH), (29_500, 8)])
    )
    hidden = layers.GRU(WIDTH, return_sequences=True)(table(words))
    model = keras.Model(words, table(hidden, reverse=True))
    assert export_saved_model(model, tmp_path / "saved").notes == []
    held = sum(f.stat().st_size for f in (tmp_path / "saved").rglob("*"))
    once = 4 * table.count_params()
    # The graph itself does not grow with the vocabulary.
    assert once < held < once + 900_000
    import tensorflow as tf

    served = tf.saved_model.load(tmp_path / "saved").signatures
    ids = np.array([[1, 5, 2900]], "int32")
    (out,) = served["sequence"](ids=tf.constant(ids)).values()
    np.testing.assert_allclose(out, ops.convert_to_numpy(model(ids)), atol=1e-5)


def test_short_rows_of_an_untied_table_have_no_scales_of_their_own(tmp_path):
    path = tmp_path / "model.tflite"
    report = export_tflite(model_of(tie_weights=False), path, quantize="dynamic")
    weights = 2 * WEIGHTS + 8 * WIDTH**2
    # They would be as long again as the weights.
    assert weights <= path.stat().st_size < 2 * weights
    assert any("has short rows" in note for note in report.notes)


def test_one_direction_alone_keeps_a_scale_a_row(tmp_path):
    words = keras.Input((None,), dtype="int32")
    table = TieredEmbedding(WORDS, WIDTH, tiers=TIERS)
    hidden = layers.LSTM(WIDTH, return_sequences=True)(
        layers.Embedding(WORDS, WIDTH)(words)
    )
    model = keras.Model(words, table(hidden, reverse=True))
    report = export_tflite(model, tmp_path / "model.tflite", quantize="dynamic")
    assert not any("one scale" in note for note in report.notes)


def test_a_model_that_ends_in_its_loss_is_refused(tmp_path):
    words = keras.Input((4,), dtype="int32")
    table = TieredEmbedding(WORDS, WIDTH, tiers=TIERS, name="words")
    loss = table(layers.LSTM(WIDTH, return_sequences=True)(table(words)), targets=words)
    with pytest.raises(ValueError, match=r"'words' makes a loss.*reverse=True"):
        export_tflite(keras.Model(words, loss), tmp_path / "model.tflite")


@pytest.mark.parametrize("tied", [True, False])
def test_a_table_of_keras_itself_has_both_directions(tmp_path, tied):
    words = keras.Input((None,), dtype="int32", name="ids")
    table = layers.ReversibleEmbedding(WORDS, WIDTH, tie_weights=tied)
    hidden = layers.LSTM(WIDTH, return_sequences=True)(table(words))
    model = keras.Model(words, table(hidden, reverse=True))
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path)
    assert report.max_difference < 1e-5
    # CompiledModel has no memory for an output whose shape is computed.
    assert len(report.runtimes) == 2
    numbers = tflite_file.stored(path.read_bytes())["float32"]["numbers"]
    assert numbers < 1.02 * ((1 if tied else 2) * WORDS * WIDTH + 8 * WIDTH**2)
