"""A shrunk model against the masked model it was made from."""

import conftest
import keras
import numpy as np
import pytest
from chains import (
    FEATURES,
    TIME,
    array,
    chain,
    inputs,
    kill,
    mask,
    recurrent,
    recurrent_of,
)
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

from keras_sparse_rnn import (
    GroupedLSTM,
    ISSRegularizer,
    TieredEmbedding,
    WeightDropLSTM,
    shrink,
)

TARGETS = np.random.default_rng(5).standard_normal((3, 2)).astype("float32")


def agree(ours, theirs, x=None, tolerance=1e-5):
    x = inputs() if x is None else x
    np.testing.assert_allclose(array(ours(x)), array(theirs(x)), atol=tolerance)


def masked(*specs, dead, compiled=None, **arguments):
    """A chain with some dead units in each layer."""
    model = chain(*specs, **arguments)
    if compiled:
        model.compile(**compiled, run_eagerly=True)
        model.fit(inputs(), TARGETS, verbose=0)
    for (layer, readers), units in zip(recurrent_of(model), dead, strict=True):
        kill(layer, readers, units)
    return model


@st.composite
def dead_chains(draw):
    """Specs of one to three layers and the units that die in each."""
    specs, dead, features = [], [], FEATURES
    for _ in range(draw(st.integers(1, 3))):
        units = draw(st.integers(1, 6))
        groups = draw(st.integers(0, min(units, features)))
        if groups:
            density = draw(st.floats(1 / groups, 1)) if groups > 1 else 1.0
            specs.append((units, groups, density))
        else:
            specs.append(units)
        dead.append(sorted(draw(st.sets(st.integers(0, units - 1)))))
        features = units
    return specs, dead, draw(st.booleans())


@pytest.mark.fuzz
@given(dead_chains())
def test_shrunk_equals_masked_for_any_chain(drawn):
    specs, dead, columns = drawn
    model = chain(*specs)
    for (layer, readers), units in zip(recurrent_of(model), dead, strict=True):
        kill(layer, readers, units, columns)
    small = shrink(model)
    agree(small, model)
    for (layer, _), (smaller, _), units in zip(
        recurrent_of(model), recurrent_of(small), dead, strict=True
    ):
        assert type(smaller) is type(layer)
        assert smaller.units >= max(1, layer.units - len(units))
        # What stays though it is dead: one of a layer, of a group, of a window.
        if len(recurrent_of(model)) == 1 and not hasattr(layer, "groups"):
            assert smaller.units == max(1, layer.units - len(units))


@pytest.mark.parametrize(
    ("specs", "dead", "left"),
    [
        ([6], [[0, 1, 2, 3, 4, 5]], [1]),
        ([(6, 2)], [[0, 1, 2]], [4]),
        ([(6, 3)], [[0, 1, 2, 3, 4, 5]], [3]),
        ([6, (4, 2, 0.5)], [[0, 1, 2], []], [4, 4]),
        ([6, (4, 2, 0.5)], [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3]], [2, 2]),
        ([(6, [1, 5]), (4, [3, 1], 0.75)], [[0, 2, 4], [3]], [4, 4]),
        ([6, 6, 6], [[1], [2, 3], [0, 4, 5]], [5, 4, 3]),
    ],
)
def test_one_unit_of_every_layer_group_and_window_stays(specs, dead, left):
    model = masked(*specs, dead=dead)
    small = shrink(model)
    assert [layer.units for layer, _ in recurrent_of(small)] == left
    agree(small, model)


