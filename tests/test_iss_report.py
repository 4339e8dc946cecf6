"""Reports: what pruning removes, what it costs and leaves alone, and the pictures."""

import gc
import sys
import weakref

import keras
import numpy as np
import pytest
from chains import array, chain, inputs, kill, mask, recurrent_of
from keras import layers, ops

from keras_sparse_rnn import (
    GroupedLSTM,
    ISSPruning,
    ISSRegularizer,
    RecurrentHighway,
    TieredEmbedding,
    report,
    shrink,
)
from keras_sparse_rnn.iss.costs import Costs
from keras_sparse_rnn.iss.pictures import matrices_of
from keras_sparse_rnn.iss.trace import trace

FEATURES, TIME = 5, 4
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
SEQUENCES = {"return_sequences": True}


def sequential(*stack, features=FEATURES, time=TIME):
    return keras.Sequential([keras.Input((time, features)), *stack])


def reading(*stack):
    """A model of word ids."""
    return keras.Sequential([keras.Input((TIME,), dtype="int32"), *stack])


def stored(model):
    """Parameters and bytes, from the variables themselves."""
    sizes = [(int(np.prod(w.shape)), BYTES[w.dtype]) for w in model.weights]
    return model.count_params(), sum(size * each for size, each in sizes)


def parameters_and_bytes(cost):
    return cost.parameters, cost.bytes


def train_nothing(model, pruning, steps=4):
    """What `fit` calls when no weight changes."""
    model.compile("sgd", "mse")
    pruning.set_model(model)
    pruning.set_params({"epochs": 1, "steps": steps})
    pruning.on_train_begin()
    pruning.on_epoch_begin(0)
    for step in range(steps):
        pruning.on_train_batch_end(step)
    pruning.on_epoch_end(0)
    pruning.on_train_end()
    return pruning.pruned_model


# What is left.

TARGETS = [
    {"keep": 0.4},
    {"keep": 0.9},
    {"keep_parameters": 0.4},
    {"max_bytes": 1500},
    {"max_multiply_adds": 300},
    {"units": {"r0": 3, "r1": 4}},
    {"keep": 0.5, "round_to": 2},
]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_dry_run_tells_what_training_leaves(target):
    model = chain(8, (6, 2))
    # Of eight units one is dead, more than a loose target asks for.
    kill(*recurrent_of(model)[0], [2])
    if target == {"keep": 0.9}:
        kill(*recurrent_of(model)[0], [1, 3])
    pruning = ISSPruning(**target, updates=1)
    dry = report(model, pruning)
    small = train_nothing(model, pruning)
    assert parameters_and_bytes(dry.before) == stored(model)
    assert parameters_and_bytes(dry.after) == stored(small)
    assert [one.after for one in dry.layers] == [
        layer.units for layer, _ in recurrent_of(small)
    ]
    after = pruning.report
    assert (dry.before, dry.after) == (after.before, after.after)
    assert str(dry) == str(after)
    assert dry.steps == 0
    for one, other in zip(dry.layers, after.layers, strict=True):
        assert set(one.removed_at.tolist()) <= {-1, 0}
        assert ((one.removed_at < 0) == (other.removed_at < 0)).all()


def test_a_dry_run_tells_what_fit_leaves():
    model, x = chain(6), inputs(8)
    pruning = ISSPruning(0.5)
    dry = report(model, pruning)
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    model.fit(x, np.zeros((8, 2)), 4, callbacks=[pruning], verbose=0)
    assert parameters_and_bytes(dry.after) == stored(pruning.pruned_model)
    assert str(dry) == str(pruning.report)


def test_a_dry_run_without_a_target_tells_what_is_zero():
    model = chain(6, recurrent_regularizer=ISSRegularizer(1e-3))
    kill(*recurrent_of(model)[0], [0, 5])
    assert report(model, ISSPruning()).layers[0].after == 4


