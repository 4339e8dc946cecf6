"""What all grouped recurrent layers share: groups, states, dropout, the time loop.

A grouped layer holds one stock Keras cell for each group, so that every group has
the variables, the initializers, the regularizers and the constraints that a layer
of its own would have. This module decides which inputs each of them sees and
advances all of them in one loop.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_sparse_rnn import _backend
from keras_sparse_rnn.layers import initializers, segments


class GroupedCell(keras.layers.Layer):
    """Base class: the stock cells of all groups, side by side.

    A subclass names the stock cell and writes its equations, `advance`.

    Attributes:
        cells: One stock cell for each group. They hold the variables.
        group_sizes: Units of each group.
        group_segments: The `(begin, end)` of each group's units in the output.
        input_segments: The `(begin, end)` of the inputs each group sees; empty
            until the cell is built.
    """

    def __init__(
        self,
        units: int,
        groups: int | Sequence[int],
        input_density: float,
        input_segments: Sequence[Sequence[int]] | None,
        dropout: float,
        recurrent_dropout: float,
        seed: int | None,
        cell_arguments: dict[str, Any],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.units = units = segments.positive("units", units)
        self.group_sizes = segments.group_sizes(units, groups)
        self.group_segments = segments.output_segments(self.group_sizes)
        count = len(self.group_sizes)
        self.input_density = segments.check_input_density(count, input_density)
        self.explicit_input_segments = (
            None
            if input_segments is None
            else segments.check_input_segments(input_segments, count)
        )
        self.input_segments: list[segments.Segment] = self.explicit_input_segments or []
        self.dropout = _check_rate("dropout", dropout)
        self.recurrent_dropout = _check_rate("recurrent_dropout", recurrent_dropout)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._argument_names = list(cell_arguments)
        self.cells = [
            self.make_cell(
                size,
                name=f"group_{g}" if count > 1 else "group",
                dtype=self.dtype_policy,
                **_arguments_of_group(cell_arguments, g),
            )
            for g, size in enumerate(self.group_sizes)
        ]
        self.state_size = [units] * len(self.cells[0].state_size)
        self.output_size = units

    def make_cell(self, units: int, **kwargs: Any) -> Any:
        """The stock cell of one group."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The arguments this cell was made with."""
        config = super().get_config()
        even = segments.group_sizes(self.units, len(self.group_sizes))
        explicit = self.explicit_input_segments
        stock = self.cells[0].get_config()
        config.update(
            units=self.units,
            groups=(
                len(self.group_sizes)
                if self.group_sizes == even
                else list(self.group_sizes)
            ),
            input_density=self.input_density,
            input_segments=(
                None if explicit is None else [list(pair) for pair in explicit]
            ),
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            seed=self.seed,
            cell_arguments={name: stock[name] for name in self._argument_names},
        )
        return config

    def advance(
        self, cell: Any, projected: Any, states: list[Any], recurrent_kernel: Any
    ) -> list[Any]:
        """One time step of one group.

        Args:
            cell: The stock cell, for its activations.
            projected: `x·kernel + bias`, shape `(batch, gates * size)`.
            states: The group's states, each `(batch, size)`.
            recurrent_kernel: Tensor `(size, gates * size)`.

        Returns:
            The new states, the group's output first.
        """
        raise NotImplementedError

    def build(self, input_shape: Any) -> None:
        """Creates every group's variables, once the number of inputs is known."""
        inputs = input_shape[-1]
        if inputs is None:
            raise ValueError(
                f"{type(self).__name__} needs to know its number of input features. "
                f"Received: input_shape={tuple(input_shape)}."
            )
        if self.explicit_input_segments is None:
            self.input_segments = segments.input_segments(
                inputs, len(self.cells), self.input_density
            )
        elif max(end for _, end in self.input_segments) > inputs:
            raise ValueError(
                f"`input_segments` reach beyond the {inputs} input features. "
                f"Received: input_segments={self.explicit_input_segments}."
            )
        for cell, (begin, end) in zip(self.cells, self.input_segments, strict=True):
            cell.build((*input_shape[:-1], end - begin))
        self.built = True

    def project(self, inputs: Any) -> Any:
        """`x·kernel + bias` of all groups: one matrix product a group.

        Args:
            inputs: Tensor `(..., features)`.

        Returns:
            Tensor `(..., gates * units)`: all gates of group 0, then of group 1.
        """
        leading = ops.shape(inputs)[:-1]
        products = []
        for cell, (begin, end) in zip(self.cells, self.input_segments, strict=True):
            window = ops.reshape(inputs[..., begin:end], (-1, end - begin))
            kernel = ops.convert_to_tensor(cell.kernel, dtype=self.compute_dtype)
            product = ops.matmul(window, kernel)
            if cell.bias is not None:
                product = ops.add(product, cell.bias)
            products.append(product)
        joined = _join(products)
        return ops.reshape(joined, (*leading, joined.shape[-1]))

    def recurrent_kernels(self) -> list[Any]:
        """The recurrent kernel of each group in the compute dtype.

        Taken once, outside the loop, so that mixed precision casts it once.
        """
        return [
            ops.convert_to_tensor(cell.recurrent_kernel, dtype=self.compute_dtype)
            for cell in self.cells
        ]

    def split_state(self, state: Any) -> list[Any]:
        """A state of all units, cut into one tensor for each group."""
        if len(self.cells) == 1:
            return [state]
        return [state[..., begin:end] for begin, end in self.group_segments]

    def step(
        self, projected: Any, states: list[Any], kernels: list[Any], drop: Any
    ) -> tuple[Any, list[Any]]:
        """One time step of all groups.

        Args:
            projected: `project`'s result for this step.
            states: The states of group 0, then of group 1, and so on.
            kernels: `recurrent_kernels`' result.
            drop: `None`, or what multiplies each group's output on its way back
                into the loop.

        Returns:
            `(output, states)`, the states in the order in which they came.
        """
        count = len(self.state_size)
        outputs, new_states = [], []
        columns = 0
        for g, cell in enumerate(self.cells):
            begin, columns = columns, columns + kernels[g].shape[-1]
            own = list(states[g * count : (g + 1) * count])
            if drop is not None:
                own[0] = ops.multiply(own[0], drop[g])
            own = self.advance(cell, projected[:, begin:columns], own, kernels[g])
            outputs.append(own[0])
            new_states.extend(own)
        return _join(outputs), new_states

    def dropout_mask(self, like: Any, rate: float) -> Any:
        """Scaled keep mask of the shape of `like`, drawn anew at each call."""
        return keras.random.dropout(
            ops.ones_like(like), rate=rate, seed=self.seed_generator
        )

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        """One time step: `(output, states)` from `(batch, features)` and states."""
        if training and self.dropout:
            inputs = ops.multiply(inputs, self.dropout_mask(inputs, self.dropout))
        drop = None
        if training and self.recurrent_dropout:
            drop = self.split_state(
                self.dropout_mask(states[0], self.recurrent_dropout)
            )
        output, new_states = self.step(
            self.project(inputs),
            self.interleave_states(states),
            self.recurrent_kernels(),
            drop,
        )
        return output, self.join_states(new_states)

    def interleave_states(self, states: Sequence[Any]) -> list[Any]:
        """States of all units to the flat list that `step` takes."""
        by_group = zip(*[self.split_state(state) for state in states], strict=True)
        return [state for group in by_group for state in group]

    def join_states(self, states: Sequence[Any]) -> list[Any]:
        """The inverse of `interleave_states`."""
        count = len(self.state_size)
        return [_join(states[s::count]) for s in range(count)]

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        """Zeros, one tensor `(batch, units)` for each state."""
        return [
            ops.zeros((batch_size, size), dtype=self.compute_dtype)
            for size in self.state_size
        ]


