"""RecurrentHighway against the paper's equations in NumPy, and against a stock GRU.

With one depth it is a GRU whose reset gate is open and whose update gate is the carry
gate. The GRU runs on the same backend, so that what backends do differently, such as
the outputs of masked steps, is the same on both sides.
"""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from wirings import (
    BACKEND,
    FEATURES,
    MASKS,
    OPTIONS,
    UNITS,
    array,
    close,
    gradients,
    normal,
    sequence_mask,
)

from keras_sparse_rnn import RecurrentHighway, RecurrentHighwayCell

DEPTH = 3
ALL = {"return_sequences": True, "return_state": True}


def highway(depth=DEPTH, units=UNITS, features=FEATURES, batch=None, **options):
    """A layer, built, with biases that are not all alike."""
    layer = RecurrentHighway(
        units, depth, **{"bias_initializer": "random_normal", **options}
    )
    layer.build((batch, None, features))
    return layer


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def forward(
    weights,
    depth,
    x,
    state=None,
    mask=None,
    input_mask=1.0,
    state_mask=1.0,
    go_backwards=False,
    zero_output_for_mask=False,
):
    """Outputs of all steps, in the order of the loop, and the last state.

    Args:
        weights: Kernel, recurrent kernels, and biases or none.
        depth: How many recurrent kernels there are.
        x: Array `(batch, time, features)`.
        state: `None` for zeros, or an array `(batch, units)`.
        mask: `None`, or a boolean array `(batch, time)`.
        input_mask: What multiplies the input of every step.
        state_mask: What multiplies the state before every product with it.
        go_backwards: As the layer's.
        zero_output_for_mask: As the layer's; else a masked step shows what the step
            before it did, the first one zeros.
    """
    kernel, recurrent, biases = weights[0], weights[1 : depth + 1], weights[depth + 1 :]
    n = kernel.shape[1] // 2
    s = np.zeros((len(x), n)) if state is None else state
    shown = np.zeros((len(x), n))
    outputs = []
    times = range(x.shape[1])
    for time in reversed(times) if go_backwards else times:
        before = s
        for d in range(depth):
            z = (s * state_mask) @ recurrent[d]
            if d == 0:
                z = z + (x[:, time] * input_mask) @ kernel
            if biases:
                z = z + biases[d]
            h, t = np.tanh(z[:, :n]), sigmoid(z[:, n:])
            s = (h - s) * t + s
        counts = np.ones((len(x), 1), bool) if mask is None else mask[:, time, None]
        s = np.where(counts, s, before)
        hidden = np.zeros_like(s) if zero_output_for_mask else shown
        shown = np.where(counts, s, hidden)
        outputs.append(shown)
    return np.stack(outputs, axis=1), s


def results(outputs, state, return_sequences=True, return_state=True):
    """What a layer returns of them."""
    output = outputs if return_sequences else outputs[:, -1]
    return [output, state] if return_state else output


@st.composite
def cases(draw):
    units, depth, features = (draw(st.integers(1, high)) for high in (6, 4, 5))
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    row = st.lists(st.booleans(), min_size=time, max_size=time)
    mask = draw(st.none() | st.lists(row, min_size=batch, max_size=batch))
    names = (
        "return_sequences",
        "return_state",
        "go_backwards",
        "use_bias",
        "unroll",
        "zero_output_for_mask",
    )
    options = {name: draw(st.booleans()) for name in names}
    return (units, depth, features, batch, time), mask, options


@given(case=cases())
@settings(max_examples={"tensorflow": 14, "jax": 2, "torch": 14}[BACKEND])
def test_any_layer_computes_the_equations(case):
    (units, depth, features, batch, time), mask, options = case
    layer = highway(depth, units, features, **options)
    x = normal((batch, time, features))
    returned = {k: options.pop(k) for k in ("return_sequences", "return_state")}
    options = {k: options[k] for k in ("go_backwards", "zero_output_for_mask")}
    mask = None if mask is None else np.array(mask, bool)
    expected = forward(layer.get_weights(), depth, x, mask=mask, **options)
    close(layer(x, mask=mask), results(*expected, **returned))
    if mask is None:
        state = normal((batch, units), 1)
        expected = forward(layer.get_weights(), depth, x, state, **options)
        close(layer(x, initial_state=state), results(*expected, **returned))