def test_weights_of_the_living_are_slices():
    model = masked(4, dead=[[1]])
    small = shrink(model)
    kernel, loop, bias = model.get_layer("r0").get_weights()
    living = [0, 2, 3]
    columns = [4 * gate + unit for gate in range(4) for unit in living]
    expected = [kernel[:, columns], loop[np.ix_(living, columns)], bias[columns]]
    head = model.get_layer("head").get_weights()
    expected += [head[0][living], head[1]]
    for ours, theirs in zip(small.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weight_drop_stays_in_what_is_smaller():
    start = keras.Input((TIME, FEATURES))
    layer = WeightDropLSTM(6, weight_drop=0.5, bias_initializer="random_normal")
    head = layers.Dense(2)
    model = keras.Model(start, head(layer(start)))
    kill(layer, [head], [1, 4])
    small = shrink(model)
    smaller = small.layers[1]
    assert type(smaller) is WeightDropLSTM
    assert (smaller.units, smaller.weight_drop) == (4, 0.5)
    agree(small, model)


def test_windows_of_a_grouped_reader_shrink_with_what_they_see():
    # Windows (0, 4) and (2, 6) of six units, of which 1, 3 and 4 go.
    model = masked(6, (4, 2, 4 / 6), dead=[[1, 3, 4], []])
    layer = shrink(model).get_layer("r1")
    assert model.get_layer("r1").input_segments == [(0, 4), (2, 6)]
    assert layer.input_segments == [(0, 2), (1, 3)]
    agree(shrink(model), model)


def test_shrinking_twice_is_shrinking_once():
    model = masked(6, (4, 2, 0.5), dead=[[1, 4], [0]])
    once = shrink(model)
    twice = shrink(once)
    assert twice.count_params() == once.count_params()
    agree(twice, model)
    # And what is shrunk can lose more.
    for (layer, readers), units in zip(recurrent_of(once), [[2], [1]], strict=True):
        kill(layer, readers, units)
    agree(shrink(once), once)


@pytest.mark.parametrize("specs", [[5, (4, 2, 0.5)], [3], [(4, 4)]])
def test_nothing_dead_gives_an_identical_copy(specs):
    model = chain(*specs)
    small = shrink(model)
    assert [w.shape for w in small.weights] == [w.shape for w in model.weights]
    assert [l.get_config() for l in small.layers] == [  # noqa: E741
        l.get_config()
        for l in model.layers  # noqa: E741
    ]
    assert not {id(v) for v in small.variables} & {id(v) for v in model.variables}
    agree(small, model, tolerance=0)


def test_the_model_itself_is_not_changed():
    model = masked(
        6, (4, 2), dead=[[1], [0]], compiled={"optimizer": "adam", "loss": "mse"}
    )
    before, slots = model.get_weights(), [array(v) for v in model.optimizer.variables]
    config = model.get_config()
    small = shrink(model)
    small.fit(inputs(), TARGETS, verbose=0)
    assert model.get_config() == config
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(slots, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, array(b))


def test_loaded_from_a_file(tmp_path):
    compiled = {"optimizer": "adam", "loss": "mse"}
    model = masked(6, (4, 2, 0.5), dead=[[1, 4], [0]], compiled=compiled)
    model.save(tmp_path / "masked.keras")
    loaded = keras.models.load_model(tmp_path / "masked.keras")
    small = shrink(loaded)
    agree(small, model)
    assert int(small.optimizer.iterations) == 1
    small.save(tmp_path / "small.keras")
    agree(keras.models.load_model(tmp_path / "small.keras"), model)


def test_an_uncompiled_model_stays_uncompiled():
    small = shrink(masked(4, dead=[[1]]))
    assert not small.compiled


def test_no_regularizer_of_pruning_is_left_and_others_stay():
    arguments = {"kernel_regularizer": keras.regularizers.L2(0.1)}
    model = chain(4, (4, 2), recurrent_regularizer=ISSRegularizer(0.1), **arguments)
    small = shrink(model)
    for layer, _ in recurrent_of(small):
        kernels = [v for v in layer.weights if v.name == "kernel"]
        assert kernels == [v for v in layer.weights if v.regularizer is not None]
        assert layer.get_config()["recurrent_regularizer"] is None
    # It can be evaluated: an unbound regularizer would raise.
    small.compile("sgd", "mse")
    small.evaluate(inputs(), TARGETS, verbose=0)


def own_loss(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred))


@pytest.mark.parametrize(
    "loss",
    [own_loss, [own_loss], "mse", keras.losses.Huber(0.5)],
    ids=["function", "list", "name", "object"],
)
def test_compiled_with_the_same_loss(loss):
    compiled = {"optimizer": keras.optimizers.SGD(0.05), "loss": loss}
    model = masked(4, dead=[[1]], compiled=compiled)
    small = shrink(model)
    assert float(small.optimizer.learning_rate) == pytest.approx(0.05)
    ours = small.evaluate(inputs(), TARGETS, verbose=0)
    assert ours == pytest.approx(model.evaluate(inputs(), TARGETS, verbose=0), rel=1e-5)


def test_several_outputs_with_losses_of_their_own():
    start = keras.Input((None, FEATURES))
    first, left, right = layers.LSTM(5), layers.Dense(2, name="l"), layers.Dense(1)
    units = first(start)
    model = keras.Model(start, {"l": left(units), "r": right(units)})
    model.compile(
        "adam",
        {"l": own_loss, "r": "mse"},
        loss_weights={"l": 1.0, "r": 2},
        run_eagerly=True,
    )
    y = {"l": TARGETS, "r": TARGETS[:, :1]}
    model.fit(inputs(), y, verbose=0)
    kill(first, [left, right], [0, 3])
    small = shrink(model)
    assert small.evaluate(inputs(), y, verbose=0) == pytest.approx(
        model.evaluate(inputs(), y, verbose=0), rel=1e-5
    )


