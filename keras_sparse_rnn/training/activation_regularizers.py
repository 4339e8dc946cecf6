"""Penalties on what recurrent layers put out: on its size, and on how it changes."""

import math
import numbers
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class ActivationRegularizer(keras.regularizers.Regularizer):
    """The mean square of a layer's outputs, times a strength (AR).

    For `activity_regularizer`. Unlike `keras.regularizers.L2`, which sums, it adds as
    much to the loss for sequences of any length. In AWD-LSTM it is on the outputs of
    the last layer, after dropout.

    Args:
        strength: What the mean is multiplied with, at least 0.

    Raises:
        ValueError: If the strength is no such number.

    Example:

    >>> keras.layers.Dropout(0.4, activity_regularizer=ActivationRegularizer(2.0))

    Reference:
        Merity et al., [Revisiting Activation Regularization for Language RNNs](
        https://arxiv.org/abs/1708.01009), 2017.
    """

    def __init__(self, strength: float):
        self.strength = _strength(strength)

    def __call__(self, x: Any) -> Any:
        """The sum over the batch of each example's penalty: a scalar.

        Keras divides what an `activity_regularizer` returns by the size of the batch.
        """
        return self.strength * _batch(x) * ops.mean(ops.square(x))

    def get_config(self) -> dict[str, Any]:
        """The argument it was made with."""
        return {"strength": self.strength}


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class TemporalActivationRegularizer(keras.regularizers.Regularizer):
    """The mean square of how outputs change from step to step, times a strength (TAR).

    For `activity_regularizer`. In AWD-LSTM it is on the outputs of the last LSTM,
    before dropout. What is masked counts as any other step.

    Args:
        strength: What the mean is multiplied with, at least 0.

    Raises:
        ValueError: If the strength is no such number; when called, if the outputs have
            no axis of time: their layer needs `return_sequences=True`.

    Example:

    >>> keras.layers.LSTM(
    ...     400,
    ...     return_sequences=True,
    ...     activity_regularizer=TemporalActivationRegularizer(1.0),
    ... )

    Reference:
        Merity et al., [Revisiting Activation Regularization for Language RNNs](
        https://arxiv.org/abs/1708.01009), 2017.
    """

    def __init__(self, strength: float):
        self.strength = _strength(strength)

    def __call__(self, x: Any) -> Any:
        """The sum over the batch of each example's penalty: a scalar, 0 of one step.

        Keras divides what an `activity_regularizer` returns by the size of the batch.
        """
        if len(x.shape) < 3:
            raise ValueError(
                "TemporalActivationRegularizer is for outputs (batch, time, features); "
                "give their layer `return_sequences=True`. Received: outputs of shape "
                f"{tuple(x.shape)}."
            )
        squares = ops.square(x[:, 1:] - x[:, :-1])
        # Not the mean, which of no change at all is no number.
        count = ops.maximum(ops.size(squares), 1)
        mean = ops.sum(squares) / ops.cast(count, squares.dtype)
        return self.strength * _batch(x) * mean

    def get_config(self) -> dict[str, Any]:
        """The argument it was made with."""
        return {"strength": self.strength}


def _batch(x: Any) -> Any:
    return ops.cast(ops.shape(x)[0], x.dtype)


def _strength(value: Any) -> float:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise ValueError(
            f"`strength` must be a number of at least 0. Received: strength={value!r}."
        )
    return float(value)
