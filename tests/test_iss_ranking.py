"""Which units go next, against plain loops over all of them."""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_sparse_rnn.iss import ranking
from keras_sparse_rnn.iss.components import Family, LayerUnits

SETTINGS = st.integers(0, 2**32 - 1)


@dataclass
class Case:
    """Some families, half pruned."""

    families: list[Family]
    alive: list[np.ndarray]
    scores: list[np.ndarray]
    windows: list[list[tuple[int, int]]]
    least: list[list[int]]

    def removals(self, round_to=1):
        return ranking.removals(
            self.families, self.alive, self.scores, self.windows, self.least, round_to
        )

    def loose(self, number):
        """Components that live and are not fixed."""
        return self.alive[number] & ~self.families[number].fixed

    def groups(self):
        """`(family, layer, components)` of each group of each layer."""
        for number, family in enumerate(self.families):
            for one, layer in enumerate(family.layers):
                for begin, end in layer.segments:
                    yield number, one, layer.component[begin:end]


def cut(rng, units):
    """Groups of some units, one after the other."""
    count = int(rng.integers(1, min(3, units) + 1))
    ends = np.sort(rng.choice(np.arange(1, units), count - 1, replace=False))
    edges = [0, *ends.tolist(), units]
    return [*itertools.pairwise(edges)]


def draw(seed, tied=True, frozen=True):
    """Random families of one layer, or of two that share some components."""
    rng = np.random.default_rng(seed)
    families, windows, least = [], [], []
    for number in range(rng.integers(1, 4)):
        units = int(rng.integers(2, 14))
        members = [np.arange(units)]
        if tied and rng.random() < 0.6:
            # The second layer shares some, in another order, and may have two units
            # of one component.
            shared = rng.choice(units, rng.integers(1, units + 1), replace=False)
            own = np.arange(units, units + rng.integers(0, 5))
            twice = shared[: rng.integers(0, len(shared) + 1)]
            members.append(rng.permutation(np.concatenate([shared, own, twice])))
            units += len(own)
        family = Family(f"f{number}", units)
        for one, component in enumerate(members):
            name = f"f{number}.{one}"
            groups = cut(rng, len(component))
            family.layers.append(LayerUnits(name, None, component, groups))
        if frozen and rng.random() < 0.4:
            family.fixed[rng.choice(units, rng.integers(1, units + 1))] = True
        families.append(family)
        least.append([int(rng.integers(0, len(m) + 2)) for m in members])
    case = Case(families, [], [], windows, least)
    for number, _, component in case.groups():
        if not families[number].fixed[component].any():
            windows.append([(number, int(c)) for c in np.unique(component)])
    free = [(n, c) for n, f in enumerate(families) for c in np.flatnonzero(~f.fixed)]
    if tied and free:
        some = rng.choice(len(free), rng.integers(1, len(free) + 1), replace=False)
        windows.append([free[i] for i in some])
    total = sum(family.units for family in families)
    # No two alike, so that there is one right order.
    every = iter(rng.permutation(total) + rng.random())
    for family in families:
        case.scores.append(np.array([next(every) for _ in range(family.units)]))
        case.alive.append(rng.random(family.units) < rng.choice([0.4, 0.9]))
    for window in windows:
        number, component = window[rng.integers(len(window))]
        case.alive[number][component] = True
    return case


def units_of(case, number, layer, living):
    """How many units of a layer are of living components that are not fixed."""
    family = case.families[number]
    return int((living & ~family.fixed)[family.layers[layer].component].sum())


def holds(case, alive, order=()):
    """Whether floors and windows that held still do, and what is fixed lives.

    What makes sizes multiples goes whatever the floors are.
    """
    uneven = [one for one in order if one.score == -math.inf]
    even = ranking.without(case.alive, uneven)
    for number, family in enumerate(case.families):
        before = case.loose(number)
        now = alive[number] & ~family.fixed
        assert not (now & ~before).any()
        fixed = case.alive[number] & family.fixed
        assert (alive[number] & family.fixed == fixed).all()
        for layer, count in enumerate(case.least[number]):
            most = units_of(case, number, layer, even[number])
            assert units_of(case, number, layer, alive[number]) >= min(count, most)
    for window in case.windows:
        assert any(alive[number][component] for number, component in window)


