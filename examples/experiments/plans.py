"""Runs of a table, one after the other, each in a process of its own."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# Arguments of a run. "@file NAME" stands for the model of run NAME.
Step = Sequence[str]


def follow(
    steps: Iterable[Step],
    script: Path,
    folder: Path,
    source: Sequence[str],
    seed: int | None = None,
) -> None:
    """Makes all runs; what is done is not done again.

    Where one fails the others are made all the same, and it exits with an error at the
    end.

    Args:
        steps: What each is given.
        script: The command that takes a step.
        folder: Where its files go.
        source: What tells it the data.
        seed: That of the runs to make; `None` for all.
    """
    if seed is not None:
        steps = [step for step in steps if seed_of(step) == str(seed)]
        if not steps:
            raise SystemExit(f"--seed {seed}: the plan has no runs of this seed.")
    failed = []
    for step in steps:
        given = [_filled(part, folder) for part in step]
        command = [str(script), *given, *source, "--out", str(folder)]
        print(f"\n{' '.join(['python', *command])}", flush=True)
        if subprocess.run([sys.executable, *command]).returncode:
            failed.append(" ".join(["python", *command]))
    if failed:
        raise SystemExit("\n".join(["These runs failed:", *failed]))


def _filled(part: str, folder: Path) -> str:
    if part.startswith("@file "):
        return str(folder / f"{part.removeprefix('@file ')}.keras")
    return part


def seed_of(step: Step) -> str:
    """The seed of a run, as it is given."""
    return step[step.index("--seed") + 1]
