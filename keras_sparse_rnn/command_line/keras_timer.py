"""A `.keras` file, timed."""

import argparse
from pathlib import Path
from typing import Any

from keras_sparse_rnn.command_line.output import CommandError
from keras_sparse_rnn.export.workers import Crash, Worker


class KerasTimer(Worker):
    """Times a file in a process of its own, which loads it once.

    Args:
        path: The file.
        arguments: Of `benchmark`.

    Attributes:
        path: The file.
        timed: What is timed, in words.
        inputs: Names and shapes of what it is run on.
        memory: Bytes that loading and running took at most; `None` if unknown.

    Raises:
        CommandError: If the file can't be loaded.
    """

    def __init__(self, path: Path, arguments: argparse.Namespace):
        super().__init__(str(Path(__file__).with_name("keras_process.py")))
        self.path = path
        self.memory: int | None = None
        try:
            answer = self.ask(
                path=str(path),
                threads=arguments.threads,
                batch_size=arguments.batch_size,
                time_steps=arguments.time_steps,
            )
        except RuntimeError as error:
            self.close()
            crashed = isinstance(error, Crash)
            says = f"'{path}' can't be run: {error}" if crashed else str(error)
            raise CommandError(says) from error
        self.timed: str = answer["timed"]
        self.inputs: list[dict[str, Any]] = answer["inputs"]

    def time(self, warm_up: int, repeats: int) -> list[float]:
        """Seconds of each of some calls.

        Args:
            warm_up: Calls before those that are timed.
            repeats: Calls that are timed.

        Raises:
            RuntimeError: If the model can't be called.
        """
        answer = self.ask(warm_up=warm_up, repeats=repeats)
        self.memory = answer["memory"]
        seconds: list[float] = answer["seconds"]
        return seconds
