"""What ISSPruning can be asked for, when it acts, what it logs, and how it goes on."""

import contextlib
import io
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_sparse_rnn import ISSPruning, ISSRegularizer, report
from keras_sparse_rnn.iss.schedules import Cubic, Foreign
from keras_sparse_rnn.iss.targets import Target
from keras_sparse_rnn.layers import GroupedSimpleRNN

TENSORFLOW = keras.backend.backend() == "tensorflow"
# Without XLA, JAX takes many seconds for each.
JAX = keras.backend.backend() == "jax"
if JAX:
    import jax

    # Nearly all of the time would go into optimizing tiny programs.
    jax.config.update("jax_disable_most_optimizations", True)
TIME, FEATURES, A, B = 2, 4, 8, 6
X = np.random.default_rng(0).standard_normal((32, TIME, FEATURES)).astype("float32")
Y = np.random.default_rng(5).standard_normal((32, 2)).astype("float32")
# Four batches, five epochs: with the schedule as it is by default, removal begins at
# step 3 and the target is due at step 12.
STEPS, EPOCHS, FIRST, DUE = 4, 5, 3, 12
RUN = {"batch_size": 8, "epochs": EPOCHS, "verbose": 0, "shuffle": False}


def small(**arguments):
    """Two layers, `a` of eight units and `b` of six, and what reads them."""
    return keras.Sequential(
        [
            keras.Input((TIME, FEATURES)),
            layers.SimpleRNN(
                A, return_sequences=True, unroll=True, name="a", **arguments
            ),
            layers.SimpleRNN(B, unroll=True, name="b"),
            layers.Dense(2, name="head"),
        ]
    )


def parameters(a, b):
    return a * (FEATURES + a + 1) + b * (a + b + 1) + 2 * b + 2


def multiply_adds(a, b):
    return a * (FEATURES + a) + b * (a + b) + 2 * b


def living(model):
    """How many units of `a` and of `b` anything reads."""
    stack = [model.get_layer(name) for name in ("a", "b", "head")]
    values = [[ops.convert_to_numpy(w) for w in layer.weights] for layer in stack]
    found = []
    for (_, loop, *_), (reader, *_) in itertools.pairwise(values):
        found.append(int(np.any(np.hstack([loop, reader]) != 0, axis=1).sum()))
    return tuple(found)


class Watch(keras.callbacks.Callback):
    """Counts the living units after each step and each epoch."""

    def __init__(self):
        super().__init__()
        self.steps = []
        self.epochs = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(living(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(living(self.model))


def fit(model, *callbacks, optimizer="sgd", **arguments):
    model.compile(optimizer, "mse", jit_compile=JAX)
    run = {**RUN, "callbacks": list(callbacks), **arguments}
    return model.fit(X, Y, **run)


def driven(model, *callbacks):
    """What `fit` tells callbacks, without training: weights change by pruning alone."""
    model.compile("sgd", "mse")
    run = keras.callbacks.CallbackList(
        list(callbacks), add_history=True, model=model, epochs=EPOCHS, steps=STEPS
    )
    run.on_train_begin()
    for epoch in range(EPOCHS):
        run.on_epoch_begin(epoch)
        for batch in range(STEPS):
            run.on_train_batch_end(batch)
        run.on_epoch_end(epoch, {})
    run.on_train_end()
    return model.history


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"keep": 0.5, "max_bytes": 9}, r"one target.*'keep': 0.5, 'max_bytes': 9"),
        ({"units": {"a": 1}, "keep_parameters": 0.5}, "one target"),
        ({"keep": 0}, "keep=0"),
        ({"keep": True}, "keep=True"),
        ({"keep": "half"}, "keep='half'"),
        ({"keep_parameters": 1.01}, "keep_parameters=1.01"),
        ({"keep_parameters": float("nan")}, "keep_parameters=nan"),
        ({"max_bytes": 0}, "max_bytes=0"),
        ({"max_bytes": 1.5}, "max_bytes=1.5"),
        ({"max_bytes": True}, "max_bytes=True"),
        ({"max_multiply_adds": -1}, "max_multiply_adds=-1"),
        ({"units": {}}, "units={}"),
        ({"units": 3}, "units=3"),
        ({"units": {"a": 0}}, "units=0"),
        ({"units": {"a": True}}, "units=True"),
        ({"units": {"a": 2.0}}, "units=2.0"),
        ({"keep": 0.5, "minimum": 0}, "minimum=0"),
        ({"keep": 0.5, "round_to": 2.5}, "round_to=2.5"),
        ({"round_to": 4}, "`round_to` needs a target"),
        ({"schedule": 3}, "schedule=3"),
        ({"schedule": lambda step: 0.5}, "returns whether units are due"),
        ({"schedule": lambda step: (True, 1.0)}, r"must lie in \[0, 1\).*1.0"),
        ({"schedule": lambda step: (True, -0.1)}, r"must lie in \[0, 1\).*-0.1"),
        ({"keep": 0.5, "schedule": lambda step: (True, 0.2)}, "`keep` or `schedule`"),
    ],
    ids=lambda one: re.sub(" at 0x[0-9a-f]+", "", str(one)),
)
def test_what_can_not_be_meant_is_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        ISSPruning(**arguments)


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        ({"keep": 1}, Target("units", 1.0)),
        ({"keep": np.float32(0.5)}, Target("units", 0.5)),
        ({"keep_parameters": np.float64(0.25)}, Target("parameters", 0.25)),
        ({"max_bytes": np.int64(9)}, Target("bytes", 9)),
        ({"max_multiply_adds": np.int32(7)}, Target("multiply_adds", 7)),
        ({"units": {"a": np.int64(3)}}, Target("layers", sizes={"a": 3})),
        ({}, Target("none")),
    ],
    ids=str,
)
def test_numbers_of_numpy_are_numbers(arguments, target):
    given = dict.fromkeys(
        ["keep", "keep_parameters", "max_bytes", "max_multiply_adds", "units"]
    )
    assert Target.of({**given, **arguments}) == target


