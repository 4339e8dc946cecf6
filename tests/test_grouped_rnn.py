"""Grouped layers of every kind against a dense stock layer with zeros.

The stock layer runs on the same backend, so that what backends do differently, such as
the outputs of masked steps, is the same on both sides.
"""

import gc
import json
import weakref

import conftest
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from wirings import (
    BACKEND,
    CELLS,
    FEATURES,
    KINDS,
    MASKS,
    OPTIONS,
    OURS,
    STATES,
    STOCK_CELLS,
    UNITS,
    WIRINGS,
    array,
    close,
    dense_twin,
    gradients,
    grouped_layer,
    normal,
    own_arguments,
    pair,
    same_gradients,
    scattered,
    sequence_mask,
    states_of,
    stock_layer,
)

from keras_sparse_rnn.layers import segments


def unless_jax(everything, some):
    """JAX compiles each call anew; there, some of the cases stand for all."""
    return some if BACKEND == "jax" else list(everything)


every_kind = pytest.mark.parametrize("kind", KINDS)
some_kinds = pytest.mark.parametrize("kind", unless_jax(KINDS, ["lstm", "gru"]))


@conftest.crossed("wiring", unless_jax(WIRINGS, ["uneven", "explicit"]), KINDS)
def test_equals_dense(kind, wiring):
    ours, dense = pair(kind, wiring, return_sequences=True, return_state=True)
    x = normal((2, 4, FEATURES))
    close(ours(x), dense(x))


@conftest.crossed("options", unless_jax(OPTIONS, ["backwards"]), KINDS)
def test_equals_dense_with_every_option(kind, options):
    ours, dense = pair(kind, **OPTIONS[options])
    x, state = normal((2, 4, FEATURES)), states_of(kind)
    close(ours(x, initial_state=state), dense(x, initial_state=state))


@conftest.crossed(
    "options", unless_jax(["state", "backwards", "unrolled"], ["state"]), KINDS
)
def test_equals_dense_under_a_mask(kind, options):
    mask = np.array([row for rows in MASKS.values() for row in rows], bool)
    ours, dense = pair(kind, **OPTIONS[options])
    x, state = normal((8, 4, FEATURES)), states_of(kind, batch=8)
    close(ours(x, mask=mask), dense(x, mask=mask))
    close(
        ours(x, mask=mask, initial_state=state),
        dense(x, mask=mask, initial_state=state),
    )


@conftest.crossed(
    "options", unless_jax(["sequences", "last and state"], ["sequences"]), KINDS
)
def test_zero_output_for_mask_equals_dense(kind, options):
    options = {**OPTIONS[options], "zero_output_for_mask": True}
    ours, dense = pair(kind, **options)
    x, mask = normal((2, 4, FEATURES)), sequence_mask("holes")
    close(ours(x, mask=mask), dense(x, mask=mask))


@some_kinds
@pytest.mark.parametrize(
    "wiring", unless_jax(["windows", "a unit a group"], ["windows"])
)
def test_an_activation_across_units_equals_dense(kind, wiring):
    # A softmax needs the units of all groups, however they are arranged.
    ours, dense = pair(kind, wiring, activation="softmax")
    x, state = normal((2, 4, FEATURES)), states_of(kind)
    close(ours(x, initial_state=state), dense(x, initial_state=state))
    same_gradients(ours, dense, x, state)


class Squash:
    """An activation of a user's own, of which there is no hash."""

    __hash__ = None

    def __call__(self, x):
        return ops.tanh(x)


@some_kinds
def test_an_activation_may_be_anything_that_can_be_called(kind):
    ours, _ = pair(kind, activation=Squash())
    usual = grouped_layer(kind)
    usual.build((None, None, FEATURES))
    usual.set_weights(ours.get_weights())
    x = normal((2, 4, FEATURES))
    close(ours(x, training=True), usual(x, training=True))


@some_kinds
@pytest.mark.parametrize(
    "wiring", unless_jax(["windows", "a unit a group"], ["windows"])
)
def test_one_initial_state_may_serve_all_examples(kind, wiring):
    ours, dense = pair(kind, wiring, return_state=True)
    x, state = normal((3, 4, FEATURES)), states_of(kind, batch=1)
    all_states = keras.tree.map_structure(lambda one: np.repeat(one, 3, 0), state)
    close(ours(x, initial_state=state), dense(x, initial_state=all_states))
    weights = [normal((3, UNITS), seed) for seed in range(1 + STATES[kind])]
    found = gradients(ours, x, state, weights)
    expected = gradients(ours, x, all_states, weights)
    # The gradient of the one state is the sum of those of all.
    end = 1 + STATES[kind]
    summed = [g.sum(0, keepdims=True) for g in expected[1:end]]
    close(found, [expected[0], *summed, *expected[end:]], 1e-4)


def test_a_mask_may_have_an_axis_for_the_features():
    ours, _ = pair("lstm", return_sequences=True)
    x, mask = normal((2, 4, FEATURES)), sequence_mask("holes")
    close(ours(x, mask=mask[..., None]), ours(x, mask=mask), 0)


