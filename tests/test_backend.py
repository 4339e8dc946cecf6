"""What the package relies on in `keras.src.backend`: fails loudly if it moves."""

import inspect

import keras
import numpy as np
import pytest
from keras.src import backend
from keras.src.backend.common.symbolic_scope import SymbolicScope, in_symbolic_scope

from keras_sparse_rnn import _backend


def names(function):
    return list(inspect.signature(function).parameters)


def test_signature_of_the_time_loop():
    assert names(backend.rnn) == [
        "step_function",
        "inputs",
        "initial_states",
        "go_backwards",
        "mask",
        "constants",
        "unroll",
        "input_length",
        "time_major",
        "zero_output_for_mask",
        "return_all_outputs",
    ]


def test_signature_of_the_cudnn_lstm():
    expected = [
        "inputs",
        "initial_state_h",
        "initial_state_c",
        "mask",
        "kernel",
        "recurrent_kernel",
        "bias",
        "activation",
        "recurrent_activation",
        "return_sequences",
        "go_backwards",
        "unroll",
    ]
    # What follows has a default, and the package leaves it.
    assert names(backend.lstm)[: len(expected)] == expected


def test_signature_of_cudnn_ok():
    expected = ["activation", "recurrent_activation", "unroll", "use_bias"]
    assert names(backend.cudnn_ok)[:4] == expected
    tanh = keras.ops.tanh
    for conditions in ({"use_bias": True}, {"use_bias": True, "reset_after": True}):
        assert isinstance(_backend.cudnn_ok(tanh, tanh, False, **conditions), bool)


def test_signature_of_the_cudnn_gru():
    expected = [
        "inputs",
        "initial_state",
        "mask",
        "kernel",
        "recurrent_kernel",
        "bias",
        "activation",
        "recurrent_activation",
        "return_sequences",
        "go_backwards",
        "unroll",
    ]
    assert names(backend.gru)[: len(expected)] == expected
    assert "reset_after" in names(backend.gru)


def test_stock_rnn_asks_a_cell_with_dropout_for_its_masks():
    assert issubclass(keras.layers.LSTMCell, _backend.DropoutRNNCell)
    asked = []

    class Cell(_backend.DropoutRNNCell, keras.layers.Layer):
        state_size = output_size = 1

        def call(self, inputs, states):
            asked.append("step")
            return inputs, states

        def get_dropout_mask(self, step_input):
            asked.append("inputs")

        def get_recurrent_dropout_mask(self, step_input):
            asked.append("outputs")

        def reset_dropout_mask(self):
            asked.append("reset")

        def reset_recurrent_dropout_mask(self):
            asked.append("reset")

    keras.layers.RNN(Cell())(np.ones((2, 3, 1), "float32"))
    assert asked[:2] == ["inputs", "outputs"]
    assert asked[-2:] == ["reset", "reset"]
    assert "step" in asked[2:-2]


@pytest.mark.parametrize("length", [None, 5])
def test_the_time_loop_takes_several_sequences_of_any_length(length):
    a = np.arange(20, dtype="float32").reshape(5, 2, 2)

    def step(inputs, states):
        x, y = inputs
        new = states[0] + x * y
        return [new, x], [new]

    outputs, states = _backend.time_loop(
        step,
        [keras.ops.convert_to_tensor(a), keras.ops.convert_to_tensor(a + 1)],
        [keras.ops.zeros((2, 2))],
        length=length,
        return_sequences=True,
        unroll=False,
    )
    sums = np.cumsum(a * (a + 1), axis=0)
    for tensor, expected in zip([*outputs, *states], [sums, a, sums[-1]], strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(tensor), expected)


