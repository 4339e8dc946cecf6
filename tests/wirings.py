"""Grouped layers of every kind, their dense twins, and gradients on any backend."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_sparse_rnn.layers import (
    GroupedGRU,
    GroupedGRUCell,
    GroupedLSTM,
    GroupedLSTMCell,
    GroupedSimpleRNN,
    GroupedSimpleRNNCell,
)

BACKEND = keras.backend.backend()
if BACKEND == "jax":
    import jax

    # Nearly all of the time of these tests would go into optimizing tiny programs.
    jax.config.update("jax_disable_most_optimizations", True)
FEATURES = 5
UNITS = 7
STATES = {"lstm": 2, "gru": 1, "gru, reset before": 1, "simple": 1}
GATES = {"lstm": 4, "gru": 3, "gru, reset before": 3, "simple": 1}
KINDS = list(STATES)
OURS = {
    "lstm": GroupedLSTM,
    "gru": GroupedGRU,
    "gru, reset before": GroupedGRU,
    "simple": GroupedSimpleRNN,
}
CELLS = {
    "lstm": GroupedLSTMCell,
    "gru": GroupedGRUCell,
    "gru, reset before": GroupedGRUCell,
    "simple": GroupedSimpleRNNCell,
}
STOCK = {
    "lstm": layers.LSTM,
    "gru": layers.GRU,
    "gru, reset before": layers.GRU,
    "simple": layers.SimpleRNN,
}
STOCK_CELLS = {
    "lstm": layers.LSTMCell,
    "gru": layers.GRUCell,
    "gru, reset before": layers.GRUCell,
    "simple": layers.SimpleRNNCell,
}
# Wiring of seven units: even, uneven, given sizes, windows that overlap or leave gaps.
# The groups of "sizes" are too different to be stacked, those of "uneven" are padded.
WIRINGS: dict[str, dict[str, Any]] = {
    "one": {"groups": 1},
    "uneven": {"groups": 3},
    "windows": {"groups": 3, "input_density": 0.5},
    "disjoint": {"groups": 2, "input_density": 0.5},
    "sizes": {"groups": [1, 4, 2], "input_density": 0.8},
    "explicit": {"groups": 2, "input_segments": [(3, 5), (0, 2)]},
    "a unit a group": {"groups": 7},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "sequences": {"return_sequences": True},
    "state": {"return_sequences": True, "return_state": True},
    "last and state": {"return_state": True},
    "backwards": {"return_sequences": True, "return_state": True, "go_backwards": True},
    "unrolled": {"return_sequences": True, "return_state": True, "unroll": True},
    "no bias": {"use_bias": False},
}
MASKS = {
    "right padded": [[1, 1, 1, 0], [1, 0, 0, 0]],
    "left padded": [[0, 0, 1, 1], [0, 1, 1, 1]],
    "holes": [[1, 0, 1, 0], [0, 1, 0, 1]],
    "a row of nothing": [[0, 0, 0, 0], [1, 1, 1, 1]],
}


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def array(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def close(ours, theirs, tolerance=1e-5):
    """Asserts that two structures of tensors are alike, in shapes and in values."""
    ours, theirs = keras.tree.flatten(ours), keras.tree.flatten(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert tuple(a.shape) == tuple(b.shape)
        np.testing.assert_allclose(array(a), array(b), atol=tolerance)


def states_of(kind, batch=2, units=UNITS):
    """An initial state as the stock layer takes it."""
    states = [normal((batch, units), seed + 1) for seed in range(STATES[kind])]
    return states if len(states) > 1 else states[0]


def sequence_mask(name):
    return None if name is None else np.array(MASKS[name], bool)


def scattered(weights, layer):
    """Weights of all groups, where they stand in the dense layer; zeros elsewhere.

    Args:
        weights: Kernel, recurrent kernel and, if the layer has one, bias of each group.
        layer: The grouped layer, or cell, that they belong to.
    """
    per_group = len(weights) // len(layer.group_segments)
    features = max(end for _, end in layer.input_segments)
    units = layer.units
    gates = np.asarray(weights[1]).shape[1] // np.asarray(weights[1]).shape[0]
    kernel = np.zeros((features, gates, units), "float32")
    recurrent = np.zeros((units, gates, units), "float32")
    # A GRU may have two rows of biases.
    rows = np.asarray(weights[2]).shape[:-1] if per_group == 3 else ()
    bias = np.zeros((*rows, gates, units), "float32")
    for g, (window, segment) in enumerate(
        zip(layer.input_segments, layer.group_segments, strict=True)
    ):
        own = [np.asarray(w) for w in weights[g * per_group : (g + 1) * per_group]]
        size = segment[1] - segment[0]
        kernel[slice(*window), :, slice(*segment)] = own[0].reshape(-1, gates, size)
        recurrent[slice(*segment), :, slice(*segment)] = own[1].reshape(
            size, gates, size
        )
        if per_group == 3:
            bias[..., slice(*segment)] = own[2].reshape(*rows, gates, size)
    dense = [
        kernel.reshape(features, -1),
        recurrent.reshape(units, -1),
        bias.reshape(*rows, -1),
    ]
    return dense[:per_group]


def own_arguments(kind, options):
    """`options`, with the argument that tells one kind of GRU from the other."""
    return {"reset_after": False, **options} if "before" in kind else options


def stock_layer(kind, units=UNITS, **options):
    """The stock layer of this kind, on its plain loop."""
    if kind != "simple":
        options = {"use_cudnn": False, **options}
    return STOCK[kind](units, **own_arguments(kind, options))


def grouped_layer(kind, wiring="windows", units=UNITS, **options):
    """A grouped layer of this kind; `wiring` is a name or the arguments themselves."""
    arguments = WIRINGS[wiring] if isinstance(wiring, str) else wiring
    return OURS[kind](units, **own_arguments(kind, {**arguments, **options}))


def dense_twin(kind, layer, features=FEATURES, batch=None, weights=None, **options):
    """A stock layer with the same weights, and zeros where the groups have none."""
    stock = stock_layer(kind, layer.units, **options)
    stock.build((batch, None, features))
    weights = layer.cell.get_weights() if weights is None else weights
    stock.cell.set_weights(_padded(scattered(weights, layer), features))
    return stock


def pair(kind, wiring="windows", features=FEATURES, units=UNITS, **options):
    """A grouped layer, built, and its dense twin."""
    ours = grouped_layer(
        kind, wiring, units, **{"bias_initializer": "random_normal", **options}
    )
    ours.build((None, None, features))
    return ours, dense_twin(kind, ours, features, **options)


def gradients(layer, x, initial_state, weights, mask=None, training=True):
    """Gradients of a weighted sum of all that a layer returns.

    Args:
        layer: A built layer.
        x: Array `(batch, time, features)`.
        initial_state: `None`, an array, or a list of arrays.
        weights: One array for each tensor that the layer returns.
        mask: `None`, or a boolean array `(batch, time)`.
        training: Passed on to the layer.

    Returns:
        Arrays: by `x`, by each initial state, and by each trainable variable.
    """
    states = [] if initial_state is None else keras.tree.flatten(initial_state)
    variables = [v.value for v in layer.trainable_variables]

    def loss(call, x, states):
        nested = states[0] if len(states) == 1 else (states or None)
        outputs = call(x, initial_state=nested, mask=mask, training=training)
        outputs = keras.tree.flatten(outputs)
        return sum(ops.sum(o * w) for o, w in zip(outputs, weights, strict=True))

    if BACKEND == "tensorflow":
        import tensorflow as tf

        x, states = tf.constant(x), [tf.constant(state) for state in states]
        with tf.GradientTape() as tape:
            tape.watch([x, *states])
            value = loss(layer, x, states)
        found = tape.gradient(value, [x, *states, *variables])
    elif BACKEND == "jax":
        import jax

        fixed = [v.value for v in layer.non_trainable_variables]

        def stateless(x, states, variables):
            def call(*args, **kwargs):
                return layer.stateless_call(variables, fixed, *args, **kwargs)[0]

            return loss(call, x, states)

        found = keras.tree.flatten(jax.grad(stateless, (0, 1, 2))(x, states, variables))
    else:
        import torch

        x = torch.tensor(x, requires_grad=True)
        states = [torch.tensor(state, requires_grad=True) for state in states]
        weights = [torch.tensor(w) for w in weights]
        found = torch.autograd.grad(
            loss(layer, x, states), [x, *states, *variables], materialize_grads=True
        )
    return [np.asarray(array(g)) for g in found]


def same_gradients(ours, dense, x, initial_state, mask=None, tolerance=1e-4, kept=None):
    """Asserts that two layers have the same gradients, where `ours` has weights.

    Args:
        ours: The grouped layer.
        dense: Its dense twin.
        x: Array `(batch, time, features)`.
        initial_state: As for `gradients`.
        mask: As for `gradients`.
        tolerance: What rounding may do, relative to the largest value of a gradient.
        kept: What the weights of `ours` were multiplied with, if not with one.
    """
    outputs = keras.tree.flatten(dense(x, initial_state=initial_state, mask=mask))
    weights = [normal(o.shape, 10 + k) for k, o in enumerate(outputs)]
    found, expected = (
        gradients(layer, x, initial_state, weights, mask) for layer in (ours, dense)
    )
    count = len(ours.trainable_variables)
    if kept is None:
        kept = [np.ones_like(g) for g in found[-count:]]
    kept = _padded(scattered(kept, ours), x.shape[-1])
    by_weights = _padded(scattered(found[-count:], ours), x.shape[-1])
    outer = len(found) - count
    pairs = [
        *zip(found[:outer], expected[:outer], strict=True),
        *(
            (a, b * keep)
            for a, b, keep in zip(by_weights, expected[outer:], kept, strict=True)
        ),
    ]
    for a, b in pairs:
        close(a, b, tolerance * max(1, np.abs(b).max(initial=0)))


def _padded(dense, features):
    """Dense weights with a kernel of all features, seen by a group or not."""
    kernel, *rest = dense
    return [np.pad(kernel, ((0, features - len(kernel)), (0, 0))), *rest]
