"""Keras's own tests of its recurrent layers, with our layers of one group in them.

The installed Keras brings its tests along. Each class below runs one of them, in which
`layers.LSTM` and the like are replaced.
"""

import importlib

import keras
import pytest
from keras.src import layers as keras_layers

from keras_sparse_rnn.layers import (
    GroupedGRU,
    GroupedGRUCell,
    GroupedLSTM,
    GroupedLSTMCell,
    GroupedSimpleRNN,
    GroupedSimpleRNNCell,
)

# Keras does not run its tests with warnings as errors.
pytestmark = pytest.mark.filterwarnings("ignore")
FOLDER = "keras.src.layers.rnn"
try:
    lstm_test = importlib.import_module(f"{FOLDER}.lstm_test")
    gru_test = importlib.import_module(f"{FOLDER}.gru_test")
    simple_rnn_test = importlib.import_module(f"{FOLDER}.simple_rnn_test")
    bidirectional_test = importlib.import_module(f"{FOLDER}.bidirectional_test")
except ImportError as error:
    pytest.skip(
        f"Keras {keras.__version__} has no tests here, or not what they need: {error}",
        allow_module_level=True,
    )


def of_one_group(grouped):
    """`grouped` with the arguments of the stock class."""

    def __init__(self, units, implementation=2, groups=1, **kwargs):
        # Stock Keras computes the same with either implementation.
        grouped.__init__(self, units, groups, **kwargs)

    made = type(f"One{grouped.__name__}", (grouped,), {"__init__": __init__})
    return keras.saving.register_keras_serializable("keras_tests")(made)


class Layers:
    """The namespace `keras.src.layers`, with our layers in place of its own."""

    LSTM = of_one_group(GroupedLSTM)
    GRU = of_one_group(GroupedGRU)
    SimpleRNN = of_one_group(GroupedSimpleRNN)
    LSTMCell = of_one_group(GroupedLSTMCell)
    GRUCell = of_one_group(GroupedGRUCell)
    SimpleRNNCell = of_one_group(GroupedSimpleRNNCell)

    def __getattr__(self, name):
        return getattr(keras_layers, name)


@pytest.fixture(autouse=True)
def _ours_instead(monkeypatch):
    for module in (
        lstm_test,
        gru_test,
        simple_rnn_test,
        bidirectional_test,
    ):
        monkeypatch.setattr(module, "layers", Layers())
    filtering = keras.config.is_traceback_filtering_enabled()
    yield
    # Keras's tests turn it off.
    if filtering:
        keras.config.enable_traceback_filtering()


class TestLSTM(lstm_test.LSTMTest):
    pass


class TestGRU(gru_test.GRUTest):
    pass


class TestSimpleRNN(simple_rnn_test.SimpleRNNTest):
    pass


class TestBidirectional(bidirectional_test.SimpleRNNTest):
    # These two ask for a private shortcut that `Bidirectional` has for the very classes
    # `keras.layers.LSTM` and `keras.layers.GRU`, and that no other class may take.
    test_fused_lstm_eligibility = None
    test_fused_gru_eligibility = None
