"""ISSRegularizer against the paper's formulas, written down in NumPy."""

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
    recurrent,
    recurrent_of,
)
from keras import layers, ops

from keras_sparse_rnn import GroupedLSTM, ISSRegularizer, RecurrentHighway, shrink

X = inputs(8)
Y = np.random.default_rng(5).standard_normal((8, 2)).astype("float32")
LEARNING_RATE = 0.1

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="GradientTape"
)


def one_layer(regularizer, **arguments):
    """Four units and a Dense: every weight belongs to one unit, or to two."""
    model = keras.Sequential(
        [
            keras.Input((TIME, FEATURES)),
            layers.LSTM(
                4,
                recurrent_regularizer=regularizer,
                name="r",
                unroll=True,
                **arguments,
            ),
            layers.Dense(2, name="head"),
        ]
    )
    model.compile(keras.optimizers.SGD(LEARNING_RATE), "mse", jit_compile=False)
    return model


def step(model):
    model.train_on_batch(X, Y)
    return model.get_weights()


def plain_step(model):
    """The weights after one step of the same model without the regularizer."""
    plain = one_layer(None)
    plain.set_weights(model.get_weights())
    return step(plain)


def squared_paper(weights):
    """C1: `rowsum + 4 colsums + next rowsum` of each unit."""
    kernel, loop, _, head, _ = (w.astype("float64") ** 2 for w in weights)
    columns = (kernel.sum(0) + loop.sum(0)).reshape(4, -1).sum(0)
    return loop.sum(1) + columns + head.sum(1)


def squared_once(weights):
    crossing = weights[1].astype("float64").reshape(4, 4, 4) ** 2
    return squared_paper(weights) - np.einsum("kgk->k", crossing)


# Columns of the kernel, of the recurrent kernel, its row, the row of the reader.
SIZE_PAPER = 4 * FEATURES + 16 + 16 + 2
SIZE_ONCE = SIZE_PAPER - 4


@pytest.mark.parametrize("scale_by_size", [True, False])
@pytest.mark.parametrize("strength", [0.0, 0.05, 1.0])
def test_proximal_step(strength, scale_by_size):
    model = one_layer(ISSRegularizer(strength, "proximal", scale_by_size))
    model.layers[0].recurrent_regularizer.bind(model)
    expected = plain_step(model)
    pull = LEARNING_RATE * strength * (np.sqrt(SIZE_ONCE) if scale_by_size else 1)
    factor = np.maximum(0, 1 - pull / np.sqrt(squared_once(expected)))
    if strength == 0.05:
        assert ((factor > 0) & (factor < 1)).all()
    columns = np.tile(factor, 4)
    # A weight from a unit to itself is in its component once.
    own = np.arange(4)[:, None] == np.tile(np.arange(4), 4)
    both = np.where(own, columns, factor[:, None] * columns)
    kernel, loop, bias, head, head_bias = expected
    expected = [
        kernel * columns,
        loop * both,
        bias,
        head * factor[:, None],
        head_bias,
    ]
    for ours, theirs in zip(step(model), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_proximal_reaches_exact_zeros_that_shrink_removes():
    model = chain((6, 2), 4, recurrent_regularizer=ISSRegularizer(0.1))
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=False)
    model.layers[0].cell.cells[0].recurrent_regularizer.bind(model)
    model.fit(X, Y, epochs=30, verbose=0)
    small = shrink(model)
    assert small.count_params() < model.count_params()
    for layer, readers in recurrent_of(model):
        for unit in range(layer.units):
            own = component(layer, readers, unit)
            # Whole components and never a part of one, but for shared weights.
            assert (own == 0).all() or (own != 0).any()
    np.testing.assert_allclose(
        small.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-5
    )


def made(regularizer, body):
    start = keras.Input((TIME, FEATURES))
    model = keras.Model(start, layers.Dense(2, name="head")(body(start, regularizer)))
    model.compile(keras.optimizers.SGD(LEARNING_RATE), "mse", jit_compile=False)
    return model


def added(x, regularizer):
    """Two layers whose units are tied; the regularizer of one pulls both."""
    arguments = {"return_sequences": True, "unroll": True}
    first = layers.LSTM(4, recurrent_regularizer=regularizer, name="r", **arguments)
    second = layers.SimpleRNN(4, name="s", **arguments)
    return layers.Add()([first(x), second(x)])[:, -1]


