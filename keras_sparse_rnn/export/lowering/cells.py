"""What a recurrent layer computes in one time step, as constants and equations.

A cell knows `x·kernel + bias` of many steps at once (`project`) and one step from there
(`step`). How the steps follow each other is the business of `loop`, `unrolled` and
`fused`. The weights are NumPy arrays; they become constants of the graph that calls.

Tensors have two axes, rows and features: a converter then needs no operation to move
anything. Gates lie one after another along the last, and within a gate the groups.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sparse_rnn._models import is_elementwise
from keras_sparse_rnn.layers import (
    GroupedGRU,
    GroupedGRUCell,
    GroupedLSTM,
    GroupedLSTMCell,
    GroupedSimpleRNN,
    GroupedSimpleRNNCell,
    RecurrentHighway,
    RecurrentHighwayCell,
    WeightDropLSTM,
)

State = tuple[Any, ...]


class Products:
    """`v -> v·kernel` of all groups: one product for each.

    Args:
        kernels: `(inputs, gates * size)` of each group.
        segments: The `(begin, end)` of the features that each group reads.
        sizes: Units of each group.
        gates: Number of gates.
    """

    def __init__(
        self,
        kernels: Sequence[Any],
        segments: Sequence[tuple[int, int]],
        sizes: Sequence[int],
        gates: int,
    ):
        self.kernels = [np.asarray(kernel, "float32") for kernel in kernels]
        self.segments = list(segments)
        self.sizes = list(sizes)
        self.gates = gates

    def bound(self) -> Callable[[Any], Any]:
        """The function, with the kernels made constants of the present graph once."""
        kernels = [tf.constant(kernel) for kernel in self.kernels]

        def multiply(values: Any) -> Any:
            return self.joined(
                [
                    tf.matmul(window, kernel)
                    for window, kernel in zip(
                        self.windows(values), kernels, strict=True
                    )
                ]
            )

        return multiply

    def joined(self, parts: list[Any]) -> Any:
        """`(rows, gates * size)` of each group as `(rows, gates * units)` of all."""
        # As (rows, gates, units), groups join along the last axis: one operation, with
        # each gate of all groups in one piece afterwards.
        if len(parts) == 1:
            return parts[0]
        if self.gates == 1:
            return tf.concat(parts, axis=-1)
        shaped = [
            tf.reshape(part, (-1, self.gates, size))
            for part, size in zip(parts, self.sizes, strict=True)
        ]
        return tf.reshape(
            tf.concat(shaped, axis=-1), (-1, self.gates * sum(self.sizes))
        )

    def windows(self, values: Any) -> list[Any]:
        """What each group reads of `(rows, inputs)`."""
        width = values.shape[-1]
        if self.segments == [(0, width)] * len(self.segments):
            return [values] * len(self.segments)
        begins = [begin for begin, _ in self.segments]
        ends = [end for _, end in self.segments]
        if begins == [0, *ends[:-1]] and ends[-1] == width:
            lengths = [end - begin for begin, end in self.segments]
            even = len(set(lengths)) == 1
            return tf.split(values, len(lengths) if even else lengths, axis=-1)
        return [values[:, begin:end] for begin, end in self.segments]


class Cell:
    """Base class: what one kind of layer computes.

    Attributes:
        states: What each state is called.
        sizes: The width of each state.
        output: Which of the states is the output.
        inputs: Number of input features.
        groups: Number of groups.
    """

    states: tuple[str, ...] = ("h",)
    sizes: tuple[int, ...] = ()
    output = 0
    inputs = 0
    groups = 1

    def project(self, values: Any) -> Any:
        """`x·kernel + bias` of the rows of `values`, `(rows, inputs)`."""
        raise NotImplementedError

    def stepper(self) -> Callable[[Any, State], State]:
        """`(row, states) -> states`: one time step, from a row of `project`."""
        raise NotImplementedError

    @property
    def units(self) -> int:
        """The width of the output."""
        return self.sizes[self.output]

    @property
    def recurrent_weights(self) -> int:
        """Number of weights that every step multiplies."""
        raise NotImplementedError


class GatedCell(Cell):
    """A stock or grouped LSTM, GRU or simple RNN.

    Args:
        cell: A built Keras cell, or a grouped one.
    """

    gates = 1

    def __init__(self, cell: Any):
        parts = getattr(cell, "cells", [cell])
        first = parts[0]
        units = [part.units for part in parts]
        inputs = getattr(cell, "input_segments", [(0, first.kernel.shape[0])])
        own = getattr(cell, "group_segments", [(0, first.units)])
        self.groups = len(parts)
        self.inputs = max(end for _, end in inputs)
        self.sizes = (sum(units),) * len(self.states)
        self.activation = first.activation
        self.recurrent_activation: Any = getattr(first, "recurrent_activation", None)
        self.kernels = Products(
            [part.kernel.numpy() for part in parts], inputs, units, self.gates
        )
        self.recurrent = Products(
            [part.recurrent_kernel.numpy() for part in parts], own, units, self.gates
        )
        self.biases = [self.bias_of(part) for part in parts]

    def bias_of(self, part: Any) -> Any:
        """What is added to `x·kernel` of one group, or `None`."""
        return None if part.bias is None else part.bias.numpy().astype("float32")

    def project(self, values: Any) -> Any:
        """`x·kernel + bias` of the rows of `values`."""
        windows = self.kernels.windows(values)
        parts = []
        for window, kernel, bias in zip(
            windows, self.kernels.kernels, self.biases, strict=True
        ):
            product = tf.matmul(window, tf.constant(kernel))
            parts.append(product if bias is None else product + bias)
        return self.kernels.joined(parts)

    @property
    def recurrent_weights(self) -> int:
        """Number of weights that every step multiplies."""
        return sum(kernel.size for kernel in self.recurrent.kernels)

    def gate(self, sums: Any, count: int) -> list[Any]:
        """`count` gates, activated."""
        if is_elementwise(self.recurrent_activation):
            return tf.split(self.recurrent_activation(sums), count, axis=-1)
        return [
            self.recurrent_activation(one) for one in tf.split(sums, count, axis=-1)
        ]


class LSTMCell(GatedCell):
    """States `h` and `c`; gates in Keras's order: input, forget, candidate, output."""

    states = ("h", "c")
    gates = 4

    def stepper(self) -> Callable[[Any, State], State]:
        """`(row, (h, c)) -> (h, c)`."""
        multiply = self.recurrent.bound()

        def step(row: Any, states: State) -> State:
            h, c = states
            gates = tf.split(multiply(h) + row, 4, axis=-1)
            i, f, o = (self.recurrent_activation(gates[k]) for k in (0, 1, 3))
            c = f * c + i * self.activation(gates[2])
            return o * self.activation(c), c

        return step


