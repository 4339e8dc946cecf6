"""From a Keras model to a file for servers and devices. Needs TensorFlow.

But for reading and running TFLite files, so that names are imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_sparse_rnn.export.runtime import TFLiteModel
    from keras_sparse_rnn.export.saved_model import SavedModelReport, export_saved_model
    from keras_sparse_rnn.export.tflite import ExportReport, export_tflite

_MODULES = {
    "ExportReport": "tflite",
    "SavedModelReport": "saved_model",
    "TFLiteModel": "runtime",
    "export_saved_model": "saved_model",
    "export_tflite": "tflite",
}

__all__ = [
    "ExportReport",
    "SavedModelReport",
    "TFLiteModel",
    "export_saved_model",
    "export_tflite",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
