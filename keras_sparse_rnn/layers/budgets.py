"""How sparse a wider layer must be to have as many parameters as a dense one.

Numbers only: nothing here knows of tensors. With `G` gates, `B` bias vectors for each
gate, `I` inputs, `U` units in `N` groups and density `d`, a grouped layer has about
`G * (d * I * U + U² / N + B * U)` parameters. Set equal to those of a dense layer
this gives the fewest groups for which a density can be had, and that density.

Reference: Demeester et al., "Predefined Sparseness in Recurrent Sequence Models",
CoNLL 2018, section 3.1.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

from keras_sparse_rnn.layers import segments

# Gates, and the bias vectors of each in Keras.
_KINDS = {"lstm": (4, 1), "gru": (3, 2), "simple_rnn": (1, 1)}
# Densities are tried in steps of a millionth. Finer ones would find windows that only
# exist within rounding errors, and would not survive being printed.
_STEPS = 10**6


@dataclass(frozen=True)
class Budget:
    """A grouped layer that has, as nearly as it can, a given number of parameters.

    `str(budget)` says what it is and, where it misses the number, by how much and
    why.

    Attributes:
        inputs: Input features of the grouped layer.
        units: Units of all its groups together.
        groups: Number of groups, to pass on to the layer.
        input_density: Share of the inputs that each group sees, to pass on as it is:
            rounded further it may mean other windows.
        parameters: Parameters of the grouped layer, counted from its real windows and
            groups.
        target: Parameters of the dense layer to match.
        dense_parameters: Parameters of a dense layer of `inputs` and `units`.
    """

    inputs: int
    units: int
    groups: int
    input_density: float
    parameters: int
    target: int
    dense_parameters: int

    @property
    def difference(self) -> int:
        """Parameters beyond the target; negative if there are fewer."""
        return self.parameters - self.target

    @property
    def exact(self) -> bool:
        """Whether the target is met to the last parameter."""
        return self.difference == 0

    @property
    def note(self) -> str:
        """Why the target is missed, in words; empty if it is met exactly."""
        if self.exact:
            return ""
        if self.input_density < 1 or self.difference > 0:
            return (
                "Windows and groups have whole sizes, and no density of six decimals "
                "comes nearer."
            )
        if self.groups == 1:
            return (
                f"A dense layer of {self.units} units holds no more; only more units "
                "would use the rest."
            )
        return (
            "Every group sees every input already, and with one group fewer there "
            "would be too many however little each saw; only more units would use the "
            "rest."
        )

    def __str__(self) -> str:
        text = (
            f"inputs={self.inputs}, units={self.units}, groups={self.groups}, "
            f"input_density={self.input_density}: {self.parameters:,} parameters, "
        )
        if self.exact:
            return text + "exactly those of the dense layer to match."
        missed = abs(self.difference)
        word = "more" if self.difference > 0 else "fewer"
        return (
            text + f"{missed:,} ({100 * missed / self.target:.2g} %) {word} than the "
            f"{self.target:,} of the dense layer to match. {self.note}"
        )


def match_dense(
    inputs: int,
    units: int,
    dense_inputs: int,
    dense_units: int,
    kind: str = "lstm",
    biases: int | None = None,
) -> Budget:
    """Groups and density that give a wider layer the parameters of a dense one.

    The number of groups is the smallest that the budget allows, and the density is
    the share of the inputs that then uses it up, at most 1, both as in the paper. Since
    windows and groups have whole sizes, a density of six decimals takes the place of
    the paper's where its count comes nearer.

    Where every group sees every input and yet the budget is not used up, the layer has
    fewer parameters than the dense one. Everywhere else it has as many, or misses them
    by a little, above or below: by less than the `gates * units` parameters that one
    input more in every window costs. The result says which it is.

    Args:
        inputs: Input features of the wider layer.
        units: Units of the wider layer, all groups together.
        dense_inputs: Input features of the dense layer to match. They differ from
            `inputs` where the layer before is widened too.
        dense_units: Units of the dense layer to match.
        kind: `"lstm"`, `"gru"` or `"simple_rnn"`: how many gates there are, and how
            many bias vectors by default.
        biases: Bias vectors of each gate, where they are not Keras's default of 1, or
            2 for a GRU: 1 for a GRU with `reset_after=False`, 0 without a bias, 2 to
            count as PyTorch and the paper do.

    Returns:
        A `Budget`.

    Raises:
        ValueError: If a size is not a positive integer, or if even groups of one unit
            each, with the narrowest windows, have more parameters than the dense layer.

    Example:

    1.5 times wider:

    >>> budget = match_dense(128, 600, 128, 400)
    >>> budget.groups, budget.parameters, budget.target
    (3, 789600, 846400)
    >>> layer = GroupedLSTM(600, budget.groups, budget.input_density)

    A stack in which the two inner widths grow from 1150 to 1725:

    >>> wide, dense = [400, 1725, 1725, 400], [400, 1150, 1150, 400]
    >>> for sizes in zip(wide, wide[1:], dense, dense[1:]):
    ...     print(match_dense(*sizes).groups)
    3
    3
    2

    Reference:
        Demeester et al., [Predefined Sparseness in Recurrent Sequence Models](
        https://aclanthology.org/K18-1032), CoNLL 2018, section 3.1.
    """
    inputs = segments.positive("inputs", inputs)
    units = segments.positive("units", units)
    dense_inputs = segments.positive("dense_inputs", dense_inputs)
    dense_units = segments.positive("dense_units", dense_units)
    gates, biases = _gates_and_biases(kind, biases)

    def dense_count(inputs: int, units: int) -> int:
        return gates * units * (inputs + units + biases)

    target = dense_count(dense_inputs, dense_units)
    # What the budget leaves for one gate's kernels, the biases being paid for.
    room = target // gates - biases * units
    least = units + max(inputs, units)
    if room < least:
        raise ValueError(
            f"A layer of {units} units and {inputs} inputs can't have as few "
            f"parameters as a dense one of {dense_units} units and {dense_inputs} "
            f"inputs: in groups of one unit, each with the narrowest window, it still "
            f"has {gates * (least + biases * units):,}, and the dense one has "
            f"{target:,}. Received: inputs={inputs}, units={units}, "
            f"dense_inputs={dense_inputs}, dense_units={dense_units}, kind={kind!r}, "
            f"biases={biases}. Choose fewer units or a larger layer to match."
        )
    # The least density is 1/groups, for every input to be seen, but no less than
    # 1/inputs, for every group to see one. Each makes a bound on the groups. The first
    # is the paper's, which gives up where it reaches the number of inputs; the second
    # goes on from there, as layers with few inputs need. Both are in whole numbers, so
    # that no rounding adds a group.
    groups = max(
        _ceil_division(units * (inputs + units), room),
        _ceil_division(units * units, room - units),
    )
    sizes = segments.group_sizes(units, groups)

    def count(density: float) -> int:
        windows = segments.input_segments(inputs, groups, density)
        products = sum(
            size * (end - begin + size)
            for size, (begin, end) in zip(sizes, windows, strict=True)
        )
        return gates * (products + biases * units)

    narrowest = max(1 / groups, 1 / inputs)
    ideal = (groups * room - units * units) / (groups * inputs * units)
    density = _nearest_density(
        count, target, min(1.0, max(narrowest, ideal)), narrowest
    )
    return Budget(
        inputs=inputs,
        units=units,
        groups=groups,
        input_density=density,
        parameters=count(density),
        target=target,
        dense_parameters=dense_count(inputs, units),
    )


def _gates_and_biases(kind: str, biases: int | None) -> tuple[int, int]:
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(
            f"`kind` must be one of {', '.join(map(repr, _KINDS))}. "
            f"Received: kind={kind!r}."
        )
    gates, default = _KINDS[kind]
    if biases is None:
        return gates, default
    try:
        number = -1 if isinstance(biases, bool) else operator.index(biases)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(
            "`biases` must be None or the number of bias vectors of each gate, 0 or "
            f"more. Received: biases={biases!r}."
        )
    return gates, number


def _nearest_density(
    count: Callable[[float], int], target: int, ideal: float, narrowest: float
) -> float:
    """The density in `[narrowest, 1]` whose count is nearest to `target`.

    Args:
        count: Parameters for a density. It never falls as the density grows, since
            windows grow at both ends.
        target: Number of parameters wanted.
        ideal: The density to prefer if no other comes nearer.
        narrowest: The least density there is.
    """
    low, high = math.ceil(narrowest * _STEPS), _STEPS
    while high - low > 1:
        middle = (low + high) // 2
        if count(middle / _STEPS) <= target:
            low = middle
        else:
            high = middle
    return min(
        # The narrowest may lie between two steps, and often is where counts jump.
        (ideal, narrowest, low / _STEPS, high / _STEPS),
        key=lambda density: abs(count(density) - target),
    )


def _ceil_division(a: int, b: int) -> int:
    return -(-a // b)