def test_losses_and_metrics_of_ones_own_go_along():
    class OwnLoss(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return ops.mean(ops.abs(y_true - y_pred), axis=-1)

    def own_metric(y_true, y_pred):
        return ops.mean(y_true - y_pred, axis=-1)

    model = masked(4, dead=[[1]])
    metrics = [own_metric, "mae", keras.metrics.MeanSquaredError(name="squares")]
    model.compile("sgd", OwnLoss(), metrics=metrics, run_eagerly=True)
    small = shrink(model)
    assert small.evaluate(inputs(), TARGETS, verbose=0) == pytest.approx(
        model.evaluate(inputs(), TARGETS, verbose=0), rel=1e-5
    )
    # A metric adds up: the two models must not share one.
    assert not {id(m) for m in small.metrics} & {id(m) for m in model.metrics}


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_a_lambda_as_loss_goes_along():
    model = masked(4, dead=[[1]])
    model.compile("sgd", lambda y_true, y_pred: ops.mean(ops.abs(y_true - y_pred)))
    small = shrink(model)
    assert small.evaluate(inputs(), TARGETS, verbose=0) == pytest.approx(
        model.evaluate(inputs(), TARGETS, verbose=0), rel=1e-5
    )


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.01),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5),
    "accumulating": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
    "schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    ),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


@pytest.mark.parametrize("name", conftest.often(OPTIMIZERS, "ema", "scaled"))
def test_one_more_step_is_the_same_for_the_living(name):
    """The dead stay zero by hand; the living go where they would have gone."""
    # Without dropout, so that both see the same.
    start = keras.Input((TIME, FEATURES))
    first = layers.LSTM(5, return_sequences=True, unroll=True)
    second = GroupedLSTM(4, 2, 0.6, unroll=True)
    head = layers.Dense(2)
    model = keras.Model(start, head(second(first(start))))
    model.compile(OPTIMIZERS[name](), "mse", run_eagerly=True)
    x, dead = inputs(), [(first, [second], [1, 2]), (second, [head], [3])]
    for _ in range(3):
        model.train_on_batch(x, TARGETS)
        for layer, readers, units in dead:
            kill(layer, readers, units)
    small = shrink(model)
    assert [l.units for l in small.layers if hasattr(l, "units")][:2] == [3, 3]  # noqa: E741
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations)
    assert float(small.optimizer.learning_rate) == pytest.approx(
        float(model.optimizer.learning_rate)
    )
    for net in (model, small):
        net.train_on_batch(x, TARGETS)
    for layer, readers, units in dead:
        kill(layer, readers, units)
    for ours, theirs in zip(small.weights, shrink(model).weights, strict=True):
        np.testing.assert_allclose(
            array(ours.value), array(theirs.value), atol=2e-6, err_msg=ours.path
        )


def test_moments_are_slices():
    model = masked(4, dead=[[1]], compiled={"optimizer": "adam", "loss": "mse"})
    small = shrink(model)
    old = {v.path: array(v.value) for v in model.optimizer.variables}
    new = {v.path: array(v.value) for v in small.optimizer.variables}
    living = [0, 2, 3]
    columns = [4 * gate + unit for gate in range(4) for unit in living]
    cuts = {
        "recurrent_kernel": np.ix_(living, columns),
        "cell_kernel": (slice(None), columns),
        "cell_bias": columns,
        "head_kernel": living,
        "head_bias": slice(None),
    }
    for weight, cut in cuts.items():
        for slot in ("momentum", "velocity"):
            (a,) = (v for k, v in old.items() if k.endswith(f"{weight}_{slot}"))
            (b,) = (v for k, v in new.items() if k.endswith(f"{weight}_{slot}"))
            assert np.any(b)
            np.testing.assert_array_equal(a[cut], b)


def test_moments_of_weights_of_one_path_are_not_mixed_up():
    def part(name):
        return keras.Sequential(
            [
                keras.Input((None, 4)),
                layers.Dense(4, name="dense"),
                layers.LSTM(4, return_sequences=True, name="lstm"),
                layers.Dense(4, name="out"),
            ],
            name=name,
        )

    one, two = part("one"), part("two")
    model = keras.Sequential([keras.Input((None, 4)), one, two])
    model.compile("adam", "mse", run_eagerly=True)
    x = inputs(2, 3)[..., :4]
    model.fit(x, x + 1, verbose=0)
    kill(one.get_layer("lstm"), [one.get_layer("out")], [1])
    kill(two.get_layer("lstm"), [two.get_layer("out")], [2])
    small = shrink(model)
    for net in (model, small):
        net.train_on_batch(x, x + 1)
    kill(one.get_layer("lstm"), [one.get_layer("out")], [1])
    kill(two.get_layer("lstm"), [two.get_layer("out")], [2])
    agree(small, model, x, 1e-5)


