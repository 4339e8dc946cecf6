"""What all grouped recurrent layers share: groups, states, dropout, the time loop.

A grouped layer holds one stock Keras cell for each group, so that every group has
the variables, the initializers, the regularizers and the constraints that a layer
of its own would have. This module decides which inputs each of them sees and
advances all of them in one loop.
"""

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_sparse_rnn import _backend
from keras_sparse_rnn.layers import initializers, segments
from keras_sparse_rnn.layers.arrangement import SideBySide, Stacked
from keras_sparse_rnn.layers.recurrences import Recurrence, run, run_for_training


class GroupedCell(_backend.DropoutRNNCell, keras.layers.Layer):
    """Base class: the stock cells of all groups, side by side.

    A subclass names the stock cell and its equations.

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
        weight_drop: float,
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
        self.dropout = check_rate("dropout", dropout)
        self.recurrent_dropout = check_rate("recurrent_dropout", recurrent_dropout)
        self.weight_drop = check_rate("weight_drop", weight_drop)
        self.seed = seed
        self._kernel_masks: list[Any] | None = None
        # `keras.layers.RNN` asks its cell for masks before every call. A grouped layer
        # draws its own, and only in training.
        self.masks_on_demand = True
        self._argument_names = list(cell_arguments)
        self.cells = [
            self.make_cell(
                size,
                name=f"group_{g}" if count > 1 else "group",
                dtype=self.dtype_policy,
                seed=seed,
                **_arguments_of_group(cell_arguments, g),
            )
            for g, size in enumerate(self.group_sizes)
        ]
        first = self.cells[0]
        # Not one more, so that one group has the variables of a stock cell.
        self.seed_generator = first.seed_generator
        self.recurrence = self.make_recurrence(first)
        self.state_size = (
            [units] * len(first.state_size)
            if isinstance(first.state_size, (list, tuple))
            else units
        )
        self.output_size = units

    def make_cell(self, units: int, **kwargs: Any) -> Any:
        """The stock cell of one group."""
        raise NotImplementedError

    def make_recurrence(self, cell: Any) -> Recurrence:
        """The equations, with the activations of `cell`."""
        raise NotImplementedError

    def biases(self, cell: Any) -> tuple[Any, Any]:
        """What is added to `x·kernel`, and the candidate's recurrent bias.

        Args:
            cell: The stock cell of one group.
        """
        return cell.bias, None

    def get_config(self) -> dict[str, Any]:
        """The arguments this cell was made with."""
        config = super().get_config()
        even = segments.group_sizes(self.units, len(self.group_sizes))
        explicit = self.explicit_input_segments
        stock = self.cells[0].get_config()
        config.update({name: stock[name] for name in self._argument_names})
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
            weight_drop=self.weight_drop,
            seed=self.seed,
        )
        return config

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
        # Groups look at their windows only: inputs that are too wide would pass.
        self.input_spec = keras.layers.InputSpec(axes={-1: inputs})
        self.built = True

    def arrangement(self, place: Callable[[Any], Any] | None = None) -> Any:
        """How the groups lie beside each other in the loop.

        Args:
            place: As for `Stacked`: what spreads the groups over devices.
        """
        # An activation of unknown derivative may not be element-wise, as softmax is
        # not: it sees all units, as in a dense layer.
        elementwise = self.recurrence.differentiable_by_hand
        if place is not None or (elementwise and self.worth_stacking):
            return Stacked(self.group_sizes, place)
        return SideBySide(self.group_sizes)

    @property
    def worth_stacking(self) -> bool:
        """Whether one batched product of all groups is better than one for each."""
        eager = keras.backend.backend() == "torch"
        return segments.worth_stacking(self.group_sizes, calls_cost=eager)

    def check_states(self, shapes: Sequence[Any], batch: int | None = None) -> None:
        """Raises unless states are as many and as wide as the cell's.

        Args:
            shapes: Of the states, `(batch, units)` each; or `(1, units)`, the same
                state for all examples.
            batch: Number of examples, if it is known.
        """
        expected = keras.tree.flatten(self.state_size)
        batches = {shape[0] for shape in shapes if len(shape) == 2} - {None, 1}
        if (
            any(len(shape) != 2 for shape in shapes)
            or [shape[-1] for shape in shapes] != expected
            or len(batches - {batch}) > (batch is None)
        ):
            raise ValueError(
                f"`initial_state` must hold one tensor (batch, {self.units}) for each "
                f"of the {len(expected)} states of all groups together. Received: "
                f"shapes {[tuple(shape) for shape in shapes]}"
                + ("." if batch is None else f", for a batch of {batch}.")
            )

    def project(self, arrangement: Any, inputs: Any) -> Any:
        """`x·kernel + bias` of all groups and time steps.

        Args:
            arrangement: How the groups lie beside each other.
            inputs: Tensor `(time, batch, features)`.

        Returns:
            Tensor `(time, ..., gates, units)`, as the arrangement lays it out.
        """
        cut = {pair: inputs[..., pair[0] : pair[1]] for pair in self.input_segments}
        windows = [cut[pair] for pair in self.input_segments]
        kernels = [self._tensor(cell.kernel) for cell in self.cells]
        biases = [self.biases(cell)[0] for cell in self.cells]
        if biases[0] is not None:
            return arrangement.projected(
                windows, kernels, [self._tensor(bias) for bias in biases]
            )
        return arrangement.projected(windows, kernels, None)

    def recurrent_kernels(self, masks: Sequence[Any] | None = None) -> list[Any]:
        """The recurrent kernel of each group in the compute dtype.

        Args:
            masks: `None`, or `draw_kernel_masks`' result.
        """
        kernels = [self._tensor(cell.recurrent_kernel) for cell in self.cells]
        if masks is None:
            return kernels
        return [k * mask for k, mask in zip(kernels, masks, strict=True)]

    def recurrent_bias(self, arrangement: Any) -> Any:
        """The candidate's recurrent bias of all groups, or `None`."""
        parts = [self.biases(cell)[1] for cell in self.cells]
        if parts[0] is None:
            return None
        return arrangement.per_unit([self._tensor(part) for part in parts])

    def draw_mask(self, like: Any, rate: float) -> Any:
        """Scaled keep mask of the shape of `like`, drawn anew at each call."""
        # Not in half precision: bfloat16 has too few numbers to compare a rate with.
        ones = ops.ones_like(like, dtype=self.variable_dtype)
        mask = keras.random.dropout(ones, rate=rate, seed=self.seed_generator)
        return ops.cast(mask, self.compute_dtype)

    def draw_kernel_masks(self) -> list[Any]:
        """Scaled keep mask of each group's recurrent kernel, drawn anew."""
        return [
            self.draw_mask(self._tensor(cell.recurrent_kernel), self.weight_drop)
            for cell in self.cells
        ]

    def get_dropout_mask(self, step_input: Any) -> Any:
        """The inputs' mask, the same for all steps of a `keras.layers.RNN`."""
        return super().get_dropout_mask(step_input) if self.masks_on_demand else None

    def get_recurrent_dropout_mask(self, step_input: Any) -> Any:
        """The outputs' mask, the same for all steps; weight drop's with it."""
        if not self.masks_on_demand:
            return None
        if self._kernel_masks is None and self.weight_drop:
            self._kernel_masks = self.draw_kernel_masks()
        return super().get_recurrent_dropout_mask(step_input)

    def reset_recurrent_dropout_mask(self) -> None:
        """Forgets the masks, so that the next sequence draws its own."""
        super().reset_recurrent_dropout_mask()
        self._kernel_masks = None

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        """One time step: `(output, states)` from `(batch, features)` and states."""
        nested = isinstance(states, (list, tuple))
        states = list(states) if nested else [states]
        self.check_states([state.shape for state in states])
        drop = masks = None
        if training:
            mask = self.get_dropout_mask(inputs)
            inputs = inputs if mask is None else ops.multiply(inputs, mask)
            drop = self.get_recurrent_dropout_mask(states[0])
            masks = self._kernel_masks
        around = self.arrangement()
        recurrence = self.recurrence
        kernels = recurrence.split_kernels(self.recurrent_kernels(masks))
        new, _ = recurrence.forward(
            self.project(around, ops.expand_dims(inputs, 0))[0],
            [around.state(state) for state in states],
            [around.product(around.kernels(part)) for part in kernels],
            None if drop is None else around.state(drop),
            self.recurrent_bias(around),
        )
        new = [around.joined_state(state) for state in new]
        return new[0], (new if nested else new[0])

    def get_initial_state(self, batch_size: Any = None) -> Any:
        """Zeros, a list with one tensor `(batch, units)` for each state."""
        # A list even of one: in JAX Keras takes a state that is none for the output of
        # the last of `StackedRNNCells`.
        return [
            ops.zeros((batch_size, self.units), dtype=self.compute_dtype)
            for _ in keras.tree.flatten(self.state_size)
        ]

    def _tensor(self, variable: Any) -> Any:
        # Taken once, outside the loop, so that mixed precision casts it once. Not
        # every operation of Keras takes a variable in a symbolic call.
        value = variable.value if isinstance(variable, keras.Variable) else variable
        return ops.cast(value, self.compute_dtype)


