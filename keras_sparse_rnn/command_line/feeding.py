"""Inputs for a model of which only their shapes are known."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_sparse_rnn.command_line.output import CommandError


def filled(
    shape: Sequence[int | None], batch_size: int, time_steps: int, name: str
) -> tuple[int, ...]:
    """A shape without open axes.

    Args:
        shape: With `None` or -1 where any size will do: the batch and the time steps.
        batch_size: What the first axis is, if it is open.
        time_steps: What the second is.
        name: What to call the input in a message.
    """
    sizes = [-1 if size is None else int(size) for size in shape]
    for axis, size in ((0, batch_size), (1, time_steps)):
        if len(sizes) > axis and sizes[axis] < 0:
            sizes[axis] = size
    if min(sizes, default=1) < 0:
        raise CommandError(
            f"Input {name} has shape {tuple(shape)}, and only its first two axes may "
            "be open."
        )
    return tuple(sizes)


def array(shape: Sequence[int], dtype: str, name: str) -> Any:
    """What a model can be run on: integers 0, floats between 0 and 1.

    So they are ids that any vocabulary knows, also where ids are floats.

    Args:
        shape: The shape.
        dtype: The type, by name.
        name: What to call the input in a message.
    """
    generator = np.random.default_rng(0)
    kind = "float32" if dtype == "bfloat16" else dtype
    try:
        known = np.dtype(kind)
    except TypeError:
        known = None
    if known is None or known.kind not in "biuf":
        raise CommandError(
            f"Input {name} takes values of type {dtype}; only numbers can be made up."
        )
    # Integers are rounded towards zero; small floats must not be rounded up to one.
    return (0.9 * generator.random(tuple(shape))).astype(known)
