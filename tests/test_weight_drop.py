"""A WeightDropLSTM against a stock LSTM whose recurrent kernel was masked by hand."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_sparse_rnn import _backend
from keras_sparse_rnn.layers.weight_drop import WeightDropLSTM

FEATURES = 5
UNITS = 4
TORCH = keras.backend.backend() == "torch"


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


def built(weight_drop=0.5, units=UNITS, **options):
    layer = WeightDropLSTM(
        units, weight_drop=weight_drop, bias_initializer="random_normal", **options
    )
    layer.build((2, None, FEATURES))
    return layer


def masked(weights, mask):
    """`[kernel, recurrent kernel, bias]`, of which the second is masked."""
    kernel, recurrent, *bias = weights
    return [kernel, recurrent * mask, *bias]


def twin(layer, mask=1.0, **options):
    """A stock LSTM with the same weights, the recurrent ones times `mask`."""
    stock = layers.LSTM(layer.units, **options)
    stock.build((2, None, FEATURES))
    stock.set_weights(masked(layer.get_weights(), mask))
    return stock


def masks_of_seed(seed, rate, units=UNITS):
    """The masks that a layer with this seed must draw, one call after another."""
    generator = keras.random.SeedGenerator(seed)
    while True:
        ones = ops.ones((units, 4 * units))
        yield array(keras.random.dropout(ones, rate, seed=generator))


@pytest.fixture
def drawn(monkeypatch):
    """The masks of all weights dropped so far; Keras's own dropouts are not among."""
    masks = []
    dropout = keras.random.dropout

    def spy(kernel, rate, seed):
        mask = dropout(ops.ones_like(kernel), rate, seed=seed)
        masks.append(array(mask))
        return kernel * mask

    monkeypatch.setattr(keras.random, "dropout", spy)
    return masks


OPTIONS = {
    "defaults": {},
    "sequences": {"return_sequences": True},
    "state": {"return_sequences": True, "return_state": True},
    "last and state": {"return_state": True},
    "backwards": {"return_sequences": True, "return_state": True, "go_backwards": True},
    "unrolled": {"return_sequences": True, "return_state": True, "unroll": True},
    "no bias": {"use_bias": False},
    "no cudnn": {"use_cudnn": False},
    "activations": {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
}
MASKS = {
    "right padded": [[1, 1, 1, 0], [1, 0, 0, 0]],
    "holes": [[1, 0, 1, 0], [0, 1, 0, 1]],
}


@pytest.mark.parametrize("options", OPTIONS)
def test_equals_stock_where_nothing_is_dropped(drawn, options):
    options = OPTIONS[options]
    x = normal((2, 4, FEATURES))
    ours, without = built(**options), built(0.0, **options)
    close(ours(x), twin(ours, **options)(x))
    close(ours(x, training=False), twin(ours, **options)(x))
    close(without(x, training=True), twin(without, **options)(x, training=True))
    assert drawn == []


@pytest.mark.parametrize("options", OPTIONS)
def test_equals_stock_with_the_drawn_mask(drawn, options):
    options = OPTIONS[options]
    x, state = normal((2, 4, FEATURES)), [normal((2, UNITS), s) for s in (1, 2)]
    ours = built(**options)
    outputs = ours(x, initial_state=state, training=True)
    (mask,) = drawn
    close(outputs, twin(ours, mask, **options)(x, initial_state=state))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("options", ["state", "backwards", "unrolled"])
def test_equals_stock_with_the_drawn_mask_where_steps_are_masked(drawn, mask, options):
    options, steps = OPTIONS[options], np.array(MASKS[mask], bool)
    x = normal((2, 4, FEATURES))
    ours = built(**options)
    outputs = ours(x, mask=steps, training=True)
    close(outputs, twin(ours, drawn[0], **options)(x, mask=steps))


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.4},
        {"recurrent_dropout": 0.4},
        {"dropout": 0.4, "recurrent_dropout": 0.4},
        {"dropout": 0.4, "use_cudnn": False},
        {"dropout": 0.4, "unroll": True},
    ],
)
def test_both_other_dropouts_are_those_of_stock(drawn, options):
    # Both draw them first, so that equal seeds mean equal masks.
    options = {**options, "seed": 3, "return_sequences": True}
    x = normal((3, 5, FEATURES))
    ours = built(**options)
    outputs = ours(x, training=True)
    close(outputs, twin(ours, drawn[0], **options)(x, training=True))
    assert not np.allclose(array(outputs), array(ours(x)))


