"""`export`: a file for devices, or a directory for servers."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from keras_sparse_rnn.command_line import loading, words
from keras_sparse_rnn.command_line.output import (
    PROGRAM,
    CommandError,
    as_json,
    log_held_back,
    pairs,
    tell,
    warnings_as_notes,
)

_TEXT = """\
Writes a model as a TFLite file of builtin operations, checked in LiteRT's
runtimes against Keras, or, if OUT does not end in .tflite, as a TensorFlow
SavedModel."""
_EXAMPLE = f"""\
examples:
  {PROGRAM} export model.keras model.tflite --quantize dynamic
  {PROGRAM} export model.keras step.tflite --streaming states
  {PROGRAM} export model.keras serving/1

What each option means in full: help(keras_sparse_rnn.export_tflite) in Python."""
_FORMS = ("auto", "loop", "unrolled", "fused")
# Options that a SavedModel does not have.
_TFLITE_ONLY = (
    "lowering",
    "quantize",
    "target",
    "streaming",
    "time_steps",
    "representative_data",
    "max_error",
)
# Columns for the names in the table of a report.
_NAMES = 12
# Endings by which a user means a file, and not a directory.
_OTHER_FILES = (".keras", ".h5", ".hdf5", ".onnx", ".lite", ".pb", ".tfl")


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command to a parser's."""
    parser = commands.add_parser(
        "export",
        parents=[common],
        help="write a .keras file as TFLite or as a SavedModel",
        description=_TEXT,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="IN.keras")
    parser.add_argument("destination", type=Path, metavar="OUT")
    parser.add_argument(
        "--batch-size", type=words.positive, metavar="N", help="fix the batch size"
    )
    tflite = parser.add_argument_group("for .tflite files")
    tflite.add_argument(
        "--lowering",
        type=_lowering,
        action="append",
        metavar="[LAYER=]FORM",
        help=f"how recurrent layers are written: {', '.join(_FORMS)}; for one layer "
        "with its name, and so several times",
    )
    tflite.add_argument(
        "--quantize",
        choices=("float16", "dynamic", "int8"),
        help="smaller weights; int8 needs --representative-data",
    )
    tflite.add_argument(
        "--target",
        choices=("any", "interpreter", "micro"),
        help="where the file must run (default: any of LiteRT's runtimes)",
    )
    tflite.add_argument(
        "--streaming",
        choices=("states", "memory"),
        help="write one step of a stream, with its states as inputs and outputs or "
        "kept by the file",
    )
    tflite.add_argument(
        "--time-steps",
        type=words.positive,
        metavar="N",
        help="fix the number of time steps",
    )
    tflite.add_argument(
        "--representative-data",
        type=Path,
        metavar="FILE",
        help="typical inputs, examples along the first axis: one array as .npy, or "
        "one for each input by its name as .npz",
    )
    tflite.add_argument(
        "--max-error",
        type=words.above_zero,
        metavar="SHARE",
        help="how far outputs may be from Keras's, as a share of the largest",
    )
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Loads, exports and prints the report."""
    source, destination = arguments.source, arguments.destination
    suffix = destination.suffix.lower()
    given = {
        name: getattr(arguments, name)
        for name in _TFLITE_ONLY
        if getattr(arguments, name) is not None
    }
    if suffix != ".tflite" and given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        arguments.parser.error(
            f"{options}: for .tflite files only, and '{destination}' is none"
        )
    loading.check(source, (".keras",))
    if suffix in _OTHER_FILES:
        raise CommandError(
            f"'{destination}' is neither a .tflite file nor a directory for a "
            "SavedModel."
        )
    if "lowering" in given:
        given["lowering"] = _forms(given["lowering"])
    if "representative_data" in given:
        given["representative_data"] = _data(given["representative_data"])
    tell(arguments, f"loading Keras and {source}")
    loading.import_keras()
    with log_held_back():
        from keras_sparse_rnn.export import export_saved_model, export_tflite

    with warnings_as_notes():
        model = loading.load(source)
        tell(arguments, "converting, and checking against Keras")
        if suffix == ".tflite":
            report: Any = export_tflite(
                model, destination, batch_size=arguments.batch_size, **given
            )
        else:
            report = export_saved_model(
                model, destination, batch_size=arguments.batch_size
            )
    if arguments.json:
        print(as_json(report))
    else:
        # Each line is a name, in so many columns, and what is said of it.
        rows = [
            (line[:_NAMES].strip(), line[_NAMES:]) for line in str(report).splitlines()
        ]
        print("\n".join(pairs(rows)))
    return 0


def _lowering(word: str) -> tuple[str, str]:
    layer, _, form = word.rpartition("=")
    if form not in _FORMS:
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(_FORMS)}, with LAYER= before it for one layer, "
            f"not {word!r}"
        )
    return layer, form


def _forms(words: list[tuple[str, str]]) -> str | dict[str, str]:
    """As `export_tflite` takes them."""
    forms = dict(words)
    if list(forms) == [""]:
        return forms[""]
    if forms.pop("", "auto") != "auto":
        raise CommandError(
            "--lowering names a form for all layers and one for some; name the layers "
            "that are to have another than 'auto'."
        )
    return forms


def _data(path: Path) -> Any:
    """An array, or arrays by name."""
    kind = loading.check(path, (".npy", ".npz"))
    try:
        loaded = np.load(path, allow_pickle=False)
        if kind == ".npy":
            return loaded
        with loaded:
            arrays = dict(loaded)
    except Exception as error:
        raise CommandError(f"'{path}' can't be read as arrays: {error}") from error
    if not arrays:
        raise CommandError(f"'{path}' holds no array.")
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays
