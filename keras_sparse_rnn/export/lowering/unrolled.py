"""Each time step written out: a larger file, no loop, a fixed number of steps."""

from typing import Any

import tensorflow as tf

from keras_sparse_rnn.export.lowering.cells import Cell, State


def run(
    cell: Cell,
    rows: Any,
    states: State,
    mask: Any,
    *,
    before: Any,
    backwards: bool,
    zero_masked: bool,
    sequences: bool,
) -> tuple[Any, Any, State]:
    """Runs the steps of a cell one after the other; see `loop.run`."""
    step = cell.stepper()
    keeps = [None] * rows.shape[0] if mask is None else tf.unstack(mask)
    pairs = list(zip(tf.unstack(rows), keeps, strict=True))
    out = before
    outputs = []
    for row, keep in reversed(pairs) if backwards else pairs:
        new = step(row, states)
        if keep is None:
            states, out = new, new[cell.output]
        else:
            shown = new[cell.output]
            out = tf.where(keep, shown, tf.zeros_like(out) if zero_masked else out)
            states = tuple(
                tf.where(keep, after, old)
                for after, old in zip(new, states, strict=True)
            )
        outputs.append(out)
    return out, tf.stack(outputs) if sequences else None, states
