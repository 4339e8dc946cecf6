"""A long text in windows that follow each other, for states that are carried on."""

import itertools
import numbers
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn import _backend
from keras_sparse_rnn.layers.segments import positive


class ContiguousText(keras.utils.PyDataset):
    """A text for `fit` in which each batch goes on where the one before ended.

    The text is cut into `batch_size` equal parts that are read side by side, `steps` at
    a time: row r of a batch goes on where row r of the one before ended, so a model of
    `stateful` layers reads each part from its beginning to its end. What does not fill
    the parts is left out. The targets are the inputs, one step later.

    With `jitter` windows have different lengths, drawn anew for each epoch: `steps`,
    or with probability `halved` half of it, plus normal noise with this deviation, at
    least `shortest` and at most `longest`. They are then stretched a little, all alike,
    so that every epoch has the same number of them and reads the text to its end.

    Use it with `ContiguousTraining`, and `shuffle=False`.

    Args:
        ids: The text, integers `(length,)`.
        batch_size: How many parts are read side by side.
        steps: Length of a window.
        jitter: Standard deviation of windows' lengths, at most half of `steps`; 0 for
            windows all alike.
        halved: With `jitter`, share of the windows that are half as long.
        shortest: With `jitter`, the length of the shortest.
        longest: With `jitter`, the length of the longest; by default 8 deviations above
            `steps`.
        seed: Lengths are drawn from it and the number of the epoch alone, so a run
            that is taken up again reads the same windows.
        as_inputs: Whether targets are a second input of the model, as for a
            `TieredEmbedding` that makes the loss itself, not `y`.

    Attributes:
        epoch: Which epoch's windows it gives; `ContiguousTraining` sets it.
        lengths: Their lengths.

    Raises:
        ValueError: If an argument is wrong, or the text is shorter than a window for
            each part; when read in another order than its own.

    Example:

    >>> text = ContiguousText(ids, batch_size=20, steps=70, jitter=5, halved=0.05)
    >>> model.fit(
    ...     text, epochs=10, shuffle=False, callbacks=[ContiguousTraining(text)]
    ... )

    Reference:
        Merity et al., [Regularizing and Optimizing LSTM Language Models](
        https://arxiv.org/abs/1708.02182), ICLR 2018, section 4.1.
    """

    def __init__(
        self,
        ids: Any,
        batch_size: int,
        steps: int,
        jitter: float = 0.0,
        halved: float = 0.05,
        shortest: int = 5,
        longest: int | None = None,
        seed: int = 0,
        as_inputs: bool = False,
    ):
        super().__init__()
        ids = np.asarray(ids)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                "`ids` must be a text as one row of integers. Received: shape "
                f"{ids.shape} of {ids.dtype}."
            )
        self.batch_size = positive("batch_size", batch_size)
        self.steps = positive("steps", steps)
        self.jitter = _between("jitter", jitter, 0, self.steps / 2)
        self.halved = _between("halved", halved, 0, 1)
        self.shortest = positive("shortest", shortest)
        most = self.steps + int(8 * self.jitter) if longest is None else longest
        self.longest = positive("longest", most)
        if self.jitter and not self.shortest <= self.steps <= self.longest:
            raise ValueError(
                "`steps` must lie between `shortest` and `longest`. Received: "
                f"shortest={shortest}, steps={steps}, longest={self.longest}."
            )
        self.seed = int(_between("seed", seed, 0, 2**63 - 1))
        self.as_inputs = bool(as_inputs)
        length = (len(ids) - 1) // self.batch_size
        if length < self.steps:
            raise ValueError(
                f"A text of {len(ids)} words is too short for {batch_size} parts of "
                f"{steps} and more. Make `batch_size` or `steps` smaller."
            )
        if not self.jitter:
            length -= length % self.steps
        kept = self.batch_size * length
        self._x = ids[:kept].reshape(self.batch_size, length)
        self._y = ids[1 : kept + 1].reshape(self.batch_size, length)
        self._next = 0
        self.epoch = 0

    @property
    def epoch(self) -> int:
        """Which epoch's windows it gives."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self.lengths = self._drawn()
        self._edges = np.cumsum([0, *self.lengths]).tolist()

    def _drawn(self) -> list[int]:
        length = self._x.shape[1]
        if not self.jitter:
            return [self.steps] * (length // self.steps)
        random = np.random.default_rng([self.seed, self.epoch])
        mean = self.steps * (1 - self.halved / 2)
        count = max(1, round(length / mean))
        base = np.where(random.random(count) < self.halved, self.steps / 2, self.steps)
        drawn = np.clip(random.normal(base, self.jitter), self.shortest, self.longest)
        scaled = np.round(drawn * (length / drawn.sum())).astype(int)
        lengths = np.maximum(scaled, 1)
        # What rounding made too much or too little, from the longest ones on.
        longest_first = itertools.cycle(np.argsort(-lengths, kind="stable").tolist())
        while (left := length - int(lengths.sum())) != 0:
            own = next(longest_first)
            lengths[own] += 1 if left > 0 else -int(lengths[own] > 1)
        return lengths.tolist()

    @property
    def num_batches(self) -> int:
        """How many windows an epoch has, the same in all."""
        return len(self.lengths)

    @property
    def words(self) -> int:
        """How many words an epoch learns to predict."""
        return int(self._x.size)

    def __getitem__(self, index: int) -> Any:
        # Keras looks at the first ones before it begins.
        if index not in (0, self._next):
            raise ValueError(
                "The windows of a ContiguousText must be read one after the other: "
                f"pass `shuffle=False` to `fit`. Received: window {index} after "
                f"{self._next - 1}."
            )
        self._next = index + 1
        here = slice(self._edges[index], self._edges[index + 1])
        x, y = self._x[:, here], self._y[:, here]
        return ((x, y),) if self.as_inputs else (x, y)


class ContiguousTraining(keras.callbacks.Callback):
    """What goes with a `ContiguousText` in `fit`.

    At the beginning of an epoch, and of a validation, the states of stateful layers
    become zeros, and the text gets the windows of its epoch. Where windows have
    different lengths the learning rate of each step is scaled by its window's length
    over `text.steps`: a short window would else count, word for word, for more than a
    long one. That needs `steps_per_execution=1`, as is the default.

    List it behind callbacks that set the learning rate at the beginning of an epoch.

    Args:
        text: The `ContiguousText` that `fit` is given.

    Raises:
        ValueError: When training starts, if windows have different lengths and the
            learning rate is a schedule that can't be scaled; or if a layer is stateful
            and the backend is JAX, with which Keras carries no states in `fit`.
    """

    def __init__(self, text: ContiguousText):
        super().__init__()
        self.text = text
        self._rate = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Looks at the backend, and at the learning rate."""
        if keras.backend.backend() == "jax" and any(self._stateful()):
            raise ValueError(
                "Keras's JAX backend does not carry the states of stateful layers from "
                "batch to batch in `fit`. Train with KERAS_BACKEND=tensorflow or torch."
            )
        if self.text.jitter:
            try:
                self._set(self._rate_of_epoch())
            except TypeError as error:
                raise ValueError(
                    "ContiguousTraining scales the learning rate of each window, and "
                    "can't scale a schedule. Set rates with "
                    "`keras.callbacks.LearningRateScheduler`."
                ) from error

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """A new beginning: zero states, and windows of their own."""
        self.text.epoch = epoch
        self._forget()
        self._rate = self._rate_of_epoch() if self.text.jitter else 0.0

    def on_test_begin(self, logs: Any = None) -> None:
        """What is held out begins with zero states, too."""
        self._forget()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Scales the learning rate."""
        if self.text.jitter:
            self._set(self._rate * self.text.lengths[batch] / self.text.steps)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Puts the learning rate of the epoch back."""
        if self.text.jitter:
            self._set(self._rate)

    def _forget(self) -> None:
        for layer in self._stateful():
            layer.reset_state()

    def _stateful(self) -> Iterator[Any]:
        for layer in _backend.sublayers(self.model):
            if isinstance(layer, keras.layers.RNN) and layer.stateful:
                yield layer

    def _rate_of_epoch(self) -> float:
        rate = self.model.optimizer.learning_rate
        return float(keras.ops.convert_to_numpy(rate))

    def _set(self, rate: float) -> None:
        self.model.optimizer.learning_rate = rate


def _between(name: str, value: Any, least: float, most: float) -> float:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise ValueError(
            f"`{name}` must lie in [{least}, {most}]. Received: {name}={value!r}."
        )
    return float(value)