# Schedules.


@pytest.mark.parametrize("updates", [1, 5, 12])
@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize(("begin", "end"), [(0, 0), (0.15, 0.6), (0.5, 1), (1, 1)])
def test_cubic_follows_the_formula(begin, end, updates, total):
    schedule = Cubic(begin, end, updates)
    last = max(1, int(np.floor(end * total)))
    first = min(last, int(np.ceil(begin * total)))
    for step in range(1, total + 1):
        expected = None
        if step >= last:
            expected = 1.0
        elif step >= first:
            # In as many equal stretches as there are updates, at the start of each.
            stretch = (last - first) / updates
            done = sum(step >= first + k * stretch - 1e-9 for k in range(1, updates))
            expected = 1 - (1 - done / updates) ** 3
        assert schedule.progress(step, total) == pytest.approx(expected)
    assert schedule.progress(5, None) is None


def test_a_schedule_of_ones_own_acts_when_and_as_far_as_it_says():
    # Half of the way at step 4, all of it at 9; a peak beyond the end counts no more.
    table = {4: 0.25, 6: 0.1, 9: 0.75}
    schedule = Foreign(lambda step: (step in table, table.get(step, 0.5)))
    assert [schedule.progress(step, None) for step in (3, 4, 6, 9, 10)] == [
        None,
        0.5,
        0.2,
        1.0,
        None,
    ]
    watch, pruning = Watch(), ISSPruning(schedule=schedule.schedule)
    driven(small(), pruning, watch)
    left = [sum(sizes) for sizes in watch.steps]
    all_, goal = A + B, (A + B) // 2
    half = round(all_ - (all_ - goal) / 2)
    assert left == [all_] * 3 + [half] * 5 + [goal] * 12


