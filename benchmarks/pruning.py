"""Structured pruning of a language model, against what it has to beat.

    python benchmarks/pruning.py --data DIR [--seeds 0 1 2] [--out FILE]
                                 [--quick | --timing | --table]

DIR holds the Penn Treebank: ptb.train.txt, ptb.valid.txt and ptb.test.txt. The model is
an embedding of 256, two LSTMs of 256 units and a softmax over 10,000 words. It learns
from the first 40 % of the training text for 8 epochs, whatever the method:

dense              nothing is removed
one shot           of the dense model after epoch 5 two thirds of the units go at once
scheduled to 1/3   `fit_shrinking` to a third of the units
scheduled to 65 %  the same, 35 % of the units go
direct design      the sizes that "scheduled to 1/3" ended with, trained from scratch

Each finished method is a line of FILE and does not run again, so a run that was stopped
goes on; `--table` only prints what FILE holds. What is learned is learned by
`GroupedLSTM(groups=1)`, which computes what the stock layer does and trains faster on a
CPU; `--timing` only times training steps of stock LSTMs, contenders taking turns in one
process. `--quick` shows in minutes that all of it
works, on so little text that its numbers say nothing; it keeps nothing.
"""

import argparse
import collections
import datetime
import hashlib
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_sparse_rnn as ksr

WIDTH = 256
BATCH, STEPS = 20, 35
DROPOUT = 0.25
DENSE, ONE_SHOT = "dense", "one shot"
THIRD, MOST, DIRECT = "scheduled to 1/3", "scheduled to 65 %", "direct design"
METHODS = [DENSE, ONE_SHOT, THIRD, MOST, DIRECT]
TIMING = "timing"


@dataclass(frozen=True)
class Setting:
    share: float  # Of the training text.
    held_out: int | None  # Words of the other texts; None for all.
    epochs: int
    # At learning rate 1; it is halved in each later one. The one shot comes after them.
    full_rate: int
    shrink_after: list[int]
    rounds: int  # Of the timing, each of this many steps:
    steps: int


# What has been measured, by method and seed.
Rows = dict[tuple[str, int | None], dict]

FULL = Setting(0.4, None, 8, 5, [3, 5], 11, 15)
QUICK = Setting(0.015, 2000, 4, 2, [2, 3], 3, 5)


# Text ---------------------------------------------------------------------------------


@dataclass
class Text:
    x: np.ndarray  # Row r of a batch goes on where row r of the one before ended.
    y: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    words: int
    end: int  # The id of <eos>.


def read(folder: Path, setting: Setting) -> Text:
    def words(name: str) -> list[str]:
        lines = (folder / f"ptb.{name}.txt").read_text(encoding="utf-8").splitlines()
        return [word for line in lines for word in (*line.split(), "<eos>")]

    train = words("train")
    ids = {w: i for i, (w, _) in enumerate(collections.Counter(train).most_common())}
    stream = np.array([ids[w] for w in train[: int(setting.share * len(train))]])
    batches = (len(stream) - 1) // (BATCH * STEPS)

    def in_batches(some: np.ndarray) -> np.ndarray:
        rows = some[: batches * BATCH * STEPS].reshape(BATCH, batches, STEPS)
        return rows.swapaxes(0, 1).reshape(batches * BATCH, STEPS).astype("int32")

    valid, test = (
        np.array([ids[w] for w in words(name)[: setting.held_out]], "int32")
        for name in ("valid", "test")
    )
    x, y = in_batches(stream[:-1]), in_batches(stream[1:])
    return Text(x, y, valid, test, len(ids), ids["<eos>"])


# Model --------------------------------------------------------------------------------


def one_group(units: int, **kwargs: Any) -> keras.layers.Layer:
    return ksr.GroupedLSTM(units, groups=1, **kwargs)


def language_model(
    words: int,
    units: Sequence[int],
    batch: int = BATCH,
    steps: int | None = STEPS,
    lstm: Callable[..., keras.layers.Layer] = one_group,
) -> keras.Model:
    layers = [
        keras.Input(batch_shape=(batch, steps), dtype="int32"),
        keras.layers.Embedding(words, WIDTH),
        keras.layers.Dropout(DROPOUT),
    ]
    for size in units:
        layers += [
            lstm(size, return_sequences=True, stateful=True),
            keras.layers.Dropout(DROPOUT),
        ]
    return keras.Sequential([*layers, keras.layers.Dense(words)])


