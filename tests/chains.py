"""Small recurrent chains, and their components counted from the paper's words alone.

Oracles for pruning: but for `mask`, nothing here asks the package which weights go
together. After `mask` the oracle is the masked model itself, run by stock Keras.
"""

import itertools

import keras
import numpy as np
from keras import layers, ops

from keras_sparse_rnn import GroupedLSTM
from keras_sparse_rnn.iss.trace import trace

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


def chain(*specs, outputs=2, time=TIME, **arguments):
    """Recurrent layers `r0`, `r1`, … with dropout between them, and a Dense.

    Their loops are written out: what is tested with chains is what happens to
    weights, and a loop takes seconds to compile.
    """
    stack = [keras.Input((time, FEATURES))]
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


def mask(model, seed=0, ignore=()):
    """Random weights in any model, some components of each family dead.

    All weights of every other dead component become zero; of the rest only those
    that leave it, where that is enough to be dead.

    Args:
        model: The model.
        seed: Of the weights and of the choice.
        ignore: As for `shrink`.

    Returns:
        For each recurrent layer, how many of its units are left.
    """
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype.startswith(("float", "bfloat")):
            value = rng.normal(0, 0.5, weight.shape)
            # A variance must be one.
            weight.assign(np.abs(value) + 0.1 if "variance" in weight.path else value)
    plan = trace(model, ignore)
    dying = []
    for family in plan.families:
        loose = np.flatnonzero(~family.fixed)
        dying.append(list(rng.choice(loose, (len(loose) + 1) // 2, replace=False)))
    # One of each group, and of all that an axis is made of, lives.
    for window in plan.windows:
        if all(component in dying[number] for number, component in window):
            number, component = window[0]
            dying[number].remove(component)
    left = {}
    for family, dead in zip(plan.families, dying, strict=True):
        for part in family.parts:
            zero = np.isin(part.owner, dead)
            if part.role == "along":
                continue
            if part.role != "out":
                zero &= family.summed[part.owner] | np.isin(part.owner, dead[::2])
            variable = plan.variables[part.variable]
            value = np.array(ops.convert_to_numpy(variable))
            np.moveaxis(value, part.axis, 0)[zero] = 0
            variable.assign(value)
        for layer in family.layers:
            left[layer.name] = int((~np.isin(layer.component, dead)).sum())
    return left
