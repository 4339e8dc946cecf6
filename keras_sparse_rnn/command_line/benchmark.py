"""`benchmark`: how long files take, side by side."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from keras_sparse_rnn.command_line import loading, words
from keras_sparse_rnn.command_line.keras_timer import KerasTimer
from keras_sparse_rnn.command_line.output import (
    PROGRAM,
    CommandError,
    as_json,
    pairs,
    shortened,
    sizes,
    table,
    tell,
)
from keras_sparse_rnn.command_line.tflite_timer import TFLiteTimer

_TEXT = """\
Times models on inputs made up for them: floats between 0 and 1, integers 0.

Files are timed in turn, in rounds, so that a machine that becomes slower or
faster is fair to all. Each file is run by a process of its own; its memory is
what loading and running it takes at most, beyond what the runtime takes."""
_EXAMPLE = f"""\
example:
  {PROGRAM} benchmark model.keras model.tflite --threads 1"""
_ROUNDS = 5
_PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "min": 0}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command to a parser's."""
    parser = commands.add_parser(
        "benchmark",
        parents=[common],
        help="time .keras and .tflite files side by side",
        description=_TEXT,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--threads",
        type=words.positive,
        default=1,
        metavar="N",
        help="threads to compute with (default: 1)",
    )
    parser.add_argument(
        "--warm-up",
        type=words.not_negative,
        default=5,
        metavar="N",
        help="calls that are not timed, in each round (default: 5)",
    )
    parser.add_argument(
        "--repeats",
        type=words.positive,
        default=100,
        metavar="N",
        help=f"timed calls of each file, over all {_ROUNDS} rounds (default: 100)",
    )
    parser.add_argument(
        "--runtime",
        choices=("Interpreter", "CompiledModel"),
        default="Interpreter",
        help="which of LiteRT's runtimes runs .tflite files (default: Interpreter)",
    )
    parser.add_argument(
        "--time-steps",
        type=words.positive,
        default=32,
        metavar="N",
        help="time steps, where a file leaves their number open (default: 32)",
    )
    parser.add_argument(
        "--batch-size",
        type=words.positive,
        default=1,
        metavar="N",
        help="batch size, where a file leaves it open (default: 1)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Times each file and prints what it took."""
    kinds = [loading.check(path, (".keras", ".tflite")) for path in arguments.files]
    timers: list[Any] = []
    try:
        for path, kind in zip(arguments.files, kinds, strict=True):
            if kind == ".keras":
                tell(arguments, f"loading Keras and {path}")
                timers.append(KerasTimer(path, arguments))
            else:
                timers.append(TFLiteTimer(path, arguments))
        seconds, rounds = _timed(timers, arguments)
    finally:
        for timer in timers:
            timer.close()
    found = [_facts(timer, times) for timer, times in zip(timers, seconds, strict=True)]
    first = found[0]
    for one in found:
        one["ratio"] = _ratio(one["milliseconds"]["p50"], first["milliseconds"]["p50"])
        one["bytes_ratio"] = _ratio(one["bytes"], first["bytes"])
        one["peak_memory_ratio"] = _ratio(one["peak_memory"], first["peak_memory"])
    facts = {
        "threads": arguments.threads,
        "warm_up": arguments.warm_up,
        "repeats": arguments.repeats,
        "rounds": rounds,
        "files": found,
    }
    print(as_json(facts) if arguments.json else "\n".join(_text(facts)))
    return 0


def _timed(
    timers: list[Any], arguments: argparse.Namespace
) -> tuple[list[list[float]], int]:
    """Seconds of each call of each file, and in how many rounds they were made."""
    seconds: list[list[float]] = [[] for _ in timers]
    rounds = min(_ROUNDS, arguments.repeats)
    for number in range(rounds):
        calls = arguments.repeats * (number + 1) // rounds
        calls -= arguments.repeats * number // rounds
        for timer, times in zip(timers, seconds, strict=True):
            tell(arguments, f"round {number + 1} of {rounds}: {timer.path}")
            try:
                times += timer.time(arguments.warm_up, calls)
            except RuntimeError as error:
                raise CommandError(
                    f"'{timer.path}' can't be run: {shortened(str(error))}"
                ) from error
    return seconds, rounds


def _facts(timer: Any, seconds: list[float]) -> dict[str, Any]:
    shown = {
        name: 1e3 * float(np.percentile(seconds, percent))
        for name, percent in _PERCENTILES.items()
    }
    return {
        "file": timer.path,
        "timed": timer.timed,
        "inputs": timer.inputs,
        "milliseconds": shown,
        "bytes": timer.path.stat().st_size,
        "peak_memory": timer.memory,
    }


def _ratio(value: float | None, first: float | None) -> float | None:
    return None if value is None or not first else value / first


def _text(facts: dict[str, Any]) -> list[str]:
    files = facts["files"]
    rows = [
        [
            str(one["file"]),
            *(f"{one['milliseconds'][name]:,.3f}" for name in _PERCENTILES),
            _shown(one["ratio"]),
        ]
        for one in files
    ]
    lines = table(("milliseconds a call", *_PERCENTILES, "ratio"), rows)
    rows = [
        [
            str(one["file"]),
            f"{one['bytes']:,}",
            _shown(one["bytes_ratio"]),
            "unknown" if one["peak_memory"] is None else f"{one['peak_memory']:,}",
            _shown(one["peak_memory_ratio"]),
        ]
        for one in files
    ]
    lines += ["", *table(("bytes", "file", "ratio", "peak memory", "ratio"), rows), ""]
    # Files that are called alike, as those of one model in several forms, share a line.
    calls: dict[str, list[str]] = {}
    for one in files:
        given = ", ".join(f"{n['name']} {sizes(n['shape'])}" for n in one["inputs"])
        calls.setdefault(f"{one['timed']}, on {given}", []).append(str(one["file"]))
    told = [
        ("each call", call if len(calls) == 1 else f"{', '.join(names)}: {call}")
        for call, names in calls.items()
    ]
    count, rounds = facts["repeats"], facts["rounds"]
    told.append(
        (
            "timed",
            f"{count} {_plural(count, 'call')} of each file in {rounds} "
            f"{_plural(rounds, 'round')}, after {facts['warm_up']} others in each, "
            f"with {facts['threads']} {_plural(facts['threads'], 'thread')}",
        )
    )
    return [*lines, *pairs(told)]


def _shown(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
