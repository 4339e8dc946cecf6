"""The course of one training: begun or gone on with, and saved when it ends."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

import keras_sparse_rnn as ksr
from experiments.records import Records


@dataclass(frozen=True)
class Course:
    """One training, which may be killed at any time and given again.

    Attributes:
        file: Where the trained model goes, a `.keras` file.
        records: What the run has written down.
    """

    file: Path
    records: Records

    @property
    def folder(self) -> Path:
        """Its backup. Of a run with other settings nothing is left to go on with."""
        return self.file.with_suffix(f".{self.records.digest()}.backup")

    def ended(self) -> bool:
        """Whether the model was trained and saved."""
        return any(line.get("ended") for line in self.records.lines())

    def take_up(self, seed: int) -> None:
        """Before a model is made: forgets epochs that the backup lacks, and seeds."""
        kept = ksr.ExactBackup(self.folder).epochs
        self.records.forget_from(kept)
        if not kept:
            # What is told of files is of another training.
            self.file.with_suffix(".shipped.jsonl").unlink(missing_ok=True)
        keras.utils.set_random_seed(seed)

    def fit(
        self,
        model: keras.Model,
        data: keras.utils.PyDataset,
        epochs: int,
        callbacks: Sequence[keras.callbacks.Callback],
        pruning: ksr.ISSPruning | None = None,
        at: Sequence[int] = (),
    ) -> None:
        """Trains, and leaves the model in `file`.

        Args:
            model: Compiled, with weights to start from.
            data: What to train with.
            epochs: How often.
            callbacks: More of them.
            pruning: What removes units, if anything does.
            at: Epochs after which the model is rebuilt smaller.
        """
        last = _Saving(self, lambda: model if pruning is None else pruning.pruned_model)
        own = [*callbacks, last]
        verbose = 1 if sys.stdout.isatty() else 0
        if pruning is None:
            backup = ksr.ExactBackup(self.folder)
            first = backup.restore(model)
            stopped = any(line.get("stopped") for line in self.records.lines())
            model.fit(
                data,
                # Of a run that was killed just after it had stopped only the end is
                # missing.
                epochs=first if stopped else epochs,
                initial_epoch=first,
                shuffle=False,
                verbose=verbose,
                callbacks=[*own, backup],
            )
        else:
            ksr.fit_shrinking(
                model,
                data,
                epochs=epochs,
                shuffle=False,
                verbose=verbose,
                pruning=pruning,
                at=at,
                backup=self.folder,
                callbacks=own,
            )
            print(pruning.report)


def epochs_at(shares: Sequence[float], epochs: int) -> list[int]:
    """Epochs at shares of a training, those at its ends left out."""
    found = {math.ceil(share * epochs) for share in shares}
    return sorted(epoch for epoch in found if 0 < epoch < epochs)


def save(model: keras.Model, file: Path) -> None:
    """Beside and renamed, so that a file is never half."""
    beside = file.with_name(f"part-{file.name}")
    model.save(beside)
    beside.replace(file)


class _Saving(keras.callbacks.Callback):
    """Saves the model when training ends, before the backup goes."""

    def __init__(self, course: Course, model_of: Callable[[], keras.Model]):
        super().__init__()
        self._course, self._model_of = course, model_of

    def on_train_end(self, logs: Any = None) -> None:
        """The model with what the optimizer has put in place of its weights."""
        save(self._model_of(), self._course.file)
        self._course.records.add(ended=True)
