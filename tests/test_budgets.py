"""Budgets against the tables of Demeester et al. (CoNLL 2018), counted by stock Keras.

The tables count PyTorch's two biases, and come from fractions such as 0.66666 where
`match_dense` is given whole sizes.
"""

import doctest
import math
from fractions import Fraction

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_sparse_rnn import GroupedLSTM
from keras_sparse_rnn.layers import budgets as module
from keras_sparse_rnn.layers import segments
from keras_sparse_rnn.layers.budgets import match_dense

layers = keras.layers
# What stock layers count, by the arguments of `match_dense`.
STOCK = {
    "lstm": ({}, lambda units: layers.LSTM(units)),
    "lstm, no bias": ({"biases": 0}, lambda units: layers.LSTM(units, use_bias=False)),
    "gru": ({"kind": "gru"}, lambda units: layers.GRU(units)),
    "gru, reset before": (
        {"kind": "gru", "biases": 1},
        lambda units: layers.GRU(units, reset_after=False),
    ),
    "simple": ({"kind": "simple_rnn"}, lambda units: layers.SimpleRNN(units)),
}


def windows(budget):
    return segments.input_segments(budget.inputs, budget.groups, budget.input_density)


def widths(budget):
    return [end - begin for begin, end in windows(budget)]


def papers(inputs, units, dense_inputs, dense_units):
    return match_dense(inputs, units, dense_inputs, dense_units, biases=2)


def stack(wide, dense):
    """The paper's budgets of the layers between two rows of widths."""
    sizes = zip(wide, wide[1:], dense, dense[1:], strict=False)
    return [papers(*four) for four in sizes]


# A3: three layers, the inner two 1.5 times wider.

AWD = stack([400, 1725, 1725, 400], [400, 1150, 1150, 400])


@pytest.mark.parametrize(
    ("layer", "groups", "density", "expected", "parameters", "target", "dense"),
    [
        (0, 3, 1.0, [(0, 400)] * 3, 6_741_300, 7_139_200, 14_676_300),
        (
            1,
            3,
            0.55515,
            [(0, 957), (383, 1341), (767, 1725)],
            10_589_200,
            10_589_200,
            23_818_800,
        ),
        # The paper's first window ends at 1349, one sooner: there 2/3 is 0.66666. Its
        # 2,482,400 parameters are 800 fewer than those to match.
        (2, 2, 0.7826, [(0, 1350), (375, 1725)], 2_483_200, 2_483_200, 3_403_200),
    ],
)
def test_language_model_of_the_paper(
    layer, groups, density, expected, parameters, target, dense
):
    budget = AWD[layer]
    assert budget.groups == groups
    assert budget.input_density == pytest.approx(density, abs=5e-5)
    assert windows(budget) == expected
    assert budget.parameters == parameters
    assert budget.target == target
    assert budget.dense_parameters == dense


def test_language_model_of_the_paper_has_2_percent_fewer_parameters():
    total = sum(budget.parameters for budget in AWD)
    target = sum(budget.target for budget in AWD)
    assert (total, target) == (19_812_900 + 800, 20_211_600)
    assert total / target == pytest.approx(0.98, abs=5e-4)
    around = 10_000 * 400 + 10_000 + 400
    assert f"{(total + around) / 1e6:.2f}" == "23.82"
    assert f"{(target + around) / 1e6:.3f}" == "24.222"


def test_groups_of_the_language_model_are_those_of_the_paper():
    assert [segments.group_sizes(b.units, b.groups) for b in AWD] == [
        [575] * 3,
        [575] * 3,
        [200] * 2,
    ]


# A5: learning to recite.

HALF_HIDDEN = stack([200, 1150, 1150, 200], [200, 575, 575, 200])
HALF_ALL = stack([400, 1150, 1150, 400], [200, 575, 575, 200])
THIRD_HIDDEN = stack([133, 1150, 1150, 133], [133, 383, 383, 133])
THIRD_ALL = stack([400, 1150, 1150, 400], [133, 383, 383, 133])


