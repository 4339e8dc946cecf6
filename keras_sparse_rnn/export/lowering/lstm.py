"""`LSTM` and `GroupedLSTM` as a converter likes them.

A layer's weights become constants, `x·kernel + bias` of all time steps is one
product per group ahead of the steps, and a step is one small product per group with
everything else done on all groups at once. How the steps follow each other is the
business of `loop` and `unrolled`.
"""

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from keras_sparse_rnn.export.lowering import loop, unrolled
from keras_sparse_rnn.layers import GroupedLSTM, WeightDropLSTM

LOWERINGS = {"loop": loop.run, "unrolled": unrolled.run}


class UnknownTimeError(ValueError):
    """A form that needs a fixed number of time steps did not get one."""


@dataclass(frozen=True)
class _Group:
    """One group: the inputs it sees and its weights, as arrays."""

    begin: int
    end: int
    kernel: Any
    recurrent_kernel: Any
    bias: Any

    @classmethod
    def of(cls, cell: Any, begin: int, end: int) -> "_Group":
        kernel, recurrent_kernel, bias = (
            None if variable is None else variable.numpy().astype("float32")
            for variable in (cell.kernel, cell.recurrent_kernel, cell.bias)
        )
        return cls(begin, end, kernel, recurrent_kernel, bias)

    @property
    def units(self) -> int:
        return self.recurrent_kernel.shape[0]


class LoweredLSTM(keras.layers.Layer):
    """A recurrent layer written for a device; only for the TensorFlow backend.

    Args:
        layer: The built `keras.layers.LSTM` or `GroupedLSTM` to take the weights
            and the arguments of. It is not changed.
        lowering: `"loop"` or `"unrolled"`.
    """

    def __init__(self, layer: Any, lowering: str):
        super().__init__(name=layer.name, dtype="float32")
        if isinstance(layer, GroupedLSTM):
            cells, segments = layer.cell.cells, layer.cell.input_segments
        else:
            cells, segments = [layer.cell], [(0, layer.cell.kernel.shape[0])]
        self.parts = tuple(
            _Group.of(cell, begin, end)
            for cell, (begin, end) in zip(cells, segments, strict=True)
        )
        self.sizes = tuple(group.units for group in self.parts)
        self.units = sum(self.sizes)
        self.lowering = lowering
        self.activation = cells[0].activation
        self.recurrent_activation = cells[0].recurrent_activation
        self.return_sequences = layer.return_sequences
        self.return_state = layer.return_state
        self.go_backwards = layer.go_backwards
        self.zero_output_for_mask = layer.zero_output_for_mask
        # What Keras's wrappers ask of the layers they hold.
        self.stateful = False
        self.states = None
        self.supports_masking = True
        self.built = True

    def compute_output_shape(
        self, sequences_shape: Any, initial_state_shape: Any = None
    ) -> Any:
        """Shapes of the output and, with `return_state=True`, of the states."""
        batch, length = sequences_shape[0], sequences_shape[1]
        state = (batch, self.units)
        output = (batch, length, self.units) if self.return_sequences else state
        return (output, state, state) if self.return_state else output

    def compute_output_spec(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
    ) -> Any:
        """What a call returns, without computing it."""
        shapes = self.compute_output_shape(sequences.shape)
        if self.return_state:
            return tuple(keras.KerasTensor(shape, "float32") for shape in shapes)
        return keras.KerasTensor(shapes, "float32")

    def compute_mask(self, _: Any, mask: Any) -> Any:
        """The mask goes on with a sequence, as in `keras.layers.RNN`."""
        mask = keras.tree.flatten(mask)[0]
        output_mask = mask if self.return_sequences else None
        return [output_mask, None, None] if self.return_state else output_mask

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
    ) -> Any:
        """As in `keras.layers.LSTM`."""
        batch = sequences.shape[0]
        if self.lowering == "unrolled" and sequences.shape[1] is None:
            raise UnknownTimeError(
                f"Layer '{self.name}' can't be unrolled: its number of time steps is "
                "unknown. Pass `time_steps=`, give the model's Input a fixed length, "
                "or use lowering='loop', which takes any number of steps."
            )
        if initial_state is None:
            initial_state = (tf.zeros((batch, self.units)),) * 2
        h, c = (tf.cast(state, "float32") for state in initial_state)
        mask = keras.tree.flatten(mask)[0]
        if mask is not None:
            mask = tf.expand_dims(_time_first(tf.cast(mask, "bool")), -1)
        last, outputs, states = LOWERINGS[self.lowering](
            self.step,
            self.project(sequences),
            (h, c),
            mask,
            backwards=self.go_backwards,
            zero_masked=self.zero_output_for_mask,
            sequences=self.return_sequences,
        )
        output = _time_first(outputs) if self.return_sequences else last
        return (output, *states) if self.return_state else output

    def project(self, sequences: Any) -> Any:
        """`x·kernel + bias` of all steps and groups: `(time, batch, 4 * units)`.

        Gate by gate, in Keras's order, and within a gate group by group.
        """
        batch, length, features = sequences.shape
        flat = tf.reshape(_time_first(sequences), (-1, features))
        products = []
        for group in self.parts:
            window = flat
            if (group.begin, group.end) != (0, features):
                window = flat[:, group.begin : group.end]
            product = tf.matmul(window, group.kernel)
            if group.bias is not None:
                product += group.bias
            products.append(product)
        rows = -1 if length is None else length
        return tf.reshape(self._join_gates(products), (rows, batch, 4 * self.units))

    def step(self, row: Any, h: Any, c: Any) -> tuple[Any, Any]:
        """One time step of all groups: `(h, c)` from `x·kernel + bias`, `h` and `c`."""
        products = [
            tf.matmul(own, group.recurrent_kernel)
            for own, group in zip(self._split(h), self.parts, strict=True)
        ]
        gates = tf.split(self._join_gates(products) + row, 4, axis=-1)
        i, f, o = (self.recurrent_activation(gates[k]) for k in (0, 1, 3))
        c = f * c + i * self.activation(gates[2])
        return o * self.activation(c), c

    def _join_gates(self, products: list[Any]) -> Any:
        # As (rows, 4, units), groups join along the last axis: one operation, with
        # each gate of all groups in one piece afterwards.
        if len(products) == 1:
            return products[0]
        joined = tf.concat(
            [
                tf.reshape(product, (-1, 4, size))
                for product, size in zip(products, self.sizes, strict=True)
            ],
            axis=-1,
        )
        return tf.reshape(joined, (-1, 4 * self.units))

    def _split(self, state: Any) -> list[Any]:
        if len(self.sizes) == 1:
            return [state]
        even = len(set(self.sizes)) == 1
        return tf.split(state, len(self.sizes) if even else list(self.sizes), axis=-1)


