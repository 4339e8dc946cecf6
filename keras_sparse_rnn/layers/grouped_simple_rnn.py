"""N smaller fully connected RNNs in parallel, as one layer."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_sparse_rnn.layers import recurrences
from keras_sparse_rnn.layers.grouped_rnn import (
    GroupedCell,
    GroupedRNN,
    of_first_group,
)


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class GroupedSimpleRNNCell(GroupedCell):
    """One time step of `GroupedSimpleRNN`: a stock cell for each group.

    For `keras.layers.RNN` and `keras.layers.StackedRNNCells`, which call a cell once
    for every step. `GroupedSimpleRNN` itself is much faster: it multiplies the
    inputs of all steps at once.

    Args:
        units: Positive integer, units of all groups together.
        groups: Number of groups, or a list of their sizes.
        input_density: Share of the input features each group sees.
        input_segments: Optional explicit windows, one `(begin, end)` for each group.
        weight_drop: Share of the recurrent weights dropped in training.
        **kwargs: `name`, `dtype`, `trainable`.

    The other arguments are those of `keras.layers.SimpleRNNCell`; all are explained at
    `GroupedSimpleRNN`.

    Call arguments:
        inputs: Tensor `(batch, features)`.
        states: A tensor `(batch, units)`, the output, or a list of it.
        training: Whether to apply dropout.

    Example:

    >>> layer = keras.layers.RNN(GroupedSimpleRNNCell(8, groups=2))
    >>> layer(keras.random.normal((3, 5, 4))).shape
    (3, 8)

    Reference:
        Demeester et al., [Predefined Sparseness in Recurrent Sequence Models](
        https://aclanthology.org/K18-1032), CoNLL 2018, section 3.1.
    """

    def __init__(
        self,
        units: int,
        groups: int | Sequence[int],
        input_density: float = 1.0,
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_drop: float = 0.0,
        seed: int | None = None,
        input_segments: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            units,
            groups,
            input_density,
            input_segments,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            weight_drop=weight_drop,
            seed=seed,
            cell_arguments={
                "activation": activation,
                "use_bias": use_bias,
                "kernel_initializer": kernel_initializer,
                "recurrent_initializer": recurrent_initializer,
                "bias_initializer": bias_initializer,
                "kernel_regularizer": kernel_regularizer,
                "recurrent_regularizer": recurrent_regularizer,
                "bias_regularizer": bias_regularizer,
                "kernel_constraint": kernel_constraint,
                "recurrent_constraint": recurrent_constraint,
                "bias_constraint": bias_constraint,
            },
            **kwargs,
        )

    def make_cell(self, units: int, **kwargs: Any) -> Any:
        """The stock cell of one group."""
        return keras.layers.SimpleRNNCell(units, **kwargs)

    def make_recurrence(self, cell: Any) -> recurrences.Recurrence:
        """The equations of a simple RNN, which has no gates."""
        return recurrences.SimpleRNN(cell.activation, keras.activations.linear)


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class GroupedSimpleRNN(GroupedRNN):
    """Several simple RNNs side by side: one with a sparse structure fixed beforehand.

    The units are shared out over `groups` RNNs. Each has a state and recurrent
    weights of its own and sees a contiguous window of the input features; their
    outputs are concatenated in order. It computes what one `keras.layers.SimpleRNN`
    would whose recurrent kernel is block-diagonal and whose kernel is zero outside
    the windows, with only the weights that are not zero: for `I` inputs and `U`
    units about `input_density * I * U + U² / groups + U` of them.

    With `groups=1` the layer is `keras.layers.SimpleRNN` in weights and results.

    `x·kernel` is one product per group for all time steps and
    all groups advance in one loop. With `training=True`, as in `fit`, its gradient is
    written by hand (one product for each recurrent kernel after the loop, not one for
    each step). JAX's forward mode (`jax.jvp`) can't pass such a gradient: call with
    `training=False` to use it.

    On a CPU small layers gain nothing. A training step measured faster than the stock
    layer's from 256 units on with TensorFlow and JAX and from 512 with PyTorch, in
    groups of eight units and more. Below that it took as long or longer: with
    TensorFlow twice as long at worst (64 groups of one unit), with PyTorch a third
    longer. docs/benchmarks.md has the tables.

    Args:
        units: Positive integer, units of all groups together.
        groups: Number of groups, from 1 to `units` (sizes then differ by at most
            one), or a list of the groups' sizes that sums to `units`.
        input_density: Share of the input features each group sees, in
            `[1/groups, 1]`. With 1 every group sees all of them (what the paper
            recommends), with `1/groups` the windows do not overlap. In between they
            are evenly spread and overlap.
        activation: As in `keras.layers.SimpleRNN`.
        use_bias: As in `keras.layers.SimpleRNN`.
        kernel_initializer: Initializer of each group's kernel, as if the group were
            a layer of its own. A seeded one draws other values for each group.
        recurrent_initializer: The same for the recurrent kernels: each is orthogonal
            by default.
        bias_initializer: The same for the biases.
        kernel_regularizer: Applied to each group's kernel.
        recurrent_regularizer: Applied to each group's recurrent kernel.
        bias_regularizer: Applied to each group's bias.
        activity_regularizer: Applied to the output.
        kernel_constraint: Applied to each group's kernel.
        recurrent_constraint: Applied to each group's recurrent kernel.
        bias_constraint: Applied to each group's bias.
        dropout: Share of the inputs to drop in training, in `[0, 1)`. One mask a
            batch for all time steps, all gates and all groups.
        recurrent_dropout: Share of the recurrent outputs to drop in training. One
            mask a batch for all time steps and all gates.
        weight_drop: Share of the recurrent kernels' weights to drop in training
            (DropConnect). One mask a batch, for all its examples and time steps; what
            remains is scaled by `1 / (1 - weight_drop)`.
        seed: Random seed of all three dropouts.
        return_sequences: Whether to return the output of every time step.
        return_state: Whether to return the last states after the output.
        go_backwards: Whether to process the sequence backwards and return the
            reversed sequence.
        stateful: Whether to start from the last states of the previous batch.
        unroll: Whether to write the time loop out.
        input_segments: Optional explicit windows, one `(begin, end)` for each group.
            They take the place of `input_density`; pruning uses them.
        **kwargs: `name`, `dtype`, `trainable`, `zero_output_for_mask`.

    Call arguments:
        sequences: Tensor `(batch, time, features)`.
        initial_state: Optional tensor `(batch, units)`, or a list of it: the output of
            all groups, concatenated in order.
        mask: Optional boolean tensor `(batch, time)`; masked steps are skipped.
        training: Whether to apply dropout.

    Returns:
        `(batch, units)`, or `(batch, time, units)` with `return_sequences=True`;
        with `return_state=True` a tuple of that and a tensor `(batch, units)`.

    Raises:
        ValueError: If `groups` exceeds `units`, a list of sizes does not sum to
            `units`, `input_density` lies outside `[1/groups, 1]`, a group would see no
            input, or a rate lies outside `[0, 1)`.

    Example:

    >>> layer = GroupedSimpleRNN(512, groups=4, input_density=0.5)
    >>> layer(keras.random.normal((8, 20, 128))).shape
    (8, 512)
    >>> [w.shape for w in layer.weights[:3]]
    [(64, 128), (128, 128), (128,)]

    Reference:
        Demeester et al., [Predefined Sparseness in Recurrent Sequence Models](
        https://aclanthology.org/K18-1032), CoNLL 2018, section 3.1.
    """

    def __init__(
        self,
        units: int,
        groups: int | Sequence[int],
        input_density: float = 1.0,
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_drop: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        input_segments: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ):
        cell = GroupedSimpleRNNCell(
            units,
            groups,
            input_density,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            weight_drop=weight_drop,
            seed=seed,
            input_segments=input_segments,
            dtype=kwargs.get("dtype"),
            trainable=kwargs.get("trainable", True),
            name="grouped_simple_rnn_cell",
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

    activation = of_first_group("activation")
    use_bias = of_first_group("use_bias")
    kernel_initializer = of_first_group("kernel_initializer")
    recurrent_initializer = of_first_group("recurrent_initializer")
    bias_initializer = of_first_group("bias_initializer")
    kernel_regularizer = of_first_group("kernel_regularizer")
    recurrent_regularizer = of_first_group("recurrent_regularizer")
    bias_regularizer = of_first_group("bias_regularizer")
    kernel_constraint = of_first_group("kernel_constraint")
    recurrent_constraint = of_first_group("recurrent_constraint")
    bias_constraint = of_first_group("bias_constraint")