def compiled(model: keras.Model) -> keras.Model:
    # The rate and the clip are those of Zaremba et al. (2014), whose loss is summed
    # over the steps of a sequence; Keras's is the mean over steps.
    model.compile(
        keras.optimizers.SGD(1.0, global_clipnorm=5.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        loss_weights=float(STEPS),
        # On a CPU XLA takes as long for a step, and seconds more to compile it.
        jit_compile=False,
    )
    return model


def units_of(model: keras.Model) -> list[int]:
    return [x.units for x in model.layers if isinstance(x, keras.layers.RNN)]


def perplexities(
    model: keras.Model, texts: Sequence[np.ndarray], end: int
) -> list[float]:
    """Over every word of each text, read in one go; an <eos> comes before the first."""
    words = model.layers[-1].units
    reader = language_model(words, units_of(model), batch=len(texts), steps=None)
    reader.set_weights(model.get_weights())
    longest = max(len(text) for text in texts)
    # A text in a row, the shorter ones filled up with what does not count.
    ids = np.full((len(texts), longest), end)
    counts = np.zeros((len(texts), longest))
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        counts[row, : len(text)] = 1
    given = np.concatenate([np.full((len(texts), 1), end), ids[:, :-1]], axis=1)
    losses = np.zeros(len(texts))
    for begin in range(0, longest, 500):
        chunk = slice(begin, begin + 500)
        logits = np.array(reader.predict_on_batch(given[:, chunk]))
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(logits, ids[:, chunk, None], axis=-1)[..., 0]
        sums = np.exp(logits, out=logits).sum(axis=-1, dtype=np.float64)
        losses += np.sum((np.log(sums) - chosen) * counts[:, chunk], axis=1)
    return list(np.exp(losses / counts.sum(axis=1)))


# Training -----------------------------------------------------------------------------


class FreshStates(keras.callbacks.Callback):
    """An epoch starts at the front of the text."""

    def on_epoch_begin(self, epoch, logs=None):
        for layer in self.model.layers:
            if isinstance(layer, keras.layers.RNN):
                layer.reset_states()


class Clock(keras.callbacks.Callback):
    """Seconds of every epoch; what happens between epochs is not in them."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)
        print(
            f"{self.name}, epoch {epoch + 1}: {self.seconds[-1]:.1f} s, units "
            f"{units_of(self.model)}, perplexity in training "
            f"{math.exp(logs['loss'] / STEPS):.1f}",
            flush=True,
        )


def train(
    method: str, seed: int, text: Text, setting: Setting, rows: Rows, checkpoint: Path
) -> tuple[keras.Model, list[float]]:
    """Trains by one method; returns the model and the seconds of its epochs."""

    def rate(epoch: int, _: float) -> float:
        return 0.5 ** max(0, epoch + 1 - setting.full_rate)

    def save(epoch: int, logs: dict) -> None:
        if epoch + 1 == setting.full_rate:
            model.save(checkpoint)

    clock = Clock(f"seed {seed}, {method}")
    rates = keras.callbacks.LearningRateScheduler(rate)
    callbacks = [clock, FreshStates(), rates]
    first, at, pruning = 0, setting.shrink_after, None
    if method == ONE_SHOT:
        first, at = setting.full_rate, [setting.full_rate + 1]
        moment = first / setting.epochs
        pruning = ksr.ISSPruning(keep=1 / 3, begin=moment, end=moment)
        # Not the seed of the dense model: the dropout masks would be those that it has
        # already seen, since a saved model does not hold how far they were drawn.
        keras.utils.set_random_seed(1000 + seed)
        model = keras.models.load_model(checkpoint)
    else:
        units = rows[THIRD, seed]["units"] if method == DIRECT else [WIDTH, WIDTH]
        keras.utils.set_random_seed(seed)
        model = compiled(language_model(text.words, units))
    if method == DENSE:
        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=save))
    if method in (THIRD, MOST):
        pruning = ksr.ISSPruning(keep=1 / 3 if method == THIRD else 0.65)
    fitting = {
        "batch_size": BATCH,
        "shuffle": False,
        "initial_epoch": first,
        "epochs": setting.epochs,
        "verbose": 0,
        "callbacks": callbacks,
    }
    if pruning is None:
        model.fit(text.x, text.y, **fitting)
    else:
        model, _ = ksr.fit_shrinking(
            model, text.x, text.y, pruning=pruning, at=at, **fitting
        )
    return model, clock.seconds


# Timing -------------------------------------------------------------------------------


def timing(text: Text, setting: Setting, units: Sequence[int]) -> dict:
    """Seconds of training steps, in rounds in which the contenders take turns."""
    batches = len(text.x) // BATCH

    def contender(sizes: Sequence[int], *callbacks: keras.callbacks.Callback):
        model = compiled(language_model(text.words, sizes, lstm=keras.layers.LSTM))
        # So many steps to come that no schedule begins.
        told = keras.callbacks.CallbackList(
            callbacks, model=model, epochs=100, steps=batches
        )
        told.on_train_begin()
        told.on_epoch_begin(0)

        def step(number: int) -> None:
            begin = BATCH * (number % batches)
            rows = slice(begin, begin + BATCH)
            told.on_train_batch_begin(number)
            model.train_on_batch(text.x[rows], text.y[rows])
            told.on_train_batch_end(number)

        return step

    keras.utils.set_random_seed(0)
    pruning = ksr.ISSPruning(keep=1 / 3, begin=1.0, end=1.0)
    contenders = {
        "dense": contender([WIDTH, WIDTH]),
        "third": contender(units),
        "callback": contender([WIDTH, WIDTH], pruning),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(setting.rounds + 1):
        for name, step in contenders.items():
            start = time.perf_counter()
            for number in range(turn * setting.steps, (turn + 1) * setting.steps):
                step(number)
            if turn:  # The first turn compiles.
                spent = time.perf_counter() - start
                seconds[name].append(spent / setting.steps)
    return {"units": list(units), "seconds_per_step": seconds}


# Results ------------------------------------------------------------------------------


def show(rows: Rows, seeds: Sequence[int], claims: bool) -> None:
    """Prints the table, and of each claim whether it held."""

    def of(method: str) -> dict[int, dict]:
        return {s: rows[method, s] for s in seeds if (method, s) in rows}

    def change(method: str, other: str) -> list[float]:
        """Of the test perplexity against another method's, in %, for each seed."""
        own, its = of(method), of(other)
        return [100 * (own[s]["test"] / its[s]["test"] - 1) for s in own if s in its]

    def several(values: list[float], form: str) -> str:
        if not values:
            return "–"
        each = ", ".join(format(value, form) for value in values)
        return f"{statistics.mean(values):{form}} ({each})"

    def verdict(held: bool, measured: int = len(seeds)) -> str:
        if not claims:
            return "no claim"
        if measured < len(seeds):
            return "seeds missing"
        return "held" if held else "NOT HELD"

    print(
        "\n| method | units | parameters | valid | test | test to dense, % "
        "| test to direct design, % | s/epoch |\n|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    for method in METHODS:
        own = list(of(method).values())
        if not own:
            continue
        spent = [row["seconds_per_epoch"] for row in own]
        first, last = (statistics.median(s[end] for s in spent) for end in (0, -1))
        cells = [
            method,
            "; ".join(dict.fromkeys(str(row["units"])[1:-1] for row in own)),
            f"{statistics.mean(row['parameters'] for row in own) / 1e6:.2f}M",
            several([row["valid"] for row in own], ".1f"),
            several([row["test"] for row in own], ".1f"),
            several(change(method, DENSE), "+.1f"),
            several(change(method, DIRECT), "+.1f"),
            f"{first:.1f} → {last:.1f}",
        ]
        print(f"| {' | '.join(cells)} |")
    print(f"\nSeeds {', '.join(map(str, seeds))}; means, with each seed's value.\n")

    for method, other, most, every in (
        (THIRD, DIRECT, -2.0, True),
        (THIRD, ONE_SHOT, 0.5, False),
        (MOST, DENSE, 1.5, False),
    ):
        values = change(method, other)
        if values:
            held = statistics.mean(values) <= most and not (every and max(values) >= 0)
            print(
                f"- {method} against {other}: {several(values, '+.1f')} %, aim at most "
                f"{most:+.1f} %{' and each below 0' if every else ''}: "
                f"{verdict(held, len(values))}"
            )
    if (TIMING, None) in rows:
        row = rows[TIMING, None]
        seconds = row["seconds_per_step"]
        dense = statistics.median(seconds["dense"])
        for what, name, most in (
            (f"with {row['units']} units", "third", 0.6),
            ("with ISSPruning before anything is removed", "callback", 1.05),
        ):
            own = statistics.median(seconds[name])
            each = [a / b for a, b in zip(seconds[name], seconds["dense"], strict=True)]
            print(
                f"- a training step {what}: {1e3 * own:.0f} ms, dense "
                f"{1e3 * dense:.0f} ms, × {own / dense:.2f} (rounds {min(each):.2f} to "
                f"{max(each):.2f}), aim at most × {most:g}: "
                f"{verdict(own / dense <= most)}"
            )
    for about in dict.fromkeys(row["about"] for row in rows.values()):
        print(f"\n{about}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    default = Path("saved_models/pruning.jsonl")
    parser.add_argument("--out", type=Path, metavar="FILE", default=default)
    only = parser.add_mutually_exclusive_group()
    for name in ("quick", "timing", "table"):
        only.add_argument(f"--{name}", action="store_true")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    setting = QUICK if args.quick else FULL
    text = read(args.data, setting)
    backend = keras.backend.backend()
    data = hashlib.sha256((args.data / "ptb.train.txt").read_bytes()).hexdigest()
    about = (
        f"{platform.machine()}, {os.cpu_count()} cores, {datetime.date.today()}, "
        f"Python {platform.python_version()}, Keras {keras.__version__}, {backend} "
        f"{sys.modules[backend].__version__}, keras_sparse_rnn {ksr.__version__}, "
        f"ptb.train.txt {data[:16]} (SHA-256)"
    )
    if not args.table:
        print(f"{about}\n{text.x.size:,} words an epoch, results in {args.out}")
    if args.quick:
        print("QUICK: too little text to claim anything.")
    known = {"data": data, **asdict(setting)}

    def finished() -> Rows:
        lines = args.out.read_text().splitlines() if args.out.exists() else []
        rows = [json.loads(line) for line in lines]
        return {(r["method"], r["seed"]): r for r in rows if r["setting"] == known}

    def record(method: str, seed: int | None, **values: object) -> None:
        row = {"method": method, "seed": seed, **values}
        row |= {"setting": known, "about": about}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    everything = not (args.table or args.timing)
    for seed in args.seeds if everything else []:
        checkpoint = args.out.with_name(f"{args.out.stem}-seed{seed}.keras")
        for method in METHODS:
            rows = finished()
            if (method, seed) in rows:
                continue
            start = time.perf_counter()
            model, epochs = train(method, seed, text, setting, rows, checkpoint)
            seconds = time.perf_counter() - start
            valid, test = perplexities(model, [text.valid, text.test], text.end)
            record(
                method,
                seed,
                units=units_of(model),
                parameters=model.count_params(),
                seconds_per_epoch=epochs,
                seconds=seconds,
                valid=valid,
                test=test,
            )
            keras.backend.clear_session()
    rows = finished()
    if args.timing or (everything and (TIMING, None) not in rows):
        sizes = [row["units"] for (method, _), row in rows.items() if method == THIRD]
        third = sizes[0] if sizes else [WIDTH // 3, WIDTH // 3]
        record(TIMING, None, **timing(text, setting, third))
    show(finished(), args.seeds, claims=not args.quick)
    if args.quick:
        print("QUICK: this claims nothing.")


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        if args.quick:
            args.seeds, args.out = args.seeds[:1], Path(scratch) / "quick.jsonl"
        run(args)


if __name__ == "__main__":
    main()
