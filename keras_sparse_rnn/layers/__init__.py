"""Start sparse: layers with a sparse structure fixed before training."""

from keras_sparse_rnn.layers.budgets import Budget, match_dense
from keras_sparse_rnn.layers.compress import compress_embedding
from keras_sparse_rnn.layers.dense import KeptShare, from_dense, kept_share, to_dense
from keras_sparse_rnn.layers.grouped_gru import GroupedGRU, GroupedGRUCell
from keras_sparse_rnn.layers.grouped_lstm import GroupedLSTM, GroupedLSTMCell
from keras_sparse_rnn.layers.grouped_simple_rnn import (
    GroupedSimpleRNN,
    GroupedSimpleRNNCell,
)
from keras_sparse_rnn.layers.recurrent_highway import (
    RecurrentHighway,
    RecurrentHighwayCell,
)
from keras_sparse_rnn.layers.tiered_embedding import TieredEmbedding
from keras_sparse_rnn.layers.tiers import (
    check_order,
    frequency_order,
    geometric_tiers,
)
from keras_sparse_rnn.layers.uneven_bidirectional import UnevenBidirectional
from keras_sparse_rnn.layers.weight_drop import WeightDropLSTM

__all__ = [
    "Budget",
    "GroupedGRU",
    "GroupedGRUCell",
    "GroupedLSTM",
    "GroupedLSTMCell",
    "GroupedSimpleRNN",
    "GroupedSimpleRNNCell",
    "KeptShare",
    "RecurrentHighway",
    "RecurrentHighwayCell",
    "TieredEmbedding",
    "UnevenBidirectional",
    "WeightDropLSTM",
    "check_order",
    "compress_embedding",
    "frequency_order",
    "from_dense",
    "geometric_tiers",
    "kept_share",
    "match_dense",
    "to_dense",
]