def derivatives(function, arrays):
    """Those of a real function of arrays, by each number in them, to full precision.

    The imaginary part of `f(x + i·h)` is `h·f'(x)`, with no difference to be taken.
    """
    found = []
    for k, own in enumerate(arrays):
        by_own = np.zeros(own.shape)
        for index in np.ndindex(own.shape):
            moved = [a.astype("complex128") for a in arrays]
            moved[k][index] += 1e-30j
            by_own[index] = function(*moved).imag / 1e-30
        found.append(by_own)
    return found


@pytest.mark.parametrize(
    ("depth", "options", "mask"),
    [
        (1, {}, None),
        (3, {}, None),
        (2, {"go_backwards": True}, "holes"),
        (2, {"unroll": True, "use_bias": False}, None),
    ][2 if BACKEND == "jax" else 0 :],
)
def test_gradients_are_those_of_the_equations(depth, options, mask):
    layer = highway(depth, 3, 2, zero_output_for_mask=True, **ALL, **options)
    options.pop("unroll", None)
    mask = sequence_mask(mask)
    zeros = {"zero_output_for_mask": True, "mask": mask}
    zeros["go_backwards"] = options.get("go_backwards", False)
    x, state = normal((2, 4, 2)), normal((2, 3), 1)
    towards = normal((2, 4, 3), 2), normal((2, 3), 3)

    def loss(x, state, *weights):
        returned = forward(weights, depth, x, state, **zeros)
        return sum((r * t).sum() for r, t in zip(returned, towards, strict=True))

    found = gradients(layer, x, state, towards, mask)
    close(found, derivatives(loss, [x, state, *layer.get_weights()]), 1e-4)


# With one depth.


def open_gru(layer, batch=None, **options):
    """The stock GRU that computes what a layer of one depth does."""
    gru = layers.GRU(layer.units, reset_after=False, use_cudnn=False, **options)
    gru.build((batch, None, layer.cell.kernel.shape[0]))
    weights = []
    # The carry gate is one minus the transform gate. The reset gate is open.
    for weight, reset in zip(layer.cell.get_weights(), (0, 0, 1000), strict=True):
        h, t = np.split(weight, 2, axis=-1)
        weights.append(np.concatenate([-t, np.full_like(t, reset), h], axis=-1))
    gru.cell.set_weights(weights)
    return gru


@pytest.mark.parametrize("options", [name for name in OPTIONS if name != "no bias"])
def test_one_depth_is_a_gru_without_reset(options):
    options = OPTIONS[options]
    ours = highway(1, **options)
    gru = open_gru(ours, **options)
    mask = np.array([row for rows in MASKS.values() for row in rows], bool)
    x, state = normal((8, 4, FEATURES)), normal((8, UNITS), 1)
    close(ours(x), gru(x))
    arguments = {"initial_state": state, "mask": mask}
    close(ours(x, **arguments), gru(x, **arguments))


@pytest.mark.parametrize("time", [4, None])
@pytest.mark.parametrize("options", ["defaults", "state", "last and state"])
def test_symbolic_shapes_are_those_of_the_gru(options, time):
    ours = highway(1, **OPTIONS[options])
    gru = open_gru(ours, **OPTIONS[options])
    symbolic = keras.Input((time, FEATURES))
    shapes = [
        [tuple(t.shape) for t in keras.tree.flatten(layer(symbolic))]
        for layer in (ours, gru)
    ]
    assert shapes[0] == shapes[1]
    shape = (None, time, FEATURES)
    assert ours.compute_output_shape(shape) == gru.compute_output_shape(shape)


def test_activations_are_those_given():
    options = {"activation": "relu", "recurrent_activation": "hard_sigmoid"}
    ours = highway(1, **options)
    gru = open_gru(ours, **options)
    x = normal((2, 4, FEATURES))
    close(ours(x), gru(x))


# States and masks.


def test_a_masked_row_is_a_shorter_row():
    ours = highway(**ALL)
    mask = sequence_mask("holes")
    x = normal((2, 4, FEATURES))
    outputs, states = ours(x, mask=mask)
    for row in range(2):
        short, state = ours(x[row : row + 1, mask[row]])
        close(outputs[row][mask[row]], short[0])
        close(states[row], state[0])
    with_axis = ours(x, mask=mask[..., None])
    close(with_axis, [outputs, states], 0)


def test_stateful_goes_on_where_it_was():
    ours = highway(batch=2, stateful=True, **ALL)
    apart = highway(**ALL)
    apart.set_weights(ours.cell.get_weights())
    x = normal((2, 6, FEATURES))
    whole, last = apart(x)
    close(ours(x[:, :2], training=True)[0], whole[:, :2])
    outputs, state = ours(x[:, 2:], training=True)
    close([outputs, state, ours.states[0]], [whole[:, 2:], last, last])
    ours.reset_state()
    close(ours(x)[0], whole)