@pytest.mark.parametrize(
    "body",
    [
        lambda x, r: layers.GRU(4, recurrent_regularizer=r, unroll=True)(x),
        lambda x, r: layers.SimpleRNN(4, recurrent_regularizer=r, unroll=True)(x),
        lambda x, r: layers.Bidirectional(
            layers.LSTM(4, recurrent_regularizer=r, unroll=True)
        )(x),
        lambda x, r: layers.RNN(
            layers.LSTMCell(4, recurrent_regularizer=r), unroll=True
        )(x),
        added,
    ],
    ids=["GRU", "SimpleRNN", "Bidirectional", "RNN", "Add"],
)
def test_a_hard_pull_takes_whole_components_of_any_layer(body):
    regularizer = ISSRegularizer(1e3)
    model = made(regularizer, body)
    regularizer.bind(model)
    step(model)
    # All that is pulled becomes zero: every matrix.
    kernels = [weight for weight in model.weights if "kernel" in weight.path]
    assert kernels
    assert not any(array(weight.value).any() for weight in kernels)
    small = shrink(model)
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(
        small.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-5
    )


def test_proximal_step_of_tied_layers_is_that_of_their_common_norm():
    model = made(ISSRegularizer(0.05, scale_by_size=False), added)
    model.get_layer("r").cell.recurrent_regularizer.bind(model)
    plain = made(None, added)
    plain.set_weights(model.get_weights())
    # In each of both layers by its columns and row, and in the Dense by its row.
    total = 0.0
    head = step(plain)[-2]
    for name, gates in (("r", 4), ("s", 1)):
        kernel, loop, _ = plain.get_layer(name).get_weights()
        crossing = np.einsum("kgk->k", loop.reshape(4, gates, 4) ** 2)
        columns = ((kernel**2).sum(0) + (loop**2).sum(0)).reshape(gates, 4).sum(0)
        total = total + columns + (loop**2).sum(1) - crossing
    norms = np.sqrt(total + (head**2).sum(1))
    factor = np.maximum(0, 1 - LEARNING_RATE * 0.05 / norms)
    step(model)
    ours = model.get_layer("head").get_weights()[0]
    np.testing.assert_allclose(ours, head * factor[:, None], atol=1e-6)
    for name, gates in (("r", 4), ("s", 1)):
        ours, theirs = (m.get_layer(name).get_weights()[0] for m in (model, plain))
        np.testing.assert_allclose(ours, theirs * np.tile(factor, gates), atol=1e-6)


def test_proximal_adds_no_loss():
    model = one_layer(ISSRegularizer(1.0))
    model.layers[0].recurrent_regularizer.bind(model)
    assert float(sum(model.losses)) == 0
    plain = one_layer(None)
    plain.set_weights(model.get_weights())
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(
        plain.evaluate(X, Y, verbose=0)
    )


@pytest.mark.parametrize("scale_by_size", [True, False])
def test_paper_form_is_the_papers_sum(scale_by_size):
    model = one_layer(ISSRegularizer(0.3, "paper", scale_by_size))
    model.layers[0].recurrent_regularizer.bind(model)
    norms = np.sqrt(squared_paper(model.get_weights()) + 1e-8)
    scale = np.sqrt(SIZE_PAPER) if scale_by_size else 1.0
    assert float(sum(model.losses)) == pytest.approx(
        0.3 * scale * norms.sum(), rel=1e-5
    )


def test_paper_form_of_two_layers_is_the_sum_over_layers():
    model = chain(
        4,
        (3, [1, 2], 0.6),
        recurrent_regularizer=ISSRegularizer(0.3, "paper", scale_by_size=False),
    )
    model.compile("sgd", "mse")
    model.layers[0].recurrent_regularizer.bind(model)
    total = 0.0
    for layer, readers in recurrent_of(model):
        weights = layer.get_weights()
        per = len(weights) // len(getattr(layer, "group_segments", [0]))
        segments = getattr(layer, "group_segments", [(0, layer.units)])
        for g, (begin, end) in enumerate(segments):
            for unit in range(begin, end):
                own = component(layer, readers, unit).astype("float64")
                loop = weights[g * per + 1][unit - begin].reshape(4, end - begin)
                crossing = loop[:, unit - begin].astype("float64")
                total += np.sqrt((own**2).sum() + (crossing**2).sum() + 1e-8)
    assert float(sum(model.losses)) == pytest.approx(0.3 * total, rel=1e-5)


