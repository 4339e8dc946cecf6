"""All time steps as one WHILE operation: a small file, and any number of steps."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def run(
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    rows: Any,
    states: tuple[Any, Any],
    mask: Any,
    *,
    backwards: bool,
    zero_masked: bool,
    sequences: bool,
) -> tuple[Any, Any, tuple[Any, Any]]:
    """Runs an LSTM's steps in one loop.

    Args:
        step: `step(row, h, c) -> (h, c)`.
        rows: Tensor `(time, batch, gates)`, `x·kernel + bias` of each step.
        states: `(h, c)` before the first step, each `(batch, units)`.
        mask: `None`, or a boolean tensor `(time, batch, 1)`.
        backwards: Whether to go from the last row to the first.
        zero_masked: The output of a masked step: zeros, or else the one before.
        sequences: Whether the output of every step is wanted.

    The outputs are gathered in one tensor that the runtime copies at every step, so
    that their cost grows with the square of the number of steps: nothing to notice
    at 32, most of the time at 500.

    Returns:
        `(last, outputs, (h, c))`; `outputs` is `(time, batch, units)`, in the order
        in which the steps were taken, or `None` where they are not wanted.
    """
    length = rows.shape[0] if rows.shape[0] is not None else tf.shape(rows)[0]
    h, c = states
    # The output differs from the state only where steps are masked.
    carried: dict[str, Any] = {"t": tf.constant(0), "h": h, "c": c}
    if mask is not None:
        carried["out"] = tf.zeros_like(h)
    if sequences:
        # Every element is overwritten. Starting from values that are there anyway
        # keeps a constant full of zeros out of the file.
        carried["outputs"] = tf.TensorArray(
            rows.dtype, size=length, element_shape=h.shape
        ).unstack(rows[:, :, : h.shape[-1]])

    def body(carried: dict[str, Any]) -> tuple[dict[str, Any]]:
        t, h, c = carried["t"], carried["h"], carried["c"]
        index = length - 1 - t if backwards else t
        new_h, new_c = step(tf.gather(rows, index), h, c)
        result = {"t": t + 1, "h": new_h, "c": new_c}
        out = new_h
        if mask is not None:
            keep = tf.gather(mask, index)
            result["h"] = tf.where(keep, new_h, h)
            result["c"] = tf.where(keep, new_c, c)
            old = tf.zeros_like(h) if zero_masked else carried["out"]
            out = result["out"] = tf.where(keep, new_h, old)
        if sequences:
            result["outputs"] = carried["outputs"].write(t, out)
        return (result,)

    (done,) = tf.while_loop(lambda carried: carried["t"] < length, body, (carried,))
    last = done["h"] if mask is None else done["out"]
    outputs = done["outputs"].stack() if sequences else None
    return last, outputs, (done["h"], done["c"])