@pytest.fixture
def tfmot(monkeypatch):
    """tensorflow-model-optimization, which must not turn `tf.keras` into Keras 2."""
    import tensorflow as tf

    name = "TF_USE_LEGACY_KERAS"
    assert tf.keras.version() == keras.version()
    # It sets the variable when it is imported; this takes it back afterwards.
    monkeypatch.setenv(name, "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_model_optimization as tfmot
    yield tfmot
    assert tf.keras.version() == keras.version()


@pytest.mark.skipif(not TENSORFLOW, reason="a package for TensorFlow")
def test_schedules_of_tensorflow_model_optimization(tfmot):
    schedules = tfmot.sparsity.keras
    decay = schedules.PolynomialDecay(0.0, 0.5, begin_step=4, end_step=12, frequency=4)
    found = [Foreign(decay).progress(step, None) for step in range(16)]
    # At steps 4, 8 and 12, along 1 - (1 - t) ** 3.
    due = {4: 0.0, 8: 1 - 0.5**3, 12: 1.0}
    for step, progress in enumerate(found):
        assert progress == (pytest.approx(due[step]) if step in due else None)
    constant = schedules.ConstantSparsity(0.25, begin_step=6, frequency=100)
    found = [Foreign(constant).progress(step, None) for step in range(16)]
    assert found == [None] * 6 + [1.0] + [None] * 9
    decays = schedules.PolynomialDecay(0.0, 0.5, begin_step=4, end_step=14, frequency=4)
    found = [Foreign(decays).progress(step, None) for step in range(16)]
    assert [step for step, due in enumerate(found) if due is not None] == [4, 8, 12, 14]
    assert found[14] == 1
    late = ISSPruning(schedule=schedules.PolynomialDecay(0.0, 0.5, 4, 24))
    with pytest.raises(ValueError, match=r"ends at step 24.*only 20 steps"):
        driven(small(), late)
    for schedule, left in (
        (decay, [14] * 7 + [round(14 - 7 * (1 - 0.5**3))] * 4 + [7] * 9),
        (constant, [14] * 5 + [round(14 * 0.75)] * 15),
    ):
        watch, pruning = Watch(), ISSPruning(schedule=schedule)
        driven(small(), pruning, watch)
        assert [sum(sizes) for sizes in watch.steps] == left
    # Keras 3 is what it was.
    fit(pruning.pruned_model, epochs=1)


# Targets, in `fit`.


def weakened(model, units, factor=1e-6):
    """Some units of the first layer, made weaker than any other."""
    first, second = model.get_layer("a"), model.get_layer("b")
    scale = np.where(np.isin(np.arange(A), units), factor, 1)
    kernel, loop, bias = first.get_weights()
    first.set_weights([kernel * scale, loop * scale * scale[:, None], bias * scale])
    reader, *others = second.get_weights()
    second.set_weights([reader * scale[:, None], *others])
    return model


TARGETS = {
    "parameters": ({"keep_parameters": 0.4}, parameters, round(0.4 * parameters(A, B))),
    "bytes": ({"max_bytes": 500}, lambda a, b: 4 * parameters(a, b), 500),
    "multiply-adds": ({"max_multiply_adds": 90}, multiply_adds, 90),
}


def checked(pruning, watch, history):
    """What holds of every run: when units go, and what is logged."""
    assert watch.steps[: FIRST - 1] == [(A, B)] * (FIRST - 1)
    assert watch.steps[DUE - 1 :] == watch.steps[DUE - 1 : DUE] * (20 - DUE + 1)
    assert [sum(sizes) for sizes in watch.steps] == sorted(
        [sum(sizes) for sizes in watch.steps], reverse=True
    )
    assert history["units_left"] == [a + b for a, b in watch.epochs]
    assert history["parameters_left"] == [parameters(*sizes) for sizes in watch.epochs]
    net = pruning.pruned_model
    assert (net.get_layer("a").units, net.get_layer("b").units) == watch.steps[-1]
    assert net.count_params() == parameters(*watch.steps[-1])


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_met_and_no_more_than_met_by_the_scheduled_step(
    name, tmp_path, monkeypatch
):
    arguments, cost, limit = TARGETS[name]
    watch = Watch()
    pruning = ISSPruning(**arguments, verbose=int(name == "bytes"))
    callbacks, drawn = [], []
    if name == "parameters" and TENSORFLOW:
        board = keras.callbacks.TensorBoard(tmp_path, write_graph=False)
        # Needs the package of that name; this is what it is told.
        note = lambda *args, step: drawn.append((*args, step))  # noqa: E731
        monkeypatch.setattr(board.summary, "scalar", note)
        callbacks = [board]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run = fit if name == "parameters" else driven
        history = run(small(), pruning, watch, *callbacks).history
    checked(pruning, watch, history)
    a, b = watch.steps[-1]
    assert cost(a, b) <= limit < max(cost(a + 1, b), cost(a, b + 1))
    if callbacks:
        for log, values in history.items():
            of_log = [(v, step) for n, v, step in drawn if n == f"epoch_{log}"]
            assert of_log == list(zip(values, range(EPOCHS), strict=True))
    lines = [line for line in printed.getvalue().splitlines() if "ISSPruning" in line]
    assert len(lines) == (EPOCHS if name == "bytes" else 0)
    for epoch, line in enumerate(lines):
        a, b = watch.epochs[epoch]
        assert re.sub(r"\D+", " ", line.replace(",", "")).split() == [
            str(n) for n in (epoch + 1, a + b, a, b, parameters(a, b))
        ]
    if lines:
        assert printed.getvalue().rstrip().endswith(str(pruning.report))


def test_units_of_a_layer_by_name_and_of_no_other():
    watch, pruning = Watch(), ISSPruning(units={"b": 2})
    history = driven(small(), pruning, watch).history
    checked(pruning, watch, history)
    assert watch.steps[-1] == (A, 2)


def test_no_layer_falls_below_the_minimum():
    watch, pruning = Watch(), ISSPruning(0.5, minimum=3, layer_floor=0)
    driven(weakened(small(), range(A)), pruning, watch)
    # All of the weak layer would go first.
    assert watch.steps[-1] == (3, 4)


def test_every_group_is_left_with_a_multiple():
    model = keras.Sequential(
        [
            keras.Input((TIME, FEATURES)),
            GroupedSimpleRNN(16, [7, 5, 4], unroll=True, name="grouped"),
            layers.Dense(2),
        ]
    )
    pruning = ISSPruning(0.5, round_to=2)
    driven(model, pruning)
    (layer,) = pruning.report.layers
    steps = sorted(set(layer.removed_at.tolist()) - {-1})
    assert steps[0] >= FIRST
    assert steps[-1] <= DUE
    for step in steps:
        living_then = (layer.removed_at < 0) | (layer.removed_at > step)
        sizes = [int(living_then[begin:end].sum()) for begin, end in layer.segments]
        assert not any(size % 2 for size in sizes)
    assert sum(pruning.pruned_model.get_layer("grouped").group_sizes) == 8


@pytest.mark.parametrize("floor", [0.0, 0.5])
@pytest.mark.parametrize(
    ("sizes", "round_to", "expected"),
    [([10, 7, 7], 4, [8, 4, 4]), ([14, 14, 14], 8, [8, 8, 8])],
    ids=str,
)
def test_a_floor_keeps_no_group_from_a_multiple(sizes, round_to, expected, floor):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((TIME, FEATURES)),
            GroupedSimpleRNN(sum(sizes), sizes, name="grouped"),
            layers.Dense(2),
        ]
    )
    # All that the floor asks for is in one group.
    for weight in model.get_layer("grouped").cell.cells[0].weights:
        weight.assign(weight * 9)
    found = report(model, ISSPruning(0.7, round_to=round_to, layer_floor=floor))
    (layer,) = found.layers
    left = [int((layer.removed_at[b:e] < 0).sum()) for b, e in layer.segments]
    assert left == expected


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"keep": 0.1, "layer_floor": 0}, "there are 2 units.*not 1"),
        (
            {"keep_parameters": 0.01, "layer_floor": 0},
            f"there are {parameters(1, 1)} parameters, not 2",
        ),
        (
            {"max_bytes": 10, "layer_floor": 0},
            f"there are {4 * parameters(1, 1)} bytes, not 10",
        ),
        (
            {"max_multiply_adds": 8, "layer_floor": 0, "minimum": 2},
            f"there are {multiply_adds(2, 2)} multiply-adds a time step, not 8",
        ),
        ({"units": {"a": 2}, "minimum": 3}, "there are a: 3 units, not 2"),
        (
            {"units": {"a": 6}, "round_to": 4},
            "6 units of .a., .* no multiple of round_to=4",
        ),
        ({"keep": 0.5, "round_to": 8}, "there are 14 units.*not 7"),
        (
            {"keep": 0.5, "round_to": 4, "minimum": 6},
            "of round_to=4 it can.t keep",
        ),
        ({"units": {"c": 2}}, r"2 units of 'c'.*\{'a': 8, 'b': 6\}"),
        ({"units": {"a": 9}}, r"9 units of 'a'.*\{'a': 8, 'b': 6\}"),
        ({}, "no target.*no ISSRegularizer"),
    ],
    ids=str,
)
def test_what_can_not_be_reached_is_an_error_before_training(arguments, match):
    model = small()
    before = model.get_weights()
    with pytest.raises(ValueError, match=match):
        fit(model, ISSPruning(**arguments))
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def folded():
    """Two parts of a layer are added up, unit by unit; the third is weak."""
    start = keras.Input((TIME, FEATURES))
    states = layers.SimpleRNN(12, unroll=True, name="a")(start)
    parts = [states[:, :4] + states[:, 4:8], states[:, 8:]]
    model = keras.Model(start, layers.Dense(2)(layers.Concatenate()(parts)))
    for variable in model.weights:
        value = np.array(ops.convert_to_numpy(variable))
        value[..., 8:12] /= 1e6
        variable.assign(value)
    return model


