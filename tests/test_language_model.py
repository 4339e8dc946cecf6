"""The language models: texts, the papers' sizes, runs that are resumed, files."""

import importlib
import importlib.util
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_sparse_rnn as ksr

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def lm():
    """The script, with the modules of its package as attributes."""
    sys.path.insert(0, str(EXAMPLES))
    script = importlib.import_module("language_model")
    for name in ("plans", "records"):
        setattr(script, name, importlib.import_module(f"experiments.{name}"))
    for name in ("configurations", "models", "rivals"):
        setattr(script, name, importlib.import_module(f"language_models.{name}"))
    yield script
    sys.path.remove(str(EXAMPLES))
    for name in list(sys.modules):
        if name.split(".")[0] in ("experiments", "language_model", "language_models"):
            del sys.modules[name]


SENTENCES = [
    "the cat saw a dog",
    "a dog saw the cat",
    "the dog and the cat saw a bird",
    "a bird saw the dog and a cat",
]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "text"
    path.mkdir()
    for part, times in (("train", 20), ("valid", 3), ("test", 3)):
        (path / f"own.{part}.txt").write_text("\n".join(SENTENCES * times) + "\n")
    return path


def test_words_are_numbered_by_how_frequent_they_are(lm, folder):
    (folder / "own.test.txt").write_text("the cat saw a unicorn\n")
    text = lm.texts.read(folder, None, 100)
    counts = text.counts[text.counts > 0]
    assert (np.diff(counts) <= 0).all()
    ksr.check_order(text.counts)
    words = [text.vocabulary[k] for k in text.test]
    assert words == ["the", "cat", "saw", "a", "<unk>", "<eos>"]
    assert len(text.train) == 20 * sum(len(s.split()) + 1 for s in SENTENCES)
    # A smaller vocabulary makes rare words unknown, which then are not rare.
    small = lm.texts.read(folder, None, 4)
    assert small.vocabulary[small.train[1]] in small.vocabulary[:4]
    assert len(small.vocabulary) == 4
    assert small.counts.sum() == len(small.train)
    assert small.hash == text.hash
    # Lines end, however small the vocabulary is.
    assert "<eos>" in small.vocabulary


def test_a_file_is_cut_in_three(lm, tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("\n".join(f"line {k % 7} of many" for k in range(100)))
    text = lm.texts.read(path, None, 100)
    assert [len(part) // 5 for part in (text.train, text.valid, text.test)] == [
        90,
        5,
        5,
    ]


def test_python_documents_itself(lm):
    text = lm.texts.read(None, None, 10_000)
    assert len(text.train) > 50_000
    assert "function" in text.vocabulary[:500]


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # Demeester et al. (2018), table 4; Keras has one bias where PyTorch has two.
        ("recite-7m", 7.07),
        ("recite-7m-sparse", 7.07),
        ("recite-7m-tiers", 7.07),
        ("recite-4m", 3.59),
        ("recite-4m-sparse", 3.59),
        ("recite-4m-tiers", 3.59),
        pytest.param("recite", 24.22, marks=pytest.mark.long),
        pytest.param("awd-sparse", 23.82, marks=pytest.mark.long),
        # Wen et al. (2018), table 1; Zilly et al. (2017).
        pytest.param("large", 66.0, marks=pytest.mark.long),
        pytest.param("highway", 23.48, marks=pytest.mark.long),
    ],
)
def test_models_have_the_weights_of_the_papers(lm, name, millions):
    config = lm.configurations.CONFIGURATIONS[name]
    model = lm.models.build(config, 10_000)
    assert model.count_params() / 1e6 == pytest.approx(millions, rel=0.003)


def test_counterparts_have_as_many_weights(lm):
    for dense, sparse in (
        ("wide-256", "wide-256-sparse"),
        ("tied-256", "tied-256-sparse"),
        ("tiny", "tiny-sparse"),
    ):
        counts = [
            lm.models.build(lm.configurations.CONFIGURATIONS[name], 50).count_params()
            for name in (dense, sparse)
        ]
        assert counts[1] == pytest.approx(counts[0], rel=0.002)


