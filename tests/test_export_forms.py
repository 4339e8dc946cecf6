"""The forms of recurrent layers in TFLite files: fused, streamed, with states."""

import conftest
import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_sparse_rnn import (
    GroupedGRU,
    GroupedLSTM,
    RecurrentHighway,
    TieredEmbedding,
    UnevenBidirectional,
)

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports need the TensorFlow backend", allow_module_level=True)
pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

from keras_sparse_rnn.export import (
    TFLiteModel,
    export_saved_model,
    export_tflite,
    flatfile,
    streams,
    verification,
)

FEATURES = 6


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def array(tensor):
    return ops.convert_to_numpy(tensor)


def sequential(*stack, length=None, batch=None):
    start = keras.Input((length, FEATURES), batch_size=batch, name="x")
    return keras.Sequential([start, *stack])


# Names.


class Holding(layers.Layer):
    """A layer of a user's own, with an LSTM in it."""

    def __init__(self, stateful=False, **arguments):
        super().__init__(**arguments)
        self.inner = layers.LSTM(3, return_sequences=True, stateful=stateful)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 3)

    def get_config(self):
        return {**super().get_config(), "stateful": self.inner.stateful}


def test_names_that_mean_something_elsewhere(tmp_path):
    names = ["class", "1", "_x", "self", "a-b"]
    given = [keras.Input((4, FEATURES), name=name) for name in names]
    made = layers.LSTM(3, name="a_b")(layers.Add()(given))
    model, path = keras.Model(given, made), tmp_path / "model.tflite"
    report = export_tflite(model, path)
    assert [one.name for one in report.inputs] == [
        "class_",
        "x1",
        "x_x",
        "self_",
        "a_b",
    ]
    saved = export_saved_model(model, tmp_path / "saved")
    assert saved.inputs == ["class_", "x1", "x_x", "self_", "a_b"]
    # By either name.
    x = {name: values((3, 4, FEATURES)) for name in names}
    expected = array(model(list(x.values())))
    for data in (x, dict(zip(saved.inputs, x.values(), strict=True))):
        report = export_tflite(model, path, metric="mse", data=(data, expected))
        assert report.metric.file < 1e-9


def test_lowering_names_layers_as_the_report_does(tmp_path):
    def model():
        return sequential(
            layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both"),
            layers.Dense(3, name="dense"),
            length=10,
        )

    path = tmp_path / "model.tflite"
    shown = list(export_tflite(model(), path).layers)
    assert len(shown) == 2
    for name in ("both", shown[0], shown[0].split("/")[1]):
        made = model()
        if name != "both":
            one = made.get_layer("both").forward_layer.name
            name = f"both/{one}" if "/" in name else one
        forms = list(export_tflite(made, path, {name: "unrolled"}).layers.values())
        assert forms == ["unrolled", "unrolled" if name == "both" else "loop"]
    for name in ("dense", "nowhere"):
        with pytest.raises(ValueError, match=rf"both.*Received: \['{name}'\]"):
            export_tflite(model(), path, {name: "unrolled"})
    with pytest.raises(ValueError, match="lowering=None"):
        export_tflite(model(), path, None)


def test_layers_of_one_name_are_told_apart(tmp_path):
    inner = sequential(layers.LSTM(3, return_sequences=True, name="same"), length=4)
    x = keras.Input((4, FEATURES), name="x")
    model = keras.Model(x, layers.LSTM(2, name="same")(inner(x)))
    report = export_tflite(
        model, tmp_path / "model.tflite", "fused", target="interpreter"
    )
    assert report.layers == {"same": "fused", "same (2)": "fused"}


def test_a_layer_called_with_two_lengths_has_two_forms(tmp_path):
    short, long = keras.Input((4, 3), name="short"), keras.Input((20, 3), name="long")
    layer = layers.LSTM(4, name="shared")
    model = keras.Model([short, long], layer(short) + layer(long))
    report = export_tflite(model, tmp_path / "model.tflite")
    assert report.layers == {"shared": "unrolled, loop"}


