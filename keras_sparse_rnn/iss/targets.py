"""What pruning goes for: a size of the model, in the measure the user thinks in."""

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_sparse_rnn.iss import ranking
from keras_sparse_rnn.iss.components import Family
from keras_sparse_rnn.iss.costs import Costs
from keras_sparse_rnn.iss.trace import Plan
from keras_sparse_rnn.layers.segments import positive

_SHARES = {"keep": "units", "keep_parameters": "parameters"}
_LIMITS = {"max_bytes": "bytes", "max_multiply_adds": "multiply_adds"}
_WORDS = {
    "units": "units that may be pruned",
    "parameters": "parameters",
    "bytes": "bytes",
    "multiply_adds": "multiply-adds a time step",
}


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        measure: `"units"`, `"parameters"`, `"bytes"`, `"multiply_adds"`, `"layers"`,
            or `"none"`: only what a regularizer has made zero goes.
        amount: The share to keep, or the most that may be left.
        sizes: Units to keep of each layer, by name.
    """

    measure: str
    amount: float = 1.0
    sizes: Mapping[str, int] | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "Target":
        """The target that is given among some arguments of `ISSPruning`.

        Args:
            arguments: `keep`, `keep_parameters`, `max_bytes`, `max_multiply_adds` and
                `units`, `None` for those that are not given.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        if len(given) > 1:
            raise ValueError(
                f"Give one target, one of {list(arguments)}. Received: {given}."
            )
        if not given:
            return cls("none")
        ((name, value),) = given.items()
        if name in _SHARES:
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not number or not 0 < value <= 1:
                raise ValueError(
                    f"`{name}` must lie in (0, 1]: it is the share of the "
                    f"{_SHARES[name]} to keep. Received: {name}={value!r}."
                )
            return cls(_SHARES[name], float(value))
        if name in _LIMITS:
            return cls(_LIMITS[name], positive(name, value))
        if not isinstance(value, Mapping) or not value:
            raise ValueError(
                "`units` must name layers and how many units to keep of each, as in "
                f"{{'lstm': 64}}. Received: units={value!r}."
            )
        sizes = {layer: positive("units", size) for layer, size in value.items()}
        return cls("layers", sizes=sizes)

    def __str__(self) -> str:
        if self.measure == "none":
            return "what the regularizer makes zero"
        if self.sizes is not None:
            return "units " + ", ".join(f"{k}: {v}" for k, v in self.sizes.items())
        if self.measure in _SHARES.values():
            return f"{100 * self.amount:.3g} % of the {_WORDS[self.measure]}"
        return f"{self.amount:,} {_WORDS[self.measure]}"


