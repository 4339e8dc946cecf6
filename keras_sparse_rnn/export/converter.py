"""A TensorFlow function as a TFLite file, by TensorFlow's converter.

The converter runs in a process of its own: it has been seen to crash, and then the
user's session must live. The process is kept, since to start one takes seconds; it ends
with the one that started it.
"""

import atexit
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

SIGNATURE = "serving_default"


def convert(
    function: Any,
    variables: Iterable[Any],
    quantize: str | None,
    samples: Iterable[dict[str, Any]] = (),
) -> bytes:
    """The content of a TFLite file with one signature, `serving_default`.

    Args:
        function: A `tf.function` with an input signature, whose arguments and results
            have names.
        variables: The TensorFlow variables it reads.
        quantize: `None`, `"float16"`, `"dynamic"` or `"int8"`.
        samples: For `"int8"`: arrays by the arguments' names.

    Raises:
        RuntimeError: If the converter says that it can't, or crashes.
    """
    holder = tf.Module()
    holder.held = list(variables)
    with tempfile.TemporaryDirectory() as folder:
        parts = Path(folder)
        tf.saved_model.save(
            holder,
            str(parts / "saved_model"),
            signatures={SIGNATURE: function.get_concrete_function()},
        )
        (parts / "samples").mkdir()
        for number, sample in enumerate(samples):
            np.savez(parts / "samples" / f"{number:06}.npz", **sample)
        _process.run(
            saved_model=str(parts / "saved_model"),
            signature=SIGNATURE,
            quantize=quantize,
            samples=str(parts / "samples"),
            output=str(parts / "model.tflite"),
        )
        return (parts / "model.tflite").read_bytes()


class _Process:
    """The converter's process, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._owner = 0
        self._log: Any = None

    def run(self, **request: Any) -> None:
        """Has one request answered.

        Raises:
            RuntimeError: With the converter's own words, or how it crashed.
        """
        with self._lock:
            child = self._started()
            before = self._log.seek(0, os.SEEK_END)
            answered = False
            try:
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write(json.dumps(request) + "\n")
                child.stdin.flush()
                line = child.stdout.readline()
                answered = bool(line)
            except BrokenPipeError:
                line = ""
            finally:
                words = "" if answered else self._words(before)
                if not answered:
                    # Dead, or in the middle of something that nobody waits for.
                    self._stop()
            if not line:
                raise RuntimeError(f"The converter crashed ({_ending(child)}).{words}")
        error = json.loads(line)["error"]
        if error is not None:
            raise RuntimeError(re.sub(r"\x1b\[\d+m", "", error))

    def _started(self) -> subprocess.Popen[str]:
        child = self._child
        # A forked process shares the pipe, but must not share the conversation.
        if child is None or child.poll() is not None or self._owner != os.getpid():
            self._log = tempfile.TemporaryFile()  # noqa: SIM115
            # A device's file is made on the CPU; the GPU is the user's.
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
            child = self._child = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("converter_process.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                text=True,
            )
            self._owner = os.getpid()
        return child

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, self._log):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _words(self, begin: int) -> str:
        """The end of what the process printed last."""
        self._log.seek(begin)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return " Its last words: " + " / ".join(lines[-3:]) if lines else ""


def _ending(child: subprocess.Popen[str]) -> str:
    code = child.returncode
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"


_process = _Process()
atexit.register(_process._stop)
