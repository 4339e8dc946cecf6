"""Which layers pruning follows, and what it says where it can't."""

import functools
import signal

import conftest
import keras
import numpy as np
import pytest
from chains import (
    FEATURES,
    TIME,
    array,
    chain,
    component,
    inputs,
    kill,
    mask,
    recurrent,
    recurrent_of,
)
from keras import layers, ops

from keras_sparse_rnn import (
    GroupedGRU,
    GroupedLSTM,
    GroupedSimpleRNN,
    ISSPruning,
    RecurrentHighway,
    Rule,
    TieredEmbedding,
    UnevenBidirectional,
    WeightDropLSTM,
    register_rule,
    shrink,
)
from keras_sparse_rnn.iss.rules import registry
from keras_sparse_rnn.iss.trace import trace


@pytest.fixture(autouse=True)
def _no_endless_walk():
    """A walk that never ends must fail, not hang."""

    def stop(*_):
        raise TimeoutError("the walk through the model does not end")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def sequences(units, name, **arguments):
    return layers.LSTM(units, return_sequences=True, name=name, **arguments)


def functional(body):
    start = keras.Input((None, FEATURES))
    return keras.Model(start, body(start))


def sizes(model, ignore=()):
    """Weights of the first component of each family that can be pruned."""
    return {f.name: int(f.sizes()[0]) for f in trace(model, ignore).prunable}


def agree(model, dead, x=None):
    """Kills by hand, shrinks, and compares; `dead` is `[(layer, readers, units)]`."""
    x = inputs() if x is None else x
    for layer, readers, units in dead:
        kill(layer, readers, units)
    small = shrink(model)
    ours, theirs = keras.tree.flatten(small(x)), keras.tree.flatten(model(x))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(array(a), array(b), atol=1e-5)
    assert small.count_params() < model.count_params()
    return small


def equal(small, model, x):
    ours, theirs = keras.tree.flatten(small(x)), keras.tree.flatten(model(x))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(array(a), array(b), atol=1e-5)


def masked_equals_shrunk(model, x=None, ignore=()):
    """Masks some components, shrinks, and compares."""
    left = mask(model, ignore=ignore)
    small = shrink(model, ignore)
    equal(small, model, inputs() if x is None else x)
    assert small.count_params() < model.count_params()
    for family in trace(small, ignore).families:
        for layer in family.layers:
            assert len(layer.component) == left[layer.name]


# What it can follow.


def test_language_model_of_the_paper():
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            TieredEmbedding(50, 8, density=0.5),
            layers.Dropout(0.5),
            sequences(6, "first"),
            layers.Dropout(0.5),
            sequences(6, "second"),
            layers.TimeDistributed(layers.Dense(50)),
        ]
    )
    # 4(in + h) columns, 4h of the row, what the reader takes; crossing once.
    assert sizes(model) == {
        "first": 4 * (8 + 6) + 4 * 6 + 4 * 6 - 4,
        "second": 4 * (6 + 6) + 4 * 6 + 50 - 4,
    }


@pytest.mark.parametrize(
    "between",
    [
        layers.Dropout(0.1),
        layers.SpatialDropout1D(0.1),
        layers.GaussianNoise(0.1),
        layers.GaussianDropout(0.1),
        layers.AlphaDropout(0.1),
        layers.ActivityRegularization(0.1),
        layers.Identity(),
        layers.ReLU(),
        layers.LeakyReLU(),
        layers.ELU(),
        layers.PReLU("random_normal", shared_axes=[1], name="slopes"),
        layers.Activation("tanh"),
        layers.TimeDistributed(layers.Dropout(0.1)),
    ],
    ids=lambda layer: layer.name,
)
def test_units_pass_through_what_works_on_each_feature(between):
    reader, first = layers.Dense(3), sequences(6, "r")
    model = functional(lambda x: reader(between(first(x))))
    agree(model, [(first, [reader], [1, 4])])


def test_activation_of_unit_zero_that_is_not_zero_does_not_leak():
    # sigmoid(0) is a half: a dead unit must be dead because nobody reads it.
    reader, first = layers.Dense(3), layers.LSTM(6)
    model = functional(lambda x: reader(layers.Activation("sigmoid")(first(x))))
    agree(model, [(first, [reader], [0, 5])])


def test_two_readers_share_the_units():
    first, left, right = layers.LSTM(6, name="r"), layers.Dense(3), layers.Dense(4)

    def body(x):
        units = first(x)
        return [left(units), right(layers.Dropout(0.5)(units))]

    model = functional(body)
    assert sizes(model) == {"r": 4 * (FEATURES + 6) + 4 * 6 - 4 + 3 + 4}
    found = trace(model)
    for unit in range(6):
        own = component(first, [left, right], unit).astype("float64")
        assert found.families[0].squared_norms(found.values())[unit] == (
            pytest.approx((own**2).sum(), rel=1e-6)
        )
    kill(first, [left], [1])
    assert not trace(model).families[0].dead(trace(model).values())[1]
    agree(model, [(first, [left, right], [1, 2])])


def test_an_lstm_and_a_dense_may_read_the_same_units():
    first, second = sequences(6, "r"), layers.LSTM(4, name="s")
    side, head = layers.Dense(3), layers.Dense(2)

    def body(x):
        units = first(x)
        return [side(units), head(second(units))]

    agree(
        functional(body),
        [(first, [second, side], [0, 3]), (second, [head], [1])],
    )


