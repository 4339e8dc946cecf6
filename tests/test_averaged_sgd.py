"""Averaged SGD: steps are stock SGD's, and means are NumPy's of the weights."""

import keras
import numpy as np
import pytest

import keras_sparse_rnn as ksr


def problem(optimizer, **layer):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones", **layer)]
    )
    model.compile(optimizer, "mse")
    return model


def data(count=24):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 3)), random.normal(size=(count, 2))


class Weights(keras.callbacks.Callback):
    """The weights after each step."""

    def on_train_begin(self, logs=None):
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.model.get_weights())


class StartAfter(keras.callbacks.Callback):
    """Averages from a step on."""

    def __init__(self, step):
        super().__init__()
        self.step, self.count = step, 0

    def on_train_batch_begin(self, batch, logs=None):
        if self.count == self.step:
            self.model.optimizer.build(self.model.trainable_variables)
            self.model.optimizer.start_averaging()
        self.count += 1


@pytest.mark.parametrize("first", [0, 4])
def test_means_are_of_all_weights_since(first):
    x, y = data()
    # A constraint and a decay: means are of weights as they are after all of it.
    layer = {"kernel_constraint": "non_neg"}
    arguments = {"momentum": 0.5, "clipnorm": 1.0, "weight_decay": 0.01}
    stock = problem(keras.optimizers.SGD(0.1, **arguments), **layer)
    weights = Weights()
    stock.fit(x, y, 4, epochs=2, shuffle=False, verbose=0, callbacks=[weights])

    optimizer = ksr.AveragedSGD(0.1, **arguments)
    model = problem(optimizer, **layer)
    own = Weights()
    callbacks = [StartAfter(first), own]
    model.fit(x, y, 4, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    for mine, theirs in zip(own.steps, weights.steps, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    # `fit` leaves the means in the model.
    assert optimizer.averaging
    for number, found in enumerate(model.get_weights()):
        mean = np.mean([step[number] for step in weights.steps[first:]], axis=0)
        np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-6)


def test_without_averaging_it_is_sgd():
    x, y = data()
    stock, own = problem(keras.optimizers.SGD(0.1)), problem(ksr.AveragedSGD(0.1))
    for model in (stock, own):
        model.fit(x, y, 4, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(stock.get_weights(), own.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    before = own.get_weights()
    with own.optimizer.averages_in(own):
        np.testing.assert_array_equal(own.get_weights()[0], before[0])
    assert len(own.optimizer.variables) == len(stock.optimizer.variables) + 3


def test_means_are_in_the_model_for_a_block_only():
    x, y = data()
    model = problem(ksr.AveragedSGD(0.1))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.start_averaging()
    for _ in range(3):
        model.train_on_batch(x, y)
    before = model.get_weights()
    with model.optimizer.averages_in(model):
        averaged = model.get_weights()
    assert np.abs(averaged[0] - before[0]).max() > 1e-3
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_a_saved_model_goes_on_averaging(tmp_path):
    x, y = data()
    model = problem(ksr.AveragedSGD(0.1, momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.start_averaging()
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.averaging
    for one in (model, loaded):
        one.train_on_batch(x, y)
        one.train_on_batch(x, y)
    with (
        model.optimizer.averages_in(model),
        loaded.optimizer.averages_in(loaded),
    ):
        np.testing.assert_allclose(
            loaded.get_weights()[0], model.get_weights()[0], rtol=1e-6
        )


class Told(keras.callbacks.Callback):
    """Puts a made-up validation loss into the logs."""

    def __init__(self, values):
        super().__init__()
        self.values = values
        self.began = []

    def on_epoch_end(self, epoch, logs=None):
        self.began.append(self.model.optimizer.averaging)
        logs["val_loss"] = self.values[epoch]


@pytest.mark.parametrize(
    ("values", "patience", "starts"),
    [
        # Merity et al., algorithm 1: worse than the best of all but the last n.
        ([5, 4, 3, 3.5, 3.2, 3.1, 3.0], 2, 5),
        ([5, 4, 3, 3.5, 3.2, 2.9, 2.8], 2, None),
        ([5, 6, 7], 5, None),
        ([5, 6, 7, 8], 1, 2),
    ],
)
def test_averaging_starts_where_the_best_is_long_ago(values, patience, starts):
    x, y = data(4)
    model = problem(ksr.AveragedSGD(0.1))
    told = Told(values)
    averaging = ksr.NonMonotonicAveraging(patience=patience)
    model.fit(x, y, epochs=len(values), verbose=0, callbacks=[told, averaging])
    # After epoch k, so it is seen in epoch k + 1.
    expected = [starts is not None and epoch > starts for epoch in range(len(values))]
    assert told.began == expected
    assert averaging.history == values


def test_validation_is_of_the_means():
    x, y = data()
    model = problem(ksr.AveragedSGD(0.3))
    weights = Weights()
    history = model.fit(
        x,
        y,
        4,
        epochs=3,
        shuffle=False,
        verbose=0,
        validation_data=(x, y),
        # Losses of before, of a run that goes on: averaging begins after this epoch.
        callbacks=[weights, ksr.NonMonotonicAveraging(patience=1, history=[0.0, 1.0])],
    )
    steps = len(weights.steps) // 3
    mean = [
        np.mean(found, axis=0) for found in zip(*weights.steps[steps:], strict=True)
    ]
    error = np.mean((x @ mean[0] + mean[1] - y) ** 2)
    assert history.history["val_loss"][2] == pytest.approx(error, rel=1e-4)
    last = weights.steps[-1]
    assert np.abs(last[0] - mean[0]).max() > 1e-3


def test_what_is_wrong_is_told():
    for name, value in (("use_ema", True), ("gradient_accumulation_steps", 2)):
        with pytest.raises(ValueError, match="averages after every step"):
            ksr.AveragedSGD(0.1, **{name: value})
    with pytest.raises(ValueError, match="no variables to average yet"):
        ksr.AveragedSGD(0.1).start_averaging()
    x, y = data(4)
    with pytest.raises(ValueError, match="needs an `AveragedSGD`"):
        problem("adam").fit(x, y, verbose=0, callbacks=[ksr.NonMonotonicAveraging()])
    with pytest.raises(ValueError, match="monitors 'val_loss', and the logs have"):
        problem(ksr.AveragedSGD()).fit(
            x, y, verbose=0, callbacks=[ksr.NonMonotonicAveraging()]
        )


def recurrent():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(16, 4, 3)), random.normal(size=(16, 2))
    model = keras.Sequential(
        [keras.Input((4, 3)), keras.layers.LSTM(8), keras.layers.Dense(2)]
    )
    model.compile(ksr.AveragedSGD(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.start_averaging()
    return model, {"x": x, "y": y, "batch_size": 4, "epochs": 4, "verbose": 0}


def test_a_model_that_shrinks_goes_on_averaging():
    model, fitting = recurrent()
    pruning = ksr.ISSPruning(keep=0.5, begin=0.2, end=0.4, updates=1)
    small, _ = ksr.fit_shrinking(model, **fitting, pruning=pruning, at=[2])
    assert small.layers[0].units == 4
    assert small.optimizer.averaging
    assert int(keras.ops.convert_to_numpy(small.optimizer.averaged_steps)) == 16
    assert all(np.isfinite(w).all() for w in small.get_weights())


class Averaged(keras.callbacks.Callback):
    """How many units the averaged model has, after each epoch."""

    def on_train_begin(self, logs=None):
        self.units = []

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        with model.optimizer.averages_in(model):
            kernel = keras.ops.convert_to_numpy(model.layers[0].cell.recurrent_kernel)
            self.units.append(int(np.abs(kernel).any(axis=1).sum()))


def test_what_is_pruned_is_out_of_the_averages_too():
    model, fitting = recurrent()
    pruning = ksr.ISSPruning(keep=0.5, begin=0.2, end=0.4, updates=1)
    seen = Averaged()
    model.fit(**fitting, callbacks=[pruning, seen])
    assert seen.units == [8, 4, 4, 4]
    assert pruning.pruned_model.layers[0].units == 4


def test_the_best_averages_are_saved(tmp_path):
    x, y = data()
    model = problem(ksr.AveragedSGD(0.3))
    path = tmp_path / "best.keras"
    # The last epoch is worse than the one before, whose averages are saved.
    told = Told([3.0, 2.0, 1.0, 1.5])
    averaging = ksr.NonMonotonicAveraging(history=[5.0, 6.0], best_file=path)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.start_averaging()

    class Means(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            with self.model.optimizer.averages_in(self.model):
                means.append(self.model.get_weights())

    means = []
    model.fit(x, y, 4, epochs=4, verbose=0, callbacks=[told, averaging, Means()])
    best = keras.models.load_model(path).get_weights()
    np.testing.assert_allclose(best[0], means[2][0], rtol=1e-6)
    assert [one.name for one in tmp_path.iterdir()] == ["best.keras"]
