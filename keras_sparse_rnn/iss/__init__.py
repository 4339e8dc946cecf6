"""Pruning whole hidden units: Intrinsic Sparse Structures."""

from keras_sparse_rnn.iss.costs import Cost
from keras_sparse_rnn.iss.fitting import fit_shrinking
from keras_sparse_rnn.iss.pruning import ISSPruning
from keras_sparse_rnn.iss.regularizer import ISSRegularizer
from keras_sparse_rnn.iss.reports import LayerCost, LayerReport, PruningReport, report
from keras_sparse_rnn.iss.rules import Rule, register_rule
from keras_sparse_rnn.iss.shrink import shrink

__all__ = [
    "Cost",
    "ISSPruning",
    "ISSRegularizer",
    "LayerCost",
    "LayerReport",
    "PruningReport",
    "Rule",
    "fit_shrinking",
    "register_rule",
    "report",
    "shrink",
]