def test_one_mask_for_all_examples_and_another_for_each_call(drawn):
    ours = built(units=16)
    x = np.repeat(normal((1, 6, FEATURES)), 3, axis=0)
    first, second = array(ours(x, training=True)), array(ours(x, training=True))
    np.testing.assert_array_equal(first, np.repeat(first[:1], 3, axis=0))
    assert np.abs(first - second).max() > 1e-3
    assert len(drawn) == 2
    assert 0.3 < (drawn[0] == drawn[1]).mean() < 0.7


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_dropped_and_scale_of_the_rest(drawn, rate):
    ours = built(rate, units=64)
    ours(normal((1, 1, FEATURES)), training=True)
    (mask,) = drawn
    assert (mask == 0).mean() == pytest.approx(rate, abs=0.02)
    np.testing.assert_allclose(mask[mask != 0], 1 / (1 - rate), rtol=1e-6)
    # Single weights, not whole units.
    assert np.ptp(mask, axis=1).all()


def test_half_precision_does_not_change_the_share_dropped(drawn):
    ours = built(0.15, units=256, dtype="mixed_bfloat16", seed=1)
    ours(normal((1, 1, FEATURES)), training=True)
    assert (drawn[0] == 0).mean() == pytest.approx(0.15, abs=0.003)


# Random seeds.


def test_a_seed_means_the_same_masks(drawn):
    x = normal((2, 4, FEATURES))
    for seed in (7, 7, 8):
        ours = built(seed=seed)
        for _ in range(2):
            ours(x, training=True)
    assert np.array_equal(drawn[0:2], drawn[2:4])
    assert not np.array_equal(drawn[0:2], drawn[4:6])


def test_without_a_seed_the_global_one_decides(drawn):
    x = normal((2, 4, FEATURES))
    for _ in range(2):
        keras.utils.set_random_seed(5)
        built()(x, training=True)
    built()(x, training=True)
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[1], drawn[2])


def test_a_loaded_layer_begins_anew_with_its_seed(tmp_path, drawn):
    # As all random numbers of stock Keras, whose files hold seeds and no more.
    x = normal((2, 4, FEATURES))
    model = keras.Sequential(
        [keras.Input((None, FEATURES)), WeightDropLSTM(UNITS, weight_drop=0.5, seed=2)]
    )
    first = model(x, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    close(loaded(x, training=True), first)
    np.testing.assert_array_equal(drawn[0], next(masks_of_seed(2, 0.5)))


# Training.


def step(layer, x, y, jit_compile=False):
    """What one step of gradient descent adds to the layer's weights."""
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=jit_compile)
    before = layer.get_weights()
    model.train_on_batch(x, y)
    return [b - a for a, b in zip(before, layer.get_weights(), strict=True)]


@pytest.mark.parametrize(
    ("options", "jit_compile"),
    [
        ("backwards", False),
        ("unrolled", True),
        pytest.param("defaults", False, marks=pytest.mark.long),
        pytest.param("defaults", True, marks=pytest.mark.long),
    ],
)
def test_gradients_are_masked_and_scaled(options, jit_compile):
    if TORCH and jit_compile:
        pytest.skip("PyTorch would need a C++ compiler")
    options = {**OPTIONS[options], "return_sequences": False, "return_state": False}
    ours = built(0.3, units=8, **options)
    before = ours.get_weights()
    x, y = normal((8, 4, FEATURES)), normal((8, 8), 1)
    steps = step(ours, x, y, jit_compile)
    mask = (steps[1] != 0) / 0.7
    assert 0.15 < (mask == 0).mean() < 0.45
    # Had another mask been at work, these would be other steps.
    ours.set_weights(before)
    expected = step(twin(ours, mask, **options), x, y, jit_compile)
    close(steps, masked(expected, mask))


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_every_batch_of_fit_has_a_mask_of_its_own(run_eagerly):
    layer = built(seed=6)
    stock = twin(layer)
    x, y = normal((6, 3, FEATURES)), normal((6, UNITS), 1)
    for begin, mask in zip(range(0, 6, 2), masks_of_seed(6, 0.5), strict=False):
        batch = slice(begin, begin + 2)
        weights = stock.get_weights()
        stock.set_weights(masked(weights, mask))
        steps = masked(step(stock, x[batch], y[batch]), mask)
        stock.set_weights([w + s for w, s in zip(weights, steps, strict=True)])
    model = keras.Sequential([keras.Input((3, FEATURES)), layer])
    model.compile(
        keras.optimizers.SGD(1.0), "mse", run_eagerly=run_eagerly, jit_compile=False
    )
    model.fit(x, y, batch_size=2, shuffle=False, verbose=0)
    close(layer.get_weights(), stock.get_weights())