def test_paper_form_pulls_along_the_gradient_of_the_norm():
    model = one_layer(ISSRegularizer(0.02, "paper", False, threshold=0.0))
    model.layers[0].recurrent_regularizer.bind(model)
    before, plain = model.get_weights(), plain_step(model)
    norms = np.sqrt(squared_paper(before) + 1e-8)
    columns = np.tile(norms, 4)
    kernel, loop, _, head, _ = before
    gradients = [
        kernel / columns,
        loop / columns + loop / norms[:, None],
        0,
        head / norms[:, None],
        0,
    ]
    for ours, theirs, gradient in zip(step(model), plain, gradients, strict=True):
        np.testing.assert_allclose(
            ours, theirs - LEARNING_RATE * 0.02 * gradient, atol=2e-6
        )


def test_paper_form_sets_small_weights_to_zero_after_the_step():
    kept = one_layer(ISSRegularizer(0.02, "paper", False, threshold=0.0))
    cut = one_layer(ISSRegularizer(0.02, "paper", False, threshold=0.05))
    cut.set_weights(kept.get_weights())
    for model in (kept, cut):
        model.layers[0].recurrent_regularizer.bind(model)
    kernel, loop, bias, head, head_bias = step(kept)
    expected = [np.where(np.abs(w) < 0.05, 0, w) for w in (kernel, loop, head)]
    assert (expected[0] == 0).any()
    assert (np.abs(bias) < 0.05).any()
    expected = [*expected[:2], bias, expected[2], head_bias]
    for ours, theirs in zip(step(cut), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


# Graphs that are no chains. What belongs to unit k is written down from the papers
# (Wen et al., section 3.1; the two gates of a highway layer likewise): its columns of
# each gate in the kernel and the recurrent kernel, its recurrent row, and its row in
# all that reads it. No biases.


def own(name, units, gates, k, at=0):
    """Columns and recurrent row of unit k; `at` is the kernel's place."""
    columns = [gate * units + k for gate in range(gates)]
    return [
        (name, at, np.s_[:, columns]),
        (name, at + 1, np.s_[:, columns]),
        (name, at + 1, np.s_[k]),
    ]


def read(name, row, at=0):
    return [(name, at, np.s_[row])]


def a_sum(x, r):
    both = [sequence(layers.LSTM, 3, name, r)(x) for name in "ab"]
    return layers.Dense(2, name="head")(layers.Add()(both))


def a_sum_of(k):
    return [*own("a", 3, 4, k), *own("b", 3, 4, k), *read("head", k)]


def a_concatenation(x, r):
    a, b = sequence(layers.LSTM, 3, "a", r)(x), sequence(layers.GRU, 2, "b", r)(x)
    both = layers.Concatenate()([x, a, b])
    return layers.Dense(2, name="head")(sequence(layers.LSTM, 2, "c", r)(both))


def two_readers(x, r):
    units = sequence(layers.GRU, 3, "a", r)(x)
    read_on = sequence(layers.SimpleRNN, 2, "b", None)(units)
    return layers.Dense(2, name="head")(read_on), layers.Dense(4, name="side")(units)


def two_directions(x, r):
    side = sequence(layers.LSTM, 3, "side", r)
    return layers.Dense(2, name="head")(layers.Bidirectional(side, name="a")(x))


def an_encoder_and_a_decoder(x, r):
    _, *states = layers.LSTM(3, return_state=True, name="a", recurrent_regularizer=r)(x)
    decoder = sequence(layers.LSTM, 3, "b", r)
    return layers.Dense(2, name="head")(decoder(x, initial_state=states))


def groups(x, r):
    units = sequence(layers.LSTM, 4, "a", r)(x)
    layer = GroupedLSTM(
        5,
        [2, 3],
        input_segments=[(0, 3), (1, 4)],
        return_sequences=True,
        name="b",
        recurrent_regularizer=r,
    )
    return layers.Dense(2, name="head")(layer(units))


def a_highway(x, r):
    table = layers.ReversibleEmbedding(7, 3, name="table")
    layer = RecurrentHighway(
        3, 2, return_sequences=True, name="a", recurrent_regularizer=r
    )
    return table(layer(table(ops.argmax(x, axis=-1))), reverse=True)


def sequence(kind, units, name, regularizer):
    return kind(
        units, return_sequences=True, name=name, recurrent_regularizer=regularizer
    )


# For each layer whose units are pulled together, in the order of the model's weights,
# what its units own: `(layer, place among its weights, slice)`.
GRAPHS = {
    a_sum: [[a_sum_of(k) for k in range(3)]],
    a_concatenation: [
        # Behind the five features of the input.
        [[*own("a", 3, 4, k), *read("c", 5 + k)] for k in range(3)],
        [[*own("b", 2, 3, k), *read("c", 5 + 3 + k)] for k in range(2)],
        [[*own("c", 2, 4, k), *read("head", k)] for k in range(2)],
    ],
    two_readers: [
        [[*own("a", 3, 3, k), *read("b", k), *read("side", k)] for k in range(3)],
    ],
    two_directions: [
        [[*own("a", 3, 4, k), *read("head", k)] for k in range(3)],
        [[*own("a", 3, 4, k, at=3), *read("head", 3 + k)] for k in range(3)],
    ],
    an_encoder_and_a_decoder: [
        [[*own("a", 3, 4, k), *own("b", 3, 4, k), *read("head", k)] for k in range(3)]
    ],
    groups: [
        # Unit 0 is seen by the first group, 1 and 2 by both, 3 by the second.
        [
            [*own("a", 4, 4, 0), *read("b", 0)],
            [*own("a", 4, 4, 1), *read("b", 1), *read("b", 0, at=3)],
            [*own("a", 4, 4, 2), *read("b", 2), *read("b", 1, at=3)],
            [*own("a", 4, 4, 3), *read("b", 2, at=3)],
        ],
        [[*own("b", 2, 4, k), *read("head", k)] for k in range(2)],
        [[*own("b", 3, 4, k, at=3), *read("head", 2 + k)] for k in range(3)],
    ],
    a_highway: [
        [
            [
                ("table", 0, np.s_[:, k]),
                # The row that reads the input, which is as wide as the state.
                ("a", 0, np.s_[k]),
                ("a", 0, np.s_[:, [k, 3 + k]]),
                ("a", 1, np.s_[k]),
                ("a", 1, np.s_[:, [k, 3 + k]]),
                ("a", 2, np.s_[k]),
                ("a", 2, np.s_[:, [k, 3 + k]]),
            ]
            for k in range(3)
        ]
    ],
}


def regularized(body, *arguments, **keywords):
    regularizer = ISSRegularizer(*arguments, **keywords)
    start = keras.Input((TIME, FEATURES))
    model = keras.Model(start, body(start, regularizer))
    optimizer = keras.optimizers.SGD(LEARNING_RATE)
    regularizer.bind(model, optimizer=optimizer)
    return model, optimizer


def values_of(model):
    return {
        (layer.name, place): array(weight.value).astype("float64")
        for layer in model.layers
        for place, weight in enumerate(layer.weights)
    }


@needs_tensorflow
@pytest.mark.parametrize("scale_by_size", [True, False])
@pytest.mark.parametrize("body", GRAPHS, ids=lambda body: body.__name__)
def test_paper_form_and_its_gradient_on_any_graph(body, scale_by_size):
    import tensorflow as tf

    model, _ = regularized(body, 0.3, "paper", scale_by_size)
    values = values_of(model)
    penalty, gradients = 0.0, {key: 0 * value for key, value in values.items()}
    for unit in [unit for family in GRAPHS[body] for unit in family]:
        # A weight of a unit to itself lies in a column and in the row: twice.
        slices = [values[name, place][index] for name, place, index in unit]
        norm = np.sqrt(sum((one**2).sum() for one in slices) + 1e-8)
        size = sum(one.size for one in slices)
        strength = 0.3 * (np.sqrt(size) if scale_by_size else 1)
        penalty += strength * norm
        for name, place, index in unit:
            gradients[name, place][index] += (
                strength * values[name, place][index] / norm
            )
    weights = {
        (layer.name, place): weight.value
        for layer in model.layers
        for place, weight in enumerate(layer.weights)
    }
    with tf.GradientTape() as tape:
        loss = sum(model.losses)
    assert float(loss) == pytest.approx(penalty, rel=1e-5)
    found = tape.gradient(loss, weights, unconnected_gradients="zero")
    for key, expected in gradients.items():
        np.testing.assert_allclose(array(found[key]), expected, atol=1e-5)


@pytest.mark.parametrize("scale_by_size", [True, False])
@pytest.mark.parametrize("body", GRAPHS, ids=lambda body: body.__name__)
def test_proximal_step_on_any_graph(body, scale_by_size):
    strength = 0.3 if scale_by_size else 3.0
    model, optimizer = regularized(body, strength, "proximal", scale_by_size)
    values = values_of(model)
    for family in GRAPHS[body]:
        factors = {key: np.ones_like(value) for key, value in values.items()}
        for unit in family:
            mine = {key: np.zeros(value.shape, bool) for key, value in values.items()}
            for name, place, index in unit:
                mine[name, place][index] = True
            norm = np.sqrt(sum((values[key][mine[key]] ** 2).sum() for key in values))
            size = sum(one.sum() for one in mine.values())
            pull = LEARNING_RATE * strength * (np.sqrt(size) if scale_by_size else 1)
            assert 0 < pull < norm
            for key, one in mine.items():
                factors[key][one] *= 1 - pull / norm
        values = {key: values[key] * factors[key] for key in values}
    # A step on a loss of zero.
    variables = model.trainable_variables
    optimizer.apply([ops.zeros_like(one.value) for one in variables], variables)
    for key, ours in values_of(model).items():
        np.testing.assert_allclose(ours, values[key], atol=1e-6)


# Unbound, and bound to nothing.


@pytest.mark.parametrize("form", ["proximal", "paper"])
@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.fit(X, Y, verbose=0),
        lambda model: model.evaluate(X, Y, verbose=0),
        lambda model: model.train_on_batch(X, Y),
        lambda model: model.losses,
    ],
    ids=["fit", "evaluate", "train_on_batch", "losses"],
)
def test_unbound_it_raises(form, use):
    model = one_layer(ISSRegularizer(0.1, form))
    with pytest.raises(RuntimeError, match="ISSPruning"):
        use(model)


