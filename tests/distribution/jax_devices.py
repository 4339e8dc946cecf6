"""Trains on one device, then on four, by `keras.distribution` on JAX.

What comes out is one line of JSON for each case.
"""

import functools
import json
import re

import jax
import keras
import training

from keras_sparse_rnn.layers import GroupedGRU, GroupedLSTM

GROUPS = {".*grouped.*/groups": ("model", None, None)}
VARIABLES = {
    ".*grouped.*/(kernel|recurrent_kernel)": (None, "model"),
    ".*grouped.*/bias": ("model",),
}


def model_parallel(shape, rules):
    """The first axis of the mesh divides the batch, the second what rules say."""
    mesh = keras.distribution.DeviceMesh(shape, ("batch", "model"))
    layout_map = keras.distribution.LayoutMap(mesh)
    for path, axes in rules.items():
        layout_map[path] = axes
    return keras.distribution.ModelParallel(
        layout_map=layout_map, batch_dim_name="batch"
    )


def compiled(model, distribution):
    """What each device does for a training step's gradients, as text."""

    def loss(trainable, others, x, y):
        predicted, _ = model.stateless_call(trainable, others, x, training=True)
        return keras.ops.mean((predicted - y) ** 2)

    def spread(batch):
        layout = distribution.get_data_layout(batch.shape)
        return keras.distribution.distribute_tensor(batch, layout)

    arguments = (
        [variable.value for variable in model.trainable_variables],
        [variable.value for variable in model.non_trainable_variables],
        *(spread(array[: training.BATCH]) for array in training.data()),
    )
    return jax.jit(jax.grad(loss)).lower(*arguments).compile().as_text()


def parts_in_loops(text):
    """The lines of a compiled program, `(in a loop, outside all loops)`."""
    lines, called, loops = {}, {}, []
    for line in text.splitlines():
        if start := re.match(r"(?:ENTRY )?%([\w.-]+) \(.*{$", line):
            own = start[1]
            lines[own], called[own] = [], []
        elif line.startswith(" "):
            lines[own].append(line)
            names = re.findall(r"(?:calls|to_apply|body|condition)=%([\w.-]+)", line)
            called[own].extend(names)
            loops.extend(names if " while(" in line else [])
    inside = set()
    while loops:
        name = loops.pop()
        inside.add(name)
        loops.extend(called[name])
    return (
        [line for name in lines if name in inside for line in lines[name]],
        [line for name in lines if name not in inside for line in lines[name]],
    )


def products(lines):
    """The shapes of all matrix products."""
    found = (re.search(r"= \w+\[([\d,]*)\]\S* dot\(", line) for line in lines)
    return sorted([int(size) for size in one[1].split(",")] for one in found if one)


def exchanges(lines):
    """The kinds of what devices tell each other."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = (re.search(rf" ({kinds})(?:-start)?\(", line) for line in lines)
    return sorted({one[1] for one in found if one})


def kept(variables):
    """How much of each variable one device keeps."""
    return {
        v.path: [list(v.shape), list(v.value.addressable_shards[0].data.shape)]
        for v in variables
        if v.shape
    }


@functools.cache
def on_one_device(layer):
    """The losses and weights to compare with."""
    return training.trained(training.model_of(layer))


def case(layer, distribution):
    """The same training twice, and how the second was divided."""
    one = on_one_device(layer)
    with distribution.scope():
        model = training.model_of(layer)
        many = training.trained(model)
        inside, outside = parts_in_loops(compiled(model, distribution))
    return {
        "one": one,
        "many": many,
        "products in the loop": products(inside),
        "products outside": products(outside),
        "exchanges in the loop": exchanges(inside),
        "exchanges outside": exchanges(outside),
        "kept": kept(model.trainable_variables),
        "kept by the optimizer": kept(model.optimizer.variables),
    }


def refused(layer, distribution):
    """What the layer says to a rule it can't follow."""
    with distribution.scope():
        try:
            training.trained(training.model_of(layer))
        except ValueError as error:
            return str(error)
    return None


def uneven_gru():
    return GroupedGRU(32, [5, 3, 4, 4, 5, 3, 4, 4], input_density=0.5)


def three_groups():
    return GroupedLSTM(32, 3)


CASES = {
    "data": lambda: case(training.lstm, keras.distribution.DataParallel()),
    "groups": lambda: case(
        training.lstm, model_parallel((2, 2), {**GROUPS, **VARIABLES})
    ),
    "uneven": lambda: case(uneven_gru, model_parallel((1, 4), GROUPS)),
    "three groups": lambda: refused(three_groups, model_parallel((2, 2), GROUPS)),
    "two axes": lambda: refused(
        training.lstm, model_parallel((2, 2), {".*/groups": ("model", None)})
    ),
}

for name, run in CASES.items():
    print(json.dumps({name: run()}), flush=True)
