"""ISSPruning in `fit`: the target, the schedule, and that the dead stay dead."""

import functools

import chains
import conftest
import keras
import numpy as np
import pytest
from chains import (
    FEATURES,
    array,
    kill,
    norms,
    recurrent,
    recurrent_of,
)
from keras import layers

from keras_sparse_rnn import GroupedLSTM, ISSPruning, ISSRegularizer, TieredEmbedding

# With JAX every step is compiled.
EAGERLY = {"run_eagerly": keras.backend.backend() != "jax", "jit_compile": False}
COMPILED = {"run_eagerly": False}

# Two steps: all that is tested here is what happens to weights.
chain = functools.partial(chains.chain, time=2)
inputs = functools.partial(chains.inputs, time=2)
X = inputs(40)
Y = np.random.default_rng(5).standard_normal((40, 2)).astype("float32")


def dead_of(layer, readers):
    """Units of which nothing leaves, read from the weights by hand."""
    weights = layer.get_weights()
    groups = getattr(layer, "group_segments", [(0, layer.units)])
    per = len(weights) // len(groups)
    rows = np.concatenate(
        [np.abs(weights[g * per + 1]).sum(1) for g in range(len(groups))]
    )
    for reader in readers:
        own = reader.get_weights()
        windows = getattr(reader, "input_segments", [(0, layer.units)])
        for g, (begin, end) in enumerate(windows):
            rows[begin:end] += np.abs(own[g * len(own) // len(windows)]).sum(1)
    return set(np.flatnonzero(rows == 0).tolist())


class Watch(keras.callbacks.Callback):
    """Notes after every batch which units are dead, and that none came back."""

    def __init__(self, pairs):
        super().__init__()
        self.pairs = pairs
        self.history = []

    def on_train_batch_end(self, batch, logs=None):
        _ = self.model
        now = [dead_of(*pair) for pair in self.pairs]
        if self.history:
            for before, after in zip(self.history[-1], now, strict=True):
                assert before <= after
        self.history.append(now)

    def living(self):
        units = sum(layer.units for layer, _ in self.pairs)
        return [units - sum(len(dead) for dead in step) for step in self.history]


def train(model, pruning, watch=None, compiled=None, **arguments):
    # Compiling takes seconds: it is left to tests that need it, XLA to one. So does
    # the larger optimizer.
    compiled = {"optimizer": "sgd", **EAGERLY, **(compiled or {})}
    model.compile(loss="mse", **compiled)
    callbacks = [pruning, *([watch] if watch else [])]
    arguments = {
        "x": X,
        "y": Y,
        "batch_size": 4,
        "epochs": 2,
        "verbose": 0,
        **arguments,
    }
    return model.fit(callbacks=callbacks, **arguments)


def units_of(model):
    return [layer.units for layer, _ in recurrent_of(model)]


# The target and the schedule.


@pytest.mark.parametrize(
    ("keep", "specs"),
    [
        pytest.param(0.35, [8, 6], marks=pytest.mark.long),
        (0.5, [(8, 2, 0.75), 6]),
    ],
)
def test_keeps_exactly_the_share_asked_for_by_sixty_percent_of_the_steps(keep, specs):
    model = chain(*specs)
    watch, pruning = Watch(recurrent_of(model)), ISSPruning(keep)
    train(model, pruning, watch)
    target = round(14 * keep)
    living = watch.living()
    assert len(living) == 20
    assert living[11:] == [target] * 9
    assert living[2] == 14
    assert living == sorted(living, reverse=True)
    # More go early than late.
    assert living[3] - living[6] >= living[8] - living[11]
    small = pruning.pruned_model
    assert sum(units_of(small)) == target
    np.testing.assert_allclose(
        small.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-5
    )


def generator():
    while True:
        yield X[:4], Y[:4]


def ten_batches():
    for i in range(10):
        yield X[4 * i : 4 * i + 4], Y[4 * i : 4 * i + 4]


@pytest.mark.parametrize(
    ("arguments", "due"),
    [
        ({"epochs": 1}, 6),
        ({"epochs": 2, "steps_per_epoch": 5, "x": "endless"}, 6),
        ({"epochs": 1, "batch_size": 39}, 1),
    ],
    ids=str,
)
def test_reaches_its_target_by_sixty_percent_of_any_run(arguments, due):
    model = chain(6)
    watch, pruning = Watch(recurrent_of(model)), ISSPruning(0.5)
    if arguments.get("x") == "endless":
        endless = {"x": generator(), "y": None, "batch_size": None, "shuffle": False}
        arguments = {**arguments, **endless}
    train(model, pruning, watch, **arguments)
    assert watch.living()[due - 1 :] == [3] * (len(watch.history) - due + 1)
    assert pruning.pruned_model.layers[0].units == 3


def test_steps_are_counted_from_epoch_zero():
    model = chain(8)
    late = {"epochs": 4, "initial_epoch": 2}
    with pytest.raises(ValueError, match=r"epoch 2 of 4.*`begin=0.5` or more"):
        train(model, ISSPruning(0.5), **late)
    watch = Watch(recurrent_of(model))
    train(model, ISSPruning(0.5, begin=0.5, end=0.75, updates=4), watch, **late)
    # Steps 20 to 30 of 40, of which the first 20 lie in the epochs left out.
    assert watch.living()[1] == 8
    assert watch.living()[9:] == [4] * 11


def test_without_a_target_a_late_beginning_is_none():
    # Nothing reads a unit, but something enters it: it is not one that was removed.
    regularizer = ISSRegularizer(1e-3, form="paper")
    model = chain(8, recurrent_regularizer=regularizer)
    kill(*recurrent_of(model)[0], [0], columns=False)
    pruning = ISSPruning()
    train(model, pruning, epochs=4, initial_epoch=3)
    assert len(pruning.report.layers) == 1


def test_several_steps_in_one_execution():
    model = chain(6)
    pruning = ISSPruning(0.5)
    train(model, pruning, compiled={**COMPILED, "steps_per_execution": 4})
    assert units_of(pruning.pruned_model) == [3]
    steps = pruning.report.layers[0].removed_at
    # The first moment at or after the last step it may take.
    assert steps.max() <= 12
    assert set(steps[steps >= 0] % 4) <= {0, 10 % 4}


def unknown_length():
    import tensorflow as tf

    spec = (tf.TensorSpec((4, 2, FEATURES)), tf.TensorSpec((4, 2)))
    data = tf.data.Dataset.from_generator(ten_batches, output_signature=spec)
    return {"x": data, "y": None, "batch_size": None, "shuffle": False}


needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.data and GradientTape"
)


# Keras says so at the end of every epoch whose length it was not told.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@needs_tensorflow
def test_length_learned_in_the_first_epoch():
    model, pruning = chain(6), ISSPruning(0.5)
    train(model, pruning, **unknown_length(), epochs=3)
    assert units_of(pruning.pruned_model) == [3]
    assert pruning.report.steps == 30


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@needs_tensorflow
def test_one_epoch_of_unknown_length_needs_total_steps():
    model = chain(6)
    with pytest.raises(ValueError, match="total_steps"):
        train(model, ISSPruning(0.5), **unknown_length(), epochs=1)
    pruning = ISSPruning(0.5, total_steps=10)
    train(model, pruning, **unknown_length(), epochs=1)
    assert units_of(pruning.pruned_model) == [3]


def test_begin_and_end_are_shares_of_the_steps():
    model = chain(8)
    watch = Watch(recurrent_of(model))
    train(model, ISSPruning(0.5, begin=0.5, end=1.0, updates=2), watch)
    living = watch.living()
    assert living[:14] == [8] * 14
    assert living[14:19] == [round(8 * (1 - 0.5 * (1 - 0.5**3)))] * 5
    assert living[19] == 4


def test_everything_at_once_from_the_start():
    model = chain(8)
    watch = Watch(recurrent_of(model))
    train(model, ISSPruning(0.25, begin=0.0, end=0.0), watch)
    assert watch.living() == [2] * 20


def test_keep_one_removes_nothing():
    model, pruning = chain(6, 4), ISSPruning(1)
    train(model, pruning)
    assert units_of(pruning.pruned_model) == [6, 4]
    assert pruning.report.units_after == 10


def test_weakest_components_by_norm_over_root_size_go_first():
    model = chain(8)
    ((layer, readers),) = recurrent_of(model)
    model.compile(keras.optimizers.SGD(0.0), "mse", **EAGERLY)
    order = np.argsort(norms(layer, readers))
    pruning = ISSPruning(0.5)
    model.fit(X, Y, verbose=0, callbacks=[pruning])
    removed = np.flatnonzero(pruning.report.layers[0].removed_at >= 0)
    assert set(removed) == set(order[:4])


def test_one_ranking_runs_over_the_layers_with_a_floor_for_each():
    model = chain(8, 8)
    first, second = (layer for layer, _ in recurrent_of(model))
    first.set_weights([0.01 * w for w in first.get_weights()])
    second.set_weights([0.01 * second.get_weights()[0], *second.get_weights()[1:]])
    model.compile(keras.optimizers.SGD(0.0), "mse", **EAGERLY)
    pruning = ISSPruning(0.5, layer_floor=0.5)
    model.fit(X, Y, verbose=0, callbacks=[pruning])
    assert units_of(pruning.pruned_model) == [2, 6]
    pruning = ISSPruning(0.5, layer_floor=1.0)
    fresh = chain(8, 8)
    fresh.compile(keras.optimizers.SGD(0.0), "mse", **EAGERLY)
    fresh.fit(X, Y, verbose=0, callbacks=[pruning])
    assert units_of(pruning.pruned_model) == [4, 4]


# The dead stay dead.

OPTIMIZERS = {
    "adam": {"optimizer": "adam", **COMPILED},
    "momentum": {"optimizer": keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)},
    "average": {
        "optimizer": keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
        **COMPILED,
    },
    "overwritten average": {
        "optimizer": keras.optimizers.Adam(
            0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3
        )
    },
    "accumulated": {
        "optimizer": keras.optimizers.Adam(0.01, gradient_accumulation_steps=3)
    },
    "xla": {"optimizer": "adam", **COMPILED, "jit_compile": True},
}


