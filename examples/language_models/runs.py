"""One run: a configuration, trained by one method, from one seed."""

import contextlib
import importlib.util
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from experiments.course import Course, epochs_at, save
from experiments.records import (
    Records,
    check_same,
    digest_of,
    settings_of,
    where,
    write,
)

import keras_sparse_rnn as ksr
from language_models import models, rivals
from language_models.configurations import CONFIGURATIONS, FIELD, Configuration
from language_models.texts import Text

METHODS = {
    "plain": "nothing is removed",
    "scheduled": "units go on a schedule, the model is rebuilt smaller on the way",
    "lasso": "the group lasso of the ISS paper, as strong as --strength",
    "proximal": "the same in its proximal form, as strong as --strength",
    "one-shot": "units of a trained model (--start) go at once, the rest is tuned",
    "weights": "L1 on single weights with a threshold, as strong as --strength",
    "rows": "lasso on rows and columns with a threshold, as strong as --strength",
    "magnitude": "single weights go, by tensorflow-model-optimization on Keras 2",
    "direct": "a dense model with --units, or those of --like, from the beginning",
    "finetune": "averaged SGD from the first step on, of a trained model (--start)",
}

# What is alike in two runs of which one takes up the other.
SAME_TEXT = ("data_hash", "train_words", "vocabulary")


@dataclass(frozen=True)
class Run:
    """What one run is.

    Attributes:
        name: It names its files.
        configuration: One of `CONFIGURATIONS`.
        method: One of `METHODS`.
        seed: Of weights, dropout and windows.
        keep: Share of the units that stay; for "magnitude" of the weights.
        strength: Of a lasso, for a loss that is the mean over words.
        units: For "direct".
        like: The run that has these units, if they are of one.
        start: A model to start from, `None` for new weights.
        epochs: In place of the configuration's.
        folder: Where files go.
    """

    name: str
    configuration: str
    method: str
    seed: int
    keep: float | None
    strength: float | None
    units: tuple[int, ...] | None
    like: str | None
    start: Path | None
    epochs: int | None
    folder: Path

    @property
    def config(self) -> Configuration:
        """The configuration, with what was changed of it."""
        config = CONFIGURATIONS[self.configuration]
        if self.epochs is not None:
            config = replace(config, epochs=self.epochs)
        if self.method == "direct":
            assert self.units is not None
            config = models.with_units(config, self.units)
        if self.method == "finetune":
            config = replace(config, averaging=config.averaging or 5, best=True)
        return config

    @property
    def file(self) -> Path:
        """The trained model."""
        return self.folder / f"{self.name}.keras"

    @property
    def best_file(self) -> Path:
        """The model after its best epoch."""
        return self.folder / f"{self.name}.best.keras"


def facts_of(run: Run, text: Text) -> dict[str, Any]:
    """What every line of a run's records says, and what another run differs in."""
    return {
        "run": run.name,
        "configuration": run.configuration,
        "method": run.method,
        "seed": run.seed,
        "settings": {
            **settings_of(run.config),
            "keep": run.keep,
            "strength": run.strength,
            "start": run.start.name if run.start else None,
            **({"like": run.like} if run.like else {}),
            **({"start_hash": digest_of(run.start)} if run.start else {}),
        },
        "data": text.source,
        "data_hash": text.hash,
        "train_words": len(text.train),
        "vocabulary": len(text.vocabulary),
    }


def trained(run: Run, text: Text) -> dict[str, Any]:
    """Trains, unless that was done before; the last line of the run's records."""
    records = Records(run.folder / f"{run.name}.jsonl", facts_of(run, text))
    if (final := records.done_before()) is not None:
        return final
    shared = {name: records.facts[name] for name in SAME_TEXT}
    if run.like is not None:
        check_same("like", run.folder, run.like, FIELD, shared)
    if run.start is not None:
        folder, name = run.start.parent, run.start.stem
        check_same("start", folder, name, FIELD, shared)
    course = Course(run.file, records)
    if not course.ended():
        _train(run, text, course)
    # Without it nobody knows what the numbers mean.
    write(run.file.with_suffix(".words.json"), json.dumps(text.vocabulary))
    model = keras.models.load_model(run.best_file if run.config.best else run.file)
    if run.config.best:
        if pruning_of(run) is not None:
            # It was saved with masked units, before the model was rebuilt.
            model = ksr.shrink(model)
        save(model, run.file)
    scores = {**_scores(model, text), "seconds": sum(records.values("seconds"))}
    if run.config.recite:
        scores["recited"] = max(records.values("train_accuracy"))
    records.add(final=True, **scores, **where())
    return records.lines()[-1]


