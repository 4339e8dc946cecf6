"""What one component is: the weights that live and die with one hidden unit.

Index geometry only, in NumPy; nothing here knows of Keras. A **family** holds the
components of one recurrent layer, one for each of its units. It says, for each
variable that its units enter or leave, which unit owns each index along one axis.

Reference: Wen et al., "Learning Intrinsic Sparse Structures within Long Short-Term
Memory", ICLR 2018, section 3.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

Role = Literal["in", "out", "bias"]


@dataclass(frozen=True, eq=False)
class Part:
    """The slices of one variable, along one axis, that belong to a family.

    Attributes:
        variable: Key of the variable.
        shape: Its shape.
        axis: The axis whose indices are owned.
        owner: For each index along the axis the unit that owns it, -1 for none.
        role: `"in"` for weights that enter the unit, `"out"` for weights that leave
            it, `"bias"` for what goes with it without counting in its norm.
    """

    variable: int
    shape: tuple[int, ...]
    axis: int
    owner: np.ndarray
    role: Role

    @property
    def weights_per_index(self) -> int:
        """How many weights one index along the axis holds."""
        return int(np.prod(self.shape)) // self.shape[self.axis]

    def along_axis(self, vector: np.ndarray) -> np.ndarray:
        """`vector`, shaped so that it multiplies the variable along the axis."""
        shape = [1] * len(self.shape)
        shape[self.axis] = -1
        return np.reshape(vector, shape)


@dataclass(frozen=True, eq=False)
class Crossing:
    """Weights of one variable that a component owns by two axes at once.

    Attributes:
        variable: Key of the variable.
        index: Their flat indices.
        owner: The unit that owns each of them.
    """

    variable: int
    index: np.ndarray
    owner: np.ndarray


@dataclass(eq=False)
class Family:
    """The components of one recurrent layer.

    Attributes:
        layer: Name of the layer.
        units: Number of its units.
        segments: Ranges of units of which at least one must live: the whole layer,
            or each group of a grouped layer.
        parts: Where the components' weights lie.
        anchors: Key of the recurrent kernel of each segment.
        reason: Why the units can't be removed; `None` if they can.
    """

    layer: str
    units: int
    segments: list[tuple[int, int]]
    parts: list[Part] = field(default_factory=list)
    anchors: list[int] = field(default_factory=list)
    reason: str | None = None

    @property
    def weights(self) -> list[Part]:
        """The parts that count in a component's norm: all but the biases."""
        return [part for part in self.parts if part.role != "bias"]

    @cached_property
    def crossings(self) -> list[Crossing]:
        """The weights that a unit both sends out and takes in: its own loop."""
        found = []
        by_variable: dict[int, list[Part]] = {}
        for part in self.weights:
            by_variable.setdefault(part.variable, []).append(part)
        for variable, parts in by_variable.items():
            if len(parts) < 2:
                continue
            first, second = sorted(parts, key=lambda part: part.axis)
            if len(first.shape) != 2 or (first.axis, second.axis) != (0, 1):
                raise NotImplementedError(
                    "A component may own a variable by both axes of a matrix and in "
                    f"no other way twice. Received: shape={first.shape}, "
                    f"axes={first.axis}, {second.axis}."
                )
            same = (first.owner[:, None] == second.owner[None, :]) & (
                first.owner[:, None] >= 0
            )
            rows, columns = np.nonzero(same)
            found.append(
                Crossing(variable, rows * first.shape[1] + columns, first.owner[rows])
            )
        return found

    def sizes(self, form: Literal["once", "paper"] = "once") -> np.ndarray:
        """The number of weights of each component.

        Args:
            form: `"once"` counts every weight once; `"paper"` counts the unit's own
                crossing weights twice, as the paper's sum does.
        """
        total = np.zeros(self.units, np.int64)
        for part in self.weights:
            owned = part.owner >= 0
            np.add.at(total, part.owner[owned], part.weights_per_index)
        if form == "once":
            for crossing in self.crossings:
                np.subtract.at(total, crossing.owner, 1)
        return total

    def squared_norms(self, values: Mapping[int, np.ndarray]) -> np.ndarray:
        """The squared norm of each component, every weight counted once.

        Args:
            values: The value of each variable, by key.
        """
        total = np.zeros(self.units, np.float64)
        for part in self.weights:
            squares = np.square(values[part.variable], dtype=np.float64)
            others = tuple(a for a in range(squares.ndim) if a != part.axis)
            owned = part.owner >= 0
            np.add.at(total, part.owner[owned], squares.sum(axis=others)[owned])
        for crossing in self.crossings:
            flat = np.ravel(values[crossing.variable])[crossing.index]
            np.subtract.at(total, crossing.owner, np.square(flat, dtype=np.float64))
        return np.maximum(total, 0.0)

    def dead(self, values: Mapping[int, np.ndarray]) -> np.ndarray:
        """Which units are dead: every weight that leaves them is exactly zero.

        Args:
            values: The value of each variable, by key.
        """
        alive = np.zeros(self.units, bool)
        for part in self.parts:
            if part.role == "out":
                others = tuple(a for a in range(len(part.shape)) if a != part.axis)
                used = np.any(values[part.variable] != 0, axis=others)
                used &= part.owner >= 0
                alive[part.owner[used]] = True
        return ~alive

    def subset(self, begin: int, end: int) -> "Family":
        """The components of the units `begin` to `end` alone, renumbered from 0."""
        parts = []
        for part in self.parts:
            inside = (part.owner >= begin) & (part.owner < end)
            if inside.any():
                owner = np.where(inside, part.owner - begin, -1)
                parts.append(
                    Part(part.variable, part.shape, part.axis, owner, part.role)
                )
        return Family(self.layer, end - begin, [(0, end - begin)], parts)


def kept_along(part: Part, alive: np.ndarray) -> np.ndarray:
    """Which indices along a part's axis stay: those of living units and of none.

    Args:
        part: A part of a family.
        alive: Whether each unit of the family lives.
    """
    return np.append(alive, True)[part.owner]


def protect(
    scores: Sequence[np.ndarray],
    families: Sequence[Family],
    windows: Sequence[Sequence[tuple[int, int]]],
    floors: Sequence[int],
) -> list[np.ndarray]:
    """The units that must not be removed, whatever their score.

    Args:
        scores: The score of each unit of each family.
        families: The families.
        windows: Sets of `(family, unit)` of which at least one must live, since a
            group of a later layer sees nothing else.
        floors: The least number of units each family keeps.

    Returns:
        For each family, whether each unit is protected: the best of each segment,
        of each window, and the best `floor` of each family.
    """
    safe = [np.zeros(family.units, bool) for family in families]
    for family, score, mask, floor in zip(families, scores, safe, floors, strict=True):
        for begin, end in family.segments:
            mask[begin + int(np.argmax(score[begin:end]))] = True
        mask[np.argsort(-score, kind="stable")[:floor]] = True
    for window in windows:
        if not any(safe[f][unit] for f, unit in window):
            f, unit = max(window, key=lambda member: scores[member[0]][member[1]])
            safe[f][unit] = True
    return safe
