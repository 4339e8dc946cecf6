"""Training with a model that becomes smaller on the way, against masks alone."""

import copy
import itertools

import conftest
import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_sparse_rnn import GroupedLSTM, ISSPruning, ISSRegularizer, fit_shrinking

TIME, FEATURES = 2, 4
rng = np.random.default_rng(0)
X = rng.standard_normal((16, TIME, FEATURES)).astype("float32")
Y = rng.standard_normal((16, 2)).astype("float32")
CLASSES = rng.integers(0, 2, 16)
WEIGHTS = rng.uniform(0.5, 2, 16).astype("float32")
# Units go from step 2 of 12 to step 7, in the midst of the fourth epoch.
EPOCHS, STEPS = 6, 2
# Each rebuild compiles anew, which takes longer than all the steps. Only JAX is slower
# without; what a compiled step sees is for one test.
JAX = keras.backend.backend() == "jax"
FAST = {"jit_compile": JAX, "run_eagerly": not JAX}
COMPILED = {"jit_compile": JAX, "run_eagerly": False}
if JAX:
    import jax

    # Nearly all of the time would go into optimizing tiny programs.
    jax.config.update("jax_disable_most_optimizations", True)


def array(value):
    return ops.convert_to_numpy(value)


def chain(*stack):
    start = keras.Input(batch_shape=(8, TIME, FEATURES))
    return keras.Sequential([start, *stack, layers.Dense(2, name="head")])


def stock():
    return chain(
        layers.LSTM(6, return_sequences=True, unroll=True, name="a"),
        layers.GRU(6, unroll=True, name="b"),
    )


def grouped():
    """Two groups, with states that are carried from batch to batch."""
    return chain(
        GroupedLSTM(8, 2, unroll=True, stateful=True, name="a"),
    )


def tied():
    """A bidirectional layer whose units are tied to those of another layer."""
    start = keras.Input((TIME, FEATURES))
    one = layers.SimpleRNN(4, unroll=True, name="one")
    both = layers.Bidirectional(one, name="both")(start)
    other = layers.SimpleRNN(8, unroll=True, name="other")(start)
    return keras.Model(start, layers.Dense(2, name="head")(both + other))


def simple(*before, **arguments):
    return chain(*before, layers.SimpleRNN(8, unroll=True, name="a", **arguments))


def dropped():
    # PyTorch draws without a generator where there is no seed.
    return simple(layers.Dropout(0.5, seed=3))


class Record(keras.callbacks.Callback):
    """What a callback is told, and the sizes of the model that it sees."""

    def __init__(self):
        super().__init__()
        self.told = []
        self.sizes = []

    def on_train_begin(self, logs=None):
        self.told.append("begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.told.append(epoch)
        self.sizes.append(self.model.count_params())

    def on_train_end(self, logs=None):
        self.told.append("end")


GIVEN = {"x": X, "y": Y, "batch_size": 8, "epochs": EPOCHS}


def compiled(make, optimizer="sgd", **arguments):
    """A model that is the same each time, its dropout too."""
    keras.utils.set_random_seed(1)
    model = make()
    model.compile(optimizer, **{"loss": "mse", **FAST, **arguments})
    return model


def pair(make, at, optimizer, callbacks=list, compile=None, **arguments):
    """The same training twice: with masks alone, and with `fit_shrinking`.

    Args:
        make: Makes the model.
        at: When it is rebuilt.
        optimizer: Makes the optimizer.
        callbacks: Makes the callbacks.
        compile: Arguments of `compile`.
        **arguments: Of `fit`.

    Returns:
        `(model, history, pruning, callbacks)` of either.
    """
    given = {**GIVEN, "shuffle": False, "verbose": 0, **arguments}
    found = []
    for masked in (True, False):
        model = compiled(make, optimizer(), **(compile or {}))
        pruning, others = ISSPruning(0.5, updates=3), callbacks()
        if masked:
            history = model.fit(**given, callbacks=[pruning, *others])
            small = pruning.pruned_model
        else:
            small, history = fit_shrinking(
                model, **given, pruning=pruning, at=at, callbacks=others
            )
            assert small is pruning.pruned_model
        found.append((small, history, pruning, others))
    return found


def alike(masked, shrunk, atol=1e-6):
    """Whether two runs came to the same."""
    (ours, history, pruning, _), (theirs, expected, reference, _) = shrunk, masked
    assert history.epoch == expected.epoch
    assert history.history.keys() == expected.history.keys()
    for name, values in expected.history.items():
        np.testing.assert_allclose(history.history[name], values, rtol=1e-5, atol=atol)
    assert len(ours.weights) == len(theirs.weights)
    for now, then in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(array(now), array(then), atol=atol)
    for now, then in zip(
        ours.optimizer.variables, theirs.optimizer.variables, strict=True
    ):
        np.testing.assert_allclose(array(now), array(then), atol=atol)
    for layer, same in zip(pruning.report.layers, reference.report.layers, strict=True):
        np.testing.assert_array_equal(layer.removed_at, same.removed_at)
        assert layer.segments == same.segments
    assert str(pruning.report) == str(reference.report)


# The same as with masks alone.


class Lambda:
    """Counts through `LambdaCallback`, which holds the functions on the instance."""

    def __init__(self):
        self.begun = []
        self.ended = []
        self.callback = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: self.begun.append(1),
            on_train_end=lambda logs: self.ended.append(1),
        )