@st.composite
def cases(draw):
    """A kind, what the layer is made with, and what it is called with."""
    units, features = draw(st.integers(1, 9)), draw(st.integers(1, 8))
    # Cut at random places: sizes that are alike, and sizes that are not.
    cuts = sorted(draw(st.sets(st.integers(1, units), max_size=min(4, features) - 1)))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, units], strict=True) if b > a]
    groups = draw(st.sampled_from([len(sizes), sizes]))
    density = draw(st.floats(1 / len(sizes), 1)) if len(sizes) > 1 else 1.0
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    row = st.lists(st.booleans(), min_size=time, max_size=time)
    mask = draw(st.none() | st.lists(row, min_size=batch, max_size=batch))
    options = {
        name: draw(st.booleans())
        for name in (
            "return_sequences",
            "return_state",
            "go_backwards",
            "use_bias",
            "zero_output_for_mask",
        )
    }
    return (
        draw(st.sampled_from(KINDS)),
        {"groups": groups, "input_density": density},
        options,
        (units, features, batch, time),
        None if mask is None else np.array(mask, bool),
    )


@given(case=cases(), stacked=st.booleans())
@settings(max_examples={"tensorflow": 14, "jax": 2, "torch": 14}[BACKEND])
def test_any_layer_equals_its_dense_form_in_values_and_gradients(case, stacked):
    kind, wiring, options, (units, features, batch, time), mask = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "worth_stacking", lambda *_, **__: stacked)
        ours, dense = pair(kind, wiring, features, units, **options)
        x, state = normal((batch, time, features)), states_of(kind, batch, units)
        close(ours(x, mask=mask), dense(x, mask=mask))
        same_gradients(ours, dense, x, state, mask)


@some_kinds
def test_bidirectional_equals_dense(kind):
    ours, dense = pair(kind, return_sequences=True)
    both, stock = layers.Bidirectional(ours), layers.Bidirectional(dense)
    both.build((None, None, FEATURES))
    stock.build((None, None, FEATURES))
    for grouped, twin in (
        (both.forward_layer, stock.forward_layer),
        (both.backward_layer, stock.backward_layer),
    ):
        twin.set_weights(scattered(grouped.get_weights(), grouped))
    assert not np.allclose(
        both.forward_layer.get_weights()[0], both.backward_layer.get_weights()[0]
    )
    x, mask = normal((2, 4, FEATURES)), sequence_mask("holes")
    close(both(x, mask=mask), stock(x, mask=mask))


@some_kinds
def test_time_distributed_equals_dense(kind):
    ours, dense = pair(kind)
    x = normal((2, 3, 4, FEATURES))
    close(layers.TimeDistributed(ours)(x), layers.TimeDistributed(dense)(x))


@every_kind
def test_stateful_equals_dense_over_batches_and_resets(kind):
    options = {"stateful": True, "return_sequences": True}
    ours = grouped_layer(kind, **options)
    x, y = normal((2, 4, FEATURES)), normal((2, 4, FEATURES), 1)
    first = ours(x, training=True)
    dense = dense_twin(kind, ours, batch=2, **options)
    close(first, dense(x))
    close(ours(y, training=True), dense(y))
    close(ours.states, dense.states)
    assert not np.allclose(array(ours(x)), array(first))
    ours.reset_state()
    close(ours(x), first)


@some_kinds
def test_groups_do_not_see_each_other(kind):
    layer = grouped_layer(
        kind,
        {"groups": [2, 4], "input_density": 0.5},
        6,
        return_sequences=True,
        use_bias=False,
    )
    x = normal((1, 4, 6))
    before = array(layer(x))
    weights = layer.get_weights()
    layer.set_weights([*weights[:2], *[w + 1 for w in weights[2:]]])
    close(layer(x)[..., :2], before[..., :2], 0)
    assert np.abs(array(layer(x))[..., 2:] - before[..., 2:]).min() > 1e-3
    changed = np.copy(x)
    changed[..., 3:] = 0
    close(layer(changed)[..., :2], before[..., :2], 0)


# With one group the layer is the stock layer.


@some_kinds
def test_one_group_has_the_weights_of_the_stock_layer(kind):
    ours, stock = grouped_layer(kind, "one"), stock_layer(kind)
    x = normal((2, 4, FEATURES))
    ours(x), stock(x)
    stock.set_weights(ours.get_weights())
    close(ours(x), stock(x))
    ours.set_weights([w + 0.1 for w in stock.get_weights()])
    stock.set_weights(ours.get_weights())
    close(ours(x), stock(x))


@every_kind
def test_one_seeded_group_starts_as_the_stock_layer_does(kind):
    seeded = {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=3),
        "recurrent_initializer": keras.initializers.Orthogonal(seed=4),
    }
    ours, stock = grouped_layer(kind, "one", **seeded), stock_layer(kind, **seeded)
    ours.build((None, None, FEATURES))
    stock.build((None, None, FEATURES))
    close(ours.get_weights(), stock.get_weights(), 0)