def strongest_of_windows(case):
    """`(family, component)` of the strongest of each window."""
    found = set()
    for window in case.windows:
        living = [(n, c) for n, c in window if case.loose(n)[c]]
        if not found & set(window):
            found.add(max(living, key=lambda one: case.scores[one[0]][one[1]]))
    return found


@settings(max_examples=100)
@given(SETTINGS)
def test_the_weakest_go_first_and_what_stays_stays_for_a_reason(seed):
    case = draw(seed)
    order = case.removals()
    assert all(len(one.components) == 1 for one in order)
    scores = [case.scores[one.family][one.components[0]] for one in order]
    assert scores == [one.score for one in order] == sorted(scores)
    for count in range(len(order) + 1):
        holds(case, ranking.without(case.alive, order[:count]))
    left = ranking.without(case.alive, order)
    safe = strongest_of_windows(case)
    for number, family in enumerate(case.families):
        stays = np.flatnonzero(left[number] & ~family.fixed)
        for component in set(stays.tolist()):
            stronger = np.zeros(family.units, bool)
            for other in stays:
                better = case.scores[number][other] > case.scores[number][component]
                stronger[other] = better or (number, other) in safe
            # Without it some layer of its own would have too few.
            assert (number, component) in safe or any(
                component in layer.component
                and units_of(case, number, one, stronger) < case.least[number][one]
                for one, layer in enumerate(family.layers)
            )


@settings(max_examples=100)
@given(SETTINGS)
def test_each_removal_says_how_many_units_each_layer_loses(seed):
    case = draw(seed)
    for round_to in (1, 2):
        for one in case.removals(round_to):
            for number, layer in enumerate(case.families[one.family].layers):
                inside = np.isin(one.components, layer.component)
                assert inside.all() or not inside.any()
                lost = int(np.isin(layer.component, one.components).sum())
                assert one.units.get((one.family, number), 0) == lost


@settings(max_examples=100)
@given(SETTINGS, st.integers(2, 5))
def test_sizes_become_multiples_wherever_they_can(seed, round_to):
    case = draw(seed)
    order = case.removals(round_to)
    assert [one.score for one in order] == sorted(one.score for one in order)
    uneven = [one for one in order if one.score == -math.inf]
    assert order[: len(uneven)] == uneven
    # What could go one by one if there were no floors.
    free = dataclasses.replace(case, least=[[0, 0] for _ in case.families])
    may_go = {(one.family, one.components[0]) for one in free.removals()}
    for count in range(len(order) + 1):
        alive = ranking.without(case.alive, order[:count])
        holds(case, alive, order)
        if count < len(uneven):
            continue
        for number, family in enumerate(case.families):
            stored = alive[number] | family.fixed
            short = [
                like
                for counts, like in kinds(case, number)
                if sum((number, c) in may_go for c in like)
                < over(stored_of(case, number, like), counts, round_to)
            ]
            for layer in family.layers:
                for begin, end in layer.segments:
                    own = layer.component[begin:end]
                    # Of some components that are in the same groups too few may go.
                    assert not stored[own].sum() % round_to or any(
                        np.isin(own, like).any() for like in short
                    )


def kinds(case, number):
    """The components of a family that have as many units in every group."""
    family = case.families[number]
    groups = [own for f, _, own in case.groups() if f == number]
    found: dict[Any, list[int]] = {}
    for one in range(family.units):
        key = tuple(int((own == one).sum()) for own in groups)
        found.setdefault(key, []).append(one)
    return found.items()


def over(stored, counts, round_to):
    """How many components must go for their units to be a multiple everywhere."""
    return next(
        less
        for less in range(stored + 1)
        if all((stored - less) * count % round_to == 0 for count in counts)
    )


def stored_of(case, number, components):
    stored = case.alive[number] | case.families[number].fixed
    return int(stored[components].sum())


