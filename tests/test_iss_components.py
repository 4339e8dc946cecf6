"""Sizes and norms of components against the counts of Wen et al. (ICLR 2018), C1."""

import keras
import numpy as np
import pytest
from chains import chain, component, kill, norms, recurrent_of
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from keras_sparse_rnn.iss.components import Family, Part, kept_along, protect
from keras_sparse_rnn.iss.trace import trace


def family(units, inputs, reads):
    """One LSTM layer whose units are read by a matrix with `reads` columns."""
    own = np.arange(units)
    columns = np.tile(own, 4)
    return Family(
        "lstm",
        units,
        parts=[
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


def test_sizes_of_the_papers_language_model():
    def lstm(name):
        return layers.LSTM(
            1500,
            return_sequences=True,
            recurrent_initializer="zeros",  # An orthogonal one takes seconds.
            name=name,
        )

    model = keras.Sequential(
        [
            keras.Input((35,), dtype="int32"),
            layers.Embedding(10_000, 1500, embeddings_initializer="zeros"),
            layers.Dropout(0.4),
            lstm("first"),
            layers.Dropout(0.4),
            lstm("second"),
            layers.Dropout(0.4),
            layers.Dense(10_000, kernel_initializer="zeros"),
        ]
    )
    first, second = trace(model).families
    assert (first.name, set(first.sizes("paper"))) == ("first", {24_000})
    assert (second.name, set(second.sizes("paper"))) == ("second", {28_000})
    # The four weights from a unit to itself are counted twice in the paper's sum.
    assert set(first.sizes()) == {23_996}
    assert set(second.sizes()) == {27_996}


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
        assert found.name == layer.name
        assert [one.layer for one in found.layers] == [layer.cell]
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
    chosen = np.array([4, 0, 3])
    part = layer.subset(chosen)
    assert part.units == 3
    # Crossings and all: the norm of a unit does not depend on the other units.
    np.testing.assert_allclose(
        part.squared_norms(values), layer.squared_norms(values)[chosen]
    )
    assert part.sizes().tolist() == layer.sizes()[chosen].tolist()
    assert layer.subset(np.array([], int)).units == 0


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
    members = [(f, u) for f, size in enumerate(sizes) for u in range(size)]
    windows = draw(st.lists(st.lists(st.sampled_from(members), min_size=1), max_size=3))
    return scores, windows


@given(pools())
@settings(max_examples=150)
def test_protection_holds_one_of_each_window_and_no_more(pool):
    scores, windows = pool
    safe = protect(scores, windows)
    assert [mask.shape for mask in safe] == [score.shape for score in scores]
    for window in windows:
        assert [scores[f][unit] for f, unit in window if safe[f][unit]]
    assert sum(int(mask.sum()) for mask in safe) <= len(windows)


def test_of_a_window_the_best_stays():
    scores = [np.array([1.0, 5.0]), np.array([3.0, 9.0])]
    safe = protect(scores, [[(0, 0), (0, 1), (1, 0)]])
    assert [mask.tolist() for mask in safe] == [[False, True], [False, False]]


def test_what_is_fixed_is_never_dead():
    layer = family(2, 3, 2)
    values = {part.variable: np.zeros(part.shape) for part in layer.parts}
    layer.fixed[1] = True
    assert layer.dead(values).tolist() == [True, False]


def test_what_is_read_without_weights_is_dead_only_if_nothing_enters_it():
    layer = family(2, 3, 2)
    values = {part.variable: np.zeros(part.shape) for part in layer.parts}
    values[2] = np.array([0.0, 1, 0, 0, 0, 0, 0, 0])
    assert layer.dead(values).tolist() == [True, True]
    layer.summed[:] = True
    assert layer.dead(values).tolist() == [True, False]
