"""A run that was interrupted comes to the same end as one that was not."""

import keras
import numpy as np
import pytest

import keras_sparse_rnn as ksr


def model_of():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            keras.layers.LSTM(5),
            keras.layers.Dropout(0.5, seed=4),
            keras.layers.Dense(2),
        ]
    )
    model.compile("adam", "mse")
    return model


def data():
    random = np.random.default_rng(0)
    return random.normal(size=(12, 4, 3)), random.normal(size=(12, 2))


class Killed(keras.callbacks.Callback):
    """Raises in the middle of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 8:
            raise KeyboardInterrupt


def test_goes_on_as_if_nothing_had_happened(tmp_path):
    fitting = {"batch_size": 4, "epochs": 5, "shuffle": False, "verbose": 0}
    whole = model_of()
    whole.fit(*data(), **fitting)

    backup = ksr.ExactBackup(tmp_path / "backup")
    model = model_of()
    assert backup.restore(model) == 0
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data(), **fitting, callbacks=[Killed(), backup])

    again = model_of()
    backup = ksr.ExactBackup(tmp_path / "backup")
    first = backup.restore(again)
    assert first == 2
    again.fit(*data(), **fitting, initial_epoch=first, callbacks=[backup])
    for a, b in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert not (tmp_path / "backup").exists()