@pytest.mark.parametrize(
    "hiding",
    [
        Holding(name="hiding"),
        layers.TimeDistributed(
            keras.Sequential([keras.Input((2, 3)), layers.LSTM(3)]), name="hiding"
        ),
    ],
    ids=["own", "TimeDistributed"],
)
def test_loops_within_other_layers_are_told(tmp_path, hiding):
    shape = (4, FEATURES) if isinstance(hiding, Holding) else (4, 2, 3)
    model = keras.Sequential([keras.Input(shape, name="x"), hiding])
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path)
    (form,) = report.layers.values()
    assert "Keras's own loop" in form
    path.unlink()
    with pytest.raises(ValueError, match=r"'hiding'.* can't be unrolled"):
        export_tflite(model, path, "unrolled")
    assert not path.exists()


def test_states_within_other_layers_are_refused(tmp_path):
    model = sequential(Holding(True, name="hiding"), length=4, batch=1)
    for export in (export_tflite, export_saved_model):
        with pytest.raises(ValueError, match="the states of layer 'hiding'"):
            export(model, tmp_path / "model")
        assert not (tmp_path / "model").exists()


# Fused.


def fusible(length=5):
    x = keras.Input((length, FEATURES), name="x")
    made = [
        layers.LSTM(5, return_sequences=True, name="sequences"),
        layers.LSTM(4, go_backwards=True, name="backwards"),
        layers.LSTM(3, use_bias=False, name="no_bias"),
        GroupedLSTM(7, [2, 4, 1], input_density=0.5, name="grouped"),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both"),
    ]
    model = keras.Model(x, [layer(x) for layer in made])
    for number, variable in enumerate(model.trainable_variables):
        if "bias" in variable.name:
            variable.assign(values(variable.shape, seed=number))
    return model


@pytest.mark.parametrize(
    "target", [pytest.param("interpreter", marks=pytest.mark.long), "micro"]
)
def test_fused_is_keras_lstm_call_after_call(tmp_path, target):
    model, path = fusible(), tmp_path / "model.tflite"
    report = export_tflite(model, path, "fused", target=target, batch_size=2)
    # One for each layer or direction, and one for each of the three groups.
    assert report.operators["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 5 + 3
    assert "WHILE" not in report.operators
    assert report.runtimes == ["Interpreter"]
    assert any("CompiledModel" in note for note in report.notes)
    file = TFLiteModel(path)
    for seed in (1, 1, 2):
        x = values((2, 5, FEATURES), seed)
        for got, want in zip(file(x), model(x), strict=True):
            np.testing.assert_allclose(got, want, atol=2e-6)


def test_fused_forgets_whatever_it_held(tmp_path):
    model, path = fusible(), tmp_path / "model.tflite"
    export_tflite(model, path, "fused", target="interpreter")
    file = TFLiteModel(path)
    first = file(values((1, 5, FEATURES)))
    # Saturated gates and full cells.
    file(np.full((1, 5, FEATURES), 1e3, "float32"))
    for again, before in zip(file(values((1, 5, FEATURES))), first, strict=True):
        np.testing.assert_array_equal(again, before)


def test_fused_cells_may_hold_any_amount(tmp_path):
    model = sequential(layers.LSTM(1, return_sequences=True), length=60)
    kernel = np.zeros((FEATURES, 4), "float32")
    kernel[0, 2] = 9.0
    # Gates wide open: the cell counts ups and downs of the first feature.
    bias = np.array([9, 9, 0, 9], "float32")
    model.layers[0].set_weights([kernel, np.full((1, 4), 1e-3, "float32"), bias])
    x = np.zeros((1, 60, FEATURES), "float32")
    x[:, :35, 0], x[:, 35:, 0] = 1.0, -1.0
    path = tmp_path / "model.tflite"
    export_tflite(model, path, "fused", target="interpreter")
    want = array(model(x))
    # A cell that stopped at 10 would be below zero long before the end.
    assert want.min() > 0.5
    np.testing.assert_allclose(TFLiteModel(path)(x), want, atol=1e-6)


@pytest.mark.parametrize("quantize", ["dynamic", "float16"])
def test_fused_forgets_when_quantized(tmp_path, quantize):
    model = sequential(layers.LSTM(32, return_sequences=True), length=5)
    x = keras.Input((5, 32), name="x")
    model = keras.Model(x, layers.LSTM(32, return_sequences=True)(x))
    path = tmp_path / "model.tflite"
    report = export_tflite(
        model, path, "fused", quantize, target="interpreter", max_error=0.03
    )
    assert report.float_weights == []
    file = TFLiteModel(path)
    first = file(values((1, 5, 32)))
    file(100 * values((1, 5, 32), 1))
    np.testing.assert_array_equal(file(values((1, 5, 32))), first)


def test_microcontrollers_get_fused_layers_where_they_can(tmp_path):
    model = sequential(
        layers.LSTM(4, return_sequences=True, name="lstm"),
        layers.GRU(3, name="gru"),
        length=5,
    )
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, target="micro")
    assert report.layers == {"lstm": "fused", "gru": "unrolled"}
    report = export_tflite(model, path)
    assert report.layers == {"lstm": "unrolled", "gru": "unrolled"}


