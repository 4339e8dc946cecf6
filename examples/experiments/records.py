"""What a run writes down: a line for each epoch, and one at the end."""

import datetime
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras

import keras_sparse_rnn as ksr


class Records:
    """The lines of one run, in a file of JSON lines.

    Each epoch has one line, also where a run was interrupted and an epoch trained
    again; the last line of a finished run has `"final": true`.

    Args:
        path: The file.
        facts: What every line says: the run's name, its settings, its data.
    """

    def __init__(self, path: Path, facts: dict[str, Any]):
        self.path = path
        # As JSON has it.
        self.facts = json.loads(json.dumps(facts))

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def check(self) -> None:
        """Raises if the file is of a run with other settings."""
        for line in self.lines():
            # A line may say more, and by the same names.
            there = _flat({name: line.get(name) for name in self.facts})
            here = _flat(self.facts)
            different = {
                name: (there.get(name), value)
                for name, value in here.items()
                if there.get(name) != value
            }
            if different:
                raise SystemExit(
                    f"{self.path} is of a run with other settings; give this one "
                    "another --name, or remove it. Different (there, here): "
                    f"{different}"
                )

    def digest(self) -> str:
        """A short name for these facts."""
        told = json.dumps(self.facts, sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:8]

    def final(self) -> dict[str, Any] | None:
        """The last line of a finished run."""
        found = [line for line in self.lines() if line.get("final")]
        return found[-1] if found else None

    def done_before(self) -> dict[str, Any] | None:
        """The same, and tells it; exits if the file is of a run with other settings."""
        self.check()
        final = self.final()
        if final is not None:
            print(f"{self.facts['run']} was trained before; see {self.path}")
        return final

    def add(self, **values: Any) -> None:
        """Writes one more line."""
        self._write([*self.lines(), {**self.facts, **values}])

    def forget_from(self, epoch: int) -> None:
        """Drops the lines of an epoch and later ones, which are trained again."""
        lines = self.lines()
        kept = [line for line in lines if line.get("epoch", 0) <= epoch]
        if len(kept) < len(lines):
            self._write(kept)

    def values(self, name: str) -> list[float]:
        """A value of each epoch so far."""
        return [line[name] for line in self.lines() if name in line and "epoch" in line]

    def _write(self, lines: list[dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, "".join(json.dumps(line) + "\n" for line in lines))


def settings_of(config: Any) -> dict[str, Any]:
    """Those of a configuration, a dataclass, whatever is said about it."""
    return {name: value for name, value in asdict(config).items() if name != "about"}


def finished(option: str, folder: Path, name: str, field: str) -> dict[str, Any]:
    """The last line of a run that an option names.

    Args:
        option: The option, without dashes.
        folder: Where the run's records are.
        name: The run.
        field: What the runs of this example tell, and those of others do not.
    """
    path = folder / f"{name}.jsonl"
    final = Records(path, {}).final()
    if final is None:
        raise SystemExit(
            f"--{option} {name}: {path}, which would say what it was trained with, is "
            "not there, or not of a finished run."
        )
    if field not in final:
        raise SystemExit(f"--{option} {name}: {path} is of another example's run.")
    return final


def check_same(
    option: str, folder: Path, name: str, field: str, wanted: dict[str, Any]
) -> None:
    """Exits unless a run that an option names was made as it must be.

    Args:
        option: The option, without dashes.
        folder: Where the run's records are.
        name: The run.
        field: What the runs of this example tell, and those of others do not.
        wanted: What they must say, at their top or among the settings.
    """
    final = finished(option, folder, name, field)
    there = _flat(final)
    different = {
        name: (there.get(name), value)
        for name, value in json.loads(json.dumps(wanted)).items()
        if there.get(name) != value
    }
    if different:
        raise SystemExit(
            f"--{option} {name}: it was trained with other data or settings. Different "
            f"(there, here): {different}"
        )


def write(path: Path, text: str) -> None:
    """Beside and renamed, so that a file is never half."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def kind_of(name: str, configuration: str, seed: int) -> str:
    """The name of a run without its configuration and seed, if they are these."""
    kind = name.removesuffix(f"-seed{seed}").removeprefix(configuration)
    return kind.lstrip("-") or "plain"


def digest_of(file: Path) -> str:
    """A short name for what is in a file."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()[:16]


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    """A line with its settings beside the rest."""
    return {**line.get("settings", {}), **{k: line[k] for k in line if k != "settings"}}


def all_runs(folder: Path) -> Iterator[dict[str, Any]]:
    """The last lines of all finished runs of a folder."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            found = json.loads(line)
            if found.get("final"):
                yield found


def where() -> dict[str, str]:
    """On what something was measured."""
    backend = keras.backend.backend()
    version = sys.modules[backend].__version__
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "processor": _processor(),
        "python": platform.python_version(),
        "keras": f"{keras.__version__} on {backend} {version}",
        "package": ksr.__version__,
        "date": str(datetime.date.today()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return named[0] if named else platform.processor()