@pytest.mark.parametrize("spec", [4, (4, 2, 0.5), (4, [1, 3], 1.0)])
def test_states_that_nobody_reads_do_not_matter(spec):
    first, head = recurrent(spec, return_state=True, name="r"), layers.Dense(2)
    agree(functional(lambda x: head(first(x)[0])), [(first, [head], [1])])


def test_reading_the_last_state_counts_as_reading_the_units():
    first, head = layers.LSTM(4, return_state=True, name="r"), layers.Dense(2)
    model = functional(lambda x: head(first(x)[2]))
    agree(model, [(first, [head], [1])])


def test_nested_model_that_ends_in_units():
    first, head = layers.LSTM(6, name="r"), layers.Dense(2)
    inner = keras.Sequential([keras.Input((None, FEATURES)), first])
    model = keras.Sequential([keras.Input((None, FEATURES)), inner, head])
    agree(model, [(first, [head], [2])])


def nested(kind, *stack):
    if kind == "Sequential":
        return keras.Sequential([keras.Input((None, FEATURES)), *stack])
    return functional(lambda x: functools.reduce(lambda y, f: f(y), stack, x))


@pytest.mark.parametrize("outer", ["Sequential", "Functional"])
@pytest.mark.parametrize("inner", ["Sequential", "Functional"])
def test_nested_model_in_the_middle(outer, inner):
    first, head = sequences(6, "r"), layers.Dense(2)
    agree(
        nested(outer, nested(inner, layers.Dense(FEATURES), first), head),
        [(first, [head], [2])],
    )


def test_layers_of_two_nested_models_may_have_the_same_name():
    parts = [
        [sequences(5, "lstm"), layers.Dense(FEATURES, name="dense")] for _ in range(2)
    ]
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            *(
                keras.Sequential([keras.Input((None, FEATURES)), *part], name=name)
                for part, name in zip(parts, ("one", "two"), strict=True)
            ),
        ]
    )
    agree(model, [(parts[0][0], [parts[0][1]], [2])])


def test_a_model_of_some_layers_of_another():
    start = keras.Input((None, FEATURES))
    first, head = sequences(6, "r"), layers.Dense(2)
    middle = first(start)
    whole = keras.Model(start, head(layers.LSTM(3, name="s")(middle)))
    other = keras.Model(start, layers.Dense(4)(middle))
    assert set(sizes(whole)) == {"r", "s"}
    assert sizes(other) == {"r": 4 * (FEATURES + 6) + 4 * 6 - 4 + 4}


def test_a_mask_says_when_units_are_read_not_by_whom():
    start = keras.Input((None,), dtype="int32")
    embedded = layers.Embedding(9, FEATURES, mask_zero=True)(start)
    first, second, head = sequences(6, "r"), layers.LSTM(4, name="s"), layers.Dense(2)
    model = keras.Model(start, head(second(first(embedded))))
    x = np.array([[1, 2, 0, 0], [3, 4, 5, 6]])
    agree(model, [(first, [second], [0]), (second, [head], [3])], x)


def test_an_explicit_mask():
    start, mask = keras.Input((4, FEATURES)), keras.Input((4,), dtype="bool")
    first, head = layers.LSTM(6, name="r"), layers.Dense(2)
    model = keras.Model([start, mask], head(first(start, mask=mask)))
    x = [inputs(2), np.array([[True, True, False, False], [True] * 4])]
    agree(model, [(first, [head], [0, 1])], x)


@pytest.mark.parametrize("spec", [(4, 2, 0.5), (6, 3, 0.6), (5, [1, 4], 1.0)])
def test_windows_of_a_grouped_reader_follow(spec):
    model = chain(6, spec)
    small = agree(model, [(*recurrent_of(model)[0], [1, 2])])
    assert small.get_layer("r0").units == 4


def test_explicit_windows_with_a_gap_follow():
    first = sequences(6, "r")
    second = GroupedLSTM(4, 2, input_segments=[(0, 2), (4, 6)])
    head = layers.Dense(2)
    model = functional(lambda x: head(second(first(x))))
    # Nobody reads units 2 and 3, so they may go: the second window moves.
    small = agree(model, [(first, [second], [2, 3])])
    assert small.layers[2].input_segments == [(0, 2), (2, 4)]