@pytest.mark.parametrize(
    ("layer", "groups", "expected", "parameters"),
    [
        (0, 4, [(0, 99), (33, 132), (67, 166), (101, 200)], 1_787_104),
        (1, 5, 344, 2_649_600),
        (2, 2, 675, 621_600),
    ],
)
def test_half_the_hidden_units_of_the_paper(layer, groups, expected, parameters):
    budget = HALF_HIDDEN[layer]
    assert budget.groups == groups
    if isinstance(expected, list):
        assert windows(budget) == expected
    else:
        assert widths(budget) == [expected] * groups
    assert budget.parameters == parameters


# The table gives one width for each layer; truncation makes some windows one narrower.
@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        (HALF_ALL, [(5, 157, 230), (5, 344, 230), (5, 307, 80)]),
        (THIRD_ALL, [(10, 56, 115), (10, 139, 115), (10, 131, 40)]),
    ],
    ids=["half", "third"],
)
def test_all_layers_sparse_as_in_the_paper(budgets, expected):
    for budget, (groups, width, size) in zip(budgets, expected, strict=True):
        assert budget.groups == groups
        assert segments.group_sizes(budget.units, groups) == [size] * groups
        assert set(widths(budget)) <= {width - 1, width}
        assert width in widths(budget)


def test_a_third_of_the_hidden_units_of_the_paper():
    assert [budget.groups for budget in THIRD_HIDDEN] == [8, 10, 3]


# Rows of the paper's embedding blocks, 40 columns each (B1).
HALF_ROWS = [10000, 8316, 6916, 5751, 4783, 3978, 3309, 2752, 2289, 1906]
THIRD_ROWS = [10000, 7097, 5037, 3574, 2537, 1800, 1278, 907, 644, 459]


@pytest.mark.parametrize(
    ("budgets", "width", "embedding", "millions"),
    [
        (HALF_HIDDEN, 200, 10_000 * 200, "7.07"),
        (HALF_ALL, 400, sum(HALF_ROWS) * 40, "7.07"),
        (THIRD_HIDDEN, 133, 10_000 * 133, "3.59"),
        (THIRD_ALL, 400, sum(THIRD_ROWS) * 40, "3.59"),
    ],
    ids=["half hidden", "half all", "third hidden", "third all"],
)
def test_whole_models_have_the_size_of_the_papers_table(
    budgets, width, embedding, millions
):
    # The decoder is tied to the embedding: its bias, and a mixture weight that the
    # paper counts although it goes unused, come on top.
    around = embedding + 10_000 + width
    total = sum(budget.parameters for budget in budgets)
    assert f"{(total + around) / 1e6:.2f}" == millions
    if embedding == 10_000 * width:
        dense = sum(budget.target for budget in budgets)
        assert f"{(dense + around) / 1e6:.2f}" == millions


# Counts as Keras makes them.


def stock_count(make, inputs, units):
    layer = make(units)
    layer.build((None, None, inputs))
    return layer.count_params()


@pytest.mark.parametrize("kind", STOCK)
@pytest.mark.parametrize(
    "sizes", [(12, 30, 12, 20), (30, 30, 20, 20), (31, 17, 20, 13), (3, 24, 3, 12)]
)
def test_counts_are_those_of_stock_layers(kind, sizes):
    arguments, make = STOCK[kind]
    inputs, units, dense_inputs, dense_units = sizes
    budget = match_dense(*sizes, **arguments)
    assert budget.target == stock_count(make, dense_inputs, dense_units)
    assert budget.dense_parameters == stock_count(make, inputs, units)
    assert budget.parameters == sum(
        stock_count(make, width, size)
        for width, size in zip(
            widths(budget), segments.group_sizes(units, budget.groups), strict=True
        )
    )


@pytest.mark.parametrize("sizes", [(12, 30, 12, 20), (31, 17, 20, 13), (1, 9, 1, 6)])
def test_the_layer_made_from_a_budget_has_its_parameters(sizes):
    budget = match_dense(*sizes)
    layer = GroupedLSTM(budget.units, budget.groups, budget.input_density)
    layer.build((None, None, budget.inputs))
    assert layer.count_params() == budget.parameters


