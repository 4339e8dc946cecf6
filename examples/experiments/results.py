"""What the runs of a folder came to."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.records import all_runs

Row = dict[str, Any]


def gathered(folder: Path) -> list[Row]:
    """The last line of each finished run, with what was measured of its files."""
    found = []
    for run in all_runs(folder):
        shipped = folder / f"{run['run']}.shipped.jsonl"
        lines = shipped.read_text().splitlines() if shipped.exists() else []
        found.append({**run, "shipped": [json.loads(line) for line in lines]})
    return found


def told(values: Sequence[float], form: str) -> str:
    """The mean, with each seed's value behind it if there are several."""
    if not values:
        return ""
    mean = format(statistics.mean(values), form)
    if len(values) == 1:
        return mean
    return f"{mean} ({', '.join(format(value, form) for value in values)})"