@pytest.fixture
def small(lm, monkeypatch):
    """Configurations that train in seconds."""
    tiny = replace(
        lm.configurations.CONFIGURATIONS["tiny"],
        embedding=6,
        units=(8, 8),
        epochs=4,
        batch=4,
        steps=8,
        full_rate=2,
        rate=2.0,
    )
    awd = replace(
        lm.configurations.CONFIGURATIONS["tiny-awd"],
        embedding=6,
        units=(8, 6),
        epochs=4,
        batch=4,
        steps=10,
        jitter=1.0,
        averaging=1,
        rate=1.0,
    )
    found = {"tiny": tiny, "tiny-awd": awd}
    monkeypatch.setattr(lm.runs, "CONFIGURATIONS", found)
    return found


def run_of(lm, tmp_path, configuration, *arguments):
    args = lm.arguments([configuration, *arguments, "--out", str(tmp_path / "out")])
    args.out.mkdir(exist_ok=True)
    return lm.run_of(args)


def surprise(model, words, end):
    """The cross-entropy of each word, read one by one with stock layers."""
    layers = {layer.name: layer for layer in model.layers}
    table = keras.ops.convert_to_numpy(layers["words"].embeddings)
    dense = layers["next_word"]
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in (dense.kernel, dense.bias))
    cells = []
    for name in ("recurrent_1", "recurrent_2"):
        own = layers[name]
        cell = keras.layers.LSTMCell(own.units)
        cell.build((1, own.get_weights()[0].shape[0]))
        cell.set_weights(own.get_weights())
        cells.append((cell, [np.zeros((1, own.units), "float32")] * 2))
    total, before = [], end
    for word in words:
        x = table[before][None]
        for number, (cell, states) in enumerate(cells):
            x, states = cell(x, states)
            cells[number] = (cell, states)
        logits = (np.asarray(x) @ kernel + bias)[0].astype("float64")
        total.append(np.log(np.exp(logits).sum()) - logits[word])
        before = word
    return total


def disturb(model):
    """Weights so large that what is predicted hangs on what went before."""
    random = np.random.default_rng(0)
    model.set_weights([random.normal(0, 1.5, w.shape) for w in model.get_weights()])


def test_perplexity_is_over_a_text_in_one_go(lm, small, folder):
    text = lm.texts.read(folder, None, 100)
    model = lm.models.build(small["tiny"], len(text.vocabulary))
    disturb(model)
    reader = lm.models.Reader(lm.models.rebatched(model, 2))
    losses, _ = reader.read([text.valid, text.test[:50]], text.end, chunk=7)
    for loss, ids in zip(losses, (text.valid, text.test[:50]), strict=True):
        words = surprise(model, ids, text.end)
        assert loss == pytest.approx(np.mean(words), rel=1e-5)
        # Whoever forgets what was read before finds something else.
        apart = [surprise(model, ids[k : k + 1], ids[k - 1]) for k in range(1, 40)]
        assert abs(np.mean(apart) - loss) > 0.01 * loss


def test_a_run_is_trained_recorded_and_measured(lm, small, folder, tmp_path, capsys):
    text = lm.texts.read(folder, None, 100)
    run = run_of(lm, tmp_path, "tiny", "--seed", "3")
    final = lm.runs.trained(run, text)
    written = (run.folder / f"{run.name}.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line.get("epoch") for line in lines] == [1, 2, 3, 4, None, None]
    assert lines[-2]["ended"]
    assert final == lines[-1]
    assert final["units"] == [8, 8]
    assert final["seed"] == 3
    assert final["data_hash"] == text.hash
    assert {"machine", "date", "seconds", "keras"} <= set(final)
    assert lines[3]["rate"] == lines[0]["rate"] / 4
    assert lines[3]["valid"] < lines[0]["valid"]
    # The perplexity is over every word of the test, ends of lines included.
    model = keras.models.load_model(run.file)
    words = surprise(model, text.test, text.end)
    assert final["test"] == pytest.approx(math.exp(np.mean(words)), rel=1e-4)
    assert len(words) == 3 * sum(len(s.split()) + 1 for s in SENTENCES)

    words_file = run.file.with_suffix(".words.json")
    assert json.loads(words_file.read_text()) == text.vocabulary

    # Once is enough.
    assert lm.runs.trained(run, text) == final
    assert "was trained before" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"Different .*: \{'epochs': \(4, 2\)\}"):
        lm.runs.trained(replace(run, epochs=2), text)
    # Sizes are not taken of a run on other words.
    like = replace(run, name="like", method="direct", units=(8, 8))
    like = replace(like, like=run.name)
    with pytest.raises(SystemExit, match=r"--like .* Different .*'vocabulary'"):
        lm.runs.trained(like, lm.texts.read(folder, None, 5))

    # Its files say the same, of a model that remembers something.
    disturb(model)
    model.save(run.file)
    words = surprise(model, text.test, text.end)
    for line in lm.shipping.ship(run.name, run.file, text):
        assert line["test"] == pytest.approx(math.exp(np.mean(words)), rel=1e-3)
        assert line["bytes"] > 0
        assert line["window_ms"] > 0
    lm.results.show(run.folder)
    printed = capsys.readouterr().out
    assert "| tiny 4 epochs | 3 | float32 |" in printed
    assert (run.folder / "results.png").read_bytes().startswith(b"\x89PNG")


