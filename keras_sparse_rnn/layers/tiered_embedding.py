"""An embedding table whose rare words have short vectors."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_sparse_rnn.layers import initializers
from keras_sparse_rnn.layers import tiers as geometry
from keras_sparse_rnn.layers.segments import positive


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class TieredEmbedding(keras.layers.Layer):
    """An `Embedding` with long vectors for frequent words, short ones for rare.

    Ids must be sorted from frequent to rare, as Keras's own vocabularies are
    (`TextVectorization`, `StringLookup`). Vectors of rarer ranks are shorter; what
    is missing reads as zero, so the output has `output_dim` features for every id
    and the layer takes the place of `keras.layers.Embedding`. Only what is not zero
    is stored, trained and exported.

    The lengths are given in one of three ways: a `density` (row numbers then fall
    geometrically from block to block, as in the paper), `tiers` outright, or word
    `counts` with a `density`.

    Args:
        input_dim: Size of the vocabulary; ids go from 0 to `input_dim - 1`.
        output_dim: Length of the longest vectors, and of the output.
        density: Share of the `input_dim * output_dim` weights to keep, in
            `[1/blocks, 1]`.
        blocks: In how many steps lengths fall, at most `output_dim`. 10 by default.
        tiers: Pairs `(size, width)`: how many ids, with vectors how long, from the
            most frequent words to the rarest; sizes sum to `input_dim`, widths
            fall.
        counts: Occurrences of each id, falling; a vector's length then grows with
            the square root of the count, within `density` of the dense size.
        embeddings_initializer: As in `keras.layers.Embedding`, for each block.
        embeddings_regularizer: Applied to each block.
        embeddings_constraint: Applied to each block.
        mask_zero: Whether id 0 is padding to be masked by later layers.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Integer tensor of any shape `(…)`.

    Returns:
        Tensor `(…, output_dim)`.

    Raises:
        ValueError: If the lengths are given in no way or in two, or do not fit; and
            when called eagerly with an id outside `[0, input_dim)`. Inside a
            compiled graph such an id behaves as in `keras.layers.Embedding`.

    Example:

    >>> layer = TieredEmbedding(10_000, 400, density=0.25)
    >>> layer(np.array([[0, 17, 9_999]])).shape
    (1, 3, 400)
    >>> layer.count_params() <= 1_000_000
    True
    >>> TieredEmbedding(1000, 64, tiers=[(100, 64), (900, 16)]).tiers
    [(100, 64), (900, 16)]

    Reference:
        Demeester et al., [Predefined Sparseness in Recurrent Sequence Models](
        https://aclanthology.org/K18-1032), CoNLL 2018, section 4.1.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        density: float | None = None,
        blocks: int | None = None,
        tiers: Sequence[Sequence[int]] | None = None,
        counts: Sequence[int] | None = None,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.input_dim = input_dim = positive("input_dim", input_dim)
        self.output_dim = output_dim = positive("output_dim", output_dim)
        self.blocks = _blocks(input_dim, output_dim, density, blocks, tiers, counts)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)
        self.mask_zero = mask_zero
        self.supports_masking = mask_zero
        # Ids must not be cast to a float dtype on their way in.
        self.autocast = False

    @property
    def tiers(self) -> list[geometry.Tier]:
        """`(size, width)` from the most frequent words to the rarest."""
        return geometry.tiers_from_blocks(self.blocks)

    def build(self, input_shape: Any = None) -> None:
        """Creates the table of each block."""
        single = len(self.blocks) == 1
        self.tables = [
            self.add_weight(
                shape=block,
                initializer=initializers.of_part(self.embeddings_initializer, b),
                name="embeddings" if single else f"embeddings_{b}",
                regularizer=self.embeddings_regularizer,
                constraint=self.embeddings_constraint,
            )
            for b, block in enumerate(self.blocks)
        ]
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Looks up `(…)` ids: `(…, output_dim)`."""
        if keras.backend.standardize_dtype(inputs.dtype) not in ("int32", "int64"):
            inputs = ops.cast(inputs, "int32")
        self._check_range(inputs)
        parts = []
        for table, (rows, _) in zip(self.tables, self.blocks, strict=True):
            if rows == self.input_dim:
                # Every id has a row; one that is out of range must not be clipped.
                part = ops.cast(ops.take(table, inputs, axis=0), self.compute_dtype)
            else:
                part = ops.take(table, ops.minimum(inputs, rows - 1), axis=0)
                # In a graph Keras counts a negative id from the end: a rare word.
                stored = ops.logical_and(inputs >= 0, inputs < rows)
                stored = ops.expand_dims(stored, -1)
                part = ops.multiply(
                    ops.cast(part, self.compute_dtype),
                    ops.cast(stored, self.compute_dtype),
                )
            parts.append(part)
        missing = self.output_dim - sum(width for _, width in self.blocks)
        if missing:
            shape = (*ops.shape(inputs), missing)
            parts.append(ops.zeros(shape, dtype=self.compute_dtype))
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)

    def _check_range(self, inputs: Any) -> None:
        if keras.backend.backend() == "tensorflow" and not hasattr(inputs, "numpy"):
            return  # A tensor of a graph has no values to check.
        try:
            ids = ops.convert_to_numpy(inputs)
        except (NotImplementedError, TypeError):
            return  # Nor has what JAX or PyTorch traces with.
        if ids.size and (ids.min() < 0 or ids.max() >= self.input_dim):
            raise ValueError(
                f"Layer '{self.name}' takes ids from 0 to {self.input_dim - 1}. "
                f"Received ids from {ids.min()} to {ids.max()}. Raise `input_dim`, or "
                "map unknown words to an id of their own."
            )

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """`True` where the id is not 0, if `mask_zero`."""
        return ops.not_equal(inputs, 0) if self.mask_zero else None

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """`input_shape` with `output_dim` behind it."""
        return (*input_shape, self.output_dim)

    def compute_output_spec(self, inputs: Any) -> Any:
        """What a call returns, without computing it."""
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments this layer can be made again with.

        However the lengths were given, they are written as `tiers`.
        """
        config = super().get_config()
        config.update(
            input_dim=self.input_dim,
            output_dim=self.output_dim,
            tiers=[list(tier) for tier in self.tiers],
            embeddings_initializer=keras.initializers.serialize(
                self.embeddings_initializer
            ),
            embeddings_regularizer=keras.regularizers.serialize(
                self.embeddings_regularizer
            ),
            embeddings_constraint=keras.constraints.serialize(
                self.embeddings_constraint
            ),
            mask_zero=self.mask_zero,
        )
        return config


