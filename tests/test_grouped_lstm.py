"""A GroupedLSTM against a dense `keras.layers.LSTM` whose missing weights are zero."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_sparse_rnn import GroupedLSTM, _backend

FEATURES = 5
# Wiring of seven units: even, uneven, given sizes, windows that overlap or leave gaps.
WIRINGS = {
    "one": {"groups": 1},
    "uneven": {"groups": 3},
    "windows": {"groups": 3, "input_density": 0.5},
    "disjoint": {"groups": 2, "input_density": 0.5},
    "sizes": {"groups": [1, 4, 2], "input_density": 0.8},
    "explicit": {"groups": 2, "input_segments": [(3, 5), (0, 2)]},
    "a unit a group": {"groups": 7},
}


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def array(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def close(ours, theirs, tolerance=1e-5):
    ours, theirs = keras.tree.flatten(ours), keras.tree.flatten(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert tuple(a.shape) == tuple(b.shape)
        np.testing.assert_allclose(array(a), array(b), atol=tolerance)


def scattered(weights, layer, features):
    """Weights of all groups, where they stand in a dense LSTM (gates i, f, c, o)."""
    units = layer.units
    kernel = np.zeros((features, 4, units), "float32")
    recurrent = np.zeros((units, 4, units), "float32")
    bias = np.zeros((4, units), "float32")
    per_group = len(weights) // layer.groups
    for g, (window, segment) in enumerate(
        zip(layer.input_segments, layer.group_segments, strict=True)
    ):
        own = [np.asarray(w) for w in weights[g * per_group : (g + 1) * per_group]]
        size = segment[1] - segment[0]
        kernel[slice(*window), :, slice(*segment)] = own[0].reshape(-1, 4, size)
        recurrent[slice(*segment), :, slice(*segment)] = own[1].reshape(size, 4, size)
        if per_group == 3:
            bias[:, slice(*segment)] = own[2].reshape(4, size)
    dense = [kernel.reshape(features, -1), recurrent.reshape(units, -1), bias.ravel()]
    return dense[:per_group]


def dense_twin(layer, features, **options):
    """A stock LSTM with the same weights."""
    stock = layers.LSTM(layer.units, use_cudnn=False, **options)
    stock.build((None, None, features))
    stock.set_weights(scattered(layer.get_weights(), layer, features))
    return stock


def pair(wiring="windows", features=FEATURES, units=7, **options):
    ours = GroupedLSTM(
        units, bias_initializer="random_normal", **WIRINGS[wiring], **options
    )
    ours.build((None, None, features))
    return ours, dense_twin(ours, features, **options)


OPTIONS = {
    "defaults": {},
    "sequences": {"return_sequences": True},
    "state": {"return_sequences": True, "return_state": True},
    "last and state": {"return_state": True},
    "backwards": {"return_sequences": True, "return_state": True, "go_backwards": True},
    "unrolled": {"return_sequences": True, "return_state": True, "unroll": True},
    "no bias": {"use_bias": False},
    "no forget bias": {"unit_forget_bias": False},
    "activations": {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
}


@pytest.mark.parametrize("wiring", WIRINGS)
def test_equals_dense(wiring):
    ours, dense = pair(wiring, return_sequences=True, return_state=True)
    x = normal((2, 4, FEATURES))
    close(ours(x), dense(x))


@pytest.mark.parametrize("options", OPTIONS)
def test_equals_dense_with_every_option(options):
    ours, dense = pair(**OPTIONS[options])
    x = normal((2, 4, FEATURES))
    close(ours(x), dense(x))


@pytest.mark.parametrize("options", OPTIONS)
def test_equals_dense_from_a_given_state(options):
    ours, dense = pair(**OPTIONS[options])
    x, state = normal((2, 4, FEATURES)), [normal((2, 7), 1), normal((2, 7), 2)]
    close(ours(x, initial_state=state), dense(x, initial_state=state))


MASKS = {
    "right padded": [[1, 1, 1, 0], [1, 0, 0, 0]],
    "left padded": [[0, 0, 1, 1], [0, 1, 1, 1]],
    "holes": [[1, 0, 1, 0], [0, 1, 0, 1]],
    "a row of nothing": [[0, 0, 0, 0], [1, 1, 1, 1]],
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    "options", ["defaults", "state", "backwards", "unrolled", "last and state"]
)
def test_equals_dense_under_a_mask(mask, options):
    mask = np.array(MASKS[mask], bool)
    ours, dense = pair(**OPTIONS[options])
    x = normal((2, 4, FEATURES))
    state = [normal((2, 7), 1), normal((2, 7), 2)]
    close(
        ours(x, mask=mask, initial_state=state),
        dense(x, mask=mask, initial_state=state),
    )


@pytest.mark.parametrize("wiring", WIRINGS)
def test_equals_dense_under_a_mask_however_it_is_wired(wiring):
    ours, dense = pair(wiring, return_sequences=True)
    x, mask = normal((2, 4, FEATURES)), np.array(MASKS["holes"], bool)
    close(ours(x, mask=mask), dense(x, mask=mask))


@given(
    units=st.integers(1, 9),
    features=st.integers(1, 8),
    data=st.data(),
    backwards=st.booleans(),
)
@settings(max_examples=12)
def test_equals_dense_for_any_shape(units, features, data, backwards):
    groups = data.draw(st.integers(1, min(units, features)))
    density = data.draw(st.floats(1 / groups, 1)) if groups > 1 else 1.0
    batch, time = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    mask = data.draw(
        st.lists(
            st.lists(st.booleans(), min_size=time, max_size=time),
            min_size=batch,
            max_size=batch,
        )
    )
    options = {
        "return_sequences": True,
        "return_state": True,
        "go_backwards": backwards,
    }
    ours = GroupedLSTM(units, groups, density, **options)
    ours.build((None, None, features))
    dense = dense_twin(ours, features, **options)
    x, mask = normal((batch, time, features)), np.array(mask, bool)
    close(ours(x, mask=mask), dense(x, mask=mask))


@pytest.mark.parametrize("mask", [None, *MASKS])
def test_bidirectional_equals_dense(mask):
    ours, dense = pair(return_sequences=True)
    both = layers.Bidirectional(ours)
    stock = layers.Bidirectional(dense)
    both.build((None, None, FEATURES))
    stock.build((None, None, FEATURES))
    for grouped, twin in (
        (both.forward_layer, stock.forward_layer),
        (both.backward_layer, stock.backward_layer),
    ):
        twin.set_weights(scattered(grouped.get_weights(), grouped, FEATURES))
    assert not np.allclose(
        both.forward_layer.get_weights()[0], both.backward_layer.get_weights()[0]
    )
    x = normal((2, 4, FEATURES))
    mask = None if mask is None else np.array(MASKS[mask], bool)
    close(both(x, mask=mask), stock(x, mask=mask))


@pytest.mark.parametrize("options", ["sequences", "last and state"])
def test_zero_output_for_mask_equals_dense(options):
    options = {**OPTIONS[options], "zero_output_for_mask": True}
    ours, dense = pair(**options)
    x, mask = normal((2, 4, FEATURES)), np.array(MASKS["holes"], bool)
    close(ours(x, mask=mask), dense(x, mask=mask))


def test_time_distributed_equals_dense():
    ours, dense = pair()
    x = normal((2, 3, 4, FEATURES))
    close(layers.TimeDistributed(ours)(x), layers.TimeDistributed(dense)(x))


def test_stateful_equals_dense_over_batches_and_resets():
    options = {"stateful": True, "return_sequences": True}
    ours = GroupedLSTM(7, 3, 0.5, **options)
    x, y = normal((2, 4, FEATURES)), normal((2, 4, FEATURES), 1)
    first = ours(x)
    dense = layers.LSTM(7, use_cudnn=False, **options)
    dense.build((2, None, FEATURES))
    dense.set_weights(scattered(ours.get_weights(), ours, FEATURES))
    close(first, dense(x))
    close(ours(y), dense(y))
    close(ours.states, dense.states)
    assert not np.allclose(array(ours(x)), array(first))
    ours.reset_state()
    close(ours(x), first)


def test_one_group_has_the_weights_of_a_stock_lstm():
    ours, stock = GroupedLSTM(6, 1), layers.LSTM(6, use_cudnn=False)
    x = normal((2, 4, FEATURES))
    ours(x), stock(x)
    stock.set_weights(ours.get_weights())
    close(ours(x), stock(x))
    ours.set_weights([w + 0.1 for w in stock.get_weights()])
    stock.set_weights(ours.get_weights())
    close(ours(x), stock(x))


def test_one_seeded_group_starts_as_a_stock_lstm_does():
    seeded = {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=3),
        "recurrent_initializer": keras.initializers.Orthogonal(seed=4),
    }
    ours, stock = GroupedLSTM(6, 1, **seeded), layers.LSTM(6, **seeded)
    ours.build((None, None, FEATURES))
    stock.build((None, None, FEATURES))
    close(ours.get_weights(), stock.get_weights(), 0)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="GradientTape")
@pytest.mark.parametrize("wiring", ["windows", "explicit", "one"])
def test_gradients_equal_those_of_dense(wiring):
    import tensorflow as tf

    ours, dense = pair(wiring, return_sequences=True)
    x, target = tf.constant(normal((2, 4, FEATURES))), normal((2, 4, 7), 1)
    mask = np.array(MASKS["holes"], bool)
    gradients = []
    for layer in (ours, dense):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum((layer(x, mask=mask) - target) ** 2)
        variables = [v.value for v in layer.trainable_variables]
        gradients.append(tape.gradient(loss, [x, *variables]))
    (by_x, *by_weights), (by_x_dense, *by_weights_dense) = gradients
    close(by_x, by_x_dense, 1e-4)
    present = scattered([np.ones(w.shape) for w in by_weights], ours, FEATURES)
    masked = [g * m for g, m in zip(by_weights_dense, present, strict=True)]
    close(scattered(by_weights, ours, FEATURES), masked, 1e-4)


def test_groups_do_not_see_each_other():
    layer = GroupedLSTM(6, [2, 4], 0.5, return_sequences=True)
    x = normal((1, 4, 6))
    before = array(layer(x))
    weights = layer.get_weights()
    layer.set_weights([*weights[:3], *[w + 1 for w in weights[3:]]])
    close(layer(x)[..., :2], before[..., :2], 0)
    assert np.abs(array(layer(x))[..., 2:] - before[..., 2:]).min() > 1e-3
    changed = np.copy(x)
    changed[..., 3:] = 0
    close(layer(changed)[..., :2], before[..., :2], 0)


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


@pytest.mark.parametrize("kind", INITIALIZERS)
def test_groups_do_not_share_weights(kind):
    layer = GroupedLSTM(12, 3, **INITIALIZERS[kind])
    layer.build((None, None, FEATURES))
    weights = layer.get_weights()
    assert len(layer.trainable_variables) == 9
    assert len({id(v) for v in layer.trainable_variables}) == 9
    for kind_of_weight in (0, 1):
        drawn = weights[kind_of_weight::3]
        for g in range(3):
            assert not np.allclose(drawn[g], drawn[g - 1])


def test_a_seeded_layer_starts_the_same_twice():
    first, second = (
        GroupedLSTM(8, 2, kernel_initializer=keras.initializers.RandomNormal(seed=1))
        for _ in range(2)
    )
    for layer in (first, second):
        layer.build((None, None, FEATURES))
    close(first.get_weights()[0::3], second.get_weights()[0::3], 0)


def test_recurrent_kernel_of_each_group_is_orthogonal_and_its_forget_bias_one():
    layer = GroupedLSTM(9, [4, 5])
    layer.build((None, None, FEATURES))
    weights = layer.get_weights()
    for size, recurrent, bias in zip([4, 5], weights[1::3], weights[2::3], strict=True):
        np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(size), atol=1e-5)
        np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], size))


def test_dropout_acts_in_training_only_and_by_one_mask_for_all_steps():
    # The cell's input gate is shut by nothing but x: outputs show what was dropped.
    ours, _ = pair("one", dropout=0.5, seed=1, return_sequences=True)
    x = np.ones((64, 6, FEATURES), "float32")
    close(ours(x, training=False), ours(x))
    seen = []
    project = ours.cell.project
    ours.cell.project = lambda inputs: seen.append(array(inputs)) or project(inputs)
    ours(x, training=True)
    ours(x, training=True)
    first, second = (np.swapaxes(s, 0, 1) for s in seen)
    assert set(np.unique(first)) == {0.0, 2.0}
    assert (first == first[:, :1]).all()
    assert 0.4 < (first == 0).mean() < 0.6
    assert not (first == second).all()


def test_recurrent_dropout_equals_a_dense_recurrence_with_one_mask():
    ours, dense = pair(recurrent_dropout=0.4, seed=2, return_sequences=True)
    x = normal((3, 5, FEATURES))
    close(ours(x), dense(x))
    drawn = []
    draw = ours.cell.draw_mask
    ours.cell.draw_mask = lambda *a: drawn.append(array(draw(*a))) or drawn[-1]
    output = array(ours(x, training=True))
    (mask,) = drawn
    assert set(np.unique(mask)) <= {0.0, np.float32(1 / 0.6)}
    kernel, recurrent, bias = dense.get_weights()
    h = c = np.zeros((3, 7), "float32")
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    for t in range(5):
        gates = x[:, t] @ kernel + (h * mask) @ recurrent + bias
        i, f, candidate, o = np.split(gates, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(candidate)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(output[:, t], h, atol=1e-5)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
def test_impossible_dropout_is_named(name, rate):
    with pytest.raises(ValueError, match=f"`{name}`.*Received: {name}={rate}"):
        GroupedLSTM(4, 2, **{name: rate})


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_precision_follows_the_policy(policy):
    ours = GroupedLSTM(7, 3, 0.5, dtype=policy, return_sequences=True)
    x = normal((2, 4, FEATURES))
    output = ours(x)
    policy = keras.dtype_policies.get(policy)
    assert keras.backend.standardize_dtype(output.dtype) == policy.compute_dtype
    assert {v.dtype for v in ours.trainable_variables} == {policy.variable_dtype}
    dense = dense_twin(ours, FEATURES, return_sequences=True)
    close(output, dense(x), 1e-5 if policy.name == "float64" else 3e-2)


def test_precision_under_a_global_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        ours = GroupedLSTM(7, 3)
        assert keras.backend.standardize_dtype(ours(normal((1, 2, 5))).dtype) == (
            "bfloat16"
        )
        assert ours.trainable_variables[0].dtype == "float32"
    finally:
        keras.config.set_dtype_policy(before)


def everything():
    """A layer with every argument away from its default."""
    return GroupedLSTM(
        7,
        [1, 4, 2],
        0.75,
        activation="relu",
        recurrent_activation="hard_sigmoid",
        kernel_initializer=keras.initializers.RandomNormal(0.1, 0.2, seed=3),
        recurrent_initializer="glorot_normal",
        bias_initializer=keras.initializers.Constant(0.5),
        unit_forget_bias=False,
        kernel_regularizer=keras.regularizers.L2(0.1),
        recurrent_regularizer="l1",
        bias_regularizer=keras.regularizers.L1L2(0.1, 0.2),
        activity_regularizer=keras.regularizers.L2(0.3),
        kernel_constraint=keras.constraints.MaxNorm(3),
        recurrent_constraint="non_neg",
        bias_constraint=keras.constraints.UnitNorm(),
        dropout=0.1,
        recurrent_dropout=0.2,
        seed=7,
        return_sequences=True,
        return_state=True,
        go_backwards=True,
        stateful=True,
        unroll=True,
        use_cudnn=False,
        input_segments=[(0, 4), (1, 3), (2, 5)],
        zero_output_for_mask=True,
        name="all_of_it",
        trainable=False,
        dtype="mixed_bfloat16",
    )


def test_configuration_round_trip_keeps_every_argument():
    config = everything().get_config()
    again = GroupedLSTM.from_config(config)
    assert again.get_config() == config
    assert config["groups"] == [1, 4, 2]
    assert config["input_segments"] == [[0, 4], [1, 3], [2, 5]]
    for name, value in {
        "units": 7,
        "input_density": 0.75,
        "activation": "relu",
        "recurrent_activation": "hard_sigmoid",
        "use_bias": True,
        "unit_forget_bias": False,
        "dropout": 0.1,
        "recurrent_dropout": 0.2,
        "seed": 7,
        "return_sequences": True,
        "return_state": True,
        "go_backwards": True,
        "stateful": True,
        "unroll": True,
        "use_cudnn": False,
        "zero_output_for_mask": True,
        "name": "all_of_it",
        "trainable": False,
    }.items():
        assert config[name] == value
    cell = again.cell.cells[1]
    assert cell.kernel_initializer.get_config()["mean"] == 0.1
    assert cell.kernel_regularizer.l2 == pytest.approx(0.1)
    assert cell.kernel_constraint.max_value == 3
    assert again.activity_regularizer.l2 == pytest.approx(0.3)
    assert again.compute_dtype == "bfloat16"


def test_configuration_has_all_arguments_of_a_stock_lstm():
    missing = layers.LSTM(4).get_config().keys() - GroupedLSTM(4, 2).get_config().keys()
    assert missing == set()


def test_penalties_constraints_and_frozen_weights_act_on_every_group():
    layer = GroupedLSTM(
        6,
        3,
        kernel_initializer="ones",
        kernel_regularizer=keras.regularizers.L2(0.5),
        kernel_constraint="non_neg",
    )
    layer(normal((1, 2, FEATURES)))
    assert float(sum(layer.losses)) == pytest.approx(0.5 * FEATURES * 24)
    assert sum(v.constraint is not None for v in layer.weights) == 3
    layer.trainable = False
    assert layer.trainable_variables == []


def test_clone_of_a_model():
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            GroupedLSTM(6, [2, 4], 0.5, return_sequences=True),
            layers.Bidirectional(GroupedLSTM(4, 2)),
        ]
    )
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    x = normal((2, 4, FEATURES))
    close(clone(x), model(x), 0)
    assert clone.layers[0].group_sizes == [2, 4]


@pytest.mark.parametrize("wiring", WIRINGS)
def test_saved_and_loaded_model_is_the_same(tmp_path, wiring):
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            GroupedLSTM(7, **WIRINGS[wiring], return_sequences=True, name="grouped"),
            GroupedLSTM(4, 2),
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


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("time", [None, 4])
def test_symbolic_shapes_are_those_of_a_stock_lstm(options, time):
    if time is None and OPTIONS[options].get("unroll"):
        pytest.skip("a loop of unknown length can't be unrolled")
    symbolic = keras.Input((time, FEATURES))
    ours = GroupedLSTM(7, 3, **OPTIONS[options])
    stock = layers.LSTM(7, **OPTIONS[options])
    shapes = [
        [tuple(t.shape) for t in keras.tree.flatten(layer(symbolic))]
        for layer in (ours, stock)
    ]
    assert shapes[0] == shapes[1]
    declared = ours.compute_output_shape((None, time, FEATURES))
    assert declared == stock.compute_output_shape((None, time, FEATURES))


def test_any_batch_and_any_length():
    ours, dense = pair(return_sequences=True)
    inputs = keras.Input((None, FEATURES))
    model, stock = keras.Model(inputs, ours(inputs)), keras.Model(inputs, dense(inputs))
    for shape in [(1, 1), (3, 2), (2, 6)]:
        x = normal((*shape, FEATURES))
        close(model.predict_on_batch(x), stock.predict_on_batch(x))


@pytest.mark.parametrize("options", ["sequences", "backwards", "unrolled"])
def test_compiled_by_xla(options):
    ours, dense = pair(**{**OPTIONS[options], "return_state": False})
    inputs = keras.Input((4, FEATURES))
    model = keras.Model(inputs, ours(inputs))
    model.compile("sgd", "mse", jit_compile=keras.backend.backend() != "torch")
    x = normal((2, 4, FEATURES))
    close(model.predict_on_batch(x), dense(x))
    before = ours.get_weights()
    model.train_on_batch(x, normal((2, 4, 7), 1))
    assert all(
        not np.array_equal(a, b)
        for a, b in zip(before, ours.get_weights(), strict=True)
    )


def test_learns_in_fit_with_masks_and_both_dropouts():
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(9, FEATURES, mask_zero=True),
            GroupedLSTM(
                8, 2, dropout=0.1, recurrent_dropout=0.1, return_sequences=True
            ),
            GroupedLSTM(8, 4),
            layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=False)
    x = np.random.default_rng(0).integers(0, 9, (64, 6))
    y = (x == 3).any(axis=1).astype("float32")
    losses = model.fit(x, y, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


# cuDNN: what can be tested without a GPU.


def test_cudnn_where_there_is_none_is_an_error_that_says_what_to_do():
    layer = GroupedLSTM(6, 2, use_cudnn=True, activation="relu")
    with pytest.raises(ValueError, match="use_cudnn='auto'"):
        layer(normal((1, 2, FEATURES)))


def test_cudnn_takes_no_other_word():
    with pytest.raises(ValueError, match="use_cudnn='always'"):
        GroupedLSTM(6, 2, use_cudnn="always")


@pytest.fixture
def cudnn(monkeypatch):
    """Pretends that there is a GPU: a stock LSTM takes the place of cuDNN."""
    calls = []

    def lstm(inputs, h, c, mask, kernel, recurrent_kernel, bias, **arguments):
        calls.append(tuple(inputs.shape))
        assert arguments.pop("activation") is keras.activations.tanh
        assert arguments.pop("recurrent_activation") is keras.activations.sigmoid
        stock = layers.LSTM(
            int(h.shape[-1]), use_cudnn=False, return_state=True, **arguments
        )
        stock.build(inputs.shape)
        stock.set_weights([array(w) for w in (kernel, recurrent_kernel, bias)])
        outputs, *states = stock(inputs, initial_state=[h, c], mask=mask)
        last = outputs[:, -1] if arguments["return_sequences"] else outputs
        return (
            last,
            outputs if arguments["return_sequences"] else outputs[:, None],
            (states),
        )

    def ok(activation, recurrent_activation, unroll, use_bias):
        stock = (keras.activations.tanh, keras.activations.sigmoid)
        return (activation, recurrent_activation) == stock and use_bias and not unroll

    monkeypatch.setattr(_backend, "cudnn_ok", ok)
    monkeypatch.setattr(_backend, "cudnn_lstm", lstm)
    return calls


@pytest.mark.parametrize(
    "options", ["defaults", "sequences", "state", "last and state", "backwards"]
)
@pytest.mark.parametrize("wiring", ["windows", "sizes", "one"])
def test_cudnn_runs_every_group(cudnn, wiring, options):
    ours, dense = pair(wiring, **OPTIONS[options])
    x, state = normal((2, 4, FEATURES)), [normal((2, 7), 1), normal((2, 7), 2)]
    close(ours(x, initial_state=state), dense(x, initial_state=state))
    assert cudnn == [(2, 4, end - begin) for begin, end in ours.input_segments]


def test_cudnn_gets_the_mask(cudnn):
    ours, dense = pair(return_sequences=True)
    x, mask = normal((2, 4, FEATURES)), np.array(MASKS["right padded"], bool)
    close(ours(x, mask=mask), dense(x, mask=mask))
    assert len(cudnn) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"use_bias": False},
        {"unroll": True},
        {"recurrent_dropout": 0.1},
        {"use_cudnn": False},
    ],
)
def test_cudnn_is_left_where_stock_keras_leaves_it(cudnn, options):
    layer = GroupedLSTM(6, 2, **options)
    x = normal((2, 4, FEATURES))
    layer(x)
    assert cudnn == []
    if options.get("use_cudnn", True):
        with pytest.raises(ValueError, match="cuDNN can't be used"):
            GroupedLSTM(6, 2, use_cudnn=True, **options)(x)


def test_a_mask_that_cudnn_refuses_goes_through_the_loop(cudnn, monkeypatch):
    def refuse(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(_backend, "cudnn_lstm", refuse)
    ours, dense = pair(return_sequences=True)
    x, mask = normal((2, 4, FEATURES)), np.array(MASKS["holes"], bool)
    close(ours(x, mask=mask), dense(x, mask=mask))
    with pytest.raises(ValueError, match="no mask"):
        GroupedLSTM(6, 2, use_cudnn=True)(x, mask=mask)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="as stock Keras")
def test_cudnn_is_not_compiled_by_xla(cudnn):
    assert not GroupedLSTM(6, 2).supports_jit
    assert GroupedLSTM(6, 2, use_cudnn=False).supports_jit