class GRUCell(GatedCell):
    """State `h`; gates in Keras's order: update, reset, candidate."""

    gates = 3

    def __init__(self, cell: Any):
        super().__init__(cell)
        parts = getattr(cell, "cells", [cell])
        self.reset_after = parts[0].reset_after
        self.recurrent_bias = None
        if self.reset_after and parts[0].bias is not None:
            self.recurrent_bias = np.concatenate(
                [part.bias.numpy()[1, 2 * part.units :] for part in parts]
            ).astype("float32")
        if not self.reset_after:
            # The candidate's product waits for the reset gate.
            own, sizes = self.recurrent.segments, self.recurrent.sizes
            kernels = self.recurrent.kernels
            both = list(zip(kernels, sizes, strict=True))
            self.recurrent = Products([k[:, : 2 * u] for k, u in both], own, sizes, 2)
            self.candidate = Products([k[:, 2 * u :] for k, u in both], own, sizes, 1)

    @property
    def recurrent_weights(self) -> int:
        """Number of weights that every step multiplies."""
        more = [] if self.reset_after else self.candidate.kernels
        return super().recurrent_weights + sum(kernel.size for kernel in more)

    def bias_of(self, part: Any) -> Any:
        """The input's bias, and those recurrent ones that are merely added to it."""
        bias = super().bias_of(part)
        if bias is None or not part.reset_after:
            return bias
        merged = bias[0].copy()
        merged[: 2 * part.units] += bias[1, : 2 * part.units]
        return merged

    def stepper(self) -> Callable[[Any, State], State]:
        """`(row, (h,)) -> (h,)`."""
        multiply = self.recurrent.bound()
        candidate = None if self.reset_after else self.candidate.bound()
        units = self.units

        def step(row: Any, states: State) -> State:
            (h,) = states
            row_gates, row_inner = tf.split(row, [2 * units, units], axis=-1)
            if candidate is None:
                gates, inner = tf.split(multiply(h), [2 * units, units], axis=-1)
                if self.recurrent_bias is not None:
                    inner = inner + self.recurrent_bias
                update, reset = self.gate(gates + row_gates, 2)
                inner = reset * inner
            else:
                update, reset = self.gate(multiply(h) + row_gates, 2)
                inner = candidate(reset * h)
            new = self.activation(row_inner + inner)
            return (new + update * (h - new),)

        return step


class SimpleCell(GatedCell):
    """State `h`."""

    def stepper(self) -> Callable[[Any, State], State]:
        """`(row, (h,)) -> (h,)`."""
        multiply = self.recurrent.bound()
        return lambda row, states: (self.activation(row + multiply(states[0])),)


