"""What ISS has to beat: pulls on single weights, and on rows and columns.

Both are in the code of Wen et al. (ICLR 2018), and the first is a baseline of their
paper: weights are pulled towards zero in the loss, and those that come near are set to
zero after each step.
"""

from typing import Any

import keras
from keras import ops

# In the paper's code, for all weights, biases and the embedding too.
THRESHOLD = 1e-4


@keras.saving.register_keras_serializable("language_models")
class RowsAndColumns(keras.regularizers.Regularizer):
    """The norms of all rows and all columns of a matrix, times a strength."""

    def __init__(self, strength: float):
        self.strength = strength

    def __call__(self, x: Any) -> Any:
        squares = ops.square(x)
        # Of a row that is all zero a root has no gradient.
        rows = ops.sqrt(ops.sum(squares, axis=1) + 1e-8)
        columns = ops.sqrt(ops.sum(squares, axis=0) + 1e-8)
        return self.strength * (ops.sum(rows) + ops.sum(columns))

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength}


@keras.saving.register_keras_serializable("language_models")
class Threshold(keras.constraints.Constraint):
    """Small weights are zero."""

    def __init__(self, least: float = THRESHOLD):
        self.least = least

    def __call__(self, w: Any) -> Any:
        value = ops.convert_to_tensor(w)
        return value * ops.cast(ops.abs(value) >= self.least, value.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"least": self.least}


def single_weights(strength: float, steps: int) -> dict[str, dict[str, Any]]:
    """L1 with thresholding, of all weights but the embedding's and biases.

    Args:
        strength: For a loss that is the mean over words.
        steps: Words of a window. The paper's strength is for their sum, and what is
            below twice of it becomes zero.

    Returns:
        Arguments of the embedding, the recurrent layers, and the dense one.
    """
    pull = keras.regularizers.L1(strength)
    least = max(THRESHOLD, 2 * strength * steps)
    found = _thresholds(least)
    found["recurrent"] |= {"kernel_regularizer": pull, "recurrent_regularizer": pull}
    found["output"] |= {"kernel_regularizer": pull}
    return found


def rows_and_columns(strength: float) -> dict[str, dict[str, Any]]:
    """Lasso of rows and columns of the recurrent layers, with thresholding."""
    pull = RowsAndColumns(strength)
    found = _thresholds(THRESHOLD)
    found["recurrent"] |= {"kernel_regularizer": pull, "recurrent_regularizer": pull}
    return found


def _thresholds(least: float) -> dict[str, dict[str, Any]]:
    near_zero = Threshold(least)
    names = {
        "table": ["embeddings"],
        "recurrent": ["kernel", "recurrent", "bias"],
        "output": ["kernel", "bias"],
    }
    return {
        layer: {f"{name}_constraint": near_zero for name in own}
        for layer, own in names.items()
    }


def share_of_zeros(model: keras.Model) -> float:
    """Of the weights of all kernels but the embedding's."""
    zeros = size = 0
    for variable in model.trainable_variables:
        if "kernel" in variable.path:
            value = ops.convert_to_numpy(variable)
            zeros += int((value == 0).sum())
            size += value.size
    return zeros / size
