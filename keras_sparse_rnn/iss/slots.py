"""Which indices live and die together: integers only.

Every index along an axis of a tensor or a variable that might be removed is a
**slot**. Operations tie slots: what is added element by element, or multiplied with a
row of a kernel, can only be removed together. Slots that are tied, however far apart,
form a class.
"""

from collections.abc import Iterable

import numpy as np


class Slots:
    """Numbers slots and ties them."""

    def __init__(self) -> None:
        self._count = 0
        self._left: list[np.ndarray] = []
        self._right: list[np.ndarray] = []

    def new(self, count: int) -> np.ndarray:
        """So many slots, tied to nothing yet.

        Args:
            count: How many.
        """
        self._count += count
        return np.arange(self._count - count, self._count)

    def tie(self, left: np.ndarray, right: np.ndarray) -> None:
        """Ties slots one by one.

        Args:
            left: Slots.
            right: As many slots.
        """
        if left.shape != right.shape:
            raise ValueError(
                f"Only as many slots can be tied. Received: {left.shape} and "
                f"{right.shape}."
            )
        if left is not right:
            self._left.append(left)
            self._right.append(right)

    def classes(self) -> np.ndarray:
        """For each slot the smallest slot of its class."""
        smallest = np.arange(self._count)
        if not self._left:
            return smallest
        left, right = np.concatenate(self._left), np.concatenate(self._right)
        while True:
            # Both ends of each tie, and the representatives of both, take the lesser.
            least = np.minimum(smallest[left], smallest[right])
            before = smallest.copy()
            for ends in (left, right):
                np.minimum.at(smallest, smallest[ends], least)
                np.minimum.at(smallest, ends, least)
            smallest = smallest[smallest]
            if np.array_equal(smallest, before):
                return smallest


def one_axis_of(grid: np.ndarray, shape: Iterable[int]) -> dict[int, np.ndarray]:
    """Where slots along one axis end up when a tensor is reshaped.

    Args:
        grid: For each element of a tensor the slot along the axis in question.
        shape: The shape it takes.

    Returns:
        `{axis: rows}`, where `rows` holds, for each index along the axis, all slots
        that it is made of; each of them must go for the index to go. Empty if no
        axis is longer than one.
    """
    grid = grid.reshape(tuple(shape))
    sizes: tuple[int, ...] = grid.shape
    long = [axis for axis, size in enumerate(sizes) if size > 1]
    if not long:
        return {}
    found = {
        axis: np.moveaxis(grid, axis, 0).reshape(grid.shape[axis], -1) for axis in long
    }
    # An axis along which each index is one slot; failing that, the last.
    for axis in reversed(long):
        if np.all(found[axis] == found[axis][:, :1]):
            return {axis: found[axis][:, :1]}
    return {long[-1]: found[long[-1]]}
