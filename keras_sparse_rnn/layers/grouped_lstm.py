"""N smaller LSTMs in parallel, as one layer."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_sparse_rnn import _backend
from keras_sparse_rnn.layers.grouped_rnn import GroupedCell, GroupedRNN


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class GroupedLSTMCell(GroupedCell):
    """One step of `GroupedLSTM`: a stock `keras.layers.LSTMCell` for each group."""

    def make_cell(self, units: int, **kwargs: Any) -> Any:
        """The stock LSTM cell of one group."""
        return keras.layers.LSTMCell(units, **kwargs)

    def advance(
        self, cell: Any, projected: Any, states: list[Any], recurrent_kernel: Any
    ) -> list[Any]:
        """One LSTM step; gates in Keras's order: input, forget, candidate, output."""
        h, c = states
        gates = ops.add(projected, ops.matmul(h, recurrent_kernel))
        i, f, candidate, o = ops.split(gates, 4, axis=-1)
        c = cell.recurrent_activation(f) * c + cell.recurrent_activation(
            i
        ) * cell.activation(candidate)
        return [cell.recurrent_activation(o) * cell.activation(c), c]


def _of_first_group(name: str) -> property:
    """A property that stock Keras has, and that all groups share."""
    return property(
        lambda layer: getattr(layer.cell.cells[0], name),
        doc=f"`{name}` as given; of an initializer, that of the first group.",
    )


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class GroupedLSTM(GroupedRNN):
    """Several LSTMs side by side: an LSTM with a sparse structure fixed beforehand.

    The units are shared out over `groups` LSTMs. Each has states and recurrent
    weights of its own and sees a contiguous window of the input features; their
    outputs are concatenated in order. It computes what one `keras.layers.LSTM`
    would whose recurrent kernel is block-diagonal and whose kernel is zero outside
    the windows, with only the weights that are not zero: for `I` inputs and `U`
    units about `4 * (input_density * I * U + U² / groups + U)` of them. With equal
    numbers of weights a grouped layer can be wider than a dense one.

    With `groups=1` the layer is `keras.layers.LSTM` in weights and results.

    On a GPU each group runs on cuDNN under the conditions of
    `keras.layers.LSTM` (default activations, a bias, no recurrent dropout, not
    unrolled, masks right-padded with TensorFlow and none with JAX or PyTorch).
    Elsewhere `x·kernel` is one product per group for all time steps, and all groups
    advance in one loop.

    Args:
        units: Positive integer, units of all groups together.
        groups: Number of groups, from 1 to `units` (sizes then differ by at most
            one), or a list of the groups' sizes that sums to `units`.
        input_density: Share of the input features each group sees, in
            `[1/groups, 1]`. With 1 every group sees all of them (what the paper
            recommends), with `1/groups` the windows do not overlap. In between they
            are evenly spread and overlap.
        activation: As in `keras.layers.LSTM`.
        recurrent_activation: As in `keras.layers.LSTM`.
        use_bias: As in `keras.layers.LSTM`.
        kernel_initializer: Initializer of each group's kernel, as if the group were
            a layer of its own. A seeded one draws other values for each group.
        recurrent_initializer: The same for the recurrent kernels: each is orthogonal
            by default.
        bias_initializer: The same for the biases.
        unit_forget_bias: As in `keras.layers.LSTM`.
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
        seed: Random seed of both dropouts.
        return_sequences: Whether to return the output of every time step.
        return_state: Whether to return the last states after the output.
        go_backwards: Whether to process the sequence backwards and return the
            reversed sequence.
        stateful: Whether to start from the last states of the previous batch.
        unroll: Whether to write the time loop out.
        use_cudnn: `"auto"`, `True` (an error where cuDNN can't be had) or `False`.
        input_segments: Optional explicit windows, one `(begin, end)` for each group.
            They take the place of `input_density`; pruning uses them.
        **kwargs: `name`, `dtype`, `trainable`, `zero_output_for_mask`.

    Call arguments:
        sequences: Tensor `(batch, time, features)`.
        initial_state: Optional list of two tensors `(batch, units)`, output and cell
            state of all groups, concatenated in order.
        mask: Optional boolean tensor `(batch, time)`; masked steps are skipped.
        training: Whether to apply dropout.

    Returns:
        `(batch, units)`, or `(batch, time, units)` with `return_sequences=True`;
        with `return_state=True` a tuple of that and two tensors `(batch, units)`.

    Raises:
        ValueError: If `groups` exceeds `units`, a list of sizes does not sum to
            `units`, `input_density` lies outside `[1/groups, 1]`, or a group would
            see no input.

    Example:

    >>> layer = GroupedLSTM(512, groups=4, input_density=0.5, return_sequences=True)
    >>> layer(keras.random.normal((8, 20, 128))).shape
    (8, 20, 512)
    >>> [w.shape for w in layer.weights[:3]]
    [(64, 512), (128, 512), (512,)]

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
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
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
        use_cudnn: bool | str = "auto",
        input_segments: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ):
        if use_cudnn not in ("auto", True, False):
            raise ValueError(
                "`use_cudnn` must be 'auto', True or False. "
                f"Received: use_cudnn={use_cudnn!r}."
            )
        cell = GroupedLSTMCell(
            units,
            groups,
            input_density,
            input_segments,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            cell_arguments={
                "activation": activation,
                "recurrent_activation": recurrent_activation,
                "use_bias": use_bias,
                "kernel_initializer": kernel_initializer,
                "recurrent_initializer": recurrent_initializer,
                "bias_initializer": bias_initializer,
                "unit_forget_bias": unit_forget_bias,
                "kernel_regularizer": kernel_regularizer,
                "recurrent_regularizer": recurrent_regularizer,
                "bias_regularizer": bias_regularizer,
                "kernel_constraint": kernel_constraint,
                "recurrent_constraint": recurrent_constraint,
                "bias_constraint": bias_constraint,
            },
            dtype=kwargs.get("dtype"),
            trainable=kwargs.get("trainable", True),
            name="grouped_lstm_cell",
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
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.use_cudnn = use_cudnn
        if self._cudnn_ok() and keras.backend.backend() == "tensorflow":
            # As stock Keras: cuDNN's operations can't be compiled by XLA.
            self.supports_jit = False

    activation = _of_first_group("activation")
    recurrent_activation = _of_first_group("recurrent_activation")
    use_bias = _of_first_group("use_bias")
    unit_forget_bias = _of_first_group("unit_forget_bias")
    kernel_initializer = _of_first_group("kernel_initializer")
    recurrent_initializer = _of_first_group("recurrent_initializer")
    bias_initializer = _of_first_group("bias_initializer")
    kernel_regularizer = _of_first_group("kernel_regularizer")
    recurrent_regularizer = _of_first_group("recurrent_regularizer")
    bias_regularizer = _of_first_group("bias_regularizer")
    kernel_constraint = _of_first_group("kernel_constraint")
    recurrent_constraint = _of_first_group("recurrent_constraint")
    bias_constraint = _of_first_group("bias_constraint")

    def _cudnn_ok(self) -> bool:
        first = self.cell.cells[0]
        return (
            self.use_cudnn in ("auto", True)
            and not self.recurrent_dropout
            and _backend.cudnn_ok(
                first.activation,
                first.recurrent_activation,
                self.unroll,
                first.use_bias,
            )
        )

    def fast_path(self, sequences: Any, initial_state: list[Any], mask: Any) -> Any:
        """All groups on cuDNN, or `None` where stock Keras would not take it."""
        if self._cudnn_ok():
            try:
                return self._cudnn(sequences, initial_state, mask)
            except NotImplementedError:
                # What the backend says for a mask it can't take.
                pass
        if self.use_cudnn is True:
            raise ValueError(
                f"Layer '{self.name}' has use_cudnn=True, but cuDNN can't be used: "
                "it needs a GPU, the default activations, a bias, no "
                "recurrent_dropout, unroll=False and, with JAX and PyTorch, no mask. "
                "Pass use_cudnn='auto' to use it only where possible."
            )
        return None

    def _cudnn(self, sequences: Any, initial_state: list[Any], mask: Any) -> Any:
        cell = self.cell
        states = [cell.split_state(state) for state in initial_state]
        results = [
            _backend.cudnn_lstm(
                sequences[..., begin:end],
                states[0][g],
                states[1][g],
                mask,
                kernel=group.kernel,
                recurrent_kernel=group.recurrent_kernel,
                bias=group.bias,
                activation=group.activation,
                recurrent_activation=group.recurrent_activation,
                return_sequences=self.return_sequences,
                go_backwards=self.go_backwards,
                unroll=self.unroll,
            )
            for g, (group, (begin, end)) in enumerate(
                zip(cell.cells, cell.input_segments, strict=True)
            )
        ]
        last = ops.concatenate([result[0] for result in results], axis=-1)
        outputs = ops.concatenate([result[1] for result in results], axis=-1)
        flat = [state for result in results for state in result[2]]
        return last, outputs, cell.join_states(flat)

    def get_config(self) -> dict[str, Any]:
        """The arguments this layer was made with."""
        config = super().get_config()
        config["use_cudnn"] = self.use_cudnn
        return config
