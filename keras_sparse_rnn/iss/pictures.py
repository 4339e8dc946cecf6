"""Pictures of pruning: which units went when, and what is left of the weights."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_sparse_rnn.iss.costs import Costs
from keras_sparse_rnn.iss.trace import Plan

if TYPE_CHECKING:
    from keras_sparse_rnn.iss.reports import LayerReport

# About as many cells as this, and no more, along each side of a matrix's picture.
_CELLS = 400
# Lines between more parts of a matrix than this would hide it.
_MOST_PARTS = 40
_DEAD, _ABSENT = np.nan, -1.0
_ALIVE = (0.13, 0.40, 0.67)
_REMOVED = (0.84, 0.19, 0.15)
_GREY = (0.87, 0.87, 0.87)

# Which layer and group a component is in: the numbers of family, layer and group.
_Places = dict[int, tuple[int, int, int]]


@dataclass(frozen=True, eq=False)
class MatrixPicture:
    """A matrix of weights, made small enough to be looked at.

    Attributes:
        layer: The layer it belongs to; in a wrapper, the recurrent layer.
        variable: Name of the variable.
        shapes: Its shape; that of each group's where they are side by side.
        units: How many units it makes; if it makes none that might go, how many it
            reads.
        alive: How many of them live.
        cells: The largest absolute weight of each block of rows and columns; NaN where
            they are dead, -1 beside a matrix that is smaller than the next. Where a
            block holds living and dead rows, it is shown as one or the other, so that
            of all rows of cells the same share is dead as of all rows; so for columns.
        lines: The rows and the columns of cells at which another gate, group or layer
            begins.
        borders: The columns at which another of several matrices begins.
    """

    layer: str
    variable: str
    shapes: list[tuple[int, ...]]
    units: int
    alive: int
    cells: np.ndarray
    lines: tuple[list[int], list[int]]
    borders: list[int]

    @property
    def size(self) -> str:
        """Its shape in words."""
        each = [" x ".join(map(str, shape)) for shape in self.shapes]
        if len(each) > 1 and len(set(each)) == 1:
            return f"{len(each)} groups of {each[0]}"
        return " + ".join(each) if len(each) < 4 else f"{len(each)} groups"


def matrices_of(plan: Plan, alive: Sequence[np.ndarray]) -> list[MatrixPicture]:
    """Pictures of the matrices whose rows or columns may go.

    They hold no more than is seen of them, so that the model can be let go.

    Args:
        plan: A model's components.
        alive: Which components of each of its families live.

    Returns:
        One for each matrix, in the order of the calls, and one for all groups of a
        layer.
    """
    roles: dict[int, dict[int, str]] = {}
    for family in plan.prunable:
        for part in family.weights:
            if len(part.shape) > 1:
                roles.setdefault(part.variable, {})[part.axis] = part.role
    owners = {
        id(variable): layer
        for family in plan.families
        for layer in family.layers
        for variable in layer.layer.weights
    }
    keys = {id(variable): key for key, variable in enumerate(plan.variables)}
    together: dict[Any, list[int]] = {}
    for name, variable in Costs(plan).variables:
        key = keys.get(id(variable), -1)
        if key in roles:
            layer = owners.get(id(variable))
            if layer is not None:
                # A wrapper counts as one layer, in a nested model by its whole path.
                name = "/".join([*name.split("/")[:-1], layer.name])
            grouped = layer is not None and len(layer.segments) > 1
            which = "all groups" if grouped else key
            together.setdefault((name, variable.name, which), []).append(key)
    living = plan.living(alive)
    places = _places(plan)
    found = []
    for (name, variable, _), members in together.items():
        shapes = [tuple(plan.variables[key].shape) for key in members]
        units = np.unique(
            np.concatenate([_units(plan, key, roles[key], places) for key in members])
        )
        found.append(
            MatrixPicture(
                name,
                variable,
                shapes,
                len(units),
                int(living[units].sum()),
                *_side_by_side(plan, members, living, places),
            )
        )
    return found


def _places(plan: Plan) -> _Places:
    """Where each class is that is a component."""
    found: dict[tuple[int, int], tuple[int, int, int]] = {}
    for number, family in enumerate(plan.families):
        for one, layer in enumerate(family.layers):
            for group, (begin, end) in enumerate(layer.segments):
                for component in layer.component[begin:end].tolist():
                    found.setdefault((number, component), (number, one, group))
    return {one: found[member] for one, member in plan.members.items()}


def _units(plan: Plan, key: int, roles: dict[int, str], places: _Places) -> np.ndarray:
    """The classes of the units that a matrix makes, or else of those it reads."""
    made = [axis for axis, role in roles.items() if role == "in"]
    classes = [plan.classes[plan.axes[key, axis]] for axis in made or roles]
    return np.array([one for one in np.concatenate(classes).tolist() if one in places])


def _side_by_side(
    plan: Plan, keys: Sequence[int], living: np.ndarray, places: _Places
) -> tuple[np.ndarray, tuple[list[int], list[int]], list[int]]:
    """The `cells`, `lines` and `borders` of the picture of some matrices."""
    sizes = [_flat(tuple(plan.variables[key].shape)) for key in keys]
    high, wide = max(size[0] for size in sizes), sum(size[1] for size in sizes)
    parts: list[np.ndarray] = []
    rows: list[int] = []
    columns: list[int] = []
    borders: list[int] = []
    for key, size in zip(keys, sizes, strict=True):
        shape = tuple(plan.variables[key].shape)
        split = _split(shape)
        down = _Side.of(plan, key, range(split), living, places)
        right = _Side.of(plan, key, range(split, len(shape)), living, places)
        value = keras.ops.convert_to_numpy(plan.variables[key])
        weights = np.abs(np.asarray(value, np.float32).reshape(size))
        cells, lines = _reduced(
            weights,
            down.cut(math.ceil(_CELLS * size[0] / high)),
            right.cut(math.ceil(_CELLS * size[1] / wide)),
        )
        borders.append(sum(part.shape[1] for part in parts))
        rows = lines[0]
        columns += [borders[-1] + line for line in lines[1]]
        parts.append(cells)
    height = max(len(part) for part in parts)
    padded = [
        np.pad(part, ((0, height - len(part)), (0, 0)), constant_values=_ABSENT)
        for part in parts
    ]
    if len(keys) > 1:
        rows = []  # Each group reads rows of its own.
    cells = np.concatenate(padded, axis=1)
    return cells, (rows, columns), borders


def _split(shape: tuple[int, ...]) -> int:
    """How many of the axes lie along the rows, so that neither side is too long."""
    return min(
        range(1, len(shape)),
        key=lambda split: max(math.prod(shape[:split]), math.prod(shape[split:])),
    )


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many rows and columns a variable has as a matrix."""
    split = _split(shape)
    return math.prod(shape[:split]), math.prod(shape[split:])


