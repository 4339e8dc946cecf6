"""Gradients written by hand, against what the backend makes of a stock layer."""

import conftest
import keras
import numpy as np
import pytest
from keras import ops
from wirings import (
    BACKEND,
    FEATURES,
    KINDS,
    close,
    gradients,
    normal,
    pair,
    same_gradients,
    sequence_mask,
    states_of,
)

from keras_sparse_rnn.layers import recurrences, segments

# All but `glu`, which returns half of what it is given, and `threshold`, which wants
# more than that.
ACTIVATIONS = sorted(
    name
    for name in dir(keras.activations)
    if name[0] != "_"
    and name not in ("deserialize", "get", "glu", "serialize", "threshold")
)
KNOWN = ["tanh", "sigmoid", "hard_sigmoid", "relu", "linear"]
# JAX compiles each call anew, so there two stand for all.
SOME = ["relu", "softmax"] if BACKEND == "jax" else ACTIVATIONS
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize(
    "activation", conftest.often(SOME, *SOME[: len(SOME) // 2], "softmax")
)
def test_every_activation_equals_that_of_the_dense_layer(activation):
    ours, dense = pair("simple", "uneven", activation=activation, return_sequences=True)
    # Small, for the exponential's sake.
    x, state = 0.3 * normal((2, 3, FEATURES)), 0.3 * states_of("simple")
    close(ours(x), dense(x))
    same_gradients(ours, dense, x, state)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "simple"])
@pytest.mark.parametrize(
    ("activation", "recurrent_activation"),
    [("relu", "hard_sigmoid"), ("softmax", "softmax"), ("tanh", "silu")][
        : 1 if BACKEND == "jax" else 3
    ],
)
def test_activations_of_gates_equal_those_of_the_dense_layer(
    kind, activation, recurrent_activation
):
    ours, dense = pair(
        kind,
        "uneven",
        activation=activation,
        recurrent_activation=recurrent_activation,
    )
    x, state = normal((2, 3, FEATURES)), states_of(kind)
    close(ours(x, initial_state=state), dense(x, initial_state=state))
    same_gradients(ours, dense, x, state, sequence_mask("holes")[:, :3])


@pytest.mark.parametrize("name", KNOWN)
def test_derivatives_from_an_activations_own_result(name):
    activation = getattr(keras.activations, name)
    assert recurrences.SimpleRNN(activation, activation).differentiable_by_hand
    z = np.array([-5, -3, -1, -0.2, 0.3, 2, 3, 5], "float32")
    step = 1e-2
    numeric = (activation(z + step) - activation(z - step)) / (2 * step)
    away_from_kinks = np.abs(z) != 3 if name == "hard_sigmoid" else np.full(8, True)
    slope = recurrences.SimpleRNN(activation, activation)._slope(activation(z))
    close(
        ops.convert_to_numpy(slope)[away_from_kinks],
        ops.convert_to_numpy(numeric)[away_from_kinks],
        1e-3,
    )


@every_kind
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("mask", [pytest.param(None, marks=pytest.mark.long), "holes"])
def test_gradients_equal_dense_in_both_arrangements(monkeypatch, kind, stacked, mask):
    monkeypatch.setattr(segments, "worth_stacking", lambda *_, **__: stacked)
    ours, dense = pair(kind, "sizes", return_sequences=True, return_state=True)
    x, state = normal((2, 4, FEATURES)), states_of(kind)
    same_gradients(ours, dense, x, state, sequence_mask(mask))


@pytest.mark.parametrize("time", [1, 2])
def test_gradients_of_the_shortest_sequences(time):
    ours, dense = pair("lstm", go_backwards=True)
    same_gradients(ours, dense, normal((2, time, FEATURES)), states_of("lstm"))


def second_derivative(layer, x, weights):
    """By `x`, of the gradient by `x` and by the variables, both with training=True."""
    weights, by = (ops.convert_to_tensor(w) for w in (weights, normal(x.shape, 5)))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        kernels = [v.value for v in layer.trainable_variables]
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = ops.sum(layer(x, training=True) * weights)
            first, *others = inner.gradient(value, [x, *kernels])
            value = ops.sum(first * by) + sum(ops.sum(g**2) for g in others)
        return outer.gradient(value, x)
    if BACKEND == "jax":
        import jax

        variables = [v.value for v in layer.trainable_variables]
        fixed = [v.value for v in layer.non_trainable_variables]

        def loss(x, variables):
            outputs, _ = layer.stateless_call(variables, fixed, x, training=True)
            return ops.sum(outputs * weights)

        def of_gradients(x):
            first, others = jax.grad(loss, (0, 1))(x, variables)
            return ops.sum(first * by) + sum(ops.sum(g**2) for g in others)

        return jax.grad(of_gradients)(x)
    import torch

    x = torch.tensor(x, requires_grad=True)
    kernels = [v.value for v in layer.trainable_variables]
    value = ops.sum(layer(x, training=True) * weights)
    first, *others = torch.autograd.grad(value, [x, *kernels], create_graph=True)
    value = ops.sum(first * by) + sum(ops.sum(g**2) for g in others)
    return torch.autograd.grad(value, x)[0]


@every_kind
def test_second_derivatives_equal_those_of_the_stock_layer(kind):
    # One group: a dense twin's gradients by weights that are missing would count too.
    ours, dense = pair(kind, "one", return_sequences=True)
    x, weights = normal((2, 3, FEATURES)), normal((2, 3, 7), 1)
    expected = second_derivative(dense, x, weights)
    assert np.abs(ops.convert_to_numpy(expected)).max() > 1e-2
    close(second_derivative(ours, x, weights), expected, 1e-4)


@pytest.mark.parametrize("wiring", ["uneven", "sizes"])
def test_second_derivatives_equal_those_of_the_plain_loop(monkeypatch, wiring):
    ours, _ = pair("gru", wiring, return_sequences=True)
    x, weights = normal((2, 3, FEATURES)), normal((2, 3, 7), 1)
    by_hand = second_derivative(ours, x, weights)
    known = property(lambda recurrence: False)
    arrangement = ours.cell.arrangement()
    monkeypatch.setattr(ours.cell, "arrangement", lambda place=None: arrangement)
    monkeypatch.setattr(recurrences.Recurrence, "differentiable_by_hand", known)
    close(by_hand, second_derivative(ours, x, weights), 1e-4)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX has a forward mode")
def test_forward_mode_wants_training_false():
    import jax

    ours, dense = pair("lstm", return_sequences=True)
    x, direction = normal((2, 3, FEATURES)), normal((2, 3, FEATURES), 1)

    def tangent(layer, **options):
        return jax.jvp(lambda x: layer(x, **options), (x,), (direction,))[1]

    close(tangent(ours), tangent(dense))
    with pytest.raises(TypeError, match="forward-mode"):
        tangent(ours, training=True)


def test_what_is_not_differentiated_is_not_written_by_hand(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("the plain loop was to be used")

    monkeypatch.setattr("keras_sparse_rnn.layers.grouped_rnn.run_for_training", fail)
    x, state = normal((2, 3, FEATURES)), states_of("gru")
    ours, dense = pair("gru", return_sequences=True)
    close(ours(x), dense(x))
    weights = [normal((2, 3, 7), 2)]
    close(
        gradients(ours, x, state, weights, training=False)[:2],
        gradients(dense, x, state, weights, training=False)[:2],
        1e-4,
    )
    for options in ({"unroll": True}, {"activation": "gelu"}):
        ours, dense = pair("gru", **options)
        close(ours(x, training=True), dense(x))