# Without XLA, JAX takes many seconds for each.
@pytest.mark.parametrize(
    "name",
    ["xla"]
    if keras.backend.backend() == "jax"
    else conftest.often(OPTIMIZERS, "overwritten average"),
)
def test_dead_units_stay_dead(name):
    if name == "xla" and keras.backend.backend() == "torch":
        pytest.skip("no XLA")
    model = chain((6, 2, 0.6))
    optimizer = OPTIMIZERS[name]["optimizer"]
    if not isinstance(optimizer, str):
        optimizer = type(optimizer).from_config(optimizer.get_config())
    watch, pruning = Watch(recurrent_of(model)), ISSPruning(0.5)
    train(model, pruning, watch, {**OPTIMIZERS[name], "optimizer": optimizer})
    assert watch.living()[-1] == 3
    # Averaged weights, swapped in at the end, do not bring them back either.
    assert [dead_of(*pair) for pair in recurrent_of(model)] == watch.history[-1]
    assert units_of(pruning.pruned_model) == [3]
    np.testing.assert_allclose(
        pruning.pruned_model.predict(X, verbose=0),
        model.predict(X, verbose=0),
        atol=1e-5,
    )


@pytest.mark.parametrize("spec", conftest.often([6, (6, 2, 0.6)], (6, 2, 0.6)))
def test_dead_units_of_a_stateful_layer_stay_dead_and_carry_nothing(spec):
    start = keras.Input(batch_shape=(4, 2, FEATURES))
    first, head = recurrent(spec, stateful=True, unroll=True), layers.Dense(2)
    model = keras.Model(start, head(first(start)))
    watch, pruning = Watch([(first, [head])]), ISSPruning(0.5)
    train(model, pruning, watch, shuffle=False)
    assert watch.living()[-1] == 3
    (dead,) = watch.history[-1]
    for state in first.states:
        assert not array(state.value)[:, sorted(dead)].any()
    small = pruning.pruned_model
    np.testing.assert_allclose(array(small(X[:4])), array(model(X[:4])), atol=1e-5)


