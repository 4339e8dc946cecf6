"""All time steps as one WHILE operation: a small file, and any number of steps."""

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
    """Runs all steps of a cell in one loop.

    The outputs are gathered in one tensor that the runtime copies at every step, so
    that their cost grows with the square of the number of steps: nothing to notice
    at 32, most of the time at 500.

    Args:
        cell: What to compute.
        rows: Tensor `(time, batch, width)`, `cell.project` of each step.
        states: Those before the first step, each `(batch, size)`.
        mask: `None`, or a boolean tensor `(time, batch, 1)`.
        before: The output of masked steps ahead of the first that is not masked.
        backwards: Whether to go from the last row to the first.
        zero_masked: The output of a masked step: zeros, or else the one before.
        sequences: Whether the output of every step is wanted.

    Returns:
        `(last, outputs, states)`; `outputs` is `(time, batch, units)`, in the order in
        which the steps were taken, or `None` where they are not wanted.
    """
    length = rows.shape[0] if rows.shape[0] is not None else tf.shape(rows)[0]
    carried: dict[str, Any] = {"t": tf.constant(0), "states": states}
    # The output differs from the state only where steps are masked.
    if mask is not None:
        carried["out"] = before
    if sequences:
        # Every element is overwritten. Starting from values that are there anyway
        # keeps a constant full of zeros out of the file, and gives a shape that
        # follows from that of the inputs.
        times = -(-cell.units // rows.shape[-1])
        filling = rows if times == 1 else tf.concat([rows] * times, axis=-1)
        filling = filling[:, :, : cell.units]
        carried["outputs"] = tf.TensorArray(
            rows.dtype, size=length, element_shape=(rows.shape[1], cell.units)
        ).unstack(filling)

    def body(carried: dict[str, Any]) -> tuple[dict[str, Any]]:
        # Made in here, the weights are constants of the loop's body. Made outside they
        # would be handed from step to step.
        step = cell.stepper()
        t, states = carried["t"], carried["states"]
        index = length - 1 - t if backwards else t
        new = step(tf.gather(rows, index), states)
        result = {"t": t + 1, "states": new}
        out = new[cell.output]
        if mask is not None:
            keep = tf.gather(mask, index)
            result["states"] = tuple(
                tf.where(keep, after, old)
                for after, old in zip(new, states, strict=True)
            )
            old = tf.zeros_like(out) if zero_masked else carried["out"]
            out = result["out"] = tf.where(keep, out, old)
        if sequences:
            result["outputs"] = carried["outputs"].write(t, out)
        return (result,)

    (done,) = tf.while_loop(lambda carried: carried["t"] < length, body, (carried,))
    states = done["states"]
    last = states[cell.output] if mask is None else done["out"]
    outputs = done["outputs"].stack() if sequences else None
    return last, outputs, states
