"""How a recurrent layer is written for a device."""

from keras_sparse_rnn.export.lowering.lstm import LOWERINGS, Replacer, UnknownTimeError

__all__ = ["LOWERINGS", "Replacer", "UnknownTimeError"]