def test_a_users_own_constraints_go_on_and_are_back_afterwards():
    limit = keras.constraints.MaxNorm(0.5)
    model = chain(6, (4, 2), kernel_constraint=limit, recurrent_constraint=limit)
    before = [v.constraint for v in model.weights]
    pruning = ISSPruning(0.5)
    train(model, pruning)
    assert [v.constraint for v in model.weights] == before
    for net in (model, pruning.pruned_model):
        for variable in net.weights:
            if variable.constraint is not None:
                norm = np.linalg.norm(array(variable.value), axis=0)
                assert norm.max() <= 0.5 + 1e-5
    assert any(v.constraint is not None for v in pruning.pruned_model.weights)


def test_the_masked_model_has_no_variables_more_and_saves(tmp_path):
    model = chain(6, 4)
    names, parameters = [v.path for v in model.variables], model.count_params()
    seen = []

    class Save(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 8:
                seen.append([v.path for v in self.model.variables])
                seen.append(self.model.count_params())
                self.model.save(tmp_path / "masked.keras")

    model.compile("sgd", "mse", **EAGERLY)
    model.fit(X, Y, 4, verbose=0, callbacks=[ISSPruning(0.5), Save()])
    assert seen == [names, parameters]
    assert [v.path for v in model.variables] == names
    loaded = keras.models.load_model(tmp_path / "masked.keras")
    assert sum(len(dead_of(*pair)) for pair in recurrent_of(loaded)) == 5


def test_pruned_model_trains_on_and_saves(tmp_path):
    model, pruning = chain(6, 4), ISSPruning(0.5)
    train(model, pruning)
    small = pruning.pruned_model
    assert int(small.optimizer.iterations) == 20
    before = small.get_weights()
    small.fit(X, Y, verbose=0)
    assert not np.array_equal(before[0], small.get_weights()[0])
    small.save(tmp_path / "small.keras")
    np.testing.assert_allclose(
        keras.models.load_model(tmp_path / "small.keras").predict(X, verbose=0),
        small.predict(X, verbose=0),
        atol=1e-6,
    )


# What may not be pruned.


def test_ignored_layers_and_outputs_are_not_in_the_share():
    start = keras.Input((None, FEATURES))
    first = layers.LSTM(6, return_sequences=True, name="out")(start)
    second = layers.LSTM(8, return_sequences=True, name="pruned")(start)
    third = layers.LSTM(5, name="ignored")(second)
    model = keras.Model(start, [first, layers.Dense(2)(third)])
    pruning = ISSPruning(0.5, ignore=["ignored"])
    model.compile("sgd", ["mse", "mse"], **EAGERLY)
    model.fit(X, [np.zeros((40, 2, 6)), Y], 4, verbose=0, callbacks=[pruning])
    small = pruning.pruned_model
    assert [small.get_layer(n).units for n in ("out", "pruned", "ignored")] == [6, 4, 5]
    assert pruning.report.units_before == 8
    assert set(pruning.report.left_alone) == {"out", "ignored"}


def test_ignore_takes_one_name():
    model, pruning = chain(6, 4), ISSPruning(0.5, ignore="r0")
    train(model, pruning)
    assert units_of(pruning.pruned_model) == [6, 2]


@pytest.mark.parametrize(
    ("model", "arguments", "match"),
    [
        (lambda: chain(4), {"ignore": ["r0"]}, r"no units that may be pruned.*r0"),
        (lambda: chain(4), {"ignore": ["nobody"]}, "nobody"),
        (
            lambda: keras.Sequential([keras.Input((4, 5)), layers.LSTM(2)]),
            {},
            "output of the model",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((4, 5)), layers.Flatten(), layers.Dense(2)]
            ),
            {},
            "no recurrent layer",
        ),
        (
            lambda: keras.Sequential(
                [
                    keras.Input((4, 5)),
                    layers.LSTM(2),
                    layers.LayerNormalization(name="norm"),
                    layers.Dense(2),
                ]
            ),
            {},
            "'norm'",
        ),
    ],
    ids=["all ignored", "unknown name", "output", "no LSTM", "unknown layer"],
)
def test_a_model_that_can_not_be_pruned_is_an_error_before_training(
    model, arguments, match
):
    model = model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=match):
        train(model, ISSPruning(0.5, **arguments))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"keep": 0}, "keep=0"),
        ({"keep": 1.1}, "keep=1.1"),
        ({"keep": -0.5}, "keep=-0.5"),
        ({"keep": float("nan")}, "keep=nan"),
        ({"keep": True}, "keep=True"),
        ({"begin": 0.7}, "begin=0.7, end=0.6"),
        ({"end": 1.5}, "end=1.5"),
        ({"begin": -0.1}, "begin=-0.1"),
        ({"updates": 0}, "updates=0"),
        ({"updates": 2.5}, "updates=2.5"),
        ({"layer_floor": 2}, "layer_floor.*2"),
        ({"total_steps": 0}, "total_steps.*0"),
    ],
)
def test_impossible_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        ISSPruning(**{"keep": 0.5, **arguments})


