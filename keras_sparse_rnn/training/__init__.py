"""What language models are trained with, beside layers: as AWD-LSTM is."""

from keras_sparse_rnn.training.activation_regularizers import (
    ActivationRegularizer,
    TemporalActivationRegularizer,
)
from keras_sparse_rnn.training.averaged_sgd import AveragedSGD, NonMonotonicAveraging
from keras_sparse_rnn.training.contiguous_text import (
    ContiguousText,
    ContiguousTraining,
)
from keras_sparse_rnn.training.exact_backup import ExactBackup

__all__ = [
    "ActivationRegularizer",
    "AveragedSGD",
    "ContiguousText",
    "ContiguousTraining",
    "ExactBackup",
    "NonMonotonicAveraging",
    "TemporalActivationRegularizer",
]
