"""TensorFlow's converter as a program of its own, which may crash alone.

Run by `converter`, and only by path: importing the package would cost seconds. Reads
one request a line from standard input, as JSON, and answers each with a line.
"""

import json
import os
import sys
import warnings
from pathlib import Path


def main() -> None:
    """Answers requests until there are no more."""
    # The folder of this file holds modules that are none of TensorFlow's business.
    sys.path.pop(0)
    # What TensorFlow prints goes to the log; only answers go to the caller.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import tensorflow as tf

    for line in sys.stdin:
        try:
            _convert(tf, **json.loads(line))
            error = None
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()


def _convert(tf, saved_model, signature, quantize, one_scale, samples, output):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_saved_model(
            saved_model, signature_keys=[signature]
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        # Outputs of a loop are then written by one operation, not several.
        converter._experimental_enable_dynamic_update_slice = True
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        # With a scale for each row, dense weights are stored apart from the same ones
        # that are looked up.
        name = "_experimental_disable_per_channel_quantization_for_dense_layers"
        setattr(converter, name, one_scale)
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
                tf.lite.OpsSet.TFLITE_BUILTINS,
            ]
            converter.representative_dataset = lambda: _samples(samples)
        Path(output).write_bytes(converter.convert())


def _samples(folder):
    import numpy as np

    for path in sorted(Path(folder).iterdir()):
        with np.load(path) as arrays:
            yield {name[1:]: array for name, array in arrays.items()}


if __name__ == "__main__":
    main()
