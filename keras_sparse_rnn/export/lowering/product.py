"""`EinsumDense` that sums nothing, such as a weight for each feature."""

import string
from typing import Any

import keras
import tensorflow as tf


class LoweredProduct(keras.layers.Layer):
    """An EinsumDense layer without a sum, as an element-wise product.

    Keras calls `einsum`, of which TensorFlow's converter makes a matrix product that it
    then refuses ("invalid output dimension on row") where the input has two axes or
    more that the kernel has not.

    Args:
        layer: The built `keras.layers.EinsumDense` to take the weights of.
    """

    def __init__(self, layer: Any):
        super().__init__(name=layer.name, dtype="float32")
        self.letters = _letters(layer)
        self.kernel = layer.kernel.numpy().astype("float32")
        self.bias = None
        if layer.bias is not None:
            self.bias = layer.bias.numpy().astype("float32")
        self.activation = layer.activation
        self.built = True

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Each axis is as long as the input's or the kernel's of the same letter."""
        given, kernel, result = self.letters
        sizes = dict(zip(given, input_shape, strict=True))
        sizes.update(zip(kernel, self.kernel.shape, strict=True))
        return tuple(sizes[letter] for letter in result)

    def compute_output_spec(self, inputs: Any, training: bool = False) -> Any:
        """What a call returns, without computing it."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), "float32")

    def call(self, inputs: Any, training: bool = False) -> Any:
        """As in `keras.layers.EinsumDense`."""
        given, kernel, result = self.letters
        x = _aligned(tf.cast(inputs, "float32"), given, result)
        x = x * _aligned(tf.constant(self.kernel), kernel, result)
        if self.bias is not None:
            x = x + self.bias
        return x if self.activation is None else self.activation(x)


def can_lower(layer: Any) -> bool:
    """Whether a layer is a plain EinsumDense that sums nothing."""
    if (
        type(layer) is not keras.layers.EinsumDense
        or getattr(layer, "quantization_mode", None) is not None
        or getattr(layer, "lora_enabled", False)
    ):
        return False
    given, kernel, result = _letters(layer)
    diagonal = any(len(set(side)) < len(side) for side in (given, kernel))
    return not diagonal and set(given + kernel) == set(result)


def _letters(layer: Any) -> tuple[str, str, str]:
    """The letters of input, kernel and result; an ellipsis written out."""
    equation = layer.equation.replace(" ", "")
    given, rest = equation.split(",")
    kernel, result = rest.split("->")
    rank = layer.input_spec.ndim
    free = [letter for letter in string.ascii_letters if letter not in equation]
    more = "".join(free[: rank - len(given.replace("...", ""))])
    return given.replace("...", more), kernel, result.replace("...", more)


def _aligned(tensor: Any, letters: str, result: str) -> Any:
    """A tensor with the axes of a result, of length 1 where it has none of its own."""
    order = [letters.index(letter) for letter in result if letter in letters]
    if order != sorted(order):
        tensor = tf.transpose(tensor, order)
    for axis, letter in enumerate(result):
        if letter not in letters:
            tensor = tf.expand_dims(tensor, axis)
    return tensor
