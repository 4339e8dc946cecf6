"""What the command lines of the larger examples have in common."""

import argparse
from collections.abc import Collection
from pathlib import Path


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


def check_run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends with an error where seed, name or folder could be those of no run.

    Args:
        parser: What has read them.
        args: The arguments.
    """
    if args.seed is not None and not 0 <= args.seed < 2**32:
        parser.error(f"--seed must be 0 or more, and less than 2**32, not {args.seed}")
    if args.name is not None and Path(args.name).name != args.name:
        parser.error(f"--name names files in --out, and must be no path: {args.name!r}")
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out {args.out}: it is there, and no folder")
