"""Layers that start sparse."""

from keras_sparse_rnn.layers.grouped_lstm import GroupedLSTM
from keras_sparse_rnn.layers.tiered_embedding import TieredEmbedding

__all__ = ["GroupedLSTM", "TieredEmbedding"]
