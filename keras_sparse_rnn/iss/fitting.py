"""Training with a model that becomes physically smaller on the way."""

import inspect
import itertools
import numbers
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_sparse_rnn.iss.backup import Backup
from keras_sparse_rnn.iss.pruning import ISSPruning
from keras_sparse_rnn.iss.shrink import KEEPING


def fit_shrinking(
    model: Any,
    *args: Any,
    pruning: ISSPruning,
    at: Iterable[int],
    backup: str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> tuple[Any, keras.callbacks.History]:
    """Trains as `model.fit` does, with a model that is rebuilt smaller on the way.

    `ISSPruning` alone masks what it removes, and every epoch takes as long as the
    first. Here the model is rebuilt without its dead units after the epochs in `at`,
    with the optimizer's state, the states of dropout seeds and of stateful layers, so
    that training goes on as if nothing had happened, only faster. Compiling the
    training step again takes some seconds each time: two or three epochs of the
    schedule, such as half way and at its end, are enough. A generator goes on where it
    was; any other data with `steps_per_epoch`, such as a `tf.data.Dataset`, begins
    anew after each rebuild. Optimizers that weigh a matrix as a whole (Lamb, Muon,
    Adafactor) see a smaller one, and go on a little otherwise than with masks.

    Callbacks see one training: `on_train_begin` and `on_train_end` once, and every
    epoch with its own number. They must reach the model as `self.model`, which
    becomes the smaller one. One that keeps weights to put back
    (`EarlyStopping(restore_best_weights=True)`, `BackupAndRestore`) can't work, since
    they no longer fit, and is refused; to survive an interruption use `backup`.

    Args:
        model: A compiled model. It is left in the midst of training.
        *args: As for `fit`.
        pruning: What to remove and when; it is put before the other callbacks.
        at: After how many epochs, counted from epoch 0, to rebuild: numbers between
            `initial_epoch` and `epochs`. It is rebuilt at the end in any case.
        backup: A folder in which the state of training is kept after each epoch, until
            it ends. Called again with the same arguments and a model made in the same
            way, `fit_shrinking` goes on after the last whole epoch: with its weights,
            optimizer, dropout seeds, and units removed. What callbacks remember, and
            the states of stateful layers, start anew, as with `BackupAndRestore`.
        **kwargs: As for `fit`.

    Returns:
        The smaller model, compiled, the same as `pruning.pruned_model`; and one
        `History` of all epochs that were trained in this call.

    Raises:
        ValueError: Before training, if `at` or a callback can't work, the backup is
            of another model, the model has a `train_step` or its like that the smaller
            one would not have, or whatever `ISSPruning` raises.

    Example:

    >>> small, history = fit_shrinking(
    ...     model, x, y, epochs=10, pruning=ISSPruning(keep=0.35), at=[4, 6]
    ... )
    """
    arguments = inspect.signature(model.fit).bind(*args, **kwargs)
    arguments.apply_defaults()
    given = dict(arguments.arguments)
    if not isinstance(pruning, ISSPruning):
        raise ValueError(
            f"`pruning` must be an `ISSPruning`. Received: pruning={pruning!r}."
        )
    callbacks = _callbacks(given.pop("callbacks"), pruning)
    first, last = given.pop("initial_epoch"), given["epochs"]
    at = _epochs(at, first, last)
    saved = None if backup is None else Backup(backup)
    run = _Run(at, pruning, saved)
    whole: keras.callbacks.History | None = None
    pruning.set_model(model)
    pruning.on_train_begin()
    if pruning.lost:
        kind = type(model).__name__
        raise ValueError(
            f"Model '{model.name}' (a {kind}) has {', '.join(pruning.lost)}, which the "
            "smaller model would not have, so training would not go on as it began. "
            f"{KEEPING.format(kind)} Or use `fit` with ISSPruning as a callback."
        )
    if saved is not None and (state := saved.read()) is not None:
        model = pruning.go_on(state)
        saved.restore(model, state)
        first = state["epochs"]
        if first in at and not state["rebuilt"]:
            # It was interrupted in between. Dropout draws masks by the number of
            # units, so to go on as if nothing had happened it is rebuilt now.
            pruning.set_model(model)
            model = pruning.move()
    with _joined(pruning, callbacks, run):
        while not run.over:
            run.over = True
            run.pausing = False
            until = min((one for one in run.at if one > first), default=last)
            history = model.fit(
                **{**given, "x": _data(given, until - first)},
                initial_epoch=first,
                callbacks=[pruning, *callbacks, run],
            )
            run.resume()
            if whole is None:
                whole = history
            elif history is not whole:
                # A `History` of the user's goes on by itself.
                whole = _merged(whole, history)
            if run.pausing:
                model = pruning.move()
                first = run.epochs
                run.write(model, rebuilt=True)
    assert whole is not None
    if saved is not None:
        saved.remove()
    small = pruning.pruned_model
    small.history = whole
    return small, whole


class _Run(keras.callbacks.Callback):
    """Ends a `fit` where the model is to be rebuilt; last of all callbacks."""

    def __init__(self, at: Iterable[int], pruning: ISSPruning, saved: Backup | None):
        super().__init__()
        self.at = set(at)
        self.pruning = pruning
        self.saved = saved
        self.begun = False
        self.pausing = False
        self.over = False
        self.epochs = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs = epoch + 1
        self.write(self.model, rebuilt=False)
        if self.epochs in self.at and not self.model.stop_training:
            self.model.stop_training = True
            self.pausing = True
            self.over = False
            # Averaged weights are not those that training goes on with.
            self.model.optimizer.finalize_variable_values = lambda variables: None

    def write(self, model: Any, rebuilt: bool) -> None:
        """Saves the state of training after an epoch, before or after a rebuild."""
        if self.saved is not None:
            state = {"epochs": self.epochs, "rebuilt": rebuilt}
            self.saved.write(model, {**state, **self.pruning.state()})

    def resume(self) -> None:
        """After each `fit`: what it was made to leave out is there again."""
        self.begun = True
        vars(self.model.optimizer).pop("finalize_variable_values", None)


@contextmanager
def _joined(pruning: ISSPruning, callbacks: Iterable[Any], run: _Run) -> Iterator[None]:
    """Several `fit`s look like one to callbacks: one begin and one end.

    Args:
        pruning: It has begun.
        callbacks: The others.
        run: Tells how far training is.
    """
    own = []
    for callback in [pruning, *callbacks]:
        names = ("on_train_begin", "on_train_end")
        own.append(
            (callback, {n: vars(callback)[n] for n in names if n in vars(callback)})
        )

        def begin(
            logs: Any = None, then: Any = callback.on_train_begin, own: Any = callback
        ) -> None:
            if not run.begun and own is not pruning:
                then(logs)

        def end(logs: Any = None, then: Any = callback.on_train_end) -> None:
            if not run.pausing:
                then(logs)

        callback.on_train_begin = begin
        callback.on_train_end = end
    try:
        yield
    finally:
        for callback, before in own:
            del callback.on_train_begin, callback.on_train_end
            vars(callback).update(before)


def _data(given: dict[str, Any], epochs: int) -> Any:
    """`x` of some epochs.

    Keras reads a generator ahead, and what a `fit` has read but not used is lost to the
    next one: it must find no more than it needs.
    """
    data, steps = given["x"], given["steps_per_epoch"]
    if not inspect.isgenerator(data) or steps is None:
        return data

    def needed() -> Iterator[Any]:
        yield from itertools.islice(data, steps * epochs)

    return needed()


def _callbacks(callbacks: Any, pruning: ISSPruning) -> list[Any]:
    """The user's callbacks, if they can work."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        raise ValueError("`callbacks` must be a list of callbacks, not a CallbackList.")
    found = [one for one in keras.tree.flatten(callbacks) if one is not None]
    for one in found:
        name = type(one).__name__
        if isinstance(one, ISSPruning) and one is not pruning:
            raise ValueError("Give one ISSPruning, as `pruning`.")
        if isinstance(one, keras.callbacks.BackupAndRestore) or (
            getattr(one, "restore_best_weights", False)
        ):
            raise ValueError(
                f"{name} puts back weights that it kept, and those of a larger model "
                "do not fit the smaller one. Use `ModelCheckpoint`, which saves whole "
                "models, or `fit` with ISSPruning as a callback."
            )
    return [one for one in found if one is not pruning]


def _epochs(at: Iterable[int], first: int, last: int) -> list[int]:
    found: list[Any] = list(at) if isinstance(at, Iterable) else [at]
    wrong = [
        one
        for one in found
        if isinstance(one, bool) or not isinstance(one, numbers.Integral)
    ]
    one_number = not isinstance(at, Iterable)
    if one_number or wrong or not all(first < one < last for one in found):
        raise ValueError(
            "`at` must be a list of numbers of epochs between `initial_epoch` and "
            f"`epochs`. Received: at={at!r}, initial_epoch={first}, epochs={last}."
        )
    return sorted({int(one) for one in found})


def _merged(whole: Any, part: Any) -> Any:
    whole.epoch.extend(part.epoch)
    for name, values in part.history.items():
        whole.history.setdefault(name, []).extend(values)
    whole.set_model(part.model)
    return whole