def test_unbound_it_lets_the_model_be_built_predict_save_and_clone(tmp_path):
    model = one_layer(ISSRegularizer(0.1))
    model.predict(X, verbose=0)
    keras.models.clone_model(model).predict(X, verbose=0)
    model.save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras").predict(X, verbose=0)


def test_a_model_without_any_can_not_be_bound():
    with pytest.raises(ValueError, match="holds no ISSRegularizer"):
        ISSRegularizer(0.1).bind(one_layer(None))


class OwnLSTM(layers.LSTM):
    """A kind of layer that pruning has no rule for."""


@pytest.mark.parametrize(
    "layer",
    [
        lambda r: layers.LSTM(4, kernel_regularizer=r),
        lambda r: layers.Dense(4, kernel_regularizer=r),
        lambda r: OwnLSTM(4, recurrent_regularizer=r),
    ],
    ids=["kernel", "Dense", "no rule"],
)
def test_where_it_matches_no_component_it_raises(layer):
    regularizer = ISSRegularizer(0.1)
    model = keras.Sequential(
        [keras.Input((4, FEATURES)), layer(regularizer), layers.Dense(2)]
    )
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="matches no component"):
        regularizer.bind(model)


def test_units_that_reach_an_output_can_not_be_pulled():
    regularizer = ISSRegularizer(0.1)
    model = keras.Sequential(
        [keras.Input((4, FEATURES)), layers.LSTM(4, recurrent_regularizer=regularizer)]
    )
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="output of the model"):
        regularizer.bind(model)