@settings(max_examples=100)
@given(SETTINGS, st.integers(1, 4))
def test_groups_of_layers_that_share_nothing_lose_whole_quanta(seed, round_to):
    case = draw(seed, tied=False)
    safe = strongest_of_windows(case)
    uneven, even = [], []
    for number, _, component in case.groups():
        own = [c for c in component.tolist() if case.loose(number)[c]]
        own = [c for c in own if (number, c) not in safe]
        own.sort(key=lambda c: case.scores[number][c])
        over = stored_of(case, number, component) % round_to
        if over > len(own):
            continue
        if over:
            uneven.append((-math.inf, number, own[:over]))
        own = own[over:]
        while len(own) >= round_to:
            score = sum(case.scores[number][c] for c in own[:round_to]) / round_to
            even.append((score, number, own[:round_to]))
            own = own[round_to:]
    expected = list(uneven)
    for number in range(len(case.families)):
        own = sorted(one for one in even if one[1] == number)
        lost = sum(len(one[2]) for one in uneven if one[1] == number)
        present = int(case.loose(number).sum()) - lost
        spare = max(0, present - case.least[number][0])
        expected += own[: spare // round_to]
    found = case.removals(round_to)
    assert sorted((n, c) for _, n, c in expected) == sorted(
        (one.family, one.components.tolist()) for one in found
    )
    np.testing.assert_allclose(
        sorted(score for score, _, _ in expected), [one.score for one in found]
    )


@settings(max_examples=100)
@given(SETTINGS, st.integers(1, 3), st.integers(0, 60))
def test_the_fewest_removals_after_which_it_fits(seed, round_to, limit):
    case = draw(seed)
    weights = [family.units - np.arange(family.units) for family in case.families]

    def fits(alive):
        return sum(w[a].sum() for w, a in zip(weights, alive, strict=True)) <= limit

    order = case.removals(round_to)
    expected = case.alive
    for count in range(len(order) + 1):
        expected = ranking.without(case.alive, order[:count])
        sure = count == len(order) or order[count].score > -math.inf
        if sure and fits(expected):
            break
    found = ranking.until(case.alive, order, fits)
    for ours, plain in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, plain)


@settings(max_examples=100)
@given(SETTINGS, st.integers(1, 3))
def test_each_layer_is_taken_down_to_its_own_size(seed, round_to):
    case = draw(seed)
    rng = np.random.default_rng(seed)
    sizes = {
        (number, one): len(layer.component)
        for number, family in enumerate(case.families)
        for one, layer in enumerate(family.layers)
    }
    wanted = {
        key: int(rng.integers(1, size + 1))
        for key, size in sizes.items()
        if rng.random() < 0.7
    }

    def units(alive, key):
        family = case.families[key[0]]
        stored = alive[key[0]] | family.fixed
        return sum(stored[c] for c in family.layers[key[1]].component)

    order = case.removals(round_to)
    expected = case.alive
    for one in order:
        after = ranking.without(expected, [one])
        lost = [key for key in wanted if units(after, key) < units(expected, key)]
        if lost and all(units(after, key) >= wanted[key] for key in lost):
            expected = after
    found = ranking.by_layer(case.families, case.alive, order, wanted)
    for ours, plain in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, plain)
    for key, size in wanted.items():
        assert units(found, key) >= min(size, units(case.alive, key))
    holds(case, found, order)


def test_nothing_is_changed_in_place():
    case = draw(1)
    before = [living.copy() for living in case.alive]
    order = case.removals()
    assert order
    ranking.without(case.alive, order)
    ranking.until(case.alive, order, lambda alive: False)
    ranking.by_layer(case.families, case.alive, order, {(0, 0): 1})
    for now, then in zip(case.alive, before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    ("round_to", "left"), [(1, [3, 4, 5, 6, 7]), (2, [4, 5, 6, 7]), (4, [4, 5, 6, 7])]
)
def test_by_hand(round_to, left):
    family = Family("lstm", 8)
    family.layers.append(LayerUnits("lstm", None, np.arange(8), [(0, 8)]))
    everything = [np.ones(8, bool)]
    scores = [np.arange(8.0)]
    windows = [[(0, unit) for unit in range(8)]]
    order = ranking.removals([family], everything, scores, windows, [[2]], round_to)
    (living,) = ranking.until(everything, order, lambda alive: alive[0].sum() <= 5)
    assert np.flatnonzero(living).tolist() == left
