"""What one component is: the weights that live and die with one hidden unit.

Index geometry only, in NumPy; nothing here knows of Keras. A **family** holds the
components of one recurrent layer, one for each of its units, or those of several layers
whose units live and die together. It says, for each variable that its units enter or
leave, which component owns each index along one axis.

Reference: Wen et al., "Learning Intrinsic Sparse Structures within Long Short-Term
Memory", ICLR 2018, section 3.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

Role = Literal["out", "in", "bias", "state", "along"]


@dataclass(frozen=True, eq=False)
class Part:
    """The slices of one variable, along one axis, that belong to a family.

    Attributes:
        variable: Key of the variable.
        shape: Its shape.
        axis: The axis whose indices are owned.
        owner: For each index along the axis the unit that owns it, -1 for none.
        role: `"in"` for weights that enter the unit, `"out"` for weights that leave
            it, `"bias"` for what goes with it without counting in its norm, `"state"`
            for what it carries, `"along"` for what only has to be as long.
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
class LayerUnits:
    """Where the units of one layer are among the components of its family.

    Attributes:
        name: Name of the layer.
        layer: The layer, or cell.
        component: For each unit its component.
        segments: The range of units of each group.
        anchors: Keys of the layer's recurrent kernels.
    """

    name: str
    layer: Any
    component: np.ndarray
    segments: list[tuple[int, int]]
    anchors: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Family:
    """The components of one recurrent layer, or of several whose units are tied.

    Attributes:
        name: Names of the layers.
        units: Number of components.
        layers: The layers.
        parts: Where the components' weights lie.
        fixed: Which components can't be removed.
        reasons: Why, by component.
        summed: Which components are read by something without weights, so that what
            they put out must become zero.
    """

    name: str
    units: int
    layers: list[LayerUnits] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    fixed: np.ndarray = field(init=False)
    summed: np.ndarray = field(init=False)
    _first_sizes: dict[str, np.ndarray] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.fixed = np.zeros(self.units, bool)
        self.summed = np.zeros(self.units, bool)

    @property
    def weights(self) -> list[Part]:
        """The parts that count in a component's norm."""
        return [part for part in self.parts if part.role in ("in", "out")]

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
            if len(parts) > 2:
                raise NotImplementedError(
                    "A component may own a variable by two axes, not by more. "
                    f"Received: shape={parts[0].shape}, "
                    f"axes={[part.axis for part in parts]}."
                )
            first, second = parts
            one, other = first.along_axis(first.owner), second.along_axis(second.owner)
            same = np.broadcast_to((one == other) & (one >= 0), first.shape)
            index = np.flatnonzero(same)
            owner = np.broadcast_to(one, first.shape).ravel()[index]
            found.append(Crossing(variable, index, owner))
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

    def first_sizes(self, form: Literal["once", "paper"] = "once") -> np.ndarray:
        """As `sizes`, of the components as they were before any unit was removed.

        So a model that has become smaller ranks and pulls its units as a masked one.
        """
        return self._first_sizes.get(form, self.sizes(form))

    def descend(self, larger: "Family", kept: np.ndarray) -> None:
        """Takes over the first sizes of the family that this one is what is left of.

        Args:
            larger: The family before its dead components were removed.
            kept: Which of its components are left.
        """
        for form in ("once", "paper"):
            self._first_sizes[form] = larger.first_sizes(form)[kept]

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
        """Which components are dead: their units could go and nothing would change.

        Every weight that leaves them is exactly zero; if something reads them without
        weights, all that enters them too.

        Args:
            values: The value of each variable, by key.
        """
        alive = np.zeros(self.units, bool)
        for part in self.parts:
            if part.role == "along":
                continue
            others = tuple(a for a in range(len(part.shape)) if a != part.axis)
            used = np.any(values[part.variable] != 0, axis=others) & (part.owner >= 0)
            owners = part.owner[used]
            if part.role != "out":
                owners = owners[self.summed[owners]]
            alive[owners] = True
        return ~alive & ~self.fixed

    def subset(self, components: np.ndarray) -> "Family":
        """Some components alone, renumbered from 0.

        Args:
            components: Which, in their new order.
        """
        number = np.full(self.units + 1, -1)
        number[components] = np.arange(len(components))
        parts = [
            replace(part, owner=number[part.owner])
            for part in self.parts
            if np.isin(part.owner, components).any()
        ]
        family = Family(self.name, len(components), parts=parts)
        family.descend(self, components)
        return family


def kept_along(part: Part, alive: np.ndarray) -> np.ndarray:
    """Which indices along a part's axis stay: those of living units and of none.

    Args:
        part: A part of a family.
        alive: Whether each unit of the family lives.
    """
    return np.append(alive, True)[part.owner]


def protect(
    scores: Sequence[np.ndarray],
    windows: Sequence[Sequence[tuple[int, int]]],
) -> list[np.ndarray]:
    """The components that must not be removed, whatever their score.

    Args:
        scores: The score of each component of each family.
        windows: Sets of `(family, component)` of which at least one must live.

    Returns:
        For each family, whether each component is protected: the best of each window.
    """
    safe = [np.zeros(len(score), bool) for score in scores]
    for window in windows:
        if not any(safe[f][unit] for f, unit in window):
            f, unit = max(window, key=lambda member: scores[member[0]][member[1]])
            safe[f][unit] = True
    return safe