# Of the weak ones the last must stay; then they go two by two.
@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ({"keep": 0.5}, 5),
        ({"units": {"a": 7}}, 7),
        ({"keep": 0.7, "round_to": 2}, 8),
    ],
    ids=str,
)
def test_units_of_one_layer_that_are_tied_to_each_other_count_each(arguments, left):
    found = report(folded(), ISSPruning(**arguments))
    assert (found.units_before, found.units_after) == (12, left)


def test_units_that_are_tied_can_not_be_parted():
    with pytest.raises(ValueError, match="there are a: 7 units, not 6"):
        report(folded(), ISSPruning(units={"a": 6}))


def test_units_that_are_tied_are_logged_as_they_are_reported():
    pruning = ISSPruning(0.5)
    history = driven(folded(), pruning).history
    assert history["units_left"][-1] == pruning.report.units_after == 5


# The regularizer alone.


def test_without_a_target_what_became_zero_goes_and_the_pull_ends():
    model = small(recurrent_regularizer=ISSRegularizer(0.01), bias_initializer="ones")
    weak = np.arange(1, A, 2)
    weakened(model, weak)
    layer = model.get_layer("a")
    regularizer, active = layer.recurrent_regularizer, []
    watch = Watch()
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: active.append(regularizer.active)
    )
    pruning = ISSPruning()
    history = fit(
        model, pruning, watch, note, optimizer=keras.optimizers.SGD(1e-3)
    ).history
    assert active == [True] * (DUE - 1) + [False] * (20 - DUE + 1)
    assert watch.steps[-1] == (A // 2, B)
    assert history["units_left"][-1] == A // 2 + B
    removed_at = pruning.report.layers[0].removed_at
    assert set(np.flatnonzero(removed_at >= 0)) == set(weak)
    assert removed_at[weak].min() >= FIRST
    # Nothing brings them back, and what they still put out is zero.
    assert not ops.convert_to_numpy(layer.weights[2])[weak].any()
    assert pruning.pruned_model.get_layer("a").units == A // 2
    assert pruning.report.asked == "what the regularizer makes zero"


# Going on after an interruption.


class Interrupted(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Ends the run in the midst of its third epoch."""

    def __init__(self, end):
        super().__init__()
        self.end = end
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 2 and batch == 1:
            self.end()


class Weights(keras.callbacks.Callback):
    """Notes all weights after each step, and carries no state over epochs."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_epoch_begin(self, epoch, logs=None):
        self.model.get_layer("grouped").reset_states()

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.model.get_weights())


def resumable():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input(batch_shape=(16, TIME, FEATURES)),
            GroupedSimpleRNN(
                12, 2, use_bias=False, stateful=True, unroll=True, name="grouped"
            ),
            layers.Dense(2, use_bias=False),
        ]
    )