@pytest.fixture(scope="module")
def watched():
    """The stock layers with Adam, metrics, validation, weights, and callbacks."""
    lambdas = []

    def callbacks():
        lambdas.append(Lambda())
        scheduler = keras.callbacks.LearningRateScheduler(lambda e, lr: lr * 0.8)
        return [Record(), lambdas[-1].callback, scheduler]

    runs = pair(
        stock,
        [2, 5],
        lambda: keras.optimizers.Adam(0.01),
        callbacks,
        {
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "metrics": ["accuracy"],
        },
        y=CLASSES,
        validation_data=(X[:8], CLASSES[:8]),
        class_weight={0: 0.5, 1: 2.0},
    )
    return runs, lambdas


def test_stock_layers_end_as_with_masks(watched):
    (masked, shrunk), _ = watched
    alike(masked, shrunk)
    small, history, _, _ = shrunk
    assert {"val_loss", "val_accuracy", "learning_rate", "units_left"} <= set(
        history.history
    )
    assert history.epoch == list(range(EPOCHS))
    assert history.model is small.history.model
    # A share of the units that there were at first, not of those after a rebuild.
    assert small.get_layer("a").units + small.get_layer("b").units == 6


def test_callbacks_see_one_training(watched):
    (masked, shrunk), lambdas = watched
    for record, *_ in (masked[3], shrunk[3]):
        assert record.told == ["begin", *range(EPOCHS), "end"]
    sizes = shrunk[3][0].sizes
    assert sizes[0] == sizes[1] > sizes[2] == sizes[4] > sizes[5]
    assert sizes[5] == shrunk[0].count_params()
    assert [(one.begun, one.ended) for one in lambdas] == [([1], [1])] * 2


def test_callbacks_are_what_they_were(watched):
    _, lambdas = watched
    for one in lambdas:
        one.callback.on_train_begin({})
        one.callback.on_train_end({})
        assert (one.begun, one.ended) == ([1, 1], [1, 1])
    (_, (_, _, pruning, (record, *_))), _ = watched
    for callback in (pruning, record):
        assert not {"on_train_begin", "on_train_end"} & set(vars(callback))


def test_the_smaller_model_saves_loads_and_trains_on(watched, tmp_path):
    (_, (small, *_)), _ = watched
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    loaded.run_eagerly = small.run_eagerly
    ours = small.fit(X, CLASSES, 8, verbose=0, shuffle=False).history["loss"]
    theirs = loaded.fit(X, CLASSES, 8, verbose=0, shuffle=False).history["loss"]
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert int(small.optimizer.iterations) == STEPS * (EPOCHS + 1)


def test_grouped_and_stateful_layers_end_as_with_masks():
    def callbacks():
        return [
            keras.callbacks.ReduceLROnPlateau(
                "loss", factor=0.5, patience=2, min_delta=9
            )
        ]

    masked, shrunk = pair(
        grouped,
        [3],
        lambda: keras.optimizers.SGD(0.05, momentum=0.9),
        callbacks,
        sample_weight=WEIGHTS,
    )
    alike(masked, shrunk)
    # What it waits for goes on over the rebuild: it has reduced after epochs 3 and 5.
    rates = shrunk[1].history["learning_rate"]
    assert rates == pytest.approx([0.05, 0.05, 0.05, 0.025, 0.025, 0.0125])
    for one, other in zip(
        shrunk[0].layers[0].states, masked[0].layers[0].states, strict=True
    ):
        np.testing.assert_allclose(array(one.value), array(other.value), atol=1e-6)
    # With JAX, `fit` carries no states from batch to batch.
    assert JAX or array(shrunk[0].layers[0].states[0].value).any()


