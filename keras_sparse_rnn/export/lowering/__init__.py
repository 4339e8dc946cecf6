"""How a recurrent layer is written for a device."""

from keras_sparse_rnn.export.lowering.carried import PREFIX, Carried
from keras_sparse_rnn.export.lowering.choice import (
    CLASSIC,
    LOWERINGS,
    TARGETS,
    LoweringError,
)
from keras_sparse_rnn.export.lowering.layer import Settings
from keras_sparse_rnn.export.lowering.replacing import Replacer

__all__ = [
    "CLASSIC",
    "LOWERINGS",
    "PREFIX",
    "TARGETS",
    "Carried",
    "LoweringError",
    "Replacer",
    "Settings",
]
