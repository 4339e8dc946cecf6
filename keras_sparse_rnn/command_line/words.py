"""Words of a command line that are numbers."""

import argparse


def positive(word: str) -> int:
    """A positive integer."""
    number = _integer(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {word}")
    return number


def not_negative(word: str) -> int:
    """An integer from 0."""
    number = _integer(word)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {word}")
    return number


def share(word: str) -> float:
    """A number from 0, without it, to 1."""
    number = _float(word)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1], not be {word}")
    return number


def above_zero(word: str) -> float:
    """A number above 0."""
    number = _float(word)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {word}")
    return number


def _integer(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, not {word!r}") from None


def _float(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {word!r}") from None
