"""What the package relies on in `keras.src.backend`: fails loudly if it moves."""

import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

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


# The other backends run a part of the tests, each in a process of its own.

ELSEWHERE = [
    "test_grouped_lstm.py::test_equals_dense[sizes]",
    "test_grouped_lstm.py::test_equals_dense_under_a_mask[state-left padded]",
    "test_grouped_lstm.py::test_equals_dense_under_a_mask_however_it_is_wired",
    "test_grouped_lstm.py::test_stateful_equals_dense_over_batches_and_resets",
    "test_grouped_lstm.py::test_compiled_by_xla[sequences]",
    "test_tiered_embedding.py::test_equals_a_dense_table_with_zeros",
    "test_tiered_embedding.py::test_compiled_by_xla",
    "test_iss_pruning.py::test_dead_units_stay_dead[adam]",
    "test_iss_regularizer.py::test_proximal_step[0.05-True]",
    "test_iss_regularizer.py::test_paper_form_pulls_along_the_gradient_of_the_norm",
    "test_iss_regularizer.py::test_a_stateless_loop_under_jit_reaches_exact_zeros",
]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="started there")
@pytest.mark.parametrize("name", ["jax", "torch"])
def test_other_backends(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    here = Path(__file__).parent
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(str(here / node) for node in ELSEWHERE),
        ],
        cwd=here.parent,
        env={**os.environ, "KERAS_BACKEND": name},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