def test_one_unit_of_every_group_outlives_any_share():
    model, pruning = chain((6, 3), (6, 2)), ISSPruning(0.05, layer_floor=0.0)
    with pytest.raises(ValueError, match=r"5 units.*not 1\. One unit .* of every"):
        train(model, pruning)
    model, pruning = chain((6, 3), (6, 2)), ISSPruning(5 / 12, layer_floor=0.0)
    train(model, pruning)
    small = pruning.pruned_model
    assert all(min(layer.group_sizes) >= 1 for layer, _ in recurrent_of(small))
    assert sum(units_of(small)) == 5


# Once more, and not to the end.


def test_a_second_fit_with_a_fresh_callback_goes_on():
    model = chain(8)
    train(model, ISSPruning(0.75))
    pruning = ISSPruning(0.25)
    model.fit(X, Y, 4, verbose=0, callbacks=[pruning])
    assert units_of(pruning.pruned_model) == [2]


def test_pruned_again_from_the_pruned():
    model, first = chain(8), ISSPruning(0.5)
    train(model, first)
    second = ISSPruning(0.5)
    first.pruned_model.fit(X, Y, 4, verbose=0, callbacks=[second])
    assert units_of(second.pruned_model) == [2]


def test_a_callback_can_be_used_twice():
    pruning = ISSPruning(0.5)
    for specs in ([8], [4, 6]):
        model = chain(*specs)
        train(model, pruning)
        assert sum(units_of(pruning.pruned_model)) == sum(specs) // 2
        assert pruning.report.units_after == sum(specs) // 2


