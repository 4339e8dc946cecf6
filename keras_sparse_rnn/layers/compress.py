"""A trained embedding as a tiered one, and back."""

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn.layers import tiers as geometry
from keras_sparse_rnn.layers.segments import positive
from keras_sparse_rnn.layers.tiered_embedding import TieredEmbedding

_STEPS = 200


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
    features that all of them keep, and `projection=True` turns them back. Of all
    turns it looks for the one with the least error: the sum over all words of their
    count times the squared distance between the old vector and the new one. The
    layer takes the place of the old one in its model, tied or not, and is to be
    fine-tuned there.

    Args:
        embedding: A built `keras.layers.Embedding`, or a `ReversibleEmbedding` with
            tied weights.
        counts: How often each id occurs, by id, falling; see `check_order`.
        density: Share of the weights to keep, those of the projection included.
        max_parameters: Or how many weights to keep at most.
        tiers: Or pairs `(size, width)`, as for `TieredEmbedding`.
        blocks: Number of different lengths, 10 by default.
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
    seen = np.array(counts)
    geometry.check_order(seen, reserved)
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
    if tiers is None:
        if density is not None:
            geometry.check_density(density)
            budget = int(density * table.size)
        else:
            budget = positive("max_parameters", max_parameters)
        left = budget - output_dim * output_dim
        if left <= 0:
            raise ValueError(
                f"The projection of {output_dim} features alone has "
                f"{output_dim * output_dim:,} weights, and only {budget:,} are to be "
                "kept. Keep more."
            )
        ranks = seen.copy()
        ranks[:reserved] = seen.max()
        tiers = geometry.tiers_from_counts(
            ranks, output_dim, min(1.0, left / table.size), blocks
        )
    lengths = [(int(size), int(width)) for size, width in tiers]
    geometry.blocks_from_tiers(lengths, input_dim, output_dim)
    # Words that were never seen count a little.
    weights = np.maximum(seen, 0.5)
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
    for variable, value in zip(layer.tables, turned, strict=True):
        variable.assign(value)
    layer.projection_kernel.assign(turn)
    return layer


def best_turn(
    table: np.ndarray, tiers: Sequence[geometry.Tier], weights: np.ndarray
) -> np.ndarray:
    """The orthogonal matrix that leaves least in the features that tiers cut off.

    What is kept is a sum over directions, each of a quadratic form: the weighted
    squares of those words that are wide enough to have it. No step of the iteration
    makes it smaller; where all words are as wide it begins at the optimum, which is
    that of a principal component analysis.

    Args:
        table: `(input_dim, output_dim)`.
        tiers: `(size, width)` from the most frequent words to the rarest.
        weights: How much each word counts.

    Returns:
        `(output_dim, output_dim)`: a direction in each row.
    """
    values = table.astype("float64") * np.sqrt(weights)[:, None]
    edges = np.cumsum([0, *(size for size, _ in tiers)])
    forms = [values[a:b].T @ values[a:b] for a, b in itertools.pairwise(edges)]
    output_dim = table.shape[1]
    # The form of each direction: of all tiers that have it.
    form = np.zeros((output_dim,), int)
    for _, width in tiers:
        form[:width] += 1
    sums = np.cumsum(forms, axis=0)
    _, directions = np.linalg.eigh(sums[-1])
    turn = directions.T[::-1].copy()
    kept = -np.inf
    for _ in range(_STEPS):
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
    return turn


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
    table = np.zeros((layer.input_dim, layer.output_dim), "float32")
    begin = 0
    for variable, (rows, width) in zip(layer.tables, layer.blocks, strict=True):
        table[:rows, begin : begin + width] = _array(variable)
        begin += width
    kernel = layer.projection_kernel
    return table if kernel is None else table @ _array(kernel)


def _whole_reverse(layer: TieredEmbedding) -> np.ndarray:
    kernel = np.zeros((layer.output_dim, layer.input_dim), "float32")
    begin = 0
    for variable, (size, width) in zip(layer.reverse_tables, layer.tiers, strict=True):
        kernel[:width, begin : begin + size] = _array(variable)
        begin += size
    projection = layer.projection_kernel
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
