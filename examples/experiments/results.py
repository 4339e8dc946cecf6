"""What the runs of a folder came to."""

import json
import statistics
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from experiments.records import all_runs

Row = dict[str, Any]


def gathered(folder: Path, known: Collection[str], field: str) -> list[Row]:
    """The last line of each finished run, with what was measured of its files.

    Args:
        folder: Where the records are.
        known: The configurations of the example that made them.
        field: What the runs of this example tell, and those of others do not.
    """
    found = []
    for run in all_runs(folder):
        if field not in run or run["configuration"] not in known:
            raise SystemExit(
                f"{folder / run['run']}.jsonl is of another example's run (its "
                f"configuration: {run['configuration']}); --out is the folder of this "
                "example's own runs."
            )
        shipped = folder / f"{run['run']}.shipped.jsonl"
        lines = shipped.read_text().splitlines() if shipped.exists() else []
        found.append({**run, "shipped": [json.loads(line) for line in lines]})
    return found


def in_order(runs: Sequence[Row]) -> list[Row]:
    """By configuration and seed, and among those of one seed the largest first."""
    return sorted(
        runs,
        key=lambda run: (
            run["configuration"],
            run["seed"],
            -run["parameters"],
            run["method"],
        ),
    )


def put(own: dict[Any, Row], place: Any, run: Row) -> None:
    """The run at its place of a table, which no other may have."""
    if place in own:
        raise SystemExit(
            f"{own[place]['run']} and {run['run']} are runs of one kind, seed and "
            "test; move one of them to another folder."
        )
    own[place] = run


def measured_with(runs: Sequence[Row]) -> list[str]:
    """The data, machines and dates of runs, each once."""
    return list(
        dict.fromkeys(
            f"{run['data']} {run['data_hash']}, {run['processor']}, {run['machine']}, "
            f"{run['date']}, Keras {run['keras']}"
            for run in runs
        )
    )


def told(values: Sequence[float], form: str) -> str:
    """The mean, with each seed's value behind it if there are several."""
    if not values:
        return ""
    mean = format(statistics.mean(values), form)
    if len(values) == 1:
        return mean
    return f"{mean} ({', '.join(format(value, form) for value in values)})"