# What holds for all sizes.


def least_weights(inputs, units):
    """Weights of one gate, without biases, in groups of one unit."""
    return units + max(inputs, units)


@st.composite
def questions(draw, biases=1):
    """`(inputs, units, dense_inputs, dense_units)` that have an answer."""
    most = draw(st.sampled_from([12, 60, 400]))
    inputs, units, dense_inputs = (draw(st.integers(1, most)) for _ in range(3))
    needed = least_weights(inputs, units) + biases * units
    least = 1
    while least * (dense_inputs + least + biases) < needed:
        least += 1
    return inputs, units, dense_inputs, draw(st.integers(least, max(least, units)))


def two_biases(budget, density):
    """Parameters of a PyTorch LSTM for each group, were the density another."""
    cut = segments.input_segments(budget.inputs, budget.groups, density)
    sizes = segments.group_sizes(budget.units, budget.groups)
    return sum(
        4 * size * (end - begin + size + 2)
        for size, (begin, end) in zip(sizes, cut, strict=True)
    )


def narrowest(budget):
    return max(1 / budget.groups, 1 / budget.inputs)


@given(questions(biases=2))
@settings(max_examples=300)
def test_groups_are_the_fewest_that_the_formula_allows(sizes):
    budget = match_dense(*sizes, biases=2)
    inputs, units = budget.inputs, budget.units

    def least(groups):
        width = max(Fraction(inputs, groups), Fraction(1))
        return 4 * (width * units + Fraction(units**2, groups) + 2 * units)

    assert 1 <= budget.groups <= units
    assert least(budget.groups) <= budget.target
    if budget.groups > 1:
        assert least(budget.groups - 1) > budget.target


@given(questions())
@settings(max_examples=300)
def test_density_lies_in_its_range_and_every_group_sees_an_input(sizes):
    budget = match_dense(*sizes)
    assert narrowest(budget) <= budget.input_density <= 1
    assert min(widths(budget)) >= 1


