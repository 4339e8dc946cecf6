"""SGD that averages its weights, from the epoch on at which it stops improving."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sparse_rnn.layers.segments import positive


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class AveragedSGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` that can average the weights of all steps from one on.

    Until `start_averaging()` it is plain SGD. From then on it keeps, beside the weights
    that training goes on with, the mean of the weights after each step: averaged SGD,
    whose mean comes to rest where the weights themselves go around a minimum. (Keras's
    `use_ema` averages the last steps only, with weights that fall exponentially.)

    `averages_in(model)` puts the means in the model for a block, for evaluating or
    saving; `fit` leaves them in the model when it ends, as it does with `use_ema`.
    Means are taken after constraints and are part of the optimizer's variables, so a
    saved model goes on averaging where it was. They take the room of one slot for each
    weight, and are there from the beginning.

    Args:
        learning_rate: As in `keras.optimizers.SGD`.
        *args: As in `keras.optimizers.SGD`.
        **kwargs: As in `keras.optimizers.SGD`, but for `use_ema` and
            `gradient_accumulation_steps`.

    Raises:
        ValueError: If given `use_ema` or `gradient_accumulation_steps`.

    Example:

    >>> optimizer = AveragedSGD(30.0, clipnorm=0.25)
    >>> model.compile(optimizer, loss)
    >>> model.fit(x, y, validation_data=held_out, callbacks=[NonMonotonicAveraging()])

    Reference:
        Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging,
        SIAM 1992, as in Merity et al., [Regularizing and Optimizing LSTM Language
        Models](https://arxiv.org/abs/1708.02182), ICLR 2018, section 3.
    """

    def __init__(self, learning_rate: Any = 0.01, *args: Any, **kwargs: Any):
        super().__init__(learning_rate, *args, **kwargs)
        if self.use_ema or self.gradient_accumulation_steps:
            raise ValueError(
                "AveragedSGD averages after every step, and by itself: it takes no "
                "`use_ema` and no `gradient_accumulation_steps`. Received: "
                f"use_ema={self.use_ema}, gradient_accumulation_steps="
                f"{self.gradient_accumulation_steps}."
            )

    def build(self, variables: Any) -> None:
        """Makes the slots of the averages, and counts how many steps are in them."""
        if self.built:
            return
        super().build(variables)
        self._model_variables = _Held(list(variables))
        self.averages = self.add_optimizer_variables(list(variables), "average")
        # How many steps the averages are of; -1 before there are any.
        self.averaged_steps = self.add_variable(
            (),
            initializer=keras.initializers.Constant(-1),
            dtype="int32",
            name="averaged_steps",
        )

    @property
    def averaging(self) -> bool:
        """Whether `start_averaging` was called."""
        return self._steps() >= 0

    def _steps(self) -> int:
        """How many steps the averages are of; -1 before there are any."""
        return int(ops.convert_to_numpy(self.averaged_steps)) if self.built else -1

    def start_averaging(self) -> None:
        """Averages from the next step on; called again, it begins anew.

        Raises:
            ValueError: If the optimizer knows no variables yet.
        """
        if not self.built:
            raise ValueError(
                "The optimizer has no variables to average yet: call "
                "`optimizer.build(model.trainable_variables)` first, or `fit`."
            )
        self.averaged_steps.assign(0)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """One step, after which the averages take in the new weights."""
        super().apply(grads, trainable_variables)
        count = self.averaged_steps
        on = ops.cast(count >= 0, "int32")
        count.assign(count + on)
        # Before averaging begins, averages stay what they are.
        share = ops.cast(on, "float32") / ops.cast(ops.maximum(count, 1), "float32")
        for variable, average in self._pairs():
            share_here = ops.cast(share, average.dtype)
            average.assign(average + share_here * (variable - average))

    @contextmanager
    def averages_in(self, model: Any) -> Iterator[None]:
        """The model has the averaged weights in this block, if there are any.

        Args:
            model: The model that it trains; in a callback, `self.model`.
        """
        if self._steps() < 1:
            yield
            return
        del model  # In a callback, to ask for it brings JAX's state up to date.
        own = [np.array(ops.convert_to_numpy(one)) for one, _ in self._pairs()]
        self._put()
        try:
            yield
        finally:
            for (variable, _), value in zip(self._pairs(), own, strict=True):
                variable.assign(value)

    def average_of(self, variable: Any) -> Any:
        """The variable that holds the mean of another, `None` if there is none."""
        if not self.built:
            return None
        return next((mean for own, mean in self._pairs() if own is variable), None)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Called when `fit` ends: the averages stay in the model."""
        super().finalize_variable_values(var_list)
        if self._steps() >= 1:
            self._put()

    def _put(self) -> None:
        for variable, average in self._pairs():
            # A copy: JAX hands the memory of variables over, and of each only once.
            variable.assign(np.array(ops.convert_to_numpy(average)))

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        return zip(self._model_variables.variables, self.averages, strict=True)


@dataclass(frozen=True)
class _Held:
    """Variables that are another's: in a list Keras would take them for its own."""

    variables: list[Any]