def test_a_schedule_longer_than_training_is_an_error_before_it():
    pruning = ISSPruning(0.25, end=0.5, total_steps=500)
    with pytest.raises(ValueError, match=r"ends at step 250.*only 50 steps"):
        train(chain(8), pruning, epochs=5)


def test_training_that_stops_early_gives_what_there_is():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 4

    model, pruning = chain(8), ISSPruning(0.25, total_steps=20)
    model.compile("sgd", "mse", **EAGERLY)
    with pytest.warns(UserWarning, match="training ended before the schedule"):
        model.fit(X, Y, 4, epochs=5, verbose=0, callbacks=[pruning, Stop()])
    (left,) = units_of(pruning.pruned_model)
    assert 2 <= left < 8
    np.testing.assert_allclose(
        pruning.pruned_model.predict(X, verbose=0),
        model.predict(X, verbose=0),
        atol=1e-5,
    )


def test_early_stopping_listed_first_that_restores_weights_of_before_is_told():
    model, pruning = chain(8), ISSPruning(0.25)
    model.compile("sgd", "mse", **EAGERLY)
    stop = keras.callbacks.EarlyStopping(
        "val_loss", mode="max", patience=1, restore_best_weights=True
    )
    both = {"callbacks": [stop, pruning], "validation_data": (X, Y)}
    told = "put back weights|training ended"
    with pytest.warns(UserWarning, match=told) as caught:
        model.fit(X, Y, 4, epochs=5, verbose=0, **both)
    assert any("put back weights" in str(warning.message) for warning in caught)
    np.testing.assert_allclose(
        pruning.pruned_model.predict(X, verbose=0),
        model.predict(X, verbose=0),
        atol=1e-5,
    )