# Each takes a sequence; its output goes to a Dense.
WORKS = {
    # Recurrent layers.
    "GRU": lambda x: layers.GRU(6)(x),
    "GRU of two biases": lambda x: layers.GRU(6, reset_after=True)(x),
    "GRU of one bias": lambda x: layers.GRU(6, reset_after=False)(x),
    "SimpleRNN": lambda x: layers.SimpleRNN(6)(x),
    "GroupedGRU": lambda x: GroupedGRU(6, 2)(gru(6)(x)),
    "GroupedSimpleRNN": lambda x: GroupedSimpleRNN(6, 3, 0.5)(gru(6)(x)),
    "WeightDropLSTM": lambda x: WeightDropLSTM(6)(x),
    "RecurrentHighway": lambda x: RecurrentHighway(6, depth=2)(lstm(4)(x)),
    "RNN": lambda x: layers.RNN(layers.LSTMCell(6))(x),
    "stacked cells": lambda x: layers.RNN(
        [layers.LSTMCell(6), layers.GRUCell(4), layers.SimpleRNNCell(5)]
    )(x),
    "GRU between": lambda x: lstm(4)(gru(6)(lstm(4)(x))),
    "go backwards": lambda x: layers.LSTM(6, go_backwards=True)(x),
    **{
        f"Bidirectional {mode}": lambda x, mode=mode: layers.Bidirectional(
            layers.LSTM(4, return_sequences=True), merge_mode=mode
        )(gru(4)(x))
        for mode in ("concat", "sum", "mul", "ave")
    },
    "Bidirectional GRU": lambda x: layers.Bidirectional(layers.GRU(4))(x),
    "Bidirectional, not merged": lambda x: layers.Concatenate()(
        layers.Bidirectional(layers.GRU(4), merge_mode=None)(x)
    ),
    "Bidirectional states": lambda x: layers.Concatenate()(
        layers.Bidirectional(layers.LSTM(4, return_state=True))(x)[1:]
    ),
    "Bidirectional of two kinds": lambda x: layers.Bidirectional(
        layers.LSTM(4), backward_layer=layers.GRU(4, go_backwards=True)
    )(x),
    "UnevenBidirectional": lambda x: UnevenBidirectional(
        layers.LSTM(6), backward_layer=layers.GRU(4, go_backwards=True)
    )(x),
    # Layers that tie units.
    "Add": lambda x: layers.Add()([lstm(4)(x), gru(4)(x)]),
    "Add to itself": lambda x: on_six(lambda y: layers.Add()([y, y]), x),
    "residual": lambda x: on_six(lambda y: y + gru(6)(y), x),
    "Subtract": lambda x: layers.Subtract()([lstm(4)(x), gru(4)(x)]),
    "Multiply": lambda x: layers.Multiply()([lstm(4)(x), gru(4)(x)]),
    "Average": lambda x: layers.Average()([lstm(4)(x), gru(4)(x)]),
    "Maximum": lambda x: layers.Maximum()([lstm(4)(x), gru(4)(x)]),
    "Minimum": lambda x: layers.Minimum()([lstm(4)(x), gru(4)(x)]),
    "Dot": lambda x: layers.Dot(2)([lstm(4)(x), gru(4)(x)]),
    "Dot, normalized, of vectors": lambda x: layers.Dot(1, normalize=True)(
        [layers.LSTM(4)(x), layers.GRU(4)(x)]
    ),
    "Attention": lambda x: layers.Attention()([lstm(4)(x), gru(4)(x)]),
    "Attention with a scale": lambda x: layers.Attention(use_scale=True)(
        [lstm(4)(x), gru(4)(x)]
    ),
    "Attention with a key": lambda x: layers.Attention()(
        [lstm(4)(x), lstm(6)(x), gru(4)(x)]
    ),
    "AdditiveAttention": lambda x: layers.AdditiveAttention()([lstm(4)(x), gru(4)(x)]),
    # Layers that read, move or keep them.
    "Concatenate": lambda x: layers.Concatenate()([lstm(4)(x), x, gru(6)(x)]),
    "Concatenate with itself": lambda x: on_six(
        lambda y: layers.Concatenate()([y, y]), x
    ),
    "Concatenate over time": lambda x: layers.Concatenate(1)([lstm(4)(x), gru(4)(x)]),
    "BatchNormalization": lambda x: on_six(layers.BatchNormalization(), x),
    "Flatten": lambda x: on_six(layers.Flatten(), x),
    "Reshape": lambda x: on_six(layers.Reshape((TIME, 3, 2)), x),
    "Reshape to one": lambda x: on_six(layers.Reshape((TIME * 6,)), x),
    "Permute": lambda x: layers.Permute((2, 1))(on_six(layers.Permute((2, 1)), x)),
    "RepeatVector": lambda x: layers.RepeatVector(3)(layers.LSTM(6)(x)),
    "GlobalAveragePooling1D": lambda x: on_six(layers.GlobalAveragePooling1D(), x),
    "GlobalMaxPooling1D": lambda x: on_six(layers.GlobalMaxPooling1D(keepdims=True), x),
    "MaxPooling1D": lambda x: on_six(layers.MaxPooling1D(), x),
    "AveragePooling1D": lambda x: on_six(layers.AveragePooling1D(2), x),
    "UpSampling1D": lambda x: on_six(layers.UpSampling1D(), x),
    "ZeroPadding1D": lambda x: on_six(layers.ZeroPadding1D(), x),
    "Cropping1D": lambda x: on_six(layers.Cropping1D(), x),
    "Conv1D": lambda x: on_six(layers.Conv1D(3, 2), x),
    "Conv1D between": lambda x: lstm(4)(on_six(layers.Conv1D(3, 2), x)),
    "EinsumDense": lambda x: on_six(
        layers.EinsumDense("btu,uhk->bthk", (None, 2, 3), bias_axes="hk"), x
    ),
    "EinsumDense with an ellipsis": lambda x: on_six(
        layers.EinsumDense("...u,uk->...k", 3, activation="tanh"), x
    ),
    "MultiHeadAttention": lambda x: on_six(
        lambda y: layers.MultiHeadAttention(2, 3)(y, y), x
    ),
    "MultiHeadAttention, residual": lambda x: on_six(
        lambda y: y + layers.MultiHeadAttention(2, 3)(y, y), x
    ),
    "Masking": lambda x: lstm(4)(on_six(layers.Masking(), x)),
    "Softmax over time": lambda x: on_six(layers.Softmax(axis=1), x),
    "Rescaling": lambda x: on_six(layers.Rescaling(2.0, 0.5), x),
    "Rescaling of each": lambda x: on_six(
        layers.Rescaling(np.arange(6.0), [0, 0, 1, 1, 2, 2]), x
    ),
    "UnitNormalization": lambda x: on_six(layers.UnitNormalization(), x),
    "Dense tanh between": lambda x: lstm(4)(
        on_six(layers.Dense(FEATURES, activation="tanh"), x)
    ),
    "TimeDistributed Dense": lambda x: on_six(
        layers.TimeDistributed(layers.Dense(3)), x
    ),
    "TimeDistributed Reshape": lambda x: on_six(
        lambda y: layers.Flatten()(layers.TimeDistributed(layers.Reshape((3, 2)))(y)),
        x,
    ),
    "TimeDistributed Flatten": lambda x: on_six(
        lambda y: layers.TimeDistributed(layers.Flatten())(
            layers.Reshape((4, 3, 2))(y)
        ),
        x,
    ),
    "shared layer": lambda x: shared(lstm(4), x, layers.Dense(FEATURES)(x)),
    "shared Dense": lambda x: shared(layers.Dense(3), lstm(4)(x), gru(4)(x)),
    "shared model": lambda x: shared(nest(lstm(6)), x, layers.Dense(FEATURES)(x)),
    "model that reads twice": lambda x: shared(
        nest(lstm(6)), lstm(FEATURES)(x), gru(FEATURES)(x)
    ),
    "states of an encoder": lambda x: gave_states(layers.LSTM, lstm(6), x),
    "states of a GRU": lambda x: gave_states(layers.GRU, gru(6), x),
    "states of a grouped one": lambda x: gave_states(
        GroupedLSTM,
        GroupedLSTM(6, [2, 4], return_sequences=True),
        x,
        groups=[2, 4],
    ),
    # Operations.
    "plus": lambda x: on_six(lambda y: y + 1.0, x),
    "one plus": lambda x: on_six(lambda y: 1.0 + y, x),
    "plus an array": lambda x: on_six(lambda y: y + np.arange(6, dtype="float32"), x),
    "times an array": lambda x: on_six(lambda y: y * np.ones((TIME, 6), "float32"), x),
    "minus": lambda x: lstm(4)(x) - gru(4)(x),
    "divided": lambda x: on_six(lambda y: y / (2.0 + y * y), x),
    "power": lambda x: on_six(lambda y: y**2, x),
    "gate for all": lambda x: lstm(4)(x) * layers.Dense(1)(x),
    "where": lambda x: on_six(lambda y: ops.where(y > 0.0, y, 0.1 * y), x),
    "last step": lambda x: on_six(lambda y: y[:, -1], x),
    "some units": lambda x: on_six(lambda y: y[:, :, 1:4], x),
    "an ellipsis": lambda x: on_six(lambda y: y[..., 2:], x),
    "backwards": lambda x: on_six(lambda y: y[..., ::-1], x),
    "a new axis": lambda x: on_six(lambda y: y[:, None], x),
    "tanh": lambda x: on_six(ops.tanh, x),
    "exp": lambda x: on_six(ops.exp, x),
    "relu": lambda x: on_six(ops.relu, x),
    "sigmoid": lambda x: on_six(ops.sigmoid, x),
    "cast": lambda x: on_six(lambda y: ops.cast(y, "float32"), x),
    "clip": lambda x: on_six(lambda y: ops.clip(y, -0.1, 0.2), x),
    "mean over time": lambda x: on_six(lambda y: ops.mean(y, axis=1), x),
    "max over time": lambda x: on_six(lambda y: ops.max(y, axis=1, keepdims=True), x),
    "sum over the units": lambda x: on_six(
        lambda y: ops.sum(y, axis=-1, keepdims=True), x
    ),
    "softmax over time": lambda x: on_six(lambda y: ops.softmax(y, axis=1), x),
    "ops.concatenate": lambda x: ops.concatenate([lstm(4)(x), x, gru(6)(x)], -1),
    "ops.stack": lambda x: ops.stack([lstm(4)(x), gru(4)(x)], 1),
    "ops.split": lambda x: split(on_six(lambda y: y, x)),
    "ops.transpose": lambda x: ops.transpose(
        on_six(lambda y: ops.transpose(y, (0, 2, 1)), x), (0, 2, 1)
    ),
    "ops.swapaxes": lambda x: ops.swapaxes(
        on_six(lambda y: ops.swapaxes(y, 1, 2), x), 1, 2
    ),
    "ops.expand_dims": lambda x: on_six(lambda y: ops.expand_dims(y, 1), x),
    "ops.squeeze": lambda x: ops.squeeze(
        on_six(lambda y: ops.expand_dims(y, 1), x), axis=1
    ),
    "ops.flip": lambda x: on_six(lambda y: ops.flip(y, axis=-1), x),
    "ops.reshape": lambda x: on_six(lambda y: ops.reshape(y, (-1, TIME * 6)), x),
    "ops.matmul": lambda x: ops.matmul(lstm(4)(x), ops.transpose(gru(4)(x), (0, 2, 1))),
    "ops.einsum": lambda x: ops.einsum("btu,bsu->bts", lstm(4)(x), gru(4)(x)),
    "ops.einsum that keeps units": lambda x: ops.einsum(
        "btu,bsu->bsu", lstm(4)(x), gru(4)(x)
    ),
    "copies": lambda x: on_six(
        lambda y: side_by_side(
            ops.repeat(y, 2, axis=-1),
            ops.repeat(y, 2, axis=1),
            ops.tile(y, (1, 1, 2)),
            ops.tile(y[:, 0], 2),
            ops.broadcast_to(y[:, :, None], (3, TIME, 2, 6)),
            ops.zeros_like(y) + y[:, :1],
            ops.ones_like(y) * y[:, :1],
            ops.full_like(y, 2.0) + y,
        ),
        x,
    ),
    "along time": lambda x: on_six(
        lambda y: side_by_side(
            ops.cumsum(y, axis=1),
            ops.sort(y, axis=1),
            ops.roll(y, 1, axis=1),
            ops.diff(y, axis=1),
            ops.pad(y, ((0, 0), (1, 2), (0, 0)), constant_values=1.0),
            ops.take(y, -1, axis=1),
            ops.take(y, np.array([0, 2]), axis=1),
            ops.stack(ops.unstack(y, axis=1)[::-1], axis=1),
            ops.moveaxis(ops.moveaxis(y, 1, 2)[:, :, 1:], (2, 1), (1, 2)),
            ops.cast(ops.argmax(y, axis=1), "float32"),
            ops.average(y, axis=1),
            ops.median(y, axis=1),
        ),
        x,
    ),
    "over units that are zero": lambda x: on_six(
        lambda y: side_by_side(
            ops.normalize(y, axis=-1),
            ops.sum(ops.cumsum(y, axis=1), axis=-1),
            ops.sum(ops.std(y, axis=1), axis=-1, keepdims=True),
        ),
        x,
    ),
    "norm": lambda x: on_six(lambda y: ops.norm(y, axis=-1), x),
    "count": lambda x: on_six(
        lambda y: ops.cast(ops.count_nonzero(y, axis=-1), "float32"), x
    ),
    "unequal copies": lambda x: on_six(
        lambda y: ops.repeat(y, [1, 2, 3, 1, 2, 3], axis=-1), x
    ),
    "batch and time in one": lambda x: on_six(
        lambda y: ops.reshape(ops.tanh(ops.reshape(y, (-1, 6))), (-1, TIME, 6)), x
    ),
}