def test_stateful_trains():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, 3, FEATURES)),
            RecurrentHighway(UNITS, DEPTH, stateful=True),
        ]
    )
    model.compile("sgd", "mse", jit_compile=False)
    before = model.get_weights()
    for _ in range(2):
        model.train_on_batch(normal((2, 3, FEATURES)), normal((2, UNITS), 1))
    for old, new in zip(before, model.get_weights(), strict=True):
        assert old.size == 0 or not np.array_equal(old, new)


def test_bidirectional_runs_each_direction_by_itself():
    both = layers.Bidirectional(highway(return_sequences=True))
    both.build((None, None, FEATURES))
    ahead, back = both.forward_layer, both.backward_layer
    weights = ahead.cell.get_weights(), back.cell.get_weights()
    assert not np.allclose(weights[0][0], weights[1][0])
    x, mask = normal((2, 4, FEATURES)), sequence_mask("holes")
    # What `Bidirectional` asks of both.
    options = {"mask": mask, "zero_output_for_mask": True}
    first, _ = forward(weights[0], DEPTH, x, **options)
    second, _ = forward(weights[1], DEPTH, x, go_backwards=True, **options)
    close(both(x, mask=mask), np.concatenate([first, second[:, ::-1]], axis=-1))


def test_time_distributed_runs_each_sequence_by_itself():
    ours = highway()
    x = normal((2, 3, 4, FEATURES))
    outputs = layers.TimeDistributed(ours)(x)
    for k in range(3):
        close(outputs[:, k], ours(x[:, k]))


def test_a_cell_in_an_rnn_computes_the_same():
    ours = highway(**ALL)
    nested = layers.RNN(RecurrentHighwayCell(UNITS, DEPTH), **ALL)
    x, state = normal((2, 4, FEATURES)), normal((2, UNITS), 1)
    nested.build(x.shape)
    nested.set_weights(ours.get_weights())
    mask = sequence_mask("holes")
    close(
        nested(x, initial_state=state, mask=mask),
        ours(x, initial_state=state, mask=mask),
    )
    output, state_after = nested.cell(x[:, 0], ops.convert_to_tensor(state))
    close([output, state_after], [ours(x[:, :1], initial_state=state)[1]] * 2)


# Variables.


def test_names_and_shapes_of_the_variables():
    cell = highway().cell
    two = 2 * UNITS
    assert [(v.name, tuple(v.shape)) for v in cell.trainable_variables] == [
        ("kernel", (FEATURES, two)),
        ("recurrent_kernel", (UNITS, two)),
        ("recurrent_kernel_1", (UNITS, two)),
        ("recurrent_kernel_2", (UNITS, two)),
        ("bias", (two,)),
        ("bias_1", (two,)),
        ("bias_2", (two,)),
    ]
    attributes = [cell.kernel, *cell.recurrent_kernels, *cell.biases]
    for attribute, variable in zip(attributes, cell.trainable_variables, strict=True):
        assert attribute is variable
    bare = highway(use_bias=False).cell
    assert len(bare.trainable_variables) == 1 + DEPTH
    assert len(bare.biases) == 0


def test_the_size_of_the_papers_network():
    n, zeros = 830, {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
    layer = RecurrentHighway(n, 10, **zeros)
    layer.build((None, None, n))
    weights = sum(np.prod(v.shape) for v in layer.trainable_variables)
    assert weights == 2 * (2 * n**2 + n) + 18 * (n**2 + n)


def squares(layer):
    """The recurrent weights of the candidate and the gate of each depth."""
    kernels = [array(kernel) for kernel in layer.cell.recurrent_kernels]
    return [part for kernel in kernels for part in np.split(kernel, 2, axis=1)]


@pytest.mark.parametrize(
    "initializer",
    ["orthogonal", keras.initializers.Orthogonal(seed=1)],
    ids=["name", "seeded"],
)
def test_recurrent_weights_are_orthogonal_and_all_different(initializer):
    parts = squares(highway(recurrent_initializer=initializer))
    assert len(parts) == 2 * DEPTH
    for k, part in enumerate(parts):
        np.testing.assert_allclose(part @ part.T, np.eye(UNITS), atol=1e-5)
        assert not any(np.allclose(part, other) for other in parts[:k])


def test_a_seeded_layer_starts_the_same_twice():
    options = {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=1),
        "recurrent_initializer": keras.initializers.Orthogonal(seed=1),
        "bias_initializer": keras.initializers.RandomNormal(seed=1),
    }
    first, second = (highway(**options) for _ in range(2))
    close(first.cell.get_weights(), second.cell.get_weights(), 0)


