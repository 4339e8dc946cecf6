"""A trained embedding as a tiered one, and back."""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn.layers import tiers as geometry
from keras_sparse_rnn.layers.segments import positive
from keras_sparse_rnn.layers.tiered_embedding import TieredEmbedding

# Of one start, and of each before the best is chosen.
_STEPS, _FIRST_STEPS = 2000, 20
_STARTS = 6
# Of each choice of lengths before the best is chosen.
_STEPS_OF_A_CHOICE = 3


def compress_embedding(
    embedding: Any,
    counts: Any,
    density: float | None = None,
    max_parameters: int | None = None,
    tiers: Sequence[Sequence[int]] | None = None,
    blocks: int | None = None,
    reserved: int = 0,
) -> TieredEmbedding:
    """The nearest tiered layer of a trained embedding, at a size of your choice.

    Vectors are turned so that what frequent and rare words have in common lies in the
    features that all of them keep, and `projection=True` turns them back. The error
    is the sum over all words of their count times the squared distance between the old
    vector and the new one; turns are improved from several starts until nothing is
    gained. With a single tier that is the least error there is. Of a `density` or
    `max_parameters` several choices of lengths are tried, and the one with the least
    error kept: those that follow the counts, those of `geometric_tiers`, and vectors
    that are all alike, which is the best where the table has few directions. The layer
    takes the place of the old one in its model, tied or not, and is to be fine-tuned
    there.

    Args:
        embedding: A built `keras.layers.Embedding`, or a `ReversibleEmbedding` with
            tied weights.
        counts: How often each id occurs, by id, falling; see `check_order`.
        density: Share of the weights to keep, those of the projection included.
        max_parameters: Or how many weights to keep at most.
        tiers: Or pairs `(size, width)`, as for `TieredEmbedding`.
        blocks: Number of different lengths. With it lengths follow the counts.
        reserved: How many ids at the beginning are no words, as for
            `TieredEmbedding.from_counts`.

    Returns:
        A built `TieredEmbedding` of the same name and arguments.

    Raises:
        ValueError: If `embedding` is something else, holds LoRA or quantized weights,
            or the size is given in no way or in two, or can't be had.

    Example:

    >>> small = compress_embedding(model.get_layer("words"), counts, density=0.25)
    >>> vectors = small(ids)  # near those of the old layer
    """
    table = _table_of(embedding)
    input_dim, output_dim = table.shape
    geometry.check_order(counts, reserved)
    seen = np.array(counts)
    if seen.size != input_dim:
        raise ValueError(
            "`counts` must hold one count for each id. Received: "
            f"{seen.size} counts for input_dim={input_dim}."
        )
    given = {"density": density, "max_parameters": max_parameters, "tiers": tiers}
    if sum(one is not None for one in given.values()) != 1:
        raise ValueError(
            "Give the size in one way: `density`, `max_parameters` or `tiers`. "
            f"Received: {given}."
        )
    if tiers is not None and blocks is not None:
        raise ValueError(
            "Explicit `tiers` leave nothing to choose: pass no `blocks` with them. "
            f"Received: blocks={blocks}."
        )
    if tiers is None:
        if density is not None:
            geometry.check_density(density)
            budget = int(density * table.size)
        else:
            budget = positive("max_parameters", max_parameters)
        if blocks is not None:
            positive("blocks", blocks)
        if budget < input_dim + output_dim:
            raise ValueError(
                f"A vector of one feature for each of {input_dim:,} words, and its "
                f"projection to {output_dim}, are {input_dim + output_dim:,} weights, "
                f"and only {budget:,} are to be kept. Keep more."
            )
        ranks = seen.copy()
        ranks[:reserved] = seen.max()
        choices = _affordable(ranks, output_dim, budget, blocks)
    else:
        geometry.blocks_from_tiers(tiers, input_dim, output_dim)
        choices = [[(int(size), int(width)) for size, width in tiers]]
    # Words that were never seen count a little.
    weights = np.maximum(seen, 0.5)
    lengths = choices[0]
    if len(choices) > 1:
        lengths = max(choices, key=lambda one: _kept(table, one, weights))
    turn = best_turn(table, lengths, weights)
    config = embedding.get_config()
    names = ["name", "trainable", "dtype", "mask_zero"]
    names += ["embeddings_initializer", "embeddings_regularizer"]
    names += ["embeddings_constraint", "reverse_dtype", "logit_soft_cap"]
    layer = TieredEmbedding.from_config(
        {
            **{name: config[name] for name in names if name in config},
            "input_dim": input_dim,
            "output_dim": output_dim,
            "tiers": lengths,
            "projection": True,
        }
    )
    layer.build()
    turned = geometry.cut((table @ turn.T).astype("float32"), lengths)
    turn = turn[: lengths[0][1]]
    for variable, value in zip(layer.tables, turned, strict=True):
        variable.assign(value)
    layer.projection_kernel.assign(turn)
    return layer