def side_by_side(*tensors):
    return layers.Concatenate()([layers.Flatten()(one) for one in tensors])


# Backends in which stock Keras fails.
KERAS_CAN_NOT = {
    "backwards": ["torch"],
    "norm": ["jax"],
    "count": ["torch"],
    "unequal copies": ["jax", "torch"],
}

# Weights are drawn by `mask`.
ZEROS = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}


def lstm(units):
    return layers.LSTM(units, return_sequences=True, **ZEROS)


def gru(units):
    return layers.GRU(units, return_sequences=True, **ZEROS)


def on_six(function, x):
    """Something done to six units, of the kind that is quickest to run."""
    return function(layers.SimpleRNN(6, return_sequences=True, **ZEROS)(x))


def nest(layer):
    return keras.Sequential([keras.Input((None, FEATURES)), layer])


def shared(layer, *given):
    return layers.Concatenate()([layer(x) for x in given])


def gave_states(kind, decoder, x, **arguments):
    _, *states = kind(6, return_state=True, **arguments)(x)
    return decoder(layers.Dense(3)(x), initial_state=states)


def split(x):
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([layers.Dense(3)(first), second], -1)


@pytest.mark.parametrize("name", conftest.often(WORKS, *list(WORKS)[::2]))
def test_the_smaller_model_equals_the_masked_one(name):
    if keras.backend.backend() in KERAS_CAN_NOT.get(name, ()):
        pytest.skip("not in this backend of Keras")
    start = keras.Input((TIME, FEATURES))
    model = keras.Model(start, layers.Dense(2)(WORKS[name](start)))
    masked_equals_shrunk(model)


