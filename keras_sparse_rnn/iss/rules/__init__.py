"""One small rule for each kind of layer and operation, in a registry users add to."""

from keras_sparse_rnn.iss.rules import layers, moves, operations, recurrent
from keras_sparse_rnn.iss.rules.registry import Kept, Rule, register_rule, rule_of

__all__ = [
    "Kept",
    "Rule",
    "layers",
    "moves",
    "operations",
    "recurrent",
    "register_rule",
    "rule_of",
]