class NonMonotonicAveraging(keras.callbacks.Callback):
    """Starts averaging when a validated value has not improved for some epochs.

    Averaging starts at the end of an epoch whose value is worse than the best of all
    but the last `patience` epochs ("non-monotonically triggered"). From then on
    validation within `fit` is of the averages. Needs an `AveragedSGD`.

    The value that `monitor` names should be of the predictions alone: a `val_loss`
    holds the penalties of regularizers, too. With `ISSPruning` let averaging begin
    behind its `end`: what removal costs at first is no reason to average.

    Args:
        monitor: The value in the logs, lower being better.
        patience: How many epochs may pass without a new best one.
        history: The values of earlier epochs, of a run that goes on.
        best_file: Where to save the model, a `.keras` file, after each epoch that is
            the best so far, with averaged weights if there are any (`ModelCheckpoint`
            would save those that training goes on with). To fine-tune, load it,
            compile it with an `AveragedSGD` and call `start_averaging` at once.

    Attributes:
        history: The values of all epochs so far.

    Raises:
        ValueError: When training starts, if the optimizer is no `AveragedSGD`; after
            the first epoch, if `monitor` is not in the logs.

    Example:

    >>> model.compile(AveragedSGD(30.0, clipnorm=0.25), loss)
    >>> model.fit(x, y, validation_data=held_out, callbacks=[NonMonotonicAveraging()])

    Reference:
        Merity et al., [Regularizing and Optimizing LSTM Language Models](
        https://arxiv.org/abs/1708.02182), ICLR 2018, section 3 and algorithm 1.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        history: Iterable[float] = (),
        best_file: str | os.PathLike[str] | None = None,
    ):
        super().__init__()
        self.best_file = None if best_file is None else Path(best_file)
        self.monitor = monitor
        self.patience = positive("patience", patience)
        self.history = [float(value) for value in history]
        self._averages: Any = None

    def _optimizer(self) -> Any:
        # Through `self.model`, so that the JAX backend hands back its state.
        optimizer = self.model.optimizer
        return getattr(optimizer, "inner_optimizer", optimizer)

    def on_train_begin(self, logs: Any = None) -> None:
        """Looks at the optimizer."""
        optimizer = self._optimizer()
        if not isinstance(optimizer, AveragedSGD):
            raise ValueError(
                "NonMonotonicAveraging needs an `AveragedSGD`: "
                "model.compile(AveragedSGD(learning_rate), …). Received: a model with "
                f"the optimizer {type(optimizer).__name__}."
            )

    def on_test_begin(self, logs: Any = None) -> None:
        """What is evaluated are the averages."""
        self._averages = self._optimizer().averages_in(self.model)
        self._averages.__enter__()

    def on_test_end(self, logs: Any = None) -> None:
        """Training goes on with its own weights."""
        if self._averages is not None:
            _ = self.model
            self._averages.__exit__(None, None, None)
            self._averages = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Starts averaging, if it is time."""
        if self.monitor not in (logs or {}):
            raise ValueError(
                f"NonMonotonicAveraging monitors '{self.monitor}', and the logs have "
                f"{sorted(logs or {})}. Give `fit` validation data, or another "
                "`monitor`."
            )
        assert logs is not None
        value = float(logs[self.monitor])
        optimizer = self._optimizer()
        if self.best_file is not None and value <= min([*self.history, value]):
            beside = self.best_file.with_name(f"part-{self.best_file.name}")
            with optimizer.averages_in(self.model):
                self.model.save(beside)
            beside.replace(self.best_file)
        earlier = self.history[: -self.patience]
        if not optimizer.averaging and earlier and value > min(earlier):
            optimizer.start_averaging()
        self.history.append(value)
