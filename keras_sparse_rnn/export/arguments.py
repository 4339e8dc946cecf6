"""Arguments of the exports, looked at before any work begins."""

from collections.abc import Sequence
from typing import Any


def check_positive(name: str, value: object) -> None:
    """Raises unless `value` is `None` or a positive integer."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer or None. Received: {name}={value!r}."
        )


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raises unless `value` is one of `choices`."""
    if not any(value is one or value == one for one in choices):
        shown = ", ".join(repr(one) for one in choices)
        raise ValueError(
            f"`{name}` must be one of {shown}. Received: {name}={value!r}."
        )