# When units go, with two steps an epoch. Nothing is due in the first step after the
# interruption, and what was removed must not come back.
STAGES = {2: 0.25, 4: 0.4, 6: 0.5}


def stages(step):
    return step in STAGES, STAGES.get(step, 0.5)


def resumed_run(model, *callbacks):
    weights, pruning = Weights(), ISSPruning(schedule=stages)
    # Eagerly, which is faster here. The run from a checkpoint compiles its steps.
    model.compile("adam", "mse", run_eagerly=not JAX, jit_compile=JAX)
    run = {**RUN, "batch_size": 16, "callbacks": [pruning, weights, *callbacks]}
    history = model.fit(X, Y, **run).history
    return history, weights.steps, pruning.pruned_model


def interrupted_run(folder, end):
    """The same, with both ways to keep its state, ended before its time."""
    resumed_run(
        resumable(),
        keras.callbacks.BackupAndRestore(f"{folder}/backup"),
        keras.callbacks.ModelCheckpoint(f"{folder}/whole.keras"),
        Interrupt(end),
    )


def stop():
    raise Interrupted


@pytest.fixture(scope="module")
def uninterrupted():
    return resumed_run(resumable())


def goes_on_like(whole, history, steps, pruned):
    """Whether the last three epochs are those of the whole run."""
    assert len(steps) == 3 * 2
    for ours, theirs in zip(steps, whole[1][-len(steps) :], strict=True):
        for now, then in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(now == 0, then == 0)
            np.testing.assert_allclose(now, then, atol=1e-6)
    # Some units were gone before, and some go afterwards.
    left = whole[0]["units_left"]
    assert 12 > left[1] > left[-1] == 6
    for name, values in history.items():
        assert values == pytest.approx(whole[0][name][-3:], rel=1e-5)
    for now, then in zip(pruned.get_weights(), whole[2].get_weights(), strict=True):
        np.testing.assert_allclose(now, then, atol=1e-6)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(Interrupted):
        interrupted_run(folder, stop)
    return folder


