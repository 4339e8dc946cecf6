"""Files that appear whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise ValueError(
            f"The directory '{path.parent}' does not exist, or is a file. Create it, "
            f"or pass another path. Received: path='{path}'."
        )


def _not_writable(path: Path, error: OSError) -> ValueError:
    return ValueError(
        f"Nothing can be written in '{path.parent}': {error.strerror}. Pass a path "
        f"in a directory you can write to. Received: path='{path}'."
    )


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """An empty file beside `path` that takes its place when the block succeeds.

    It is made before the block runs, so that a path that can't be written to is
    found out before any work is done.

    Args:
        path: Where the file shall be; a file there is replaced.

    Yields:
        The path to write to. If the block raises, it is removed, and whatever was
        at `path` stays.

    Raises:
        ValueError: If nothing can be written at `path`.
    """
    path = path.resolve()  # A link is written through, not replaced.
    _check_parent(path)
    if path.is_dir():
        raise ValueError(
            "`path` must be that of a file. "
            f"Received: path='{path}', which is a directory."
        )
    temporary = _beside(path)
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise _not_writable(path, error) from error
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path, marker: str) -> Iterator[Path]:
    """The same for a directory.

    Args:
        path: Where the directory shall be. One that is empty or holds `marker` is
            replaced.
        marker: Name of the file by which an older version is recognized.

    Yields:
        The directory to write to.

    Raises:
        ValueError: If nothing can be written at `path`, or something else is there.
    """
    path = path.resolve()
    _check_parent(path)
    if path.exists() and not (
        path.is_dir() and ((path / marker).exists() or not any(path.iterdir()))
    ):
        raise ValueError(
            f"'{path}' exists and holds no {marker}, so it is not replaced. Remove "
            "it, or pass another path."
        )
    temporary = _beside(path)
    try:
        temporary.mkdir()
    except OSError as error:
        raise _not_writable(path, error) from error
    try:
        yield temporary
        if not path.exists():
            os.replace(temporary, path)
            return
        # A directory that holds something can't be replaced in one step.
        older = _beside(path)
        os.replace(path, older)
        try:
            os.replace(temporary, path)
        except OSError:
            os.replace(older, path)
            raise
        shutil.rmtree(older)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