def test_a_cell_keeps_its_masks_until_they_are_reset():
    cell = keras.layers.LSTMCell(3, dropout=0.5)
    x = keras.ops.ones((2, 50))
    first = cell.get_dropout_mask(x)
    assert cell.get_dropout_mask(x) is first
    cell.reset_dropout_mask()
    assert cell.get_dropout_mask(x) is not first


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_masked_steps_show_what_a_stock_layer_shows(zeros, unroll):
    if zeros and unroll and keras.backend.backend() == "jax":
        pytest.skip("Keras's unrolled loop for JAX forgets zero_output_for_mask")
    # Every step leaves the state of ones as it is: what is no one is not shown.
    layer = keras.layers.SimpleRNN(
        3,
        activation="linear",
        kernel_initializer="zeros",
        recurrent_initializer="identity",
        return_sequences=True,
        zero_output_for_mask=zeros,
        unroll=unroll,
    )
    mask = np.array([[0, 1, 0, 1], [0, 0, 0, 0]], bool)
    x, state = np.ones((2, 4, 5), "float32"), np.ones((2, 3), "float32")
    outputs = layer(x, mask=mask, initial_state=state)
    shown = _backend.shown_steps(keras.ops.convert_to_tensor(mask), zeros, unroll)
    expected = np.ones_like(mask) if shown is None else shown
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(outputs)[..., 0] != 0,
        keras.ops.convert_to_numpy(expected),
    )


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="as it traces")
def test_the_time_loop_takes_sequences_whose_length_no_trace_knows():
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 2, 3], tf.float32)] * 2)
    def sums(x, y):
        def step(inputs, states):
            new = states[0] + inputs[0] + inputs[1]
            return [new, inputs[1]], [new]

        options = {"length": None, "return_sequences": True, "unroll": False}
        return _backend.time_loop(step, [x, y], [keras.ops.zeros((2, 3))], **options)

    x = np.ones((4, 2, 3), "float32")
    (totals, again), (last,) = sums(x, 2 * x)
    np.testing.assert_allclose(totals, np.cumsum(3 * x, axis=0))
    np.testing.assert_allclose(again, 2 * x)
    np.testing.assert_allclose(last, 12 * x[0])


def test_symbolic_scope_is_told_from_a_real_call():
    assert not in_symbolic_scope()
    with SymbolicScope():
        assert in_symbolic_scope()
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, x):
            seen.append(_backend.in_symbolic_scope())
            return x

    layer = Spy()
    layer(keras.Input((2,)))
    layer(keras.ops.ones((1, 2)))
    # PyTorch's backend calls more than once for a shape.
    *symbolic, real = seen
    assert symbolic
    assert all(symbolic)
    assert not real


def test_no_cudnn_on_a_backend_that_has_none(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    assert not _backend.cudnn_ok("tanh", "sigmoid", False, use_bias=True)


@pytest.mark.parametrize("attribute", ["constraint", "regularizer", "trainable"])
def test_variables_still_hold_what_pruning_hangs_on(attribute):
    variable = keras.Variable([1.0])
    setattr(variable, attribute, getattr(variable, attribute))
    assert hasattr(variable, attribute)


def test_what_use_sets_on_a_model_is_known():
    def made():
        start = keras.Input((2,))
        model = keras.Model(start, keras.layers.Dense(1)(start))
        model.compile("sgd", "mse", metrics=["mae"])
        return model

    model, x, y = made(), np.ones((4, 2)), np.ones((4, 1))
    model.fit(x, y, validation_data=(x, y), verbose=0)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    assert not set(vars(model)) - set(vars(made())) - _backend.SET_IN_USE


def test_weights_that_do_not_decay_are_known():
    kernel = keras.Variable([1.0], name="kernel")
    bias, other = keras.Variable([1.0], name="bias"), keras.Variable([1.0], name="b")
    optimizer = keras.optimizers.AdamW(0.1)
    assert _backend.kept_from_decay(optimizer, [kernel, bias, other]) == []
    optimizer.exclude_from_weight_decay([other], ["bias"])
    kept = _backend.kept_from_decay(optimizer, [kernel, bias, other])
    assert [id(one) for one in kept] == [id(bias), id(other)]


def test_the_input_of_a_symbol_is_known():
    start = keras.Input((2,), name="start", optional=True)
    assert isinstance(_backend.origin(start), keras.layers.InputLayer)
    assert _backend.origin(start).optional
    dense = keras.layers.Dense(1)
    assert _backend.origin(dense(start)) is dense


def test_whether_a_vocabulary_was_learned_is_known():
    learned, given = keras.layers.StringLookup(), keras.layers.TextVectorization()
    learned.adapt(["a"])
    assert not _backend.was_handed_vocabulary(learned)
    assert not _backend.was_handed_vocabulary(given)
    given = keras.layers.TextVectorization(vocabulary=["a"])
    assert _backend.was_handed_vocabulary(given)
