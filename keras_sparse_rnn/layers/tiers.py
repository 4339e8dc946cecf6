"""How long the vector of each word is, by its rank in a frequency-sorted vocabulary.

Integers only: nothing here knows of tensors. A **tier** is a range of word ranks
with one vector length, given as `(size, width)`; tiers go from frequent to rare and
become narrower. A **block** is the same table cut the other way, as it is stored:
`(rows, width)` means that the next `width` columns exist for the first `rows` ranks
and read as zero for all others.

Reference: Demeester et al., "Predefined Sparseness in Recurrent Sequence Models",
CoNLL 2018, section 4.1. The paper sorts from rare to frequent; here rank 0 is the
most frequent word, as in Keras's own vocabularies.
"""

import itertools
import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_sparse_rnn.layers.segments import positive

Tier = tuple[int, int]
Block = tuple[int, int]

_DEFAULT_BLOCKS = 10


def reduction_factor(density: float, blocks: int) -> float:
    """The alpha in [0, 1] for which the mean of alpha^0 … alpha^(blocks-1) is density.

    Args:
        density: Target share, in `[1/blocks, 1]`.
        blocks: Number of terms.
    """
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if sum(middle**b for b in range(blocks)) < density * blocks:
            low = middle
        else:
            high = middle
    return high


def check_density(density: Any) -> float:
    """Sees that a share of a dense table's weights is one, and returns it."""
    number = isinstance(density, numbers.Real) and not isinstance(density, bool)
    if not number or not 0 < density <= 1:
        raise ValueError(
            "`density` must be a number in (0, 1], the share of a dense table's "
            f"weights to keep. Received: density={density!r}."
        )
    # NumPy's numbers would make all that follows as coarse as they are.
    return float(density)


def default_blocks(density: float) -> int:
    """In how many steps lengths fall, if nobody says it.

    The shortest vectors take at most half of the weights, or all would be as short.
    """
    return max(_DEFAULT_BLOCKS, math.ceil(2 / density))


