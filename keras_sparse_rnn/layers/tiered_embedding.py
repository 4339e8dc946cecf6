"""An embedding table whose rare words have short vectors."""

import numbers
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sparse_rnn import _backend
from keras_sparse_rnn.layers import initializers
from keras_sparse_rnn.layers import tiers as geometry
from keras_sparse_rnn.layers.segments import positive
from keras_sparse_rnn.layers.softmax_loss import crossentropy

_UNLIKE_STOCK = (
    "A TieredEmbedding has no LoRA and is not quantized in Keras: short vectors take "
    "the place of both. For an int8 table export the model with "
    "`export_tflite(model, path, quantize='dynamic')`; fine-tune the table itself."
)


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class TieredEmbedding(keras.layers.Layer):
    """An `Embedding` with long vectors for frequent words, short ones for rare.

    Ids must be sorted from frequent to rare, as Keras's own vocabularies are
    (`TextVectorization`, `StringLookup`). Vectors of rarer ranks are shorter; what
    is missing reads as zero, so the output has `output_dim` features for every id
    and the layer takes the place of `keras.layers.Embedding`. Only what is not zero
    is stored, trained and exported. With `density=1, blocks=1` it has the variables
    of the stock layer.

    The lengths are given in one of two ways: a `density` (row numbers then fall
    geometrically from block to block, as in the paper), or `tiers` outright, such as
    `geometric_tiers` makes. `TieredEmbedding.from_counts` chooses them by how often
    words occur, and `TieredEmbedding.from_vocabulary` takes the vocabulary of a
    preprocessing layer.

    Called with `reverse=True` the layer turns hidden states into logits of all words,
    as `keras.layers.ReversibleEmbedding` does: the product with the transposed table.
    What is not stored is not computed, so its cost falls with the density. To train,
    `targets` give the mean cross-entropy without the logits of all states at once: in
    no more time, and far less memory where there are many words. That loss has no
    second derivatives: asking for them is an error.

    Args:
        input_dim: Size of the vocabulary; ids go from 0 to `input_dim - 1`.
        output_dim: Length of the longest vectors, and of the output.
        density: Share of the `input_dim * output_dim` weights to keep, in
            `[1/blocks, 1]`.
        blocks: In how many steps lengths fall, at most `output_dim`. 10 by default.
        tiers: Pairs `(size, width)`: how many ids, with vectors how long, from the
            most frequent words to the rarest; sizes sum to `input_dim`, widths
            fall.
        tie_weights: Whether `reverse=True` uses the table of the lookup. If not, it
            has one of its own, of the same tiers, made when the layer is built.
        reverse_bias: Whether the logits get a bias, which starts at zero.
        projection: Whether vectors are multiplied with a matrix of the longest tier's
            width by `output_dim`, which starts as the identity, and states with its
            transpose. With it the directions that short vectors have can be any: see
            `compress_embedding`.
        embeddings_initializer: As in `keras.layers.Embedding`. Initializers that look
            at the shape of a weight (`"glorot_uniform"`, `"orthogonal"`) see that of
            the dense table, so vectors start as large as in one.
        embeddings_regularizer: Applied to each block.
        embeddings_constraint: Applied to each block.
        mask_zero: Whether id 0 is padding to be masked by later layers. Logits keep
            the mask that their states carry, so the loss of a compiled model leaves
            padding out; those of `keras.layers.ReversibleEmbedding` lose it.
        weights: The values to start with, as a dense table `(input_dim, output_dim)`
            that is zero wherever this layer stores nothing. `compress_embedding` makes
            a tiered table of any dense one.
        reverse_dtype: Dtype of the logits. By default the layer's compute dtype.
        logit_soft_cap: If given, logits are `tanh(logits / cap) * cap`.
        word_dropout: Share of the words of the vocabulary that read as zeros in a
            training step, wherever they occur; the others are scaled by
            `1 / (1 - word_dropout)`. No part of `reverse=True`.
        dropout: Share of the features of a sequence that are dropped in training, the
            same ones in all of its time steps. No part of `reverse=True`.
        seed: Seed of the dropouts.
        **kwargs: `name`, `dtype`, `trainable`. `input_length` is accepted, with a
            warning, and means nothing.

    Call arguments:
        inputs: Integer tensor of any shape `(…)`; with `reverse` or `targets`, hidden
            states `(…, output_dim)`.
        reverse: Whether to turn hidden states into logits.
        targets: Ids `(…)`, one for each state. The layer then returns the mean
            cross-entropy of its logits and adds it to the losses, as `compile` would
            with a `SparseCategoricalCrossentropy(from_logits=True)`. States that have
            no word to predict get any valid id, and a `sample_weight` of zero.
        sample_weight: With `targets`, a weight for each state: `(…)`, or of its first
            axes, or with a 1 in place of any size.
        training: Whether to drop anything.
        inputs_mask: With `targets`, which states count, `(…)`. Keras hands it on.

    Returns:
        Tensor `(…, output_dim)`; with `reverse`, `(…, input_dim)`; with `targets`, a
        scalar.

    Raises:
        ValueError: If the lengths are given in no way or in two, or do not fit; if
            called with a sparse tensor, or with targets or weights of another shape
            than the states have (where a graph does not know sizes before it runs,
            the error is its own); and when called eagerly with an id outside
            `[0, input_dim)`. Inside a compiled graph such an id behaves as in
            `keras.layers.Embedding`, and a target like that makes the loss and its
            gradients NaN, whatever its `sample_weight` is.
        NotImplementedError: By `quantize` and `enable_lora`.

    Example:

    >>> layer = TieredEmbedding(10_000, 400, density=0.25)
    >>> layer(np.array([[0, 17, 9_999]])).shape
    (1, 3, 400)
    >>> layer.count_params() <= 1_000_000
    True
    >>> layer(np.zeros((1, 3, 400)), reverse=True).shape
    (1, 3, 10000)
    >>> TieredEmbedding(1000, 64, tiers=[(100, 64), (900, 16)]).tiers
    [(100, 64), (900, 16)]

    A model that learns to predict the next word of all words:

    >>> ids, following = keras.Input((None,), dtype="int32"), keras.Input((None,))
    >>> hidden = keras.layers.LSTM(400, return_sequences=True)(layer(ids))
    >>> model = keras.Model([ids, following], layer(hidden, targets=following))
    >>> model.compile("adam")  # then fit([ids, following])

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
        tie_weights: bool = True,
        reverse_bias: bool = False,
        projection: bool = False,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        weights: Any = None,
        reverse_dtype: Any = None,
        logit_soft_cap: float | None = None,
        word_dropout: float = 0.0,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        unknown = {"lora_rank", "lora_alpha", "quantization_config"} & set(kwargs)
        if any(kwargs.pop(name) is not None for name in sorted(unknown)):
            raise ValueError(f"{_UNLIKE_STOCK} Received: {sorted(unknown)}.")
        if kwargs.pop("input_length", None) is not None:
            # As the stock layer, for code that was written for older versions.
            warnings.warn(
                "Argument `input_length` is deprecated. Just remove it.", stacklevel=2
            )
        super().__init__(**kwargs)
        if self.dtype_policy.quantization_mode is not None:
            raise ValueError(
                f"{_UNLIKE_STOCK} Received: dtype={self.dtype_policy.name!r}."
            )
        self.input_dim = input_dim = positive("input_dim", input_dim)
        self.output_dim = output_dim = positive("output_dim", output_dim)
        self.blocks = _blocks(input_dim, output_dim, density, blocks, tiers)
        self.tie_weights = bool(tie_weights)
        self.reverse_bias = bool(reverse_bias)
        self.projection = bool(projection)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)
        self.mask_zero = mask_zero
        self.supports_masking = True
        self.reverse_dtype = reverse_dtype
        self.logit_soft_cap = logit_soft_cap
        self.word_dropout = _rate("word_dropout", word_dropout)
        self.dropout = _rate("dropout", dropout)
        self.seed = seed
        if self.word_dropout or self.dropout:
            self.seed_generator = keras.random.SeedGenerator(seed)
        # Ids must not be cast to a float dtype on their way in.
        self.autocast = False
        self.tables: list[Any] = []
        if weights is not None:
            tables = _cut(weights, self.tiers, output_dim, self.name)
            self.build()
            for variable, value in zip(self.tables, tables, strict=True):
                variable.assign(value)

    @classmethod
    def from_counts(
        cls,
        counts: Any,
        output_dim: int,
        density: float | None = None,
        max_parameters: int | None = None,
        blocks: int | None = None,
        reserved: int = 0,
        **kwargs: Any,
    ) -> "TieredEmbedding":
        """A layer whose lengths follow how often words occur, within a budget.

        A vector's length grows with the square root of the count, up to `output_dim`,
        in `blocks` equal steps, and as much of the budget is used as these allow.

        Args:
            counts: How often each id occurs, by id, falling: `input_dim` of them.
            output_dim: Length of the longest vectors, and of the output.
            density: Share of the dense table's weights to keep.
            max_parameters: Or how many weights the table may have. An untied table of
                logits, a bias and a projection come on top.
            blocks: Number of different lengths, 10 by default, more below a density
                of 0.2.
            reserved: How many ids at the beginning are no words, such as padding and
                unknown words. They get the longest vectors.
            **kwargs: As for the constructor.

        Raises:
            ValueError: If the counts do not fall (see `check_order`), or the budget is
                given in no way or in two, or is too small.

        Example:

        >>> counts = [0, 50, 9000, 700, 80, 80, 6, 5, 1, 1]
        >>> layer = TieredEmbedding.from_counts(counts, 8, 0.5, reserved=2)
        >>> layer.tiers
        [(3, 8), (1, 3), (6, 1)]
        """
        geometry.check_order(counts, reserved)
        seen = np.array(counts)
        if (density is None) == (max_parameters is None):
            raise ValueError(
                "Give a budget, `density` or `max_parameters`. Received: "
                f"density={density}, max_parameters={max_parameters}."
            )
        positive("output_dim", output_dim)
        if density is None:
            budget = positive("max_parameters", max_parameters)
            density = min(1.0, budget / (seen.size * output_dim))
        seen[:reserved] = seen.max()
        tiers = geometry.tiers_from_counts(seen, output_dim, density, blocks)
        return cls(seen.size, output_dim, tiers=tiers, **kwargs)

    @classmethod
    def from_vocabulary(
        cls, lookup: Any, output_dim: int, *args: Any, **kwargs: Any
    ) -> "TieredEmbedding":
        """A layer for the ids of a preprocessing layer.

        Args:
            lookup: A `keras.layers.TextVectorization`, `StringLookup` or
                `IntegerLookup` that was adapted, and so has sorted its vocabulary
                from frequent to rare.
            output_dim: Length of the longest vectors, and of the output.
            *args: As for the constructor.
            **kwargs: As for the constructor.

        Raises:
            ValueError: If it has no vocabulary yet, or one that was handed to its
                constructor, whose order nobody knows: check that one with
                `check_order` and pass its size to the constructor here. (What
                `set_vocabulary` was given can't be told from what was learned.) Also
                if it makes anything else than ids.

        Example:

        >>> words = keras.layers.TextVectorization()
        >>> words.adapt(["a rose is a rose"])
        >>> TieredEmbedding.from_vocabulary(words, 64, density=0.25).input_dim
        5
        """
        if not hasattr(lookup, "adapt") or not hasattr(lookup, "vocabulary_size"):
            raise ValueError(
                "`lookup` must be a TextVectorization, StringLookup or IntegerLookup "
                f"layer. Received: {lookup!r}."
            )
        config = lookup.get_config()
        mode = config.get("output_mode", "int")
        if mode != "int" or config.get("invert"):
            made = "words" if config.get("invert") else f"'{mode}' vectors"
            raise ValueError(
                f"'{lookup.name}' makes {made}, and an embedding takes ids: give it "
                "`output_mode='int'`."
            )
        size = lookup.vocabulary_size()
        if _backend.was_handed_vocabulary(lookup):
            raise ValueError(
                f"The vocabulary of '{lookup.name}' was handed to it, and may be in "
                "any order. Look at it with `check_order(counts)`, with the counts of "
                f"your training data, and make the layer as `TieredEmbedding({size}, "
                f"{output_dim}, …)`."
            )
        if not lookup.get_vocabulary(include_special_tokens=False):
            raise ValueError(
                f"'{lookup.name}' has no vocabulary yet. Call its `adapt` on the "
                "training data first."
            )
        return cls(size, output_dim, *args, **kwargs)

    @property
    def embeddings(self) -> Any:
        """The table of the stock layers, if it is one: if there is a single tier."""
        return self._only(self.tables, "embeddings")

    @property
    def reverse_embeddings(self) -> Any:
        """As `embeddings`, of the untied table of logits."""
        return self._only(self.reverse_tables, "reverse_embeddings")

    def _only(self, tables: list[Any], name: str) -> Any:
        if len(tables) == 1:
            return tables[0]
        raise AttributeError(
            f"Layer '{self.name}' has {len(tables)} variables for '{name}', not one. "
            "`to_dense` makes the stock layer of a tiered one."
        )

    @property
    def tiers(self) -> list[geometry.Tier]:
        """`(size, width)` from the most frequent words to the rarest."""
        return geometry.tiers_from_blocks(self.blocks)

    def build(self, input_shape: Any = None) -> None:
        """Creates the table of each block, and what `reverse` needs besides."""
        if self.tables:
            return
        single = len(self.blocks) == 1
        dense = (self.input_dim, self.output_dim)
        self.tables = [
            self.add_weight(
                shape=block,
                initializer=initializers.of_block(
                    self.embeddings_initializer, b, block, dense
                ),
                name="embeddings" if single else f"embeddings_{b}",
                regularizer=self.embeddings_regularizer,
                constraint=self.embeddings_constraint,
            )
            for b, block in enumerate(self.blocks)
        ]
        self.reverse_tables = []
        if not self.tie_weights:
            self.reverse_tables = [
                self.add_weight(
                    shape=(width, size),
                    initializer=initializers.of_block(
                        self.embeddings_initializer,
                        len(self.blocks) + t,
                        (width, size),
                        dense[::-1],
                    ),
                    name="reverse_embeddings" if single else f"reverse_embeddings_{t}",
                )
                for t, (size, width) in enumerate(self.tiers)
            ]
        self.projection_kernel = None
        if self.projection:
            self.projection_kernel = self.add_weight(
                shape=(self.tiers[0][1], self.output_dim),
                initializer="identity",
                name="projection",
            )
        self.bias = None
        if self.reverse_bias:
            self.bias = self.add_weight(
                shape=(self.input_dim,), initializer="zeros", name="reverse_bias"
            )
        self.built = True

    def call(
        self,
        inputs: Any,
        reverse: bool = False,
        targets: Any = None,
        sample_weight: Any = None,
        training: Any = None,
        inputs_mask: Any = None,
    ) -> Any:
        """Looks up `(…)` ids, or turns `(…, output_dim)` states into logits."""
        self._check_dense(inputs)
        if targets is not None:
            loss = self._loss(inputs, targets, sample_weight, training, inputs_mask)
            self.add_loss(loss)
            return loss
        if reverse:
            return self._logits(inputs)
        vectors = self._dropped(self._vectors(inputs), inputs, training)
        if self.mask_zero:
            # Not by `compute_mask`, which is not told of `reverse`.
            _backend.set_mask(vectors, ops.not_equal(inputs, 0))
        return vectors

    def _vectors(self, inputs: Any) -> Any:
        if keras.backend.standardize_dtype(inputs.dtype) not in ("int32", "int64"):
            inputs = ops.cast(inputs, "int32")
        self._check_range(inputs)
        # In a graph Keras counts a negative id from the end.
        own = ops.where(inputs < 0, inputs + self.input_dim, inputs)
        parts = []
        for table, (rows, _) in zip(self.tables, self.blocks, strict=True):
            if rows == self.input_dim:
                # Every id has a row; one that is out of range must not be clipped.
                part = ops.cast(ops.take(table, inputs, axis=0), self.compute_dtype)
            else:
                part = ops.take(table, ops.clip(own, 0, rows - 1), axis=0)
                stored = ops.logical_and(own >= 0, own < rows)
                stored = ops.expand_dims(stored, -1)
                part = ops.multiply(
                    ops.cast(part, self.compute_dtype),
                    ops.cast(stored, self.compute_dtype),
                )
            parts.append(part)
        missing = self.output_dim - sum(width for _, width in self.blocks)
        if missing and self.projection_kernel is None:
            shape = (*ops.shape(inputs), missing)
            parts.append(ops.zeros(shape, dtype=self.compute_dtype))
        vectors = parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
        if self.projection_kernel is None:
            return vectors
        kernel = ops.cast(self.projection_kernel, self.compute_dtype)
        return ops.matmul(vectors, kernel)

    def _dropped(self, vectors: Any, inputs: Any, training: Any) -> Any:
        if not training:
            return vectors
        if self.word_dropout:
            words = ops.ones((self.input_dim,), dtype=self.compute_dtype)
            words = keras.random.dropout(
                words, self.word_dropout, seed=self.seed_generator
            )
            kept = ops.take(words, ops.cast(inputs, "int32"), axis=0)
            vectors = ops.multiply(vectors, ops.expand_dims(kept, -1))
        if self.dropout:
            shape = ops.shape(vectors)
            steps = [1] * max(0, len(shape) - 2)
            vectors = keras.random.dropout(
                vectors,
                self.dropout,
                noise_shape=(*shape[: len(shape) > 1], *steps, shape[-1]),
                seed=self.seed_generator,
            )
        return vectors

    def _check_dense(self, inputs: Any) -> None:
        # Of Keras's symbols, of PyTorch, of TensorFlow, and of JAX.
        flags = (getattr(inputs, name, False) for name in ("sparse", "is_sparse"))
        if any(flag is True for flag in flags) or any(
            hasattr(inputs, name) for name in ("dense_shape", "todense")
        ):
            raise ValueError(
                f"Layer '{self.name}' takes dense tensors. Received a sparse one: "
                f"{inputs!r}. Make it dense first, for example with "
                "`keras.ops.convert_to_tensor(x, sparse=False)`, or with "
                "`keras.Input(..., sparse=False)`."
            )

    def _check_width(self, states: Any) -> None:
        if states.shape[-1] != self.output_dim:
            raise ValueError(
                f"Layer '{self.name}' turns states of {self.output_dim} features into "
                f"logits. Received: states of shape {tuple(states.shape)}. Make the "
                "last layer before it as wide, for example with a Dense."
            )

    def _check_shapes(
        self, states: Any, targets: Any, sample_weight: Any, mask: Any
    ) -> None:
        """Sees that there is one of each for each state, as far as sizes are known."""
        wanted = tuple(states.shape[:-1])
        found = _shape(targets)
        if not _may_be(found, wanted):
            raise ValueError(
                f"Layer '{self.name}' takes one target for each state. Received: "
                f"targets of shape {found} for states of shape {tuple(states.shape)}. "
                f"Give targets of shape {wanted}."
            )
        for name, given in (("sample_weight", sample_weight), ("inputs_mask", mask)):
            if given is None:
                continue
            found = _shape(given)
            shape = found + (1,) * (len(wanted) - len(found))
            if not _may_be(shape, wanted, stretched=True):
                raise ValueError(
                    f"`{name}` of layer '{self.name}' must be one number for each "
                    "state, or for each of their first axes. Received: shape "
                    f"{found} for states of shape {tuple(states.shape)}. Give it the "
                    f"shape {wanted}."
                )

    def _logits(self, states: Any) -> Any:
        self._check_width(states)
        dtype = self.reverse_dtype or self.compute_dtype
        states = ops.cast(states, dtype)
        shape = ops.shape(states)
        # One product of matrices for each tier; of more axes it would be many.
        states = ops.reshape(states, (-1, self.output_dim))
        if self.projection_kernel is not None:
            kernel = ops.cast(self.projection_kernel, dtype)
            states = ops.matmul(states, ops.transpose(kernel))
        parts = [
            ops.matmul(states[:, : kernel.shape[0]], ops.cast(kernel, dtype))
            for kernel in self._reverse_kernels()
        ]
        logits = parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
        if self.bias is not None:
            logits = ops.add(logits, ops.cast(self.bias, dtype))
        if self.logit_soft_cap is not None:
            cap = self.logit_soft_cap
            logits = ops.multiply(ops.tanh(ops.divide(logits, cap)), cap)
        return ops.reshape(logits, (*shape[:-1], self.input_dim))

    def _loss(
        self, states: Any, targets: Any, sample_weight: Any, training: Any, mask: Any
    ) -> Any:
        self._check_width(states)
        targets = ops.cast(targets, "int32")
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, "float32")
        self._check_shapes(states, targets, sample_weight, mask)
        self._check_range(targets)
        shape = ops.shape(states)[:-1]
        if None in (*targets.shape, *states.shape[:-1]):
            # Sizes that only a graph's run knows: to stack is an error unless all are
            # alike, while a sum alone would stretch what is of size 1.
            targets = ops.sum(
                ops.stack([targets, ops.zeros(shape, dtype="int32")]), axis=0
            )

        def of_states(given: Any) -> Any:
            for _ in range(len(shape) - len(given.shape)):
                given = ops.expand_dims(given, -1)
            return ops.broadcast_to(given, shape)

        weights = ops.ones(shape, dtype="float32")
        if mask is not None:
            weights = of_states(ops.cast(mask, "float32"))
        count = ops.sum(weights)
        if sample_weight is not None:
            weights = weights * of_states(sample_weight)
        weights = weights / ops.maximum(count, 1)
        states = ops.reshape(states, (-1, self.output_dim))
        if self.projection_kernel is not None:
            kernel = ops.cast(self.projection_kernel, states.dtype)
            states = ops.matmul(states, ops.transpose(kernel))
        return crossentropy(
            states,
            self._reverse_kernels(),
            self.bias,
            ops.reshape(targets, (-1,)),
            ops.reshape(weights, (-1,)),
            self.logit_soft_cap,
            # Seldom wanted where nothing is trained; of other code nobody knows.
            gradients_now=training is not False,
        )

    def _reverse_kernels(self) -> list[Any]:
        """`(width, size)` for each tier, from frequent to rare."""
        if not self.tie_weights:
            return self.reverse_tables
        # Each block holds the rows of all tiers that are wide enough.
        edges = np.cumsum([size for size, _ in self.tiers]).tolist()
        last = len(self.tables) - 1
        rows = [
            ops.split(table, edges[: last - b], axis=0)
            for b, table in enumerate(self.tables[:last])
        ]
        rows.append([self.tables[last]])
        return [
            ops.transpose(
                ops.concatenate([one[t] for one in rows if t < len(one)], axis=1)
            )
            for t in range(len(self.tables))
        ]

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
        """Of ids `True` where they are not 0, if `mask_zero`; of states their own."""
        ids = "int" in keras.backend.standardize_dtype(inputs.dtype)
        return ops.not_equal(inputs, 0) if self.mask_zero and ids else mask

    def compute_output_shape(
        self, input_shape: Any, reverse: bool = False, targets: Any = None
    ) -> tuple[Any, ...]:
        """`input_shape` with `output_dim` behind it, or in reverse `input_dim`."""
        if targets is not None:
            return ()
        if reverse:
            return (*input_shape[:-1], self.input_dim)
        return (*input_shape, self.output_dim)

    def compute_output_spec(
        self,
        inputs: Any,
        reverse: bool = False,
        targets: Any = None,
        sample_weight: Any = None,
        training: Any = None,
        inputs_mask: Any = None,
    ) -> Any:
        """What a call returns, without computing it."""
        self._check_dense(inputs)
        upward = reverse or targets is not None
        if upward:
            self._check_width(inputs)
        if targets is not None:
            self._check_shapes(inputs, targets, sample_weight, inputs_mask)
        dtype = self.reverse_dtype if upward else None
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape, reverse, targets),
            dtype="float32" if targets is not None else dtype or self.compute_dtype,
        )

    def quantize(self, mode: Any = None, **kwargs: Any) -> None:
        """Raises: a tiered table is quantized when it is exported."""
        raise NotImplementedError(_UNLIKE_STOCK)

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Raises: the differences that LoRA learns are of full length for every id."""
        raise NotImplementedError(_UNLIKE_STOCK)

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
            tie_weights=self.tie_weights,
            reverse_bias=self.reverse_bias,
            projection=self.projection,
            reverse_dtype=self.reverse_dtype,
            logit_soft_cap=self.logit_soft_cap,
            word_dropout=self.word_dropout,
            dropout=self.dropout,
            seed=self.seed,
        )
        return config


