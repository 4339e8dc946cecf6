"""TensorFlow SavedModels, for servers."""

import os
import warnings
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_sparse_rnn.export import copying, files


def export_saved_model(
    model: Any, path: str | os.PathLike[str], batch_size: int | None = None
) -> None:
    """Writes a TensorFlow SavedModel with one signature, `serving_default`.

    The signature's inputs are named after the model's inputs and its outputs after
    the layers that make them. Recurrent layers are written without cuDNN, so that
    the file runs on machines with and without a GPU. Dropout is off.

    Args:
        model: A Sequential or Functional Keras model. It is not changed.
        path: The directory to write. An older SavedModel there is replaced, but
            only once the new one is complete.
        batch_size: Fixes the batch size. By default it is as in the model,
            usually unknown, so that any batch can be served.

    Raises:
        ValueError: If the model can't be exported or `path` can't be written to.

    Example:

    >>> export_saved_model(model, "serving/1")
    >>> served = tf.saved_model.load("serving/1").signatures["serving_default"]
    """
    copying.check_model(model)
    check_positive("batch_size", batch_size)
    with files.new_directory(Path(path), "saved_model.pb") as directory:
        shapes = [list(tensor.shape) for tensor in model.inputs]
        if batch_size is not None:
            for shape in shapes:
                shape[0] = batch_size
        graph = copying.copy_model(model, lambda layer: None, shapes)
        archive = keras.export.ExportArchive()
        archive.track(graph)
        with warnings.catch_warnings():
            # From inside TensorFlow, and from layers that look at their inputs'
            # values where there are some; while a function is traced there are none.
            warnings.simplefilter("ignore", DeprecationWarning)
            archive.add_endpoint("serving_default", serving_function(graph))
            archive.write_out(str(directory), verbose=False)


def serving_function(graph: Any) -> Any:
    """A model's inference as a TensorFlow function with named inputs and outputs.

    Args:
        graph: What `copying.copy_model` returns.
    """
    names = copying.output_names(graph)

    def serve(*inputs: Any) -> dict[str, Any]:
        outputs = graph(list(inputs), training=False)
        return dict(zip(names, keras.tree.flatten(outputs), strict=True))

    signature = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for tensor, name in zip(graph.inputs, copying.input_names(graph), strict=True)
    ]
    return tf.function(serve, input_signature=signature, autograph=False)


def check_positive(name: str, value: object) -> None:
    """Raises unless `value` is `None` or a positive integer."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer or None. Received: {name}={value!r}."
        )
