"""What pruning removed, layer by layer, as a table."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_sparse_rnn.iss.costs import Cost, Costs
from keras_sparse_rnn.iss.pictures import (
    MatrixPicture,
    draw_units,
    matrices_of,
    plot_units,
    plot_weights,
)
from keras_sparse_rnn.iss.shrink import with_protected
from keras_sparse_rnn.iss.trace import Plan, trace


@dataclass
class LayerReport:
    """One pruned layer.

    Attributes:
        layer: Its name.
        removed_at: For each unit the training step at which it was removed, -1 for
            a unit that lives.
        segments: The range of units of each group.
        fixed: How many of its units could not be removed.
    """

    layer: str
    removed_at: np.ndarray
    segments: list[tuple[int, int]]
    fixed: int = 0

    @property
    def before(self) -> int:
        """Units at the start."""
        return len(self.removed_at)

    @property
    def after(self) -> int:
        """Units that live."""
        return int(np.sum(self.removed_at < 0))


@dataclass(frozen=True)
class LayerCost:
    """What a layer with weights cost before and after.

    Attributes:
        layer: Its name.
        before: Its cost with all units.
        after: Its cost with those that live.
    """

    layer: str
    before: Cost
    after: Cost


def layers_of_plan(plan: Plan) -> list[LayerReport]:
    """A report for each layer of a plan, of which no unit has been removed."""
    return [
        LayerReport(
            layer.name,
            np.full(len(layer.component), -1),
            layer.segments,
            int(family.fixed[layer.component].sum()),
        )
        for family in plan.families
        for layer in family.layers
    ]


def layer_costs(
    before: Mapping[str, Cost], after: Mapping[str, Cost]
) -> list[LayerCost]:
    """The costs of each layer, put side by side."""
    return [LayerCost(name, cost, after[name]) for name, cost in before.items()]


@dataclass
class PruningReport:
    """What pruning removed, or would remove, and what it left alone.

    `str(report)` is a table; `plot` draws which unit was removed when, `plot_weights`
    what is left of the weights.

    Attributes:
        layers: One `LayerReport` for each pruned layer.
        costs: One `LayerCost` for each layer with weights.
        left_alone: Recurrent layers that were not pruned, with the reason.
        asked: The target, in words; empty if there was none.
        steps: Training steps in all; 0 if unknown.
        weights: A `MatrixPicture` for each matrix whose rows or columns may go, as it
            was when the report was made.
    """

    layers: list[LayerReport]
    costs: list[LayerCost]
    left_alone: dict[str, str] = field(default_factory=dict)
    asked: str = ""
    steps: int = 0
    weights: list[MatrixPicture] = field(default_factory=list, repr=False)

    @property
    def before(self) -> Cost:
        """What the model cost with all units."""
        return sum((one.before for one in self.costs), Cost())

    @property
    def after(self) -> Cost:
        """What the model costs with those that live."""
        return sum((one.after for one in self.costs), Cost())

    @property
    def units_before(self) -> int:
        """Units that could be removed, all layers."""
        return sum(layer.before - layer.fixed for layer in self.layers)

    @property
    def units_after(self) -> int:
        """Units that live, of those that could be removed, all layers."""
        return sum(layer.after - layer.fixed for layer in self.layers)

    def __str__(self) -> str:
        lines = _columns(
            [["recurrent layer", "units", "left", "share", ""], *self._units()]
        )
        lines += ["", *_columns([_COSTS, *self._costs()])]
        if self.asked:
            lines.append(f"asked for: {self.asked}")
        for name, reason in self.left_alone.items():
            lines.append(f"left alone: {name}: {reason}")
        return "\n".join(lines)

    def _units(self) -> list[list[str]]:
        rows = []
        for layer in self.layers:
            groups = ""
            if len(layer.segments) > 1:
                groups = " + ".join(
                    str(int(np.sum(layer.removed_at[begin:end] < 0)))
                    for begin, end in layer.segments
                )
            rows.append(_units_row(layer.layer, layer.before, layer.after, groups))
        return [*rows, _units_row("all", self.units_before, self.units_after)]

    def _costs(self) -> list[list[str]]:
        every = [*self.costs, LayerCost("all", self.before, self.after)]
        return [
            [one.layer]
            + [
                f"{getattr(cost, name):,}"
                for name in ("parameters", "multiply_adds", "bytes")
                for cost in (one.before, one.after)
            ]
            for one in every
        ]

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draws which units were removed when.

        Above, the units of each layer that lived over training; below, each unit of
        each layer, coloured by the step at which it was removed. A report of a model
        that says nothing of training steps has the lower part only.

        Args:
            path: The picture to write, in any format matplotlib knows.

        Returns:
            The path.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there is no layer that may be pruned.
        """
        return plot_units(self.layers, self.steps, path)

    def draw(self, figure: Any) -> None:
        """Draws the picture of `plot` into a matplotlib figure or subfigure.

        Args:
            figure: The figure; with `layout="constrained"` nothing overlaps.
        """
        draw_units(figure, self.layers, self.steps)

    def plot_weights(self, path: str | os.PathLike[str]) -> Path:
        """Draws what is left of the weights: dead rows and columns are white.

        One image of absolute weights for each kernel and recurrent kernel of the pruned
        layers, and for each kernel that reads their units, with the gates side by side
        as they are stored, and the groups of a layer too. Of a matrix of more than some
        400 rows or columns, each cell is the largest weight of a block; as large a
        share of the cells is white as of the matrix is dead. After `fit_shrinking` the
        matrices are those of the model that was rebuilt last.

        Args:
            path: The picture to write, in any format matplotlib knows.

        Returns:
            The path.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there is no layer that may be pruned.

        Reference:
            Wen et al., "Learning Intrinsic Sparse Structures within Long Short-Term
            Memory", ICLR 2018, whose picture of learned structures this is.
        """
        return plot_weights(self.weights, path)


