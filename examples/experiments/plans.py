"""Runs of a table, one after the other, each in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# Arguments of a run. "@file NAME" stands for the model of run NAME.
Step = Sequence[str]

# For glibc: logits of 28 MB are kept from step to step, where they would be given back
# to the system, and be 7,000 page faults the next time. A quarter of the time.
_KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
}


def follow(
    steps: Iterable[Step], script: Path, folder: Path, source: Sequence[str]
) -> None:
    """Makes all runs; what is done is not done again.

    Args:
        steps: What each is given.
        script: The command that takes a step.
        folder: Where its files go.
        source: What tells it the data.
    """
    for step in steps:
        given = [_filled(part, folder) for part in step]
        command = [str(script), *given, *source, "--out", str(folder)]
        print(f"\n{' '.join(['python', *command])}", flush=True)
        environment = {**_KEEP_MEMORY, **os.environ}
        subprocess.run([sys.executable, *command], env=environment, check=True)


def _filled(part: str, folder: Path) -> str:
    if part.startswith("@file "):
        return str(folder / f"{part.removeprefix('@file ')}.keras")
    return part
