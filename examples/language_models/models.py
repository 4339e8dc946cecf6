"""Language models of stock layers and of `keras_sparse_rnn`."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

import keras_sparse_rnn as ksr
from language_models.configurations import Configuration

# What `build` is told of weights' regularizers and constraints, by their arguments.
Extra = dict[str, Any]


def build(
    config: Configuration,
    words: int,
    seed: int = 0,
    extra: dict[str, Extra] | None = None,
) -> keras.Model:
    """A model for training, not compiled, with states that are carried on.

    Args:
        config: Which.
        words: Size of the vocabulary.
        seed: Of dropout. (With PyTorch a run that goes on draws the masks that it
            would have drawn only where layers have seeds of their own.)
        extra: More arguments of the "table", of the "recurrent" layers, and of the
            "output", the dense layer at the end of an untied model.

    Returns:
        A model of `(batch, steps)` ids. If untied its output are logits; if tied it has
        the targets as a second input, makes the loss itself, and returns it. Layers:
        "words", "recurrent_1" and so on, "hidden" the last ones before the logits, and
        "next_word" if untied.
    """
    ids = keras.Input(batch_shape=(config.batch, None), dtype="int32", name="ids")
    more = {"table": {}, "recurrent": {}, "output": {}, **(extra or {})}
    seeds = itertools.count(1000 * seed)
    table: Any
    if config.tied:
        # The paper and its code draw the table within 0.1, whatever else.
        near = _uniform(0.1 if config.scale is None else config.scale)
        table = ksr.TieredEmbedding(
            words,
            config.embedding,
            density=config.density or 1.0,
            blocks=config.blocks if config.density else 1,
            embeddings_initializer=near,
            embeddings_regularizer=_l2(config),
            word_dropout=config.word_dropout,
            reverse_bias=True,
            seed=next(seeds),
            name="words",
            **more["table"],
        )
    else:
        table = keras.layers.Embedding(
            words,
            config.embedding,
            embeddings_initializer=_uniform(config.scale),
            name="words",
            **more["table"],
        )
    x = table(ids)
    if not config.depth:
        x = _dropout(config, config.input_dropout, x, next(seeds))
    layers = _recurrent(config, seeds, more["recurrent"])
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        x = layer(x)
        rate = config.output_dropout if last else config.hidden_dropout
        x = _dropout(config, rate, x, next(seeds), last)
    if not config.tied:
        dense = keras.layers.Dense(
            words,
            # One of its own: an initializer draws the same values each time.
            kernel_initializer=_uniform(config.scale),
            name="next_word",
            **more["output"],
        )
        return keras.Model(ids, dense(x), name="language_model")
    following = keras.Input(
        batch_shape=(config.batch, None), dtype="int32", name="following"
    )
    loss = table(x, targets=following)
    return keras.Model([ids, following], loss, name="language_model")


def _uniform(scale: float | None) -> keras.initializers.Initializer:
    if scale is None:
        # Of a kernel for four gates: within 1 / sqrt(units).
        return keras.initializers.VarianceScaling(4 / 3, "fan_out", "uniform")
    return keras.initializers.RandomUniform(-scale, scale)


def _l2(config: Configuration) -> Any:
    return keras.regularizers.L2(config.l2 / 2) if config.l2 else None


def _dropout(
    config: Configuration, rate: float, x: Any, seed: int, last: bool = False
) -> Any:
    extra: dict[str, Any] = {"name": "hidden"} if last else {}
    if last and config.alpha:
        extra["activity_regularizer"] = ksr.ActivationRegularizer(config.alpha)
    # Locked: one mask for all steps of a sequence.
    shape = (None, 1, None) if config.locked else None
    return keras.layers.Dropout(rate, shape, seed, **extra)(x)


def _recurrent(
    config: Configuration, seeds: Iterator[int], extra: Extra
) -> Sequence[keras.layers.Layer]:
    common: dict[str, Any] = {
        "kernel_initializer": _uniform(config.scale),
        "recurrent_initializer": _uniform(config.scale),
        "return_sequences": True,
        "stateful": True,
    }
    if config.depth:
        return [
            ksr.RecurrentHighway(
                units,
                config.depth,
                bias_initializer=_uniform(config.scale),
                dropout=config.input_dropout,
                recurrent_dropout=config.recurrent_dropout,
                seed=next(seeds),
                name=f"recurrent_{number}",
                **{
                    "kernel_regularizer": _l2(config),
                    "recurrent_regularizer": _l2(config),
                    **common,
                    # A lasso takes the place of the weak L2.
                    **extra,
                },
            )
            for number, units in enumerate(config.units, 1)
        ]
    layers = []
    plans = zip(config.units, config.groups(), strict=True)
    for number, (units, budget) in enumerate(plans, 1):
        own = {**common, **extra}
        if config.beta and number == len(config.units):
            own["activity_regularizer"] = ksr.TemporalActivationRegularizer(config.beta)
        # Of one group it computes what `keras.layers.LSTM` does, and trains faster on
        # a CPU.
        layers.append(
            ksr.GroupedLSTM(
                units,
                groups=budget.groups if budget else 1,
                input_density=budget.input_density if budget else 1.0,
                weight_drop=config.weight_drop,
                unit_forget_bias=False,
                seed=next(seeds),
                name=f"recurrent_{number}",
                **own,
            )
        )
    return layers


def compiled(model: keras.Model, config: Configuration) -> keras.Model:
    """Compiled with the SGD of the configuration."""
    kind: Any = ksr.AveragedSGD if config.averaging else keras.optimizers.SGD
    optimizer = kind(
        config.rate,
        momentum=config.momentum,
        global_clipnorm=config.clip,
        weight_decay=config.weight_decay or None,
    )
    loss = None
    if not config.tied:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Windows of many lengths would each be compiled; and on a CPU XLA is no faster.
    traced = keras.backend.backend() == "tensorflow"
    model.compile(optimizer, loss, jit_compile=False if traced else "auto")
    return model


def recurrent_layers(model: keras.Model) -> list[Any]:
    """The recurrent layers, first to last."""
    return [layer for layer in model.layers if isinstance(layer, keras.layers.RNN)]


def units_of(model: keras.Model) -> list[int]:
    """The units of each recurrent layer."""
    return [layer.units for layer in recurrent_layers(model)]


def to_logits(model: keras.Model) -> keras.Model:
    """The same layers as a model from ids to logits, as it is shipped."""
    ids = model.inputs[0]
    if len(model.inputs) == 1:
        return keras.Model([ids], model.outputs[0], name="language_model")
    hidden = model.get_layer("hidden").output
    return keras.Model(
        [ids],
        model.get_layer("words")(hidden, reverse=True),
        name="language_model",
    )


def rebatched(
    model: keras.Model, batch: int, steps: int | None = None, stateful: bool = True
) -> keras.Model:
    """A copy from ids to logits, for another number of rows."""
    source = to_logits(model)
    ids = keras.Input(batch_shape=(batch, steps), dtype="int32", name="ids")

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.layers.RNN):
            config["stateful"] = stateful
        return type(layer).from_config(config)

    found = keras.models.clone_model(source, input_tensors=[ids], clone_function=copy)
    found.set_weights(source.get_weights())
    return found


class Reader:
    """Reads a text with a model, and tells how surprised it is.

    Args:
        model: From ids to logits, stateful.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.rows = model.inputs[0].shape[0]
        following = keras.Input(batch_shape=(self.rows, None), dtype="int32")
        logits = ops.cast(model.outputs[0], "float32")
        own = ops.take_along_axis(logits, ops.expand_dims(following, -1), axis=-1)
        surprise = ops.logsumexp(logits, axis=-1) - ops.squeeze(own, -1)
        best = ops.cast(ops.argmax(logits, axis=-1), "int32")
        right = ops.cast(ops.equal(best, following), "float32")
        self._read = keras.Model([model.inputs[0], following], [surprise, right])

    def read(self, texts: Sequence[np.ndarray], end: int, chunk: int) -> Any:
        """Of each text the mean cross-entropy of every word, and the accuracy.

        Args:
            texts: One for each row of the model. What comes before the first word of a
                text is the end of a line.
            end: The id of that.
            chunk: Words of each text that are read at a time.

        Returns:
            Two lists of floats.
        """
        longest = max(len(text) for text in texts)
        longest += -longest % chunk
        ids = np.full((len(texts), longest), end, "int32")
        counts = np.zeros((len(texts), longest))
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            counts[row, : len(text)] = 1
        before = np.concatenate(
            [np.full((len(texts), 1), end, "int32"), ids[:, :-1]], axis=1
        )
        self._forget()
        sums = np.zeros((2, len(texts)))
        for begin in range(0, longest, chunk):
            here = slice(begin, begin + chunk)
            found = self._read.predict_on_batch([before[:, here], ids[:, here]])
            for number, values in enumerate(found):
                sums[number] += (np.asarray(values) * counts[:, here]).sum(axis=1)
        self._forget()
        # Of no words at all nothing is known; nobody asks for it.
        return [list(one / np.maximum(counts.sum(axis=1), 1)) for one in sums]

    def cross_entropy(self, text: np.ndarray, end: int, chunk: int) -> float:
        """The mean over all words of one text, which the rows read side by side.

        Each row begins with nothing in mind, so it is a little more than what a single
        reader would have; but it takes a fraction of the time.
        """
        parts = np.array_split(text, self.rows)
        found, _ = self.read(parts, end, chunk)
        sizes = [len(part) for part in parts]
        return float(np.average(found, weights=sizes))

    def _forget(self) -> None:
        for layer in recurrent_layers(self.model):
            layer.reset_state()


def with_units(config: Configuration, units: Sequence[int]) -> Configuration:
    """The same with other numbers of units, all of them dense.

    A tied model's vectors are as long as the last layer is wide, and so are the states
    of a highway layer.
    """
    embedding = units[-1] if config.tied else config.embedding
    return replace(
        config,
        units=tuple(units),
        embedding=embedding,
        dense_units=None,
        dense_embedding=None,
    )
