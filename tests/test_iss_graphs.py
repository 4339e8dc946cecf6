"""Any graph of layers and operations: shrunk equals masked."""

import contextlib

import keras
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from keras import layers, ops

from keras_sparse_rnn import (
    GroupedGRU,
    GroupedLSTM,
    GroupedLSTMCell,
    GroupedSimpleRNN,
    RecurrentHighway,
    TieredEmbedding,
    WeightDropLSTM,
    shrink,
)
from keras_sparse_rnn.iss.trace import trace

BATCH, TIME, FEATURES = 2, 4, 5
WORDS = 7


class Code(keras.Model):
    """A model whose `call` is code."""

    def __init__(self, layer, units):
        super().__init__()
        self.layer, self.reader = layer, layers.Dense(units)

    def call(self, x, training=None):
        x = self.layer(x, training=training)
        return self.reader(ops.tanh(x) + x[:, :1])


class Builder:
    """Makes a random model, one call after another."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.flows = [keras.Input((TIME, FEATURES))]
        self.inputs = self.flows[0]

    def width(self):
        return int(self.random.integers(2, 6))

    def pick(self, width=None):
        fitting = [f for f in self.flows if width is None or f.shape[-1] == width]
        return fitting[self.random.integers(len(fitting))]

    def two_alike(self):
        """Two tensors of one width, the second by way of a Dense if need be."""
        one = self.pick()
        other = self.pick()
        if other.shape[-1] != one.shape[-1]:
            other = layers.Dense(one.shape[-1])(other)
        return one, other

    def recurrent(self, sequences=True, units=None):
        units = units or self.width()
        arguments = {"return_sequences": sequences, "bias_initializer": "random_normal"}
        groups = int(self.random.integers(1, min(units, 3) + 1))
        made = [
            lambda: layers.LSTM(units, **arguments),
            lambda: layers.GRU(units, reset_after=True, **arguments),
            lambda: layers.GRU(units, reset_after=False, **arguments),
            lambda: layers.SimpleRNN(units, **arguments),
            lambda: WeightDropLSTM(units, **arguments),
            lambda: GroupedLSTM(units, groups, **arguments),
            lambda: GroupedGRU(units, groups, **arguments),
            lambda: GroupedSimpleRNN(units, groups, **arguments),
            lambda: RecurrentHighway(units, 2, **arguments),
            lambda: layers.RNN(layers.GRUCell(units), return_sequences=sequences),
            lambda: layers.RNN(
                layers.StackedRNNCells(
                    [layers.LSTMCell(3), GroupedLSTMCell(units, groups)]
                ),
                return_sequences=sequences,
            ),
        ]
        return made[self.random.integers(len(made))]()

    # What a step may be.

    def a_recurrent_layer(self):
        return self.recurrent()(self.pick())

    def both_directions(self):
        mode = ["concat", "sum", "mul", "ave"][self.random.integers(4)]
        kinds = [layers.LSTM, layers.GRU, layers.SimpleRNN]
        kind = kinds[self.random.integers(3)]
        side = kind(self.width(), return_sequences=True)
        return layers.Bidirectional(side, merge_mode=mode)(self.pick())

    def a_layer_of_weights(self):
        x = self.pick()
        units = self.width()
        made = [
            lambda: layers.Dense(units, "tanh", bias_initializer="random_normal")(x),
            lambda: layers.TimeDistributed(layers.Dense(units))(x),
            lambda: layers.TimeDistributed(
                layers.Bidirectional(layers.SimpleRNN(units))
            )(layers.Reshape((TIME, x.shape[-1], 1))(x)),
            lambda: layers.Conv1D(units, 2, padding="causal")(x),
            lambda: layers.EinsumDense("abc,cd->abd", (TIME, units), bias_axes="d")(x),
            lambda: layers.BatchNormalization(gamma_initializer="random_normal")(x),
            lambda: layers.PReLU("random_normal")(x),
        ]
        return made[self.random.integers(len(made))]()

    def a_layer_without(self):
        x = self.pick()
        made = [
            lambda: layers.Dropout(0.1)(x),
            lambda: layers.Activation("sigmoid")(x),
            lambda: layers.LeakyReLU()(x),
            lambda: layers.AveragePooling1D(2, 1, padding="same")(x),
            lambda: layers.Permute((2, 1))(layers.Permute((2, 1))(x)),
            lambda: layers.Reshape((TIME, x.shape[-1]))(x),
            lambda: layers.Softmax(axis=1)(x),
        ]
        return made[self.random.integers(len(made))]()

    def a_merge(self):
        kinds = [layers.Add, layers.Multiply, layers.Average, layers.Maximum]
        return kinds[self.random.integers(4)]()(list(self.two_alike()))

    def side_by_side(self):
        return layers.Concatenate()([self.pick(), self.pick()])

    def an_operation(self):
        x = self.pick()
        width = x.shape[-1]
        made = [
            lambda: ops.tanh(x) * 2.0,
            lambda: x + 0.5,
            lambda: -x / 2.0,
            lambda: x * np.linspace(0.5, 1.5, width, dtype="float32"),
            lambda: ops.softmax(x, axis=1) * x,
            lambda: ops.flip(x, axis=1),
            lambda: ops.transpose(ops.transpose(x, (0, 2, 1)), (0, 2, 1)),
            lambda: ops.concatenate(ops.split(x, [1], axis=-1)[::-1], axis=-1),
            lambda: x[:, :, 1:],
            lambda: x[..., ::-1],
            lambda: x[:, :, :1],
            lambda: x - ops.mean(x, axis=1, keepdims=True),
            lambda: ops.sum(ops.stack([x, x * 2.0], axis=2), axis=2),
            lambda: ops.squeeze(ops.expand_dims(x, 1), 1),
            lambda: ops.einsum("btu,bsu->bts", ops.tanh(x), x),
            lambda: ops.matmul(
                ops.softmax(ops.matmul(ops.tanh(x), ops.transpose(x, (0, 2, 1)))), x
            ),
            lambda: ops.reshape(x, (-1, TIME, width)),
            lambda: ops.sum(x, axis=-1, keepdims=True),
            lambda: ops.repeat(x, 2, axis=-1),
            lambda: ops.tile(x[:, -1:], (1, TIME, 2)),
            lambda: ops.zeros_like(x) + ops.max(x, axis=1, keepdims=True),
            lambda: ops.normalize(x, axis=-1),
            lambda: ops.norm(x, axis=-1, keepdims=True) + ops.cumsum(x, axis=1),
            lambda: ops.pad(x, ((0, 0), (1, 0), (0, 0)))[:, 1:],
            lambda: ops.reshape(ops.reshape(x, (-1, width)), (-1, TIME, width)),
            lambda: ops.sum(
                ops.logsumexp(x, axis=1, keepdims=True) * x, axis=-1, keepdims=True
            ),
        ]
        return made[self.random.integers(len(made))]()

    def attention(self):
        one, other = self.two_alike()
        kinds = [layers.Attention, layers.AdditiveAttention]
        if self.random.integers(2):
            return kinds[self.random.integers(2)]()([one, other])
        return layers.MultiHeadAttention(2, 3)(self.pick(), self.pick())

    def shared(self):
        one, other = self.two_alike()
        layer = self.recurrent()
        return layers.Add()([layer(one), layer(other)])

    def nested(self):
        x = self.pick()
        if self.random.integers(2):
            inner = keras.Sequential(
                [keras.Input((TIME, x.shape[-1])), self.recurrent(), layers.Dense(3)]
            )
        else:
            start = keras.Input((TIME, x.shape[-1]))
            inner = keras.Model(start, self.recurrent()(ops.tanh(start)))
        return inner(x)

    def states_handed_on(self):
        units = self.width()
        _, *states = layers.LSTM(units, return_state=True)(self.pick())
        decoder = layers.LSTM(units, return_sequences=True)
        return decoder(self.pick(), initial_state=states)

    def states_of_both_directions(self):
        units = self.width()
        side = layers.LSTM(units, return_state=True)
        _, *states = layers.Bidirectional(side)(self.pick())
        h, c = (layers.Concatenate()(states[k::2]) for k in (0, 1))
        decoder = layers.LSTM(2 * units, return_sequences=True)
        return decoder(self.pick(), initial_state=[h, c])

    def words(self):
        """A tiered table, looked up, and the logits of it or of another flow."""
        width = self.width()
        wide = int(self.random.integers(1, WORDS))
        tiers = [(wide, width), (WORDS - wide, int(self.random.integers(1, width)))]
        table = TieredEmbedding(
            WORDS,
            width,
            tiers=tiers,
            tie_weights=bool(self.random.integers(2)),
            reverse_bias=bool(self.random.integers(2)),
        )
        # Ids from what is never pruned.
        vectors = table(ops.cast(ops.abs(self.inputs[..., 0]) * 2, "int32") % WORDS)
        self.flows.append(vectors)
        states = self.pick(width) if self.random.integers(2) else vectors
        return table(self.recurrent(units=width)(states), reverse=True)

    def code(self):
        return Code(self.recurrent(), self.width())(self.pick())

    def model(self, steps=6):
        kinds = [
            self.states_of_both_directions,
            self.code,
            self.words,
            self.a_recurrent_layer,
            self.a_recurrent_layer,
            self.both_directions,
            self.a_layer_of_weights,
            self.a_layer_without,
            self.a_merge,
            self.side_by_side,
            self.an_operation,
            self.attention,
            self.shared,
            self.nested,
            self.states_handed_on,
        ]
        if self.random.integers(3) == 0:
            learned = layers.Normalization()
            learned.adapt(self.random.normal(2.0, 3.0, (8, TIME, FEATURES)))
            self.flows.append(learned(self.inputs))
        if self.random.integers(3) == 0:
            self.flows.append(layers.Masking()(self.pick()))
        self.flows.append(self.recurrent()(self.flows[-1]))
        for _ in range(steps):
            self.flows.append(kinds[self.random.integers(len(kinds))]())
        ends = [
            layers.Dense(2)(layers.Flatten()(self.flows[-1])),
            layers.Dense(2)(self.recurrent(sequences=False)(self.flows[-1])),
            layers.Dense(2)(layers.GlobalMaxPooling1D()(self.flows[-2])),
        ]
        return keras.Model(self.inputs, ends)


def masked(plan, random, share=0.5):
    """Sets some components to zero, wherever they lie; which ones live."""
    alive = []
    for family in plan.families:
        living = (random.random(family.units) > share) | family.fixed
        alive.append(living)
        for part in family.parts:
            if part.role != "along":
                variable = plan.variables[part.variable]
                keep = part.along_axis(np.append(living, True)[part.owner])
                variable.assign(np.where(keep, ops.convert_to_numpy(variable), 0))
    return alive


def agree(ours, theirs, tolerance=1e-5):
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        scale = max(1.0, np.abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, atol=tolerance * scale)


def shrunk_equals_masked(model, seed):
    random = np.random.default_rng(seed)
    plan = trace(model)
    alive = masked(plan, random)
    small = shrink(model)
    shapes = [(BATCH, *tensor.shape[1:]) for tensor in model.inputs]
    x = [random.standard_normal(shape).astype("float32") for shape in shapes]
    for one in x:
        one[0, 2:] = 0  # What `Masking` looks for.
    x = x if len(x) > 1 else x[0]
    agree(small(x), model(x))
    return plan, alive, small


def runs(model):
    """Whether Keras itself can run it: a mask may fit symbols, and no numbers."""
    x = [np.zeros((BATCH, *one.shape[1:]), "float32") for one in model.inputs]
    try:
        model(x if len(x) > 1 else x[0])
    except ValueError:
        return False
    return True


destroys_masks = pytest.mark.filterwarnings(
    # Of Keras, where a mask reaches a layer that can't pass it on.
    "ignore:Layer .* was passed an input with a mask"
)


@pytest.mark.fuzz
@destroys_masks
@given(st.integers(0, 2**32 - 1))
def test_any_graph(seed):
    keras.backend.clear_session()
    model = Builder(seed).model()
    assume(runs(model))
    try:
        trace(model)
    except ValueError as error:
        refused = str(error)
    else:
        refused = None
        shrunk_equals_masked(model, seed)
    # What can't be followed is said, with both ways out.
    assert refused is None or ("`ignore`" in refused and "`register_rule`" in refused)


@destroys_masks
def test_most_graphs_are_followed():
    followed = 0
    for seed in range(6):
        keras.backend.clear_session()
        with contextlib.suppress(ValueError):
            followed += bool(trace(Builder(seed).model()).prunable)
    assert followed >= 5


def test_a_recurrent_highway_network_with_tied_words_is_one_family():
    # As in the paper: state k and column k of the table live and die together.
    n, depth, words = 6, 3, 11
    table = layers.ReversibleEmbedding(words, n)
    start = keras.Input((TIME,), dtype="int32")
    layer = RecurrentHighway(n, depth, return_sequences=True)
    out = table(layers.Dropout(0.1)(layer(table(start))), reverse=True)
    model = keras.Model(start, out)
    plan = trace(model)
    (family,) = plan.families
    assert not family.fixed.any()
    # Two gates: rows and columns of each depth, the input's and the table's column.
    twice = words + 2 * 2 * n + 2 * (depth * 2 * n)
    np.testing.assert_array_equal(family.sizes("paper"), twice)
    once = twice - 2 - 2 * depth
    np.testing.assert_array_equal(family.sizes(), once)
    alive = masked(plan, np.random.default_rng(0))
    small = shrink(model)
    assert small.layers[1].output_dim == alive[0].sum()
    x = np.random.default_rng(0).integers(0, words, (BATCH, TIME))
    agree(small(x), model(x))


def test_sizes_of_the_papers_recurrent_highway_network():
    n, depth, words = 830, 10, 10000
    table = layers.ReversibleEmbedding(words, n)
    start = keras.Input((None,), dtype="int32")
    layer = RecurrentHighway(
        n,
        depth,
        return_sequences=True,
        recurrent_initializer="zeros",  # An orthogonal one takes seconds.
    )
    model = keras.Model(start, table(layer(table(start)), reverse=True))
    (family,) = trace(model).families
    assert set(family.sizes("paper")) == {46520}
    assert set(family.sizes()) == {46498}


def both_ways(units, name):
    side = layers.LSTM(
        units, return_sequences=True, recurrent_initializer="random_normal"
    )
    return layers.Bidirectional(side, name=name)


def reading_comprehension(units, time, features, attended):
    """BiDAF behind its attention flow: modelling, and the logits of both ends."""
    p0 = keras.Input((time, features))
    g1 = both_ways(units, "g1")(both_ways(units, "g0")(p0))
    start = layers.Dense(1)(layers.Concatenate()([g1, p0]))
    sums = attended(start, g1)
    products = [layers.Multiply()([g1, one]) for one in sums]
    g2 = both_ways(units, "g2")(layers.Concatenate()([p0, g1, *sums, *products]))
    end = layers.Dense(1)(layers.Concatenate()([g2, p0]))
    return keras.Model(p0, [layers.Flatten()(start), layers.Flatten()(end)])


def test_sizes_of_the_papers_reading_comprehension():
    def attended(s, g):
        weights = ops.softmax(ops.squeeze(s, -1), axis=-1)
        a = ops.einsum("bt,btu->bu", weights, g)
        return [ops.repeat(ops.expand_dims(a, 1), 7, axis=1)]

    model = reading_comprehension(100, 7, 800, attended)
    families = trace(model).families
    names = [family.name.split("/")[0] for family in families]
    assert names == ["g0", "g0", "g1", "g1", "g2", "g2"]
    # Row, four columns, and the rows that read it: of both directions of the next
    # layer, or of the logits. The units of g1 reach g2 as they are and times a1i, as
    # the paper's code has it, and as a1i, which it forgets: 2 · 400 more.
    sizes = [4800, 4800, 3201 + 800, 3201 + 800, 6401, 6401]
    for family, size in zip(families, sizes, strict=True):
        assert family.units == 100
        assert not family.fixed.any()
        assert set(family.sizes("paper")) == {size}
        assert set(family.sizes()) == {size - 4}


def test_sums_over_time_that_are_repeated_are_followed_however_written():
    def attended(s, g):
        weights = ops.softmax(s, axis=1)
        flat = layers.Flatten()(layers.Dot(1)([layers.Softmax(axis=1)(s), g]))
        expanded = ops.expand_dims(ops.softmax(s[..., 0]), -1)
        product = layers.Multiply()([expanded, g])
        row = ops.matmul(ops.transpose(weights, (0, 2, 1)), g)
        shape = (BATCH, *g.shape[1:])
        return [
            layers.RepeatVector(TIME)(flat),
            ops.tile(ops.sum(weights * g, axis=1)[:, None], (1, TIME, 1)),
            ops.broadcast_to(ops.sum(product, axis=1, keepdims=True), shape),
            ops.zeros_like(g) + ops.reshape(row[:, 0], (-1, 1, g.shape[-1])),
            ops.repeat(row, TIME, axis=1),
        ]

    model = reading_comprehension(3, TIME, 5, attended)
    plan, alive, small = shrunk_equals_masked(model, 0)
    # In g2, rows for the input and for each unit of g1: as it is, the five sums, and
    # their products with it.
    left = sum(int(one.sum()) for one in alive[2:4])
    kernel = small.get_layer("g2").forward_layer.cell.kernel
    assert kernel.shape[0] == 5 + 11 * left
    columns, row, rows = 4 * (6 + 3), 4 * 3, 2 * 11 * 4 * 3
    assert set(plan.families[2].sizes("paper")) == {columns + row + 1 + rows}


def test_units_are_followed_into_a_product_with_a_table():
    table = layers.Embedding(11, 4)
    start = keras.Input((TIME,), dtype="int32")
    states = layers.LSTM(4, return_sequences=True)(table(start))
    logits = ops.einsum("btu,vu->btv", states, table.embeddings)
    model = keras.Model(start, logits)
    plan = trace(model)
    masked(plan, np.random.default_rng(1))
    small = shrink(model)
    assert small.count_params() < model.count_params()
    x = np.arange(8).reshape(2, TIME)
    agree(small(x), model(x))
    assert len(small.trainable_variables) == len(model.trainable_variables)


class Tagger(keras.Model):
    """A subclass whose `call` is plain code."""

    def __init__(self):
        super().__init__()
        self.first = layers.LSTM(6, return_sequences=True)
        self.second = layers.GRU(4)
        self.head = layers.Dense(2)

    def call(self, x):
        h = self.first(x)
        return self.head(self.second(ops.tanh(h) + h))


def test_a_subclassed_model_is_followed_as_a_graph():
    model = Tagger()
    model(np.zeros((BATCH, TIME, FEATURES), "float32"))
    masked(trace(model), np.random.default_rng(0))
    small = shrink(model)
    assert small.count_params() < model.count_params()
    x = np.random.default_rng(0).standard_normal((BATCH, TIME, FEATURES))
    agree(small(x.astype("float32")), model(x.astype("float32")))


@pytest.mark.parametrize(
    "mix",
    [
        layers.LayerNormalization(),
        layers.Lambda(lambda x: x * 2),
        layers.Softmax(),
        lambda x: ops.sort(x, axis=-1),
        lambda x: ops.mean(x, axis=-1, keepdims=True) * x,
        lambda x: ops.max(x, axis=-1, keepdims=True) * x,
    ],
    ids=["normalization", "lambda", "softmax", "sort", "mean", "max"],
)
def test_what_mixes_units_is_an_error_with_two_ways_out(mix):
    start = keras.Input((TIME, FEATURES))
    h = layers.LSTM(4, return_sequences=True, name="first")(start)
    out = layers.Dense(2)(layers.LSTM(3, name="second")(mix(h)))
    model = keras.Model(start, out)
    with pytest.raises(ValueError, match=r"'first'.*`ignore`.*`register_rule`"):
        trace(model)
    plan = trace(model, "first")
    assert plan.left_alone == {"first": "'first' is named in `ignore`"}
    assert [family.name for family in plan.prunable] == ["second"]


def test_units_that_reach_an_output_stay_and_the_others_can_go():
    start = keras.Input((TIME, FEATURES))
    h = layers.LSTM(4, return_sequences=True, name="first")(start)
    model = keras.Model(start, [h[:, :, :2], layers.Dense(2)(h)])
    plan = trace(model)
    np.testing.assert_array_equal(plan.families[0].fixed, [True, True, False, False])
    reason = "2 of 4 units: its units are an output of the model"
    assert plan.left_in_part == {"first": reason}
    masked(plan, np.random.default_rng(0), share=1.0)
    small = shrink(model)
    assert small.get_layer("first").units == 2
    x = np.random.default_rng(0).standard_normal((BATCH, TIME, FEATURES))
    agree(small(x.astype("float32")), model(x.astype("float32")))


def test_an_activation_that_is_not_zero_at_zero_can_not_be_summed():
    start = keras.Input((TIME, FEATURES))
    h = layers.SimpleRNN(4, "sigmoid", return_sequences=True, name="first")(start)
    model = keras.Model(start, layers.Dense(2)(layers.Attention()([h, h])))
    with pytest.raises(ValueError, match=r"'first'.*do not become zero"):
        trace(model)


@pytest.mark.parametrize("wrapped", [False, True])
def test_directions_may_end_up_of_different_sizes(tmp_path, wrapped):
    start = keras.Input((2, TIME, FEATURES) if wrapped else (TIME, FEATURES))
    both = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="both")
    if wrapped:
        both = layers.TimeDistributed(both, name="wrapper")
    model = keras.Model(start, layers.Dense(2)(both(start)))
    plan = trace(model)
    names = [family.name for family in plan.families]
    assert names[0].startswith("wrapper/both/forward" if wrapped else "both/forward")
    assert "both/backward" in names[1]
    plan.families[0].fixed[:4] = True
    plan.families[1].fixed[:2] = True
    masked(plan, np.random.default_rng(0), share=1.0)
    small = shrink(model)
    left = small.get_layer("wrapper").layer if wrapped else small.get_layer("both")
    assert left.forward_layer.units == 4
    assert left.backward_layer.units == 2
    x = np.random.default_rng(0).standard_normal((BATCH, *start.shape[1:]))
    x = x.astype("float32")
    agree(small(x), model(x))
    small.save(tmp_path / "small.keras")
    agree(keras.models.load_model(tmp_path / "small.keras")(x), model(x))
