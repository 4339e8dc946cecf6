"""Start sparse: layers with a sparse structure fixed before training."""

from keras_sparse_rnn.layers.grouped_gru import GroupedGRU, GroupedGRUCell
from keras_sparse_rnn.layers.grouped_lstm import GroupedLSTM, GroupedLSTMCell
from keras_sparse_rnn.layers.grouped_simple_rnn import (
    GroupedSimpleRNN,
    GroupedSimpleRNNCell,
)
from keras_sparse_rnn.layers.tiered_embedding import TieredEmbedding

__all__ = [
    "GroupedGRU",
    "GroupedGRUCell",
    "GroupedLSTM",
    "GroupedLSTMCell",
    "GroupedSimpleRNN",
    "GroupedSimpleRNNCell",
    "TieredEmbedding",
]