@pytest.mark.parametrize("outer", ["Sequential", "Functional"])
@pytest.mark.parametrize("inner", ["Sequential", "Functional"])
def test_nested_model_that_reads_units(outer, inner):
    first, second = sequences(FEATURES, "r"), layers.LSTM(4, name="s")
    model = nested(outer, first, nested(inner, second, layers.Dense(2)))
    masked_equals_shrunk(model)
    assert set(sizes(model)) == {"r", f"{model.layers[-1].name}/s"}


def test_states_tie_encoder_and_decoder():
    start = keras.Input((TIME, FEATURES))
    _, *states = layers.LSTM(6, return_state=True, name="encoder")(start)
    decoder = layers.LSTM(6, name="decoder")
    model = keras.Model(start, layers.Dense(2)(decoder(start, initial_state=states)))
    (family,) = trace(model).families
    assert [one.name for one in family.layers] == ["encoder", "decoder"]
    assert family.units == 6
    # Both layers' columns and rows; the Dense reads the decoder alone.
    one = 4 * (FEATURES + 6) + 4 * 6 - 4
    assert family.sizes().tolist() == [2 * one + 2] * 6
    assert set(trace(model, ["encoder"]).left_alone) == {"encoder", "decoder"}


def test_what_is_added_to_an_input_stays():
    def body(x):
        return layers.Dense(2)(layers.Add()([x, sequences(FEATURES, "r")(x)]))

    assert "can't be removed" in trace(functional(body)).left_alone["r"]


def test_a_shared_lstm_is_one_family():
    cell = sequences(4, "shared")
    start = [keras.Input((TIME, FEATURES)), keras.Input((TIME, FEATURES))]
    model = keras.Model(start, [layers.Dense(2)(cell(x)) for x in start])
    assert sizes(model) == {"shared": 4 * (FEATURES + 4) + 4 * 4 - 4 + 2 + 2}
    masked_equals_shrunk(model, [inputs(), inputs(seed=1)])


