"""States that come into a file as inputs and leave it as outputs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

PREFIX = "state_"


class Carried:
    """The states of a model's recurrent layers while the model is called.

    A layer asks for its states where it would start from zeros, and hands them back
    at its end. A first call of the model, `recording`, finds out which there are.

    Args:
        each_call: Whether a layer that is called twice has states for each call, like
            two streams, or else goes on from the first call's in the second, as a
            stateful layer does.
        reserved: Names that other inputs and outputs of the file have.

    Attributes:
        shapes: Name and shape of each state, in the order of the layers' calls.
    """

    def __init__(self, each_call: bool, reserved: Iterable[str] = ()):
        self.each_call = each_call
        self._reserved = set(reserved)
        self.shapes: dict[str, tuple[Any, ...]] = {}
        self._keys: dict[tuple[int, int], list[str]] = {}
        self._values: dict[str, Any] = {}
        self._calls: dict[int, int] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While the model is called for the first time, with zeros for states."""
        with self.given({}):
            yield

    @contextmanager
    def given(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """While the model is called with states.

        Args:
            values: A tensor for each of `shapes`.

        Yields:
            A dictionary that holds the new ones afterwards.
        """
        self._values = dict(values)
        self._calls = {}
        yield self._values
        self._values = {}

    def take(self, layer: Any, states: Any, sizes: Any, zeros: Any) -> Any:
        """The states that a layer starts from, and what `put` wants to know of them.

        Args:
            layer: The layer.
            states: What its states are called.
            sizes: The width of each.
            zeros: `size -> zeros` of a state.
        """
        call = self._calls.get(id(layer), 0) if self.each_call else 0
        self._calls[id(layer)] = call + 1
        names = self._keys.get((id(layer), call))
        if names is None:
            names = [self._name(f"{PREFIX}{layer.name}_{state}") for state in states]
            self._keys[id(layer), call] = names
        for name, size in zip(names, sizes, strict=True):
            if name not in self._values:
                self._values[name] = zeros(size)
                self.shapes[name] = tuple(self._values[name].shape)
        return tuple(self._values[name] for name in names), names

    def put(self, names: list[str], states: Any) -> None:
        """The states that a layer leaves.

        Args:
            names: Of `take`.
            states: The tensors.
        """
        self._values.update(zip(names, states, strict=True))

    def _name(self, wanted: str) -> str:
        plain = "".join(c if c.isalnum() or c == "_" else "_" for c in wanted)
        name, count = plain, 1
        taken = {name for names in self._keys.values() for name in names}
        taken |= self._reserved
        while name in taken:
            count += 1
            name = f"{plain}_{count}"
        return name