@pytest.mark.parametrize(
    ("units", "steps", "quantize", "form"),
    [
        (128, 8, None, "unrolled"),
        (128, 9, None, "loop"),
        (129, 8, None, "loop"),
        (129, 8, "dynamic", "unrolled"),
        (257, 8, "dynamic", "loop"),
        (8, None, None, "loop"),
    ],
)
def test_few_steps_of_small_layers_are_written_out(
    tmp_path, units, steps, quantize, form
):
    model = sequential(layers.LSTM(units, name="lstm"), length=steps)
    report = export_tflite(model, tmp_path / "a.tflite", quantize=quantize)
    assert report.layers == {"lstm": form}


def test_forms_layer_by_layer(tmp_path):
    model = sequential(
        layers.LSTM(4, return_sequences=True, name="a"),
        GroupedLSTM(4, 2, return_sequences=True, name="b"),
        layers.LSTM(3, name="c"),
        length=5,
    )
    report = export_tflite(
        model,
        tmp_path / "model.tflite",
        {"a": "fused", "b": "unrolled"},
        target="interpreter",
    )
    assert report.layers == {
        "a": "fused",
        "b": "unrolled over 2 groups",
        "c": "unrolled",
    }


def state_given(x):
    state = layers.Dense(3)(x[:, 0])
    return layers.LSTM(3, name="n")(x, initial_state=[state, state])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (layers.GRU(3, name="n"), "is an LSTM, and the layer is not"),
        (layers.LSTM(3, activation="relu", name="n"), "has tanh and sigmoid"),
        (lambda x: layers.LSTM(3, name="n")(layers.Masking()(x)), "knows no mask"),
        (state_given, "can't start from given states"),
        (
            lambda x: layers.LSTM(3, return_state=True, name="n")(x)[1],
            "does not give out its last states",
        ),
    ],
)
def test_what_can_not_be_fused_is_said(tmp_path, make, why):
    x = keras.Input((5, FEATURES))
    model = keras.Model(x, make(x))
    with pytest.raises(ValueError, match=f"'n' can't be fused: .*{why}"):
        export_tflite(model, tmp_path / "a.tflite", "fused", target="interpreter")
    open_time = sequential(layers.LSTM(3, name="n"))
    with pytest.raises(ValueError, match=r"'n' can't be fused: .*time_steps="):
        export_tflite(open_time, tmp_path / "a.tflite", "fused", target="micro")
    assert list(tmp_path.iterdir()) == []


# Streams.


def stream(file, x):
    """The outputs at each step."""
    file.reset()
    return [file.step(x[:, t : t + 1]) for t in range(x.shape[1])]