class Aim:
    """A target for one model: what to remove when it is some way there.

    Made with the model as it was at first; `move` tells of one that has become smaller.

    Args:
        target: The target.
        plan: The model's components.
        layer_floor: No layer keeps less than this share of its fair part.
        minimum: No layer keeps fewer units.
        round_to: What is left of each layer, of each group of a grouped one, is a
            multiple of this.
    """

    def __init__(
        self,
        target: Target,
        plan: Plan,
        layer_floor: float = 0.0,
        minimum: int = 1,
        round_to: int = 1,
    ):
        self.target = target
        self.round_to = round_to
        self.move(plan)
        self.all = self.measured([np.ones(f.units, bool) for f in plan.families])
        self._sizes = [
            [int((~f.fixed)[one.component].sum()) for one in f.layers]
            for f in plan.families
        ]
        self._check_names()
        self._check_minimum(minimum)
        share = self._even_share() if layer_floor else 0.0
        self._least = [
            [self._floor(layer_floor * share, size, minimum) for size in sizes]
            for sizes in self._sizes
        ]

    def move(self, plan: Plan) -> None:
        """Goes on with the same model, made smaller.

        Args:
            plan: Its components now.
        """
        self.plan = plan
        self.costs = Costs(plan)

    @property
    def goal(self) -> int:
        """The most that may be left, in the target's measure."""
        if self.target.measure in _SHARES.values():
            least = 1 if self.target.measure == "units" else 0
            return max(least, round(self.target.amount * self.all))
        return int(self.target.amount)

    @property
    def met_by_all(self) -> bool:
        """Whether the model is within a limit before anything is removed."""
        return self.target.measure in _LIMITS.values() and self.all <= self.goal

    def units(self, alive: Sequence[np.ndarray]) -> int:
        """How many of the units that may be pruned are left."""
        return sum(
            int((living & ~family.fixed)[layer.component].sum())
            for living, family in zip(alive, self.plan.families, strict=True)
            for layer in family.layers
        )

    def measured(self, alive: Sequence[np.ndarray]) -> int:
        """How much is left, in the target's measure."""
        if self.target.measure in ("units", "layers", "none"):
            return self.units(alive)
        return int(getattr(self.costs.total(self._stored(alive)), self.target.measure))

    def left(
        self,
        alive: Sequence[np.ndarray],
        progress: float,
    ) -> list[np.ndarray]:
        """Which units live once more are removed, the weakest first.

        Args:
            alive: Which live now.
            progress: From 0 to 1: how much of the way to the target to go.
        """
        plan = self.plan
        scores = self._scores()
        order = ranking.removals(
            plan.families, alive, scores, plan.windows, self._least, self.round_to
        )
        if self.target.measure == "none":
            dead = [one for one in order if one.score <= 0]
            return ranking.without(alive, dead)
        if self.target.sizes is not None:
            wanted = {
                key: round(full - (full - size) * progress)
                for key, (full, size) in self._wanted().items()
            }
            return ranking.by_layer(plan.families, alive, order, wanted)
        most = round(self.all - (self.all - self.goal) * progress)
        return ranking.until(alive, order, lambda some: self.measured(some) <= most)

    def missed(self, alive: Sequence[np.ndarray]) -> str:
        """By how much the target is missed, in words; empty if it is not."""
        if self.target.measure == "none":
            return ""
        if self.target.sizes is not None:
            counts = self._counts(alive)
            return ", ".join(
                f"{self._name(key)}: {counts[key]} units, not {size}"
                for key, (_, size) in self._wanted().items()
                if counts[key] > size
            )
        left = self.measured(alive)
        word = _WORDS[self.target.measure]
        return f"{left:,} {word}, not {self.goal:,}" if left > self.goal else ""

    # In the model as it is.

    def _scores(self) -> list[np.ndarray]:
        """How much each component is worth: 0 for what is dead already.

        Norms of components of many weights are larger for no better reason; over the
        root of their number they can be compared.
        """
        values = self.plan.values()
        return [
            np.where(
                family.dead(values),
                0.0,
                np.sqrt(
                    family.squared_norms(values) / np.maximum(family.first_sizes(), 1)
                ),
            )
            for family in self.plan.families
        ]

    def _stored(self, alive: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            living | family.fixed
            for living, family in zip(alive, self.plan.families, strict=True)
        ]

    def _name(self, key: tuple[int, int]) -> str:
        return self.plan.families[key[0]].layers[key[1]].name

    def _counts(self, alive: Sequence[np.ndarray]) -> dict[tuple[int, int], int]:
        """Units of each layer, with those that are fixed."""
        return {
            (number, one): int(stored[layer.component].sum())
            for number, (family, stored) in enumerate(
                zip(self.plan.families, self._stored(alive), strict=True)
            )
            for one, layer in enumerate(family.layers)
        }

    def _wanted(self) -> dict[tuple[int, int], tuple[int, int]]:
        """For each layer that is named, its size at first and the one wanted."""
        sizes = self.target.sizes or {}
        return {
            (number, one): (self._full[number][one], sizes[layer.name])
            for number, family in enumerate(self.plan.families)
            for one, layer in enumerate(family.layers)
            if layer.name in sizes
        }

    def _check_names(self) -> None:
        self._full = [
            [len(one.component) for one in family.layers]
            for family in self.plan.families
        ]
        known = {
            layer.name: size
            for family, sizes in zip(self.plan.families, self._full, strict=True)
            for layer, size in zip(family.layers, sizes, strict=True)
        }
        for name, size in (self.target.sizes or {}).items():
            if name not in known or size > known[name]:
                raise ValueError(
                    f"`units` asks for {size} units of '{name}', but the recurrent "
                    f"layers that pruning can follow, with their units, are {known}."
                )
            if size % self.round_to:
                raise ValueError(
                    f"`units` asks for {size} units of '{name}', which is no multiple "
                    f"of round_to={self.round_to}."
                )

    def _check_minimum(self, minimum: int) -> None:
        """Sees that no layer falls below its minimum when sizes become multiples."""
        for family, sizes in zip(self.plan.families, self._sizes, strict=True):
            for layer, free in zip(family.layers, sizes, strict=True):
                groups = [end - begin for begin, end in layer.segments]
                even = sum(n - n % self.round_to or n for n in groups)
                if even - (sum(groups) - free) < min(minimum, free):
                    raise ValueError(
                        f"'{layer.name}' has groups of {groups} units. In multiples of "
                        f"round_to={self.round_to} it can't keep minimum={minimum} of "
                        "those that may be pruned: give a lower minimum, or another "
                        "`round_to`."
                    )

    def _floor(self, share: float, size: int, minimum: int) -> int:
        # The product may lie a rounding error above the integer that is meant.
        return max(min(minimum, size), int(np.ceil(share * size - 1e-9)))

    def _even_share(self) -> float:
        """Which share of every layer would be left if all were pruned alike."""
        if self.target.measure == "units":
            return self.target.amount
        if self.target.measure in ("layers", "none"):
            return 0.0
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            alive = [_first_of(family, middle) for family in self.plan.families]
            if self.measured(alive) <= self.goal:
                low = middle
            else:
                high = middle
        return low


def _first_of(family: Family, share: float) -> np.ndarray:
    """The first components of a family: which ones does not matter for a count."""
    alive = np.zeros(family.units, bool)
    for layer in family.layers:
        own = np.unique(layer.component)
        alive[own[: round(share * len(own))]] = True
    return alive
