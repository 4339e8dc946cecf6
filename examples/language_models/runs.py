"""One run: a configuration, trained by one method, from one seed."""

import importlib.util
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_sparse_rnn as ksr
from language_models import models, rivals
from language_models.configurations import CONFIGURATIONS, Configuration
from language_models.records import Records, where
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
    "direct": "a dense model with --units from the beginning",
    "finetune": "averaged SGD from the first step on, of a trained model (--start)",
}


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


def trained(run: Run, text: Text) -> dict[str, Any]:
    """Trains, unless that was done before; the last line of the run's records."""
    facts = {
        "run": run.name,
        "configuration": run.configuration,
        "method": run.method,
        "seed": run.seed,
        "settings": {
            **asdict(run.config),
            "keep": run.keep,
            "strength": run.strength,
            "start": run.start.name if run.start else None,
        },
        "data": text.source,
        "data_hash": text.hash,
        "train_words": len(text.train),
    }
    records = Records(run.folder / f"{run.name}.jsonl", facts)
    records.check()
    if (final := records.final()) is not None:
        print(f"{run.name} was trained before; see {records.path}")
        return final
    scores = _train(run, text, records)
    records.add(final=True, **scores, **where())
    return records.lines()[-1]


def _train(run: Run, text: Text, records: Records) -> dict[str, Any]:
    config = run.config
    keras.utils.set_random_seed(run.seed)
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
    watch = Watch(run, text, records, words=data.words)
    callbacks: list[Any] = [
        keras.callbacks.LearningRateScheduler(lambda epoch, _: rate_at(run, epoch)),
        ksr.ContiguousTraining(data),
        watch,
    ]
    if config.averaging and run.method != "finetune":
        watched = records.values("valid_loss")
        callbacks.append(
            ksr.NonMonotonicAveraging(
                "valid_loss", patience=config.averaging, history=watched
            )
        )
    if importlib.util.find_spec("tensorboard"):
        logs = run.folder / "tensorboard" / run.name
        callbacks.append(keras.callbacks.TensorBoard(str(logs)))
    fitting = {
        "epochs": config.epochs,
        "shuffle": False,
        "verbose": 1 if sys.stdout.isatty() else 0,
    }
    pruning = pruning_of(run)
    folder = run.folder / f"{run.name}.backup"
    if pruning is None:
        backup = ksr.ExactBackup(folder)
        first = backup.restore(model)
        model.fit(data, initial_epoch=first, callbacks=[*callbacks, backup], **fitting)
    else:
        model, _ = ksr.fit_shrinking(
            model,
            data,
            pruning=pruning,
            at=rebuilt_after(run),
            backup=folder,
            callbacks=callbacks,
            **fitting,
        )
        print(pruning.report)
    if config.best:
        model = keras.models.load_model(watch.best_file)
    model.save(run.file)
    return {**_scores(model, text), "seconds": watch.total_seconds()}


def rate_at(run: Run, epoch: int) -> float:
    """The learning rate of an epoch, counted from 0."""
    config = run.config
    rate = config.rate
    if run.method == "one-shot":
        # The rate in the middle of the slower part of its training, and down again.
        slower = CONFIGURATIONS[run.configuration].epochs - config.full_rate
        middle = max(0, slower // 2)
        return rate * config.decay ** (middle + max(0, epoch + 1 - config.epochs // 2))
    return rate * config.decay ** max(0, epoch + 1 - config.full_rate)


def rebuilt_after(run: Run) -> list[int]:
    """Epochs after which the model is rebuilt smaller."""
    epochs = run.config.epochs
    shares = (0.5,) if run.method in ("lasso", "proximal") else (0.3, 0.45, 0.6)
    if run.method == "one-shot":
        return [1] if epochs > 1 else []
    found = {math.ceil(share * epochs) for share in shares}
    return sorted(epoch for epoch in found if 0 < epoch < epochs)


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
    recurrent: dict[str, Any] = {}
    output: dict[str, Any] = {}
    if run.method == "weights":
        recurrent, output = rivals.single_weights(_strength(run))
    elif run.method == "rows":
        recurrent, output = rivals.rows_and_columns(_strength(run))
    elif run.method in ("lasso", "proximal"):
        form = "paper" if run.method == "lasso" else "proximal"
        pull = ksr.ISSRegularizer(_strength(run), form=form)
        recurrent = {"recurrent_regularizer": pull}
    words = len(text.vocabulary)
    model = models.build(config, words, recurrent, output)
    if run.start is not None:
        trained = keras.models.load_model(run.start, compile=False)
        try:
            model.set_weights(trained.get_weights())
        except ValueError as error:
            raise SystemExit(
                f"--start {run.start}: its weights are not those of "
                f"{run.configuration}. Keras says: {error}"
            ) from error
    model = models.compiled(model, config)
    if run.method == "finetune":
        model.optimizer.build(model.trainable_variables)
        model.optimizer.start_averaging()
    return model


def _strength(run: Run) -> float:
    assert run.strength is not None
    return run.strength


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
        words: Words of an epoch.
    """

    def __init__(self, run: Run, text: Text, records: Records, words: int):
        super().__init__()
        self.run, self.text, self.records = run, text, records
        self.words = words
        self.best_file = run.folder / f"{run.name}.best.keras"
        self._began = self._began_cpu = 0.0
        self._read_from: Any = None
        self._reader: Any = None

    def total_seconds(self) -> float:
        """Of training, over all epochs."""
        return float(sum(self.records.values("seconds")))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """What an interrupted run said of this epoch counts no more."""
        self.records.forget_from(epoch)
        self._began, self._began_cpu = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Reads, and writes a line; `valid_loss` joins the logs."""
        seconds = time.perf_counter() - self._began
        cpu_seconds = time.process_time() - self._began_cpu
        logs = {} if logs is None else logs
        model = self.model
        optimizer = model.optimizer
        values: dict[str, Any] = {}
        if getattr(optimizer, "averaging", False):
            with optimizer.averages_in(model):
                loss = self._validated(model)
                values["averaging"] = True
        else:
            loss = self._validated(model)
        logs["valid_loss"] = loss
        earlier = self.records.values("valid_loss")
        if self.run.config.best and loss <= min([*self._alike(logs), loss]):
            self._keep(model)
        if self.run.config.recite:
            values["train_accuracy"] = self._recited(model)
            if 1 - values["train_accuracy"] < 1e-4:
                model.stop_training = True
        if self.run.method == "finetune" and loss > min([*earlier[:-5], math.inf]):
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
            rate=float(rate_at(self.run, epoch)),
            **values,
        )
        print(
            f"{self.run.name}, epoch {epoch + 1}: {seconds:.0f} s, loss "
            f"{logs['loss']:.3f}, validation perplexity {math.exp(loss):.2f}, units "
            f"{models.units_of(model)}"
            + (f", {logs['units_left']} left" if "units_left" in logs else "")
            + (f", recited {values['train_accuracy']:.2%}" if len(values) > 1 else ""),
            flush=True,
        )

    def _alike(self, logs: Any) -> list[float]:
        """Losses of earlier epochs with the same units: more units are no rivals."""
        return [
            line["valid_loss"]
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

    def _keep(self, model: Any) -> None:
        optimizer = model.optimizer
        beside = self.best_file.with_name(f"{self.run.name}.part.keras")
        if getattr(optimizer, "averaging", False):
            with optimizer.averages_in(model):
                model.save(beside, include_optimizer=False)
        else:
            model.save(beside, include_optimizer=False)
        beside.replace(self.best_file)
