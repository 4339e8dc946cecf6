"""Recurrent highway networks: several highway layers within each time step."""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_sparse_rnn import _backend
from keras_sparse_rnn.layers import initializers
from keras_sparse_rnn.layers.grouped_rnn import check_rate
from keras_sparse_rnn.layers.segments import positive


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class RecurrentHighwayCell(_backend.DropoutRNNCell, keras.layers.Layer):
    """One time step of `RecurrentHighway`: `depth` highway layers, one after another.

    For `keras.layers.RNN` and `keras.layers.StackedRNNCells`, which call a cell once
    for every step. `RecurrentHighway` itself multiplies the inputs of all steps at
    once.

    Args:
        units: Positive integer, size of the state.
        depth: Positive integer, number of highway layers in a time step.
        **kwargs: `name`, `dtype`, `trainable`.

    The other arguments are explained at `RecurrentHighway`.

    Call arguments:
        inputs: Tensor `(batch, features)`.
        states: Tensor `(batch, units)`, or a list of it.
        training: Whether to apply dropout.

    Attributes:
        kernel: `(features, 2 * units)`, what multiplies the input. Here as in all the
            weights the candidate has the first half, the transform gate the second.
        recurrent_kernels: `(units, 2 * units)` of each depth.
        biases: `(2 * units,)` of each depth; empty with `use_bias=False`.

    Example:

    >>> layer = keras.layers.RNN(RecurrentHighwayCell(8, depth=3))
    >>> layer(keras.random.normal((3, 5, 4))).shape
    (3, 8)

    Reference:
        Zilly et al., [Recurrent Highway Networks](https://arxiv.org/abs/1607.03474),
        ICML 2017, section 4.
    """

    def __init__(
        self,
        units: int,
        depth: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        transform_bias: float = -2.0,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.units = positive("units", units)
        self.depth = positive("depth", depth)
        self.activation = keras.activations.get(activation)
        self.recurrent_activation = keras.activations.get(recurrent_activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.transform_bias = _finite("transform_bias", transform_bias)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = keras.regularizers.get(recurrent_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.recurrent_constraint = keras.constraints.get(recurrent_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.dropout = check_rate("dropout", dropout)
        self.recurrent_dropout = check_rate("recurrent_dropout", recurrent_dropout)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        # `keras.layers.RNN` asks its cell for masks before every call. The layer draws
        # its own, and only in training.
        self.masks_on_demand = True
        self.state_size = self.output_size = self.units

    def build(self, input_shape: Any) -> None:
        """Creates the variables, once the number of inputs is known."""
        features = input_shape[-1]
        if features is None:
            raise ValueError(
                f"{type(self).__name__} needs to know its number of input features. "
                f"Received: input_shape={tuple(input_shape)}."
            )
        gates = 2 * self.units
        # A name for each depth; that of the first is the one of a cell with one only.
        suffixes = ["", *(f"_{d}" for d in range(1, self.depth))]
        self.kernel = self.add_weight(
            shape=(features, gates),
            name="kernel",
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.recurrent_kernels = [
            self.add_weight(
                shape=(self.units, gates),
                name=f"recurrent_kernel{suffix}",
                initializer=self._recurrent_initializer(d),
                regularizer=self.recurrent_regularizer,
                constraint=self.recurrent_constraint,
            )
            for d, suffix in enumerate(suffixes)
        ]
        self.biases = [
            self.add_weight(
                shape=(gates,),
                name=f"bias{suffix}",
                initializer=self._bias_initializer(d),
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
            for d, suffix in enumerate(suffixes)
            if self.use_bias
        ]
        self.input_spec = keras.layers.InputSpec(axes={-1: features})
        self.built = True

    def _recurrent_initializer(self, depth: int) -> Callable[..., Any]:
        """What draws the candidate's weights and the gate's, each as a square."""
        parts = [
            initializers.of_part(self.recurrent_initializer, 2 * depth + gate)
            for gate in range(2)
        ]

        def draw(shape: Any, dtype: Any = None) -> Any:
            square = (self.units, self.units)
            return ops.concatenate([part(square, dtype=dtype) for part in parts], -1)

        return draw

    def _bias_initializer(self, depth: int) -> Callable[..., Any]:
        """What fills the candidate's biases, and those of the transform gate."""
        candidate = initializers.of_part(self.bias_initializer, depth)

        def draw(shape: Any, dtype: Any = None) -> Any:
            own = (self.units,)
            gate = ops.full(own, self.transform_bias, dtype=dtype)
            return ops.concatenate([candidate(own, dtype=dtype), gate], -1)

        return draw

    def project(self, inputs: Any) -> Any:
        """`x·kernel + bias` of the first depth, for any number of leading axes."""
        projected = ops.matmul(inputs, self._tensor(self.kernel))
        return projected + self._tensor(self.biases[0]) if self.biases else projected

    def transition(self, drop: Any = None) -> Callable[[Any, Any], Any]:
        """What takes the state through all depths of a time step.

        Args:
            drop: `None`, or what multiplies the state on its way into every product.

        Returns:
            A function of `project`'s result and the state, both with the batch first,
            whose value is the new state. The weights are converted here, once, so that
            a time loop need not do it in each of its steps.
        """
        kernels = [self._tensor(kernel) for kernel in self.recurrent_kernels]
        biases = [self._tensor(bias) for bias in self.biases[1:]]

        def advance(projected: Any, state: Any) -> Any:
            for d, kernel in enumerate(kernels):
                gates = ops.matmul(state if drop is None else state * drop, kernel)
                if d == 0:
                    gates = gates + projected
                elif biases:
                    gates = gates + biases[d - 1]
                candidate, transform = ops.split(gates, 2, axis=-1)
                candidate = self.activation(candidate)
                transform = self.recurrent_activation(transform)
                state = (candidate - state) * transform + state
            return state

        return advance

    def draw_mask(self, like: Any, rate: float) -> Any:
        """Scaled keep mask of the shape of `like`, drawn anew at each call."""
        # Not in half precision: bfloat16 has too few numbers to compare a rate with.
        ones = ops.ones_like(like, dtype=self.variable_dtype)
        mask = keras.random.dropout(ones, rate=rate, seed=self.seed_generator)
        return ops.cast(mask, self.compute_dtype)

    def get_dropout_mask(self, step_input: Any) -> Any:
        """The inputs' mask, the same for all steps of a `keras.layers.RNN`."""
        return super().get_dropout_mask(step_input) if self.masks_on_demand else None

    def get_recurrent_dropout_mask(self, step_input: Any) -> Any:
        """The state's mask, the same for all steps of a `keras.layers.RNN`."""
        if not self.masks_on_demand:
            return None
        return super().get_recurrent_dropout_mask(step_input)

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        """One time step: `(output, states)` from `(batch, features)` and states."""
        nested = isinstance(states, (list, tuple))
        state = states[0] if nested else states
        drop = None
        if training:
            mask = self.get_dropout_mask(inputs)
            inputs = inputs if mask is None else inputs * mask
            drop = self.get_recurrent_dropout_mask(state)
        new = self.transition(drop)(self.project(inputs), state)
        return new, ([new] if nested else new)

    def get_initial_state(self, batch_size: Any = None) -> Any:
        """Zeros, a list of one tensor `(batch, units)`."""
        return [ops.zeros((batch_size, self.units), dtype=self.compute_dtype)]

    def get_config(self) -> dict[str, Any]:
        """The arguments this cell was made with."""
        config = super().get_config()
        config.update(
            units=self.units,
            depth=self.depth,
            activation=keras.activations.serialize(self.activation),
            recurrent_activation=keras.activations.serialize(self.recurrent_activation),
            use_bias=self.use_bias,
            transform_bias=self.transform_bias,
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            seed=self.seed,
        )
        for of_kind in ("initializer", "regularizer", "constraint"):
            serialize = getattr(keras, f"{of_kind}s").serialize
            for weight in ("kernel", "recurrent", "bias"):
                name = f"{weight}_{of_kind}"
                config[name] = serialize(getattr(self, name))
        return config

    def _tensor(self, variable: Any) -> Any:
        return ops.convert_to_tensor(variable, dtype=self.compute_dtype)


def _of_cell(name: str) -> property:
    return property(lambda layer: getattr(layer.cell, name), doc=f"`{name}`, as given.")


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class RecurrentHighway(keras.layers.RNN):
    """A recurrent highway network: recurrence that is deep within each time step.

    Where a simple RNN takes its state through one layer from one time step to the
    next, this takes it through `depth` of them. Each is a highway layer: a transform
    gate `t` says how much of a candidate `h` takes the place of the state `s`, unit by
    unit, and what is not replaced is carried on (the carry gate is coupled, `1 - t`):

    ```
    h = activation(x·W_h + s·R_h + b_h)             x·W at the first depth only
    t = recurrent_activation(x·W_t + s·R_t + b_t)
    s = (h - s) * t + s
    ```

    The output of a time step is `s` after the last depth. It has as many units as the
    state, and weights of its own at every depth: for `I` inputs and `U` units
    `2 * I * U + depth * 2 * (U² + U)` of them.

    `x·W` of all time steps is one product before the loop.

    Args:
        units: Positive integer, size of the state and of the output.
        depth: Positive integer, number of highway layers in a time step.
        activation: Of the candidate.
        recurrent_activation: Of the transform gate.
        use_bias: Whether candidate and gate of every depth have a bias.
        kernel_initializer: Initializer of the kernel, `(features, 2 * units)`.
        recurrent_initializer: Initializer of the recurrent weights of the candidate
            and of the gate at every depth, a matrix `(units, units)` each: by default
            each is orthogonal. A seeded one draws other values for each of them.
        bias_initializer: Initializer of the candidate's biases.
        transform_bias: Number that the gates' biases start at. The lower it is, the
            more of the state is carried on at first; with -2 each depth replaces about
            12% of it. Of no use without `use_bias`.
        kernel_regularizer: Applied to the kernel.
        recurrent_regularizer: Applied to the recurrent kernel of each depth.
        bias_regularizer: Applied to the bias of each depth.
        activity_regularizer: Applied to the output.
        kernel_constraint: Applied to the kernel.
        recurrent_constraint: Applied to the recurrent kernel of each depth.
        bias_constraint: Applied to the bias of each depth.
        dropout: Share of the inputs to drop in training, in `[0, 1)`. One mask a batch
            for all time steps, for candidate and gate.
        recurrent_dropout: Share of the state to drop in training on its way into the
            products. One mask a batch for all time steps and all depths, for candidate
            and gate; the state that is carried on is whole.
        seed: Random seed of both dropouts.
        return_sequences: Whether to return the output of every time step.
        return_state: Whether to return the last state after the output.
        go_backwards: Whether to process the sequence backwards and return the
            reversed sequence.
        stateful: Whether to start from the last state of the previous batch.
        unroll: Whether to write the time loop out.
        **kwargs: `name`, `dtype`, `trainable`, `zero_output_for_mask`.

    Call arguments:
        sequences: Tensor `(batch, time, features)`.
        initial_state: Optional tensor `(batch, units)`, or a list of it.
        mask: Optional boolean tensor `(batch, time)`; masked steps are skipped.
        training: Whether to apply dropout.

    Returns:
        `(batch, units)`, or `(batch, time, units)` with `return_sequences=True`;
        with `return_state=True` a tuple of that and a tensor `(batch, units)`.

    Raises:
        ValueError: If `units` or `depth` is no positive integer, `transform_bias` no
            number, a rate lies outside `[0, 1)`, or an initial state is not one tensor
            `(batch, units)`.

    Example:

    >>> layer = RecurrentHighway(64, depth=5, return_sequences=True)
    >>> layer(keras.random.normal((8, 20, 16))).shape
    (8, 20, 64)
    >>> layer.cell.kernel.shape
    (16, 128)
    >>> [kernel.shape for kernel in layer.cell.recurrent_kernels[:2]]
    [(64, 128), (64, 128)]

    Reference:
        Zilly et al., [Recurrent Highway Networks](https://arxiv.org/abs/1607.03474),
        ICML 2017, section 4, with the coupled gates of its section 5, as pruned by Wen
        et al., [Learning Intrinsic Sparse Structures within Long Short-Term Memory](
        https://arxiv.org/abs/1709.05027), ICLR 2018, section 4.1.2.
    """

    cell: RecurrentHighwayCell

    def __init__(
        self,
        units: int,
        depth: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        transform_bias: float = -2.0,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        **kwargs: Any,
    ):
        cell = RecurrentHighwayCell(
            units,
            depth,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            transform_bias=transform_bias,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            dtype=kwargs.get("dtype"),
            trainable=kwargs.get("trainable", True),
            name="recurrent_highway_cell",
        )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        cell.masks_on_demand = False
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        """Creates the variables, and that of the state of a stateful layer."""
        if initial_state_shape is not None:
            shapes = initial_state_shape
            if not shapes or not isinstance(shapes[0], (list, tuple)):
                shapes = [shapes]
            self._check_states(shapes)
        super().build(sequences_shape, initial_state_shape)
        axes = {-1: sequences_shape[-1]}
        self.input_spec = keras.layers.InputSpec(ndim=3, axes=axes)

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> Any:
        """Runs the loop over `(batch, time, features)`; see `keras.layers.RNN`."""
        cell = self.cell
        states = keras.tree.flatten(initial_state)
        self._check_states([state.shape for state in states])
        (state,) = states
        if keras.backend.backend() == "torch" and self.stateful:
            # The state is assigned in place after the loop; without a copy PyTorch
            # would find its saved tensors changed.
            state = ops.copy(state)
        # `stateless_call` of a layer alone casts nothing.
        sequences = ops.cast(sequences, self.compute_dtype)
        drop = None
        if training and cell.dropout:
            sequences = sequences * cell.draw_mask(sequences[:, :1], cell.dropout)
        if training and cell.recurrent_dropout:
            drop = cell.draw_mask(state, cell.recurrent_dropout)
        inputs = [ops.transpose(sequences, (1, 0, 2))]
        if mask is not None:
            mask = mask[0] if isinstance(mask, (list, tuple)) else mask
            mask = ops.cast(mask, "bool")
            mask = mask if len(mask.shape) == 3 else ops.expand_dims(mask, -1)
            inputs.append(ops.transpose(mask, (1, 0, 2)))
        if self.go_backwards:
            inputs = [_backend.reversed_time(x) for x in inputs]
        inputs[0] = cell.project(inputs[0])
        advance = cell.transition(drop)

        def step(inputs: Any, states: Any) -> tuple[Any, list[Any]]:
            projected, *counts = inputs
            new = advance(projected, states[0])
            if counts:
                new = ops.where(counts[0], new, states[0])
            return new, [new]

        outputs, (last,) = _backend.time_loop(
            step,
            inputs,
            [state],
            length=sequences.shape[1],
            return_sequences=self.return_sequences,
            unroll=self.unroll,
        )
        if self.return_sequences:
            outputs = ops.transpose(outputs, (1, 0, 2))
        else:
            outputs = ops.expand_dims(last, 1)
        if mask is None:
            return last, outputs, [last]
        shown = _backend.shown_steps(
            ops.transpose(inputs[1][..., 0]), self.zero_output_for_mask, self.unroll
        )
        if shown is not None:
            shown = shown if self.return_sequences else shown[:, -1:]
            shown = ops.expand_dims(shown, -1)
            outputs = ops.where(shown, outputs, ops.zeros_like(outputs))
        return outputs[:, -1], outputs, [last]

    def _check_states(self, shapes: Sequence[Any]) -> None:
        """Raises unless there is one state, as wide as the cell's."""
        if [shape[-1] for shape in shapes] != [self.units]:
            raise ValueError(
                f"`initial_state` must be one tensor (batch, {self.units}). Received: "
                f"shapes {[tuple(shape) for shape in shapes]}."
            )

    units = _of_cell("units")
    depth = _of_cell("depth")
    activation = _of_cell("activation")
    recurrent_activation = _of_cell("recurrent_activation")
    use_bias = _of_cell("use_bias")
    kernel_initializer = _of_cell("kernel_initializer")
    recurrent_initializer = _of_cell("recurrent_initializer")
    bias_initializer = _of_cell("bias_initializer")
    transform_bias = _of_cell("transform_bias")
    kernel_regularizer = _of_cell("kernel_regularizer")
    recurrent_regularizer = _of_cell("recurrent_regularizer")
    bias_regularizer = _of_cell("bias_regularizer")
    kernel_constraint = _of_cell("kernel_constraint")
    recurrent_constraint = _of_cell("recurrent_constraint")
    bias_constraint = _of_cell("bias_constraint")
    dropout = _of_cell("dropout")
    recurrent_dropout = _of_cell("recurrent_dropout")

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
    def from_config(cls, config: dict[str, Any]) -> "RecurrentHighway":
        """The layer with these arguments."""
        return cls(**config)


def _finite(name: str, value: Any) -> float:
    """Returns `value` as a float, or raises unless it is a finite number."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(
            f"`{name}` must be a finite number. Received: {name}={value!r}."
        )
    return float(value)