@pytest.mark.parametrize("form", ["proximal", "paper"])
def test_a_frozen_reader_is_an_error(form):
    model = one_layer(ISSRegularizer(0.1, form))
    model.get_layer("head").trainable = False
    with pytest.raises(ValueError, match=r"head/kernel'.*frozen"):
        model.layers[0].recurrent_regularizer.bind(model)


def test_proximal_without_any_optimizer_is_an_error():
    model = chain(4, recurrent_regularizer=ISSRegularizer(0.1))
    with pytest.raises(ValueError, match="learning rate"):
        model.layers[0].recurrent_regularizer.bind(model)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"strength": -1}, "strength=-1"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"strength": float("inf")}, "strength=inf"),
        ({"strength": 1, "form": "lasso"}, "form='lasso'"),
        ({"strength": 1, "threshold": -1}, "threshold=-1"),
    ],
)
def test_impossible_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        ISSRegularizer(**arguments)


# Saving, and binding anew.


@pytest.mark.parametrize(
    ("form", "spec"),
    [
        ("proximal", (4, 2)),
        ("paper", 4),
        pytest.param("proximal", 4, marks=pytest.mark.long),
        pytest.param("paper", (4, 2), marks=pytest.mark.long),
    ],
)
def test_saves_with_the_layer_and_binds_again(tmp_path, form, spec):
    regularizer = ISSRegularizer(0.25, form, scale_by_size=False, threshold=1e-3)
    model = chain(spec, recurrent_regularizer=regularizer)
    model.compile(keras.optimizers.SGD(LEARNING_RATE), "mse", jit_compile=False)
    regularizer.bind(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    layer = loaded.get_layer("r0")
    again = (getattr(layer, "cell", None).__dict__.get("cells") or [layer.cell])[0]
    again = again.recurrent_regularizer
    assert (
        again.get_config()
        == regularizer.get_config()
        == {
            "strength": 0.25,
            "form": form,
            "scale_by_size": False,
            "threshold": 1e-3,
        }
    )
    with pytest.raises(RuntimeError, match="bound anew"):
        _ = loaded.losses
    again.bind(loaded)
    assert float(sum(loaded.losses)) == pytest.approx(float(sum(model.losses)))
    for net in (model, loaded):
        net.train_on_batch(X, Y)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_binding_twice_acts_once():
    once, twice = one_layer(ISSRegularizer(0.05)), one_layer(ISSRegularizer(0.05))
    twice.set_weights(once.get_weights())
    once.layers[0].recurrent_regularizer.bind(once)
    for _ in range(2):
        twice.layers[0].recurrent_regularizer.bind(twice)
    for a, b in zip(step(once), step(twice), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_binding_after_a_step_is_heard_by_the_compiled_step():
    regularizer = ISSRegularizer(0.05)
    model = one_layer(None)
    model.train_on_batch(X, Y)
    model.layers[0].cell.recurrent_kernel.regularizer = regularizer
    regularizer.bind(model)
    plain = plain_step(model)
    assert not np.allclose(step(model)[3], plain[3], atol=1e-4)


# Where it acts.


@needs_tensorflow
@pytest.mark.parametrize("form", conftest.often(["proximal", "paper"], "proximal"))
def test_acts_the_same_under_xla_and_eagerly(form):
    results = []
    for arguments in ({"run_eagerly": True}, {"jit_compile": True}):
        keras.utils.set_random_seed(3)
        regularizer = ISSRegularizer(0.02, form)
        model = one_layer(regularizer)
        model.compile(keras.optimizers.Adam(0.01), "mse", **arguments)
        regularizer.bind(model)
        for _ in range(2):
            model.train_on_batch(X, Y)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_uses_the_learning_rate_of_the_moment():
    model = one_layer(ISSRegularizer(1e3))
    model.layers[0].recurrent_regularizer.bind(model)
    model.optimizer.learning_rate = 0.0
    before = model.get_weights()
    for a, b in zip(step(model), before, strict=True):
        np.testing.assert_array_equal(a, b)
    model.optimizer.learning_rate = 1.0
    assert not step(model)[3].any()


@pytest.mark.parametrize("form", ["proximal", "paper"])
def test_mixed_precision(form):
    model = chain(
        4,
        (4, 2),
        recurrent_regularizer=ISSRegularizer(0.3, form, threshold=1e-2),
        dtype="mixed_float16",
    )
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.5), initial_scale=2.0
    )
    model.compile(optimizer, "mse", run_eagerly=True)
    model.layers[0].recurrent_regularizer.bind(model)
    before = model.get_weights()
    model.fit(X, Y, epochs=3, verbose=0)
    weights = model.get_weights()
    assert all(np.isfinite(w).all() for w in weights)
    assert sum(int((w == 0).sum()) for w in weights) > sum(
        int((w == 0).sum()) for w in before
    )


