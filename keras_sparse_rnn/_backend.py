"""The one place that touches what is private in Keras.

Keras has no public time loop and no public cuDNN call, and a layer of this
package needs both; it also has no public way to tell a symbolic call from a
real one, or to learn what a model was compiled with other than in serialized
form, which loses a user's own functions. Everything else uses Keras's public
API. `tests/test_backend.py` checks all that is relied on here against the
installed Keras.
"""

from typing import Any

import keras
from keras import ops
from keras.src import backend
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

__all__ = [
    "compile_arguments",
    "cudnn_lstm",
    "cudnn_ok",
    "in_symbolic_scope",
    "time_loop",
]


def time_loop(
    step: Any,
    inputs: Any,
    initial_states: Any,
    *,
    go_backwards: bool,
    mask: Any,
    unroll: bool,
    length: int | None,
    zero_output_for_mask: bool,
    return_sequences: bool,
) -> tuple[Any, Any, Any]:
    """Runs `step` over the leading (time) axis of `inputs`.

    Args:
        step: `step(inputs_t, states) -> (output_t, states)`.
        inputs: Tensor of shape `(time, batch, features)`.
        initial_states: List of tensors of shape `(batch, ...)`.
        go_backwards: Whether to go from the last step to the first.
        mask: `None`, or a boolean tensor `(time, batch)`.
        unroll: Whether to write the steps out one by one.
        length: The number of steps if it is known, else `None`.
        zero_output_for_mask: Zeros for masked steps, not the previous output.
        return_sequences: Whether all outputs are wanted.

    Returns:
        `(last_output, outputs, states)`; `outputs` has the time axis first.
    """
    # Without a length Keras takes axis 1 for the time axis, whatever `time_major`
    # says, and would stop after as many steps as the batch has rows.
    time_major = length is not None
    if not time_major:
        inputs = ops.swapaxes(inputs, 0, 1)
        mask = None if mask is None else ops.swapaxes(mask, 0, 1)
    last_output, outputs, states = backend.rnn(
        step,
        inputs,
        initial_states,
        go_backwards=go_backwards,
        mask=mask,
        unroll=unroll,
        input_length=length,
        time_major=time_major,
        zero_output_for_mask=zero_output_for_mask,
        return_all_outputs=return_sequences,
    )
    if not time_major:
        outputs = ops.swapaxes(outputs, 0, 1)
    return last_output, outputs, states


def cudnn_ok(
    activation: Any, recurrent_activation: Any, unroll: bool, use_bias: bool
) -> bool:
    """Whether stock `keras.layers.LSTM` would take cuDNN with these arguments."""
    if keras.backend.backend() not in ("tensorflow", "jax", "torch"):
        return False
    return bool(
        backend.cudnn_ok(activation, recurrent_activation, unroll, use_bias=use_bias)
    )


def cudnn_lstm(*args: Any, **kwargs: Any) -> tuple[Any, Any, list[Any]]:
    """The backend's cuDNN LSTM over one batch-major sequence.

    Arguments and results are those of `keras.src.backend.lstm`:
    `(last_output, outputs, [h, c])`. Raises `NotImplementedError` where this
    backend cannot do it (PyTorch and JAX take no mask).
    """
    return backend.lstm(*args, **kwargs)


def compile_arguments(model: Any) -> dict[str, Any]:
    """The arguments that `model.compile` was last called with, as they were given."""
    return dict(model._compile_config.config)
