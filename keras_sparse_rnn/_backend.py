"""The one place that touches what is private in Keras.

Keras has no public time loop, no public cuDNN call and no public class of cells with
dropout, and the layers of this package need all three; it also has no public way to
tell a symbolic call from a real one, to learn what a model was compiled with other than
in serialized form, which loses a user's own functions, which weights its optimizer does
not decay, of which `Input` a symbol is, or whether a vocabulary was learned. Everything
else uses Keras's public API. `tests/test_backend.py` checks all that is relied on here
against the installed Keras.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
from keras import ops
from keras.src import backend
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

__all__ = [
    "SET_IN_USE",
    "DropoutRNNCell",
    "compile_arguments",
    "cudnn_gru",
    "cudnn_lstm",
    "cudnn_ok",
    "in_symbolic_scope",
    "kept_from_decay",
    "origin",
    "reversed_time",
    "set_mask",
    "shown_steps",
    "sublayers",
    "time_loop",
    "was_handed_vocabulary",
]


class _Sequences(NamedTuple):
    """Several sequences, time first, for a loop whose length is not known.

    Without a length Keras asks its inputs for the size of axis 1. It only wants to hear
    that nobody knows.
    """

    sequences: tuple[Any, ...]

    @property
    def shape(self) -> tuple[None, None]:
        """What Keras asks for."""
        return (None, None)


def time_loop(
    step: Any,
    inputs: Any,
    initial_states: Any,
    *,
    length: int | None,
    return_sequences: bool,
    unroll: bool,
) -> tuple[list[Any], list[Any]]:
    """Runs `step` over the leading (time) axis of `inputs`.

    Args:
        step: `step([input_t, ...], states) -> (outputs_t, states)`, in which
            `outputs_t` is a tensor or, if the loop is not unrolled, a list of them.
        inputs: List of tensors `(time, ...)`.
        initial_states: List of tensors.
        length: The number of steps if it is known, else `None`.
        return_sequences: Whether the outputs of all steps are wanted.
        unroll: Whether to write the steps out one by one.

    Returns:
        `(outputs, states)`: the outputs, time first, in the structure of `outputs_t`
        (of all steps if wanted, else unspecified); and the last states.
    """

    def stepped(packed: Any, states: Any) -> tuple[Any, Any]:
        own = packed.sequences if length is None else packed
        return step(list(own), list(states))

    sequences = tuple(inputs)
    _, outputs, states = backend.rnn(
        stepped,
        sequences if length is not None else _Sequences(sequences),
        list(initial_states),
        unroll=unroll,
        input_length=length,
        time_major=True,
        return_all_outputs=return_sequences,
    )
    return outputs, list(states)


def reversed_time(x: Any) -> Any:
    """`x` with its leading axis the other way round.

    Keras's `flip` is what XLA wants; on a CPU, TensorFlow and PyTorch move whole steps
    faster by index.
    """
    if keras.backend.backend() == "jax":
        return ops.flip(x, axis=0)
    return ops.take(x, ops.arange(ops.shape(x)[0] - 1, -1, -1), axis=0)


def shown_steps(mask: Any, zero_output_for_mask: bool, unroll: bool) -> Any:
    """The steps at which stock Keras gives an output on this backend, not zeros.

    Args:
        mask: Boolean tensor `(batch, time)`.
        zero_output_for_mask: Zeros for masked steps, not the previous output.
        unroll: Whether the steps are written out one by one.

    Returns:
        Boolean tensor `(batch, time)`, or `None` for all steps.
    """
    if zero_output_for_mask:
        return mask
    if keras.backend.backend() == "jax" and not unroll:
        return None
    # Before the first step that counts an output of zeros is repeated, in JAX's loop
    # alone the initial state.
    return ops.cumsum(ops.cast(mask, "int32"), axis=1) > 0


def cudnn_ok(
    activation: Any, recurrent_activation: Any, unroll: bool, **kwargs: Any
) -> bool:
    """Whether a stock LSTM or GRU would take cuDNN with these arguments.

    Args:
        activation: The layer's activation, a function.
        recurrent_activation: The layer's recurrent activation, a function.
        unroll: Whether the layer is unrolled.
        **kwargs: `use_bias` of an LSTM, and `reset_after` of a GRU.
    """
    name = keras.backend.backend()
    if name not in ("tensorflow", "jax", "torch"):
        return False
    if name == "jax" and "reset_after" in kwargs:
        return False  # Keras's GRU has no cuDNN with JAX.
    if name == "torch" and not kwargs.pop("reset_after", True):
        return False  # PyTorch's check doesn't know the argument.
    return bool(backend.cudnn_ok(activation, recurrent_activation, unroll, **kwargs))


def cudnn_lstm(*args: Any, **kwargs: Any) -> tuple[Any, Any, list[Any]]:
    """The backend's cuDNN LSTM over one batch-major sequence.

    Arguments and results are those of `keras.src.backend.lstm`:
    `(last_output, outputs, [h, c])`. Raises `NotImplementedError` where this
    backend cannot do it (PyTorch and JAX take no mask).
    """
    return backend.lstm(*args, **kwargs)


def cudnn_gru(*args: Any, **kwargs: Any) -> tuple[Any, Any, list[Any]]:
    """The backend's cuDNN GRU over one batch-major sequence.

    Arguments and results are those of `keras.src.backend.gru`:
    `(last_output, outputs, [h])`. Raises `NotImplementedError` where this backend
    cannot do it.
    """
    return backend.gru(*args, **kwargs)


def compile_arguments(model: Any) -> dict[str, Any]:
    """The arguments that `model.compile` was last called with, as they were given."""
    return dict(model._compile_config.config)


def sublayers(layer: Any) -> list[Any]:
    """`layer`, and every layer that it holds, be it in an attribute of its own."""
    return list(layer._flatten_layers())


def set_mask(tensor: Any, mask: Any) -> None:
    """Says which steps of a tensor count, as `compute_mask` does for a whole layer."""
    backend.set_keras_mask(tensor, mask)


def was_handed_vocabulary(lookup: Any) -> bool:
    """Whether a preprocessing layer was made with a vocabulary, not to learn one."""
    return getattr(lookup, "_lookup_layer", lookup)._has_input_vocabulary


def origin(symbol: Any) -> Any:
    """The layer or operation that made a symbolic tensor."""
    return symbol._keras_history.operation


def kept_from_decay(optimizer: Any, variables: Iterable[Any]) -> list[Any]:
    """The variables that `exclude_from_weight_decay` was told of, of some."""
    return [one for one in variables if not optimizer._use_weight_decay(one)]


# What `fit`, `evaluate` and `predict` set on a model that a compiled one has not.
SET_IN_USE = {
    "_eval_epoch_iterator",
    "_jax_state",
    "history",
    "stop_evaluating",
    "stop_predicting",
}