INITIALIZERS = {
    "default": {},
    "name": {"kernel_initializer": "he_normal"},
    "instance": {"kernel_initializer": keras.initializers.RandomNormal()},
    "seeded": {
        "kernel_initializer": keras.initializers.RandomNormal(seed=1),
        "recurrent_initializer": keras.initializers.Orthogonal(seed=1),
    },
    "seed generator": {
        "kernel_initializer": keras.initializers.RandomNormal(
            seed=keras.random.SeedGenerator(1)
        ),
    },
    "config": {
        "kernel_initializer": {
            "class_name": "RandomNormal",
            "config": {"mean": 0.0, "stddev": 0.1, "seed": 5},
        }
    },
}


@pytest.mark.parametrize("how", INITIALIZERS)
def test_groups_do_not_share_weights(how):
    layer = grouped_layer("lstm", {"groups": 3}, 12, **INITIALIZERS[how])
    layer.build((None, None, FEATURES))
    weights = layer.get_weights()
    assert len(layer.trainable_variables) == 9
    assert len({id(v) for v in layer.trainable_variables}) == 9
    for kind_of_weight in (0, 1):
        drawn = weights[kind_of_weight::3]
        for g in range(3):
            assert not np.allclose(drawn[g], drawn[g - 1])


@every_kind
def test_a_seeded_layer_starts_the_same_twice(kind):
    first, second = (
        grouped_layer(kind, kernel_initializer=keras.initializers.RandomNormal(seed=1))
        for _ in range(2)
    )
    for layer in (first, second):
        layer.build((None, None, FEATURES))
    close(first.get_weights()[0::3], second.get_weights()[0::3], 0)


@every_kind
def test_the_recurrent_kernel_of_each_group_is_orthogonal(kind):
    layer = grouped_layer(kind, {"groups": [4, 5]}, 9)
    layer.build((None, None, FEATURES))
    for size, recurrent in zip([4, 5], layer.get_weights()[1::3], strict=True):
        np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(size), atol=1e-5)


EVERY_INITIALIZER = sorted(
    name
    for name in dir(keras.initializers)
    # Those that are for kernels of another shape, and the base class.
    if name[0].isupper() and name not in ("Initializer", "STFT", "STFTInitializer")
)


@pytest.mark.parametrize("name", EVERY_INITIALIZER)
def test_every_initializer_acts_on_each_group(name):
    initializer = getattr(keras.initializers, name)()
    options = {
        f"{weight}_initializer": initializer for weight in ("kernel", "recurrent")
    }
    layer = grouped_layer("simple", {"groups": [3, 3]}, 6, **options)
    layer.build((None, None, FEATURES))
    assert [w.shape for w in layer.get_weights()] == [(5, 3), (3, 3), (3,)] * 2
    twin = layers.SimpleRNN(3, **options)
    twin.build((None, None, FEATURES))
    for ours, stock in zip(
        layer.get_weights()[:2], twin.get_weights()[:2], strict=True
    ):
        # An unseeded one draws other values; what it draws from is the same.
        assert abs(np.std(ours) - np.std(stock)) < 0.6
        assert (np.ptp(ours) == 0) == (np.ptp(stock) == 0)


REGULARIZERS = {
    "l1": "l1",
    "l2": keras.regularizers.L2(0.5),
    "both": keras.regularizers.L1L2(0.1, 0.2),
    "orthogonal": keras.regularizers.OrthogonalRegularizer(0.3),
}


@every_kind
@pytest.mark.parametrize("name", REGULARIZERS)
def test_every_regularizer_acts_on_each_group(kind, name):
    regularizer = keras.regularizers.get(REGULARIZERS[name])
    layer = grouped_layer(
        kind, kernel_regularizer=regularizer, recurrent_regularizer=regularizer
    )
    layer(normal((1, 2, FEATURES)))
    expected = [
        float(array(regularizer(ops.convert_to_tensor(w))))
        for k, w in enumerate(layer.get_weights())
        if k % 3 < 2
    ]
    assert float(array(sum(layer.losses))) == pytest.approx(sum(expected), rel=1e-5)


def test_biases_and_outputs_have_regularizers_too():
    layer = grouped_layer(
        "gru",
        bias_initializer="ones",
        bias_regularizer=keras.regularizers.L1(1.0),
        activity_regularizer=keras.regularizers.L1(1.0),
    )
    output = layer(normal((1, 2, FEATURES)))
    expected = 2 * 3 * UNITS + float(np.abs(array(output)).sum())
    assert float(array(sum(layer.losses))) == pytest.approx(expected, rel=1e-5)


CONSTRAINTS = {
    "max norm": keras.constraints.MaxNorm(0.1),
    "min max norm": keras.constraints.MinMaxNorm(0.2, 0.3),
    "non negative": "non_neg",
    "unit norm": "unit_norm",
}


