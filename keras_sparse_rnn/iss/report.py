"""What pruning removed, layer by layer: as a table and as a picture."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


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


@dataclass
class PruningReport:
    """What pruning removed and what it left alone.

    `str(report)` is a table; `plot` draws which unit was removed when.

    Attributes:
        layers: One `LayerReport` for each pruned layer.
        left_alone: Recurrent layers that were not pruned, with the reason.
        keep: The share of the units asked for.
        steps: Training steps in all; 0 if unknown.
    """

    layers: list[LayerReport]
    left_alone: dict[str, str] = field(default_factory=dict)
    keep: float | None = None
    steps: int = 0

    @property
    def before(self) -> int:
        """Units that could be removed, all layers."""
        return sum(layer.before - layer.fixed for layer in self.layers)

    @property
    def after(self) -> int:
        """Units that live, of those that could be removed, all layers."""
        return sum(layer.after - layer.fixed for layer in self.layers)

    @property
    def target(self) -> int:
        """Units that should have been left."""
        return max(1, round((1.0 if self.keep is None else self.keep) * self.before))

    def __str__(self) -> str:
        width = max([len(layer.layer) for layer in self.layers] + [5])
        lines = [f"{'layer':<{width}}  {'units':>7}  {'left':>7}  {'share':>6}  groups"]
        for layer in self.layers:
            groups = ""
            if len(layer.segments) > 1:
                groups = " + ".join(
                    str(int(np.sum(layer.removed_at[begin:end] < 0)))
                    for begin, end in layer.segments
                )
            lines.append(
                f"{layer.layer:<{width}}  {layer.before:>7}  {layer.after:>7}  "
                f"{layer.after / layer.before:>6.1%}  {groups}".rstrip()
            )
        share = self.after / self.before if self.before else 1.0
        lines.append(
            f"{'all':<{width}}  {self.before:>7}  {self.after:>7}  {share:>6.1%}"
            + (f"  (asked for {self.keep:.1%})" if self.keep is not None else "")
        )
        for name, reason in self.left_alone.items():
            lines.append(f"left alone: {name}: {reason}")
        return "\n".join(lines)

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