def residual():
    """Two recurrent layers whose units go together, and one in a wrapper."""
    x = keras.Input((TIME, FEATURES))
    one = layers.LSTM(4, name="one", **SEQUENCES)(x)
    other = layers.GRU(4, name="other", **SEQUENCES)(x)
    both = layers.Bidirectional(layers.SimpleRNN(3))(layers.Add()([one, other]))
    return keras.Model(x, layers.Dense(2)(both))


def nested():
    """Layers of one name in two models, and a model that is called twice."""

    def inner(name, features):
        stack = [layers.LSTM(4, name="rnn", **SEQUENCES), layers.Dense(4, name="dense")]
        start = keras.Input((TIME, features))
        return keras.Sequential([start, *stack], name=name)

    x = keras.Input((TIME, FEATURES))
    again = inner("again", 4)
    out = again(again(inner("once", FEATURES)(x)))
    return keras.Model(x, layers.Dense(2, name="dense")(out))


MODELS = {
    "chain": lambda: chain(6, (4, 2), 4),
    "residual": residual,
    "nested": nested,
    "highway": lambda: sequential(RecurrentHighway(4, 3), layers.Dense(2)),
    "convolved": lambda: sequential(
        layers.LSTM(6, **SEQUENCES), layers.Conv1D(4, 2), layers.GRU(3), layers.Dense(2)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_report_tells_what_shrink_leaves(name):
    model = MODELS[name]()
    full = report(model)
    assert full.before == full.after
    assert parameters_and_bytes(full.before) == stored(model)
    assert full.units_before == full.units_after
    left = mask(model)
    masked = report(model)
    small = shrink(model)
    assert masked.before == full.before
    assert parameters_and_bytes(masked.after) == stored(small)
    # The oracle of its products: the smaller model, counted as a whole.
    assert masked.after == report(small).before
    if name != "nested":
        assert {one.layer: one.after for one in masked.layers} == left
    assert masked.units_after == sum(one.after for one in masked.layers)
    for one in masked.costs:
        assert one.after.parameters <= one.before.parameters


def test_layers_of_one_name_have_rows_of_their_own():
    found = {one.layer: one.before for one in report(nested()).costs}
    lstm = 4 * (4 + 4) * 4
    assert {name: cost.multiply_adds for name, cost in found.items()} == {
        "once/rnn": 4 * (FEATURES + 4) * 4,
        "once/dense": 16,
        "again/rnn": 2 * lstm,
        "again/dense": 2 * 16,
        "dense": 8,
    }
    assert found["again/rnn"].parameters == lstm + 16
    assert found["dense"].parameters == 10


def test_weights_that_no_call_uses_have_a_row():
    model = MODELS["residual"]()
    model.dense = layers.Dense(3, name="dense")
    model.dense.build((None, 7))
    rows = {one.layer: one.before for one in report(model).costs}
    assert rows["(not called)"].parameters == 24
    assert rows["(not called)"].multiply_adds == 0
    assert report(model).before.parameters == model.count_params()


def test_nothing_is_changed():
    model = chain(6, (4, 2), recurrent_regularizer=ISSRegularizer(1e-3))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    mask(model)
    regularizers = [v.regularizer for v in model.weights]
    constraints = [v.constraint for v in model.weights]
    config = model.get_config()
    before = [array(v) for v in [*model.variables, *model.optimizer.variables]]
    pruning = ISSPruning(0.5)
    for found in (report(model), report(model, pruning), report(model, ignore="r0")):
        assert found.layers
    after = [array(v) for v in [*model.variables, *model.optimizer.variables]]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.get_config() == config
    assert [v.regularizer for v in model.weights] == regularizers
    assert [v.constraint for v in model.weights] == constraints
    assert model.compiled
    assert pruning.report is None
    assert pruning.pruned_model is None


# What it costs.


def tied(tie_weights):
    ids = keras.Input((TIME,), dtype="int32")
    table = layers.ReversibleEmbedding(11, 6, tie_weights=tie_weights)
    hidden = layers.LSTM(6, **SEQUENCES)(table(ids))
    return keras.Model(ids, table(hidden, reverse=True))


def shared():
    first, second = keras.Input((TIME, FEATURES)), keras.Input((TIME, FEATURES))
    lstm = layers.LSTM(6)
    both = layers.Concatenate()([lstm(first), lstm(second)])
    return keras.Model([first, second], layers.Dense(2)(both))


def attention(features=6):
    x = keras.Input((TIME, features))
    found = layers.LSTM(6, **SEQUENCES)(x)
    found = layers.MultiHeadAttention(2, 3)(found, found)
    return keras.Model(x, found)


def by_hand():
    """A product of states with a variable, which is no weight of the model."""
    matrix = keras.Variable(np.ones((6, 3), "float32"))
    x = keras.Input((TIME, FEATURES))
    return keras.Model(x, ops.matmul(layers.LSTM(6)(x), matrix))


LSTM = 4 * (FEATURES + 6) * 6
# What one time step multiplies, counted by hand.
COUNTS = {
    "LSTM": (lambda: sequential(layers.LSTM(6)), LSTM),
    "GRU": (lambda: sequential(layers.GRU(6)), 3 * (5 + 6) * 6),
    "GRU, reset before": (
        lambda: sequential(layers.GRU(6, reset_after=False)),
        3 * (5 + 6) * 6,
    ),
    "SimpleRNN": (lambda: sequential(layers.SimpleRNN(6)), (5 + 6) * 6),
    "stacked cells": (
        lambda: sequential(layers.RNN([layers.LSTMCell(6), layers.GRUCell(2)])),
        LSTM + 3 * (6 + 2) * 2,
    ),
    "stateful": (
        lambda: keras.Sequential(
            [keras.Input((TIME, 5), batch_size=2), layers.LSTM(6, stateful=True)]
        ),
        LSTM,
    ),
    "Bidirectional": (
        lambda: sequential(layers.Bidirectional(layers.GRU(6))),
        2 * 3 * (5 + 6) * 6,
    ),
    "GroupedLSTM": (lambda: sequential(GroupedLSTM(6, 2)), 2 * 4 * (5 + 3) * 3),
    "RecurrentHighway": (
        lambda: sequential(RecurrentHighway(4, 3)),
        5 * 2 * 4 + 3 * 4 * 2 * 4,
    ),
    "TimeDistributed": (
        lambda: sequential(
            layers.LSTM(6, **SEQUENCES), layers.TimeDistributed(layers.Dense(3))
        ),
        LSTM + 18,
    ),
    "an LSTM over the letters of each word": (
        lambda: keras.Sequential(
            [
                keras.Input((TIME, 3), dtype="int32"),
                layers.Embedding(9, 5),
                layers.TimeDistributed(layers.LSTM(6)),
                layers.LSTM(2),
            ]
        ),
        3 * LSTM + 4 * (6 + 2) * 2,
    ),
    "a convolution over the letters of each word": (
        lambda: keras.Sequential(
            [
                keras.Input((TIME, 3, 5)),
                layers.TimeDistributed(layers.Conv1D(4, 2)),
                layers.Reshape((TIME, 8)),
                layers.LSTM(2),
            ]
        ),
        2 * (2 * 5 * 4) + 4 * (8 + 2) * 2,
    ),
    "the same in two dimensions": (
        lambda: keras.Sequential(
            [
                keras.Input((TIME, 3, 5)),
                layers.Conv2D(4, (1, 2), data_format="channels_last"),
                layers.Reshape((TIME, 8)),
                layers.LSTM(2),
            ]
        ),
        2 * (2 * 5 * 4) + 4 * (8 + 2) * 2,
    ),
    "the same with channels first": (
        lambda: keras.Sequential(
            [
                keras.Input((5, TIME, 3)),
                layers.Conv2D(4, (1, 2), data_format="channels_first"),
                layers.Permute((2, 1, 3)),
                layers.Reshape((TIME, 8)),
                layers.LSTM(2),
            ]
        ),
        2 * (2 * 5 * 4) + 4 * (8 + 2) * 2,
    ),
    "Conv1D": (
        lambda: sequential(layers.Conv1D(3, 2), layers.LSTM(6)),
        2 * 5 * 3 + 4 * (3 + 6) * 6,
    ),
    "heads by Dense": (
        lambda: sequential(
            layers.LSTM(6, **SEQUENCES), layers.Reshape((TIME, 2, 3)), layers.Dense(5)
        ),
        LSTM + 2 * 3 * 5,
    ),
    "heads by EinsumDense": (
        lambda: sequential(
            layers.LSTM(6, **SEQUENCES),
            layers.EinsumDense("btf,fhd->bthd", (TIME, 2, 3), bias_axes="hd"),
            layers.EinsumDense("bthd,de->bthe", (TIME, 2, 5)),
            layers.TimeDistributed(layers.EinsumDense("bhd,de->bhe", (2, 7))),
            layers.EinsumDense("...x,xy->...y", 3),
        ),
        LSTM + 6 * 2 * 3 + 2 * 3 * 5 + 2 * 5 * 7 + 2 * 7 * 3,
    ),
    "MultiHeadAttention": (attention, 4 * (6 + 6) * 6 + 4 * 36),
    "tied table": (lambda: tied(True), 4 * 12 * 6 + 11 * 6),
    "table apart": (lambda: tied(False), 4 * 12 * 6 + 11 * 6),
    "TieredEmbedding": (
        lambda: reading(TieredEmbedding(20, 6, 0.5), layers.LSTM(6)),
        4 * 12 * 6,
    ),
    "shared layer": (shared, 2 * LSTM + 12 * 2),
    "normalized": (
        lambda: sequential(
            layers.LayerNormalization(axis=(1, 2)),
            layers.PReLU(),
            layers.LSTM(6, **SEQUENCES),
            layers.BatchNormalization(),
        ),
        LSTM,
    ),
    "an operation": (by_hand, LSTM + 18),
}


@pytest.mark.parametrize("name", COUNTS)
def test_multiply_adds_against_counts_by_hand(name):
    build, expected = COUNTS[name]
    model = build()
    found = report(model).before
    assert found.multiply_adds == expected
    assert parameters_and_bytes(found) == stored(model)


def test_multiply_adds_of_the_papers_language_model():
    # Section 4.1: two LSTMs of 1500 units and 10000 words, 51 million.
    zeros = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
    for features, h1, h2, words in ((3, 7, 6, 11), (1500, 1500, 1500, 10000)):
        model = reading(
            layers.Embedding(words, features, "zeros"),
            layers.LSTM(h1, **zeros, **SEQUENCES),
            layers.LSTM(h2, **zeros, **SEQUENCES),
            layers.Dense(words, kernel_initializer="zeros"),
        )
        plan = trace(model)
        cost = Costs(plan).total([np.ones(f.units, bool) for f in plan.families])
        expected = 4 * (features + h1) * h1 + 4 * (h1 + h2) * h2 + h2 * words
        assert cost.multiply_adds == expected
    assert round(expected / 1e6, 1) == 51.0


def test_quantized_layers_and_lora():
    def build():
        return reading(
            layers.Embedding(11, 6),
            layers.Dense(7),
            layers.EinsumDense("btf,fg->btg", (None, 5)),
            layers.SimpleRNN(2),
        )

    plain = 6 * 7 + 7 * 5 + (5 + 2) * 2
    model = build()
    assert report(model).before.multiply_adds == plain
    embedding, dense, *_ = model.layers
    embedding.enable_lora(2)
    dense.enable_lora(3)
    # Added to the matrices, which are then multiplied as they were.
    assert report(model).before.multiply_adds == plain
    assert parameters_and_bytes(report(model).before) == stored(model)
    found = {}
    for mode in ("int8", "int4"):
        model = build()
        quantized = [layer for layer in model.layers if "dense" in layer.name]
        for layer in [model.layers[0], *quantized]:
            layer.quantize(mode)
        found[mode] = report(model).before
        assert found[mode].multiply_adds == plain
        assert parameters_and_bytes(found[mode]) == stored(model)
    # Two weights of four bits share a byte.
    assert found["int4"].parameters < found["int8"].parameters
    model.layers[0].enable_lora(2)
    model.layers[1].enable_lora(3)
    products = report(model).before.multiply_adds
    assert products == plain + 2 * 6 + 6 * 3 + 3 * 7


@pytest.mark.parametrize(
    ("dtype", "each"), [("mixed_float16", 4), ("bfloat16", 2), ("float16", 2)]
)
def test_bytes_are_those_of_the_dtype(dtype, each):
    plain = {"recurrent_initializer": "zeros", "dtype": dtype}
    model = sequential(layers.LSTM(6, **plain), layers.Dense(2, dtype=dtype))
    cost = report(model).before
    assert cost.bytes == each * model.count_params() == stored(model)[1]


# What it says.


def test_the_table():
    x = keras.Input((TIME, FEATURES), name="in")
    hidden = GroupedLSTM(6, 2, name="grouped", **SEQUENCES)(x)
    hidden = layers.LSTM(4, name="ignored", **SEQUENCES)(hidden)
    both = layers.GRU(3, name="out", **SEQUENCES)(hidden)
    model = keras.Model(x, [both, layers.Dense(1000, name="words")(hidden)])
    grouped = model.get_layer("grouped")
    # Of its second group only the last unit lives.
    kill(grouped, [model.get_layer("ignored")], [3, 4])
    assert str(report(model, ignore=["ignored"])).splitlines() == [
        "recurrent layer  units  left  share",
        "grouped              6     4  66.7%  3 + 1",
        "all                  6     4  66.7%",
        "",
        "layer    parameters   left  multiply-adds   left   bytes    left",
        "grouped         216    136            192    120     864     544",
        "ignored         176    144            160    128     704     576",
        "words         5,000  5,000          4,000  4,000  20,000  20,000",
        "out              81     81             63     63     324     324",
        "all           5,473  5,361          4,415  4,311  21,892  21,444",
        "left alone: ignored: 'ignored' is named in `ignore`",
        "left alone: out: its units are an output of the model",
    ]
    pruning = ISSPruning(max_bytes=20_900, ignore=["ignored"])
    with pytest.raises(
        ValueError, match=r"20,996 bytes, not 20,900.*'out': 'its units"
    ):
        report(model, pruning)
    text = str(report(model, ISSPruning(max_bytes=21_500, ignore=["ignored"])))
    assert text.splitlines()[-3] == "asked for: 21,500 bytes"


def test_what_is_left_alone_is_told_with_the_reason():
    model = chain(6, 5, 4)
    model.get_layer("head").trainable = False
    text = str(report(model, ISSPruning(0.5, ignore=["r1"])))
    assert "left alone: r1: 'r1' is named in `ignore`" in text
    frozen = model.get_layer("head").kernel.path
    reason = f"'{frozen}', which belongs to its units, is frozen"
    assert f"left alone: r2: {reason}" in text
    x = keras.Input((TIME, FEATURES))
    states = layers.LSTM(6, name="partly")(x)
    model = keras.Model(x, [layers.Dense(2)(states), states[:, :2]])
    found = report(model)
    reason = "2 of 6 units: its units are an output of the model"
    assert found.left_alone == {"partly": reason}
    assert f"left alone: partly: {reason}" in str(found)
    assert (found.units_before, found.layers[0].before) == (4, 6)


def test_report_says_what_went_when_and_what_stayed(capsys):
    model, pruning = chain(8, (6, 2)), ISSPruning(0.5, verbose=1)
    small = train_nothing(model, pruning, 20)
    found = pruning.report
    assert (found.units_before, found.units_after, found.steps) == (14, 7, 20)
    assert [one.layer for one in found.layers] == ["r0", "r1"]
    assert [one.after for one in found.layers] == [
        layer.units for layer, _ in recurrent_of(small)
    ]
    steps = np.concatenate([one.removed_at for one in found.layers])
    assert ((steps == -1) | ((steps >= 3) & (steps <= 12))).all()
    text = str(found)
    assert capsys.readouterr().out.strip().endswith(text)
    for word in ("r0", "r1", "all", "50.0%", " + "):
        assert word in text


# Pictures.


@pytest.fixture(scope="module")
def pruned():
    keras.utils.set_random_seed(0)
    pruning = ISSPruning(0.5, updates=3)
    train_nothing(chain(8, (6, 2)), pruning, 10)
    return pruning.report


@pytest.mark.parametrize("method", ["plot", "plot_weights"])
def test_pictures_are_written_whole_or_not_at_all(method, pruned, tmp_path):
    pytest.importorskip("matplotlib")
    draw = getattr(pruned, method)
    path = draw(tmp_path / "units.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["units.png"]
    with pytest.raises(OSError, match="nowhere"):
        draw(tmp_path / "nowhere" / "units.png")
    with pytest.raises(ValueError, match="Format"):
        draw(tmp_path / "units.nothing")
    (tmp_path / "units.png").unlink()
    (tmp_path / "units.png").mkdir()
    with pytest.raises(OSError, match=r"units\.png"):
        draw(tmp_path / "units.png")
    assert [p.name for p in tmp_path.iterdir()] == ["units.png"]


@pytest.mark.parametrize("method", ["plot", "plot_weights"])
def test_pictures_need_matplotlib_and_something_to_show(
    method, pruned, monkeypatch, tmp_path
):
    nothing = report(sequential(layers.LSTM(3)))
    with pytest.raises(ValueError, match="nothing to draw"):
        getattr(nothing, method)(tmp_path / "units.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install keras-sparse-rnn\[plot\]"):
        getattr(pruned, method)(tmp_path / "units.png")
    assert not list(tmp_path.iterdir())


def drawn(found):
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    above, _ = figure.subfigures(2, 1)
    found.draw(above)
    figure.canvas.draw()
    return above.axes


def test_the_units_picture_shows_the_units_of_each_layer_over_training(pruned):
    pytest.importorskip("matplotlib")
    over_time, *strips, _ = drawn(pruned)
    assert over_time.get_xlabel() == "training step"
    for line, layer in zip(over_time.lines, pruned.layers, strict=True):
        steps, alive = line.get_data()
        assert (steps[0], steps[-1]) == (0, 10)
        assert (alive[0], alive[-1]) == (layer.before, layer.after)
        for step, left in zip(steps, alive, strict=True):
            gone = (layer.removed_at >= 0) & (layer.removed_at <= step)
            assert left == layer.before - gone.sum()
    for strip, layer in zip(strips, pruned.layers, strict=True):
        (row,) = strip.images[0].get_array()
        blue = row[:, 2] > row[:, 0]
        np.testing.assert_array_equal(blue, layer.removed_at < 0)


def test_without_training_steps_there_is_no_line_of_time():
    pytest.importorskip("matplotlib")
    model = chain(8, (6, 2))
    for found in (report(model), report(model, ISSPruning(0.5))):
        strips = drawn(found)
        assert len(strips) == 2
        assert "training" not in strips[-1].get_xlabel()
        for strip, layer in zip(strips, found.layers, strict=True):
            (row,) = strip.images[0].get_array()
            blue = row[:, 2] > row[:, 0]
            np.testing.assert_array_equal(blue, layer.removed_at < 0)


def test_the_weights_picture_blanks_the_rows_and_columns_of_dead_units():
    model = chain(5, 3)
    first, second, head = (one.get_weights() for one in model.layers if one.weights)
    kill(*recurrent_of(model)[0], [1, 4], columns=False)
    dead = np.isin(np.arange(5), [1, 4])
    columns = np.tile(dead, 4)
    expected = {
        ("r0", "kernel"): (first[0], np.zeros(FEATURES, bool), columns),
        ("r0", "recurrent_kernel"): (first[1], dead, columns),
        ("r1", "kernel"): (second[0], dead, np.zeros(12, bool)),
        ("r1", "recurrent_kernel"): (second[1], np.zeros(3, bool), np.zeros(12, bool)),
        ("head", "kernel"): (head[0], np.zeros(3, bool), np.zeros(2, bool)),
    }
    found = report(model).weights
    assert [(one.layer, one.variable) for one in found] == list(expected)
    for one in found:
        weights, rows, columns = expected[one.layer, one.variable]
        blank = rows[:, None] | columns
        np.testing.assert_array_equal(np.isnan(one.cells), blank)
        np.testing.assert_allclose(one.cells[~blank], np.abs(weights)[~blank])
        assert one.size == f"{len(rows)} x {len(columns)}"
    assert [(one.alive, one.units) for one in found] == 2 * [(3, 5)] + 3 * [(3, 3)]
    # The gates of each kernel.
    assert [one.lines[1] for one in found] == [
        *2 * [[0, 5, 10, 15]],
        *2 * [[0, 3, 6, 9]],
        [0],
    ]


def test_groups_are_side_by_side():
    model = sequential(GroupedLSTM(5, [2, 3]), layers.Dense(2, name="head"))
    kernel, recurrent, head = report(model).weights
    one, other = (np.abs(w) for w in model.layers[0].get_weights()[1::3])
    assert recurrent.size == "2 x 8 + 3 x 12"
    np.testing.assert_array_equal(recurrent.cells[:2, :8], one)
    np.testing.assert_array_equal(recurrent.cells[:, 8:], other)
    assert (recurrent.cells[2:, :8] == -1).all()
    assert recurrent.lines == ([], [0, 2, 4, 6, 8, 11, 14, 17])
    assert recurrent.borders == [0, 8]
    assert (kernel.units, recurrent.units, head.units) == (5, 5, 5)
    # The rows of the Dense are of two groups.
    assert head.lines == ([0, 2], [0])


def test_a_large_matrix_becomes_small_with_the_share_of_what_lives():
    model = sequential(layers.LSTM(500), layers.Dense(900))
    plan = trace(model)
    dead = np.zeros(500, bool)
    dead[np.random.default_rng(0).choice(400, 200, replace=False)] = True
    dead[100:150] = True
    _, recurrent, head = matrices_of(plan, [~dead])
    assert recurrent.size == "500 x 2000"
    assert recurrent.cells.shape == (400, 400)
    assert recurrent.lines[1] == [0, 100, 200, 300]
    rows, columns = (~np.isnan(recurrent.cells).all(axis=a) for a in (1, 0))
    assert abs(rows.sum() - 400 * (~dead).mean()) <= 1
    assert abs(columns.sum() - 400 * (~dead).mean()) <= 4
    # Every gate has the same units.
    assert (columns.reshape(4, 100) == columns[:100]).all()
    # What is wholly dead, or wholly alive, is shown so.
    assert not rows[81:119].any()
    assert rows[320:].all()
    # A cell is the largest of the living weights of its block.
    living = np.abs(model.layers[0].get_weights()[1])
    living[dead] = 0
    living[:, np.tile(dead, 4)] = 0
    down = np.searchsorted(np.arange(400) * 500 // 400, np.arange(500), "right") - 1
    largest = np.zeros((400, 400), "float32")
    np.maximum.at(largest, (down[:, None], np.arange(2000) // 5), living)
    shown = np.ix_(rows, columns)
    np.testing.assert_array_equal(recurrent.cells[shown], largest[shown])
    assert recurrent.cells.nbytes + head.cells.nbytes < 2_000_000


def test_kernels_of_several_axes_are_drawn_as_matrices(tmp_path):
    pytest.importorskip("matplotlib")
    model = sequential(
        layers.LSTM(4, **SEQUENCES),
        layers.Conv1D(6, 3, padding="same"),
        layers.Bidirectional(layers.GRU(3, **SEQUENCES)),
        layers.Dense(3),
    )
    found = report(model).weights
    names = {one.layer: one for one in found}
    (conv,) = [one for name, one in names.items() if "conv" in name]
    assert conv.size == "3 x 4 x 6"
    assert conv.cells.shape == (12, 6)
    assert sum("bidirectional" in name for name in names) == 2
    assert report(model).plot_weights(tmp_path / "weights.svg").exists()


def test_a_report_lets_the_model_go():
    model = chain(4)
    found = report(model)
    kernel = weakref.ref(model.layers[0].cell.recurrent_kernel)
    del model
    gc.collect()
    assert kernel() is None
    assert found.weights