class GroupedRNN(keras.layers.RNN):
    """Base class of the grouped layers: one loop over time for all groups.

    Everything about states, statefulness and shapes is Keras's own
    `keras.layers.RNN`; this class replaces only what happens between the first
    and the last time step.
    """

    cell: GroupedCell

    def __init__(self, cell: GroupedCell, **kwargs: Any):
        super().__init__(cell, **kwargs)
        cell.masks_on_demand = False
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        """Creates the variables, and those of the states of a stateful layer."""
        if initial_state_shape is not None:
            shapes = initial_state_shape
            if not shapes or not isinstance(shapes[0], (list, tuple)):
                shapes = [shapes]
            self.cell.check_states(shapes)
        super().build(sequences_shape, initial_state_shape)
        axes = {-1: sequences_shape[-1]}
        self.input_spec = keras.layers.InputSpec(ndim=3, axes=axes)

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> Any:
        """Runs all groups over `(batch, time, features)`; see `keras.layers.RNN`."""
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        initial_state = keras.tree.flatten(initial_state)
        batch = sequences.shape[0]
        self.cell.check_states([state.shape for state in initial_state], batch)
        if mask is not None:
            _check_mask(mask, sequences)
        if batch != 1 and any(state.shape[0] == 1 for state in initial_state):
            # One state for all examples. Its gradient is then the sum of theirs.
            shape = (ops.shape(sequences)[0], self.units)
            initial_state = [ops.broadcast_to(state, shape) for state in initial_state]
        # `stateless_call` of a layer alone casts nothing.
        sequences = ops.cast(sequences, self.compute_dtype)
        if keras.backend.backend() == "torch" and self.stateful:
            # The states are assigned in place after the loop; without a copy
            # PyTorch would find its saved tensors changed.
            initial_state = [ops.copy(state) for state in initial_state]
        cell = self.cell
        kernel_masks = None
        if training and cell.dropout:
            step_mask = cell.draw_mask(sequences[:, :1, :], cell.dropout)
            sequences = ops.multiply(sequences, step_mask)
        if training and cell.weight_drop:
            kernel_masks = cell.draw_kernel_masks()
        kernels = cell.recurrent_kernels(kernel_masks)
        fast = self.fast_path(sequences, initial_state, mask, kernels)
        if fast is not None:
            return fast
        around = cell.arrangement(self.placement())
        # Time first: the transposition then moves the inputs, not the (usually
        # four times wider) projections.
        sequences = ops.transpose(sequences, (1, 0, 2))
        if self.go_backwards:
            sequences = ops.flip(sequences, axis=0)
            mask = None if mask is None else ops.flip(mask, axis=1)
        options = {
            "bias": cell.recurrent_bias(around),
            "mask": None,
            "drop": None,
            "length": sequences.shape[0],
            "return_sequences": self.return_sequences,
        }
        if mask is not None:
            mask = ops.cast(mask, "bool")
            mask = mask if len(mask.shape) == 2 else ops.squeeze(mask, axis=-1)
            options["mask"] = around.mask(ops.transpose(mask, (1, 0)))
        if training and cell.recurrent_dropout:
            options["drop"] = around.state(
                cell.draw_mask(initial_state[0], cell.recurrent_dropout)
            )
        arguments = (
            cell.recurrence,
            around,
            cell.project(around, sequences),
            [around.state(state) for state in initial_state],
            kernels,
        )
        if training and not self.unroll and cell.recurrence.differentiable_by_hand:
            outputs, states = run_for_training(*arguments, **options)
        else:
            outputs, states = run(*arguments, **options, unroll=self.unroll)
        states = [around.joined_state(state) for state in states]
        if self.return_sequences:
            outputs = around.joined_outputs(outputs)
        else:
            outputs = ops.expand_dims(states[0], 1)
        if mask is not None:
            shown = _backend.shown_steps(mask, self.zero_output_for_mask, self.unroll)
            if shown is not None:
                shown = shown if self.return_sequences else shown[:, -1:]
                outputs = ops.where(
                    ops.expand_dims(shown, -1), outputs, ops.zeros_like(outputs)
                )
        # Not a slice where it is not needed: its gradient would be a tensor of zeros.
        last = states[0] if mask is None else outputs[:, -1]
        return last, outputs, states

    def fast_path(
        self,
        sequences: Any,
        initial_state: list[Any],
        mask: Any,
        recurrent_kernels: list[Any],
    ) -> Any:
        """A hardware implementation's `(last, outputs, states)`, or `None`."""
        return None

    def placement(self) -> Callable[[Any], Any] | None:
        """What spreads the groups over devices, if the user's layout map says so."""
        distribution = keras.distribution.distribution()
        if distribution is None or keras.backend.backend() != "jax":
            # Keras spreads nothing on other backends.
            return None
        layout = distribution.get_tensor_layout(f"{self.path}/groups")
        if layout is None:
            return None
        mesh = layout.device_mesh
        axis = layout.axes[0]
        devices = 1 if axis is None else mesh.shape[mesh.axis_names.index(axis)]
        if len(layout.axes) != 3 or self.groups % devices:
            raise ValueError(
                f"The layout of '{self.path}/groups' must have three axes, (groups, "
                "size, gates), and spread the groups evenly. Received: axes="
                f"{layout.axes}, {self.groups} groups, {devices} devices along the "
                "first axis."
            )
        if not self.cell.recurrence.differentiable_by_hand:
            raise ValueError(
                f"The groups of '{self.path}' can't be spread over devices: it is not "
                "known of its activations that they act on each unit by itself. Use "
                "tanh, sigmoid, hard_sigmoid, relu or linear, or take the rule for "
                f"'{self.path}/groups' out of the layout map."
            )
        return lambda kernel: keras.distribution.distribute_tensor(kernel, layout)

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

    @property
    def weight_drop(self) -> float:
        """Share of the recurrent weights dropped in training."""
        return self.cell.weight_drop

    def get_config(self) -> dict[str, Any]:
        """The arguments this layer was made with."""
        config = super().get_config()
        del config["cell"]
        own = self.cell.get_config()
        for name in ("name", "trainable", "dtype"):
            own.pop(name)
        config.update(own)
        config["activity_regularizer"] = keras.regularizers.serialize(
            self.activity_regularizer
        )
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "GroupedRNN":
        """The layer with these arguments."""
        return cls(**config)