def test_gates_start_at_the_transform_bias():
    for options, expected in (({}, -2.0), ({"transform_bias": -4}, -4.0)):
        for bias in highway(bias_initializer="ones", **options).cell.biases:
            np.testing.assert_array_equal(bias, [1] * UNITS + [expected] * UNITS)
    cell = RecurrentHighwayCell(2, 1)
    cell.build((None, 3))
    np.testing.assert_array_equal(cell.biases[0], [0, 0, -2, -2])


def test_penalties_count_every_depth():
    layer = highway(
        kernel_regularizer=keras.regularizers.L1(0.1),
        recurrent_regularizer=keras.regularizers.L2(0.2),
        bias_regularizer=keras.regularizers.L1(0.3),
        activity_regularizer=keras.regularizers.L1(0.4),
    )
    output = array(layer(normal((1, 2, FEATURES))))
    kernel, *rest = layer.cell.get_weights()
    recurrent, biases = rest[:DEPTH], rest[DEPTH : 2 * DEPTH]
    expected = 0.1 * np.abs(kernel).sum() + 0.4 * np.abs(output).sum()
    expected += 0.2 * sum((w**2).sum() for w in recurrent)
    expected += 0.3 * sum(np.abs(b).sum() for b in biases)
    assert float(array(sum(layer.losses))) == pytest.approx(expected, rel=1e-5)


def test_constraints_hold_for_every_depth():
    constraint = keras.constraints.MaxNorm(0.1)
    layer = highway(
        **{f"{w}_constraint": constraint for w in ("kernel", "recurrent", "bias")}
    )
    optimizer = keras.optimizers.SGD(0.0)
    optimizer.build(layer.trainable_variables)
    optimizer.apply([ops.zeros_like(v.value) for v in layer.trainable_variables])
    for variable in layer.trainable_variables:
        assert np.linalg.norm(array(variable), axis=0).max() < 0.101


# Dropout.

RATES = {"dropout": 0.3, "recurrent_dropout": 0.4}


@pytest.mark.parametrize("nested", [False, True])
def test_dropout_is_that_of_the_equations(nested):
    masks = {}
    for seed, (name, shape) in enumerate(
        {"dropout": (2, FEATURES), "recurrent_dropout": (2, UNITS)}.items()
    ):
        kept = np.random.default_rng(seed).random(shape) >= RATES[name]
        masks[name] = (kept / (1 - RATES[name])).astype("float32")
    ours = highway(**RATES, **ALL)
    if nested:
        layer = layers.RNN(RecurrentHighwayCell(UNITS, DEPTH, **RATES), **ALL)
        layer.build((None, None, FEATURES))
        layer.cell.set_weights(ours.cell.get_weights())
        constant = {k: ops.convert_to_tensor(m) for k, m in masks.items()}
        layer.cell.get_dropout_mask = lambda like: constant["dropout"]
        layer.cell.get_recurrent_dropout_mask = lambda like: constant[
            "recurrent_dropout"
        ]
    else:
        layer = ours
        drawn = {rate: masks[name] for name, rate in RATES.items()}
        layer.cell.draw_mask = lambda like, rate: ops.reshape(drawn[rate], like.shape)
    x, state = normal((2, 4, FEATURES)), normal((2, UNITS), 1)
    weights = ours.cell.get_weights()[: 1 + 2 * DEPTH]
    kept = {"input_mask": masks["dropout"], "state_mask": masks["recurrent_dropout"]}
    close(
        layer(x, initial_state=state, training=True),
        list(forward(weights, DEPTH, x, state, **kept)),
    )
    close(layer(x, initial_state=state), list(forward(weights, DEPTH, x, state)))


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("nested", [False, True])
def test_masks_are_the_same_for_all_steps_and_depths_but_new_for_each_call(
    name, nested
):
    """With open gates and identities the output is a power of the mask."""
    units, time = 64, 3
    depth = 1 if name == "dropout" else 2
    arguments = {
        "activation": "linear",
        "transform_bias": 1000,
        "kernel_initializer": "identity" if name == "dropout" else "zeros",
        "recurrent_initializer": "zeros" if name == "dropout" else "identity",
        "seed": 1,
        name: 0.5,
    }
    if nested:
        cell = RecurrentHighwayCell(units, depth, **arguments)
        layer = layers.RNN(cell, return_sequences=True)
    else:
        layer = RecurrentHighway(units, depth, return_sequences=True, **arguments)
    x, state = np.ones((2, time, units), "float32"), np.ones((2, units), "float32")
    first, second = (
        array(layer(x, initial_state=state, training=True)) for _ in range(2)
    )
    for t in range(time):
        power = 1 if name == "dropout" else depth * (t + 1)
        assert set(np.unique(first[:, t])) == {0.0, 2.0**power}
    assert ((first > 0) == (first[:, :1] > 0)).all()
    assert 0.3 < (first[:, -1] == 0).mean() < 0.7
    assert not (first[0] == first[1]).all()
    assert not (first == second).all()


