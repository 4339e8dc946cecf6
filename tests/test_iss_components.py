"""Sizes and norms of components against the counts of Wen et al. (ICLR 2018), C1."""

import numpy as np
import pytest
from chains import chain, component, kill, norms, recurrent_of
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_sparse_rnn.iss.components import Family, Part, kept_along, protect
from keras_sparse_rnn.iss.trace import trace


def family(units, inputs, reads):
    """One LSTM layer whose units are read by a matrix with `reads` columns."""
    own = np.arange(units)
    columns = np.tile(own, 4)
    return Family(
        "lstm",
        units,
        [(0, units)],
        [
            Part(0, (inputs, 4 * units), 1, columns, "in"),
            Part(1, (units, 4 * units), 1, columns, "in"),
            Part(1, (units, 4 * units), 0, own, "out"),
            Part(2, (4 * units,), 0, columns, "bias"),
            Part(3, (units, reads), 0, own, "out"),
        ],
    )


@pytest.mark.parametrize(("reads", "paper"), [(6000, 24_000), (10_000, 28_000)])
def test_sizes_at_1500_units_are_those_of_the_paper(reads, paper):
    layer = family(1500, 1500, reads)
    assert set(layer.sizes("paper")) == {paper}
    # The four weights from a unit to itself are counted twice in the paper's sum.
    assert set(layer.sizes()) == {paper - 4}


CHAINS = {
    "stock": [6, 4],
    "grouped": [(6, 2, 0.6), (5, [1, 4], 1.0)],
    "stock then grouped": [6, (4, 2, 0.5)],
    "grouped then stock": [(6, 3, 1.0), 4],
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("use_bias", [True, False])
def test_norms_and_sizes_equal_a_recount(name, use_bias):
    model = chain(*CHAINS[name], use_bias=use_bias)
    plan = trace(model)
    values = plan.values()
    assert len(plan.families) == 2
    for found, (layer, readers) in zip(plan.families, recurrent_of(model), strict=True):
        assert found.layer == layer.name
        np.testing.assert_allclose(
            np.sqrt(found.squared_norms(values)), norms(layer, readers), rtol=1e-6
        )
        counted = [component(layer, readers, u).size for u in range(found.units)]
        assert found.sizes().tolist() == counted
        assert found.sizes("paper").tolist() == [size + 4 for size in counted]


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("columns", [True, False])
def test_dead_units_are_those_without_a_way_out(name, columns):
    model = chain(*CHAINS[name])
    for layer, readers in recurrent_of(model):
        kill(layer, readers, [0, 2], columns)
    plan = trace(model)
    for found in plan.families:
        assert np.flatnonzero(found.dead(plan.values())).tolist() == [0, 2]


@pytest.mark.parametrize("way_out", ["recurrent row", "reader"])
def test_one_weight_that_leaves_keeps_a_unit_alive(way_out):
    model = chain(4)
    ((layer, readers),) = recurrent_of(model)
    kill(layer, readers, [1, 3])
    target, position = (layer, 1) if way_out == "recurrent row" else (readers[0], 0)
    weights = target.get_weights()
    weights[position][3, 0] = 1e-30
    target.set_weights(weights)
    plan = trace(model)
    assert np.flatnonzero(plan.families[0].dead(plan.values())).tolist() == [1]


def test_a_unit_that_only_takes_in_is_dead_and_one_that_only_gives_is_not():
    layer = family(2, 3, 2)
    values = {
        0: np.ones((3, 8)),
        1: np.zeros((2, 8)),
        2: np.ones(8),
        3: np.array([[0.0, 0.0], [0.0, 1.0]]),
    }
    assert layer.dead(values).tolist() == [True, False]


def test_norm_of_an_empty_component_is_zero_and_not_below():
    layer = family(2, 3, 2)
    values = {0: np.zeros((3, 8)), 1: np.eye(2, 8), 3: np.zeros((2, 2))}
    np.testing.assert_array_equal(layer.squared_norms(values), [1.0, 1.0])


def test_subset_is_a_family_of_its_own():
    layer = family(6, 3, 2)
    rng = np.random.default_rng(0)
    values = {p.variable: rng.standard_normal(p.shape) for p in layer.parts}
    part = layer.subset(2, 5)
    assert part.units == 3
    # Crossings and all: the norm of a unit does not depend on the other units.
    np.testing.assert_allclose(
        part.squared_norms(values), layer.squared_norms(values)[2:5]
    )
    assert part.sizes().tolist() == layer.sizes()[2:5].tolist()


def test_kept_along_keeps_what_nobody_owns():
    part = Part(0, (4, 2), 0, np.array([-1, 0, 1, -1]), "out")
    kept = kept_along(part, np.array([False, True]))
    assert kept.tolist() == [True, False, True, True]


@st.composite
def pools(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    scores = [
        np.array(draw(st.lists(st.floats(-1, 9), min_size=n, max_size=n)))
        for n in sizes
    ]
    families = []
    for number, size in enumerate(sizes):
        cut = draw(st.integers(1, size))
        segments = [(0, cut), (cut, size)] if cut < size else [(0, size)]
        families.append(Family(str(number), size, segments))
    members = [(f, u) for f, size in enumerate(sizes) for u in range(size)]
    windows = draw(st.lists(st.lists(st.sampled_from(members), min_size=1), max_size=3))
    floors = [draw(st.integers(0, size)) for size in sizes]
    return scores, families, windows, floors


@given(pools())
@settings(max_examples=150)
def test_protection_holds_one_of_each_segment_and_window_and_the_floor(pool):
    scores, families, windows, floors = pool
    safe = protect(scores, families, windows, floors)
    for score, one, mask, floor in zip(scores, families, safe, floors, strict=True):
        assert mask.sum() >= floor
        if floor:
            assert score[mask].max() == score.max()
        for begin, end in one.segments:
            assert mask[begin:end].any()
            assert score[begin:end][mask[begin:end]].max() == score[begin:end].max()
    for window in windows:
        assert any(safe[f][unit] for f, unit in window)