def test_early_stopping_listed_last_leaves_the_pruned_model_alone():
    model, pruning = chain(8), ISSPruning(0.25)
    model.compile("sgd", "mse", **EAGERLY)
    stop = keras.callbacks.EarlyStopping(
        "val_loss", mode="max", patience=9, restore_best_weights=True
    )
    both = {"callbacks": [pruning, stop], "validation_data": (X, Y)}
    history = model.fit(X, Y, 4, epochs=5, verbose=0, **both).history
    small = pruning.pruned_model
    assert units_of(small) == [2]
    loss = small.evaluate(X, Y, verbose=0)
    assert loss == pytest.approx(history["val_loss"][-1], rel=1e-5)


def test_frozen_weights_are_left_alone_with_the_reason():
    model, pruning = chain(6, 5), ISSPruning(0.5)
    model.get_layer("head").trainable = False
    head = model.get_layer("head").get_weights()
    train(model, pruning)
    assert units_of(pruning.pruned_model) == [3, 5]
    assert "frozen" in pruning.report.left_alone["r1"]
    for ours, theirs in zip(model.get_layer("head").get_weights(), head, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_lora_on_a_reader_is_refused_before_training():
    model = chain(6)
    model.get_layer("head").enable_lora(2)
    with pytest.raises(ValueError, match=r"'head'.*LoRA"):
        train(model, ISSPruning(0.5))


def test_validation_sees_the_masked_model():
    model, pruning = chain(8), ISSPruning(0.5)
    history = train(model, pruning, validation_data=(X, Y)).history
    small = pruning.pruned_model.evaluate(X, Y, verbose=0)
    assert small == pytest.approx(history["val_loss"][-1], rel=1e-5)


# With regularizers, and on words.


@pytest.mark.parametrize("form", conftest.often(["proximal", "paper"], "paper"))
def test_binds_regularizers_and_switches_them_off_at_the_target(form):
    regularizer = ISSRegularizer(1e-3, form)
    model = chain(6, (4, 2), recurrent_regularizer=regularizer)
    active = []

    class Note(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            active.append(regularizer.active)

    pruning = ISSPruning(0.5)
    # What is compiled must be compiled again.
    compiled = COMPILED if form == "proximal" else {}
    model.compile(keras.optimizers.SGD(0.1), "mse", **{**EAGERLY, **compiled})
    model.fit(X, Y, 4, verbose=0, callbacks=[pruning, Note()])
    assert active == [True] * 5 + [False] * 5
    small = pruning.pruned_model
    assert sum(units_of(small)) == 5
    assert small.losses == []


@pytest.mark.long
def test_a_language_model():
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            TieredEmbedding(20, 6, density=0.5, blocks=3),
            layers.Dropout(0.1),
            GroupedLSTM(8, 2, return_sequences=True, unroll=True),
            layers.Dropout(0.1),
            layers.LSTM(6, return_sequences=True, unroll=True),
            layers.TimeDistributed(layers.Dense(20)),
        ]
    )
    x = np.random.default_rng(0).integers(0, 20, (32, 6))
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    pruning = ISSPruning(0.5)
    model.fit(x, x, 4, verbose=0, callbacks=[pruning])
    assert pruning.report.units_after == 7
    np.testing.assert_allclose(
        pruning.pruned_model.predict(x, verbose=0),
        model.predict(x, verbose=0),
        atol=1e-5,
    )


def test_mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, pruning = chain(6, (4, 2)), ISSPruning(0.5)
        train(model, pruning, compiled=COMPILED)
        assert sum(units_of(pruning.pruned_model)) == 5
        pruning.pruned_model.fit(X, Y, verbose=0)
    finally:
        keras.config.set_dtype_policy(before)