@needs_tensorflow
@pytest.mark.parametrize("form", ["proximal", "paper"])
def test_a_custom_loop(form):
    import tensorflow as tf

    model = chain(4, recurrent_regularizer=ISSRegularizer(2.0, form, threshold=1e-2))
    optimizer = keras.optimizers.SGD(0.1)
    model.layers[0].recurrent_regularizer.bind(model, optimizer=optimizer)

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            loss += sum(model.losses)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    for _ in range(30):
        train_step(tf.constant(X), tf.constant(Y))
    ((layer, readers),) = recurrent_of(model)
    own = np.stack([component(layer, readers, u) for u in range(4)])
    if form == "proximal":
        assert not own.any()
    else:
        assert (own == 0).any()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX only")
@pytest.mark.parametrize("form", ["proximal", "paper"])
def test_a_stateless_loop_under_jit_reaches_exact_zeros(form):
    import jax

    model = chain(
        4, (4, 2), recurrent_regularizer=ISSRegularizer(2.0, form, threshold=1e-2)
    )
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    model.layers[0].recurrent_regularizer.bind(model, optimizer=optimizer)

    def loss_of(trainable, fixed, x, y):
        y_pred, fixed, losses = model.stateless_call(
            trainable, fixed, x, training=True, return_losses=True
        )
        return ops.mean((y_pred - y) ** 2) + sum(losses), fixed

    @jax.jit
    def train_step(trainable, fixed, state, x, y):
        (_, fixed), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            trainable, fixed, x, y
        )
        trainable, state = optimizer.stateless_apply(state, gradients, trainable)
        return trainable, fixed, state

    trainable = [v.value for v in model.trainable_variables]
    fixed = [v.value for v in model.non_trainable_variables]
    state = [v.value for v in optimizer.variables]
    for _ in range(30):
        trainable, fixed, state = train_step(trainable, fixed, state, X, Y)
    for variable, value in zip(model.trainable_variables, trainable, strict=True):
        variable.assign(value)
    own = [
        component(layer, readers, unit)
        for layer, readers in recurrent_of(model)
        for unit in range(4)
    ]
    if form == "proximal":
        assert not any(part.any() for part in own)
    else:
        assert all((part == 0).any() for part in own)


