"""A TensorFlow function as a TFLite file, by TensorFlow's converter."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_sparse_rnn.export.workers import Worker

SIGNATURE = "serving_default"
_worker = Worker("converter_process.py")


def convert(
    function: Any,
    variables: Iterable[Any],
    quantize: str | None,
    samples: Iterable[dict[str, Any]] = (),
    one_scale: bool = False,
) -> bytes:
    """The content of a TFLite file with one signature, `serving_default`.

    Args:
        function: A `tf.function` with an input signature, whose arguments and results
            have names.
        variables: The TensorFlow variables it reads.
        quantize: `None`, `"float16"`, `"dynamic"` or `"int8"`.
        samples: For `"int8"`: arrays by the arguments' names.
        one_scale: Whether int8 weights of products have one scale, not one a row.

    Raises:
        RuntimeError: If the converter says that it can't; `workers.Crash` if it
            crashes.
    """
    holder = tf.Module()
    holder.held = list(variables)
    with tempfile.TemporaryDirectory() as folder:
        parts = Path(folder)
        tf.saved_model.save(
            holder,
            str(parts / "saved_model"),
            signatures={SIGNATURE: function.get_concrete_function()},
        )
        (parts / "samples").mkdir()
        for number, sample in enumerate(samples):
            # NumPy has a word of its own, "file", for the path.
            named = {f"/{name}": array for name, array in sample.items()}
            np.savez(parts / "samples" / f"{number:06}.npz", **named)
        _worker.ask(
            saved_model=str(parts / "saved_model"),
            signature=SIGNATURE,
            quantize=quantize,
            one_scale=one_scale,
            samples=str(parts / "samples"),
            output=str(parts / "model.tflite"),
        )
        return (parts / "model.tflite").read_bytes()