def of_first_group(name: str) -> property:
    """A property that stock Keras has, and that all groups share."""
    return property(
        lambda layer: getattr(layer.cell.cells[0], name),
        doc=f"`{name}` as given; of an initializer, that of the first group.",
    )


def check_rate(name: str, rate: float) -> float:
    """Returns a dropout rate as a float, or raises unless it lies in `[0, 1)`.

    Args:
        name: What it is called in the message.
        rate: What was given.
    """
    number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
    if not number or not 0 <= rate < 1:
        raise ValueError(
            f"`{name}` must lie in [0, 1): it is the share of values dropped in "
            f"training. Received: {name}={rate!r}."
        )
    return float(rate)


def _check_mask(mask: Any, sequences: Any) -> None:
    shape, known = tuple(mask.shape), tuple(sequences.shape[:2])
    fits = len(shape) == 2 or (len(shape) == 3 and shape[-1] == 1)
    pairs = zip(shape, known, strict=False)
    if not fits or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError(
            "`mask` must be of shape (batch, time), like the sequences. Received: "
            f"mask of shape {shape}, sequences of shape {tuple(sequences.shape)}."
        )


def _arguments_of_group(arguments: dict[str, Any], group: int) -> dict[str, Any]:
    """The stock cell's arguments for one group, with initializers of its own."""
    return {
        name: initializers.of_part(value, group)
        if name.endswith("_initializer")
        else value
        for name, value in arguments.items()
    }