@every_kind
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_constraint_acts_on_each_group(kind, name):
    constraint = keras.constraints.get(CONSTRAINTS[name])
    layer = grouped_layer(
        kind,
        kernel_constraint=constraint,
        recurrent_constraint=constraint,
        bias_constraint=constraint,
    )
    layer.build((None, None, FEATURES))
    assert all(v.constraint is not None for v in layer.weights)
    before = layer.get_weights()
    optimizer = keras.optimizers.SGD(0.0)
    optimizer.build(layer.trainable_variables)
    optimizer.apply([ops.zeros_like(v.value) for v in layer.trainable_variables])
    close(layer.get_weights(), [constraint(ops.convert_to_tensor(w)) for w in before])


def test_frozen_weights_are_frozen_in_every_group():
    layer = grouped_layer("gru")
    layer(normal((1, 2, FEATURES)))
    assert len(layer.trainable_variables) == 9
    layer.trainable = False
    assert layer.trainable_variables == []


# Dropout.


def fixed_masks(layer):
    """Makes a layer's dropout masks depend on their shapes alone, and shows them.

    Returns:
        A function of shape and rate, with the mask as an array.
    """

    def mask(shape, rate):
        kept = np.random.default_rng(sum(shape)).random(shape) >= rate
        return kept.astype("float32") / np.float32(1 - rate)

    layer.cell.draw_mask = lambda like, rate: ops.convert_to_tensor(
        mask(tuple(like.shape), rate)
    )
    return mask


def with_masks(stock, inputs, recurrent):
    """Makes a stock layer take these dropout masks in place of drawn ones."""
    count = getattr(stock.cell, "dropout_mask_count", None)

    def constant(mask):
        mask = ops.convert_to_tensor(mask)
        return lambda like: mask if count is None else [mask] * count

    stock.cell.get_dropout_mask = constant(inputs)
    stock.cell.get_recurrent_dropout_mask = constant(recurrent)


@some_kinds
@pytest.mark.parametrize("wiring", unless_jax(["sizes", "uneven"], ["sizes"]))
def test_all_dropouts_equal_those_of_the_dense_layer(kind, wiring):
    rates = {"dropout": 0.3, "recurrent_dropout": 0.4}
    options = {"return_sequences": True, "return_state": True}
    ours = grouped_layer(kind, wiring, weight_drop=0.5, **rates, **options)
    ours.build((None, None, FEATURES))
    mask = fixed_masks(ours)
    kept = [
        mask(w.shape, 0.5) if k % 3 == 1 else np.ones_like(w)
        for k, w in enumerate(ours.cell.get_weights())
    ]
    dropped = [w * m for w, m in zip(ours.cell.get_weights(), kept, strict=True)]
    dense = dense_twin(kind, ours, weights=dropped, **rates, **options)
    with_masks(dense, mask((2, 1, FEATURES), 0.3)[:, 0], mask((2, UNITS), 0.4))
    x, state = normal((2, 4, FEATURES)), states_of(kind)
    close(
        ours(x, initial_state=state, training=True),
        dense(x, initial_state=state, training=True),
    )
    same_gradients(ours, dense, x, state, kept=kept)
    # And none of it without training.
    close(ours(x), dense_twin(kind, ours, **options)(x))


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout", "weight_drop"])
@pytest.mark.parametrize("nested", [False, True])
def test_masks_are_the_same_for_all_steps_and_new_for_each_call(name, nested):
    """A linear recurrence on identities, whose output is a power of the mask."""
    units, time = 64, 4
    arguments = {
        "groups": 1,
        "activation": "linear",
        "use_bias": False,
        "kernel_initializer": "identity" if name == "dropout" else "zeros",
        "recurrent_initializer": "zeros" if name == "dropout" else "identity",
        "seed": 1,
        name: 0.5,
    }
    if nested:
        cell = CELLS["simple"](units, **arguments)
        layer = layers.RNN(cell, return_sequences=True)
    else:
        layer = OURS["simple"](units, return_sequences=True, **arguments)
    x, state = np.ones((2, time, units), "float32"), np.ones((2, units), "float32")
    first, second = (
        array(layer(x, initial_state=state, training=True)) for _ in range(2)
    )
    power = np.full(time, 1) if name == "dropout" else np.arange(1, time + 1)
    for t in range(time):
        assert set(np.unique(first[:, t])) == {0.0, 2.0 ** power[t]}
    assert ((first > 0) == (first[:, :1] > 0)).all()
    assert 0.3 < (first[:, -1] == 0).mean() < 0.7
    # Weights are dropped for all examples alike, inputs and outputs for each its own.
    assert (first[0] == first[1]).all() == (name == "weight_drop")
    assert not (first == second).all()


def test_equal_seeds_drop_the_same():
    options = {"dropout": 0.3, "recurrent_dropout": 0.4, "weight_drop": 0.5, "seed": 3}
    first, second = (grouped_layer("gru", **options) for _ in range(2))
    x = normal((2, 4, FEATURES))
    for layer in (first, second):
        layer.build(x.shape)
    second.set_weights(first.get_weights())
    close(first(x, training=True), second(x, training=True), 0)


# Cells, one step at a time.