def _train(run: Run, text: Text, course: Course) -> None:
    """Trains, and leaves the model in `run.file`, or the best in `run.best_file`."""
    config, records = run.config, course.records
    course.take_up(run.seed)
    model = _beginning(run, text)
    data = ksr.ContiguousText(
        text.train,
        config.batch,
        config.steps,
        jitter=config.jitter,
        seed=run.seed,
        as_inputs=config.tied,
    )
    print(
        f"{run.name}: {config.about}; {model.count_params():,} weights, "
        f"{data.words:,} words in {data.num_batches:,} windows an epoch"
    )
    pruning = pruning_of(run)
    callbacks: list[Any] = [
        keras.callbacks.LearningRateScheduler(lambda epoch, _: rate_at(run, epoch)),
        ksr.ContiguousTraining(data),
        Watch(run, text, records),
    ]
    if config.averaging and run.method != "finetune":
        watched = records.values("valid_loss")
        callbacks.append(
            ksr.NonMonotonicAveraging(
                "valid_loss", patience=config.averaging, history=watched
            )
        )
    tensorboard = importlib.util.find_spec("tensorboard")
    if tensorboard and keras.backend.backend() == "tensorflow":
        logs = run.folder / "tensorboard" / run.name
        callbacks.append(keras.callbacks.TensorBoard(str(logs)))
    at = rebuilt_after(run)
    course.fit(model, data, config.epochs, callbacks, pruning, at)


