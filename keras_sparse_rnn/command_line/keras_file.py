"""What is in a `.keras` file, layer by layer."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_sparse_rnn.command_line import loading
from keras_sparse_rnn.command_line.output import pairs, shortened, sizes, table

_HEADER = ("layer", "class", "units", "parameters", "multiply-adds", "bytes")


def facts(path: Path) -> dict[str, Any]:
    """What is in a file, for JSON and for `text`.

    Args:
        path: The file.

    Raises:
        CommandError: If it can't be loaded.
    """
    model = loading.load(path)
    found = {
        "file": path,
        "kind": "keras",
        "bytes": path.stat().st_size,
        "name": model.name,
        "class": type(model).__name__,
        "inputs": _tensors(getattr(model, "inputs", None)),
        "outputs": _tensors(getattr(model, "outputs", None)),
    }
    try:
        return {**found, **_traced(model)}
    except ValueError as error:
        reason = shortened(str(error))
    try:
        # With all units left alone, what they run into is no matter.
        found.update(_traced(model, ignore=_recurrent(model)))
        found["remarks"] = [f"Which units are alive can't be told. {reason}"]
    except ValueError:
        found.update(_untraced(model))
        missing = "Which units are alive, and multiply-adds, can't be told."
        found["remarks"] = [f"{missing} {reason}"]
    return found


def text(facts: dict[str, Any]) -> list[str]:
    """Lines that tell what `facts` found.

    Args:
        facts: What it returned.
    """
    lines = [
        f"{facts['file']}: {facts['class']} '{facts['name']}', {facts['bytes']:,} bytes"
    ]
    for side in ("inputs", "outputs"):
        shown = [f"{n['name']} {sizes(n['shape'])} {n['dtype']}" for n in facts[side]]
        lines += pairs([(side, ", ".join(shown))] if shown else [])
    rows: list[Sequence[str]] = []
    for layer in facts["layers"]:
        rows.append([layer["layer"], layer["class"], *_numbers(layer)])
        rows += [[line] for line in _parts(layer)]
    rows.append(["all", "", *_numbers(facts["total"])])
    lines += ["", *table(_HEADER, rows, names=2)]
    total, left = facts["total"], facts["after_shrinking"]
    if left is not None and total["units"] != total["alive"]:
        lines += pairs(
            [
                (
                    "dead",
                    f"{total['units'] - total['alive']:,} units; without them "
                    f"{left['parameters']:,} parameters, {left['multiply_adds']:,} "
                    f"multiply-adds, {left['bytes']:,} bytes",
                )
            ]
        )
    fixed = facts["left_alone"].items()
    lines += pairs([("not prunable", f"{name}: {reason}") for name, reason in fixed])
    lines += pairs([("remark", remark) for remark in facts["remarks"]])
    return lines


def _tensors(tensors: Any) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "shape": list(one.shape), "dtype": str(one.dtype)}
        for one in tensors or []
    ]


def _recurrent(model: Any) -> list[str]:
    import keras

    from keras_sparse_rnn._models import layers_of

    found = (one for one in layers_of(model) if isinstance(one, keras.layers.RNN))
    return sorted({one.name for one in found})


def _traced(model: Any, ignore: Sequence[str] = ()) -> dict[str, Any]:
    """Layers with all that pruning knows of them.

    Args:
        model: The model.
        ignore: Names of layers to leave alone; then no unit is called alive.

    Raises:
        ValueError: If the model can't be followed.
    """
    from keras_sparse_rnn.iss.costs import Cost, Costs
    from keras_sparse_rnn.iss.shrink import with_protected
    from keras_sparse_rnn.iss.trace import trace

    plan = trace(model, ignore)
    values = plan.values()
    alive = with_protected(plan, [~family.dead(values) for family in plan.families])
    every = [np.ones(family.units, bool) for family in plan.families]
    costs = Costs(plan)
    units: dict[int, Any] = {}
    for family, living in zip(plan.families, alive, strict=True):
        for one in () if ignore else family.layers:
            units[id(one.layer)] = (one.segments, living[one.component])
    by_layer = costs.by_layer(every)
    layers = []
    for name, layer in _layers(plan.graph):
        cost = by_layer.pop(name, Cost())
        layers.append(_layer(name, layer, units, vars(cost)))
    # Operations that multiply variables, and what no call of the graph uses.
    for name, cost in by_layer.items():
        layers.append(_row(name, "operation", vars(cost)))
    total = _row("all", "", vars(costs.total(every)))
    del total["layer"], total["class"]
    total["units"] = sum(one["units"] or 0 for one in layers)
    if not ignore:
        total["alive"] = sum(one["alive"] or 0 for one in layers)
    return {
        "layers": layers,
        "total": total,
        "after_shrinking": None if ignore else vars(costs.total(alive)),
        "left_alone": {} if ignore else {**plan.left_alone, **plan.left_in_part},
        "remarks": [],
    }


def _untraced(model: Any) -> dict[str, Any]:
    """Layers with what can be counted without following units."""
    layers: list[dict[str, Any]] = []
    seen: set[int] = set()
    for name, layer in _layers(model):
        fresh = [one for one in layer.weights if id(one) not in seen]
        seen.update(id(one) for one in fresh)
        layers.append(_layer(name, layer, {}, _stored(fresh)))
    rest = [one for one in model.weights if id(one) not in seen]
    if rest:
        layers.append(_row("(in no layer)", "", _stored(rest)))
    total = _row("all", "", _stored(model.weights))
    del total["layer"], total["class"]
    total["units"] = sum(one["units"] or 0 for one in layers)
    return {
        "layers": layers,
        "total": total,
        "after_shrinking": None,
        "left_alone": {},
        "remarks": [],
    }


def _stored(weights: Any) -> dict[str, Any]:
    import keras

    values = [keras.ops.convert_to_numpy(one) for one in weights]
    return {
        "parameters": sum(value.size for value in values),
        "multiply_adds": None,
        "bytes": sum(value.nbytes for value in values),
    }


def _layers(model: Any, prefix: str = "", seen: Any = None) -> Iterator[Any]:
    """Each layer once, those of nested models with their names before theirs."""
    import keras

    from keras_sparse_rnn._models import is_graph

    seen = set() if seen is None else seen
    for layer in getattr(model, "layers", []):
        if isinstance(layer, keras.layers.InputLayer) or id(layer) in seen:
            continue
        seen.add(id(layer))
        if is_graph(layer):
            yield from _layers(layer, f"{prefix}{layer.name}/", seen)
        else:
            yield f"{prefix}{layer.name}", layer


def _row(name: str, kind: str, cost: dict[str, Any]) -> dict[str, Any]:
    return {
        "layer": name,
        "class": kind,
        "units": None,
        "alive": None,
        "recurrent": [],
        "tiers": None,
        **{key: cost[key] for key in ("parameters", "multiply_adds", "bytes")},
    }


def _layer(
    name: str, layer: Any, units: dict[int, Any], cost: dict[str, Any]
) -> dict[str, Any]:
    """A layer, with each recurrent part of it: the directions of a Bidirectional.

    Args:
        name: What it is called.
        layer: The layer.
        units: For each layer or cell with units, by its `id`: the range of each group,
            and which of its units live.
        cost: What it costs.
    """
    import keras

    from keras_sparse_rnn._models import layers_of
    from keras_sparse_rnn.layers import TieredEmbedding

    row = _row(name, type(layer).__name__, cost)
    for rnn in layers_of(layer):
        if isinstance(rnn, TieredEmbedding):
            row["tiers"] = [list(tier) for tier in rnn.tiers]
        if not isinstance(rnn, keras.layers.RNN):
            continue
        known = [units[id(one)] for one in layers_of(rnn) if id(one) in units]
        for segments, living in known or [_declared(rnn)]:
            row["recurrent"].append(
                {
                    "layer": rnn.name,
                    "groups": [
                        {
                            "units": end - begin,
                            "alive": None
                            if living is None
                            else int(sum(living[begin:end])),
                        }
                        for begin, end in segments
                    ],
                }
            )
    groups = [group for one in row["recurrent"] for group in one["groups"]]
    if groups:
        row["units"] = sum(group["units"] for group in groups)
        if all(group["alive"] is not None for group in groups):
            row["alive"] = sum(group["alive"] for group in groups)
    return row


def _declared(rnn: Any) -> tuple[list[tuple[int, int]], None]:
    """The groups of a layer as it was made, where nothing is known of its units."""
    cell = rnn.cell
    size = getattr(cell, "units", None)
    whole = [(0, size)] if isinstance(size, int) else []
    return list(getattr(cell, "group_segments", whole)), None


def _numbers(row: dict[str, Any]) -> list[str]:
    units = ""
    if row["units"]:
        alive = "?" if row["alive"] is None else f"{row['alive']:,}"
        units = f"{alive}/{row['units']:,}"
    counts = (row[key] for key in ("parameters", "multiply_adds", "bytes"))
    return [units, *("?" if count is None else f"{count:,}" for count in counts)]


def _parts(row: dict[str, Any]) -> Iterator[str]:
    """What does not fit into the row of a layer: its tiers, groups and directions."""
    if row["tiers"]:
        tiers = " + ".join(f"{count:,}×{width:,}" for count, width in row["tiers"])
        yield f"tiers (ranks×length): {tiers}"
    for one in row["recurrent"]:
        groups = one["groups"]
        if len(groups) == 1 and len(row["recurrent"]) == 1:
            continue
        name = f"{one['layer']}: " if len(row["recurrent"]) > 1 else ""
        if len(groups) == 1:
            yield f"{name}{_living(groups[0])} units"
            continue
        listed = " + ".join(_living(group) for group in groups)
        if len({_living(group) for group in groups}) == 1:
            listed = f"{_living(groups[0])} units each"
        yield f"{name}{len(groups)} groups: {listed}"


def _living(group: dict[str, Any]) -> str:
    alive, units = group["alive"], group["units"]
    return f"{units:,}" if alive in (None, units) else f"{alive:,}/{units:,}"
