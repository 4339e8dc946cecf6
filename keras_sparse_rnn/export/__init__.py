"""From a Keras model to a file for servers and devices. Needs TensorFlow."""

from keras_sparse_rnn.export.runtime import TFLiteModel
from keras_sparse_rnn.export.saved_model import SavedModelReport, export_saved_model
from keras_sparse_rnn.export.tflite import ExportReport, export_tflite

__all__ = [
    "ExportReport",
    "SavedModelReport",
    "TFLiteModel",
    "export_saved_model",
    "export_tflite",
]