def test_a_dense_that_reads_two_lstms_ties_them():
    head = layers.Dense(2)
    model = functional(lambda x: [head(sequences(4, n)(x)) for n in ("r", "s")])
    # The Dense's row is in the component once.
    one = 4 * (FEATURES + 4) + 4 * 4 - 4
    ((name, size),) = sizes(model).items()
    assert sorted(name.split(" + ")) == ["r", "s"]
    assert size == 2 * one + 2
    masked_equals_shrunk(model)


def test_weights_that_also_read_an_input_keep_the_units():
    head = layers.Dense(2)
    model = functional(lambda x: [head(sequences(FEATURES, "r")(x)), head(x)])
    assert "same weights" in trace(model).left_alone["r"]


def test_an_embedding_that_is_also_the_head():
    start = keras.Input((TIME,), dtype="int32")
    table = layers.ReversibleEmbedding(9, 6)
    model = keras.Model(start, table(sequences(6, "r")(table(start)), reverse=True))
    masked_equals_shrunk(model, np.array([[1, 2, 0, 8], [3, 4, 5, 6]]))


def test_a_bidirectional_layer_is_named_after_its_wrapper():
    wrapper = layers.Bidirectional(layers.LSTM(4, name="r"), name="both")
    model = functional(lambda x: layers.Dense(2)(wrapper(x)))
    assert set(sizes(model)) == {"both/forward_r", "both/backward_r"}
    assert len(trace(model, ["both"]).prunable) == 0
    assert set(trace(model, ["forward_r"]).left_alone) == {"both/forward_r"}


def test_a_cell_without_a_rule_before_is_left_alone():
    layer = layers.RNN(OwnCell(4), return_sequences=True, name="g")
    plan = trace(functional(lambda x: layers.Dense(2)(sequences(4, "r")(layer(x)))))
    assert [family.name for family in plan.prunable] == ["r"]
    assert "no rule" in plan.left_alone["g"]


def test_an_initial_state_that_is_a_constant_keeps_the_units():
    def body(x):
        first = layers.GRU(4, name="r")(x)
        states = [first, ops.zeros((3, 4))]
        both = layers.Bidirectional(layers.GRU(4, name="s"), name="both")
        return layers.Dense(2)(both(x, initial_state=states))

    model = functional(body)
    plan = trace(model)
    # The state of the forward direction is made of units, which are tied to its own.
    assert [family.name for family in plan.prunable] == ["r + both/forward_s"]
    assert "initial state" in plan.left_alone["both/backward_s"]
    masked_equals_shrunk(model)


@pytest.mark.parametrize("looked_up", [True, False])
def test_tables_that_no_layer_of_the_model_reads_keep_the_units(looked_up):
    table = layers.Embedding(9, 6)
    table.build((None,))
    start = keras.Input((TIME,), dtype="int32")
    if looked_up:
        words = ops.take(table.embeddings, start, axis=0) + 0 * table(start)
    else:
        words = layers.Embedding(9, 6)(start)
    units = sequences(6, "r")(words)
    model = keras.Model(start, ops.einsum("btu,vu->btv", units, table.embeddings))
    assert "tied to 'embedding" in trace(model).left_alone["r"]
    x = np.array([[1, 2, 0, 8], [3, 4, 5, 6]])
    equal(shrink(model), model, x)


@pytest.mark.parametrize("kind", [layers.Dropout, layers.AlphaDropout])
def test_a_shape_of_noise_becomes_smaller_with_the_units(kind):
    def body(x):
        dropped = kind(0.5, noise_shape=(None, 1, 6), name="d")(sequences(6, "r")(x))
        return layers.Dense(2)(dropped)

    model = functional(body)
    left = mask(model)["r"]
    small = shrink(model)
    assert list(small.get_layer("d").noise_shape) == [None, 1, left]
    small(inputs(), training=True)


def test_a_unit_that_is_picked_by_its_number_stays():
    def body(x):
        units = sequences(6, "r")(x)
        return layers.Dense(2)(units), layers.Dense(2)(
            ops.expand_dims(units[:, 0, 2], 1)
        )

    model = functional(body)
    (family,) = trace(model).families
    assert np.flatnonzero(family.fixed).tolist() == [2]
    masked_equals_shrunk(model)


# What it leaves alone.


def test_units_that_reach_an_output_are_left_alone():
    first, second = sequences(6, "r"), layers.LSTM(4, name="s")

    def body(x):
        units = first(x)
        return [units, layers.Dense(2)(second(units))]

    plan = trace(functional(body))
    assert [family.name for family in plan.prunable] == ["s"]
    assert "output" in plan.left_alone["r"]


def test_states_that_reach_an_output_leave_the_units_alone():
    first = layers.LSTM(4, return_state=True, name="r")

    def body(x):
        y, _, c = first(x)
        return [layers.Dense(2)(y), c]

    assert "output" in trace(functional(body)).left_alone["r"]


def test_ignored_layers_are_left_alone():
    model = chain(6, 4)
    plan = trace(model, ["r0"])
    assert [family.name for family in plan.prunable] == ["r1"]
    assert "ignore" in plan.left_alone["r0"]
    assert sizes(model, "r1").keys() == {"r0"}


def test_a_name_to_ignore_that_there_is_not_is_an_error():
    with pytest.raises(ValueError, match=r"r9.*'r0', 'r1'"):
        trace(chain(6, 4), ["r1", "r9"])


