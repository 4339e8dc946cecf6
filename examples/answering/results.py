"""What all runs of a folder came to, as tables."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from experiments import records
from experiments.results import Row, gathered, in_order, measured_with, put, told

from answering.configurations import CONFIGURATIONS, FIELD, MOST_WORDS
from answering.runs import ending


def name_of(run: Row) -> str:
    """A run without its seed and the article left out: those of one name are joined."""
    base = asdict(CONFIGURATIONS[run["configuration"]])
    settings = run["settings"]
    parts = [run["configuration"]]
    if run["method"] != "plain":
        parts.append(run["method"])
    for name in ("keep", "strength"):
        if (value := settings[name]) is not None:
            parts.append(f"{name} {value:g}")
    if like := settings["like"]:
        parts.append(f"as {records.kind_of(like, run['configuration'], run['seed'])}")
    elif settings["units"]:
        parts.append(" ".join(map(str, settings["units"])))
    if settings["groups"]:
        parts += [f"{name} in {count} groups" for name, count in settings["groups"]]
    for name, usual in base.items():
        if name not in ("about", "units", "groups") and settings[name] != usual:
            parts.append(f"{name.replace('_', ' ')} {settings[name]:g}")
    if settings["most_words"] != MOST_WORDS:
        parts.append(f"{settings['most_words']:,} words")
    if settings["contextual"]:
        parts.append("contextual too")
    if settings["vectors"]:
        parts.append(f"vectors {settings['vectors']}")
    if settings["unanswerable"]:
        parts.append("no answer scored")
    if settings["start"]:
        start = Path(settings["start"]).stem.removesuffix(ending(run["left_out"]))
        kind = records.kind_of(start, run["configuration"], run["seed"])
        parts.append("tuned" if kind == "plain" else f"tuned from {kind}")
    return f"{', '.join(parts)} ({run['data']})"


def by_kind(runs: Sequence[Row]) -> dict[str, dict[int, list[Row]]]:
    """Runs by what they are and by seed, one for each article that was left out.

    Seeds are joined only if the same articles were left out.
    """
    runs = in_order(runs)
    hashes: dict[str, set[str]] = {}
    for run in runs:
        hashes.setdefault(run["data"], set()).add(run["data_hash"])
    folds: dict[tuple[str, int], dict[str | None, Row]] = {}
    for run in runs:
        name = name_of(run)
        if len(hashes[run["data"]]) > 1:
            name += f", {run['data_hash'][:6]}"
        put(folds.setdefault((name, run["seed"]), {}), run["left_out"], run)
    found: dict[str, dict[int, list[Row]]] = {}
    for (name, seed), own in folds.items():
        some = next(iter(own.values()))
        if some["left_out"] is not None and len(own) < some["articles"]:
            left_out = ", ".join(sorted(map(str, own)))
            name += f", {len(own)} of {some['articles']} articles: {left_out}"
        found.setdefault(name, {})[seed] = list(own.values())
    return found


def pooled(runs: Sequence[Row], name: str) -> float:
    """A mean over all questions of several runs, each of an article of its own."""
    asked = [run for run in runs if run["questions"]]
    if not asked:
        return math.nan
    weights = [run["questions"] for run in asked]
    return float(np.average([run[name] for run in asked], weights=weights))


def table(runs: Sequence[Row]) -> list[str]:
    """Scores, sizes and latencies, in Markdown."""
    lines = [
        "| run | seeds | questions | EM | F1 | units of the six LSTMs | weights "
        "| without words | ms | same spans in the file | minutes |",
        "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for kind, seeds in by_kind(runs).items():
        group = [run for folds in seeds.values() for run in folds]
        units = _mean_units(group, "units")
        if (
            any(run["settings"]["contextual"] for run in group)
            or len(group[0]["settings"]["units"] or ()) == 8
        ):
            units += f" (contextual: {_mean_units(group, 'contextual_units')})"
        shipped = [
            line for run in group for line in run["shipped"] if line["quantize"] is None
        ]
        cells = [
            kind,
            ", ".join(map(str, seeds)),
            f"{sum(run['questions'] for run in next(iter(seeds.values()))):,}",
            told([pooled(folds, "em") for folds in seeds.values()], ".1f"),
            told([pooled(folds, "f1") for folds in seeds.values()], ".1f"),
            units,
            f"{statistics.mean(run['parameters'] for run in group) / 1e6:.3f}M",
            f"{statistics.mean(run['without_words'] for run in group) / 1e6:.3f}M",
            f"{statistics.mean(one['ms'] for one in shipped):.2f}" if shipped else "",
            (
                f"{sum(one['same_spans'] for one in shipped):,} of "
                f"{sum(one['questions'] for one in shipped):,}"
                if shipped
                else ""
            ),
            f"{sum(run['seconds'] for run in group) / 60 / len(seeds):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _mean_units(group: Sequence[Row], name: str) -> str:
    means = np.mean([run[name] for run in group], axis=0)
    return ", ".join(f"{one:.0f}" for one in means)


def show(folder: Path) -> None:
    """Prints the table, and what it was measured with."""
    runs = gathered(folder, CONFIGURATIONS, FIELD)
    if not runs:
        raise SystemExit(f"--out {folder} has no finished run yet.")
    print("\n".join(table(runs)))
    for about in measured_with(runs):
        print(f"\n{about}")
