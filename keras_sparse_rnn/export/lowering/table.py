"""A table of both directions in a file: its weights are there once."""

from typing import Any

import keras
import tensorflow as tf

from keras_sparse_rnn import _backend
from keras_sparse_rnn.export.lowering.layer import Settings
from keras_sparse_rnn.layers import TieredEmbedding


class LoweredTable(keras.layers.Layer):
    """A `TieredEmbedding` or `ReversibleEmbedding` whose blocks are in the file once.

    A tiered table puts the rows of several blocks together before it multiplies with
    them; of constants the converter would do that beforehand, and store all of them
    twice. Here each block is multiplied by itself, and the results are added. Keras's
    own table is one block; its product has a shape that the file would compute, which
    CompiledModel does not allow for outputs.

    Args:
        layer: The built layer to take the weights of. It is not changed.
        settings: Those of the file.
    """

    def __init__(
        self,
        layer: TieredEmbedding | keras.layers.ReversibleEmbedding,
        settings: Settings,
    ):
        super().__init__(name=layer.name, dtype="float32")
        self.settings = settings
        self.input_dim, self.output_dim = layer.input_dim, layer.output_dim
        self.mask_zero = layer.mask_zero
        self.logit_soft_cap = layer.logit_soft_cap
        self.projection = self.bias = None
        if isinstance(layer, TieredEmbedding):
            self.embeddings = [self._held(table) for table in layer.tables]
            self.reversed = [self._held(table) for table in layer.reverse_tables]
            if layer.projection_kernel is not None:
                self.projection = self._held(layer.projection_kernel)
            if layer.bias is not None:
                self.bias = self._held(layer.bias)
        else:
            self.embeddings = [self._held(layer.embeddings)]
            tied = layer.tie_weights
            self.reversed = [] if tied else [self._held(layer.reverse_embeddings)]
        self.used: set[str] = set()
        self.supports_masking = True
        self.autocast = False
        self.built = True

    def _held(self, variable: Any) -> Any:
        # A table may be large: as a constant of a graph it would be in memory a dozen
        # times, and one of 2 GiB in no graph at all. The converter makes it one.
        value = keras.ops.convert_to_numpy(variable)
        held = self.add_weight(
            shape=value.shape, initializer="zeros", trainable=False, name=variable.name
        )
        held.assign(value)
        return held

    def compute_output_shape(self, input_shape: Any, reverse: bool = False) -> Any:
        """As of the layer itself."""
        if reverse:
            return (*input_shape[:-1], self.input_dim)
        return (*input_shape, self.output_dim)

    def compute_output_spec(
        self,
        inputs: Any,
        reverse: bool = False,
        targets: Any = None,
        sample_weight: Any = None,
        training: Any = None,
        inputs_mask: Any = None,
    ) -> Any:
        """What a call returns, without computing it."""
        self._refuse(targets)
        shape = self.compute_output_shape(inputs.shape, reverse)
        return keras.KerasTensor(shape, "float32")

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """As of the layer itself."""
        return mask

    def call(
        self,
        inputs: Any,
        reverse: bool = False,
        targets: Any = None,
        sample_weight: Any = None,
        training: Any = None,
        inputs_mask: Any = None,
    ) -> Any:
        """As of the layer itself, without dropout."""
        self._refuse(targets)
        self._note("reverse" if reverse else "lookup")
        if reverse:
            return self._logits(inputs)
        ids = tf.cast(inputs, "int32")
        parts = []
        for table in map(tf.convert_to_tensor, self.embeddings):
            rows = int(table.shape[0])
            part = tf.gather(table, tf.minimum(ids, rows - 1))
            if rows < self.input_dim:
                stored = tf.cast(tf.less(ids, rows), "float32")
                part = part * tf.expand_dims(stored, -1)
            parts.append(part)
        missing = self.output_dim - sum(table.shape[1] for table in self.embeddings)
        if missing and self.projection is None:
            parts.append(tf.zeros_like(parts[0][..., :1]) * tf.zeros((missing,)))
        vectors = parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)
        if self.projection is not None:
            leading = [-1 if size is None else size for size in ids.shape]
            flat = tf.reshape(vectors, (-1, self.projection.shape[0]))
            flat = tf.matmul(flat, tf.convert_to_tensor(self.projection))
            vectors = tf.reshape(flat, (*leading, self.output_dim))
        if self.mask_zero:
            _backend.set_mask(vectors, tf.not_equal(inputs, 0))
        return vectors

    def _refuse(self, targets: Any) -> None:
        if targets is not None:
            raise ValueError(
                f"Layer '{self.name}' makes a loss of `targets` in this model. Export "
                "one that ends in logits, by `reverse=True`: it shares the layers."
            )

    def _note(self, direction: str) -> None:
        self.used.add(direction)
        if self.reversed:
            if len(self.reversed) > 1 and direction == "reverse":
                # A scale and an offset are longer than such a row.
                self.settings.one_scale[self.name] = "has short rows"
        elif len(self.used) == 2:
            # With a scale a row what is multiplied with is stored apart.
            why = "is looked up and multiplied with, and in the file once"
            self.settings.one_scale[self.name] = why

    def _logits(self, states: Any) -> Any:
        leading = [-1 if size is None else size for size in states.shape[:-1]]
        states = tf.reshape(tf.cast(states, "float32"), (-1, self.output_dim))
        if self.projection is not None:
            kernel = tf.convert_to_tensor(self.projection)
            states = tf.matmul(states, kernel, transpose_b=True)
        if self.reversed:
            logits = tf.concat(
                [
                    tf.matmul(
                        states[:, : kernel.shape[0]], tf.convert_to_tensor(kernel)
                    )
                    for kernel in self.reversed
                ],
                axis=-1,
            )
        else:
            logits = self._tied(states)
        if self.bias is not None:
            logits = logits + self.bias
        if self.logit_soft_cap is not None:
            logits = tf.tanh(logits / self.logit_soft_cap) * self.logit_soft_cap
        return tf.reshape(logits, (*leading, self.input_dim))

    def _tied(self, states: Any) -> Any:
        # From the block of the fewest words on, whose logits are part of the next.
        end = sum(table.shape[1] for table in self.embeddings)
        logits = None
        for table in reversed(self.embeddings):
            rows, width = table.shape
            part = tf.matmul(
                states[:, end - width : end],
                tf.convert_to_tensor(table),
                transpose_b=True,
            )
            end -= width
            if logits is not None:
                more = rows - int(logits.shape[1])
                part = part + tf.pad(logits, ((0, 0), (0, more)))
            logits = part
        return logits


def can_lower(layer: Any) -> bool:
    """Whether a layer is such a table; a subclass may compute anything."""
    if type(layer) is keras.layers.ReversibleEmbedding:
        return layer.quantization_mode is None
    return type(layer) is TieredEmbedding