def stock_cell(kind, cell, **options):
    """A stock cell with the weights of a grouped one, built, and zeros elsewhere."""
    stock = STOCK_CELLS[kind](cell.units, **own_arguments(kind, options))
    stock.build((None, max(end for _, end in cell.input_segments)))
    stock.set_weights(scattered(cell.get_weights(), cell))
    return stock


def grouped_cell(kind, wiring, units=UNITS, features=FEATURES, **options):
    cell = CELLS[kind](units, **own_arguments(kind, {**WIRINGS[wiring], **options}))
    cell.build((None, features))
    return cell


@every_kind
@pytest.mark.parametrize("wiring", unless_jax(["windows", "sizes"], ["windows"]))
def test_a_cell_in_an_rnn_equals_dense(kind, wiring):
    cell = grouped_cell(kind, wiring, bias_initializer="random_normal")
    options = {"return_sequences": True, "return_state": True}
    ours = layers.RNN(cell, **options)
    stock = layers.RNN(stock_cell(kind, cell), **options)
    x, state, mask = normal((2, 4, FEATURES)), states_of(kind), sequence_mask("holes")
    close(
        ours(x, mask=mask, initial_state=state),
        stock(x, mask=mask, initial_state=state),
    )


@some_kinds
def test_a_cell_has_the_weights_of_its_layer(kind):
    ours, _ = pair(kind, "sizes", return_sequences=True)
    nested = layers.RNN(grouped_cell(kind, "sizes"), return_sequences=True)
    x = normal((2, 4, FEATURES))
    nested.build(x.shape)
    nested.set_weights(ours.get_weights())
    close(nested(x), ours(x))


@some_kinds
def test_stacked_cells_equal_dense(kind):
    cells = [
        grouped_cell(kind, "windows"),
        grouped_cell(kind, "sizes", features=UNITS),
    ]
    ours = layers.RNN(layers.StackedRNNCells(cells), return_sequences=True)
    stock = layers.RNN(
        layers.StackedRNNCells([stock_cell(kind, cell) for cell in cells]),
        return_sequences=True,
    )
    x, mask = normal((2, 4, FEATURES)), sequence_mask("holes")
    close(ours(x, mask=mask), stock(x, mask=mask))


@pytest.mark.parametrize("kind", conftest.often(["lstm", "gru", "simple"], "gru"))
def test_cells_with_every_dropout_train(kind):
    rates = {"dropout": 0.2, "recurrent_dropout": 0.2, "weight_drop": 0.2}
    cells = [CELLS[kind](6, 2, **own_arguments(kind, rates)) for _ in range(2)]
    model = keras.Sequential(
        [keras.Input((None, FEATURES)), layers.RNN(layers.StackedRNNCells(cells))]
    )
    model.compile("sgd", "mse", jit_compile=BACKEND == "jax")
    before = model.get_weights()
    model.train_on_batch(normal((2, 3, FEATURES)), normal((2, 6), 1))
    after = model.get_weights()
    assert all(
        not np.array_equal(a, b) for a, b in zip(before, after, strict=True) if a.size
    )
    x = normal((2, 3, FEATURES))
    close(model.predict_on_batch(x), model.predict_on_batch(x), 0)


# Precision, shapes and compilation.


@conftest.crossed(
    "policy",
    unless_jax(["mixed_float16", "mixed_bfloat16", "float64"], ["mixed_bfloat16"]),
    KINDS,
)
def test_precision_follows_the_policy(kind, policy):
    ours = grouped_layer(kind, dtype=policy, return_sequences=True)
    x = normal((2, 4, FEATURES))
    output = ours(x)
    policy = keras.dtype_policies.get(policy)
    assert keras.backend.standardize_dtype(output.dtype) == policy.compute_dtype
    assert {v.dtype for v in ours.trainable_variables} == {policy.variable_dtype}
    dense = dense_twin(kind, ours, return_sequences=True)
    tolerance = 1e-5 if policy.name == "float64" else 3e-2
    close(output, dense(x), tolerance)
    if policy.name != "float64":
        same_gradients(ours, dense, x, None, sequence_mask("holes"), 5e-2)


def test_precision_under_a_global_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        ours = grouped_layer("gru")
        output = ours(normal((1, 2, FEATURES)))
        assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
        assert ours.trainable_variables[0].dtype == "float32"
    finally:
        keras.config.set_dtype_policy(before)


@conftest.crossed("options", ["defaults", "state", "last and state", "unrolled"], KINDS)
def test_symbolic_shapes_are_those_of_the_stock_layer(kind, options):
    # A loop of unknown length can't be unrolled.
    time = 4 if options == "unrolled" else None
    symbolic = keras.Input((time, FEATURES))
    ours = grouped_layer(kind, **OPTIONS[options])
    stock = stock_layer(kind, **OPTIONS[options])
    shapes = [
        [tuple(t.shape) for t in keras.tree.flatten(layer(symbolic))]
        for layer in (ours, stock)
    ]
    assert shapes[0] == shapes[1]
    declared = ours.compute_output_shape((None, time, FEATURES))
    assert declared == stock.compute_output_shape((None, time, FEATURES))


