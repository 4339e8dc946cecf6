"""Which layers pruning follows, and what it says where it can't."""

import functools
import signal

import keras
import numpy as np
import pytest
from chains import (
    FEATURES,
    array,
    chain,
    component,
    inputs,
    kill,
    recurrent,
    recurrent_of,
)
from keras import layers, ops

from keras_sparse_rnn import (
    GroupedLSTM,
    ISSPruning,
    Rule,
    TieredEmbedding,
    register_rule,
    shrink,
)
from keras_sparse_rnn.iss import rules
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
    """Weights of the first component of each layer that can be pruned."""
    return {f.layer: int(f.sizes()[0]) for f in trace(model, ignore).prunable}


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


@pytest.mark.parametrize("outer", ["Sequential", "Functional"])
@pytest.mark.parametrize("inner", ["Sequential", "Functional"])
def test_nested_model_that_reads_units_is_refused_by_name(outer, inner):
    first = layers.LSTM(FEATURES, return_sequences=True, name="r")
    second, head = layers.LSTM(4, name="s"), layers.Dense(2)
    model = nested(outer, first, nested(inner, second, head))
    with pytest.raises(ValueError, match=r"'r' into the nested model .* `ignore`"):
        shrink(model)


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


# What it leaves alone.


def test_units_that_reach_an_output_are_left_alone():
    first, second = sequences(6, "r"), layers.LSTM(4, name="s")

    def body(x):
        units = first(x)
        return [units, layers.Dense(2)(second(units))]

    plan = trace(functional(body))
    assert [family.layer for family in plan.prunable] == ["s"]
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
    assert [family.layer for family in plan.prunable] == ["r1"]
    assert "ignore" in plan.left_alone["r0"]
    assert sizes(model, "r1").keys() == {"r0"}


def test_a_name_to_ignore_that_there_is_not_is_an_error():
    with pytest.raises(ValueError, match=r"r9.*'r0', 'r1'"):
        trace(chain(6, 4), ["r1", "r9"])


@pytest.mark.parametrize(
    "layer",
    [
        layers.GRU(4, return_sequences=True, name="g"),
        layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="g"),
        layers.RNN(layers.LSTMCell(4), return_sequences=True, name="g"),
    ],
    ids=["GRU", "Bidirectional", "RNN"],
)
def test_other_recurrent_layers_before_are_left_alone(layer):
    plan = trace(functional(lambda x: layers.Dense(2)(sequences(4, "r")(layer(x)))))
    assert [family.layer for family in plan.prunable] == ["r"]
    assert "no rule" in plan.left_alone["g"]


@pytest.mark.parametrize("spec", [4, (4, 2)])
def test_an_initial_state_from_outside_leaves_the_units_alone(spec):
    start = keras.Input((None, FEATURES))
    state = [keras.Input((4,)), keras.Input((4,))]
    y = recurrent(spec, name="r")(start, initial_state=state)
    plan = trace(keras.Model([start, *state], layers.Dense(2)(y)))
    assert "initial state" in plan.left_alone["r"]
    assert plan.prunable == []


# What it can't follow: an error that names the layer and what to do.


class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