@pytest.mark.parametrize("spec", [4, (4, 2)])
def test_an_initial_state_from_outside_leaves_the_units_alone(spec):
    start = keras.Input((None, FEATURES))
    state = [keras.Input((4,)), keras.Input((4,))]
    y = recurrent(spec, name="r")(start, initial_state=state)
    plan = trace(keras.Model([start, *state], layers.Dense(2)(y)))
    assert "initial state" in plan.left_alone["r"]
    assert plan.prunable == []


# What it can't follow: an error that names the layer and what to do.


class OwnCell(layers.LSTMCell):
    pass


class OwnLSTM(layers.LSTM):
    pass


class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


UNKNOWN = {
    "norm": lambda x: layers.LayerNormalization(name="culprit")(x),
    "softmax": lambda x: layers.Activation("softmax", name="culprit")(x),
    "softmax layer": lambda x: layers.Softmax(name="culprit")(x),
    "lambda": lambda x: layers.Lambda(lambda y: y[:, -1], name="culprit")(x),
    "own layer": lambda x: Doubled(name="culprit")(x),
    "time distributed": lambda x: layers.TimeDistributed(
        layers.LayerNormalization(), name="culprit"
    )(x),
    "own cell": lambda x: layers.RNN(OwnCell(3), name="culprit")(x),
    "own recurrent layer": lambda x: OwnLSTM(3, name="culprit")(x),
    "inside a nested model": lambda x: keras.Sequential(
        [keras.Input((None, 4)), layers.LayerNormalization(name="culprit")]
    )(x),
    "mask value": lambda x: layers.Masking(1.0, name="culprit")(x),
    "flatten of an unknown length": lambda x: layers.Reshape((-1, 2), name="culprit")(
        x
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_layer_is_named_with_what_to_do(name):
    model = functional(lambda x: layers.Dense(2)(UNKNOWN[name](sequences(4, "r")(x))))
    with pytest.raises(ValueError, match="'culprit'") as error:
        trace(model)
    for part in ("'r'", "`ignore`", "`register_rule`"):
        assert part in str(error.value)
    # With the way out that the message names, the rest of the model is followed.
    assert "r" in trace(model, ["r"]).left_alone


def over_units(x):
    return ops.sum(x, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("operation", "match"),
    [
        (ops.sort, r"'sort"),
        (lambda x: ops.cumsum(x, axis=-1), r"'cumsum"),
        (ops.softmax, r"'softmax.*softmax over the units"),
        (lambda x: ops.mean(x, axis=-1, keepdims=True), r"'mean.*\(a Mean\)"),
        (lambda x: ops.max(x, axis=-1, keepdims=True), r"'max.*\(a Max\)"),
        (lambda x: ops.pad(x, 1), r"'pad"),
        (lambda x: ops.norm(x, -1, axis=-1, keepdims=True), r"'norm.*negative"),
        (lambda x: ops.repeat(x, 2)[:, None], r"'repeat.*name an axis"),
        # What is not zero when its unit is masked would be missing from the sum.
        (lambda x: over_units(ops.exp(x)), "'sum.*do not become zero"),
        (
            lambda x: over_units(
                ops.pad(x, ((0, 0), (1, 0), (0, 0)), constant_values=1.0)
            ),
            "'sum.*do not become zero",
        ),
        # Of zeros, the logarithm of how many.
        (lambda x: over_units(ops.logsumexp(x, axis=1)), "'sum.*do not become zero"),
        # True where both are zero.
        (
            lambda x: over_units(
                ops.cast(ops.equal(x, layers.Dense(1, "relu")(x)), "float32")
            ),
            "'sum.*do not become zero",
        ),
    ],
    ids=[
        *("sort", "cumsum", "softmax", "mean", "max", "pad", "norm", "repeat"),
        *("sum of exp", "sum of pad", "sum of logsumexp", "sum of equal"),
    ],
)
def test_an_unknown_operation_is_an_error_with_what_to_do(operation, match):
    model = functional(lambda x: layers.Dense(2)(operation(sequences(4, "r")(x))))
    with pytest.raises(ValueError, match=match) as error:
        trace(model)
    for part in ("'r'", "`ignore`", "`register_rule`"):
        assert part in str(error.value)
    assert "r" in trace(model, ["r"]).left_alone


def test_a_state_that_is_not_zero_when_masked_can_not_be_summed():
    def model(activation):
        def body(x):
            first = layers.Dense(6, activation=activation)(x[:, 0])
            y = layers.GRU(6, name="r")(x, initial_state=first)
            return layers.Dense(2)(ops.sum(y, axis=-1, keepdims=True))

        return functional(body)

    masked_equals_shrunk(model("tanh"))
    with pytest.raises(ValueError, match=r"'sum.*do not become zero"):
        trace(model("sigmoid"))


def test_what_a_message_names_to_ignore_can_be_ignored():
    def body(x):
        both = layers.Bidirectional(
            layers.LSTM(4, return_sequences=True, name="r"),
            merge_mode="sum",
            name="both",
        )
        units = both(x) + sequences(4, "s")(x)
        return layers.Dense(2)(layers.Activation("softmax", name="culprit")(units))

    model = functional(body)
    with pytest.raises(ValueError, match="can't be followed") as error:
        trace(model)
    assert str(error.value) == (
        "The units of 'both/forward_r', 'both/backward_r' and 's', which live and die "
        "together, can't be followed through 'culprit' (an Activation), whose "
        "activation softmax may mix them. Name one of 'both' or 's' in `ignore` to "
        "leave them alone, or teach pruning what is in the way with `register_rule`, "
        "for which an operation must be put into a layer of your own."
    )
    for name in ("both", "s"):
        assert len(trace(model, name).left_alone) == 3
    # The layer, not the whole of a model that is in the model.
    with pytest.raises(ValueError, match=f"'{model.name}/s',.*of 'both' or 's' in"):
        trace(functional(model))


def test_what_is_ignored_is_so_whatever_else_keeps_it():
    model = functional(
        lambda x: layers.LayerNormalization()(
            sequences(4, "r", activation="softmax")(x) + sequences(4, "s")(x)
        )
    )
    assert set(trace(model, "s").left_alone) == {"r", "s"}


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.LSTM(3, name="culprit"),
        lambda: GroupedLSTM(4, 2, name="culprit"),
        lambda: layers.Bidirectional(layers.LSTM(3, name="culprit")),
        lambda: layers.TimeDistributed(layers.Dense(3), name="culprit"),
        lambda: layers.Conv1D(3, 2, name="culprit"),
        lambda: layers.MaxPooling1D(name="culprit"),
    ],
    ids=["LSTM", "GroupedLSTM", "Bidirectional", "TimeDistributed", "Conv1D", "pool"],
)
def test_units_that_become_time_steps_are_an_error(layer):
    start = keras.Input((TIME, FEATURES))
    turned = layers.Permute((2, 1))(sequences(6, "r")(start))
    model = keras.Model(start, layers.Dense(2)(layer()(turned)))
    with pytest.raises(ValueError, match=r"'r'.*culprit'.*time steps"):
        trace(model)