def test_tied_and_bidirectional_layers_end_as_with_masks():
    alike(*pair(tied, [2], lambda: keras.optimizers.SGD(0.1, momentum=0.5)))


@pytest.mark.parametrize(
    ("form", "scale"),
    [("paper", True), pytest.param("proximal", True, marks=pytest.mark.long)],
)
def test_the_pull_of_a_regularizer_goes_on(form, scale):
    def pulled():
        regularizer = ISSRegularizer(0.02, form, scale_by_size=scale)
        return simple(recurrent_regularizer=regularizer)

    runs = pair(pulled, [2], lambda: keras.optimizers.SGD(0.05))
    alike(*runs)
    assert all(run[0].get_layer("a").recurrent_regularizer is None for run in runs)


def test_dropout_goes_on_where_it_was():
    # The dropped tensor keeps its shape, so the masks of both runs are the same.
    # Here the training step is compiled, and compiled again.
    alike(*pair(dropped, [2], lambda: "sgd", compile=COMPILED))


def endless():
    """Batches that differ, as long as any are wanted."""
    for i in itertools.count():
        yield X[:8] + i / 10, Y[8 * (i % 2) :][:8]


def test_a_generator_goes_on_where_it_was():
    given = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "verbose": 0, "shuffle": False}
    runs = []
    for masked in (True, False):
        model, pruning = compiled(simple), ISSPruning(0.5)
        if masked:
            history = model.fit(endless(), **given, callbacks=[pruning])
        else:
            _, history = fit_shrinking(
                model, endless(), **given, pruning=pruning, at=[2]
            )
        runs.append((pruning.pruned_model, history, pruning, []))
    alike(*runs)


def half(step):
    """All that is to go, in two halves."""
    return step in (4, 12), 0.3 if step < 12 else 0.6


def removed_at(at):
    """When each unit of two layers goes, by weights that no training changes.

    With these, the sizes after a rebuild would make another ranking.
    """
    model = chain(
        layers.SimpleRNN(12, return_sequences=True, name="a"),
        layers.SimpleRNN(6, name="b"),
    )
    random = np.random.default_rng(6)
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(random.normal(0, 0.5, weight.shape))
    model.compile()
    pruning = ISSPruning(schedule=half, layer_floor=0)
    pruning.set_model(model)
    pruning.set_params({"epochs": EPOCHS, "steps": 4})
    pruning.on_train_begin()
    for epoch in range(EPOCHS):
        pruning.on_epoch_begin(epoch)
        for batch in range(4):
            pruning.on_train_batch_end(batch)
        pruning.on_epoch_end(epoch)
        if epoch + 1 in at:
            pruning.set_model(pruning.move())
    pruning.on_train_end()
    return [layer.removed_at.tolist() for layer in pruning.report.layers]


def test_the_ranking_of_both_layers_is_that_of_the_whole_model():
    expected = removed_at([])
    assert removed_at([2]) == expected
    assert [set(layer) for layer in expected] == [{-1, 4, 12}] * 2


# How training ends.


def test_early_stopping_ends_everything():
    # Nothing is ever better by so much: it stops after three epochs of waiting, where
    # the model would be rebuilt.
    stop = keras.callbacks.EarlyStopping("loss", min_delta=99, patience=3)
    record, pruning = Record(), ISSPruning(0.5, end=0.3)
    small, history = fit_shrinking(
        compiled(simple),
        **GIVEN,
        verbose=0,
        pruning=pruning,
        at=[2, 4],
        callbacks=[stop, record],
    )
    assert history.epoch == [0, 1, 2, 3]
    assert stop.stopped_epoch == 3
    assert record.told == ["begin", 0, 1, 2, 3, "end"]
    assert small.get_layer("a").units == 4


class Failure(Exception):
    pass