def _affordable(
    counts: np.ndarray, output_dim: int, budget: int, blocks: int | None
) -> list[list[geometry.Tier]]:
    """Choices of tiers that leave room for the projection, as long as the longest."""

    def share(longest: int, width: int) -> float:
        """Of a table so wide, beside the projection of the longest vectors."""
        return min(1.0, (budget - longest * output_dim) / (counts.size * width))

    def by_counts(most: int) -> list[geometry.Tier]:
        tiers = geometry.tiers_from_counts(counts, most, share(most, most), blocks)
        # If none is as long as it may be, the projection leaves more.
        longest = tiers[0][1]
        more = geometry.tiers_from_counts(counts, most, share(longest, most), blocks)
        return more if more[0][1] <= longest else tiers

    def by_factor(most: int) -> list[geometry.Tier]:
        return geometry.geometric_tiers(counts.size, most, share(most, most))

    found = []
    if blocks is None:
        width = min(output_dim, budget // (counts.size + output_dim))
        found.append([(counts.size, width)])
    most = output_dim
    while most:
        for choice in (by_counts, by_factor) if blocks is None else (by_counts,):
            # Beside the projection of long vectors there may be no room for any.
            with contextlib.suppress(ValueError):
                found.append(choice(most))
        most //= 2
    return [one for k, one in enumerate(found) if one not in found[:k]]


def best_turn(
    table: np.ndarray, tiers: Sequence[geometry.Tier], weights: np.ndarray
) -> np.ndarray:
    """The orthogonal matrix that leaves least in the features that tiers cut off.

    What is kept is a sum over directions, each of a quadratic form: the weighted
    squares of those words that are wide enough to have it. No step of the iteration
    makes it smaller, but it may end at a hill that is not the highest, so it begins at
    several: at the principal components, which are the best there is where all words
    are as wide; at those of each tier in turn, from the rarest; and at random.

    Args:
        table: `(input_dim, output_dim)`.
        tiers: `(size, width)` from the most frequent words to the rarest.
        weights: How much each word counts.

    Returns:
        `(output_dim, output_dim)`: a direction in each row.
    """
    # Of one tier nothing is better than the principal components.
    draws = _STARTS if len(tiers) > 1 else 0
    return _ascended(table, tiers, weights, draws, _FIRST_STEPS, _STEPS)[1]


def _kept(
    table: np.ndarray, tiers: Sequence[geometry.Tier], weights: np.ndarray
) -> float:
    """About how much of a table some tiers can keep, in a few steps."""
    return _ascended(table, tiers, weights, 0, _STEPS_OF_A_CHOICE, 0)[0]


def _ascended(
    table: np.ndarray,
    tiers: Sequence[geometry.Tier],
    weights: np.ndarray,
    draws: int,
    first_steps: int,
    steps: int,
) -> tuple[float, np.ndarray]:
    """How much is kept, and the turn that keeps it.

    With `draws` random starts, `first_steps` from each start, and `steps` from where
    the best of them led.
    """
    values = table.astype("float64") * np.sqrt(weights)[:, None]
    edges = np.cumsum([0, *(size for size, _ in tiers)])
    forms = [values[a:b].T @ values[a:b] for a, b in itertools.pairwise(edges)]
    sums = np.cumsum(forms, axis=0)
    output_dim = table.shape[1]
    # How many tiers have each direction: the frequent words are in all of them.
    form = np.zeros((output_dim,), int)
    for _, width in tiers:
        form[:width] += 1

    def improved(turn: np.ndarray, steps: int) -> tuple[float, np.ndarray]:
        kept = -np.inf
        for _ in range(steps):
            pulled = np.zeros_like(turn)
            for count in np.unique(form[form > 0]):
                rows = form == count
                pulled[rows] = turn[rows] @ sums[count - 1]
            now = float((pulled * turn).sum())
            if now <= kept * (1 + 1e-9):
                break
            kept = now
            left, _, right = np.linalg.svd(pulled)
            turn = left @ right
        return kept, turn

    random = np.random.default_rng(0)
    starts = [_components(sums[-1]), _in_turn(sums, tiers)]
    for _ in range(draws):
        drawn, _ = np.linalg.qr(random.standard_normal((output_dim, output_dim)))
        starts.append(drawn)
    tried = [improved(start, first_steps) for start in starts]
    best = max(tried, key=lambda one: one[0])
    return improved(best[1], steps) if steps else best


def _components(form: np.ndarray) -> np.ndarray:
    """The directions of a quadratic form, the strongest first, in rows."""
    return np.linalg.eigh(form)[1].T[::-1].copy()


def _in_turn(sums: np.ndarray, tiers: Sequence[geometry.Tier]) -> np.ndarray:
    """The best directions for the rarest words, then the best that are left."""
    left = np.eye(sums.shape[1])
    found: list[np.ndarray] = []
    done = 0
    for total, (_, width) in zip(sums[::-1], list(tiers)[::-1], strict=True):
        ordered = _components(left @ total @ left.T) @ left
        found.append(ordered[: width - done])
        left, done = ordered[width - done :], width
    return np.concatenate([*found, left])


def dense_embedding(layer: TieredEmbedding) -> Any:
    """The stock layer that computes what a tiered one computes.

    Args:
        layer: A built layer.

    Returns:
        A `keras.layers.ReversibleEmbedding`, an `Embedding` that knows `reverse`, of
        the same name, with zeros wherever `layer` stores nothing.
    """
    if not layer.built:
        raise ValueError(f"Layer '{layer.name}' has no weights yet. Build it first.")
    if layer.bias is not None:
        raise ValueError(
            f"Layer '{layer.name}' has a bias of its logits, for which Keras's "
            "ReversibleEmbedding has no place."
        )
    config = layer.get_config()
    names = ["name", "trainable", "dtype", "input_dim", "output_dim", "mask_zero"]
    names += ["tie_weights", "reverse_dtype", "logit_soft_cap"]
    names += ["embeddings_initializer", "embeddings_regularizer"]
    names += ["embeddings_constraint"]
    dense = keras.layers.ReversibleEmbedding.from_config(
        {name: config[name] for name in names}
    )
    dense.build()
    tables = [_whole(layer)]
    if not layer.tie_weights:
        tables.append(_whole_reverse(layer))
    dense.set_weights(tables)
    return dense


def _whole(layer: TieredEmbedding) -> np.ndarray:
    kernel = layer.projection_kernel
    width = layer.output_dim if kernel is None else kernel.shape[0]
    table = np.zeros((layer.input_dim, width), "float32")
    begin = 0
    for variable, (rows, width) in zip(layer.tables, layer.blocks, strict=True):
        table[:rows, begin : begin + width] = _array(variable)
        begin += width
    return table if kernel is None else table @ _array(kernel)


def _whole_reverse(layer: TieredEmbedding) -> np.ndarray:
    projection = layer.projection_kernel
    height = layer.output_dim if projection is None else projection.shape[0]
    kernel = np.zeros((height, layer.input_dim), "float32")
    begin = 0
    for variable, (size, width) in zip(layer.reverse_tables, layer.tiers, strict=True):
        kernel[:width, begin : begin + size] = _array(variable)
        begin += size
    return kernel if projection is None else _array(projection).T @ kernel


def _table_of(embedding: Any) -> np.ndarray:
    stock = (keras.layers.Embedding, getattr(keras.layers, "ReversibleEmbedding", None))
    if type(embedding) not in stock or not embedding.built:
        raise ValueError(
            "`embedding` must be a built keras.layers.Embedding or "
            f"ReversibleEmbedding. Received: {embedding!r}."
        )
    if getattr(embedding, "lora_enabled", False) or getattr(
        embedding, "quantization_mode", None
    ):
        raise ValueError(
            f"Layer '{embedding.name}' holds LoRA or quantized weights. Merge them "
            "into a plain table first."
        )
    if not getattr(embedding, "tie_weights", True):
        raise ValueError(
            f"Layer '{embedding.name}' has a table of its own for `reverse`. Compress "
            "layers that look words up, or that use one table for both."
        )
    return _array(embedding.embeddings)


def _array(variable: Any) -> np.ndarray:
    return np.asarray(
        keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")), "float32"
    )