def uneven(kind=layers.Bidirectional):
    back = layers.LSTM(2, go_backwards=True)
    return kind(layers.LSTM(3), backward_layer=back, name="both")


class Uneven(keras.Model):
    """A subclass, for which Keras learns the shape by computing."""

    def __init__(self):
        super().__init__()
        self.both, self.head = uneven(), layers.Dense(2)

    def call(self, x):
        return self.head(self.both(x))


@pytest.mark.parametrize("subclassed", [True, False])
def test_directions_of_different_sizes_are_an_error_with_the_way_out(subclassed):
    if subclassed:
        model = Uneven()
        model(inputs())
    else:
        model = functional(lambda x: layers.Dense(2)(uneven()(x)))
    with pytest.raises(
        ValueError,
        match=r"'both'.*3 and 2 units.*keras_sparse_rnn\.UnevenBidirectional",
    ):
        trace(model)
    way_out = functional(lambda x: layers.Dense(2)(uneven(UnevenBidirectional)(x)))
    assert [family.units for family in trace(way_out).families] == [3, 2]


def test_tied_layers_must_all_be_ignored_or_none():
    model = functional(
        lambda x: layers.LayerNormalization(name="culprit")(
            sequences(4, "r")(x) + sequences(4, "s")(x)
        )
    )
    with pytest.raises(ValueError, match=r"'r' and 's'.*'culprit'.*one of 'r' or 's'"):
        trace(model)
    # They live and die together: one that is left alone keeps the other.
    assert set(trace(model, ["s"]).left_alone) == {"r", "s"}


class Plain(keras.Model):
    """A subclass whose `call` uses layers and operations alone."""

    def __init__(self):
        super().__init__()
        self.first = sequences(6, "r")
        self.second = layers.GRU(4, name="s")
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        units = self.first(x)
        return self.head(ops.concatenate([self.second(units), units[:, -1]], -1))


def test_a_subclassed_model_that_runs_on_symbols_is_followed():
    model = Plain()
    model(inputs())
    masked_equals_shrunk(model)


class Python(keras.Model):
    """A subclass whose `call` looks at values."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = layers.LSTM(4), layers.Dense(2)

    def build(self, shape):
        self.inner.build(shape)
        self.head.build((shape[0], 4))

    def call(self, x):
        if float(ops.max(x)) > 1e9:
            x = x / 2
        return self.head(self.inner(x))


def test_a_subclassed_model_that_needs_values_is_an_error_that_says_what_to_build():
    model = Python()
    model.build((3, 4, FEATURES))
    with pytest.raises(ValueError, match=r"python.*Python.*Sequential or a Functional"):
        trace(model)


def test_a_model_without_weights_yet_is_an_error():
    with pytest.raises(ValueError, match=r"Build it first"):
        trace(keras.Sequential([layers.LSTM(4), layers.Dense(2)]))


# A rule of the user's own.


class Scaled(layers.Layer):
    """Multiplies each feature by a learned number."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="random_normal")

    def call(self, x):
        return x * self.scale


@pytest.fixture
def scaled_rule():
    @register_rule(Scaled)
    class ScaledRule(Rule):
        def follow(self, layer, call, tracer):
            features = call.inputs[0].axis(-1)
            if features is not None:
                tracer.weights(layer.scale, 0, "bias", features.slots)
            return call.outputs({-1: features})

    yield
    del registry._RULES[Scaled]


def test_a_rule_of_ones_own_is_followed(scaled_rule):
    first, head = layers.LSTM(6, name="r"), layers.Dense(2)
    model = functional(lambda x: head(Scaled()(first(x))))
    with keras.saving.custom_object_scope({"Scaled": Scaled}):
        small = agree(model, [(first, [head], [1, 3])])
    assert [tuple(w.shape) for w in small.layers[2].weights] == [(4,)]
    model.compile("sgd", "mse")
    pruning = ISSPruning(0.5)
    model.fit(inputs(), np.zeros((3, 2)), verbose=0, callbacks=[pruning])
    assert pruning.report.units_after == 3
