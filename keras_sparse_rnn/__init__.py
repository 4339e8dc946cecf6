"""Small, fast recurrent networks for Keras 3, all the way to the phone."""

from keras_sparse_rnn.layers import GroupedLSTM, TieredEmbedding

__version__ = "0.1.0"

__all__ = ["GroupedLSTM", "TieredEmbedding"]