def test_equal_seeds_drop_the_same():
    first, second = (highway(seed=3, **RATES) for _ in range(2))
    second.set_weights(first.get_weights())
    x = normal((2, 4, FEATURES))
    dropped = first(x, training=True)
    close(dropped, second(x, training=True), 0)
    assert not np.allclose(array(dropped), array(first(x)))


def test_nothing_is_drawn_outside_training():
    ours = highway(**RATES)
    before = array(ours.cell.seed_generator.state)
    ours(normal((2, 4, FEATURES)))
    np.testing.assert_array_equal(array(ours.cell.seed_generator.state), before)


def test_half_precision_does_not_change_the_share_dropped():
    cell = RecurrentHighwayCell(2, 1, dtype="mixed_bfloat16", seed=1)
    mask = cell.draw_mask(ops.zeros((512, 512), dtype="bfloat16"), 0.15)
    assert keras.backend.standardize_dtype(mask.dtype) == "bfloat16"
    assert (array(mask) == 0).mean() == pytest.approx(0.15, abs=0.003)


# Precision and compilation.


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_precision_follows_the_policy(policy):
    ours = highway(dtype=policy, **ALL)
    x, mask = normal((2, 4, FEATURES)), sequence_mask("holes")
    returned = ours(x, mask=mask)
    policy = keras.dtype_policies.get(policy)
    for tensor in returned:
        assert keras.backend.standardize_dtype(tensor.dtype) == policy.compute_dtype
    assert {v.dtype for v in ours.trainable_variables} == {"float32"}
    expected = forward(ours.cell.get_weights(), DEPTH, x, mask=mask)
    close(returned, list(expected), 3e-2)


