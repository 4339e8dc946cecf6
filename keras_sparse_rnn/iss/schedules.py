"""How far pruning has come, by training step."""

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_sparse_rnn.layers.segments import positive


class Cubic:
    """From nothing to the target in a number of updates, faster first.

    Args:
        begin: Share of the training steps before the first update.
        end: Share of the training steps by which the target is reached.
        updates: Number of updates.
    """

    def __init__(self, begin: float, end: float, updates: int):
        both = isinstance(begin, numbers.Real) and isinstance(end, numbers.Real)
        if not both or not 0 <= begin <= end <= 1:
            raise ValueError(
                "`begin` and `end` are shares of the training steps, with "
                f"0 <= begin <= end <= 1. Received: begin={begin!r}, end={end!r}."
            )
        self.begin = float(begin)
        self.end = float(end)
        self.updates = positive("updates", updates)

    def progress(self, step: int, total: int | None) -> float | None:
        """Which share of the way pruning should have come.

        Args:
            step: How many training steps have been taken.
            total: How many there are; `None` if that is not known.

        Returns:
            A number from 0 to 1, or `None` if nothing is due.
        """
        if total is None:
            return None
        last = self.last(total)
        first = min(last, math.ceil(self.begin * total))
        if step >= last:
            return 1.0
        if step < first:
            return None
        due = math.floor(self.updates * (step - first) / (last - first))
        return 1 - (1 - due / self.updates) ** 3

    def last(self, total: int) -> int:
        """The step of the last update, if there are `total` steps."""
        return max(1, math.floor(self.end * total))


class Foreign:
    """A schedule in the manner of tensorflow-model-optimization.

    Its `end_step`, if it has one, is the step of an update also where it is no multiple
    of `frequency` behind the first: else the last sparsity would never be asked for.

    Args:
        schedule: A `PruningSchedule`, or any function of a step that returns whether
            anything is due and the sparsity wanted then.
    """

    def __init__(self, schedule: Callable[[int], tuple[Any, Any]]):
        self.schedule = schedule
        try:
            # Far behind the end of any training.
            _, self.final = self._at(2**31 - 1)
        except Exception as error:
            raise ValueError(
                "`schedule` must be a `PruningSchedule` of "
                "tensorflow-model-optimization, or a function of any training step "
                "that returns whether units are due and the sparsity wanted then. "
                f"Received: schedule={schedule!r}, of which step {2**31 - 1} says: "
                f"{error}"
            ) from error
        if not 0 <= self.final < 1:
            raise ValueError(
                "The sparsity that `schedule` ends with must lie in [0, 1). "
                f"Received: {self.final} from {schedule!r}."
            )

    def progress(self, step: int, total: int | None) -> float | None:
        """As `Cubic.progress`; the schedule counts steps, not shares."""
        due, sparsity = self._at(step)
        if not due:
            return None
        return min(1.0, sparsity / self.final) if self.final else 1.0

    def last(self, total: int) -> int:
        """The step of the last update, as far as the schedule tells."""
        begin = int(getattr(self.schedule, "begin_step", 0))
        return max(begin, int(getattr(self.schedule, "end_step", 0)), 1)

    def _at(self, step: int) -> tuple[bool, float]:
        due, sparsity = self.schedule(step)
        due = bool(np.asarray(due)) or step == getattr(self.schedule, "end_step", None)
        return due, float(np.asarray(sparsity))