def rate_at(run: Run, epoch: int) -> float:
    """The learning rate of an epoch, counted from 0."""
    config = run.config
    every = config.decay_every

    def after(late: int) -> float:
        return config.rate * config.decay ** (max(0, late + every - 1) // every)

    if run.start is not None and run.method != "finetune":
        # The rate in the middle of the slower part of its training, and down again.
        slower = CONFIGURATIONS[run.configuration].epochs - config.full_rate
        middle = max(0, slower // 2)
        return after(middle + max(0, epoch + 1 - config.epochs // 2))
    return after(epoch + 1 - config.full_rate)


def rebuilt_after(run: Run) -> list[int]:
    """Epochs after which the model is rebuilt smaller."""
    epochs = run.config.epochs
    shares = (0.5,) if run.method in ("lasso", "proximal") else (0.3, 0.45, 0.6)
    if run.method == "one-shot":
        return [1] if epochs > 1 else []
    return epochs_at(shares, epochs)


def pruning_of(run: Run) -> Any:
    """The callback that removes units, if the method has one."""
    if run.method == "scheduled":
        return ksr.ISSPruning(keep=run.keep)
    if run.method == "one-shot":
        return ksr.ISSPruning(keep=run.keep, begin=0.0, end=0.0)
    if run.method in ("lasso", "proximal"):
        # What the lasso makes zero goes; it pulls until the last third.
        return ksr.ISSPruning(end=2 / 3)
    return None


def _beginning(run: Run, text: Text) -> keras.Model:
    """The model that training begins with, compiled."""
    config = run.config
    extra: dict[str, Any] = {}
    if run.strength is not None:
        extra = _pulled(run, run.strength)
    model = models.build(config, len(text.vocabulary), run.seed, extra)
    if run.start is not None:
        try:
            trained = keras.models.load_model(run.start, compile=False)
            model.set_weights(trained.get_weights())
        except ValueError as error:
            raise SystemExit(
                f"--start {run.start}: it is no model with the weights of "
                f"{run.configuration}. Keras says: {error}"
            ) from error
    model = models.compiled(model, config)
    if run.method == "finetune":
        model.optimizer.build(model.trainable_variables)
        model.optimizer.start_averaging()
    return model


def _pulled(run: Run, strength: float) -> dict[str, Any]:
    """What a lasso, or a rival of it, adds to the layers."""
    config = run.config
    if run.method == "weights":
        return rivals.single_weights(strength, config.steps)
    if run.method == "rows":
        return rivals.rows_and_columns(strength)
    if run.method == "lasso":
        # As in the paper: norms are summed as they are; the threshold of its highway
        # networks is another.
        pull = ksr.ISSRegularizer(
            strength,
            form="paper",
            scale_by_size=False,
            threshold=4e-4 if config.depth else 1e-4,
        )
    else:
        pull = ksr.ISSRegularizer(strength, form="proximal")
    return {"recurrent": {"recurrent_regularizer": pull}}


def _scores(model: keras.Model, text: Text) -> dict[str, Any]:
    """Perplexity over every word of what was held out, read in one go."""
    reader = models.Reader(models.rebatched(model, 2))
    losses, accuracies = reader.read([text.valid, text.test], text.end, chunk=500)
    return {
        "valid": math.exp(losses[0]),
        "test": math.exp(losses[1]),
        "valid_accuracy": accuracies[0],
        "test_accuracy": accuracies[1],
        "units": models.units_of(model),
        "embedding": model.get_layer("words").output_dim,
        "parameters": model.count_params(),
        "zeros": rivals.share_of_zeros(model),
    }


class Watch(keras.callbacks.Callback):
    """Reads the validation part after each epoch, and writes it down.

    Args:
        run: Which run.
        text: Its text.
        records: Where to.
    """

    def __init__(self, run: Run, text: Text, records: Records):
        super().__init__()
        self.run, self.text, self.records = run, text, records
        self._began = self._began_cpu = 0.0
        self._read_from: Any = None
        self._reader: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """What is tuned must become better than it was."""
        if self.run.method == "finetune" and not self.records.lines():
            loss = self._validated(self.model)
            save(self.model, self.run.best_file)
            self.records.add(start_loss=loss, start=math.exp(loss))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begins to count the seconds."""
        self._began, self._began_cpu = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Reads, and writes a line; `valid_loss` joins the logs."""
        seconds = time.perf_counter() - self._began
        cpu_seconds = time.process_time() - self._began_cpu
        logs = {} if logs is None else logs
        model = self.model
        values: dict[str, Any] = {}
        if self._averaging(model):
            values["averaging"] = True
        with self._averages(model):
            loss = self._validated(model)
        logs["valid_loss"] = loss
        if self.run.config.best and loss <= min([*self._rivals(logs), loss]):
            with self._averages(model):
                save(model, self.run.best_file)
        if self.run.config.recite:
            values["train_accuracy"] = self._recited(model)
            if 1 - values["train_accuracy"] < 1e-4:
                values["stopped"] = True
        earlier = self.records.values("valid_loss")
        if self.run.method == "finetune" and loss > min([*earlier[:-5], math.inf]):
            values["stopped"] = True
        if "stopped" in values:
            model.stop_training = True
        self.records.add(
            epoch=epoch + 1,
            valid=math.exp(loss),
            valid_loss=loss,
            train_loss=float(logs["loss"]),
            seconds=seconds,
            # On a machine that is shared it tells more.
            cpu_seconds=cpu_seconds,
            units=models.units_of(model),
            parameters=logs.get("parameters_left", model.count_params()),
            units_left=logs.get("units_left"),
            rate=rate_at(self.run, epoch),
            **values,
        )
        print(
            f"{self.run.name}, epoch {epoch + 1}: {seconds:.0f} s, loss "
            f"{logs['loss']:.3f}, validation perplexity {math.exp(loss):.2f}, units "
            f"{models.units_of(model)}"
            + (f", {logs['units_left']} left" if "units_left" in logs else "")
            + (
                f", {values['train_accuracy']:.2%} recited"
                if self.run.config.recite
                else ""
            ),
            flush=True,
        )

    def _averaging(self, model: Any) -> bool:
        return bool(getattr(model.optimizer, "averaging", False))

    def _averages(self, model: Any) -> Any:
        if self._averaging(model):
            return model.optimizer.averages_in(model)
        return contextlib.nullcontext()

    def _rivals(self, logs: Any) -> list[float]:
        """Losses of earlier epochs with as many units, and of what is tuned."""
        return [
            line.get("valid_loss", line.get("start_loss"))
            for line in self.records.lines()
            if line.get("units_left") == logs.get("units_left")
        ]

    def _read_by(self, model: Any) -> models.Reader:
        if self._read_from is not model:
            self._read_from = model
            self._reader = models.Reader(models.to_logits(model))
        return self._reader

    def _validated(self, model: Any) -> float:
        reader = self._read_by(model)
        return reader.cross_entropy(self.text.valid, self.text.end, chunk=70)

    def _recited(self, model: Any) -> float:
        reader = self._read_by(model)
        parts = np.array_split(self.text.train, reader.rows)
        _, right = reader.read(parts, self.text.end, chunk=70)
        return float(np.average(right, weights=[len(part) for part in parts]))
