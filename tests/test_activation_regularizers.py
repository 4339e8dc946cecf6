"""Penalties on outputs, against their formulas in NumPy."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import keras_sparse_rnn as ksr

outputs = arrays.arrays(
    "float32",
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3)),
    elements=st.floats(-4, 4, width=32),
)


@given(outputs, st.floats(0, 5))
def test_size_of_outputs(x, strength):
    # Keras divides by the size of the batch.
    found = float(ksr.ActivationRegularizer(strength)(x)) / len(x)
    assert found == pytest.approx(strength * np.mean(x**2), rel=1e-5, abs=1e-6)


@given(outputs, st.floats(0, 5))
def test_change_of_outputs(x, strength):
    found = float(ksr.TemporalActivationRegularizer(strength)(x)) / len(x)
    changes = (x[:, 1:] - x[:, :-1]) ** 2
    expected = strength * changes.mean() if changes.size else 0.0
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_they_are_in_the_loss_and_saved_with_the_model(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((5, 2)),
            keras.layers.LSTM(
                3,
                return_sequences=True,
                activity_regularizer=ksr.TemporalActivationRegularizer(1.5),
            ),
            keras.layers.Dropout(
                0.4,
                noise_shape=(None, 1, None),
                activity_regularizer=ksr.ActivationRegularizer(2.0),
            ),
        ]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(4, 5, 2)).astype("float32")
    for one in (model, loaded):
        made = keras.ops.convert_to_numpy(one(x))
        penalties = sorted(
            float(keras.ops.convert_to_numpy(loss)) for loss in one.losses
        )
        expected = [
            1.5 * np.mean((made[:, 1:] - made[:, :-1]) ** 2),
            2.0 * np.mean(made**2),
        ]
        np.testing.assert_allclose(penalties, sorted(expected), rtol=1e-5)


def test_what_is_wrong_is_told():
    for kind in (ksr.ActivationRegularizer, ksr.TemporalActivationRegularizer):
        for strength in (-1, float("nan"), float("inf"), "2", True):
            with pytest.raises(ValueError, match="`strength` must be a number of at"):
                kind(strength)
    with pytest.raises(ValueError, match="return_sequences=True"):
        ksr.TemporalActivationRegularizer(1.0)(np.zeros((2, 3)))
