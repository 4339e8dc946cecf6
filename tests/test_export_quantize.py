"""Quantized files: what they cost is measured, and refused where it is too much."""

import concurrent.futures
import os

import keras
import numpy as np
import pytest
from keras import layers

from keras_sparse_rnn import GroupedLSTM

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports need the TensorFlow backend", allow_module_level=True)
pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

from keras_sparse_rnn.export import TFLiteModel, export_tflite
from keras_sparse_rnn.export.lowering import choice


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def model_of(layer, length=8, features=32):
    keras.utils.set_random_seed(3)
    x = keras.Input((length, features), name="x")
    return keras.Model(x, layers.Dense(40, name="head")(layer(x)))


@pytest.fixture(scope="module")
def model():
    return model_of(GroupedLSTM(64, 2, return_sequences=True, name="grouped"))


SAMPLES = values((40, 8, 32), seed=9)


@pytest.mark.parametrize(
    ("quantize", "share_of_size", "error"),
    [
        pytest.param("float16", 0.75, 1e-3, marks=pytest.mark.long),
        ("dynamic", 0.6, 0.03),
        ("int8", 0.8, 0.1),
    ],
)
def test_each_form_is_measured(tmp_path, model, quantize, share_of_size, error):
    full = export_tflite(model, tmp_path / "full.tflite", "unrolled")
    path = tmp_path / "model.tflite"
    report = export_tflite(
        model,
        path,
        "unrolled",
        quantize,
        representative_data=SAMPLES if quantize == "int8" else None,
        metric="mse",
        data=(SAMPLES, np.zeros((40, 8, 40), "float32")),
    )
    assert report.bytes < share_of_size * full.bytes
    # The same by hand.
    file = TFLiteModel(path)
    got = np.concatenate([file(one[None]) for one in SAMPLES])
    want = keras.ops.convert_to_numpy(model(SAMPLES))
    assert np.abs(got - want).max() < error * np.abs(want).max()
    assert 1e-5 < report.max_share < error
    assert report.metric.name == "mse"
    np.testing.assert_allclose(report.metric.keras, np.mean(want**2), rtol=1e-4)
    np.testing.assert_allclose(report.metric.file, np.mean(got**2), rtol=1e-4)
    assert "mse" in str(report)


def test_a_form_that_is_too_far_is_refused_with_the_numbers(tmp_path, model):
    path = tmp_path / "model.tflite"
    with pytest.raises(RuntimeError, match=r"differs .* by 0\.0.* at most .* allowed"):
        export_tflite(model, path, quantize="dynamic", max_error=1e-4)
    assert not path.exists()


def test_weights_left_in_float_are_told(tmp_path):
    # The converter quantizes no matrix of fewer than 1,024 elements.
    model = model_of(layers.LSTM(8, return_sequences=True, name="small"))
    report = export_tflite(model, tmp_path / "model.tflite", quantize="dynamic")
    assert sorted(report.float_weights) == [
        ("head", (40, 8)),
        ("small", (32, 8)),
    ]
    assert "in float32  small [32, 8]" in str(report)
    report = export_tflite(model, tmp_path / "model.tflite")
    assert report.float_weights == []


def test_int8_of_streams(tmp_path):
    model = model_of(layers.LSTM(32, return_sequences=True), length=None)
    for streaming in ("states", "memory"):
        path = tmp_path / f"{streaming}.tflite"
        export_tflite(
            model,
            path,
            quantize="int8",
            streaming=streaming,
            target="micro",
            representative_data=SAMPLES,
            metric=lambda expected, given: np.abs(expected - given).max(),
            data=(SAMPLES[:2], keras.ops.convert_to_numpy(model(SAMPLES[:2]))),
        )
        file = TFLiteModel(path)
        for x in SAMPLES[:2]:
            file.reset()
            got = np.concatenate([file.step(x[None, t : t + 1]) for t in range(8)], 1)
            want = keras.ops.convert_to_numpy(model(x[None]))
            assert np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_ints_and_bad_samples(tmp_path):
    words = keras.Input((8,), dtype="int32", name="words")
    x = layers.Embedding(50, 32, embeddings_initializer="orthogonal")(words)
    model = keras.Model(words, layers.LSTM(32, return_sequences=True)(x))
    ids = np.random.default_rng(0).integers(0, 50, (20, 8), "int32")
    path = tmp_path / "model.tflite"
    report = export_tflite(
        model, path, quantize="int8", representative_data=ids.astype("float64")
    )
    assert report.layers == {model.layers[-1].name: "unrolled"}
    assert report.inputs[0].dtype == "int32"
    for samples, message in (
        (ids[:, :5], r"shape \(examples, 8\).*\(20, 5\)"),
        ({"other": ids}, "an array for each input"),
        (ids[:0], "one at least"),
        (ids + 0.5, "must be integers, as the input is int32"),
        ((one for one in ids), "arrays of numbers.*Received: generator"),
    ):
        with pytest.raises(ValueError, match=message):
            export_tflite(model, path, quantize="int8", representative_data=samples)
    with pytest.raises(ValueError, match="fewer examples than the batch size, 32"):
        export_tflite(
            model, path, quantize="int8", representative_data=ids, batch_size=32
        )


