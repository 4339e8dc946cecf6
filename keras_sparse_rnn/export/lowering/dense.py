"""`Dense` at every time step, where it is not known how many there are."""

from typing import Any

import keras
import tensorflow as tf


class LoweredDense(keras.layers.Layer):
    """A Dense layer whose result has a shape that follows from the input's alone.

    TensorFlow would compute the shape of its result from that of the input while it
    runs. LiteRT's CompiledModel makes room for outputs before that, and would be led to
    write where there is none.

    Args:
        layer: The built `keras.layers.Dense` to take the weights of.
    """

    def __init__(self, layer: Any, name: str):
        super().__init__(name=name, dtype="float32")
        self.kernel = layer.kernel.numpy().astype("float32")
        self.bias = None
        if layer.bias is not None:
            self.bias = layer.bias.numpy().astype("float32")
        self.activation = layer.activation
        self.supports_masking = True
        self.built = True

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The last axis has the units."""
        return (*input_shape[:-1], self.kernel.shape[1])

    def compute_output_spec(
        self, inputs: Any, training: bool = False, mask: Any = None
    ) -> Any:
        """What a call returns, without computing it."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), "float32")

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        """As in `keras.layers.Dense`."""
        *leading, features = inputs.shape
        flat = tf.reshape(tf.cast(inputs, "float32"), (-1, features))
        product = tf.matmul(flat, tf.constant(self.kernel))
        if self.bias is not None:
            product = product + self.bias
        product = self.activation(product)
        if len(leading) == 1:
            return product
        shape = [-1 if size is None else size for size in leading]
        return tf.reshape(product, (*shape, self.kernel.shape[1]))


def can_lower(layer: Any) -> bool:
    """Whether a layer is a plain Dense; a subclass may compute anything."""
    return (
        type(layer) is keras.layers.Dense
        and getattr(layer, "quantization_mode", None) is None
        and not getattr(layer, "lora_enabled", False)
    )