@dataclass(eq=False)
class _Cut:
    """The rows or columns of a matrix, in blocks that become a cell each.

    Attributes:
        alive: Which rows live.
        blocks: The first row of each block.
        shown: Which blocks are shown as living.
        parts: The blocks at which a gate, group or layer begins.
    """

    alive: np.ndarray
    blocks: np.ndarray
    shown: np.ndarray
    parts: list[int]


@dataclass(eq=False)
class _Side:
    """The rows or columns of a matrix.

    Attributes:
        alive: Which of them live.
        parts: At which a gate, group or layer begins.
    """

    alive: np.ndarray
    parts: list[int]

    @classmethod
    def of(
        cls,
        plan: Plan,
        key: int,
        axes: Sequence[int],
        living: np.ndarray,
        places: _Places,
    ) -> "_Side":
        """What lies along some axes of a variable, which are next to each other."""
        alive = np.ones(1, bool)
        names: list[Any] = [()]
        for axis in axes:
            size = plan.variables[key].shape[axis]
            own = np.ones(size, bool)
            inner: list[Any] = [None] * size
            if (key, axis) in plan.axes:
                classes = plan.classes[plan.axes[key, axis]]
                own = living[classes]
                inner = _parts(classes, places)
            alive = np.logical_and.outer(alive, own).ravel()
            names = [(*one, other) for one in names for other in inner]
        begins = [0]
        for index in range(1, len(names)):
            if names[index] != names[index - 1]:
                begins.append(index)
        return cls(alive, begins if len(begins) <= _MOST_PARTS else [0])

    def cut(self, most: int) -> _Cut:
        """Cuts it into blocks, none of which lies in two parts.

        Args:
            most: How many there may be, if parts divided evenly.
        """
        size = len(self.alive)
        blocks: list[int] = []
        shown: list[bool] = []
        parts = []
        for begin, end in zip(self.parts, [*self.parts[1:], size], strict=True):
            parts.append(len(blocks))
            count = min(end - begin, math.ceil((end - begin) * most / size))
            edges = begin + np.arange(count + 1) * (end - begin) // count
            blocks += edges[:-1].tolist()
            # What one block shows too much or too little the next make up for.
            due = 0.0
            for first, last in pairwise(edges.tolist()):
                due += float(np.mean(self.alive[first:last]))
                shown.append(due >= 0.5)
                due -= shown[-1]
        return _Cut(self.alive, np.array(blocks), np.array(shown), parts)


