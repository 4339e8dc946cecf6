"""Pruning whole hidden units: Intrinsic Sparse Structures."""

from keras_sparse_rnn.iss.pruning import ISSPruning
from keras_sparse_rnn.iss.regularizer import ISSRegularizer
from keras_sparse_rnn.iss.report import LayerReport, PruningReport
from keras_sparse_rnn.iss.rules import Rule, register_rule
from keras_sparse_rnn.iss.shrink import shrink

__all__ = [
    "ISSPruning",
    "ISSRegularizer",
    "LayerReport",
    "PruningReport",
    "Rule",
    "register_rule",
    "shrink",
]