def test_a_users_own_constraint_still_acts():
    limit = keras.constraints.MaxNorm(0.2)
    model = one_layer(ISSRegularizer(0.01), kernel_constraint=limit)
    model.get_layer("head").kernel.constraint = limit
    model.layers[0].recurrent_regularizer.bind(model)
    kernel, loop, _, head, _ = step(model)
    for weight in (kernel, head):
        assert np.linalg.norm(weight, axis=0).max() <= 0.2 + 1e-6
    assert np.linalg.norm(loop, axis=0).max() > 0.2
    assert (array(model.get_layer("r").cell.kernel.value) == kernel).all()


@pytest.mark.parametrize("spec", conftest.often([4, (4, 2)], (4, 2)))
def test_pulls_no_unit_of_a_layer_without_it(spec):
    start = keras.Input((None, FEATURES))
    regularizer = ISSRegularizer(1e3)
    first = recurrent(spec, return_sequences=True, recurrent_regularizer=regularizer)
    second, head = layers.LSTM(3), layers.Dense(2)
    model = keras.Model(start, head(second(first(start))))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    regularizer.bind(model)
    model.train_on_batch(X, Y)
    assert not any(component(first, [second], u).any() for u in range(4))
    _, loop, _ = second.get_weights()
    assert (loop != 0).all()
    assert (head.get_weights()[0] != 0).all()


def test_proximal_pull_is_that_of_the_optimizer_of_now():
    regularizer = ISSRegularizer(50.0)
    model = chain(4, recurrent_regularizer=regularizer)
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    regularizer.bind(model)
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    before = model.get_weights()
    model.fit(inputs(), np.zeros((3, 2), "float32"), verbose=0)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_accumulated_gradients_pull_once():
    norms_after = []
    for steps in (None, 4):
        keras.utils.set_random_seed(0)
        regularizer = ISSRegularizer(0.05)
        model = chain(4, recurrent_regularizer=regularizer)
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps)
        model.compile(optimizer, "mse", jit_compile=False)
        regularizer.bind(model)
        x = np.tile(inputs(4), (steps or 1, 1, 1))
        model.fit(x, np.zeros((len(x), 2), "float32"), batch_size=4, verbose=0)
        norms_after.append(np.abs(model.get_layer("r0").get_weights()[1]).sum())
    assert norms_after[0] == pytest.approx(norms_after[1], rel=1e-3)