class Fail(keras.callbacks.Callback):
    """Ends training in the midst of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.failing = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.failing:
            self.fail()

    def fail(self):
        raise Failure


def test_an_error_in_the_midst_leaves_callbacks_as_they_were():
    own, record, pruning = Lambda(), Record(), ISSPruning(0.5)
    before = dict(vars(own.callback))
    with pytest.raises(Failure):
        fit_shrinking(
            compiled(simple),
            **GIVEN,
            verbose=0,
            pruning=pruning,
            at=[2],
            callbacks=[own.callback, record, Fail(3)],
        )
    assert (own.begun, own.ended) == ([1], [])
    for name in ("on_train_begin", "on_train_end"):
        assert vars(own.callback)[name] is before[name]
        assert name not in vars(record) | vars(pruning)


def thinned():
    """Dropout of what units say: what it draws hangs on how many there are."""
    return chain(
        layers.SimpleRNN(8, unroll=True, return_sequences=True, name="a"),
        layers.Dropout(0.3, seed=7),
        layers.SimpleRNN(6, unroll=True, name="b"),
    )


def pulled():
    """A lasso makes units zero long before they are removed."""
    lasso = ISSRegularizer(0.2, form="paper", scale_by_size=False, threshold=0.3)
    return chain(
        layers.SimpleRNN(
            8,
            unroll=True,
            return_sequences=True,
            recurrent_regularizer=lasso,
            name="a",
        ),
        layers.Dropout(0.3, seed=7),
        layers.Flatten(),
    )


def backed_up(make, backup, *callbacks):
    lasso = ISSPruning(begin=0.6, end=0.8)
    pruning = lasso if make is pulled else ISSPruning(0.5)
    small, history = fit_shrinking(
        compiled(make, keras.optimizers.SGD(0.1, momentum=0.9)),
        **GIVEN,
        shuffle=False,
        verbose=0,
        at=[2, 3],
        pruning=pruning,
        backup=backup,
        callbacks=list(callbacks),
    )
    return small, history, pruning, []


@pytest.fixture(
    scope="module", params=conftest.often([dropped, thinned, pulled], thinned)
)
def uninterrupted(request):
    return request.param, backed_up(request.param, None)


def goes_on(uninterrupted, failing, folder):
    make, (whole, expected, reference, _) = uninterrupted
    small, history, pruning, _ = backed_up(make, folder)
    assert history.epoch == list(range(failing, EPOCHS))
    tail = copy.copy(expected)
    tail.epoch = history.epoch
    tail.history = {n: values[failing:] for n, values in expected.history.items()}
    alike((whole, tail, reference, []), (small, history, pruning, []))
    assert not folder.exists()


@pytest.mark.parametrize(
    "failing", [4, *(pytest.param(k, marks=pytest.mark.long) for k in (1, 2, 3, 5))]
)
def test_goes_on_from_its_backup(uninterrupted, failing, tmp_path):
    folder = tmp_path / "backup"
    with pytest.raises(Failure):
        backed_up(uninterrupted[0], folder, Fail(failing))
    assert len(list(folder.iterdir())) == 2
    goes_on(uninterrupted, failing, folder)


def test_goes_on_if_it_was_just_about_to_be_rebuilt(
    uninterrupted, monkeypatch, tmp_path
):
    folder = tmp_path / "backup"
    with monkeypatch.context() as patched:
        patched.setattr(ISSPruning, "move", Fail(3).fail)
        with pytest.raises(Failure):
            backed_up(uninterrupted[0], folder)
    goes_on(uninterrupted, 2, folder)


# What can't work.


@pytest.mark.parametrize(
    ("at", "initial"),
    [
        ([0], 0),
        ([6], 0),
        ([2, 9], 0),
        ([-1], 0),
        ([2], 2),
        ([2.0], 0),
        ([True], 0),
        (["2"], 0),
        ("23", 0),
    ],
    ids=str,
)
def test_epochs_at_which_nothing_can_be_rebuilt(at, initial):
    with pytest.raises(ValueError, match=r"between `initial_epoch` and `epochs`.*at="):
        fit_shrinking(
            compiled(simple),
            **GIVEN,
            initial_epoch=initial,
            pruning=ISSPruning(0.5),
            at=at,
        )


@pytest.mark.parametrize(
    ("callbacks", "match"),
    [
        (lambda: [keras.callbacks.BackupAndRestore("nowhere")], "BackupAndRestore"),
        (
            lambda: [
                [keras.callbacks.EarlyStopping("loss", restore_best_weights=True)]
            ],
            "EarlyStopping puts back weights",
        ),
        (lambda: [ISSPruning(0.3)], "one ISSPruning"),
        (lambda: keras.callbacks.CallbackList([]), "CallbackList"),
    ],
)
def test_callbacks_that_can_not_work_are_refused(callbacks, match):
    with pytest.raises(ValueError, match=match):
        fit_shrinking(
            compiled(simple),
            **GIVEN,
            pruning=ISSPruning(0.5),
            at=[2],
            callbacks=callbacks(),
        )


@pytest.mark.parametrize("pruning", [None, 0.5, ISSPruning])
def test_pruning_is_an_iss_pruning(pruning):
    with pytest.raises(ValueError, match="must be an `ISSPruning`"):
        fit_shrinking(compiled(simple), **GIVEN, pruning=pruning, at=[2])