def _blocks(
    input_dim: int,
    output_dim: int,
    density: float | None,
    blocks: int | None,
    tiers: Sequence[Sequence[int]] | None,
) -> list[geometry.Block]:
    if tiers is not None:
        if density is not None or blocks is not None:
            raise ValueError(
                "Explicit `tiers` leave nothing to choose: pass no density or blocks "
                f"with them. Received: density={density}, blocks={blocks}."
            )
        return geometry.blocks_from_tiers(tiers, input_dim, output_dim)
    if density is None:
        raise ValueError(
            "Say how long the vectors are: `density` or explicit `tiers`, or let "
            "`TieredEmbedding.from_counts` choose. Received none of them."
        )
    # By way of tiers: blocks of equal rows become one, and a layer restored from its
    # configuration has the same variables.
    found = geometry.blocks_from_density(input_dim, output_dim, density, blocks)
    return geometry.blocks_from_tiers(
        geometry.tiers_from_blocks(found), input_dim, output_dim
    )


def _rate(name: str, rate: Any) -> float:
    number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
    if not number or not 0 <= rate < 1:
        raise ValueError(
            f"`{name}` must lie in [0, 1): it is the share that is dropped. "
            f"Received: {name}={rate!r}."
        )
    return float(rate)


def _shape(given: Any) -> tuple[Any, ...]:
    """Of a tensor or a symbol, or of what will be converted to one."""
    return tuple(given.shape) if hasattr(given, "shape") else np.shape(given)


