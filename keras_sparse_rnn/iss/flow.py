"""What is known of a tensor in a model while units are followed through it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np


@dataclass(frozen=True, eq=False)
class Axis:
    """An axis of a tensor of which indices might be removed.

    Attributes:
        slots: The slot of each index.
        zero: For each index, whether everything there is exactly zero once the units
            it stands for are masked.
    """

    slots: np.ndarray
    zero: np.ndarray

    @classmethod
    def of(cls, slots: np.ndarray, zero: bool | np.ndarray) -> "Axis":
        """An axis all of whose indices are zero when masked, or none.

        Args:
            slots: The slot of each index.
            zero: For all of them, or for each.
        """
        return cls(slots, np.broadcast_to(zero, slots.shape))

    def __getitem__(self, index: Any) -> "Axis":
        return Axis(self.slots[index], self.zero[index])

    def __len__(self) -> int:
        return len(self.slots)


@dataclass(frozen=True, eq=False)
class Flow:
    """A tensor: its shape, and the axes of which indices might be removed.

    Attributes:
        shape: As of a `keras.KerasTensor`; unknown sizes are `None`.
        axes: An `Axis` for each such axis, by its number counted from 0. Nothing can
            be removed along an axis that is not there.
    """

    shape: tuple[int | None, ...]
    axes: Mapping[int, Axis] = field(default_factory=dict)

    def axis(self, number: int = -1) -> Axis | None:
        """What is known of an axis; `None` if nothing can be removed along it.

        Args:
            number: The axis, counted from either end.
        """
        return self.axes.get(number % len(self.shape))

    @property
    def slots(self) -> np.ndarray:
        """All slots of all axes."""
        found = [axis.slots for axis in self.axes.values()]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def never_zero(self) -> "Flow":
        """The same slots, of a tensor whose masked values may be anything."""
        return Flow(
            self.shape,
            {k: Axis.of(axis.slots, False) for k, axis in self.axes.items()},
        )

    def with_shape(self, shape: Sequence[int | None]) -> "Flow":
        """The same axes on a tensor of another shape, as many axes long."""
        return Flow(tuple(shape), self.axes)


def flow_of(tensor: Any, axes: Mapping[int, Axis | None] | None = None) -> Flow:
    """A `Flow` of the shape of a tensor.

    Args:
        tensor: Anything with a `shape`.
        axes: By number, counted from either end; `None` where nothing can go.
    """
    shape = tuple(tensor.shape)
    known = {
        number % len(shape): axis
        for number, axis in (axes or {}).items()
        if axis is not None
    }
    return Flow(shape, known)


@dataclass(eq=False)
class Call:
    """One call of a layer or an operation, as a rule sees it.

    Attributes:
        args: Its positional arguments, with a `Flow` for every tensor.
        kwargs: Its arguments by name, likewise.
        spec: What it returns, as `keras.KerasTensor`s: shapes and structure.
        operation: The layer or operation, once it is followed.
        results: The flows it returned, once its rule has said so.
        inner: Where a model was called, the calls within it.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    spec: Any
    operation: Any = None
    results: Any = None
    inner: list["Call"] = field(default_factory=list)

    def __iter__(self) -> Iterator["Call"]:
        """The call and all within it."""
        yield self
        for call in self.inner:
            yield from call

    @property
    def inputs(self) -> list[Flow]:
        """The flows of the first argument."""
        first = self.args[0] if self.args else next(iter(self.kwargs.values()), None)
        return flows_in(first)

    @property
    def others(self) -> list[Flow]:
        """The flows of all other arguments but masks."""
        rest = [value for name, value in self.kwargs.items() if "mask" not in name]
        return flows_in([self.args[1:], rest if self.args else rest[1:]])

    @property
    def flows(self) -> list[Flow]:
        """All of them."""
        return self.inputs + self.others

    def argument(self, name: str, position: int, default: Any = None) -> Any:
        """An argument, given by name or by position."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[position] if len(self.args) > position else default

    def outputs(self, axes: Mapping[int, Axis | None] | None = None) -> Any:
        """Flows for all that the call returns.

        Args:
            axes: As for `flow_of`, the same for each output.
        """
        return keras.tree.map_structure(lambda one: flow_of(one, axes), self.spec)


def flows_in(value: Any) -> list[Flow]:
    """All flows in a nested structure, in order."""
    return [one for one in keras.tree.flatten(value) if isinstance(one, Flow)]
