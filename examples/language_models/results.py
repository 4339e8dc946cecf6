"""What all runs of a folder came to: tables and pictures."""

import importlib.util
import statistics
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from experiments.records import kind_of
from experiments.results import Row, gathered, in_order, measured_with, put, told

from language_models.configurations import CONFIGURATIONS, FIELD
from language_models.shipping import WINDOW

# Methods that always begin with a trained model.
STARTED = ("one-shot", "finetune")


def name_of(run: Row) -> str:
    """A run without its seed: runs of one kind are averaged."""
    parts = [run["configuration"]]
    if run["method"] != "plain":
        parts.append(run["method"])
    for name in ("keep", "strength"):
        if (value := run["settings"].get(name)) is not None:
            parts.append(f"{value:g}")
    if like := run["settings"].get("like"):
        parts.append(f"as {kind_of(like, run['configuration'], run['seed'])}")
    elif run["method"] == "direct":
        parts.append(" ".join(map(str, run["units"])))
    if start := run["settings"].get("start"):
        kind = kind_of(Path(start).stem, run["configuration"], run["seed"])
        if kind != "plain" or run["method"] not in STARTED:
            parts.append(f"from {kind}")
    parts.append(f"{run['settings']['epochs']} epochs")
    return " ".join(parts)


def by_kind(runs: Sequence[Row]) -> dict[str, list[Row]]:
    """Runs by what they are, in order of seeds."""
    found: dict[str, dict[int, Row]] = {}
    # A hash is of all of a text, of which a run may have read a part.
    data = {
        (run["data_hash"], run["train_words"], run["vocabulary"]): run["run"]
        for run in runs
    }
    if len(data) > 1:
        raise SystemExit(
            f"These are runs on different texts: {', '.join(data.values())}. Give "
            "those of each text an --out of their own."
        )
    for run in in_order(runs):
        put(found.setdefault(name_of(run), {}), run["seed"], run)
    return {name: list(group.values()) for name, group in found.items()}


def trained_table(runs: Sequence[Row]) -> list[str]:
    """Perplexities of all runs, in Markdown."""
    lines = [
        "| run | seeds | units | weights | valid | test | recited | minutes |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, group in by_kind(runs).items():
        cells = [
            kind,
            ", ".join(str(run["seed"]) for run in group),
            "; ".join(dict.fromkeys(", ".join(map(str, r["units"])) for r in group)),
            _millions(group),
            told([run["valid"] for run in group], ".2f"),
            told([run["test"] for run in group], ".2f"),
            told([run["recited"] for run in group if "recited" in run], ".2%"),
            format(statistics.mean(run["seconds"] for run in group) / 60, ".0f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _millions(group: Sequence[Row]) -> str:
    own = statistics.mean(run["parameters"] for run in group) / 1e6
    if group[0]["method"] not in ("weights", "rows", "magnitude"):
        return f"{own:.2f}M"
    zeros = statistics.mean(run["zeros"] for run in group)
    return f"{own:.2f}M, {zeros:.0%} of the kernels zero"


def shipped_table(runs: Sequence[Row]) -> list[str]:
    """Files: sizes, latencies, perplexities."""
    lines = [
        "| run | seed | file | kB (by gzip) | perplexity of the file | ms a word "
        f"| ms for {WINDOW} |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    for kind, group in by_kind(runs).items():
        for run in group:
            for line in run["shipped"]:
                cells = [
                    kind,
                    str(run["seed"]),
                    line["quantize"] or "float32",
                    f"{line['bytes'] / 1000:,.0f} ({_packed(line)})",
                    f"{line['test']:.2f}",
                    f"{line['word_ms']:.3f}",
                    f"{line['window_ms']:.2f}",
                ]
                lines.append(f"| {' | '.join(cells)} |")
            for file in run.get("files", []):
                size = f"{file['bytes'] / 1000:,.0f} ({_packed(file)})"
                cells = [kind, str(run["seed"]), file["kind"], size]
                runs_in = file["window_ms"]
                shown = "LiteRT can't run it" if runs_in is None else f"{runs_in:.2f}"
                cells += [f"{run['test']:.2f} (Keras)", "", shown]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def _packed(file: dict[str, Any]) -> str:
    return f"{file['gzip_bytes'] / 1000:,.0f}"


def draw(path: Path, runs: Sequence[Row]) -> None:
    """Perplexity against the size of the file, and against its latency."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    points: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for group in by_kind(runs).values():
        own: dict[str, list[tuple[float, float, float]]] = {}
        for run in group:
            for line in run["shipped"]:
                own.setdefault(line["quantize"] or "float32", []).append(
                    (line["bytes"] / 1e6, line["window_ms"], line["test"])
                )
            for file in run.get("files", []):
                # What its int8 file says was not measured.
                if file["kind"] == "float32":
                    own.setdefault("float32", []).append(
                        (file["bytes"] / 1e6, file["window_ms"], run["test"])
                    )
        files = points.setdefault(_line_of(group[0]), {})
        for kind, seeds in own.items():
            mean = tuple(statistics.mean(values) for values in zip(*seeds, strict=True))
            files.setdefault(kind, []).append(mean)
    for line, (name, files) in enumerate(points.items()):
        for kind, found in files.items():
            floats = kind == "float32"
            style: dict[str, Any] = {
                "label": f"{name}, {kind}",
                "marker": "os^vD*Xp"[line % 8],
                "color": f"C{line % 10}",
                "linestyle": "-" if floats else ":",
                "markerfacecolor": f"C{line % 10}" if floats else "white",
            }
            for axes, number in ((left, 0), (right, 1)):
                line_of = sorted(found, key=itemgetter(number))
                axes.plot(
                    [point[number] for point in line_of],
                    [point[2] for point in line_of],
                    **style,
                )
    left.set_xlabel("file, MB")
    right.set_xlabel(f"ms for {WINDOW} words, one thread")
    left.set_ylabel("test perplexity")
    for axes in (left, right):
        axes.set_xscale("log")
        # 20 and not 2 × 10¹.
        plain = LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5))
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter(plain)
        axes.grid(alpha=0.3)
    figure.legend(*right.get_legend_handles_labels(), loc="outside right", fontsize=7)
    figure.savefig(path, dpi=130)


def _line_of(run: Row) -> str:
    """Runs that differ in their size, or what it comes from, are one line."""
    parts = [run["configuration"]]
    if run["method"] != "plain":
        parts.append(run["method"])
    if run["settings"].get("start"):
        parts.append("from a trained model")
    if run["settings"]["epochs"] != CONFIGURATIONS[run["configuration"]].epochs:
        parts.append(f"{run['settings']['epochs']} epochs")
    return " ".join(parts)


def show(folder: Path) -> None:
    """Prints the tables, and draws beside the records."""
    runs = gathered(folder, CONFIGURATIONS, FIELD)
    if not runs:
        raise SystemExit(f"--out {folder} has no finished run yet.")
    print("\n".join(trained_table(runs)))
    if any(run["shipped"] or run.get("files") for run in runs):
        print()
        print("\n".join(shipped_table(runs)))
        if importlib.util.find_spec("matplotlib"):
            draw(folder / "results.png", runs)
        else:
            print("\nNo picture: pip install keras-sparse-rnn[plot]")
    for about in measured_with(runs):
        print(f"\n{about}")