def _may_be(
    found: tuple[Any, ...], wanted: tuple[Any, ...], stretched: bool = False
) -> bool:
    """Whether one shape may be another, some sizes of which nobody knows yet."""
    return len(found) == len(wanted) and all(
        a is None or b is None or a == b or (stretched and a == 1)
        for a, b in zip(found, wanted, strict=True)
    )


def _cut(
    table: Any, tiers: Sequence[geometry.Tier], output_dim: int, name: str
) -> list[np.ndarray]:
    """The blocks of a dense table, which must be zero everywhere else."""
    if isinstance(table, (list, tuple)) and len(table) and np.ndim(table[0]) == 2:
        if len(table) > 1:
            raise ValueError(
                f"`weights` of layer '{name}' is the table of the lookup, and no more. "
                f"Received: a list of {len(table)}. Give the others with `set_weights` "
                "once the layer is built."
            )
        (table,) = table
    found = ops.convert_to_numpy(ops.cast(ops.convert_to_tensor(table), "float32"))
    shape = (sum(size for size, _ in tiers), output_dim)
    if found.shape != shape:
        raise ValueError(
            f"`weights` of layer '{name}' must be a table of shape {shape}. "
            f"Received: shape {found.shape}."
        )
    lengths = np.repeat([width for _, width in tiers], [size for size, _ in tiers])
    beyond = (found != 0) & (np.arange(output_dim) >= lengths[:, None])
    if beyond.any():
        row, column = np.argwhere(beyond)[0].tolist()
        raise ValueError(
            f"Layer '{name}' stores {lengths[row]} of {output_dim} weights of id "
            f"{row}, but `weights` has {beyond.sum():,} that are not zero beyond its "
            f"tiers, such as [{row}, {column}]. `compress_embedding` makes the nearest "
            "tiered table of a dense one."
        )
    return geometry.cut(found, tiers)
