"""Lengths of embedding vectors against the listing of the paper's own code (B1)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_sparse_rnn import TieredEmbedding
from keras_sparse_rnn.layers import tiers


def weights(blocks):
    return sum(rows * width for rows, width in blocks)


@pytest.mark.parametrize(
    ("density", "rows"),
    [
        (0.5, [10000, 8316, 6916, 5751, 4783, 3978, 3309, 2752, 2289, 1906]),
        (1 / 3, [10000, 7097, 5037, 3574, 2537, 1800, 1278, 907, 644, 459]),
    ],
)
def test_rows_of_the_language_model_are_those_of_the_paper(density, rows):
    blocks = tiers.blocks_from_density(10_000, 400, density, 10)
    assert blocks == [(n, 40) for n in rows]


@pytest.mark.parametrize(
    ("density", "last"), [(0.5, 8648), (0.25, 673), (0.2, 192), (0.15, 22), (0.1, 1)]
)
def test_last_rows_of_the_tagger_are_those_of_the_paper(density, last):
    blocks = tiers.blocks_from_density(43_815, 20, density, 20)
    assert [width for _, width in blocks] == [1] * 20
    assert blocks[-1][0] == last


@pytest.mark.parametrize(
    ("shape", "density", "expected"),
    [
        ((10_000, 400, 10), 0.5, 2_000_000),
        ((43_815, 20, 20), 0.25, 219_075),
        ((43_815, 20, 20), 0.1, 87_630),
        ((43_815, 20, 1), 1.0, 876_300),
    ],
)
def test_numbers_of_weights_are_those_of_the_paper(shape, density, expected):
    size, width, blocks = shape
    assert weights(tiers.blocks_from_density(size, width, density, blocks)) == expected
    layer = TieredEmbedding(
        size, width, density, blocks, embeddings_initializer="zeros"
    )
    layer.build()
    assert layer.count_params() == expected


def test_a_quarter_of_the_taggers_words_have_one_feature():
    found = tiers.tiers_from_blocks(tiers.blocks_from_density(43_815, 20, 0.2, 20))
    one = sum(size for size, width in found if width == 1)
    ten = sum(size for size, width in found if width >= 10)
    assert one / 43_815 == pytest.approx(0.25, abs=0.005)
    assert ten / 43_815 == pytest.approx(0.076, abs=0.0005)


@pytest.mark.parametrize(
    ("density", "blocks", "alpha"),
    [(0.5, 10, 0.832), (0.5, 20, 0.918), (0.25, 20, 0.8025), (0.2, 20, 0.7508)],
)
def test_reduction_factor_is_that_of_the_paper(density, blocks, alpha):
    assert tiers.reduction_factor(density, blocks) == pytest.approx(alpha, abs=5e-4)


def tables():
    """`(input_dim, output_dim, density, blocks)` that must be accepted."""
    return st.tuples(st.integers(1, 400), st.integers(2, 40)).flatmap(
        lambda shape: st.integers(2, shape[1]).flatmap(
            lambda blocks: st.tuples(
                st.just(shape[0]),
                st.just(shape[1]),
                st.floats(1 / blocks, 1),
                st.just(blocks),
            )
        )
    )


@given(tables())
@settings(max_examples=300)
def test_blocks_fall_and_keep_the_budget(table):
    input_dim, output_dim, density, blocks = table
    found = tiers.blocks_from_density(input_dim, output_dim, density, blocks)
    rows = [n for n, _ in found]
    assert rows[0] == input_dim
    assert rows == sorted(rows, reverse=True)
    assert min(rows) >= 1
    assert sum(width for _, width in found) <= output_dim
    # The paper's code rounds the last block's rows, and no block's to a fraction.
    widest = max(width for _, width in found)
    budget = density * input_dim * output_dim
    first = input_dim * found[0][1]
    assert weights(found) <= max(budget, first) + widest


@given(tables())
@settings(max_examples=200)
def test_tiers_are_the_same_table_as_blocks(table):
    input_dim, output_dim, density, blocks = table
    found = tiers.blocks_from_density(input_dim, output_dim, density, blocks)
    ranks = tiers.tiers_from_blocks(found)
    lengths = [width for size, width in ranks for _ in range(size)]
    assert lengths == [
        sum(width for rows, width in found if rank < rows) for rank in range(input_dim)
    ]
    assert weights(tiers.blocks_from_tiers(ranks, input_dim, output_dim)) == sum(
        lengths
    )


@st.composite
def falling_tiers(draw):
    widths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=6, unique=True))
    widths.sort(reverse=True)
    return [(draw(st.integers(1, 50)), width) for width in widths]


@given(falling_tiers())
@settings(max_examples=200)
def test_tiers_and_blocks_are_inverse(given_tiers):
    size = sum(n for n, _ in given_tiers)
    blocks = tiers.blocks_from_tiers(given_tiers, size, 60)
    assert tiers.tiers_from_blocks(blocks) == given_tiers
    assert weights(blocks) == sum(n * width for n, width in given_tiers)


@st.composite
def counted(draw):
    counts = draw(st.lists(st.integers(0, 10_000), min_size=1, max_size=80))
    output_dim = draw(st.integers(1, 32))
    blocks = draw(st.integers(1, 12))
    least = (output_dim // min(blocks, output_dim)) / output_dim
    density = draw(st.floats(least, 1))
    return sorted(counts, reverse=True), output_dim, density, blocks


@given(counted())
@settings(max_examples=150)
def test_tiers_from_counts_fall_within_the_budget(arguments):
    counts, output_dim, density, blocks = arguments
    found = tiers.tiers_from_counts(counts, output_dim, density, blocks)
    widths = [width for _, width in found]
    assert sum(size for size, _ in found) == len(counts)
    assert widths == sorted(set(widths), reverse=True)
    assert widths[0] <= output_dim
    used = sum(size * width for size, width in found)
    assert used <= density * len(counts) * output_dim + 1e-6


def test_words_of_one_count_get_one_length():
    counts = [900] * 3 + [100] * 20 + [1] * 77
    found = tiers.tiers_from_counts(counts, 40, 0.25)
    ends = [sum(size for size, _ in found[: i + 1]) for i in range(len(found))]
    assert set(ends) <= {3, 23, 100}


def test_counts_use_the_whole_budget_where_the_steps_allow():
    counts = [round(1e6 / rank) for rank in range(1, 2001)]
    found = tiers.tiers_from_counts(counts, 64, 0.3)
    used = sum(size * width for size, width in found) / (2000 * 64)
    assert 0.29 < used <= 0.3


@pytest.mark.parametrize(
    "counts",
    [
        1 / np.arange(1, 101) / 5.19,
        [5, 3] + [0] * 98,
        [0] * 100,
        np.arange(100, 0, -1, "uint8"),
        np.arange(100) < 7,
    ],
    ids=["shares", "zeros", "nothing", "unsigned", "seen or not"],
)
@pytest.mark.parametrize("density", [0.5, 1.0])
def test_counts_of_any_kind_use_what_the_steps_allow(counts, density):
    found = tiers.tiers_from_counts(counts, 8, density)
    used = sum(size * width for size, width in found)
    # Words of one count have one length, so up to a step may be left.
    assert 0.98 * density - 1 / 8 < used / 800 <= density


@pytest.mark.parametrize(("words", "width"), [(43_815, 20), (20_000, 100)])
def test_a_tenth_of_the_weights_is_not_a_tenth_of_each_vector(words, width):
    counts = 1e6 / np.arange(1, words + 1)
    found = tiers.tiers_from_counts(counts, width, 0.1)
    assert len(found) > 3
    blocks = tiers.blocks_from_density(words, width, 0.1)
    assert len(blocks) > 3


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"density": 0.0}, "density=0.0"),
        ({"density": 1.2}, "density=1.2"),
        ({"density": float("nan")}, "density=nan"),
        ({"density": "half"}, "density='half'"),
        ({"density": True}, "density=True"),
        ({"density": 0.1, "blocks": 5}, "density=0.1, blocks=5"),
        ({"density": 0.5, "blocks": 1}, "blocks=1"),
        ({"density": 0.5, "blocks": 0}, "blocks=0"),
        ({"density": 0.01}, "Raise `density`"),
        ({}, "Received none"),
        ({"blocks": 3}, "Received none"),
        ({"tiers": [(10, 8)], "density": 0.5}, "density=0.5"),
        ({"tiers": [(9, 8)]}, "hold 9 ids"),
        ({"tiers": [(5, 4), (5, 8)]}, "narrower"),
        ({"tiers": [(5, 4), (5, 4)]}, "narrower"),
        ({"tiers": [(10, 9)]}, "exceed `output_dim`"),
        ({"tiers": [(10, 0)]}, "positive"),
        ({"tiers": [(10, 8, 1)]}, "pair"),
        ({"tiers": [5, 5]}, "pair"),
        ({"tiers": []}, "Received"),
        ({"word_dropout": 1.0, "density": 1}, "word_dropout=1.0"),
        ({"dropout": -0.1, "density": 1}, "dropout=-0.1"),
        ({"lora_rank": 2, "density": 1}, "no LoRA.*lora_rank"),
    ],
)
def test_impossible_lengths_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        TieredEmbedding(10, 8, **arguments)


@pytest.mark.parametrize(
    ("counts", "arguments", "match"),
    [
        (
            [1, 2] * 5,
            {"density": 0.5},
            r"\[0\]=1 and counts\[1\]=2; 6 of 10 ids",
        ),
        ([0, 5, 9, 1], {"density": 0.5, "reserved": 1}, r"counts\[1\]=5.*2 of 4 ids"),
        ([-1] * 10, {"density": 0.5}, r"counts\[0\]=-1; 10 of 10 are not"),
        ([[1, 1]], {"density": 0.5}, r"shape \(1, 2\)"),
        ([3, 2], {"density": 0.5, "reserved": 2}, "0 to 1.*reserved=2"),
        ([3, 2], {"density": 0.5, "reserved": -1}, "reserved=-1"),
        ([3, 2], {"density": 0.5, "reserved": 1.0}, r"an integer.*reserved=1\.0"),
        ([3, float("nan")], {"density": 0.5}, r"counts\[1\]=nan"),
        ([float("inf"), 3], {"density": 0.5}, r"counts\[0\]=inf"),
        (["9", "3"], {"density": 0.5}, r"numbers.*counts=\['9', '3'\]"),
        ([[3], [2, 1]], {"density": 0.5}, r"numbers.*\[\[3\], \[2, 1\]\]"),
        ({3: 2}, {"density": 0.5}, r"numbers.*counts=\{3: 2\}"),
        ([1] * 10, {"density": 0.05}, "Raise `density`"),
        ([1] * 10, {}, "density=None, max_parameters=None"),
        ([1] * 10, {"density": 0.5, "max_parameters": 9}, "density=0.5, max_param"),
        ([1] * 10, {"max_parameters": 0}, "max_parameters=0"),
        ([1] * 10, {"density": 1.5}, "density=1.5"),
    ],
)
def test_impossible_counts_are_named(counts, arguments, match):
    with pytest.raises(ValueError, match=match):
        TieredEmbedding.from_counts(counts, 8, **arguments)


@pytest.mark.parametrize(
    ("counts", "reserved", "match"),
    [
        ([1, 2], 2, "reserved=2"),
        ([1, 2], True, "reserved=True"),
        ([], 0, r"shape \(0,\)"),
        (["b", "a"], 0, "must be a list or an array of numbers"),
        ([1, np.nan], 0, "finite"),
    ],
)
def test_an_order_of_impossible_counts_is_refused(counts, reserved, match):
    for function in (tiers.frequency_order, tiers.check_order):
        with pytest.raises(ValueError, match=match):
            function(counts, reserved)


def test_numbers_of_numpy_are_numbers():
    plain = tiers.geometric_tiers(1000, 64, 0.25, 2)
    for kind in (np.int64, np.float32):
        found = tiers.geometric_tiers(
            np.int32(1000), np.int64(64), np.float32(0.25), kind(2)
        )
        assert found == plain
        layer = TieredEmbedding(
            10, 8, density=1, word_dropout=kind(0), dropout=np.float32(0.5)
        )
        assert (layer.word_dropout, layer.dropout) == (0.0, 0.5)
    # Small integers would overflow.
    layer = TieredEmbedding(300, 8, tiers=np.array([[150, 8], [150, 1]], "uint8"))
    assert layer.tiers == [(150, 8), (150, 1)]


@given(st.lists(st.integers(0, 99), min_size=3, max_size=40), st.integers(0, 2))
@settings(max_examples=100)
def test_an_order_by_counts_is_one(counts, reserved):
    order = tiers.frequency_order(counts, reserved)
    assert sorted(order.tolist()) == list(range(len(counts)))
    assert order[:reserved].tolist() == list(range(reserved))
    seen = np.array(counts)[order]
    tiers.check_order(seen, reserved)
    # Of equal counts as they were.
    pairs = [(-counts[i], i) for i in order[reserved:]]
    assert pairs == sorted(pairs)
    if list(seen) != counts:
        with pytest.raises(ValueError, match="sorted from frequent to rare"):
            tiers.check_order(counts, reserved)


@given(
    st.integers(1, 5000),
    st.integers(1, 300),
    st.floats(0.01, 1),
    st.floats(1.1, 8),
)
@settings(max_examples=150)
def test_geometric_tiers_fall_within_the_budget(size, width, density, factor):
    narrowest = 1
    for steps in range(10):
        if width / factor**steps >= 1:
            narrowest = int(width / factor**steps)
    if narrowest * size > density * size * width:
        with pytest.raises(ValueError, match="Raise `density`"):
            tiers.geometric_tiers(size, width, density, factor)
        return
    found = tiers.geometric_tiers(size, width, density, factor)
    assert sum(n for n, _ in found) == size
    used = sum(n * w for n, w in found)
    assert used <= density * size * width + 1e-6
    # One word more in the tiers but the last would be too much, or so would rounding.
    assert used >= density * size * width - len(found) * width - 1
    widths = [w for _, w in found]
    assert widths == sorted(set(widths), reverse=True)


def test_geometric_tiers_are_geometric():
    found = tiers.geometric_tiers(100_000, 512, 0.2)
    assert [w for _, w in found] == [512, 128, 32, 8, 2]
    sizes = [n for n, _ in found]
    growth = np.divide(sizes[1:-1], sizes[:-2])
    np.testing.assert_allclose(growth, growth[0], rtol=1e-3)
    with pytest.raises(ValueError, match="`factor` must be a number above 1"):
        tiers.geometric_tiers(10, 8, 0.5, factor=1)


@pytest.mark.parametrize(("input_dim", "output_dim"), [(0, 4), (4, 0), (4.0, 4)])
def test_impossible_sizes_are_named(input_dim, output_dim):
    with pytest.raises(ValueError, match="positive integer"):
        TieredEmbedding(input_dim, output_dim, density=0.5)
