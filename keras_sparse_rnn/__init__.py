"""Small, fast recurrent networks for Keras 3, all the way to the phone.

Start sparse (`GroupedLSTM` and its siblings, `TieredEmbedding`), become sparse
(`ISSPruning`, `ISSRegularizer`, `shrink`), ship (`export_tflite`,
`export_saved_model`). The names of export are imported when they are first used: only
they need TensorFlow.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any


def _is_command() -> bool:
    """Whether this process is the command line.

    It looks at TFLite files without Keras, and keeps TensorFlow's log off the terminal,
    so it imports what it needs itself.
    """
    words = sys.orig_argv
    if "-m" in words and sys.argv[:1] == ["-m"]:
        return words[words.index("-m") + 1] == __name__
    return Path(sys.argv[0] if sys.argv else "").stem == "keras-sparse-rnn"


if not _is_command():
    from keras_sparse_rnn.iss import (
        Cost,
        ISSPruning,
        ISSRegularizer,
        LayerCost,
        LayerReport,
        PruningReport,
        Rule,
        fit_shrinking,
        register_rule,
        report,
        shrink,
    )
    from keras_sparse_rnn.layers import (
        Budget,
        GroupedGRU,
        GroupedGRUCell,
        GroupedLSTM,
        GroupedLSTMCell,
        GroupedSimpleRNN,
        GroupedSimpleRNNCell,
        KeptShare,
        RecurrentHighway,
        RecurrentHighwayCell,
        TieredEmbedding,
        UnevenBidirectional,
        WeightDropLSTM,
        check_order,
        compress_embedding,
        frequency_order,
        from_dense,
        geometric_tiers,
        kept_share,
        match_dense,
        to_dense,
    )
    from keras_sparse_rnn.training import (
        ActivationRegularizer,
        AveragedSGD,
        ContiguousText,
        ContiguousTraining,
        ExactBackup,
        NonMonotonicAveraging,
        TemporalActivationRegularizer,
    )

if TYPE_CHECKING:
    from keras_sparse_rnn.export import (
        ExportReport,
        SavedModelReport,
        TFLiteModel,
        export_saved_model,
        export_tflite,
    )

__version__ = "0.1.0"

__all__ = [
    "ActivationRegularizer",
    "AveragedSGD",
    "Budget",
    "ContiguousText",
    "ContiguousTraining",
    "Cost",
    "ExactBackup",
    "ExportReport",
    "GroupedGRU",
    "GroupedGRUCell",
    "GroupedLSTM",
    "GroupedLSTMCell",
    "GroupedSimpleRNN",
    "GroupedSimpleRNNCell",
    "ISSPruning",
    "ISSRegularizer",
    "KeptShare",
    "LayerCost",
    "LayerReport",
    "NonMonotonicAveraging",
    "PruningReport",
    "RecurrentHighway",
    "RecurrentHighwayCell",
    "Rule",
    "SavedModelReport",
    "TFLiteModel",
    "TemporalActivationRegularizer",
    "TieredEmbedding",
    "UnevenBidirectional",
    "WeightDropLSTM",
    "check_order",
    "compress_embedding",
    "export_saved_model",
    "export_tflite",
    "fit_shrinking",
    "frequency_order",
    "from_dense",
    "geometric_tiers",
    "kept_share",
    "match_dense",
    "register_rule",
    "report",
    "shrink",
    "to_dense",
]

_EXPORT = (
    "ExportReport",
    "SavedModelReport",
    "TFLiteModel",
    "export_saved_model",
    "export_tflite",
)


def __getattr__(name: str) -> Any:
    if name in _EXPORT:
        return getattr(importlib.import_module("keras_sparse_rnn.export"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
