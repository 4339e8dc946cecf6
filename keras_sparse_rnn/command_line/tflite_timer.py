"""A `.tflite` file, timed."""

import argparse
from pathlib import Path
from typing import Any

from keras_sparse_rnn.command_line import tflite_file
from keras_sparse_rnn.export import flatfile, running


class TFLiteTimer:
    """Times a file in a process of its own for each round.

    Args:
        path: The file.
        arguments: Of `benchmark`.

    Attributes:
        path: The file.
        timed: What is timed, in words.
        inputs: Names and shapes of what it is run on.
        memory: Bytes that loading and running took at most; `None` if unknown.

    Raises:
        ValueError: If it is no whole TFLite file.
        CommandError: If no inputs can be made up for it.
    """

    def __init__(self, path: Path, arguments: argparse.Namespace):
        self.path = path
        self.timed = f"LiteRT's {arguments.runtime}"
        self._runtime = arguments.runtime
        self._threads = arguments.threads
        self._content = flatfile.read(path)
        self._arrays, self._states = tflite_file.episode(
            path, self._content, arguments.batch_size, arguments.time_steps
        )
        self.inputs: list[dict[str, Any]] = [
            {"name": name, "shape": list(array.shape)}
            for name, array in self._arrays.items()
        ]
        self.memory: int | None = None

    def time(self, warm_up: int, repeats: int) -> list[float]:
        """Seconds of each of some calls.

        Args:
            warm_up: Calls before those that are timed.
            repeats: Calls that are timed.

        Raises:
            RuntimeError: If the runtime does not take the file, or crashes.
        """
        try:
            done = running.run(
                self.path.resolve(),
                self._runtime,
                [[self._arrays]],
                self._states,
                threads=self._threads,
                warm_up=warm_up,
                repeats=repeats,
            )
        except RuntimeError as error:
            why = tflite_file.failure(self._content, self._runtime, error)
            raise RuntimeError(f"LiteRT's {self._runtime} fails: {why}") from error
        if done.memory is not None:
            self.memory = max(self.memory or 0, done.memory)
        return done.seconds

    def close(self) -> None:
        """Nothing: each round has ended its process."""