def _time_first(tensor: Any) -> Any:
    """`(batch, time, ...)` to `(time, batch, ...)`, and back."""
    # Not folded away by the converter where one of the two is 1.
    a, b, *rest = tensor.shape
    if a == 1 or b == 1:
        return tf.reshape(
            tensor,
            (-1 if b is None else b, -1 if a is None else a, *rest),
        )
    return tf.transpose(tensor, (1, 0, *range(2, 2 + len(rest))))


def _can_lower(layer: Any) -> bool:
    # A subclass may compute anything.
    return type(layer) in (keras.layers.LSTM, GroupedLSTM, WeightDropLSTM)


class Replacer:
    """Puts a lowered layer in the place of each LSTM; what `copy_model` takes.

    Args:
        lowering: `"loop"` or `"unrolled"`.

    Attributes:
        layers: What became of each recurrent layer, in words.
    """

    def __init__(self, lowering: str):
        self.lowering = lowering
        self.layers: list[str] = []

    def __call__(self, layer: Any) -> Any:
        """The lowered layer, or `None` where Keras's own form is kept."""
        if _can_lower(layer):
            return self._lower(layer)
        if isinstance(layer, keras.layers.Bidirectional):
            sides = (layer.forward_layer, layer.backward_layer)
            if all(_can_lower(side) for side in sides):
                return self._lower_both(layer)
        inner = [layer, getattr(layer, "layer", None)]
        inner.append(getattr(layer, "forward_layer", None))
        if any(isinstance(one, keras.layers.RNN) for one in inner):
            self.layers.append(
                f"{layer.name}: Keras's own loop ({type(layer).__name__})"
            )
        return None

    def _lower(self, layer: Any, within: str = "") -> Any:
        new = LoweredLSTM(layer, self.lowering)
        count = len(new.sizes)
        groups = f" over {count} groups" if count > 1 else ""
        self.layers.append(f"{within}{layer.name}: {self.lowering}{groups}")
        return new

    def _lower_both(self, layer: Any) -> Any:
        config = layer.get_config()
        config["dtype"] = "float32"
        new = type(layer).from_config(config)
        # Keras's wrapper only ever calls its two layers; everything it asks of them
        # is there.
        new.forward_layer = self._lower(layer.forward_layer, f"{layer.name}/")
        new.backward_layer = self._lower(layer.backward_layer, f"{layer.name}/")
        return new