@pytest.mark.parametrize(
    ("inputs", "timed"),
    [
        ([((None, 3), "float32"), ((7,), "float32")], [True, False]),
        ([((8, 3), "float32"), ((8,), "float32")], [True, False]),
        (
            [((8,), "float32"), ((8, 3), "float32"), ((8,), "int32")],
            [False, True, True],
        ),
        ([((1,), "int32"), ((12, 4), "float32")], [False, True]),
        ([((1,), "int32"), ((9,), "int32")], [False, True]),
        ([((9,), "float32")], [True]),
    ],
    ids=str,
)
def test_which_inputs_have_a_time(inputs, timed):
    given = [keras.Input(shape, dtype=dtype) for shape, dtype in inputs]
    model = keras.Model(given, [layers.Identity()(one) for one in given])
    assert streams.timed(model) == timed


def test_a_bound_for_streams_can_be_given(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "STREAM", 1e-15)
    model = sequential(layers.LSTM(8, return_sequences=True))
    path = tmp_path / "step.tflite"
    with pytest.raises(RuntimeError, match="`max_error=` allows more"):
        export_tflite(model, path, streaming="states")
    export_tflite(model, path, streaming="states", max_error=1e-5)


def test_outputs_that_are_no_floats_or_no_vectors_can_be_streamed(tmp_path):
    x = keras.Input((None, FEATURES), name="x")
    h = layers.LSTM(4, return_sequences=True)(x)
    model = keras.Model(x, [h > 0, ops.max(h[:, -1], axis=-1)])
    assert export_saved_model(model, tmp_path / "saved").notes == []
    export_tflite(model, tmp_path / "step.tflite", streaming="states")


def test_a_stream_of_steps_is_the_sequence(tmp_path):
    inner = keras.Sequential(
        [keras.Input((None, 6)), layers.GRU(4, return_sequences=True)]
    )
    model = sequential(
        GroupedLSTM(6, 2, return_sequences=True),
        inner,
        layers.LayerNormalization(),
        RecurrentHighway(5, 2, return_sequences=True),
        layers.RNN(
            [layers.LSTMCell(3), layers.GRUCell(4)], return_sequences=True, name="rnn"
        ),
        layers.TimeDistributed(layers.Dense(3)),
    )
    path = tmp_path / "step.tflite"
    report = export_tflite(model, path, streaming="states")
    assert report.inputs[0].shape == (1, 1, FEATURES)
    assert report.time_steps == 1
    file = TFLiteModel(path)
    assert file.state_names == report.states
    assert len(report.states) == 2 + 1 + 1 + 3
    for seed, length in ((1, 9), (2, 4)):
        x = values((1, length, FEATURES), seed)
        got = np.concatenate(stream(file, x), axis=1)
        np.testing.assert_allclose(got, model(x), atol=1e-5)


def test_a_shared_layer_has_a_stream_for_each_call(tmp_path):
    a, b = keras.Input((None, 3), name="a"), keras.Input((None, 3), name="b")
    shared = layers.LSTM(4, return_sequences=True, name="shared")
    model = keras.Model([a, b], layers.Concatenate()([shared(a), shared(b)]))
    path = tmp_path / "step.tflite"
    report = export_tflite(model, path, streaming="states")
    assert report.states == [
        "state_shared_h",
        "state_shared_c",
        "state_shared_h_2",
        "state_shared_c_2",
    ]
    one, two = values((1, 5, 3)), values((1, 5, 3), 1)
    file = TFLiteModel(path)
    got = [file.step(one[:, t : t + 1], two[:, t : t + 1]) for t in range(5)]
    np.testing.assert_allclose(
        np.concatenate(got, axis=1), model([one, two]), atol=1e-5
    )