def kept_sparse(layer, dense):
    """Makes a dense twin stay one: its missing weights are zero after each step."""
    ones = [np.ones_like(w) for w in layer.cell.get_weights()]
    kernel, *rest = scattered(ones, layer)
    kernel = np.pad(kernel, ((0, FEATURES - len(kernel)), (0, 0)))
    for variable, mask in zip(dense.weights, [kernel, *rest], strict=True):
        variable.constraint = lambda value, mask=mask: value * mask


class Batches(keras.utils.PyDataset):
    """Batches of any size and length; zeros among their steps are masked."""

    shapes = ((2, 3), (3, 4))

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, index):
        shape = self.shapes[index]
        x, target = normal((*shape, FEATURES), index), normal((*shape, UNITS), index)
        x[0, 2:] = 0
        return x, target


@pytest.mark.parametrize(
    ("kind", "compiled"),
    [
        *((kind, False) for kind in ["simple"] if BACKEND == "tensorflow"),
        # Compiling takes many seconds; PyTorch does not.
        pytest.param("lstm", BACKEND != "torch", id="lstm"),
        pytest.param("gru", BACKEND != "torch", id="gru", marks=pytest.mark.long),
    ],
)
def test_learns_what_the_dense_layer_learns(kind, compiled):
    ours, dense = pair(kind, return_sequences=True)
    kept_sparse(ours, dense)
    before = ours.get_weights()
    models, losses = [], []
    for layer in (ours, dense):
        # Neither size is known when the training step is traced.
        inputs = keras.Input((None, FEATURES))
        model = keras.Model(inputs, layer(layers.Masking()(inputs)))
        eager = {"jit_compile": False, "run_eagerly": True}
        how = {"jit_compile": compiled} if layer is ours else eager
        model.compile(keras.optimizers.SGD(0.5), "mse", **how)
        history = model.fit(Batches(), shuffle=False, verbose=0).history
        losses.append(history["loss"])
        models.append(model)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    close(scattered(ours.get_weights(), ours), dense.get_weights(), 1e-4)
    for old, new in zip(before, ours.get_weights(), strict=True):
        assert np.abs(new - old).max() > 1e-5
    if not compiled:
        x = Batches()[0][0]
        close(*(model.predict_on_batch(x) for model in models), 1e-4)


def test_unrolled_is_compiled_too():
    ours, dense = pair("lstm", unroll=True)
    inputs = keras.Input((4, FEATURES))
    model = keras.Model(inputs, ours(inputs))
    model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
    x = normal((2, 4, FEATURES))
    close(model.predict_on_batch(x), dense(x))
    before = ours.get_weights()
    model.train_on_batch(x, normal((2, UNITS), 1))
    assert all(
        not np.array_equal(a, b)
        for a, b in zip(before, ours.get_weights(), strict=True)
    )