def _blocks(
    input_dim: int,
    output_dim: int,
    density: float | None,
    blocks: int | None,
    tiers: Sequence[Sequence[int]] | None,
    counts: Sequence[int] | None,
) -> list[geometry.Block]:
    if tiers is not None:
        if density is not None or blocks is not None or counts is not None:
            raise ValueError(
                "Explicit `tiers` leave nothing to choose: pass no density, blocks or "
                f"counts with them. Received: density={density}, blocks={blocks}, "
                f"counts={'given' if counts is not None else None}."
            )
        return geometry.blocks_from_tiers(tiers, input_dim, output_dim)
    if density is None:
        raise ValueError(
            "Say how long the vectors are: `density`, `density` with word `counts`, "
            "or explicit `tiers`. Received none of them."
        )
    if counts is None:
        # By way of tiers: blocks of equal rows become one, and a layer restored
        # from its configuration has the same variables.
        found = geometry.blocks_from_density(input_dim, output_dim, density, blocks)
        return geometry.blocks_from_tiers(
            geometry.tiers_from_blocks(found), input_dim, output_dim
        )
    if len(counts) != input_dim:
        raise ValueError(
            "`counts` must hold one count for each id. Received: "
            f"{len(counts)} counts for input_dim={input_dim}."
        )
    return geometry.blocks_from_tiers(
        geometry.tiers_from_counts(counts, output_dim, density, blocks),
        input_dim,
        output_dim,
    )
