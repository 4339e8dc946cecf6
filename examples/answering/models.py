"""Bidirectional attention flow, of layers of Keras, as a graph."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import keras_sparse_rnn as ksr
from answering.configurations import CONTEXTUAL, PRUNED, Configuration

# A logit of what is no token: its share of a softmax is exactly zero.
NOTHING = -1e9
INPUTS = ("context", "context_characters", "question", "question_characters")


def build(
    config: Configuration,
    words: int,
    characters: int,
    vectors: np.ndarray | None = None,
    regularizers: Mapping[str, Any] | None = None,
) -> keras.Model:
    """A model that says where in a passage the answer to a question lies.

    Args:
        config: Its sizes.
        words: Size of the vocabulary; word 0 is padding.
        characters: The number of different characters; character 0 is padding.
        vectors: Vectors of the words, `(words, length)`, which are not trained. By
            default vectors of `config.width` are learned.
        regularizers: Of the recurrent kernels of bidirectional layers, by name.

    Returns:
        A model of a passage and a question, each as ids of its words `(batch, tokens)`
        and of their characters `(batch, tokens, config.word_length)`, in the order of
        `INPUTS`. Its outputs are two logits of each token of the passage: that the
        answer begins, and that it ends there. Padding is at the end.
    """
    inputs = [
        keras.Input(shape, dtype="int32", name=name)
        for name, shape in zip(
            INPUTS, [(None,), (None, config.word_length)] * 2, strict=True
        )
    ]
    context, context_characters, question, question_characters = inputs
    context_there = ops.not_equal(context, 0)
    question_there = ops.not_equal(question, 0)

    embed = _Embedding(config, words, characters, vectors)
    contextual, first, second, output = (
        _both_ways(config, name, (regularizers or {}).get(name))
        for name in (CONTEXTUAL, *PRUNED)
    )
    h, u = (
        # Zero at padding, as in the paper's code; and no layer need pass a mask on.
        ops.multiply(
            contextual(_dropout(config, embed(*ids)), mask=there),
            ops.expand_dims(ops.cast(there, keras.config.floatx()), -1),
        )
        for ids, there in (
            ((context, context_characters), context_there),
            ((question, question_characters), question_there),
        )
    )
    p0 = attention_flow(h, u, context_there, question_there)

    g0 = first(_dropout(config, p0), mask=context_there)
    g1 = second(_dropout(config, g0), mask=context_there)
    start = _logits(config, "start", [g1, p0], context_there)
    # What is read where the answer seems to begin, for every token.
    share = ops.softmax(start, axis=-1)
    beginning = ops.einsum("bt,btd->bd", share, g1)
    every = ops.expand_dims(ops.cast(context_there, beginning.dtype), -1)
    a1i = ops.multiply(every, ops.expand_dims(beginning, 1))
    product = layers.Multiply()([g1, a1i])
    together = layers.Concatenate()([p0, g1, a1i, product])
    g2 = output(_dropout(config, together), mask=context_there)
    end = _logits(config, "end", [g2, p0], context_there)
    return keras.Model(inputs, [start, end], name="attention_flow")


def attention_flow(h: Any, u: Any, context_there: Any, question_there: Any) -> Any:
    """What each token of a passage and the question have to do with each other.

    The similarity of the tokens t and j is `w·[h_t, u_j, h_t * u_j]`.

    Args:
        h: The passage, `(batch, tokens, features)`.
        u: The question, in the same way.
        context_there: Which tokens of the passage are no padding.
        question_there: The same of the question.

    Returns:
        For each token of the passage `[h, a, h * a, h * b]`: `a` is the question as
        that token sees it, and `b` the passage as the question does.
    """
    weighed = layers.EinsumDense(
        "btd,d->btd", (None, h.shape[-1]), name="attention_both"
    )
    own = layers.Dense(1, name="attention_context")(h)
    theirs = layers.Dense(1, use_bias=False, name="attention_question")(u)
    both = ops.einsum("btd,bjd->btj", weighed(h), u)
    similar = own + ops.transpose(theirs, (0, 2, 1)) + both
    similar = ops.where(ops.expand_dims(question_there, 1), similar, NOTHING)
    asked = ops.einsum("btj,bjd->btd", ops.softmax(similar, axis=-1), u)
    # Less than a question without words gives.
    most = ops.where(context_there, ops.max(similar, axis=-1), 2 * NOTHING)
    told = ops.einsum("bt,btd->bd", ops.softmax(most, axis=-1), h)
    return layers.Concatenate()(
        [
            h,
            asked,
            layers.Multiply()([h, asked]),
            ops.multiply(h, ops.expand_dims(told, 1)),
        ]
    )


class _Embedding:
    """Words by their vectors and their characters, through two highway layers."""

    def __init__(
        self,
        config: Configuration,
        words: int,
        characters: int,
        vectors: np.ndarray | None,
    ):
        self.config = config
        self.words: Any
        if vectors is not None:
            self.words = layers.Embedding(
                *vectors.shape,
                embeddings_initializer=keras.initializers.Constant(vectors),
                trainable=False,
                name="words",
            )
        elif config.density is not None:
            self.words = ksr.TieredEmbedding(
                words, config.width, density=config.density, blocks=10, name="words"
            )
        else:
            self.words = layers.Embedding(words, config.width, name="words")
        self.characters = layers.Embedding(
            characters, config.character_width, name="characters"
        )
        self.filters = layers.Conv2D(
            config.width, (1, config.height), activation="relu", name="filters"
        )
        length = config.width + self.words.output_dim
        self.highway = [
            (
                layers.Dense(length, "relu", name=f"highway_{number}"),
                layers.Dense(length, "sigmoid", name=f"highway_{number}_gate"),
            )
            for number in (1, 2)
        ]

    def __call__(self, words: Any, characters: Any) -> Any:
        spelled = _dropout(self.config, self.characters(characters))
        spelled = ops.max(self.filters(spelled), axis=2)
        x = layers.Concatenate()([spelled, self.words(words)])
        for new, gate in self.highway:
            share = gate(x)
            x = share * new(x) + (1.0 - share) * x
        return x


def _dropout(config: Configuration, x: Any) -> Any:
    return layers.Dropout(config.dropout)(x)


def _logits(config: Configuration, name: str, parts: list[Any], there: Any) -> Any:
    x = _dropout(config, layers.Concatenate()(parts))
    logits = ops.squeeze(layers.Dense(1, name=f"{name}_logits")(x), -1)
    return ops.where(there, logits, NOTHING)


def _both_ways(config: Configuration, name: str, regularizer: Any) -> Any:
    """A bidirectional LSTM, grouped if the configuration says so."""
    groups = dict(config.groups).get(name)
    forth, back = config.sizes()[name]

    def side(units: int, backwards: bool = False) -> Any:
        more: dict[str, Any] = {
            "return_sequences": True,
            "go_backwards": backwards,
            "recurrent_regularizer": regularizer,
        }
        if groups is None:
            return layers.LSTM(units, **more)
        return ksr.GroupedLSTM(units, groups, **more)

    if forth == back:
        return layers.Bidirectional(side(forth), name=name)
    return ksr.UnevenBidirectional(
        side(forth), backward_layer=side(back, backwards=True), name=name
    )


def again(
    model: keras.Model, dropout: float, regularizers: Mapping[str, Any]
) -> keras.Model:
    """A trained model, of whatever sizes, to be trained on.

    Args:
        model: The model.
        dropout: Its rate from now on.
        regularizers: Of the recurrent kernels of bidirectional layers, by name.
    """

    def copied(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, layers.Dropout):
            config["rate"] = dropout
        if layer.name in regularizers:
            own = keras.saving.serialize_keras_object(regularizers[layer.name])
            for side in ("layer", "backward_layer"):
                config[side]["config"]["recurrent_regularizer"] = own
        return type(layer).from_config(config)

    found = keras.models.clone_model(model, clone_function=copied)
    found.set_weights(model.get_weights())
    return found


def sizes_of(model: keras.Model) -> dict[str, list[int]]:
    """Forward and backward units of each bidirectional layer."""
    found = {}
    for name in (CONTEXTUAL, *PRUNED):
        layer = model.get_layer(name)
        found[name] = [layer.forward_layer.units, layer.backward_layer.units]
    return found


def units_of(model: keras.Model) -> list[int]:
    """The units of the six LSTMs, as papers list them."""
    sizes = sizes_of(model)
    return [units for name in PRUNED for units in sizes[name]]


def for_lengths(model: keras.Model, context: int, question: int) -> keras.Model:
    """A copy for one question of given lengths at a time, as it is exported."""
    inputs = [
        keras.Input(
            batch_shape=(1, length, *tensor.shape[2:]), dtype="int32", name=tensor.name
        )
        for tensor, length in zip(
            model.inputs, (context, context, question, question), strict=True
        )
    ]
    found = keras.models.clone_model(model, input_tensors=inputs)
    found.set_weights(model.get_weights())
    return found
