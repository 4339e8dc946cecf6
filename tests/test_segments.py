"""Windows and sizes of groups against the figures of Demeester et al. (CoNLL 2018)."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_sparse_rnn import GroupedLSTM
from keras_sparse_rnn.layers import segments

# fract 0.66666 in the paper's formula for the density of a target size (A1, A3).
F = 0.66666
AWD_MIDDLE = (F * F * 1725 + F * F * 1725 + 2 * F - 1725 / 3 - 2) / 1725
AWD_LAST = (F * 1725 + 400 + 2 - 400 / 2 - 2) / 1725


@pytest.mark.parametrize(
    ("inputs", "groups", "density", "expected"),
    [
        (1725, 3, 0.55515, [(0, 957), (383, 1341), (767, 1725)]),
        (1725, 3, AWD_MIDDLE, [(0, 957), (383, 1341), (767, 1725)]),
        (1725, 2, 0.7826, [(0, 1349), (375, 1725)]),
        (1725, 2, AWD_LAST, [(0, 1349), (375, 1725)]),
        (400, 3, 1.0, [(0, 400), (0, 400), (0, 400)]),
        (200, 4, 0.495, [(0, 99), (33, 132), (67, 166), (101, 200)]),
    ],
)
def test_windows_are_those_of_the_paper(inputs, groups, density, expected):
    assert segments.input_segments(inputs, groups, density) == expected


@pytest.mark.parametrize("width", [344, 343, 345])
def test_windows_have_the_width_the_density_means_despite_rounding(width):
    windows = segments.input_segments(1150, 5, width / 1150)
    assert [end - begin for begin, end in windows][::4] == [width, width]


@pytest.mark.parametrize(
    ("units", "groups", "expected"),
    [
        (1725, 3, [575, 575, 575]),
        (1150, 4, [287, 288, 287, 288]),
        (1150, 5, [230] * 5),
        (400, 2, [200, 200]),
        (5, 5, [1] * 5),
        (6, [1, 3, 2], [1, 3, 2]),
    ],
)
def test_group_sizes(units, groups, expected):
    sizes = segments.group_sizes(units, groups)
    assert sizes == expected
    ends = [sum(sizes[: g + 1]) for g in range(len(sizes))]
    begins = [0, *ends[:-1]]
    assert segments.output_segments(sizes) == list(zip(begins, ends, strict=True))


# PyTorch counts of the paper's tables, which hold two biases (A3, A5).
@pytest.mark.parametrize(
    ("inputs", "units", "groups", "density", "two_biases"),
    [
        (400, 1725, 3, 1.0, 6_741_300),
        (1725, 1725, 3, 0.55515, 10_589_200),
        (1725, 400, 2, 0.7826, 2_482_400),
        (200, 1150, 4, 0.495, 1_787_104),
        (1150, 1150, 5, 344 / 1150, 2_649_600),
        (1150, 200, 2, 675 / 1150, 621_600),
        (400, 1725, 1, 1.0, 14_676_300),
        (1725, 1725, 1, 1.0, 23_818_800),
    ],
)
def test_parameter_counts_are_those_of_the_paper(
    inputs, units, groups, density, two_biases
):
    layer = GroupedLSTM(
        units,
        groups,
        density,
        kernel_initializer="zeros",
        recurrent_initializer="zeros",
    )
    layer.build((None, None, inputs))
    assert layer.count_params() == two_biases - 4 * units


def shapes():
    """`(inputs, groups, density)` that a layer must accept."""
    return st.integers(1, 12).flatmap(
        lambda groups: st.tuples(
            st.integers(groups, 300),
            st.just(groups),
            st.floats(1 / groups, 1),
        )
    )


@given(shapes())
@settings(max_examples=300)
def test_windows_cover_every_input_in_order(shape):
    inputs, groups, density = shape
    if groups == 1:
        density = 1.0
    windows = segments.input_segments(inputs, groups, density)
    assert len(windows) == groups
    assert windows[0][0] == 0
    assert windows[-1][1] == inputs
    assert {i for begin, end in windows for i in range(begin, end)} == set(
        range(inputs)
    )
    assert windows == sorted(windows)
    for begin, end in windows:
        # Truncation moves either end by less than one input.
        assert abs((end - begin) - inputs * density) <= 1 + 1e-6


@given(st.integers(1, 20), st.integers(1, 30))
def test_windows_of_the_least_density_are_disjoint(groups, width):
    windows = segments.input_segments(groups * width, groups, 1 / groups)
    assert windows == [(g * width, (g + 1) * width) for g in range(groups)]


@given(st.integers(1, 20), st.data())
def test_windows_of_the_least_density_are_disjoint_for_any_width(groups, data):
    inputs = data.draw(st.integers(groups, 200))
    windows = segments.input_segments(inputs, groups, 1 / groups)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(windows))


@given(st.integers(1, 500), st.data())
def test_even_groups_differ_by_at_most_one_unit(units, data):
    groups = data.draw(st.integers(1, units))
    sizes = segments.group_sizes(units, groups)
    assert len(sizes) == groups
    assert sum(sizes) == units
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("units", "groups", "match"),
    [
        (4, 5, r"units=4, groups=5"),
        (4, 0, r"groups=0"),
        (4, -1, r"groups=-1"),
        (4, 2.0, r"groups=2.0"),
        (4, True, r"groups=True"),
        (4, "2", r"groups='2'"),
        (4, [], r"groups=\[\]"),
        (4, [2, 3], r"sums to 5"),
        (4, [4, 0], r"positive"),
        (0, 1, r"units=0"),
        (4.0, 1, r"units=4.0"),
    ],
)
def test_impossible_groups_are_named(units, groups, match):
    with pytest.raises(ValueError, match=match):
        GroupedLSTM(units, groups)


@pytest.mark.parametrize("density", [0.2, 0, 1.01, -1, float("nan"), "0.5", None, True])
def test_impossible_density_is_named(density):
    with pytest.raises(ValueError, match=r"input_density.*Received"):
        GroupedLSTM(8, 4, density)


def test_a_group_without_any_input_is_an_error():
    with pytest.raises(ValueError, match="no input"):
        GroupedLSTM(8, 4, 0.25).build((None, None, 3))


@pytest.mark.parametrize(
    ("windows", "match"),
    [
        ([(0, 2)], "1 segments for 2 groups"),
        ([(0, 2), (2, 2)], r"\(2, 2\)"),
        ([(0, 2), (-1, 2)], r"\(-1, 2\)"),
        ([(0, 2), (1.0, 2)], "integers"),
        ([(0, 2), (1, 2, 3)], "pair"),
    ],
)
def test_impossible_windows_are_named(windows, match):
    with pytest.raises(ValueError, match=match):
        GroupedLSTM(8, 2, input_segments=windows)


def test_a_window_beyond_the_inputs_is_named():
    layer = GroupedLSTM(8, 2, input_segments=[(0, 3), (3, 6)])
    with pytest.raises(ValueError, match="beyond the 5"):
        layer.build((None, None, 5))


def test_an_unknown_number_of_inputs_is_an_error():
    with pytest.raises(ValueError, match="number of input features"):
        GroupedLSTM(8, 2).build((None, None, None))
