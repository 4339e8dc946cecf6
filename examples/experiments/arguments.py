"""What the command lines of the larger examples have in common."""

import argparse
from collections.abc import Collection


def refuse_others(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    name: str,
    allowed: Collection[str],
) -> None:
    """Ends with an error where an argument is given that does not go with another.

    Args:
        parser: What has read them.
        args: The arguments.
        name: The argument that stands for a whole list of runs, or of none.
        allowed: Those that go with it.
    """
    for other, value in vars(args).items():
        if other not in (name, *allowed) and value != parser.get_default(other):
            given = other if other == "configuration" else f"--{other}"
            parser.error(f"--{name} does not go with {given.replace('_', '-')}")