def test_learns_in_fit_with_masks_and_all_dropouts():
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(9, FEATURES, mask_zero=True),
            WeightDropLSTM(8, weight_drop=0.2, return_sequences=True),
            WeightDropLSTM(8, weight_drop=0.2, dropout=0.1, recurrent_dropout=0.1),
            layers.Dense(1),
        ]
    )
    # JAX is slow without XLA, TensorFlow is slow to compile for it.
    model.compile(
        keras.optimizers.Adam(0.02),
        "mse",
        jit_compile=keras.backend.backend() == "jax",
    )
    x = np.random.default_rng(0).integers(0, 9, (64, 6))
    y = (x == 3).any(axis=1).astype("float32")
    losses = model.fit(x, y, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_penalties_and_constraints_see_the_weights_as_they_are():
    ours = built(
        recurrent_initializer="ones",
        recurrent_regularizer=keras.regularizers.L2(0.01),
        recurrent_constraint=keras.constraints.MaxNorm(0.5),
        seed=1,
    )
    ours(normal((1, 2, FEATURES)), training=True)
    assert array(sum(ours.losses)) == pytest.approx(0.01 * 4 * UNITS**2)
    x, y = normal((2, 3, FEATURES)), normal((2, UNITS), 1)
    step(ours, x, y)
    norms = np.linalg.norm(ours.get_weights()[1], axis=0)
    np.testing.assert_allclose(norms, 0.5, rtol=1e-4)


# The variable stays what it is.


def test_variables_are_those_of_a_stock_lstm():
    ours = WeightDropLSTM(UNITS, weight_drop=0.5, name="lstm")
    stock = layers.LSTM(UNITS, name="lstm")
    for layer in (ours, stock):
        layer.build((None, None, FEATURES))
    for kind in ("trainable_variables", "non_trainable_variables"):
        own, theirs = getattr(ours, kind), getattr(stock, kind)
        assert [v.path.rpartition("seed_generator")[2] for v in own] == [
            v.path.rpartition("seed_generator")[2] for v in theirs
        ]
        assert [v.shape for v in own] == [v.shape for v in theirs]
    x = normal((2, 4, FEATURES))
    ours.set_weights(stock.get_weights())
    close(ours(x), stock(x))


def test_the_recurrent_kernel_is_put_back(monkeypatch):
    ours = built()
    variable = ours.cell.recurrent_kernel
    ours(normal((2, 4, FEATURES)), training=True)
    assert ours.cell.recurrent_kernel is variable
    ours(keras.Input((4, FEATURES)), training=True)
    assert ours.cell.recurrent_kernel is variable
    assert any(v is variable for v in ours.trainable_variables)
    assert len(ours.trainable_variables) == 3

    def fail(z):
        raise RuntimeError("in the loop")

    ours.cell.activation = fail
    with pytest.raises(RuntimeError, match="in the loop"):
        ours(normal((2, 4, FEATURES)), training=True)
    assert ours.cell.recurrent_kernel is variable


# In other layers.


@pytest.mark.parametrize("steps", [None, *MASKS])
def test_bidirectional_drops_in_both_directions(drawn, steps):
    ours = layers.Bidirectional(
        WeightDropLSTM(UNITS, weight_drop=0.5, return_sequences=True)
    )
    stock = layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True))
    x = normal((2, 4, FEATURES))
    steps = None if steps is None else np.array(MASKS[steps], bool)
    stock(x)
    outputs = ours(x, mask=steps, training=True)
    assert ours.backward_layer.weight_drop == 0.5
    assert len(drawn) == 2
    for side, own, mask in (
        (stock.forward_layer, ours.forward_layer, drawn[0]),
        (stock.backward_layer, ours.backward_layer, drawn[1]),
    ):
        side.set_weights(masked(own.get_weights(), mask))
    close(outputs, stock(x, mask=steps))


