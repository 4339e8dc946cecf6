"""What pruning removed, layer by layer: as a table and as a picture."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_sparse_rnn.iss.costs import Cost, Costs
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

    `str(report)` is a table; `plot` draws which unit was removed when.

    Attributes:
        layers: One `LayerReport` for each pruned layer.
        costs: One `LayerCost` for each layer with weights.
        left_alone: Recurrent layers that were not pruned, with the reason.
        asked: The target, in words; empty if there was none.
        steps: Training steps in all; 0 if unknown.
    """

    layers: list[LayerReport]
    costs: list[LayerCost]
    left_alone: dict[str, str] = field(default_factory=dict)
    asked: str = ""
    steps: int = 0

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
        """Draws each layer's units in a row each, coloured by when they died.

        Needs matplotlib.

        Args:
            path: The picture to write, in any format matplotlib knows.

        Returns:
            The path.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "Drawing a pruning report needs matplotlib: "
                "pip install keras-sparse-rnn[plot]."
            ) from error
        figure = Figure(figsize=(8, 1.3 * len(self.layers) + 1), layout="constrained")
        self.draw(figure)
        target = Path(path)
        partial = target.with_name(f".{target.stem}.partial{target.suffix}")
        try:
            figure.savefig(partial, dpi=150)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target

    def draw(self, figure: Any) -> None:
        """Draws the picture of `plot` into a matplotlib figure or subfigure."""
        from matplotlib import colormaps
        from matplotlib.patches import Patch

        axes = figure.subplots(len(self.layers), 1, squeeze=False)[:, 0]
        last = max(
            [self.steps, 1] + [int(layer.removed_at.max()) for layer in self.layers]
        )
        colours = colormaps["YlOrRd"]
        for axis, layer in zip(axes, self.layers, strict=True):
            picture = np.zeros((1, layer.before, 3))
            for unit, step in enumerate(layer.removed_at):
                rgb = (0.13, 0.40, 0.67) if step < 0 else colours(step / last)[:3]
                picture[0, unit] = rgb
            axis.imshow(picture, aspect="auto", interpolation="nearest")
            for begin, _ in layer.segments[1:]:
                axis.axvline(begin - 0.5, color="black", linewidth=1.2)
            axis.set_yticks([])
            axis.set_title(
                f"{layer.layer}: {layer.after} of {layer.before} units live",
                fontsize=10,
                loc="left",
            )
        axes[-1].set_xlabel("unit (lines divide groups)")
        axes[0].legend(
            handles=[
                Patch(color=(0.13, 0.40, 0.67), label="alive"),
                Patch(color=colours(0.2), label="removed early"),
                Patch(color=colours(0.6), label="removed late"),
            ],
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=3,
            fontsize=8,
            frameon=False,
        )


def report(
    model: Any, pruning: Any = None, ignore: Iterable[str] = ()
) -> PruningReport:
    """What pruning has removed from a model, or would remove: nothing is changed.

    Args:
        model: A built model, masked or not.
        pruning: An `ISSPruning`: the report says what its target would leave, going
            by the weights as they are. By default, what `shrink(model)` would leave.
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
        values = plan.values()
        alive = [~family.dead(values) for family in plan.families]
        asked = ""
    else:
        plan = pruning.traced(model)
        aim = pruning.aim(plan)
        alive = aim.left([np.ones(f.units, bool) for f in plan.families], 1.0)
        asked = str(pruning.target)
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