@pytest.mark.long
def test_learns_in_fit_with_masks_and_every_dropout():
    kind = "lstm"
    rates = {"dropout": 0.1, "recurrent_dropout": 0.1, "weight_drop": 0.1}
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(9, FEATURES, mask_zero=True),
            grouped_layer(kind, {"groups": 2}, 8, return_sequences=True, **rates),
            grouped_layer(kind, {"groups": 4}, 8),
            layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=BACKEND == "jax")
    x = np.random.default_rng(0).integers(0, 9, (64, 6))
    y = (x == 3).any(axis=1).astype("float32")
    losses = model.fit(x, y, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch frees what nothing refers to")
@every_kind
def test_a_training_step_leaves_nothing_behind(kind):
    # Without a mask PyTorch's own loop would run.
    own = {} if kind == "simple" else {"use_cudnn": False}
    ours, _ = pair(kind, return_sequences=True, **own)
    x = ops.convert_to_tensor(normal((2, 4, FEATURES)))
    seen = []
    coefficients = ours.cell.recurrence.coefficients

    def spy(kept, before, *rest):
        seen.extend(weakref.ref(tensor) for tensor in (*kept, *before))
        return coefficients(kept, before, *rest)

    ours.cell.recurrence.coefficients = spy
    gc.collect()
    gc.disable()
    try:
        output = ours(x, training=True)
        output.sum().backward()
        del output
        assert seen
        assert all(tensor() is None for tensor in seen)
    finally:
        gc.enable()


# Configurations and files.


def everything(kind):
    """A layer with every argument away from its default."""
    gated = kind != "simple"
    return grouped_layer(
        kind,
        {"groups": [1, 4, 2], "input_density": 0.75},
        activation="relu",
        use_bias=False,
        kernel_initializer=keras.initializers.RandomNormal(0.1, 0.2, seed=3),
        recurrent_initializer="glorot_normal",
        bias_initializer=keras.initializers.Constant(0.5),
        kernel_regularizer=keras.regularizers.L2(0.1),
        recurrent_regularizer="l1",
        bias_regularizer=keras.regularizers.L1L2(0.1, 0.2),
        activity_regularizer=keras.regularizers.L2(0.3),
        kernel_constraint=keras.constraints.MaxNorm(3),
        recurrent_constraint="non_neg",
        bias_constraint=keras.constraints.UnitNorm(),
        dropout=0.1,
        recurrent_dropout=0.2,
        weight_drop=0.3,
        seed=7,
        return_sequences=True,
        return_state=True,
        go_backwards=True,
        stateful=True,
        unroll=True,
        input_segments=[(0, 4), (1, 3), (2, 5)],
        zero_output_for_mask=True,
        name="all_of_it",
        trainable=False,
        dtype="mixed_bfloat16",
        **(
            {"recurrent_activation": "hard_sigmoid", "use_cudnn": False}
            if gated
            else {}
        ),
        **({"unit_forget_bias": False} if kind == "lstm" else {}),
    )


@every_kind
def test_configuration_round_trip_keeps_every_argument(kind):
    layer = everything(kind)
    config = layer.get_config()
    again = OURS[kind].from_config(config)
    assert again.get_config() == config
    default = grouped_layer("gru" if "gru" in kind else kind, {"groups": 1}, 1)
    unchanged = {
        name for name, value in default.get_config().items() if config[name] == value
    }
    assert unchanged <= ({"reset_after"} if kind == "gru" else set())
    assert config["groups"] == [1, 4, 2]
    assert config["input_segments"] == [[0, 4], [1, 3], [2, 5]]
    for name in ("dropout", "recurrent_dropout", "weight_drop", "seed", "unroll"):
        assert getattr(again.cell if name == "seed" else again, name) == config[name]
    cell = again.cell.cells[1]
    assert cell.kernel_initializer.get_config()["mean"] == 0.1
    assert cell.kernel_regularizer.l2 == pytest.approx(0.1)
    assert cell.kernel_constraint.max_value == 3
    assert again.activity_regularizer.l2 == pytest.approx(0.3)
    assert again.compute_dtype == "bfloat16"


@every_kind
def test_configuration_has_all_arguments_of_the_stock_layer(kind):
    ours = grouped_layer(kind).get_config()
    assert stock_layer(kind).get_config().keys() - ours.keys() == set()
    nested = CELLS[kind](4, 2, **own_arguments(kind, {})).get_config()
    stock = STOCK_CELLS[kind](4, **own_arguments(kind, {})).get_config()
    assert stock.keys() - nested.keys() == set()


@every_kind
def test_attributes_are_those_of_the_stock_layer(kind):
    ours, stock = grouped_layer(kind), stock_layer(kind)
    for name in stock.get_config():
        if name not in ("implementation", "name", "dtype", "seed", "use_cudnn"):
            value = getattr(ours, name)
            assert type(value) is type(getattr(stock, name)), name


def test_clone_of_a_model():
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            grouped_layer("gru", "sizes", return_sequences=True),
            layers.Bidirectional(grouped_layer("simple", {"groups": 2}, 4)),
        ]
    )
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    x = normal((2, 4, FEATURES))
    close(clone(x), model(x), 0)
    assert clone.layers[0].group_sizes == [1, 4, 2]