def test_time_distributed_drops(drawn):
    ours = built()
    x = normal((2, 3, 4, FEATURES))
    outputs = layers.TimeDistributed(ours)(x, training=True)
    assert len(drawn) == 3
    for step, mask in enumerate(drawn):
        close(outputs[:, step], twin(ours, mask)(x[:, step]))


def test_stateful_equals_stock_over_batches(drawn):
    options = {"stateful": True, "return_sequences": True}
    ours, stock = built(**options), layers.LSTM(UNITS, **options)
    stock.build((2, None, FEATURES))
    for seed in range(3):
        x = normal((2, 4, FEATURES), seed)
        outputs = ours(x, training=True)
        stock.set_weights(masked(ours.get_weights(), drawn[-1]))
        close(outputs, stock(x))
        close(ours.states, stock.states)
    assert len(drawn) == 3


def test_stateful_trains():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, 4, FEATURES)),
            WeightDropLSTM(UNITS, weight_drop=0.5, stateful=True),
        ]
    )
    model.compile("sgd", "mse")
    before = model.get_weights()
    x, y = normal((6, 4, FEATURES)), normal((6, UNITS), 1)
    model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    assert not np.array_equal(before[1], model.get_weights()[1])


# Configuration.


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("use_cudnn", ["auto", False])
def test_precision_follows_the_policy(drawn, policy, use_cudnn):
    options = {"dtype": policy, "return_sequences": True, "use_cudnn": use_cudnn}
    ours = built(**options)
    x = normal((2, 4, FEATURES))
    output = ours(x, training=True)
    policy = keras.dtype_policies.get(policy)
    assert keras.backend.standardize_dtype(output.dtype) == policy.compute_dtype
    assert {v.dtype for v in ours.trainable_variables} == {"float32"}
    close(output, twin(ours, drawn[0], **options)(x), 3e-2)


@pytest.mark.parametrize(
    "rate", [-0.1, 1, 1.0, 1.5, float("nan"), "0.5", None, True, [0.5]]
)
def test_impossible_weight_drop_is_named(rate):
    with pytest.raises(ValueError, match=r"`weight_drop`.*\[0, 1\).*Received: weight_"):
        WeightDropLSTM(4, weight_drop=rate)


def everything():
    """A layer with every argument away from its default."""
    return WeightDropLSTM(
        7,
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
        weight_drop=0.25,
        zero_output_for_mask=True,
        name="all_of_it",
        trainable=False,
        dtype="mixed_bfloat16",
    )


def test_configuration_round_trip_keeps_every_argument():
    layer = everything()
    config = layer.get_config()
    again = WeightDropLSTM.from_config(config)
    assert again.get_config() == config
    assert config["weight_drop"] == again.weight_drop == 0.25
    assert config["use_cudnn"] is False
    assert again.recurrent_dropout == 0.2
    stock = {k: v for k, v in config.items() if k not in ("weight_drop", "use_cudnn")}
    assert layers.LSTM.from_config(stock).get_config() == stock


def test_stock_arguments_may_be_given_by_position():
    config = WeightDropLSTM(4, "relu", "tanh", False, weight_drop=0.5).get_config()
    assert config["activation"] == "relu"
    assert config["recurrent_activation"] == "tanh"
    assert config["use_bias"] is False


def test_configuration_tells_no_recurrent_dropout_where_there_is_none():
    layer = built()
    assert layer.recurrent_dropout == 0
    assert not layer.recurrent_dropout
    assert layer.get_config()["recurrent_dropout"] == 0


