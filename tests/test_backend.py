"""What the package relies on in `keras.src.backend`: fails loudly if it moves."""

import inspect

import keras
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
    assert isinstance(_backend.cudnn_ok(keras.ops.tanh, keras.ops.tanh, 0, 1), bool)


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
    assert seen == [True, False]


def test_no_cudnn_on_a_backend_that_has_none(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    assert not _backend.cudnn_ok("tanh", "sigmoid", False, True)


@pytest.mark.parametrize("attribute", ["constraint", "regularizer", "trainable"])
def test_variables_still_hold_what_pruning_hangs_on(attribute):
    variable = keras.Variable([1.0])
    setattr(variable, attribute, getattr(variable, attribute))
    assert hasattr(variable, attribute)