def blocks_from_density(
    input_dim: int, output_dim: int, density: float, blocks: int | None = None
) -> list[Block]:
    """Blocks whose rows shrink geometrically, holding `density` of a dense table.

    Args:
        input_dim: Size of the vocabulary.
        output_dim: Length of the longest vectors.
        density: Share of the dense table's weights to keep, in `[1/blocks, 1]`.
        blocks: Number of blocks, at most `output_dim` counts; 10 by default, more
            below a density of 0.2.

    Returns:
        `(rows, width)` for each block that holds anything.
    """
    density = check_density(density)
    if blocks is None:
        blocks = default_blocks(density) if density < 1 else 1
    blocks = min(positive("blocks", blocks), output_dim)
    if density * blocks < 1 - 1e-9 or (blocks == 1 and density != 1):
        raise ValueError(
            f"A table of {blocks} blocks holds at least 1/{blocks} of the dense "
            f"weights, and one block holds all of them. Received: density={density}, "
            f"blocks={blocks} (at most output_dim={output_dim}). Raise `density`, "
            "`blocks` or `output_dim`."
        )
    if blocks == 1:
        return [(input_dim, output_dim)]
    # As even as can be; the paper's floor would leave the last block the remainder.
    edges = [output_dim * b // blocks for b in range(blocks + 1)]
    widths = [end - begin for begin, end in itertools.pairwise(edges)]
    budget = math.floor(input_dim * output_dim * density + 1e-6)
    result = [(input_dim, widths[0])]
    rows, columns, share = input_dim, output_dim, float(density)
    # Weights in the blocks before the current one; each step shares what is left of
    # the budget over what is left of the table.
    spent = 0
    for b in range(1, blocks - 1):
        rows -= math.ceil(rows * (1 - reduction_factor(share, blocks - b + 1)) - 1e-9)
        columns -= widths[b - 1]
        spent += result[-1][0] * result[-1][1]
        result.append((rows, widths[b]))
        left = (budget - spent) / (rows * columns) if rows else 0.0
        share = min(1.0, max(left, 0.0))
        if share <= 0:
            rows = 0
    spent += result[-1][0] * result[-1][1]
    last = widths[-1]
    result.append((min(rows, round(max(0, budget - spent) / last)), last))
    return [(r, w) for r, w in result if r > 0]


def blocks_from_tiers(
    tiers: Sequence[Sequence[int]], input_dim: int, output_dim: int
) -> list[Block]:
    """The blocks of explicit tiers, after checking them.

    Args:
        tiers: `(size, width)` from the most frequent words to the rarest.
        input_dim: Size of the vocabulary, which the sizes must sum to.
        output_dim: Length of the longest vectors, the largest width allowed.

    Returns:
        `(rows, width)` for each block.
    """
    pairs: list[Any] = [tuple(one) if np.ndim(one) else (one,) for one in tiers]
    for number, pair in enumerate(pairs):
        if len(pair) != 2:
            raise ValueError(
                "Each of `tiers` must be a pair (size, width). "
                f"Received: {pair} in tiers={pairs}."
            )
        pairs[number] = (
            positive("size of a tier", pair[0]),
            positive("width of a tier", pair[1]),
        )
    total = sum(size for size, _ in pairs)
    if total != input_dim:
        raise ValueError(
            "The sizes of `tiers` must sum to `input_dim`, so that every id has one. "
            f"Received: tiers={pairs}, which hold {total} ids, and "
            f"input_dim={input_dim}."
        )
    widths = [width for _, width in pairs]
    if any(a <= b for a, b in itertools.pairwise(widths)):
        raise ValueError(
            "`tiers` go from frequent to rare words and must become narrower. "
            f"Received: tiers={pairs}."
        )
    if widths[0] > output_dim:
        raise ValueError(
            "No width of `tiers` may exceed `output_dim`. "
            f"Received: tiers={pairs}, output_dim={output_dim}."
        )
    result = []
    rows, begin = input_dim, 0
    for size, width in reversed(pairs):
        result.append((rows, width - begin))
        rows, begin = rows - size, width
    return result


def tiers_from_blocks(blocks: Sequence[Block]) -> list[Tier]:
    """The tiers that blocks amount to: the inverse of `blocks_from_tiers`."""
    result: list[Tier] = []
    width = sum(w for _, w in blocks)
    done = 0
    for rows, block_width in reversed(list(blocks)):
        if rows > done:
            result.append((rows - done, width))
            done = rows
        width -= block_width
    return result


def geometric_tiers(
    input_dim: int, output_dim: int, density: float, factor: float = 4.0
) -> list[Tier]:
    """Tiers of which each is `factor` times narrower than the one before.

    Their sizes grow geometrically too, by what makes the table hold `density` of a
    dense one: with a factor of 4, as in Baevski and Auli, "Adaptive Input
    Representations for Neural Language Modeling" (ICLR 2019).

    Args:
        input_dim: Size of the vocabulary.
        output_dim: Length of the longest vectors.
        density: Share of the dense table's weights to keep; never more are used.
        factor: By how much vectors become shorter from tier to tier, above 1.

    Returns:
        `(size, width)` from the most frequent words to the rarest, at most ten, for
        `TieredEmbedding(…, tiers=…)`.

    Example:

    >>> geometric_tiers(10_000, 256, density=0.25)
    [(1192, 256), (2170, 64), (3950, 16), (2688, 4)]
    """
    input_dim = positive("input_dim", input_dim)
    output_dim = positive("output_dim", output_dim)
    density = check_density(density)
    if not (isinstance(factor, numbers.Real) and 1 < factor < math.inf):
        raise ValueError(
            f"`factor` must be a number above 1. Received: factor={factor!r}."
        )
    factor = float(factor)
    widths: list[int] = []
    while len(widths) < _DEFAULT_BLOCKS and output_dim / factor ** len(widths) >= 1:
        widths.append(math.floor(output_dim / factor ** len(widths)))
    # Rounded down, two may be alike.
    widths = sorted(set(widths), reverse=True)
    budget = math.floor(density * input_dim * output_dim + 1e-6)
    if widths[-1] * input_dim > budget:
        raise ValueError(
            f"Even {widths[-1]} of {output_dim} columns for every id are more than "
            f"density={density} of the dense table. Raise `density`."
        )

    def sizes(growth: float) -> list[int]:
        # By logarithms: the largest may exceed every number.
        weights = np.arange(len(widths)) * growth
        shares = np.exp(weights - weights.max())
        found = np.floor(input_dim * shares / shares.sum()).astype(int)
        found[-1] += input_dim - found.sum()
        return found.tolist()

    def cost(growth: float) -> int:
        return sum(n * w for n, w in zip(sizes(growth), widths, strict=True))

    low, high = -50.0, 50.0
    if cost(low) <= budget:
        high = low
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= budget else (middle, high)
    return [(n, w) for n, w in zip(sizes(high), widths, strict=True) if n]


def check_order(counts: Any, reserved: int = 0) -> None:
    """Sees that ids are sorted from frequent to rare, as tiers need them.

    In the wrong order frequent words get short vectors and nothing fails: accuracy is
    lower, that is all. So look at it once, with the counts of the training data.

    Args:
        counts: How often each id occurs, by id: a list or an array, such as
            `np.bincount` makes of all ids.
        reserved: How many ids at the beginning are not words, such as padding and
            unknown words, and may have any count.

    Raises:
        ValueError: If some count is larger than the one before, with the first, how
            many ids are affected, and what to do. Also if `counts` are no finite
            numbers of one axis, or no id is left that is not reserved.

    Example:

    >>> check_order([0, 12, 90, 41, 7], reserved=2)
    """
    seen, reserved = _counts(counts, reserved)
    # Not by differences: those of unsigned numbers are never negative.
    rising = np.flatnonzero(seen[reserved + 1 :] > seen[reserved:-1]) + reserved
    if rising.size:
        first = int(rising[0])
        order = frequency_order(seen, reserved)
        wrong = int((seen[order] != seen).sum())
        raise ValueError(
            "Ids must be sorted from frequent to rare, but `counts` rise from id to "
            f"id: counts[{first}]={seen[first]} and "
            f"counts[{first + 1}]={seen[first + 1]}; {wrong:,} of {seen.size:,} ids "
            "are out of place. `frequency_order(counts)` gives the order. Ids "
            "at the beginning that are no words, such as padding, are `reserved`."
        )


def frequency_order(counts: Any, reserved: int = 0) -> np.ndarray:
    """The order of ids from frequent to rare; of equal counts as they were.

    Args:
        counts: How often each id occurs, by id.
        reserved: How many ids at the beginning stay where they are.

    Returns:
        Integer array `order`: the id that is to be number `i` is `order[i]` now. So
        `vocabulary[order]` and `table[order]` are in the right order, and
        `np.argsort(order)[ids]` are the new numbers of `ids`.

    Raises:
        ValueError: If `counts` are no finite numbers of one axis, or no id is left
            that is not reserved.

    Example:

    >>> frequency_order([0, 5, 90, 7], reserved=1).tolist()
    [0, 2, 3, 1]
    """
    seen, reserved = _counts(counts, reserved)
    words = np.argsort(-seen[reserved:].astype("float64"), kind="stable") + reserved
    return np.concatenate([np.arange(reserved), words])


def _counts(counts: Any, reserved: Any) -> tuple[np.ndarray, int]:
    """Counts as an array, and how many ids are no words, after checking both."""
    try:
        seen = np.asarray(counts)
    except ValueError:  # Rows of different lengths.
        seen = np.asarray(None)
    # Python's and NumPy's numbers, and whether a word was seen at all.
    if seen.dtype.kind not in "biuf":
        shown = repr(counts)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
        raise ValueError(
            "`counts` must be a list or an array of numbers, one for each id. "
            f"Received: counts={shown}."
        )
    if seen.ndim != 1 or not seen.size:
        raise ValueError(
            "`counts` must hold one non-negative number for each id. "
            f"Received: an array of shape {seen.shape}."
        )
    wrong = np.flatnonzero(~(np.isfinite(seen) & (seen >= 0)))
    if wrong.size:
        raise ValueError(
            "`counts` must be finite and non-negative numbers. Received: "
            f"counts[{wrong[0]}]={seen[wrong[0]]}; {wrong.size:,} of {seen.size:,} "
            "are not."
        )
    try:
        number = -1 if isinstance(reserved, bool) else operator.index(reserved)
    except TypeError:
        number = -1
    if not 0 <= number < seen.size:
        raise ValueError(
            "`reserved` is how many ids at the beginning are no words: an integer from "
            f"0 to {seen.size - 1}, as there are {seen.size} counts. Received: "
            f"reserved={reserved!r}."
        )
    return seen, number


def tiers_from_counts(
    counts: Any,
    output_dim: int,
    density: float,
    blocks: int | None = None,
) -> list[Tier]:
    """Tiers that follow how often each word was seen, within a budget.

    A word's vector length grows with the square root of its count, up to
    `output_dim`, in `blocks` equal steps; the scale is chosen so that as much of
    the budget is used as the steps allow, and never more.

    Args:
        counts: Occurrences of each id, from frequent to rare.
        output_dim: Length of the longest vectors.
        density: Share of the dense table's weights to keep.
        blocks: Number of different lengths, 10 by default, more below a density of
            0.2.

    Returns:
        `(size, width)` from the most frequent words to the rarest. A word that was
        never seen counts half as much as the rarest that was.
    """
    check_order(counts)
    seen = np.asarray(counts, "float64")
    density = check_density(density)
    blocks = default_blocks(density) if blocks is None else positive("blocks", blocks)
    steps = min(blocks, output_dim)
    # The lengths on offer; the shortest vectors still have one step.
    widths = [output_dim * s // steps for s in range(1, steps + 1)]
    budget = math.floor(density * seen.size * output_dim + 1e-6)
    if widths[0] * seen.size > budget:
        raise ValueError(
            f"Even {widths[0]} of {output_dim} columns for every id are more than "
            f"density={density} of the dense table. Raise `density` or `blocks`."
        )

    rarest = seen[seen > 0].min(initial=np.inf)
    seen = np.where(seen > 0, seen, rarest / 2 if np.isfinite(rarest) else 1.0)
    roots = np.sqrt(seen / seen.max())

    def sizes(scale: float) -> list[int]:
        step = np.clip(np.rint(scale * roots), 1, steps).astype(int)
        return np.bincount(step, minlength=steps + 1)[1:].tolist()

    def cost(scale: float) -> int:
        return sum(n * w for n, w in zip(sizes(scale), widths, strict=True))

    low, high = 0.0, float(steps + 1) / roots.min()
    if cost(high) <= budget:
        low = high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    chosen = list(zip(sizes(low), widths, strict=True))
    return [(size, width) for size, width in reversed(chosen) if size]


def cut(table: np.ndarray, tiers: Sequence[Tier]) -> list[np.ndarray]:
    """The blocks of a dense table, as they are stored.

    Args:
        table: `(input_dim, output_dim)`; what lies in no block is left out.
        tiers: `(size, width)` from the most frequent words to the rarest.
    """
    found, begin = [], 0
    for rows, width in blocks_from_tiers(tiers, *table.shape):
        found.append(table[:rows, begin : begin + width])
        begin += width
    return found
