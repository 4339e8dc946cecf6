"""Small recurrent chains, and their components counted from the paper's words alone.

Oracles for pruning: nothing here asks the package which weights go together.
"""

import itertools

import keras
import numpy as np
from keras import layers, ops

from keras_sparse_rnn import GroupedLSTM

FEATURES = 5
TIME = 4


def array(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def inputs(batch=3, time=TIME, seed=0):
    shape = (batch, time, FEATURES)
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def recurrent(spec, **arguments):
    """An LSTM from its units, a GroupedLSTM from `(groups, density)`."""
    if isinstance(spec, int):
        return layers.LSTM(spec, **arguments)
    return GroupedLSTM(*spec, **arguments)


def chain(*specs, outputs=2, **arguments):
    """Recurrent layers `r0`, `r1`, … with dropout between them, and a Dense.

    Their loops are written out: what is tested with chains is what happens to
    weights, and a loop takes seconds to compile.
    """
    stack = [keras.Input((TIME, FEATURES))]
    for i, spec in enumerate(specs):
        last = i == len(specs) - 1
        stack.append(
            recurrent(
                spec,
                return_sequences=not last,
                bias_initializer="random_normal",
                name=f"r{i}",
                unroll=True,
                **arguments,
            )
        )
        if not last:
            stack.append(layers.Dropout(0.2))
    return keras.Sequential([*stack, layers.Dense(outputs, name="head")])


def recurrent_of(model):
    """`(layer, readers)` for each recurrent layer of a chain."""
    weighted = [layer for layer in model.layers if layer.weights]
    return [(layer, [reader]) for layer, reader in itertools.pairwise(weighted)]


def segments(layer):
    return getattr(layer, "group_segments", [(0, layer.cell.units)])


def windows(reader, size):
    return getattr(reader, "input_segments", [(0, size)])


def _weights_a_group(layer):
    return len(layer.get_weights()) // len(segments(layer))


def component(layer, readers, unit):
    """All weights of one unit, each once: columns, recurrent row, readers' rows."""
    found = []
    weights, per = layer.get_weights(), _weights_a_group(layer)
    for g, (begin, end) in enumerate(segments(layer)):
        if begin <= unit < end:
            kernel, loop = weights[g * per], weights[g * per + 1]
            size, own = end - begin, unit - begin
            columns = [gate * size + own for gate in range(4)]
            found += [kernel[:, columns], loop[own]]
            found.append(np.delete(loop, own, axis=0)[:, columns])
    for reader in readers:
        weights = reader.get_weights()
        views = windows(reader, segments(layer)[-1][1])
        for g, (begin, end) in enumerate(views):
            if begin <= unit < end:
                found.append(weights[g * len(weights) // len(views)][unit - begin])
    return np.concatenate([np.ravel(part) for part in found])


def norms(layer, readers):
    return np.array(
        [
            np.linalg.norm(component(layer, readers, u).astype("float64"))
            for u in range(segments(layer)[-1][1])
        ]
    )


def kill(layer, readers, units, columns=True):
    """Sets to zero what leaves some units and, if asked, all that enters them."""
    weights, per = layer.get_weights(), _weights_a_group(layer)
    for g, (begin, end) in enumerate(segments(layer)):
        own = [unit - begin for unit in units if begin <= unit < end]
        entering = [gate * (end - begin) + u for gate in range(4) for u in own]
        weights[g * per + 1][own] = 0
        if columns:
            weights[g * per][:, entering] = 0
            weights[g * per + 1][:, entering] = 0
            if per == 3:
                weights[g * per + 2][entering] = 0
    layer.set_weights(weights)
    for reader in readers:
        weights = reader.get_weights()
        views = windows(reader, segments(layer)[-1][1])
        for g, (begin, end) in enumerate(views):
            row = weights[g * len(weights) // len(views)]
            row[[unit - begin for unit in units if begin <= unit < end]] = 0
        reader.set_weights(weights)