class Killed(keras.callbacks.Callback):
    """Raises in an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("configuration", "arguments"),
    [
        ("tiny-awd", []),
        ("tiny", ["--method", "scheduled", "--keep", "0.5"]),
        ("tiny", ["--method", "proximal", "--strength", "3e-3"]),
    ],
)
@pytest.mark.long
def test_an_interrupted_run_comes_to_the_same_end(
    lm, small, folder, tmp_path, monkeypatch, configuration, arguments
):
    text = lm.texts.read(folder, None, 100)
    whole = run_of(lm, tmp_path, configuration, *arguments, "--name", "whole")
    expected = lm.runs.trained(whole, text)

    run = run_of(lm, tmp_path, configuration, *arguments, "--name", "interrupted")
    with monkeypatch.context() as patched:
        rates = keras.callbacks.LearningRateScheduler

        def killed(*args, **kwargs):
            callback, killing = rates(*args, **kwargs), Killed(2)
            callback.on_train_batch_end = killing.on_train_batch_end
            begin = callback.on_epoch_begin

            def on_epoch_begin(epoch, logs=None):
                killing.on_epoch_begin(epoch)
                begin(epoch, logs)

            callback.on_epoch_begin = on_epoch_begin
            return callback

        patched.setattr(keras.callbacks, "LearningRateScheduler", killed)
        with pytest.raises(KeyboardInterrupt):
            lm.runs.trained(run, text)
    found = lm.runs.trained(run, text)
    for name in ("valid", "test"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6)
    assert found["units"] == expected["units"]
    ours, theirs = (
        keras.models.load_model(one.file).get_weights() for one in (run, whole)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    records = lm.records.Records(run.folder / "interrupted.jsonl", {})
    epochs = [line["epoch"] for line in records.lines() if "epoch" in line]
    assert epochs == [1, 2, 3, 4]


def test_a_run_that_was_killed_behind_its_training_is_only_measured(
    lm, small, folder, tmp_path, monkeypatch
):
    text = lm.texts.read(folder, None, 100)
    run = run_of(lm, tmp_path, "tiny", "--epochs", "2")
    with monkeypatch.context() as patched:

        def killed(*args):
            raise KeyboardInterrupt

        patched.setattr(lm.runs, "_scores", killed)
        with pytest.raises(KeyboardInterrupt):
            lm.runs.trained(run, text)
    before = lm.records.Records(run.folder / f"{run.name}.jsonl", {}).lines()
    final = lm.runs.trained(run, text)
    lines = lm.records.Records(run.folder / f"{run.name}.jsonl", {}).lines()
    assert lines == [*before, final]
    assert not list(run.folder.glob("*.backup"))


@pytest.mark.long
def test_an_epoch_that_the_backup_lacks_is_trained_again(lm, small, folder, tmp_path):
    text = lm.texts.read(folder, None, 100)
    run = run_of(lm, tmp_path, "tiny-awd")
    records = lm.records.Records(
        run.folder / f"{run.name}.jsonl", lm.runs.facts_of(run, text)
    )
    # As after a kill between the line of an epoch and its backup.
    records.add(epoch=1, valid_loss=0.1, train_loss=1.0, seconds=1.0)
    lm.runs.trained(run, text)
    epochs = [line["epoch"] for line in records.lines() if "epoch" in line]
    assert epochs == [1, 2, 3, 4]
    assert records.values("valid_loss")[0] > 0.5


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments",
    [
        ["--method", "scheduled", "--keep", "0.5"],
        ["--method", "proximal", "--strength", "3e-3"],
    ],
)
def test_the_best_of_a_pruned_run_is_small(lm, small, folder, tmp_path, arguments):
    small["tiny"] = replace(small["tiny"], best=True)
    text = lm.texts.read(folder, None, 100)
    run = run_of(lm, tmp_path, "tiny", *arguments)
    final = lm.runs.trained(run, text)
    lines = lm.records.Records(run.folder / f"{run.name}.jsonl", {}).lines()
    (left,) = {line["units_left"] for line in lines[-4:] if line.get("epoch") == 4}
    assert sum(final["units"]) == left < 16
    assert lm.models.units_of(keras.models.load_model(run.file)) == final["units"]


def test_rates_are_those_of_the_papers(lm, tmp_path):
    for name, expected in (
        # Zaremba et al.; for a loss that is the mean over 35 steps.
        ("medium", {0: 35, 5: 35, 6: 28, 7: 22.4}),
        ("large", {0: 35, 13: 35, 14: 35 / 1.15}),
        # Wen et al.: a tenth every 18 epochs.
        ("large-iss", {0: 35, 17: 35, 18: 3.5, 35: 3.5, 36: 0.35, 54: 0.035}),
        ("recite", {0: 5, 1: 5 * 0.97, 2: 5 * 0.97**2}),
        ("awd", {0: 30, 499: 30}),
        ("highway", {19: 7, 20: 7 / 1.02}),
    ):
        run = run_of(lm, tmp_path, name)
        for epoch, rate in expected.items():
            assert lm.runs.rate_at(run, epoch) == pytest.approx(rate)


def test_what_was_trained_goes_on_at_a_lower_rate(lm, tmp_path):
    start = tmp_path / "start.keras"
    start.touch()
    own = ["--start", str(start), "--epochs", "3"]
    for method in ("one-shot", "scheduled"):
        run = run_of(lm, tmp_path, "tiny", "--method", method, "--keep", "0.5", *own)
        # It was trained with 35 four times, then with 17.5 and 8.75.
        rates = [lm.runs.rate_at(run, epoch) for epoch in range(3)]
        assert rates == [17.5, 8.75, 4.375]


def test_plans_are_made_of_runs_that_there_are(lm, tmp_path, monkeypatch):
    made, units = [], []

    def run(command):
        # A command's run ends with units and a model for those that come after it.
        given = lm.arguments(command[2:])
        run = lm.run_of(given)
        name = run.name
        made.append(name)
        units.append(run.units)
        records = lm.records.Records(given.out / f"{name}.jsonl", {})
        records.add(final=True, units=[len(made), 6], train_words=9)
        (given.out / f"{name}.keras").touch()
        return SimpleNamespace(returncode=len(made) in failing)

    failing = ()
    monkeypatch.setattr(lm.plans.subprocess, "run", run)
    for steps in lm.PLANS.values():
        lm.plans.follow(steps(), Path("script.py"), tmp_path, ["--text", str(tmp_path)])
    assert len(set(made)) == len(made) > 50
    direct = made.index("wide-256-direct-scheduled-0.35-seed2")
    assert units[direct] == (direct, 6)
    # The others are made all the same.
    failing, before = (2,), len(made)
    made.clear()
    with pytest.raises(
        SystemExit, match=r"failed:\n.* wide-256-sparse --seed 1 [^\n]*$"
    ):
        lm.plans.follow(lm.PLANS["wide-256"](), Path("script.py"), tmp_path, [])
    assert 20 < len(made) < before
    # Those of one seed, on a core of their own.
    failing = ()
    made.clear()
    lm.plans.follow(lm.PLANS["recite"](), Path("script.py"), tmp_path, [], seed=1)
    lm.plans.follow(lm.PLANS["wide-256"](), Path("script.py"), tmp_path, [], seed=2)
    assert {name.split("-seed")[1] for name in made[7:]} == {"2"}
    assert made[7:9] == ["wide-256-seed2", "wide-256-sparse-seed2"]
    with pytest.raises(SystemExit, match="no runs of this seed"):
        lm.plans.follow(lm.PLANS["recite"](), Path("script.py"), tmp_path, [], seed=9)


def test_what_is_not_alike_is_not_averaged(lm):
    settings = {"keep": 0.5, "epochs": 10, "start": None}
    one = {"configuration": "tiny", "method": "scheduled", "settings": settings}
    tuned = {**one, "settings": {**settings, "start": "dense.keras"}}
    longer = {**one, "settings": {**settings, "epochs": 20}}
    again = {**one, "settings": {**settings, "start": "tiny-direct-3-5-seed1.keras"}}
    runs = [{**run, "seed": 1} for run in (one, tuned, longer, again)]
    assert len({lm.results.name_of(run) for run in runs}) == 4
    text = {"data_hash": "a", "train_words": 9, "vocabulary": 3}
    runs = [{**run, "run": "r", "parameters": 4} for run in runs]
    for changed in ({"data_hash": "b"}, {"train_words": 8}, {"vocabulary": 2}):
        with pytest.raises(SystemExit, match="on different texts"):
            lm.results.by_kind([{**runs[0], **text}, {**runs[1], **text, **changed}])
    with pytest.raises(SystemExit, match="of one kind, seed and test"):
        lm.results.by_kind([{**runs[0], **text}] * 2)


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("lasso", ["--strength", "1e-2"]),
        ("proximal", ["--strength", "1e-2"]),
        ("weights", ["--strength", "1e-3"]),
        ("rows", ["--strength", "1e-2"]),
        ("direct", ["--units", "3", "5"]),
    ],
)
def test_every_method_trains(lm, small, folder, tmp_path, method, arguments):
    text = lm.texts.read(folder, None, 100)
    run = run_of(lm, tmp_path, "tiny", "--method", method, *arguments, "--epochs", "2")
    final = lm.runs.trained(run, text)
    assert math.isfinite(final["test"])
    if method == "direct":
        assert final["units"] == [3, 5]
    if method in ("weights", "rows"):
        assert final["zeros"] > 0
    if method == "proximal":
        assert sum(final["units"]) < 16
    if method == "lasso":
        # With so few steps of such a length nothing comes within its threshold.
        plain = run_of(lm, tmp_path, "tiny", "--epochs", "2")
        lm.runs.trained(plain, text)
        pulled, free = (
            keras.models.load_model(one.file).get_layer("recurrent_2").get_weights()
            for one in (run, plain)
        )
        assert np.abs(pulled[1]).mean() < 0.8 * np.abs(free[1]).mean()


@pytest.mark.long
def test_a_trained_model_is_pruned_and_tuned(lm, small, folder, tmp_path):
    text = lm.texts.read(folder, None, 100)
    dense = run_of(lm, tmp_path, "tiny")
    lm.runs.trained(dense, text)
    start = ["--start", str(dense.file), "--epochs", "2"]
    one_shot = ["--method", "one-shot", "--keep", "0.5"]
    run = run_of(lm, tmp_path, "tiny", *one_shot, *start)
    assert sum(lm.runs.trained(run, text)["units"]) == 8
    run = run_of(lm, tmp_path, "tiny", "--method", "finetune", *start)
    assert lm.runs.trained(run, text)["units"] == [8, 8]
    # Not with words that are others, nor with a model of no run.
    other = lm.texts.read(folder, None, 5)
    wrong = replace(run, name="wrong")
    with pytest.raises(SystemExit, match=r"Different .*'vocabulary': \("):
        lm.runs.trained(wrong, other)
    unknown = tmp_path / "unknown.keras"
    shutil.copy(dense.file, unknown)
    with pytest.raises(SystemExit, match="is not there, or not of a finished run"):
        lm.runs.trained(replace(wrong, start=unknown), text)


def test_what_is_known_by_heart_is_trained_no_more(lm, small, folder, tmp_path):
    small["tiny"] = replace(small["tiny"], recite=True, epochs=3)
    text = lm.texts.read(folder, None, 100)
    run = run_of(lm, tmp_path, "tiny")
    final = lm.runs.trained(run, text)
    records = lm.records.Records(run.folder / f"{run.name}.jsonl", {})
    shares = records.values("train_accuracy")
    assert len(shares) == 3
    assert final["recited"] == max(shares)
    # As `surprise` reads it: how often the likeliest word is the next.
    assert 0.1 < shares[-1] < 1
    # As after a kill between the last epoch's backup and the end.
    stopped = run_of(lm, tmp_path, "tiny", "--name", "stopped")
    course = lm.runs.Course(
        stopped.file,
        lm.records.Records(
            stopped.folder / "stopped.jsonl", lm.runs.facts_of(stopped, text)
        ),
    )
    model = lm.models.build(small["tiny"], len(text.vocabulary), 1)
    model = lm.models.compiled(model, small["tiny"])
    model.optimizer.build(model.trainable_variables)
    backup = lm.runs.ksr.ExactBackup(course.folder)
    backup.set_model(model)
    backup.on_epoch_end(0)
    line = {"valid_loss": 1.0, "train_loss": 1.0, "seconds": 1.0}
    course.records.add(epoch=1, train_accuracy=1.0, stopped=True, **line)
    assert lm.runs.trained(stopped, text)["recited"] == 1
    assert len(course.records.values("seconds")) == 1


@pytest.mark.long
def test_magnitude_pruning_in_a_process_of_its_own(lm, small, folder, tmp_path):
    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        pytest.skip("needs tensorflow-model-optimization")
    text = lm.texts.read(folder, None, 100)
    arguments = ["--method", "magnitude", "--keep", "0.25", "--epochs", "4"]
    run = run_of(lm, tmp_path, "tiny", *arguments)
    final = lm.magnitude.trained(run, text)
    assert final["zeros"] == pytest.approx(0.75, abs=0.05)
    kinds = ["float32", "float32 sparse", "dynamic"]
    assert [file["kind"] for file in final["files"]] == kinds
    assert all(final["files"][k]["window_ms"] > 0 for k in (0, 2))
    # Zeros are in the file as any other weight, until it is packed.
    dense, _, _ = final["files"]
    assert dense["bytes"] > 4 * final["parameters"]
    # It sets Keras 2 for its process, and must not be imported in ours.
    assert "tensorflow_model_optimization" not in sys.modules


def test_rows_and_columns_are_those_of_numpy(lm):
    w = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    found = float(lm.rivals.RowsAndColumns(0.5)(w))
    norms = np.linalg.norm(w, axis=0).sum() + np.linalg.norm(w, axis=1).sum()
    assert found == pytest.approx(0.5 * norms, rel=1e-5)
    kept = keras.ops.convert_to_numpy(lm.rivals.Threshold(0.5)(w))
    np.testing.assert_array_equal(kept, np.where(np.abs(w) >= 0.5, w, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a configuration"),
        (["tiny", "--method", "scheduled"], "needs --keep"),
        (["tiny", "--keep", "0.5"], "--keep is for --method scheduled"),
        (["tiny", "--method", "scheduled", "--keep", "2"], "must lie in (0, 1]"),
        (["tiny", "--method", "direct", "--units", "3"], "takes as many numbers"),
        (["tiny", "--method", "direct", "--units", "3", "0"], "must be at least 1"),
        (["tiny", "--method", "finetune"], "needs --start"),
        (["tiny", "--start", "nowhere.keras"], "there is no such file"),
        (["tiny", "--epochs", "0"], "must be at least 1"),
        (["tiny", "--most-words", "1"], "must be at least 2"),
        (["--plan", "wide-256", "--epochs", "3"], "does not go with --epochs"),
        (["--plan", "wide-256", "--text", "nowhere"], "no such file or folder"),
        (["tiny", "--seed", "-1"], "and less than 2**32, not -1"),
        (["tiny", "--name", "a/b"], "must be no path: 'a/b'"),
        (["tiny", "--out", __file__], "it is there, and no folder"),
        (
            ["tiny", "--method", "scheduled", "--keep", "0.01"],
            "--keep 0.01 of the 192 units of 2 layers is less than one for each",
        ),
        (["tiny", "--results"], "--results does not go with configuration"),
        (
            ["tiny", "--method", "direct", "--units", "3", "5", "--start", "x"],
            "plain and scheduled and",
        ),
        (["tiny", "--method", "rows", "--strength", "nan"], "a number from 0 on"),
    ],
)
def test_bad_arguments_are_explained(lm, capsys, arguments, message):
    with pytest.raises(SystemExit):
        lm.arguments(arguments)
    assert message in capsys.readouterr().err


def test_runs_of_other_examples_are_refused(lm, tmp_path):
    # It has a configuration of this name, too.
    out = tmp_path / "out"
    records = lm.records.Records(out / "tiny-seed1.jsonl", {"run": "tiny-seed1"})
    records.add(final=True, configuration="tiny", units=[3] * 6, left_out=None)
    with pytest.raises(SystemExit, match=r"tiny-seed1\.jsonl is of another example's"):
        lm.results.show(out)
    with pytest.raises(SystemExit, match="is of another example's run"):
        run_of(lm, tmp_path, "tiny", "--method", "direct", "--like", "tiny-seed1")


def test_bad_texts_are_explained(lm, tmp_path):
    (tmp_path / "some.train.txt").write_text("a b\n")
    with pytest.raises(SystemExit, match="one file with 'valid' in its name"):
        lm.texts.read(tmp_path, None, 100)
    with pytest.raises(SystemExit, match="No such file"):
        lm.texts.read(tmp_path / "nothing.txt", None, 100)
    with pytest.raises(SystemExit, match="needs three or more"):
        lm.texts.read(tmp_path / "some.train.txt", None, 100)