def _parts(classes: np.ndarray, places: _Places) -> list[Any]:
    """What each index along an axis is part of: which gate, layer and group."""
    seen: dict[int, int] = {}
    found = []
    for one in classes.tolist():
        # The gates of a kernel, and the steps that were flattened, repeat the units.
        seen[one] = seen.get(one, 0) + 1
        found.append((seen[one], places.get(one)))
    return found


def _reduced(
    weights: np.ndarray, down: _Cut, right: _Cut
) -> tuple[np.ndarray, tuple[list[int], list[int]]]:
    """The largest living weight of each block, and the lines between parts."""
    weights[~down.alive] = 0
    weights[:, ~right.alive] = 0
    cells = np.maximum.reduceat(weights, down.blocks, axis=0)
    cells = np.maximum.reduceat(cells, right.blocks, axis=1)
    cells[~down.shown] = _DEAD
    cells[:, ~right.shown] = _DEAD
    return cells, (down.parts, right.parts)


# Drawing.


def plot_units(
    layers: Sequence["LayerReport"], steps: int, path: str | os.PathLike[str]
) -> Path:
    """Writes the picture of `PruningReport.plot`.

    Args:
        layers: The layers that were pruned.
        steps: Training steps in all; 0 if there were none.
        path: The file.
    """
    height = 0.7 + 0.75 * len(layers) + (3.6 if steps else 0.0)
    figure = _figure((8, height))
    draw_units(figure, layers, steps)
    return _written(figure, path)


