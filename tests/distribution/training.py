"""What the scripts of this folder train: the same small model on the same numbers."""

import warnings

import keras
import numpy as np

from keras_sparse_rnn import GroupedLSTM

# As in pyproject.toml: these scripts run outside pytest.
warnings.simplefilter("error")
warnings.filterwarnings(
    "ignore",
    message="__array__ implementation doesn't accept a copy keyword",
    category=DeprecationWarning,
)

STEPS, FEATURES, BATCH, BATCHES = 6, 8, 8, 4


def lstm():
    """The layer of most of these trainings."""
    return GroupedLSTM(32, 4)


def data():
    """Inputs and targets of all batches."""
    random = np.random.default_rng(0)
    x = random.normal(size=(BATCHES * BATCH, STEPS, FEATURES)).astype("float32")
    return x, random.normal(size=(BATCHES * BATCH, 1)).astype("float32")


def model_of(layer):
    """A compiled model around `layer()`, with the same weights at each call."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((STEPS, FEATURES)), layer(), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


def trained(model, x=None, y=None, batch_size=BATCH):
    """The losses of three epochs, and the weights after them."""
    if x is None:
        x, y = data()
    history = model.fit(x, y, batch_size, epochs=3, shuffle=False, verbose=0)
    weights = [weight.tolist() for weight in model.get_weights()]
    return {"losses": history.history["loss"], "weights": weights}
