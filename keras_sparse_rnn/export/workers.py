"""Programs of our own in processes of their own, where a crash becomes an error.

TensorFlow's converter and LiteRT's runtimes have been seen to crash, and then the
user's session must live. A program is started when it is first needed and kept, since
to start one takes seconds; it ends with the process that started it.
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
from pathlib import Path
from typing import Any


class Crash(RuntimeError):
    """The program ended in the middle of a request."""


class Worker:
    """A program that answers requests, one line of JSON for another.

    Args:
        program: The file, beside this one unless the path is absolute. It is run by
            its path, so that it need not import this package.
    """

    def __init__(self, program: str):
        self._program = Path(__file__).parent / program
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._owner = 0
        self._log: Any = None
        atexit.register(self.close)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The program's answer to a request.

        Raises:
            RuntimeError: With the program's own words, if it says that it failed.
            Crash: If it crashed.
        """
        with self._lock:
            child = self._started()
            before = self._log.seek(0, os.SEEK_END)
            line = ""
            try:
                assert child.stdin is not None
                assert child.stdout is not None
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(json.dumps(request) + "\n")
                    child.stdin.flush()
                    line = child.stdout.readline()
            finally:
                words = "" if line else self._words(before)
                if not line:
                    # Dead, or in the middle of something that nobody waits for.
                    self.close()
            if not line:
                raise Crash(f"it crashed ({ending(child.returncode)}){words}")
        answer: dict[str, Any] = json.loads(line)
        if answer.get("error") is not None:
            raise RuntimeError(re.sub(r"\x1b\[\d+m", "", answer["error"]))
        if answer.get("crash") is not None:
            words = self._words(before)
            raise Crash(f"it crashed ({ending(answer['crash'])}){words}")
        return answer

    def _started(self) -> subprocess.Popen[str]:
        child = self._child
        # A forked process shares the pipe, but must not share the conversation.
        if child is None or child.poll() is not None or self._owner != os.getpid():
            self.close()
            self._log = tempfile.TemporaryFile()  # noqa: SIM115
            # A device's file is made and run on the CPU; the GPU is the user's.
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
            child = self._child = subprocess.Popen(
                [sys.executable, str(self._program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                text=True,
            )
            self._owner = os.getpid()
        return child

    def close(self) -> None:
        """Ends the program; the next request starts it again."""
        child, self._child = self._child, None
        if child is None:
            return
        if self._owner == os.getpid():
            child.kill()
            child.wait()
        for pipe in (child.stdin, child.stdout, self._log):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _words(self, begin: int) -> str:
        """The end of what the program printed last."""
        self._log.seek(begin)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        told = [line for line in lines if not line.startswith(("INFO", "I0000"))]
        return ". Its last words: " + " / ".join(told[-3:]) if told else ""


def ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