class Batches(keras.utils.PyDataset):
    """Is there a 3 among the words? In batches of two sizes and lengths."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        shape = (32, 5) if index % 2 else (24, 6)
        x = np.random.default_rng(index).integers(0, 9, shape)
        return x, (x == 3).any(axis=1, keepdims=True).astype("float32")


def test_learns_in_fit_with_masks_dropout_any_length_and_half_precision():
    rates = {"dropout": 0.1, "recurrent_dropout": 0.1, "seed": 1}
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(9, FEATURES, mask_zero=True),
            RecurrentHighway(8, 2, dtype="mixed_bfloat16", **rates),
            layers.Dense(1),
        ]
    )
    # JAX is slow without XLA, TensorFlow is slow to compile for it.
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=BACKEND == "jax")
    losses = model.fit(Batches(), epochs=8, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    x = Batches()[0][0]
    close(model.predict_on_batch(x), model(x), 1e-2)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch would need a C++ compiler")
def test_learns_when_compiled_by_xla():
    model = keras.Sequential([keras.Input((None, 2)), highway(2, 3, 2)])
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=True)
    x, y = normal((4, 3, 2)), 0.5 * np.ones((4, 3), "float32")
    losses = model.fit(x, y, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]


# Configurations and files.


def everything():
    """The arguments, each away from its default."""
    return {
        "units": 4,
        "depth": 2,
        "activation": "relu",
        "recurrent_activation": "hard_sigmoid",
        "use_bias": False,
        "kernel_initializer": keras.initializers.RandomNormal(0.1, 0.2, seed=3),
        "recurrent_initializer": "glorot_normal",
        "bias_initializer": keras.initializers.Constant(0.5),
        "transform_bias": -3.5,
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "recurrent_regularizer": "l1",
        "bias_regularizer": keras.regularizers.L1L2(0.1, 0.2),
        "kernel_constraint": keras.constraints.MaxNorm(3),
        "recurrent_constraint": "non_neg",
        "bias_constraint": keras.constraints.UnitNorm(),
        "dropout": 0.1,
        "recurrent_dropout": 0.2,
        "seed": 7,
        "name": "all_of_it",
        "trainable": False,
        "dtype": "mixed_bfloat16",
    }


OF_THE_LAYER = {
    "activity_regularizer": keras.regularizers.L2(0.3),
    "return_sequences": True,
    "return_state": True,
    "go_backwards": True,
    "stateful": True,
    "unroll": True,
    "zero_output_for_mask": True,
}


@pytest.mark.parametrize(
    ("made", "more"),
    [(RecurrentHighwayCell, {}), (RecurrentHighway, OF_THE_LAYER)],
    ids=["cell", "layer"],
)
def test_configuration_round_trip_keeps_every_argument(made, more):
    layer = made(**everything(), **more)
    config = layer.get_config()
    again = made.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    default = made(1, 1).get_config()
    assert {name for name, value in default.items() if config[name] == value} == set()
    assert config.keys() == everything().keys() | more.keys()
    for name in config.keys() - {"seed", "dtype"}:
        assert type(getattr(again, name)) is type(getattr(layer, name)), name
    assert again.kernel_regularizer.l2 == pytest.approx(0.1)
    assert again.transform_bias == -3.5
    assert again.compute_dtype == "bfloat16"


def model_of_two():
    return keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            RecurrentHighway(6, 3, return_sequences=True, name="highway"),
            layers.Bidirectional(RecurrentHighway(4, 2)),
            layers.Reshape((2, 4)),
            layers.RNN(RecurrentHighwayCell(3, 2)),
        ]
    )


def test_clone_of_a_model():
    model = model_of_two()
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    x = normal((2, 4, FEATURES))
    close(clone(x), model(x), 0)


def test_saved_and_loaded_model_is_the_same(tmp_path):
    model = model_of_two()
    # No two weights alike, so that none may take another's place.
    model.set_weights([normal(w.shape, k) for k, w in enumerate(model.get_weights())])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = normal((2, 4, FEATURES))
    close(loaded(x), model(x), 0)
    config = model.get_layer("highway").get_config()
    assert loaded.get_layer("highway").get_config() == config


def test_frozen_weights_are_frozen_at_every_depth():
    layer = highway()
    assert len(layer.trainable_variables) == 1 + 2 * DEPTH
    layer.trainable = False
    assert layer.trainable_variables == []


# What is wrong is said when the layer is made or built.

WRONG = {
    "no units": {"units": 0},
    "half a unit": {"units": 4.5},
    "no depth": {"depth": 0},
    "negative depth": {"depth": -1},
    "half a depth": {"depth": 1.5},
    "depth of a flag": {"depth": True},
    "depth of a list": {"depth": [1, 2]},
    "bias of a word": {"transform_bias": "zeros"},
    "no bias": {"transform_bias": None},
    "endless bias": {"transform_bias": float("inf")},
    "too much dropout": {"dropout": 1.0},
    "negative dropout": {"recurrent_dropout": -0.1},
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("made", [RecurrentHighway, RecurrentHighwayCell])
def test_wrong_arguments_are_named(made, case):
    ((name, value),) = WRONG[case].items()
    with pytest.raises(ValueError, match=f"`{name}` must"):
        made(**{"units": 4, "depth": 2, name: value})


def test_numbers_may_be_those_of_numpy():
    layer = RecurrentHighway(np.int64(4), np.int32(2), transform_bias=np.float32(-1))
    config = json.loads(json.dumps(layer.get_config()))
    assert (config["units"], config["depth"], config["transform_bias"]) == (4, 2, -1.0)


def test_inputs_and_states_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="number of input features"):
        highway(features=None)
    ours = highway()
    with pytest.raises(ValueError, match="incompatible with the layer"):
        ours(normal((2, 4, FEATURES + 1)))
    with pytest.raises(ValueError, match="expected ndim=3"):
        RecurrentHighway(4, 2)(normal((2, FEATURES)))
    x, state = normal((2, 4, FEATURES)), normal((2, UNITS))
    for wrong in (normal((2, 1)), [state, state]):
        with pytest.raises(ValueError, match=f"`initial_state` must .* {UNITS}"):
            ours(x, initial_state=wrong)
    symbolic = keras.Input((4, FEATURES)), keras.Input((UNITS + 1,))
    with pytest.raises(ValueError, match=f"`initial_state` must .* {UNITS}"):
        RecurrentHighway(UNITS, DEPTH)(symbolic[0], initial_state=symbolic[1])
