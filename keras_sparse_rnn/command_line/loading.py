"""Keras files, loaded without running any code that they hold."""

import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_sparse_rnn.command_line.output import (
    CommandError,
    log_held_back,
    note,
    shortened,
)

_CONFIG = "config.json"
# Configurations beyond this are left to Keras, which has limits of its own.
_MOST_BYTES = 1 << 28


def check(path: Path, suffixes: tuple[str, ...]) -> str:
    """The kind of a file.

    Args:
        path: The file.
        suffixes: Those of the kinds that will do.

    Returns:
        Its suffix.

    Raises:
        CommandError: If there is no such file, it is empty, or of another kind.
    """
    if not path.exists():
        raise CommandError(f"'{path}' does not exist.")
    if path.is_dir():
        raise CommandError(f"'{path}' is a directory; name a file.")
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        hint = ""
        if suffix in (".h5", ".hdf5"):
            hint = " Load it in Python and save it with model.save('model.keras')."
        raise CommandError(
            f"'{path}' must end in {' or '.join(suffixes)}; nothing else is read.{hint}"
        )
    if path.stat().st_size == 0:
        raise CommandError(f"'{path}' is empty.")
    return suffix


def import_keras() -> None:
    """Imports Keras and its backend, and makes the layers of this package known to it.

    Which takes seconds, and would not be silent.
    """
    with log_held_back():
        import keras_sparse_rnn.iss  # noqa: F401


def load(path: Path, compiled: bool = False) -> Any:
    """The model in a `.keras` file.

    Keras's safe mode is on: a file that holds code is refused, and the code not run.

    Args:
        path: The file.
        compiled: Whether to load what it was compiled with, and the optimizer's state,
            where that is possible.

    Raises:
        CommandError: If the file can't be loaded.
    """
    check(path, (".keras",))
    config = _config(path)
    import_keras()
    import keras

    with warnings.catch_warnings():
        # Of what training needs and these commands do not.
        warnings.simplefilter("ignore")
        try:
            return keras.models.load_model(path, compile=compiled, safe_mode=True)
        except Exception as error:
            if compiled:
                # A loss or an optimizer that is not known is no reason to give up.
                model = load(path)
                note(f"'{path}' can't be compiled as it was, and is not compiled.")
                return model
            raise CommandError(_reason(path, config, error)) from error


def _config(path: Path) -> Any:
    """What a file says of its layers.

    Raises:
        CommandError: If it is not whole.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if _CONFIG not in archive.namelist():
                raise CommandError(f"'{path}' is no Keras file: it has no {_CONFIG}.")
            if archive.getinfo(_CONFIG).file_size > _MOST_BYTES:
                return {}
            return json.loads(archive.read(_CONFIG))
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise CommandError(
            f"'{path}' is no Keras file, or was cut short or changed. Copy or save it "
            "again."
        ) from error


def _reason(path: Path, config: Any, error: Exception) -> str:
    says = str(error)
    code = [
        f"layer '{name}'"
        for name, one in _objects(config)
        if one.get("class_name") in ("__lambda__", "TFSMLayer")
    ]
    if code or "safe_mode" in says:
        where = f" in {', '.join(dict.fromkeys(code))}" if code else ""
        return (
            f"'{path}' holds code{where}, which this program does not run. If you "
            "trust it, load it in Python with keras.models.load_model(…, "
            "safe_mode=False), and go on there."
        )
    unknown = _unknown(config)
    found = re.search(r"Could not locate \w+ '([^']+)'", says)
    if not unknown and found:
        unknown = [found[1]]
    if unknown:
        return (
            f"'{path}' needs what this program does not know: {', '.join(unknown)}. "
            "In Python, define it, register it with "
            "keras.saving.register_keras_serializable, and go on there."
        )
    return f"'{path}' can't be loaded. {type(error).__name__}: {shortened(says)}"


def _objects(config: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object in a configuration, with the name of the layer that it is in."""
    if isinstance(config, dict):
        inner = config.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            name = inner["name"]
        if "class_name" in config:
            yield name, config
        for one in config.values():
            yield from _objects(one, name)
    elif isinstance(config, list):
        for one in config:
            yield from _objects(one, name)


def _unknown(config: Any) -> list[str]:
    """The classes and functions that a user would have to register."""
    import keras

    found = []
    for _, one in _objects(config):
        registered, module = one.get("registered_name"), one.get("module")
        if not isinstance(registered, str) or str(module).split(".")[0] == "keras":
            continue
        if keras.saving.get_registered_object(registered) is None:
            found.append(registered)
    return list(dict.fromkeys(found))
