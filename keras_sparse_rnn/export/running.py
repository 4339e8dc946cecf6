"""A TFLite file run in a process of its own: its outputs, its memory, its time."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_sparse_rnn.export.workers import Worker

RUNTIMES = ("Interpreter", "CompiledModel")
_worker = Worker("file_process.py")

Episode = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Run:
    """What came out of a file.

    Attributes:
        outputs: For each step of each episode, arrays by the outputs' names, without
            the states.
        same: Whether running each step twice gave the same twice.
        memory: Bytes that loading and running the file took at most, the file itself
            included; `None` where the operating system does not tell.
        seconds: How long each of the timed runs took.
    """

    outputs: list[list[dict[str, Any]]]
    same: bool
    memory: int | None
    seconds: list[float]


def run(
    path: Path,
    runtime: str,
    episodes: Sequence[Episode],
    states: Mapping[str, Sequence[int]] | None = None,
    *,
    twice: bool = False,
    threads: int = 1,
    warm_up: int = 0,
    repeats: int = 0,
) -> Run:
    """Runs a file with one signature.

    Args:
        path: The file.
        runtime: `"Interpreter"` or `"CompiledModel"`.
        episodes: Sequences of steps, each step arrays by the inputs' names. Whatever
            the file carries from step to step begins with zeros in each episode.
        states: Name and shape of each input that the output of the same name becomes
            in the next step.
        twice: Whether to run each step twice.
        threads: Number of threads.
        warm_up: Runs of the last step that come before those that are timed.
        repeats: Timed runs of the last step.

    Raises:
        RuntimeError: If the runtime does not take the file, or crashes.
    """
    arrays: dict[str, Any] = {}
    keys: list[list[dict[str, str]]] = []
    for e, episode in enumerate(episodes):
        keys.append([])
        for s, step in enumerate(episode):
            keys[e].append({name: f"{e}/{s}/{name}" for name in step})
            arrays.update({keys[e][s][name]: array for name, array in step.items()})
    request = {
        # The program has a working directory of its own.
        "path": str(path.resolve()),
        "runtime": runtime,
        "threads": threads,
        "episodes": keys,
        "states": {name: list(shape) for name, shape in (states or {}).items()},
        "twice": twice,
        "warm_up": warm_up,
        "repeats": repeats,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "request.json").write_text(json.dumps(request))
        np.savez(folder / "inputs.npz", **arrays)
        answer = _worker.ask(folder=str(folder))
        with np.load(folder / "outputs.npz") as loaded:
            made = dict(loaded)
    outputs: list[list[dict[str, Any]]] = [[{} for _ in one] for one in keys]
    for key, array in made.items():
        e, s, name = key.split("/", 2)
        outputs[int(e)][int(s)][name] = array
    return Run(outputs, answer["same"], answer["memory"], answer["seconds"])