def test_masks_and_last_outputs_in_a_stream(tmp_path):
    words = keras.Input((None,), dtype="int32", name="words")
    x = layers.Embedding(9, 4, mask_zero=True)(words)
    model = keras.Model(
        words,
        [
            layers.GRU(3, return_sequences=True)(x),
            layers.LSTM(3, return_sequences=True, zero_output_for_mask=True)(x),
            layers.Dense(2)(layers.LSTM(3)(x)),
        ],
    )
    path = tmp_path / "step.tflite"
    export_tflite(model, path, streaming="states")
    file = TFLiteModel(path)
    for row in ([0, 0, 4, 0, 5, 6, 0], [1, 2, 3], [0, 0]):
        ids = np.array([row], "int32")
        every, zeroed, last = model(ids)
        made = stream(file, ids)
        for got, want in ((0, every), (1, zeroed)):
            joined = np.concatenate([step[got] for step in made], axis=1)
            np.testing.assert_allclose(joined, want, atol=1e-5)
        np.testing.assert_allclose(made[-1][2], last, atol=1e-5)


def test_a_stream_in_the_memory_of_the_fused_operation(tmp_path):
    model = sequential(
        layers.LSTM(5, return_sequences=True),
        GroupedLSTM(6, [2, 4], return_sequences=True),
        layers.Dense(3),
    )
    path = tmp_path / "step.tflite"
    report = export_tflite(model, path, streaming="memory", target="interpreter")
    assert report.operators["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 3
    assert report.states == []
    file = TFLiteModel(path)
    for seed in (1, 2):
        x = values((1, 7, FEATURES), seed)
        got = np.concatenate(stream(file, x), axis=1)
        np.testing.assert_allclose(got, model(x), atol=1e-5)
    with pytest.raises(ValueError, match=r"can't be fused: .* LSTM, and the layer"):
        export_tflite(
            sequential(layers.GRU(2)), path, streaming="memory", target="micro"
        )


@pytest.mark.parametrize(
    ("make", "error", "why"),
    [
        (layers.Bidirectional(layers.LSTM(3)), ValueError, "also goes backwards"),
        (layers.LSTM(3, go_backwards=True), ValueError, "goes backwards"),
        (state_given, ValueError, "would begin anew at each step"),
        (layers.Conv1D(3, 2), ValueError, "Conv1D.* more than one time step"),
        (layers.GlobalMaxPooling1D(), ValueError, "more than one time step"),
        (lambda x: layers.Attention()([x, x]), ValueError, "more than one time step"),
        (
            lambda x: ops.cumsum(layers.LSTM(3, return_sequences=True)(x), axis=1),
            RuntimeError,
            "is not the whole sequence",
        ),
    ],
)
def test_what_can_not_be_streamed_is_said(tmp_path, make, error, why):
    x = keras.Input((5, FEATURES))
    with pytest.raises(error, match=why):
        export_tflite(
            keras.Model(x, make(x)), tmp_path / "a.tflite", streaming="states"
        )
    assert list(tmp_path.iterdir()) == []


def test_states_keep_out_of_the_way_of_other_names(tmp_path):
    x = keras.Input((None, 3), name="state_memory_h")
    y = layers.GRU(2, return_sequences=True, name="memory")(x)
    model = keras.Model(x, y)
    path = tmp_path / "step.tflite"
    report = export_tflite(model, path, streaming="states")
    assert [one.name for one in report.inputs] == ["state_memory_h", "state_memory_h_2"]
    assert report.states == ["state_memory_h_2"]
    given = values((1, 4, 3))
    got = np.concatenate(stream(TFLiteModel(path), given), axis=1)
    np.testing.assert_allclose(got, model(given), atol=1e-5)


def test_a_model_without_time_has_no_stream(tmp_path):
    x = keras.Input((), name="x")
    model = keras.Model(x, ops.tanh(x))
    with pytest.raises(ValueError, match="nothing to stream"):
        export_tflite(model, tmp_path / "a.tflite", streaming="states")


# States of stateful layers.


@pytest.mark.parametrize("lowering", conftest.often(["loop", "unrolled"], "loop"))
def test_stateful_layers_go_on_where_they_were(tmp_path, lowering):
    model = sequential(
        layers.LSTM(4, stateful=True, return_sequences=True, name="one"),
        layers.Bidirectional(
            layers.GRU(3, stateful=True, return_sequences=True), name="both"
        ),
        GroupedGRU(4, 2, return_sequences=True, name="anew"),
        RecurrentHighway(3, 2, stateful=True, name="last"),
        length=4,
        batch=2,
    )
    path = tmp_path / "model.tflite"
    calls = [values((2, 4, FEATURES), seed) for seed in range(3)]
    model(calls[0])
    held = array(model.layers[0].states[0])
    report = export_tflite(model, path, lowering)
    # The model's own states are its user's.
    np.testing.assert_array_equal(array(model.layers[0].states[0]), held)
    assert report.states[:2] == ["state_one_h", "state_one_c"]
    assert len(report.states) == 5
    assert not any("anew" in name for name in report.states)
    file = TFLiteModel(path)
    for _ in range(2):
        for layer in model.layers:
            if getattr(layer, "stateful", False):
                layer.reset_state()
        file.reset()
        for x in calls:
            np.testing.assert_allclose(file.step(x), model(x), atol=1e-5)
    with pytest.raises(ValueError, match=r"can't be fused: .*a stateful layer must"):
        export_tflite(model, path, "fused", target="interpreter")


# Layers within layers.


def test_recurrent_layers_within_each_time_step(tmp_path):
    characters = keras.Input((3, 5), dtype="int32", name="characters")
    x = layers.TimeDistributed(TieredEmbedding(9, 4, density=0.5))(characters)
    word = layers.TimeDistributed(layers.Bidirectional(layers.GRU(3)), name="word")(x)
    both = UnevenBidirectional(
        layers.LSTM(3), backward_layer=layers.LSTM(2, go_backwards=True)
    )(word)
    model = keras.Model(characters, both)
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, "loop")
    # A loop for each direction of the inner layer: not one for each word.
    assert report.operators["WHILE"] == 4
    ids = np.random.default_rng(0).integers(0, 9, (1, 3, 5), "int32")
    np.testing.assert_allclose(TFLiteModel(path)(ids), model(ids), atol=1e-5)
    # In a stream of words, the characters of each are read from beginning to end.
    model = keras.Model(
        characters, layers.SimpleRNN(3, return_sequences=True, name="words")(word)
    )
    report = export_tflite(model, path, streaming="states")
    assert report.states == ["state_words_h"]
    got = np.concatenate(stream(TFLiteModel(path), ids), axis=1)
    np.testing.assert_allclose(got, model(ids), atol=1e-5)
    open_time = keras.Input((None, 5, 2))
    inner = layers.TimeDistributed(layers.LSTM(3), name="inner")(open_time)
    with pytest.raises(ValueError, match="'inner' runs a recurrent layer within"):
        export_tflite(keras.Model(open_time, inner), path)
    stateful = keras.Input((2, 5, 2), batch_size=1)
    inner = layers.TimeDistributed(layers.LSTM(3, stateful=True), name="inner")(
        stateful
    )
    with pytest.raises(ValueError, match="'inner' runs a stateful layer within"):
        export_tflite(keras.Model(stateful, inner), path)


def test_outputs_that_are_one_keep_their_names(tmp_path):
    x = keras.Input((4, 3), name="x")
    y, h, _ = layers.LSTM(2, return_state=True, name="y")(x)
    same = layers.Activation("linear", name="same")(x)
    model = keras.Model(x, [y, h, same])
    path = tmp_path / "model.tflite"
    export_tflite(model, path)
    _, outputs = flatfile.signature(path.read_bytes())
    assert [tensor.name for tensor in outputs] == ["y", "y_1", "same"]
    given = values((1, 4, 3))
    for got, want in zip(TFLiteModel(path)(given), model(given), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)
