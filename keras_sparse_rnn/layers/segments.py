"""Which inputs and which outputs each group of a grouped layer owns.

Integers only: nothing here knows of tensors. A segment is a half-open range
`(begin, end)` along the feature axis.

Reference: Demeester et al., "Predefined Sparseness in Recurrent Sequence
Models", CoNLL 2018, section 3.1.
"""

import numbers
import operator
from collections.abc import Sequence

Segment = tuple[int, int]

# Products such as 200 * (1 - 0.495) land just under the integer they mean.
_ROUNDING = 1e-7

# With fewer groups, or larger ones, a product for each is as fast (benchmarks/).
_FEWEST_STACKED = 4
_LARGEST_STACKED = 16


def group_sizes(units: int, groups: int | Sequence[int]) -> list[int]:
    """The number of units of each group.

    Args:
        units: Positive integer, units of the whole layer.
        groups: Number of groups, which then differ by at most one unit; or the
            sizes themselves, positive integers that sum to `units`.

    Returns:
        A list with one positive integer for each group.
    """
    units = positive("units", units)
    if hasattr(groups, "__iter__") and not isinstance(groups, str):
        sizes = [positive("groups", size, shown=list(groups)) for size in groups]
        if not sizes or sum(sizes) != units:
            raise ValueError(
                "A list of `groups` holds the size of each group and must sum to "
                f"`units`. Received: units={units}, groups={sizes}, which sums to "
                f"{sum(sizes)}."
            )
        return sizes
    groups = positive("groups", groups)
    if groups > units:
        raise ValueError(
            "`groups` must not exceed `units`: every group needs at least one "
            f"unit. Received: units={units}, groups={groups}."
        )
    return [(g + 1) * units // groups - g * units // groups for g in range(groups)]


def output_segments(sizes: Sequence[int]) -> list[Segment]:
    """The disjoint output range of each group, in order.

    Args:
        sizes: Units of each group.

    Returns:
        One `(begin, end)` for each group; together they cover `sum(sizes)`.
    """
    segments = []
    begin = 0
    for size in sizes:
        segments.append((begin, begin + size))
        begin += size
    return segments


def worth_stacking(sizes: Sequence[int], calls_cost: bool) -> bool:
    """Whether one batched product of all groups is better than one for each.

    It measured better where groups are many and small, so that their number costs more
    than their arithmetic. A batched product wants groups of one size, so smaller ones
    are padded; that may add a quarter to the arithmetic, no more.

    Args:
        sizes: Units of each group.
        calls_cost: Whether the backend runs operation by operation, so that their
            number counts at any size.
    """
    largest = max(sizes)
    padded = 4 * len(sizes) * largest**2
    even_enough = padded <= 5 * sum(size**2 for size in sizes)
    if calls_cost:
        return even_enough and len(sizes) > 1
    return even_enough and len(sizes) >= _FEWEST_STACKED and largest <= _LARGEST_STACKED


def check_input_density(groups: int, input_density: float) -> float:
    """Returns `input_density` if `groups` windows of that share can cover all.

    Args:
        groups: Number of groups.
        input_density: Share of the inputs that each group sees.
    """
    if isinstance(input_density, bool) or not isinstance(input_density, numbers.Real):
        raise ValueError(
            "`input_density` must be a number, the share of the inputs that each "
            f"group sees. Received: input_density={input_density!r}."
        )
    # Written so that NaN fails, and so that 1/3 of 3 groups passes.
    if not (input_density * groups >= 1 - _ROUNDING and input_density <= 1):
        raise ValueError(
            "`input_density` must lie in [1/groups, 1], or some inputs would reach "
            f"no group. Received: input_density={input_density} with "
            f"groups={groups}, so choose from [{1 / groups:.6g}, 1]."
        )
    return float(input_density)


def input_segments(inputs: int, groups: int, input_density: float) -> list[Segment]:
    """The window of the inputs that each group sees.

    Windows are contiguous, all as wide as rounding allows
    (`inputs * input_density`), evenly spread, and overlap as the density asks:
    with density 1 every group sees everything, with density `1 / groups` the
    windows are disjoint.

    Args:
        inputs: Number of input features.
        groups: Number of groups.
        input_density: Share of the inputs each group sees, in `[1/groups, 1]`.

    Returns:
        One `(begin, end)` for each group. Their union is `(0, inputs)`.
    """
    check_input_density(groups, input_density)
    if groups == 1:
        return [(0, inputs)]
    width = inputs * input_density
    stride = (inputs - width) / (groups - 1)
    segments = [
        (int(g * stride + _ROUNDING), int(g * stride + width + _ROUNDING))
        for g in range(groups)
    ]
    segments[-1] = (segments[-1][0], inputs)
    empty = [g for g, (begin, end) in enumerate(segments) if begin >= end]
    if empty:
        raise ValueError(
            f"Groups {empty} would see no input at all: {inputs} inputs cannot be "
            f"shared out with input_density={input_density} over groups={groups}. "
            "Raise `input_density`, or use fewer groups."
        )
    return segments


def check_input_segments(
    segments: Sequence[Sequence[int]], groups: int
) -> list[Segment]:
    """Returns explicit input windows as tuples, or says what is wrong with them.

    Args:
        segments: One `(begin, end)` for each group.
        groups: Number of groups.
    """
    if not hasattr(segments, "__iter__") or isinstance(segments, str):
        raise ValueError(
            "`input_segments` must be a list with one (begin, end) for each group. "
            f"Received: input_segments={segments!r}."
        )
    checked: list[Segment] = []
    for segment in segments:
        pair = tuple(segment) if hasattr(segment, "__iter__") else ()
        if len(pair) != 2 or not all(hasattr(i, "__index__") for i in pair):
            raise ValueError(
                "Each of `input_segments` must be a pair of integers (begin, end). "
                f"Received: {segment!r}."
            )
        begin, end = (operator.index(i) for i in pair)
        if not 0 <= begin < end:
            raise ValueError(
                "Each of `input_segments` must be a range (begin, end) with "
                f"0 <= begin < end. Received: {segment!r}."
            )
        checked.append((begin, end))
    if len(checked) != groups:
        raise ValueError(
            "`input_segments` must hold one (begin, end) for each group. Received "
            f"{len(checked)} segments for {groups} groups."
        )
    return checked


def positive(name: str, value: object, shown: object = None) -> int:
    """Returns `value` as an `int`, or raises unless it is a positive integer.

    Args:
        name: What it is called in the message.
        value: What was given; NumPy's integers are integers too.
        shown: What to show in its place.
    """
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number <= 0:
        raise ValueError(
            f"`{name}` must be a positive integer. "
            f"Received: {name}={value if shown is None else shown!r}."
        )
    return number
