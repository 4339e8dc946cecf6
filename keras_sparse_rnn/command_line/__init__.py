"""`keras-sparse-rnn`, the command line.

Each command imports what it needs when it runs, since Keras takes seconds to load.
"""

import argparse
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

from keras_sparse_rnn.command_line import benchmark, export, inspect, shrink
from keras_sparse_rnn.command_line.output import PROGRAM, CommandError, shortened

# What is wrong with the user's files and wishes; anything else is a mistake of ours.
_EXPECTED = (CommandError, ValueError, RuntimeError, OSError, ImportError, MemoryError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Its words, without the program's name. By default those of the process.

    Returns:
        The exit status: 0; 1 if something went wrong, which is then told on stderr;
        2 if the words are no command; 130 if it was interrupted.

    Example:

    >>> main(["inspect", "model.keras"])
    0
    """
    for stream in (sys.stdout, sys.stderr):
        # Where letters are ASCII only, `×` is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Of TensorFlow and LiteRT, before they are there.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    arguments = argparse.Namespace(verbose=False)
    try:
        arguments = _parser().parse_args(argv)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        # Whoever reads has seen enough. Python would flush once more at its end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if arguments.verbose:
            traceback.print_exc()
        says = shortened(str(error))
        if not isinstance(error, _EXPECTED) or not says:
            says = f"{type(error).__name__}: {says} (--verbose shows where)"
        _complain(says)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Measures, shrinks and exports recurrent networks.",
        epilog="`keras-sparse-rnn COMMAND --help` tells more, with an example.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON, no tables")
    common.add_argument(
        "--verbose",
        action="store_true",
        help="tell on stderr what is being done; by default only on a terminal",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (inspect, shrink, export, benchmark):
        command.add(commands, common)
    return parser


def _complain(message: str) -> None:
    print(f"{PROGRAM}: error: {message}", file=sys.stderr)
