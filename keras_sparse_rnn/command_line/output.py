"""What a command prints: tables, JSON, and on stderr what it is doing."""

import argparse
import dataclasses
import json
import math
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = "keras-sparse-rnn"
_GAP = "  "
# Two lines or so of an error, whatever a library has to say.
_LONGEST = 600
_NARROWEST = 8


class CommandError(Exception):
    """What keeps a command from its work, told to its user."""


def shortened(message: str) -> str:
    """A message on one line, without its end if that is far."""
    line = " ".join(message.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def tell(arguments: argparse.Namespace, doing: str) -> None:
    """Says on stderr what is being done, if somebody is watching.

    Args:
        arguments: Of the command, with `verbose`.
        doing: What.
    """
    if arguments.verbose or sys.stderr.isatty():
        print(f"… {doing}", file=sys.stderr, flush=True)


def note(message: str) -> None:
    """Says on stderr what is worth knowing, and no error."""
    print(f"note: {shortened(message)}", file=sys.stderr)


@contextmanager
def log_held_back() -> Iterator[None]:
    """Drops what C++ code writes to stderr meanwhile, whatever its log level."""
    try:
        saved = os.dup(2)
    except OSError:
        # There is no stderr.
        yield
        return
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Shows warnings that are for users, and holds back those for programmers."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(
        str(one.message) for one in caught if one.category is UserWarning
    ):
        note(message)


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1
) -> list[str]:
    """Lines of a table.

    On a terminal that is too narrow the names in the first column lose their middles.

    Args:
        header: Titles of the columns.
        rows: Cells; a row of one cell is a line of its own, below the row before it.
        names: How many columns, from the left, hold text; those after hold numbers,
            which end together.
    """
    full = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(header, *full, strict=True)]
    too_wide = sum(widths) + len(_GAP) * (len(widths) - 1) - _width()
    if too_wide > 0:
        widths[0] = max(_NARROWEST, widths[0] - too_wide)
    lines = []
    for row in (header, *rows):
        if len(row) == 1:
            lines += _wrapped(row[0])
            continue
        cells = [
            f"{_elided(cell, width):<{width}}" if k < names else f"{cell:>{width}}"
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(_GAP.join(cells).rstrip())
    return lines


def pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of names and what is to be said of them; a name is told once in a row.

    Args:
        rows: The names, and the texts, which are wrapped.
    """
    width = max((len(name) for name, _ in rows), default=0)
    lines, last = [], ""
    for name, text in rows:
        indent = " " * (width + len(_GAP))
        first = f"{'' if name == last else name:<{width}}{_GAP}"
        lines += textwrap.wrap(
            text,
            max(_text_width(), 2 * len(indent)),
            initial_indent=first,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [first.rstrip()]
        last = name
    return lines


def sizes(shape: Sequence[int | None]) -> str:
    """A shape as text."""
    shown = ("any" if size in (None, -1) else str(size) for size in shape)
    return "×".join(shown) or "scalar"


def as_json(value: Any) -> str:
    """A report as JSON: dataclasses by their fields, what is no number as null."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _width() -> int:
    """Columns there are; to a file or a program nothing is cut short."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000


def _text_width() -> int:
    """Columns for text, which is wrapped, into files too."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 80


def _elided(cell: str, width: int) -> str:
    if len(cell) <= width:
        return cell
    head = (width - 1) // 2
    return f"{cell[:head]}…{cell[len(cell) - (width - 1 - head) :]}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _text_width(),
        initial_indent=_GAP,
        subsequent_indent=2 * _GAP,
        break_long_words=False,
        break_on_hyphens=False,
    )