@pytest.mark.parametrize(
    ("kind", "wiring"),
    unless_jax(
        [*((kind, "sizes") for kind in KINDS), ("gru", "explicit")], [("gru", "sizes")]
    ),
)
def test_saved_and_loaded_model_is_the_same(tmp_path, kind, wiring):
    cells = [CELLS[kind](4, 2, **own_arguments(kind, {})) for _ in range(2)]
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            grouped_layer(kind, wiring, return_sequences=True, name="grouped"),
            layers.RNN(layers.StackedRNNCells(cells)),
        ]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = normal((2, 4, FEATURES))
    close(loaded(x), model(x), 0)
    layer, again = model.get_layer("grouped"), loaded.get_layer("grouped")
    assert again.get_config() == layer.get_config()
    assert again.input_segments == layer.input_segments
    model.save_weights(tmp_path / "w.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "w.weights.h5")
    close(clone(x), model(x), 0)


# What is wrong is said when the layer is made or built.

WRONG = {
    "no units": ({"units": 0}, "`units` must be a positive integer"),
    "half a unit": ({"units": 4.5}, "`units` must be a positive integer"),
    "units of a flag": ({"units": True}, "`units` must be a positive integer"),
    "no groups": ({"groups": 0}, "`groups` must be a positive integer"),
    "more groups than units": ({"groups": 8}, "`groups` must not exceed `units`"),
    "a list of other units": ({"groups": [3, 3]}, "must sum to `units`"),
    "an empty group": ({"groups": [7, 0]}, "`groups` must be a positive integer"),
    "an empty list": ({"groups": []}, "must sum to `units`"),
    "too little density": ({"input_density": 0.2}, r"must lie in \[1/groups, 1\]"),
    "too much density": ({"input_density": 1.1}, r"must lie in \[1/groups, 1\]"),
    "density of a word": ({"input_density": "all"}, "must be a number"),
    "too few segments": ({"input_segments": [(0, 5)]}, "one .* for each group"),
    "an empty segment": ({"input_segments": [(0, 5), (2, 2), (0, 5)]}, "must be a ra"),
    "a segment of one": ({"input_segments": [(0, 5), (2,), (0, 5)]}, "pair of integ"),
    "a number of segments": ({"input_segments": 5}, "one .* for each group"),
    "segments of numbers": ({"input_segments": [1, 2, 3]}, "pair of integers"),
}


@every_kind
@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("made", [OURS, CELLS], ids=["layer", "cell"])
def test_wrong_arguments_are_named(kind, case, made):
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        made[kind](**{"units": UNITS, "groups": 3, **arguments})


@every_kind
@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan"), "half", True])
@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout", "weight_drop"])
def test_an_impossible_rate_is_named(kind, name, rate):
    with pytest.raises(ValueError, match=f"`{name}`.*Received: {name}={rate!r}"):
        OURS[kind](4, 2, **{name: rate})


@every_kind
def test_inputs_that_do_not_suffice_are_named_when_built(kind):
    with pytest.raises(ValueError, match=r"Groups \[0, 2\] would see no input"):
        grouped_layer(kind, {"groups": 4, "input_density": 0.25}).build((None, None, 2))
    with pytest.raises(ValueError, match="reach beyond the 4 input features"):
        grouped_layer(kind, "explicit").build((None, None, 4))
    with pytest.raises(ValueError, match="number of input features"):
        grouped_layer(kind).build((None, None, None))


@pytest.mark.parametrize("kind", conftest.often(KINDS, "lstm", "gru"))
@pytest.mark.parametrize("wiring", ["uneven", "sizes", "explicit"])
@pytest.mark.parametrize("features", [FEATURES - 1, FEATURES + 1])
def test_inputs_of_another_width_are_an_error(kind, wiring, features):
    layer, _ = pair(kind, wiring)
    with pytest.raises(ValueError, match="incompatible with the layer"):
        layer(normal((2, 4, features)))
    with pytest.raises(ValueError, match="incompatible with the layer"):
        layers.RNN(grouped_cell(kind, wiring))(normal((2, 4, features)))


@pytest.mark.parametrize("kind", conftest.often(KINDS, "lstm", "gru"))
@pytest.mark.parametrize("units", [UNITS - 1, 2 * UNITS])
@pytest.mark.parametrize("wiring", ["a unit a group", "sizes"])
def test_a_state_of_other_units_is_an_error(kind, units, wiring):
    layer, _ = pair(kind, wiring)
    x, state = normal((1, 4, FEATURES)), states_of(kind, 1, units)
    with pytest.raises(ValueError, match=r"`initial_state`.*7"):
        layer(x, initial_state=state)
    with pytest.raises(ValueError, match="`initial_state`"):
        layer(x, initial_state=[normal((1, UNITS))] * (STATES[kind] + 1))


@every_kind
def test_a_symbolic_state_of_other_units_is_an_error(kind):
    states = [keras.Input((UNITS + 1,)) for _ in range(STATES[kind])]
    with pytest.raises(ValueError, match=r"`initial_state`.*7"):
        grouped_layer(kind)(keras.Input((4, FEATURES)), initial_state=states)


@every_kind
def test_states_and_masks_of_other_shapes_are_errors(kind):
    layer, _ = pair(kind)
    x, state = normal((6, 4, FEATURES)), states_of(kind, 3)
    with pytest.raises(ValueError, match=r"`initial_state`.*batch of 6"):
        layer(x, initial_state=state)
    flat = [np.zeros(UNITS, "float32")] * STATES[kind]
    with pytest.raises(ValueError, match=rf"`initial_state`.*\[\({UNITS},\)"):
        layer(x, initial_state=flat)
    for shape in [(6,), (6, 4, FEATURES), (6, 3), (6, 5), (5, 4)]:
        with pytest.raises(ValueError, match="`mask` must be of shape"):
            layer(x, mask=np.ones(shape, bool))


@every_kind
def test_numbers_may_be_those_of_numpy(kind):
    layer = OURS[kind](
        np.int64(UNITS),
        np.array([3, 4]),
        input_density=np.float32(0.5),
        dropout=np.float64(0.5),
    )
    layer(normal((2, 4, FEATURES)))
    again = OURS[kind].from_config(layer.get_config())
    assert again.group_sizes == [3, 4]
    assert json.loads(json.dumps(layer.get_config())) == again.get_config()


@every_kind
def test_what_is_no_sequence_is_an_error(kind):
    with pytest.raises(ValueError, match="expected ndim=3"):
        grouped_layer(kind)(normal((2, FEATURES)))


@pytest.mark.skipif(BACKEND == "jax", reason="JAX follows it: test_distribution")
@every_kind
def test_a_layout_for_the_groups_is_nothing_to_other_backends(kind):
    mesh = keras.distribution.DeviceMesh((1,), ("model",), devices=["cpu:0"])
    rules = keras.distribution.LayoutMap(mesh)
    rules[".*/groups"] = ("model", None, None)
    ours, dense = pair(kind)
    x = normal((2, 4, FEATURES))
    parallel = keras.distribution.ModelParallel(
        layout_map=rules, batch_dim_name="model"
    )
    with parallel.scope():
        close(ours(x), dense(x))