@given(questions(biases=2), st.integers(0, 10**6))
@settings(max_examples=300)
def test_no_density_of_six_decimals_comes_nearer(sizes, millionths):
    budget = match_dense(*sizes, biases=2)
    assert budget.parameters == two_biases(budget, budget.input_density)
    low = math.ceil(narrowest(budget) * 10**6)
    density = (low + millionths * (10**6 - low) // 10**6) / 10**6
    missed = abs(two_biases(budget, density) - budget.target)
    assert missed >= abs(budget.difference)


@given(questions())
@settings(max_examples=300)
def test_the_budget_is_missed_by_less_than_one_input_more_or_all_inputs_are_seen(sizes):
    budget = match_dense(*sizes)
    assert (budget.note == "") == budget.exact == (budget.difference == 0)
    if "already" in budget.note or "dense layer" in budget.note:
        assert budget.input_density == 1
        assert budget.parameters < budget.target
    else:
        assert abs(budget.difference) < 4 * budget.units


@given(questions(biases=2))
@settings(max_examples=300)
def test_where_all_inputs_are_seen_one_group_fewer_holds_too_many(sizes):
    budget = match_dense(*sizes, biases=2)
    if "already" not in budget.note:
        return
    groups = budget.groups - 1
    assert groups >= 1
    cut = segments.input_segments(
        budget.inputs, groups, max(1 / groups, 1 / budget.inputs)
    )
    held = sum(
        4 * size * (end - begin + size + 2)
        for size, (begin, end) in zip(
            segments.group_sizes(budget.units, groups), cut, strict=True
        )
    )
    assert held > budget.target


@given(st.integers(1, 500), st.integers(1, 500), st.sampled_from(list(STOCK)))
def test_the_dense_layer_itself_is_one_group(inputs, units, kind):
    arguments, _ = STOCK[kind]
    budget = match_dense(inputs, units, inputs, units, **arguments)
    assert (budget.groups, budget.input_density) == (1, 1.0)
    assert budget.exact


@given(*[st.integers(1, 60)] * 4)
@settings(max_examples=300)
def test_errors_come_only_where_groups_of_one_unit_hold_too_many(
    inputs, units, dense_inputs, dense_units
):
    sizes = inputs, units, dense_inputs, dense_units
    least = 4 * (least_weights(inputs, units) + units)
    target = 4 * dense_units * (dense_inputs + dense_units + 1)
    if least <= target:
        match_dense(*sizes)
    else:
        with pytest.raises(ValueError, match=f"has {least:,}, and .* has {target:,}"):
            match_dense(*sizes)


@pytest.mark.parametrize(
    ("sizes", "groups", "density"),
    [((1, 96, 1, 64), 3, 1.0), ((2, 90, 2, 20), 29, 0.5), ((3, 60, 3, 24), 7, 0.54)],
)
def test_few_inputs_may_be_fewer_than_the_groups(sizes, groups, density):
    budget = match_dense(*sizes)
    assert budget.groups == groups
    assert budget.input_density == pytest.approx(density, abs=0.02)
    assert min(widths(budget)) >= 1


# What it says.


def test_says_that_the_budget_is_met():
    assert str(AWD[1]).startswith(
        "inputs=1725, units=1725, groups=3, input_density=0.5"
    )
    assert str(AWD[1]).endswith(
        ": 10,589,200 parameters, exactly those of the dense layer to match."
    )
    assert AWD[1].exact
    assert AWD[1].note == ""


def test_says_that_even_all_inputs_leave_some_of_the_budget():
    assert AWD[0].difference == -397_900
    assert (
        "6,741,300 parameters, 397,900 (5.6 %) fewer than the 7,139,200 of the dense "
        "layer to match. Every group sees every input already"
    ) in str(AWD[0])


def test_says_that_sizes_are_whole():
    budget = HALF_HIDDEN[0]
    assert not budget.exact
    assert (
        "1,787,104 parameters, 4 (0.00022 %) more than the 1,787,100 of the dense "
        "layer to match. Windows and groups have whole sizes"
    ) in str(budget)


def test_says_that_a_dense_layer_holds_no_more():
    budget = match_dense(8, 10, 8, 20)
    assert (budget.groups, budget.input_density) == (1, 1.0)
    assert "fewer than" in str(budget)
    assert "A dense layer of 10 units holds no more" in str(budget)


@pytest.mark.parametrize("sizes", [(10, 100, 10, 5), (400, 100, 1, 1), (1000, 9, 9, 9)])
def test_a_budget_that_nothing_meets_is_an_error_that_says_what_to_do(sizes):
    received = r"Received: inputs={}, units={}, dense_inputs={}, dense_units={}"
    with pytest.raises(ValueError, match=received.format(*sizes)) as error:
        match_dense(*sizes)
    assert "Choose fewer units" in str(error.value)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [0, -3, 2.5, True, None])
def test_impossible_sizes_are_named(place, value):
    sizes = [8, 8, 8, 8]
    sizes[place] = value
    name = ["inputs", "units", "dense_inputs", "dense_units"][place]
    with pytest.raises(ValueError, match=rf"^`{name}` .*Received: {name}={value}"):
        match_dense(*sizes)


@pytest.mark.parametrize("kind", ["LSTM", "rnn", None])
def test_impossible_kind_is_named(kind):
    with pytest.raises(ValueError, match=rf"'gru'.*Received: kind={kind!r}"):
        match_dense(8, 8, 8, 8, kind=kind)


@pytest.mark.parametrize("biases", [-1, 1.0, True, "1"])
def test_impossible_biases_are_named(biases):
    with pytest.raises(ValueError, match=rf"Received: biases={biases!r}"):
        match_dense(8, 8, 8, 8, biases=biases)


def test_a_budget_is_a_value():
    budget = match_dense(8, 12, 8, 8)
    assert budget == match_dense(8, 12, 8, 8)
    with pytest.raises(AttributeError):
        budget.groups = 1


def test_the_docstrings_example_gives_what_it_says():
    found = doctest.testmod(module, extraglobs={"GroupedLSTM": GroupedLSTM})
    assert found.attempted
    assert not found.failed