class HighwayCell(Cell):
    """A recurrent highway network: `depth` layers within a step.

    Args:
        cell: A built `RecurrentHighwayCell`.
    """

    def __init__(self, cell: Any):
        self.inputs = cell.kernel.shape[0]
        self.sizes = (cell.units,)
        self.kernel = cell.kernel.numpy().astype("float32")
        self.kernels = [one.numpy().astype("float32") for one in cell.recurrent_kernels]
        self.biases = [one.numpy().astype("float32") for one in cell.biases]
        self.activation = cell.activation
        self.recurrent_activation = cell.recurrent_activation

    @property
    def recurrent_weights(self) -> int:
        """Number of weights that every step multiplies."""
        return sum(kernel.size for kernel in self.kernels)

    def project(self, values: Any) -> Any:
        """`x·kernel + bias` of the first depth."""
        product = tf.matmul(values, tf.constant(self.kernel))
        return product + self.biases[0] if self.biases else product

    def stepper(self) -> Callable[[Any, State], State]:
        """`(row, (h,)) -> (h,)`."""
        kernels = [tf.constant(kernel) for kernel in self.kernels]

        def step(row: Any, states: State) -> State:
            (state,) = states
            for depth, kernel in enumerate(kernels):
                sums = tf.matmul(state, kernel)
                if depth == 0:
                    sums = sums + row
                elif self.biases:
                    sums = sums + self.biases[depth]
                candidate, transform = tf.split(sums, 2, axis=-1)
                transform = self.recurrent_activation(transform)
                state = (self.activation(candidate) - state) * transform + state
            return (state,)

        return step


class StackedCell(Cell):
    """`keras.layers.StackedRNNCells`: each cell reads the output of the one before.

    Only the first one's `x·kernel` is known before a step.

    Args:
        cells: The cells in it.
    """

    def __init__(self, cells: Sequence[Cell]):
        self.cells = list(cells)
        self.inputs = cells[0].inputs
        self.groups = max(cell.groups for cell in cells)
        self.states = tuple(
            f"{name}{k}" for k, cell in enumerate(cells) for name in cell.states
        )
        self.sizes = tuple(size for cell in cells for size in cell.sizes)
        self.output = len(self.sizes) - len(cells[-1].sizes) + cells[-1].output

    @property
    def recurrent_weights(self) -> int:
        """Number of weights that every step multiplies."""
        return sum(cell.recurrent_weights for cell in self.cells)

    def project(self, values: Any) -> Any:
        """`x·kernel + bias` of the first cell."""
        return self.cells[0].project(values)

    def stepper(self) -> Callable[[Any, State], State]:
        """`(row, states) -> states`, those of one cell after those of another."""
        steps = [cell.stepper() for cell in self.cells]

        def step(row: Any, states: State) -> State:
            new: list[Any] = []
            output: Any = None
            for number, (cell, own) in enumerate(zip(self.cells, steps, strict=True)):
                first = len(new)
                if number:
                    row = cell.project(output)
                made = own(row, states[first : first + len(cell.sizes)])
                output = made[cell.output]
                new.extend(made)
            return tuple(new)

        return step


_KINDS: dict[type, type] = {
    keras.layers.LSTMCell: LSTMCell,
    GroupedLSTMCell: LSTMCell,
    keras.layers.GRUCell: GRUCell,
    GroupedGRUCell: GRUCell,
    keras.layers.SimpleRNNCell: SimpleCell,
    GroupedSimpleRNNCell: SimpleCell,
    RecurrentHighwayCell: HighwayCell,
}
# The layers whose loop does with a cell what Keras's does.
_LAYERS = (
    keras.layers.RNN,
    keras.layers.LSTM,
    keras.layers.GRU,
    keras.layers.SimpleRNN,
    GroupedLSTM,
    GroupedGRU,
    GroupedSimpleRNN,
    RecurrentHighway,
    WeightDropLSTM,
)


def can_lower(layer: Any) -> bool:
    """Whether it is known what a layer computes; a subclass may compute anything."""
    return type(layer) in _LAYERS and _known(layer.cell)


def _known(cell: Any) -> bool:
    if type(cell) is keras.layers.StackedRNNCells:
        return all(_known(one) for one in cell.cells)
    return type(cell) in _KINDS


def cell_of(cell: Any) -> Cell:
    """A built Keras cell for a device.

    Args:
        cell: The cell of a layer that `can_lower`.
    """
    if type(cell) is keras.layers.StackedRNNCells:
        return StackedCell([cell_of(one) for one in cell.cells])
    return _KINDS[type(cell)](cell)
