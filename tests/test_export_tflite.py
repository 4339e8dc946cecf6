"""TFLite files against the Keras models they were made from."""

import os

import conftest
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from keras_sparse_rnn import (
    GroupedGRU,
    GroupedLSTM,
    GroupedLSTMCell,
    GroupedSimpleRNN,
    RecurrentHighway,
    RecurrentHighwayCell,
    TieredEmbedding,
    WeightDropLSTM,
)

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports need the TensorFlow backend", allow_module_level=True)
tf = pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema  # noqa: E402
from ai_edge_litert.compiled_model import CompiledModel  # noqa: E402

from keras_sparse_rnn.export import (  # noqa: E402
    TFLiteModel,
    export_tflite,
    verification,
)
from keras_sparse_rnn.export.lowering.cells import LSTMCell  # noqa: E402
from keras_sparse_rnn.export.lowering.layer import LoweredRNN, Settings  # noqa: E402


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def ids(shape, size, seed=0):
    return np.random.default_rng(seed).integers(0, size, shape).astype("int32")


def in_keras(model, inputs):
    outputs = keras.tree.flatten(model(inputs, training=False))
    return [keras.ops.convert_to_numpy(output) for output in outputs]


def in_file(path, *arrays):
    outputs = TFLiteModel(path)(*arrays)
    return outputs if isinstance(outputs, list) else [outputs]


def assert_same(path, model, *arrays, atol=1e-5):
    expected = in_keras(model, list(arrays) if len(arrays) > 1 else arrays[0])
    got = in_file(path, *arrays)
    for name, a, b in zip(TFLiteModel(path).output_names, got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4, err_msg=name)