def model_of_two():
    return keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            WeightDropLSTM(6, weight_drop=0.5, return_sequences=True, name="drop"),
            layers.Bidirectional(WeightDropLSTM(4, weight_drop=0.25)),
        ]
    )


def test_clone_of_a_model():
    model = model_of_two()
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    x = normal((2, 4, FEATURES))
    close(clone(x), model(x), 0)
    assert clone.get_layer("drop").weight_drop == 0.5
    assert clone.layers[1].backward_layer.weight_drop == 0.25


def test_saved_and_loaded_model_is_the_same(tmp_path):
    model = model_of_two()
    x = normal((2, 4, FEATURES))
    model.compile("sgd", "mse")
    model.train_on_batch(x, normal((2, 8), 1))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    close(loaded(x), model(x), 0)
    assert loaded.get_layer("drop").get_config() == model.get_layer("drop").get_config()
    model.save_weights(tmp_path / "w.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "w.weights.h5")
    close(clone(x), model(x), 0)


@pytest.mark.parametrize("options", OPTIONS)
def test_symbolic_shapes_are_those_of_a_stock_lstm(options):
    symbolic = keras.Input((4, FEATURES))
    shapes = [
        [tuple(t.shape) for t in keras.tree.flatten(layer(symbolic, training=True))]
        for layer in (
            WeightDropLSTM(7, weight_drop=0.5, **OPTIONS[options]),
            layers.LSTM(7, **OPTIONS[options]),
        )
    ]
    assert shapes[0] == shapes[1]


# cuDNN: what can be tested without a GPU.


@pytest.fixture
def cudnn(monkeypatch):
    """Pretends that there is a GPU: a stock LSTM takes the place of cuDNN."""
    calls = []

    def lstm(inputs, h, c, mask, kernel, recurrent_kernel, bias, **arguments):
        calls.append(array(recurrent_kernel))
        stock = layers.LSTM(
            int(h.shape[-1]), use_cudnn=False, return_state=True, **arguments
        )
        stock.build(inputs.shape)
        stock.set_weights([array(w) for w in (kernel, recurrent_kernel, bias)])
        outputs, *states = stock(inputs, initial_state=[h, c], mask=mask)
        last = outputs[:, -1] if arguments["return_sequences"] else outputs
        return last, outputs, states

    monkeypatch.setattr(_backend.backend, "lstm", lstm)
    return calls


@pytest.mark.parametrize("use_cudnn", ["auto", True])
@pytest.mark.parametrize("options", ["defaults", "state", "backwards"])
def test_cudnn_gets_the_dropped_kernel(cudnn, drawn, options, use_cudnn):
    ours = built(use_cudnn=use_cudnn, **OPTIONS[options])
    x = normal((2, 4, FEATURES))
    outputs = ours(x, training=True)
    (mask,), recurrent = drawn, ours.get_weights()[1]
    np.testing.assert_allclose(cudnn, [recurrent * mask], rtol=1e-6)
    stock = twin(ours, mask, **{**OPTIONS[options], "use_cudnn": False})
    close(outputs, stock(x))
    ours(x)
    np.testing.assert_array_equal(cudnn[1], recurrent)


def test_cudnn_runs_each_direction_with_kernels_of_its_own(cudnn, drawn, monkeypatch):
    fused = []

    def both_at_once(*args, **kwargs):
        fused.append(kwargs)
        raise NotImplementedError

    monkeypatch.setattr(
        _backend.backend, "bidirectional_lstm", both_at_once, raising=False
    )
    x = normal((2, 4, FEATURES))
    ours = layers.Bidirectional(WeightDropLSTM(UNITS, weight_drop=0.5))
    ours(x, training=True)
    sides = (ours.forward_layer, ours.backward_layer)
    for side, kernel, mask in zip(sides, cudnn, drawn, strict=True):
        np.testing.assert_allclose(kernel, side.get_weights()[1] * mask, rtol=1e-6)
    assert fused == []
    # Without weights to drop it is as fast as stock Keras, which may fuse the two.
    attempts = []
    for layer in (WeightDropLSTM(UNITS), layers.LSTM(UNITS)):
        layers.Bidirectional(layer)(x, training=True)
        attempts.append(len(fused))
        fused.clear()
    assert attempts[0] == attempts[1]
