"""`inspect`: what is in a model, and what it costs."""

import argparse
import sys
from pathlib import Path
from typing import Any

from keras_sparse_rnn.command_line import keras_file, loading, tflite_file
from keras_sparse_rnn.command_line.output import (
    PROGRAM,
    CommandError,
    as_json,
    shortened,
    tell,
)

_TEXT = """\
Shows what is in models.

.keras files: for each layer its class, groups and tiers, units alive (a unit
is dead when all weights that leave it are zero: `shrink --dead` would remove
it), parameters, multiply-adds for one token and bytes. .tflite files: inputs,
outputs and states, operations, stored weights, and which of LiteRT's runtimes
run the file."""
_EXAMPLE = f"""\
example:
  {PROGRAM} inspect model.keras model.tflite"""


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command to a parser's."""
    parser = commands.add_parser(
        "inspect",
        parents=[common],
        help="what is in a .keras or .tflite file, and what it costs",
        description=_TEXT,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Inspects each file; one that can't be read does not keep the others from it."""
    found, texts, status = [], [], 0
    for path in arguments.files:
        try:
            if loading.check(path, (".keras", ".tflite")) == ".keras":
                tell(arguments, f"loading Keras and {path}")
                facts = keras_file.facts(path)
                text = keras_file.text(facts)
            else:
                tell(arguments, f"reading {path} and trying it in LiteRT's runtimes")
                facts = tflite_file.facts(path)
                text = tflite_file.text(facts)
        except (CommandError, ValueError, OSError) as error:
            print(f"{PROGRAM}: error: {shortened(str(error))}", file=sys.stderr)
            status = 1
            continue
        found.append(facts)
        texts.append("\n".join(text))
    if arguments.json:
        print(as_json({"files": found}))
    elif texts:
        print("\n\n".join(texts))
    return status