def test_frozen_after_training():
    model = masked(5, 4, dead=[[1], [0]], compiled={"optimizer": "adam", "loss": "mse"})
    model.get_layer("r0").trainable = False
    small = shrink(model)
    agree(small, model)
    assert not small.get_layer("r0").trainable


def test_dropout_goes_on_where_it_was():
    model = masked(6, 4, dead=[[], [1]], compiled={"optimizer": "sgd", "loss": "mse"})
    small = shrink(model)
    first = array(small(inputs(), training=True))
    np.testing.assert_allclose(array(model(inputs(), training=True)), first, atol=1e-5)
    # Not the masks that a fresh generator would draw again.
    assert not np.allclose(array(small(inputs(), training=True)), first)


@pytest.mark.parametrize("spec", [5, (5, [2, 3], 0.6)])
def test_stateful_layers_keep_the_states_of_the_living(spec):
    start = keras.Input(batch_shape=(3, 4, FEATURES))
    first, head = recurrent(spec, stateful=True), layers.Dense(2)
    model = keras.Model(start, head(first(start)))
    kill(first, [head], [1, 3])
    model(inputs())
    small = shrink(model)
    assert [tuple(s.shape) for s in small.layers[1].states] == [(3, 3)] * 2
    agree(small, model, inputs(seed=1))


def test_mixed_precision():
    model = masked(6, (4, 2), dead=[[1], [0]], dtype="mixed_float16")
    small = shrink(model)
    assert small.get_layer("r1").compute_dtype == "float16"
    agree(small, model, tolerance=2e-3)


def test_words_in_and_words_out():
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            TieredEmbedding(30, 8, density=0.5, blocks=4, mask_zero=True),
            layers.LSTM(6, return_sequences=True),
            GroupedLSTM(6, 2, return_sequences=True),
            layers.TimeDistributed(layers.Dense(30)),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    first, second, head = model.layers[1:]
    kill(first, [second], [0, 5])
    kill(second, [head], [2])
    small = shrink(model)
    x = np.array([[4, 7, 29, 0], [1, 2, 0, 0]])
    agree(small, model, x)
    assert small.evaluate(x, x, verbose=0) == pytest.approx(
        model.evaluate(x, x, verbose=0), rel=1e-5
    )


def test_ignored_layers_keep_their_dead():
    model = masked(6, 4, dead=[[1], [2]])
    small = shrink(model, ["r0"])
    assert [small.get_layer(name).units for name in ("r0", "r1")] == [6, 3]
    agree(small, model)


def test_a_lambda_behind_the_readers_is_copied():
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            layers.LSTM(4, name="r0"),
            layers.Dense(2),
            layers.Lambda(lambda x: 2 * x),
        ]
    )
    kill(model.layers[0], [model.layers[1]], [1])
    small = shrink(model)
    assert small.layers[0].units == 3
    agree(small, model)


def test_ignore_takes_the_names_of_the_report():
    start = keras.Input((5, 3))
    inner = keras.Sequential(
        [keras.Input((5, 3)), layers.LSTM(6, name="r")], name="inner"
    )
    model = keras.Model(start, layers.Dense(2)(inner(start)))
    mask(model)
    assert shrink(model).get_layer("inner").get_layer("r").units == 3
    small = shrink(model, ignore="inner/r")
    assert small.get_layer("inner").get_layer("r").units == 6
    with pytest.raises(ValueError, match=r"'other/r'.*'inner/r'"):
        shrink(model, ignore="other/r")


def test_an_initializer_with_an_array_of_the_old_shape():
    words = keras.Input((5,), dtype="int32")
    table = np.random.default_rng(0).standard_normal((9, 6)).astype("float32")
    tied = layers.ReversibleEmbedding(9, 6, keras.initializers.Constant(table))
    lstm = layers.LSTM(6, return_sequences=True)
    model = keras.Model(words, tied(lstm(tied(words)), reverse=True))
    mask(model)
    small = shrink(model)
    assert small.count_params() < model.count_params()
    ids = np.arange(10).reshape(2, 5) % 9
    np.testing.assert_allclose(
        small.predict(ids, verbose=0), model.predict(ids, verbose=0), atol=1e-5
    )
