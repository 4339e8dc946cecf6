"""Which units go next: one ranking over all layers, NumPy only."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from keras_sparse_rnn.iss.components import Family, protect

Living = list[np.ndarray]


@dataclass(frozen=True, eq=False)
class Quantum:
    """Components of one family that go together, so that sizes stay multiples.

    Attributes:
        score: Their mean score.
        family: Number of the family.
        components: Their indices.
        units: How many units each layer, `(family, number)`, loses with them.
    """

    score: float
    family: int
    components: np.ndarray
    units: dict[tuple[int, int], int]


def removals(
    families: Sequence[Family],
    alive: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    windows: Sequence[Sequence[tuple[int, int]]],
    least: Sequence[Sequence[int]],
    round_to: int = 1,
) -> list[Quantum]:
    """What can be removed, in the order in which it should go.

    Args:
        families: The components of each family.
        alive: Which of them live; those that are fixed may be among them or not.
        scores: The score of each; the lowest go first.
        windows: Sets of `(family, component)` of which at least one must live.
        least: For each layer of each family, how many of its units that are not fixed
            must live.
        round_to: What is left of each layer, of each group of a grouped one, is to be
            a multiple of this.

    Returns:
        The removals, weakest first; those that make a size a multiple before all.
    """
    ranks = [
        np.where(living & ~family.fixed, score, -np.inf)
        for family, living, score in zip(families, alive, scores, strict=True)
    ]
    safe = protect(ranks, windows)
    living = [one & ~family.fixed for family, one in zip(families, alive, strict=True)]
    # How many units of each layer live whatever goes.
    kept = {
        (number, one): int(np.count_nonzero(living[number][layer.component]))
        for number, family in enumerate(families)
        for one, layer in enumerate(family.layers)
    }
    found = []
    for number, family in enumerate(families):
        for cell, each, common in _cells(family):
            step = round_to // math.gcd(round_to, common)
            stays = alive[number][cell] | family.fixed[cell]
            loose = cell[stays & ~family.fixed[cell] & ~safe[number][cell]]
            loose = loose[np.argsort(ranks[number][loose], kind="stable")]
            first = int(np.count_nonzero(stays)) % step
            begin = 0
            while begin < len(loose):
                size = first if first and not begin else step
                some = loose[begin : begin + size]
                if len(some) < size:
                    break
                uneven = size != step
                score = -math.inf if uneven else float(ranks[number][some].mean())
                units = {(number, one): count * size for one, count in each.items()}
                for key, count in units.items():
                    kept[key] -= count
                found.append(Quantum(score, number, some, units))
                begin += size
    return _above(sorted(found, key=lambda one: one.score), kept, least)


def _above(
    order: Sequence[Quantum],
    kept: dict[tuple[int, int], int],
    least: Sequence[Sequence[int]],
) -> list[Quantum]:
    """Those removals after which every layer has enough units; the strongest stay.

    Whole removals are given up, so that sizes are still multiples.

    Args:
        order: The removals, weakest first.
        kept: How many units of each layer live if all go.
        least: How many of each layer must.
    """
    left = dict(kept)
    found = []
    for one in reversed(order):
        short = any(left[key] < least[key[0]][key[1]] for key in one.units)
        if short and one.score > -math.inf:
            for key, count in one.units.items():
                left[key] += count
        else:
            found.append(one)
    return found[::-1]


def _cells(family: Family) -> list[tuple[np.ndarray, dict[int, int], int]]:
    """Components with as many units in each group.

    Returns:
        For each kind the components, how many units each has in each layer, and the
        greatest common divisor of how many it has in each group.
    """
    groups = [
        (number, np.bincount(layer.component[begin:end], minlength=family.units))
        for number, layer in enumerate(family.layers)
        for begin, end in layer.segments
    ]
    kinds, cell = np.unique(
        np.stack([units for _, units in groups]), axis=1, return_inverse=True
    )
    found = []
    for one, kind in enumerate(kinds.T):
        each: dict[int, int] = {}
        for (number, _), units in zip(groups, kind.tolist(), strict=True):
            if units:
                each[number] = each.get(number, 0) + units
        common = int(np.gcd.reduce(kind))
        found.append((np.flatnonzero(np.ravel(cell) == one), each, common))
    return found


def without(alive: Sequence[np.ndarray], removed: Sequence[Quantum]) -> Living:
    """`alive` after some removals."""
    left = [living.copy() for living in alive]
    for one in removed:
        left[one.family][one.components] = False
    return left


def until(
    alive: Sequence[np.ndarray],
    order: Sequence[Quantum],
    fits: Callable[[Living], bool],
) -> Living:
    """The fewest removals, in order, after which a model fits.

    Args:
        alive: Which components of each family live.
        order: What can be removed.
        fits: Whether a choice of components is small enough; true of every smaller
            one too.

    Returns:
        Which live then; if it never fits, what all removals leave. What makes sizes
        multiples goes in any case.
    """
    uneven = sum(one.score == -math.inf for one in order)
    low, high = uneven, len(order)
    while low < high:
        middle = (low + high) // 2
        if fits(without(alive, order[:middle])):
            high = middle
        else:
            low = middle + 1
    return without(alive, order[:low])


def by_layer(
    families: Sequence[Family],
    alive: Sequence[np.ndarray],
    order: Sequence[Quantum],
    wanted: dict[tuple[int, int], int],
) -> Living:
    """Removes units in order, of each layer down to a size of its own.

    Args:
        families: The components of each family.
        alive: Which of them live.
        order: What can be removed.
        wanted: Units left of each layer, `(family, number)`; a layer that is not named
            loses none but those that are tied to units of one that is.
    """
    left = [living | f.fixed for living, f in zip(alive, families, strict=True)]
    counts = {
        (number, one): int(np.count_nonzero(left[number][layer.component]))
        for number, family in enumerate(families)
        for one, layer in enumerate(family.layers)
    }
    taken = []
    for one in order:
        named = [key for key in one.units if key in wanted]
        if named and all(counts[key] - one.units[key] >= wanted[key] for key in named):
            taken.append(one)
            for key, units in one.units.items():
                counts[key] -= units
    return without(alive, taken)