def count(path, name):
    """How often an operation occurs in a file, loops' bodies included."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    number = getattr(schema.BuiltinOperator, name)
    codes = [code.builtinCode for code in model.operatorCodes]
    return sum(
        codes[operation.opcodeIndex] == number
        for subgraph in model.subgraphs
        for operation in subgraph.operators
    )


def language_model(vocabulary=50, units=16, length=None):
    return keras.Sequential(
        [
            keras.Input((length,), dtype="int32", name="words"),
            TieredEmbedding(vocabulary, units, density=0.5),
            GroupedLSTM(units, 4, return_sequences=True),
            layers.LSTM(units),
            layers.Dense(7, name="scores"),
        ]
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = language_model(length=8)
    path = tmp_path_factory.mktemp("exported") / "model.tflite"
    return model, path, export_tflite(model, path, "loop")


def variants(length=4, features=6):
    """A model with one output for each kind of layer to be lowered."""
    x = keras.Input((length, features), name="x")
    made = {
        "lstm": layers.LSTM(5),
        "sequences": layers.LSTM(5, return_sequences=True),
        "backwards": layers.LSTM(5, return_sequences=True, go_backwards=True),
        "backwards_last": GroupedLSTM(4, 2, go_backwards=True),
        "no_bias": layers.LSTM(4, use_bias=False, activation="relu"),
        "one_group": GroupedLSTM(5, 1),
        "four_groups": GroupedLSTM(8, 4, return_sequences=True),
        "windows": GroupedLSTM(8, 4, input_density=0.5),
        "uneven": GroupedLSTM(
            9,
            [2, 3, 4],
            input_segments=[(0, 3), (2, 6), (5, 6)],
            return_sequences=True,
            recurrent_activation="hard_sigmoid",
        ),
        "across_units": GroupedLSTM(6, [2, 4], activation="softmax"),
        "dropout": layers.LSTM(3, dropout=0.5, recurrent_dropout=0.5),
        "own_function": GroupedLSTM(4, 2, activation=lambda v: v * 0.5),
        "weight_drop": WeightDropLSTM(4, weight_drop=0.5),
        "gru": layers.GRU(5, return_sequences=True, go_backwards=True),
        "gru_without_bias": layers.GRU(4, use_bias=False),
        "gru_before": layers.GRU(4, reset_after=False, return_sequences=True),
        "gru_softmax": layers.GRU(4, recurrent_activation="softmax"),
        "grouped_gru": GroupedGRU(7, [2, 4, 1], input_density=0.5),
        "grouped_before": GroupedGRU(6, 2, reset_after=False),
        "simple": layers.SimpleRNN(4, return_sequences=True),
        "grouped_simple": GroupedSimpleRNN(6, [1, 3, 2], activation="relu"),
        "highway": RecurrentHighway(5, depth=3, return_sequences=True),
        "shallow": RecurrentHighway(3, depth=1, use_bias=False),
        "cell": layers.RNN(layers.LSTMCell(3), go_backwards=True),
        "cells": layers.RNN(
            [
                layers.GRUCell(4),
                GroupedLSTMCell(6, 2),
                RecurrentHighwayCell(3, 2),
                layers.SimpleRNNCell(2),
            ],
            return_sequences=True,
        ),
    }
    for name, layer in made.items():
        layer.name = name
    model = keras.Model(x, [layer(x) for layer in made.values()])
    # Biases of zero would hide what is done with them.
    for number, variable in enumerate(model.trainable_variables):
        if "bias" in variable.name:
            variable.assign(0.3 * values(variable.shape, seed=number))
    return model, len(made)


@pytest.mark.parametrize(
    ("lowering", "batch_size"),
    [("loop", 3), pytest.param("unrolled", 1, marks=pytest.mark.long)],
)
def test_every_kind_of_layer(tmp_path, lowering, batch_size):
    model, number = variants()
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, lowering, batch_size=batch_size)
    assert_same(path, model, values((batch_size, 4, 6)))
    assert len(report.layers) == number
    assert count(path, "WHILE") == (number if lowering == "loop" else 0)
    assert (report.batch_size, report.time_steps) == (batch_size, 4)


def test_language_model(exported):
    model, path, report = exported
    assert_same(path, model, ids((1, 8), 50))
    assert count(path, "WHILE") == 2
    assert count(path, "BATCH_MATMUL") == count(path, "TRANSPOSE") == 0
    assert not [name for name in report.operators if "CUSTOM" in name]
    assert report.operators["WHILE"] == 2
    assert report.bytes == path.stat().st_size
    assert report.runtimes == ["Interpreter", "CompiledModel"]
    assert all(memory > 0 for memory in report.peak_memory.values())
    assert report.max_difference < 1e-5
    assert any("batch size" in note for note in report.notes)
    assert report.layers == {
        model.layers[1].name: "loop over 4 groups",
        model.layers[2].name: "loop",
    }
    text = str(report)
    assert "model.tflite" in text
    assert "WHILE" in text


def test_runs_in_compiled_model(exported):
    model, path, _ = exported
    words = ids((1, 8), 50, seed=3)
    compiled = CompiledModel.from_file(str(path))
    inputs, outputs = (
        compiled.create_input_buffers(0),
        compiled.create_output_buffers(0),
    )
    inputs[0].write(words)
    for _ in range(2):
        compiled.run_by_index(0, inputs, outputs)
        got = outputs[0].read(7, np.float32).reshape(1, 7)
        np.testing.assert_allclose(got, in_keras(model, words)[0], atol=1e-5)


def test_dynamic_quantization_quarters_the_file(tmp_path):
    model = language_model(vocabulary=4000, units=64, length=8)
    full = export_tflite(model, tmp_path / "full.tflite")
    small = export_tflite(model, tmp_path / "small.tflite", quantize="dynamic")
    assert small.bytes < 0.35 * full.bytes
    assert full.max_difference < small.max_difference < 0.02
    assert_same(tmp_path / "small.tflite", model, ids((1, 8), 4000), atol=0.02)
    # The tables are stored as int8, and so are the weights inside the loops.
    stored = schema.ModelT.InitFromPackedBuf(
        (tmp_path / "small.tflite").read_bytes(), 0
    )
    large = [
        tensor
        for subgraph in stored.subgraphs
        for tensor in subgraph.tensors
        if stored.buffers[tensor.buffer].data is not None
        and np.prod(tensor.shape) >= 1024
    ]
    assert len(large) > 10
    assert {tensor.type for tensor in large} == {schema.TensorType.INT8}


def test_any_number_of_steps(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None, 4)),
            GroupedLSTM(6, 2, return_sequences=True),
            layers.LSTM(5, return_sequences=True, go_backwards=True),
            # Its output is wider than the products ahead of its loop.
            layers.RNN(
                [layers.SimpleRNNCell(2), layers.GRUCell(7)], return_sequences=True
            ),
            layers.Dense(3),
        ]
    )
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path)
    assert report.time_steps is None
    file = TFLiteModel(path)
    assert file.input_shapes == [(1, -1, 4)]
    for length in (1, 7, 3, 40):
        x = values((1, length, 4), seed=length)
        got = file(x)
        np.testing.assert_allclose(got, in_keras(model, x)[0], atol=1e-5)
        np.testing.assert_array_equal(got, file(x))


def test_time_steps_fixes_the_length(tmp_path):
    model = language_model()
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, "unrolled", time_steps=5)
    assert report.time_steps == 5
    assert count(path, "WHILE") == 0
    assert_same(path, model, ids((1, 5), 50))
    with pytest.raises(ValueError, match=r"takes arrays of shape \(1, 5\)"):
        TFLiteModel(path)(ids((1, 6), 50))


@pytest.mark.parametrize("lowering", conftest.often(["loop", "unrolled"], "loop"))
def test_masks(tmp_path, lowering):
    words = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(9, 4, mask_zero=True)(words)
    state = keras.Input((5,), name="state")
    outputs = [
        layers.LSTM(5, return_sequences=True)(x),
        layers.LSTM(5, return_sequences=True, zero_output_for_mask=True)(x),
        *layers.LSTM(5, return_state=True, go_backwards=True)(x),
        GroupedLSTM(5, 2, return_sequences=True)(x, initial_state=[state, state]),
        GroupedLSTM(4, 2)(GroupedLSTM(4, 2, return_sequences=True)(x)),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x),
    ]
    model = keras.Model([words, state], outputs)
    path = tmp_path / "model.tflite"
    export_tflite(model, path, lowering, batch_size=4)
    padded = np.array(
        [[1, 2, 3, 4, 5, 6], [1, 2, 0, 0, 0, 0], [0, 0, 3, 0, 4, 0], [0] * 6], "int32"
    )
    assert_same(path, model, padded, values((4, 5)))


def test_states_as_inputs_and_outputs(tmp_path):
    x = keras.Input((None, 3), name="x")
    h, c = keras.Input((4,), name="h"), keras.Input((4,), name="c")
    y, new_h, new_c = GroupedLSTM(4, 2, return_sequences=True, return_state=True)(
        x, initial_state=[h, c]
    )
    model = keras.Model([x, h, c], [y, new_h, new_c])
    path = tmp_path / "model.tflite"
    export_tflite(model, path)
    sequence, zeros = values((1, 8, 3)), np.zeros((1, 4), "float32")
    assert_same(path, model, sequence, zeros, zeros)
    file = TFLiteModel(path)
    first, h1, c1 = file(sequence[:, :3], zeros, zeros)
    rest, _, _ = file(sequence[:, 3:], h1, c1)
    np.testing.assert_allclose(
        np.concatenate([first, rest], axis=1),
        in_keras(model, [sequence, zeros, zeros])[0],
        atol=1e-5,
    )


def test_bidirectional(tmp_path):
    x = keras.Input((5, 3))
    outputs = [
        layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x),
        layers.Bidirectional(GroupedLSTM(4, 2), merge_mode="sum")(x),
        *layers.Bidirectional(
            layers.LSTM(4, return_state=True),
            backward_layer=layers.LSTM(
                4, return_state=True, go_backwards=True, activation="relu"
            ),
            merge_mode=None,
        )(x),
    ]
    model = keras.Model(x, outputs)
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, "loop")
    assert_same(path, model, values((1, 5, 3)))
    assert count(path, "WHILE") == len(report.layers) == 6


class Doubled(layers.GRU):
    """A layer of whose equations nothing is known."""

    def call(self, sequences, initial_state=None, mask=None, training=False):
        return 2 * super().call(sequences, initial_state, mask, training)


def test_unknown_recurrent_layers_keep_their_own_loop(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            Doubled(4, return_sequences=True, name="doubled"),
            layers.RNN(layers.SimpleRNNCell(4), name="rnn"),
        ]
    )
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, "loop")
    assert_same(path, model, values((1, 5, 3)))
    assert report.layers == {"doubled": "Keras's own loop (Doubled)", "rnn": "loop"}
    for arguments, message in (
        ({"lowering": "unrolled"}, "'doubled' .Doubled. can't be unrolled"),
        ({"streaming": "states"}, "not known what the states of layer 'doubled'"),
    ):
        with pytest.raises(ValueError, match=message):
            export_tflite(model, path, **arguments)


def nested_model():
    inner = keras.Sequential(
        [keras.Input((None, 4)), GroupedLSTM(6, 2, return_sequences=True)]
    )
    inner.compile("adam", loss=lambda y, p: 0.0)
    # Its dropout mask is drawn, though not used, in inference too.
    shared = layers.LSTM(6, return_sequences=True, dropout=0.2)
    a, b = keras.Input((7, 4), name="zeta"), keras.Input((7, 4), name="alpha")
    y = layers.Concatenate()([inner(a), inner(b), shared(a), shared(b)])
    y = layers.Lambda(lambda v: 2 * v)(layers.Dropout(0.5)(y)[:, -1])
    model = keras.Model(
        {"zeta": a, "alpha": b},
        {"second": layers.Dense(2, name="last")(y), "first": y},
    )
    model.compile("adam", loss=lambda y, p: 0.0)
    return model


@pytest.mark.parametrize("lowering", conftest.often(["loop", "unrolled"], "loop"))
def test_nested_and_shared_layers(tmp_path, lowering):
    model = nested_model()
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, lowering)
    # Each layer is told of once, and runs once for each of its two inputs.
    assert len(report.layers) == 2
    assert count(path, "WHILE") == (4 if lowering == "loop" else 0)
    file = TFLiteModel(path)
    # By name, for nested structures have no order that all agree on.
    given_inputs = {"zeta": values((1, 7, 4)), "alpha": values((1, 7, 4), seed=1)}
    got = file(*[given_inputs[name] for name in file.input_names])
    expected = model(given_inputs, training=False)
    by_name = dict(zip(file.output_names, got, strict=True))
    np.testing.assert_allclose(by_name["last"], expected["second"], atol=1e-5)


def test_the_model_is_not_changed(tmp_path):
    model = nested_model()
    before = [variable.numpy() for variable in model.variables]
    export_tflite(model, tmp_path / "model.tflite")
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert model.compiled


def test_layers_get_no_new_nodes(tmp_path):
    model = language_model(length=4)
    outputs = [layer.output for layer in model.layers]
    export_tflite(model, tmp_path / "model.tflite")
    assert [layer.output for layer in model.layers] == outputs
    assert all(a is b.output for a, b in zip(outputs, model.layers, strict=True))


def test_names_and_order(tmp_path):
    z, a = keras.Input((3, 2), name="z"), keras.Input((4,), name="a")
    b = keras.Input((5, 2), name="b")
    y = layers.LSTM(3, name="y")(z)
    _, h, c = layers.LSTM(3, return_state=True, name="n")(b)
    model = keras.Model([z, a, b], [y, c, layers.Dense(2, name="d")(a), h])
    path = tmp_path / "model.tflite"
    export_tflite(model, path)
    file = TFLiteModel(path)
    assert file.input_names == ["z", "a", "b"]
    assert file.output_names == ["y", "n", "d", "n_1"]
    # Runtimes that go by position go by the signature.
    signature = CompiledModel.from_file(str(path)).get_signature_list()
    assert signature["serving_default"] == {
        "inputs": ["z", "a", "b"],
        "outputs": ["y", "n", "d", "n_1"],
    }
    assert_same(path, model, values((1, 3, 2)), values((1, 4)), values((1, 5, 2)))
    with pytest.raises(ValueError, match="3 inputs"):
        file(values((1, 3, 2)))


def test_mixed_precision_is_exported_in_float32(tmp_path):
    policy = "mixed_float16"
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            GroupedLSTM(4, 2, return_sequences=True, dtype=policy),
            layers.TimeDistributed(layers.Dense(3, dtype=policy), dtype=policy),
            layers.Bidirectional(layers.LSTM(4, dtype=policy), dtype=policy),
        ]
    )
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path)
    assert any("float32" in note for note in report.notes)
    assert in_file(path, values((1, 5, 3)))[0].dtype == np.float32
    assert_same(path, model, values((1, 5, 3)), atol=5e-3)


def test_float_ids_and_wide_ids(tmp_path):
    words = keras.Input((4,), name="floats")
    wide = keras.Input((4,), dtype="int64", name="wide")
    embedding = layers.Embedding(6, 3)
    y = layers.Concatenate()([embedding(words), embedding(wide)])
    model = keras.Model([words, wide], layers.LSTM(2)(y))
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path)
    assert any("int64" in note for note in report.notes)
    assert_same(path, model, ids((1, 4), 6).astype("float32"), ids((1, 4), 6, seed=1))


@pytest.mark.parametrize(
    ("equation", "shape"),
    [
        ("btd,d->btd", (None, 3)),
        ("...d,d->...d", 3),
        ("btd,hd->bhtd", (5, None, 3)),
        ("btd,hd->bdth", (3, None, 5)),
        ("btd,td->btd", (4, 3)),
        ("btd,df->btf", (None, 5)),  # This one has a sum, and is left alone.
    ],
)
def test_einsum_without_a_sum(tmp_path, equation, shape):
    axes = None if "..." in equation else equation[-1]
    layer = layers.EinsumDense(
        equation, shape, "tanh", axes, bias_initializer="random_normal"
    )
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, layers.Flatten()(layer(inputs)))
    path = tmp_path / "model.tflite"
    export_tflite(model, path)
    assert_same(path, model, values((1, 4, 3)))


def test_what_stands_for_a_mask_is_nothing_to_measure_by(tmp_path):
    inputs = keras.Input((4, 40))
    there = inputs[..., 0] > 0
    logits = layers.Dense(1)(layers.Dense(40)(inputs))[..., 0]
    model = keras.Model(inputs, keras.ops.where(there, logits, -1e9))
    report = export_tflite(
        model, tmp_path / "model.tflite", quantize="dynamic", max_error=0.1
    )
    assert 1e-4 < report.max_share < 0.1
    # Of the fill it would be far less than that.
    with pytest.raises(RuntimeError, match="differs from the Keras model"):
        export_tflite(
            model, tmp_path / "model.tflite", quantize="dynamic", max_error=1e-6
        )


def test_latency(exported):
    file = TFLiteModel(exported[1], threads=1)
    assert 0 < file.latency(ids((1, 8), 50), repeats=5) < 1000


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_lowered_layers_compute_what_keras_does(data):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    features = data.draw(st.integers(1, 5))
    begins = [data.draw(st.integers(0, features - 1)) for _ in sizes]
    windows = [(b, data.draw(st.integers(b + 1, features))) for b in begins]
    options = {
        name: data.draw(st.booleans(), label=name)
        for name in (
            "use_bias",
            "return_sequences",
            "return_state",
            "go_backwards",
            "zero_output_for_mask",
        )
    }
    layer = GroupedLSTM(sum(sizes), sizes, input_segments=windows, **options)
    batch, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    x = keras.ops.convert_to_tensor(values((batch, length, features)))
    mask = None
    if data.draw(st.booleans(), label="masked"):
        mask = values((batch, length), seed=1) > 0
        mask = keras.ops.convert_to_tensor(mask)
    state = None
    if data.draw(st.booleans(), label="initial_state"):
        state = [values((batch, sum(sizes)), seed=k) for k in (2, 3)]
        state = [keras.ops.convert_to_tensor(one) for one in state]
    expected = keras.tree.flatten(layer(x, initial_state=state, mask=mask))
    for lowering in ("loop", "unrolled"):
        lowered = LoweredRNN(layer, Settings({"": lowering}))
        got = keras.tree.flatten(lowered(x, initial_state=state, mask=mask))
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.lstm = layers.LSTM(3)

    def call(self, inputs):
        return self.lstm(inputs)


class Random(keras.Model):
    """Not a function of its input, nor ever built."""

    def call(self, inputs):
        return inputs + np.random.default_rng().standard_normal()


class Halved(keras.Model):
    """Built of layers as a Functional model is, but with a `call` of its own."""

    def call(self, inputs, training=False):
        return 0.5 * super().call(inputs, training=training)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lowering": "fused"}, "CompiledModel.*target='interpreter'"),
        ({"lowering": "rolled"}, "'auto', 'loop', 'unrolled', 'fused'.*rolled"),
        ({"lowering": {"lstm_99": "loop"}}, "name recurrent layers.*'lstm_99'"),
        ({"target": "phone"}, "'any', 'interpreter', 'micro'.*phone"),
        ({"streaming": True}, "'states', 'memory'.*True"),
        ({"streaming": "memory"}, "streaming='states', or pass target="),
        ({"streaming": "states", "lowering": "loop"}, "leave `lowering` at 'auto'"),
        ({"streaming": "states", "time_steps": 3}, "Leave it out.*time_steps=3"),
        ({"quantize": "int8"}, "needs `representative_data`"),
        ({"representative_data": [1]}, "is for quantize='int8'.*None"),
        ({"max_error": 0}, "positive number.*max_error=0"),
        ({"metric": "mse"}, "`metric` and `data` go together"),
        ({"metric": 3, "data": (1, 2)}, "must be a function.*metric=3"),
        ({"metric": "mse", "data": 3}, "pair .x, y."),
        ({"quantize": "int4"}, "'dynamic'.*int4"),
        ({"quantize": True}, "'dynamic'.*True"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"time_steps": 2.5}, "time_steps=2.5"),
        ({"lowering": "unrolled"}, "can't be unrolled.*time_steps"),
    ],
)
def test_invalid_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_tflite(language_model(), tmp_path / "model.tflite", **arguments)
    assert os.listdir(tmp_path) == []


def test_invalid_models(tmp_path):
    path = tmp_path / "model.tflite"
    x = keras.Input((3, 2))
    for model, message in (
        (keras.Sequential([layers.LSTM(2)]), "keras.Input"),
        ("model", "must be a Keras model"),
        (Random(), "can't be turned into a graph"),
    ):
        with pytest.raises(ValueError, match=message):
            export_tflite(model, path)
    with pytest.raises(ValueError, match="fixes it at 3"):
        export_tflite(keras.Model(x, layers.LSTM(2)(x)), path, time_steps=4)
    assert os.listdir(tmp_path) == []


def test_operations_that_devices_lack_are_named(tmp_path):
    path = tmp_path / "model.tflite"
    x = keras.Input((4, 3))
    y = layers.LSTM(4)(x)
    svd = layers.Lambda(lambda v: tf.linalg.svd(v, compute_uv=False), name="odd")
    for model, error, message in (
        (keras.Model(x, keras.ops.fft((y, y))[0]), RuntimeError, "Complex .*, FFT"),
        (keras.Model(x, svd(x)), RuntimeError, "Svd .in '.*odd.*/Svd'"),
        (looked_up(), ValueError, "'lookup' .StringLookup. looks things up"),
    ):
        with pytest.raises(error, match=message) as raised:
            export_tflite(model, path)
        assert len(str(raised.value)) < 500
    assert os.listdir(tmp_path) == []


def looked_up():
    words = keras.Input((4,), dtype="string")
    ids = layers.StringLookup(vocabulary=["a", "b"], name="lookup")(words)
    return keras.Model(words, layers.LSTM(2)(layers.Embedding(3, 2)(ids)))


def test_models_of_code(tmp_path):
    path = tmp_path / "model.tflite"
    subclassed = Subclassed()
    subclassed(values((1, 3, 2)))
    x = keras.Input((3, 2))
    for model in (subclassed, Halved(x, layers.LSTM(2)(x))):
        export_tflite(model, path)
        assert_same(path, model, values((1, 3, 2)))


def test_unwritable_paths_are_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "keras_sparse_rnn.export.copying.copy_model", lambda *_: pytest.fail("late")
    )
    (tmp_path / "file").write_text("kept")
    model = language_model()
    with pytest.raises(ValueError, match=r"directory .* does not exist"):
        export_tflite(model, tmp_path / "missing" / "model.tflite")
    with pytest.raises(ValueError, match="does not exist, or is a file"):
        export_tflite(model, tmp_path / "file" / "model.tflite")
    with pytest.raises(ValueError, match="which is a directory"):
        export_tflite(model, tmp_path)
    assert os.listdir(tmp_path) == ["file"]


def test_a_wrong_file_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"older")
    project = LSTMCell.project
    monkeypatch.setattr(LSTMCell, "project", lambda *given: project(*given) + 0.1)
    with pytest.raises(RuntimeError, match="differs from the Keras model"):
        export_tflite(language_model(length=4), path)
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_random_outputs_are_refused(tmp_path):
    x = keras.Input((4, 3))
    y = layers.Dropout(0.5)(layers.LSTM(8)(x), training=True)
    with pytest.raises(RuntimeError):
        export_tflite(keras.Model(x, y), tmp_path / "model.tflite")
    assert os.listdir(tmp_path) == []


def test_other_backends_are_told_what_to_do(tmp_path, monkeypatch):
    model = language_model()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
        export_tflite(model, tmp_path / "model.tflite")


def test_check_inputs_suit_the_model():
    x = keras.Input((8,), dtype="int32")
    y = layers.Embedding(5, 2, mask_zero=True)(x)
    graph = keras.Model(x, layers.LSTM(2)(y))
    (drawn,) = verification.check_inputs(graph, [[2, 8]], None)
    assert drawn.min() >= 0
    assert drawn.max() < 5
    assert (drawn[:, -2:] == 0).all()


def test_broken_files(exported, tmp_path):
    path = tmp_path / "model.tflite"
    whole = exported[1].read_bytes()
    assert TFLiteModel(whole).input_names == ["words"]
    for content, message in (
        (b"", "empty"),
        (b"not a model at all", "TFLite file: it does not bear"),
        (whole[:9], "damaged"),
        *((whole[: len(whole) * k // 7], "damaged") for k in range(1, 7)),
        (whole[:-1], "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"model\.tflite' is .*{message}"):
            TFLiteModel(path)
    with pytest.raises(ValueError, match=r"missing\.tflite' can't be read"):
        TFLiteModel(tmp_path / "missing.tflite")