def test_inputs_that_were_given_no_name(tmp_path):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((8, 32)), layers.LSTM(32)])
    report = export_tflite(
        model,
        tmp_path / "model.tflite",
        quantize="int8",
        representative_data=SAMPLES.astype("float64"),
    )
    assert report.inputs[0].dtype == "float32"


def test_int8_loops_are_refused(tmp_path, model):
    with pytest.raises(ValueError, match=r"'grouped' can't be loop: .*crashes"):
        export_tflite(
            model,
            tmp_path / "model.tflite",
            "loop",
            "int8",
            representative_data=SAMPLES,
        )
    with pytest.raises(ValueError, match=r"'grouped' can't be fused: .*range of int8"):
        export_tflite(
            model,
            tmp_path / "model.tflite",
            "fused",
            "int8",
            target="micro",
            representative_data=SAMPLES,
        )


def test_a_converter_that_crashes_leaves_the_session_alive(
    tmp_path, model, monkeypatch
):
    # TensorFlow's calibrator dies of a segmentation fault on loops. If it ever stops
    # doing so, the refusal above is out of date.
    monkeypatch.setattr(choice, "_obstacle", lambda form, call: None)
    path = tmp_path / "model.tflite"
    with pytest.raises(RuntimeError, match=r"converter .*it crashed \(signal SIG"):
        export_tflite(model, path, "loop", "int8", representative_data=SAMPLES)
    assert not path.exists()
    assert export_tflite(model, path, "loop").max_difference < 1e-5


def test_metrics_of_every_kind(tmp_path, model):
    y = np.random.default_rng(1).integers(0, 40, (6, 8))
    logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = float(logits(y, model(SAMPLES[:6])))
    for metric in (
        logits,
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
    ):
        report = export_tflite(
            model, tmp_path / "a.tflite", metric=metric, data=(SAMPLES[:6], y)
        )
        np.testing.assert_allclose(report.metric.keras, expected, rtol=1e-5)
        np.testing.assert_allclose(report.metric.file, expected, rtol=1e-5)


@pytest.mark.parametrize("axis", [True, False], ids=["column", "vector"])
def test_accuracy_is_what_evaluate_means_by_it(tmp_path, axis):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((8, 32)), layers.LSTM(8), layers.Dense(4, activation="softmax")]
    )
    right = np.argmax(model.predict(SAMPLES, verbose=0), axis=-1)
    # A quarter is wrong, of a number that no batch of 16 divides.
    labels = np.where(np.arange(40) % 4 == 0, (right + 1) % 4, right)
    labels = labels[:, None] if axis else labels
    report = export_tflite(
        model,
        tmp_path / "a.tflite",
        batch_size=16,
        metric="accuracy",
        data=(SAMPLES, labels if axis else labels.tolist()),
    )
    assert report.metric.keras == pytest.approx(0.75)
    assert report.metric.file == pytest.approx(0.75)


def test_metrics_of_stateful_models_begin_each_batch_anew(tmp_path):
    x = keras.Input((8, 32), batch_size=2)
    model = keras.Model(x, layers.LSTM(8, stateful=True)(x))
    report = export_tflite(
        model,
        tmp_path / "a.tflite",
        metric="mean_squared_error",
        data=(SAMPLES, np.ones((40, 8))),
    )
    assert report.metric.file == pytest.approx(report.metric.keras, rel=1e-5)


def test_a_metric_is_no_class(tmp_path, model):
    with pytest.raises(ValueError, match="an object, not its class"):
        export_tflite(
            model,
            tmp_path / "a.tflite",
            metric=keras.metrics.MeanSquaredError,
            data=(SAMPLES, SAMPLES),
        )


def test_exports_in_two_threads_leave_stderr_alone(tmp_path, model):
    before = os.fstat(2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        paths = [tmp_path / "a.tflite", tmp_path / "b.tflite"]
        list(pool.map(lambda path: export_tflite(model, path), paths))
    assert os.path.samestat(os.fstat(2), before)