def test_goes_on_with_backup_and_restore(uninterrupted, interrupted, tmp_path):
    # It is deleted in the end.
    folder = shutil.copytree(interrupted / "backup", tmp_path / "backup")
    backup = keras.callbacks.BackupAndRestore(str(folder))
    goes_on_like(uninterrupted, *resumed_run(resumable(), backup))


def test_goes_on_with_a_checkpoint(uninterrupted, interrupted):
    model = keras.models.load_model(f"{interrupted}/whole.keras")
    weights, pruning = Weights(), ISSPruning(schedule=stages)
    # Not compiled anew: the optimizer's state is part of the file.
    run = {**RUN, "batch_size": 16, "callbacks": [pruning, weights]}
    history = model.fit(X, Y, **run, initial_epoch=2).history
    goes_on_like(uninterrupted, history, weights.steps, pruning.pruned_model)


KILLED = """
import os
import signal
import test_iss_targets as here

here.interrupted_run({folder!r}, lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


def restored(folder):
    """What both ways to go on would begin with: weights and optimizer."""
    backup = resumable()
    backup.compile("adam")
    backup.optimizer.build(backup.trainable_variables)
    backup.load_weights(f"{folder}/backup/latest.weights.h5")
    found = []
    for model in (backup, keras.models.load_model(f"{folder}/whole.keras")):
        found += [*model.get_weights(), *map(np.array, model.optimizer.variables)]
    return found


@pytest.mark.long
def test_a_process_that_is_killed_leaves_what_it_takes_to_go_on(interrupted, tmp_path):
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(folder=str(tmp_path))],
        env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    name = "backup/training_metadata.json"
    assert (tmp_path / name).read_text() == (interrupted / name).read_text()
    for now, then in zip(restored(tmp_path), restored(interrupted), strict=True):
        np.testing.assert_allclose(now, then, atol=1e-6)


def test_goes_on_without_the_pull_once_the_target_was_reached():
    model = small(recurrent_regularizer=ISSRegularizer(1e-3))
    pruning = ISSPruning(0.5)
    model.compile("sgd", "mse", jit_compile=False)
    pruning.set_model(model)
    pruning.set_params({"epochs": EPOCHS, "steps": STEPS})
    pruning.on_train_begin()
    # As they were saved after epoch 4, behind the end of the schedule.
    for family, alive in zip(
        pruning._plan.families, pruning._aim.left(pruning._alive, 1.0), strict=True
    ):
        for part in family.parts:
            variable = pruning._plan.variables[part.variable]
            value = np.array(ops.convert_to_numpy(variable))
            np.moveaxis(value, part.axis, 0)[
                np.isin(part.owner, np.flatnonzero(~alive))
            ] = 0
            variable.assign(value)
    pruning.on_epoch_begin(4)
    assert living(model) == living(pruning.model)
    assert sum(living(model)) == 7
    assert not model.get_layer("a").recurrent_regularizer.active
