"""What all runs of a folder came to, as tables."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from experiments.records import all_runs
from language_models.results import gathered, told

from answering.configurations import CONFIGURATIONS

Row = dict[str, Any]


def kind_of(run: Row) -> str:
    """A run without its seed and the article left out: those of one kind are joined."""
    parts = [run["configuration"]]
    settings = run["settings"]
    if settings["width"] != CONFIGURATIONS[run["configuration"]].width:
        parts.append(f"width {settings['width']}")
    if run["method"] != "plain":
        parts.append(run["method"])
    for name in ("keep", "strength", "density"):
        if (value := settings.get(name)) is not None:
            parts.append(f"{name} {value:g}")
    if settings["groups"]:
        parts += [f"{name} in {count} groups" for name, count in settings["groups"]]
    if run["method"] == "direct":
        parts.append(" ".join(map(str, settings["units"])))
    for name, what in (
        ("contextual", "contextual too"),
        ("vectors", "vectors given"),
        ("unanswerable", "no answer scored"),
        ("start", "from a trained model"),
    ):
        if settings[name]:
            parts.append(what)
    return f"{', '.join(parts)} ({run['data']})"


def by_kind(runs: Iterable[Row]) -> dict[str, dict[int, list[Row]]]:
    """Runs by what they are and by seed, one for each article that was left out."""
    found: dict[str, dict[int, list[Row]]] = {}
    for run in sorted(runs, key=lambda run: (run["configuration"], run["seed"])):
        found.setdefault(kind_of(run), {}).setdefault(run["seed"], []).append(run)
    return found


def pooled(runs: Sequence[Row], name: str) -> float:
    """A mean over all questions of several runs, each of an article of its own."""
    weights = [run["questions"] for run in runs]
    return float(np.average([run[name] for run in runs], weights=weights))


def table(runs: Sequence[Row]) -> list[str]:
    """Scores, sizes and latencies, in Markdown."""
    lines = [
        "| run | seeds | questions | EM | F1 | units of the six LSTMs | weights "
        "| without words | ms | same spans in the file | minutes |",
        "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for kind, seeds in by_kind(runs).items():
        group = [run for folds in seeds.values() for run in folds]
        units = np.mean([run["units"] for run in group], axis=0)
        shipped = [
            line for run in group for line in run["shipped"] if line["quantize"] is None
        ]
        cells = [
            kind,
            ", ".join(map(str, seeds)),
            f"{sum(run['questions'] for run in next(iter(seeds.values()))):,}",
            told([pooled(folds, "em") for folds in seeds.values()], ".1f"),
            told([pooled(folds, "f1") for folds in seeds.values()], ".1f"),
            ", ".join(f"{one:.0f}" for one in units),
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


def show(folder: Path) -> None:
    """Prints the table, and what it was measured with."""
    if not any(True for _ in all_runs(folder)):
        raise SystemExit(f"--out {folder} has no finished run yet.")
    runs = gathered(folder)
    print("\n".join(table(runs)))
    for about in dict.fromkeys(
        f"{run['data']} {run['data_hash']}, {run['processor']}, {run['machine']}, "
        f"{run['date']}, Keras {run['keras']}"
        for run in runs
    ):
        print(f"\n{about}")