UNKNOWN = {
    "norm": lambda x: layers.LayerNormalization(name="culprit")(x),
    "batch norm": lambda x: layers.BatchNormalization(name="culprit")(x),
    "softmax": lambda x: layers.Activation("softmax", name="culprit")(x),
    "lambda": lambda x: layers.Lambda(lambda y: y[:, -1], name="culprit")(x),
    "own layer": lambda x: Doubled(name="culprit")(x),
    "add": lambda x: layers.Add(name="culprit")([x, x]),
    "concatenate": lambda x: layers.Concatenate(name="culprit")([x, x]),
    "flatten": lambda x: layers.GlobalAveragePooling1D(name="culprit")(x),
    "GRU": lambda x: layers.GRU(3, name="culprit")(x),
    "Bidirectional": lambda x: layers.Bidirectional(layers.LSTM(3), name="culprit")(x),
    "time distributed": lambda x: layers.TimeDistributed(
        layers.LayerNormalization(), name="culprit"
    )(x),
    "attention": lambda x: layers.MultiHeadAttention(1, 2, name="culprit")(x, x),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_layer_is_named_with_what_to_do(name):
    model = functional(lambda x: layers.Dense(2)(UNKNOWN[name](sequences(4, "r")(x))))
    with pytest.raises(ValueError, match="'culprit'") as error:
        trace(model)
    assert "'r'" in str(error.value)
    assert "`ignore`" in str(error.value)
    # With the way out that the message names, the rest of the model is followed.
    assert "r" in trace(model, ["r"]).left_alone


@pytest.mark.parametrize(
    "operation",
    [lambda x: ops.add(x, x), lambda x: x + 1.0, lambda x: x[:, -1], ops.sum],
    ids=["ops.add", "plus", "slice", "ops.sum"],
)
def test_an_unknown_operation_is_an_error_with_what_to_do(operation):
    def body(x):
        y = operation(sequences(4, "r")(x))
        return ops.sum(y) if not y.shape else layers.Dense(2)(y)

    with pytest.raises(ValueError, match=r"'r'.*ignore"):
        trace(functional(body))


def test_a_subclassed_model_is_an_error_that_says_what_to_build():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = layers.LSTM(4)

        def call(self, x):
            return self.inner(x)

    model = Own()
    model(inputs())
    with pytest.raises(ValueError, match="Functional"):
        trace(model)


def test_a_model_without_weights_yet_is_an_error():
    with pytest.raises(ValueError, match=r"Build it first"):
        trace(keras.Sequential([layers.LSTM(4), layers.Dense(2)]))


def test_an_lstm_used_twice_is_an_error():
    shared = layers.LSTM(4, name="shared")
    start = [keras.Input((None, FEATURES)), keras.Input((None, FEATURES))]
    outputs = [layers.Dense(2)(shared(x)) for x in start]
    model = keras.Model(start, outputs)
    with pytest.raises(ValueError, match=r"'shared'.*more than once"):
        trace(model)
    assert trace(model, ["shared"]).prunable == []


def test_a_dense_that_reads_two_lstms_is_an_error():
    shared = layers.Dense(2, name="shared")
    model = functional(
        lambda x: [shared(layers.LSTM(4, name=name)(x)) for name in ("r", "s")]
    )
    with pytest.raises(ValueError, match=r"'shared'.*more than once"):
        trace(model)


def test_a_state_from_another_lstm_is_an_error():
    encoder = layers.LSTM(4, return_state=True, name="encoder")
    decoder = layers.LSTM(4, name="decoder")

    def body(x):
        _, *states = encoder(x)
        return layers.Dense(2)(decoder(x, initial_state=states))

    model = functional(body)
    with pytest.raises(ValueError, match=r"'decoder'.*'encoder'.*ignore"):
        trace(model)
    assert trace(model, ["encoder", "decoder"]).prunable == []


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
        def follow(self, layer, inputs, extra, tracer):
            for f in inputs[0].families if inputs[0] else ():
                owner = np.where(inputs[0].family == f, inputs[0].unit, -1)
                tracer.own(tracer.plan.families[f], layer.scale, 0, owner, "bias")
            return inputs

    yield
    del rules._RULES[Scaled]


def test_a_rule_of_ones_own_is_followed(scaled_rule):
    first, head = layers.LSTM(6, name="r"), layers.Dense(2)
    model = functional(lambda x: head(Scaled()(first(x))))
    with keras.saving.custom_object_scope({"Scaled": Scaled}):
        small = agree(model, [(first, [head], [1, 3])])
    assert [tuple(w.shape) for w in small.layers[2].weights] == [(4,)]
    model.compile("sgd", "mse")
    pruning = ISSPruning(0.5)
    model.fit(inputs(), np.zeros((3, 2)), verbose=0, callbacks=[pruning])
    assert pruning.report.after == 3