def draw_units(figure: Any, layers: Sequence["LayerReport"], steps: int) -> None:
    """Draws the picture of `PruningReport.plot`.

    Args:
        figure: A matplotlib figure or subfigure.
        layers: The layers that were pruned.
        steps: Training steps in all; 0 if there were none.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    _check(layers, "no layer any of whose units may go")
    ratios = [1.0] * len(layers)
    if steps:
        ratios.insert(0, 6.0)
    axes = figure.subplots(
        len(ratios), 1, squeeze=False, gridspec_kw={"height_ratios": ratios}
    )[:, 0]
    strips = axes[1:] if steps else axes
    last = max([steps, *(int(layer.removed_at.max()) for layer in layers)])
    norm = Normalize(0, last)
    colours = colormaps["YlOrRd"]
    if steps:
        _draw_counts(axes[0], layers, last)
    for axis, layer in zip(strips, layers, strict=True):
        removed = colours(norm(layer.removed_at))[:, :3] if steps else [_REMOVED]
        alive = (layer.removed_at < 0)[:, None]
        axis.imshow(
            np.where(alive, _ALIVE, removed)[None],
            aspect="auto",
            interpolation="antialiased",
        )
        for begin, _ in layer.segments[1:]:
            axis.axvline(begin - 0.5, color="black", linewidth=1.2)
        axis.set_yticks([])
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axis.set_title(
            f"{_short(layer.layer)}: {layer.after} of {layer.before} units live",
            fontsize=9,
            loc="left",
        )
        axis.tick_params(labelsize=8)
    groups = any(len(layer.segments) > 1 for layer in layers)
    hint = "blue: alive" if steps else "blue: alive, red: removed"
    divided = "; lines divide groups" if groups else ""
    strips[-1].set_xlabel(f"unit ({hint}{divided})", fontsize=9)
    if steps:
        bar = figure.colorbar(
            ScalarMappable(norm, colours),
            ax=list(strips),
            location="bottom",
            aspect=50,
            shrink=0.6,
            pad=0.04,
        )
        bar.set_label("removed at training step", fontsize=9)
        bar.ax.tick_params(labelsize=8)


def _draw_counts(axis: Any, layers: Sequence["LayerReport"], last: int) -> None:
    """A line for each layer: how many of its units lived after each step."""
    from matplotlib.ticker import MaxNLocator

    styles = ("-", "--", ":", "-.")
    for number, layer in enumerate(layers):
        gone = np.sort(layer.removed_at[layer.removed_at >= 0])
        steps, counts = np.unique(gone, return_counts=True)
        left = layer.before - np.cumsum(counts)
        axis.step(
            [0, *steps, last],
            [layer.before, *left, layer.after],
            where="post",
            # Layers whose units go together lie on one another.
            linestyle=styles[number % len(styles)],
            linewidth=1.8,
            label=_short(layer.layer),
        )
    axis.set_xlim(0, last)
    axis.set_ylim(0, 1.06 * max(layer.before for layer in layers))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.set_xlabel("training step", fontsize=9)
    axis.set_ylabel("units alive", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    longest = max(len(_short(layer.layer)) for layer in layers)
    # Above, where it hides no line, and as wide as the axis at most.
    axis.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=max(1, 110 // (longest + 10)),
        fontsize=8,
        frameon=False,
    )


def plot_weights(
    matrices: Sequence[MatrixPicture], path: str | os.PathLike[str]
) -> Path:
    """Writes the picture of `PruningReport.plot_weights`.

    Args:
        matrices: What `matrices_of` returned.
        path: The file.
    """
    _check(matrices, "no matrix any of whose rows or columns may go")
    across = 2 if len(matrices) <= 8 else 4
    rows = _rows(matrices, across)
    figure = _figure((4.3 * across if across == 2 else 14, 2.3 * len(rows) + 0.9))
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes = figure.subplots(len(rows), across, squeeze=False)
    values = np.concatenate([one.cells[one.cells >= 0] for one in matrices])
    # A few large weights would leave all others dark.
    top = float(np.quantile(values, 0.995)) if len(values) else 0.0
    norm, colours = Normalize(0, top or 1.0), colormaps["viridis"]
    for line, row in zip(axes, rows, strict=True):
        for axis in line[len(row) :]:
            axis.remove()
        for axis, matrix in zip(line, row, strict=False):
            _draw_matrix(axis, matrix, colours, norm)
    bar = figure.colorbar(
        ScalarMappable(norm, colours),
        ax=figure.axes,
        location="bottom",
        aspect=60,
        shrink=0.6,
        pad=0.04,
        extend="max",
    )
    bar.set_label(
        "largest absolute weight of each cell; white: rows and columns of dead units",
        fontsize=9,
    )
    bar.ax.tick_params(labelsize=8)
    return _written(figure, path)


def _draw_matrix(axis: Any, matrix: MatrixPicture, colours: Any, norm: Any) -> None:
    cells = matrix.cells
    picture = colours(norm(np.nan_to_num(cells)))[..., :3]
    picture[np.isnan(cells)] = 1.0
    picture[cells == _ABSENT] = _GREY
    axis.imshow(picture, aspect="auto", interpolation="nearest")
    for line in matrix.lines[0][1:]:
        axis.axhline(line - 0.5, color="black", linewidth=0.6)
    for line in matrix.lines[1][1:]:
        wide = 1.6 if line in matrix.borders else 0.6
        axis.axvline(line - 0.5, color="black", linewidth=wide)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(
        f"{_short(f'{matrix.layer}: {matrix.variable}')}\n"
        f"{matrix.size}, {matrix.alive} of {matrix.units} units live",
        fontsize=9,
        loc="left",
    )


def _rows(matrices: Sequence[MatrixPicture], across: int) -> list[list[MatrixPicture]]:
    """Which are drawn beside each other: a layer's together, if they fit in a row."""
    rows: list[list[MatrixPicture]] = [[]]
    for _, found in groupby(matrices, key=lambda one: one.layer):
        some = list(found)
        if len(rows[-1]) + min(len(some), across) > across:
            rows.append([])
        for one in some:
            if len(rows[-1]) == across:
                rows.append([])
            rows[-1].append(one)
    return rows


def _short(name: str, most: int = 44) -> str:
    """A name that fits above a picture; of a long one the end says more."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _check(found: Sequence[Any], what: str) -> None:
    if not found:
        raise ValueError(f"There is nothing to draw: the report holds {what}.")


def _figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Drawing a pruning report needs matplotlib: "
            "pip install keras-sparse-rnn[plot]."
        ) from error
    return Figure(figsize=size, layout="constrained")


def _written(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Saves a figure beside its path and renames it, so that it is there whole."""
    target = Path(path)
    partial = target.with_name(f".{target.stem}.partial{target.suffix}")
    try:
        figure.savefig(partial, dpi=150)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target