class GroupedRNN(keras.layers.RNN):
    """Base class of the grouped layers: one loop over time for all groups.

    Everything about states, masks, direction and statefulness is Keras's own
    `keras.layers.RNN`; this class replaces only what happens between the first
    and the last time step.
    """

    cell: GroupedCell

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> Any:
        """Runs all groups over `(batch, time, features)`; see `keras.layers.RNN`."""
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        initial_state = list(initial_state)
        if keras.backend.backend() == "torch" and self.stateful:
            # The states are assigned in place after the loop; without a copy
            # PyTorch would find its saved tensors changed.
            initial_state = [ops.copy(state) for state in initial_state]
        cell = self.cell
        if training and cell.dropout:
            step_mask = cell.dropout_mask(sequences[:, :1, :], cell.dropout)
            sequences = ops.multiply(sequences, step_mask)
        fast = self.fast_path(sequences, initial_state, mask)
        if fast is not None:
            return fast
        drop = None
        if training and cell.recurrent_dropout:
            drop = cell.split_state(
                cell.dropout_mask(initial_state[0], cell.recurrent_dropout)
            )
        kernels = cell.recurrent_kernels()
        states = cell.interleave_states(initial_state)
        # Where a step is masked, Keras's loop takes the first state for the output
        # to repeat; the first of ours is the output of one group alone.
        joined = mask is not None and len(cell.cells) > 1
        if joined:
            states = [initial_state[0], *states]

        def step(projected: Any, states: Any) -> Any:
            own = states[1:] if joined else states
            output, own = cell.step(projected, own, kernels, drop)
            return output, [output, *own] if joined else own

        # Time first: the transposition then moves the inputs, not the (usually
        # four times wider) projections.
        last_output, outputs, states = _backend.time_loop(
            step,
            cell.project(ops.transpose(sequences, (1, 0, 2))),
            states,
            go_backwards=self.go_backwards,
            mask=None if mask is None else ops.transpose(mask, (1, 0)),
            unroll=self.unroll,
            length=sequences.shape[1],
            zero_output_for_mask=self.zero_output_for_mask,
            return_sequences=self.return_sequences,
        )
        return (
            last_output,
            ops.transpose(outputs, (1, 0, 2)),
            cell.join_states(states[1:] if joined else states),
        )

    def fast_path(self, sequences: Any, initial_state: list[Any], mask: Any) -> Any:
        """A hardware implementation's `(last, outputs, states)`, or `None`."""
        return None

    @property
    def units(self) -> int:
        """Units of all groups together."""
        return self.cell.units

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.cell.group_sizes)

    @property
    def group_sizes(self) -> list[int]:
        """Units of each group."""
        return list(self.cell.group_sizes)

    @property
    def group_segments(self) -> list[segments.Segment]:
        """The `(begin, end)` of each group's units in the output."""
        return list(self.cell.group_segments)

    @property
    def input_segments(self) -> list[segments.Segment]:
        """The `(begin, end)` of inputs each group sees; empty until built."""
        return list(self.cell.input_segments)

    @property
    def input_density(self) -> float:
        """Share of the inputs each group was asked to see."""
        return self.cell.input_density

    @property
    def dropout(self) -> float:
        """Share of the inputs dropped in training."""
        return self.cell.dropout

    @property
    def recurrent_dropout(self) -> float:
        """Share of the recurrent outputs dropped in training."""
        return self.cell.recurrent_dropout

    def get_config(self) -> dict[str, Any]:
        """The arguments this layer was made with."""
        config = super().get_config()
        del config["cell"]
        own = self.cell.get_config()
        for name in ("name", "trainable", "dtype"):
            own.pop(name)
        config.update(own.pop("cell_arguments"))
        config.update(own)
        config["activity_regularizer"] = keras.regularizers.serialize(
            self.activity_regularizer
        )
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "GroupedRNN":
        """The layer with these arguments."""
        return cls(**config)


def _join(parts: Sequence[Any]) -> Any:
    """The groups' tensors along the last axis."""
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)


def _check_rate(name: str, rate: float) -> float:
    if not 0 <= rate < 1:
        raise ValueError(
            f"`{name}` must lie in [0, 1): it is the share of values dropped in "
            f"training. Received: {name}={rate!r}."
        )
    return float(rate)


def _arguments_of_group(arguments: dict[str, Any], group: int) -> dict[str, Any]:
    """The stock cell's arguments for one group, with initializers of its own."""
    return {
        name: initializers.of_part(value, group)
        if name.endswith("_initializer")
        else value
        for name, value in arguments.items()
    }