def report(
    model: Any, pruning: Any = None, ignore: Iterable[str] = ()
) -> PruningReport:
    """What pruning has removed from a model, or would remove: nothing is changed.

    Args:
        model: A built model, masked or not.
        pruning: An `ISSPruning`: the report says what its target would leave, going
            by the weights as they are, with all units removed at once. (At each update
            of a schedule those that live are ranked anew, so others may go.) By
            default, what `shrink(model)` would leave.
        ignore: Names of recurrent layers to leave alone, without `pruning`.

    Returns:
        A `PruningReport`: a table of units, parameters, multiply-adds and bytes before
        and after, by layer, with what is left alone and why.

    Raises:
        ValueError: If the model can't be followed, or can't become as small as the
            target.

    Example:

    >>> print(report(model, ISSPruning(max_bytes=2_000_000)))
    """
    if pruning is None:
        plan = trace(model, ignore)
        alive = [np.ones(f.units, bool) for f in plan.families]
        asked = ""
    else:
        plan = pruning.traced(model)
        aim = pruning.aim(plan)
        alive = aim.left([np.ones(f.units, bool) for f in plan.families], 1.0)
        asked = str(pruning.target)
    # What is dead goes in any case, even beyond the target.
    values = plan.values()
    families = zip(plan.families, alive, strict=True)
    alive = [living & ~family.dead(values) for family, living in families]
    alive = with_protected(plan, alive)
    costs = Costs(plan)
    every = [np.ones(family.units, bool) for family in plan.families]
    layers = layers_of_plan(plan)
    found = iter(layers)
    for family, living in zip(plan.families, alive, strict=True):
        for layer in family.layers:
            next(found).removed_at[~living[layer.component]] = 0
    return PruningReport(
        [one for one in layers if one.fixed < one.before],
        layer_costs(costs.by_layer(every), costs.by_layer(alive)),
        {**plan.left_alone, **plan.left_in_part},
        asked,
        weights=matrices_of(plan, alive),
    )


_COSTS = ["layer", "parameters", "left", "multiply-adds", "left", "bytes", "left"]


def _units_row(name: str, before: int, after: int, groups: str = "") -> list[str]:
    share = after / before if before else 1.0
    return [name, f"{before:,}", f"{after:,}", f"{share:.1%}", groups]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: names to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if not number or not width else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
