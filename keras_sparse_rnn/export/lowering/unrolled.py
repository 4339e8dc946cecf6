"""Each time step written out: a larger file, no loop, a fixed number of steps."""

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
    """Runs an LSTM's steps one after the other; see `loop.run`."""
    h, c = states
    keeps = [None] * rows.shape[0] if mask is None else tf.unstack(mask)
    pairs = list(zip(tf.unstack(rows), keeps, strict=True))
    zeros = out = tf.zeros_like(h)
    outputs = []
    for row, keep in reversed(pairs) if backwards else pairs:
        new_h, new_c = step(row, h, c)
        if keep is None:
            h, c, out = new_h, new_c, new_h
        else:
            h, c = tf.where(keep, new_h, h), tf.where(keep, new_c, c)
            out = tf.where(keep, new_h, zeros if zero_masked else out)
        outputs.append(out)
    return out, tf.stack(outputs) if sequences else None, (h, c)
