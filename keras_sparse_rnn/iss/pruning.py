"""A callback that removes hidden units on a schedule, towards a target."""

import math
import warnings
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sparse_rnn.iss import after_step
from keras_sparse_rnn.iss.components import Part, kept_along, protect
from keras_sparse_rnn.iss.regularizer import held
from keras_sparse_rnn.iss.report import LayerReport, PruningReport
from keras_sparse_rnn.iss.shrink import rehearse, shrink
from keras_sparse_rnn.iss.trace import Plan, trace


class ISSPruning(keras.callbacks.Callback):
    """Removes hidden units while a model trains, until a share of them is left.

    Add it to `fit`. On a schedule the units with the weakest components (all weights
    that enter or leave a unit: their norm over the square root of their number) are
    set to zero and held there by a mask that acts after every optimizer step; one
    ranking runs over all layers, with a floor for each. When `fit` ends,
    `pruned_model` is the model rebuilt without the dead units.

    Works on stock recurrent layers (`LSTM`, `GRU`, `SimpleRNN`, `RNN` of stock cells,
    `Bidirectional` and `TimeDistributed` of them), on the grouped ones and on
    `RecurrentHighway`, in any model that can be followed as a graph. Units that are
    added to, multiplied with or handed on as states to others are removed together.
    With or without an `ISSRegularizer` on the layers: if there are any, the callback
    binds them when training starts and switches them off when the target is reached,
    since a pull that goes on biases what survives.

    Args:
        keep: Share of the units to keep, in `(0, 1]`, of those that may be pruned:
            units that are an output of the model, or in a layer named in `ignore`,
            are not counted.
        ignore: Names of recurrent layers to leave alone.
        begin: Share of the training steps before the first unit goes.
        end: Share of the training steps by which the target is reached; what is left
            of training is fine-tuning.
        updates: In how many steps units are removed, faster first (a cubic). With
            the JAX backend the training step is compiled again after each.
        layer_floor: No layer keeps less than this share of its fair part,
            `keep * units`.
        total_steps: Number of training steps. Needed only where `fit` can't tell it
            beforehand: a generator without `steps_per_epoch`, and one epoch.
        verbose: 0, or 1 to print the report when training ends.

    Attributes:
        pruned_model: After `fit`, the rebuilt, compiled model. Train it on, save it,
            export it. Do not train the old one on: nothing masks it any more.
        report: A `PruningReport`; `print(report)` is a table.

    Callbacks that put back other weights when training ends, such as `EarlyStopping`
    with `restore_best_weights`, belong behind this one in the list: `pruned_model` is
    made of the last weights, and the old model may then get whatever they want. If
    `fit` was interrupted, `on_train_end()` takes the masks away and rebuilds.

    Raises:
        ValueError: When training starts, if an argument is invalid, the model can't
            be followed or rebuilt, or has no units that may be pruned.

    Example:

    >>> pruning = ISSPruning(keep=0.35)
    >>> model.fit(x, y, epochs=10, callbacks=[pruning])
    >>> pruning.pruned_model.save("small.keras")

    Reference:
        Wen et al., [Learning Intrinsic Sparse Structures within Long Short-Term
        Memory](https://arxiv.org/abs/1709.05027), ICLR 2018. The components are the
        paper's; the schedule towards a target takes the place of its strength.
    """

    def __init__(
        self,
        keep: float,
        ignore: Iterable[str] = (),
        begin: float = 0.15,
        end: float = 0.6,
        updates: int = 12,
        layer_floor: float = 0.5,
        total_steps: int | None = None,
        verbose: int = 0,
    ):
        super().__init__()
        if isinstance(keep, bool) or not 0 < keep <= 1:
            raise ValueError(
                "`keep` must lie in (0, 1]: it is the share of the units to keep. "
                f"Received: keep={keep!r}."
            )
        if not 0 <= begin <= end <= 1:
            raise ValueError(
                "`begin` and `end` are shares of the training steps, with "
                f"0 <= begin <= end <= 1. Received: begin={begin}, end={end}."
            )
        if isinstance(updates, bool) or not isinstance(updates, int) or updates < 1:
            raise ValueError(
                f"`updates` must be a positive integer. Received: updates={updates!r}."
            )
        if not 0 <= layer_floor <= 1:
            raise ValueError(
                f"`layer_floor` must lie in [0, 1]. Received: {layer_floor!r}."
            )
        if total_steps is not None and total_steps < 1:
            raise ValueError(
                f"`total_steps` must be positive. Received: {total_steps!r}."
            )
        self.keep = float(keep)
        self.ignore = [ignore] if isinstance(ignore, str) else list(ignore)
        self.begin = float(begin)
        self.end = float(end)
        self.updates = updates
        self.layer_floor = float(layer_floor)
        self.total_steps = total_steps
        self.verbose = verbose
        self.pruned_model: Any = None
        self.report: PruningReport | None = None
        self._plan: Plan | None = None

    # What Keras calls, in this order.

    def on_train_begin(self, logs: Any = None) -> None:
        """Traces the model, binds its regularizers and puts the masks in place."""
        model = self.model
        self.pruned_model = None
        self.report = None
        self._plan = plan = trace(model, self.ignore)
        for family in plan.families:
            for part in family.weights:
                variable = plan.variables[part.variable]
                if not variable.trainable:
                    plan.fix(
                        family,
                        np.unique(part.owner[part.owner >= 0]),
                        f"'{variable.path}', which belongs to its units, is frozen",
                    )
        if not plan.prunable:
            raise ValueError(
                f"Model '{model.name}' has no units that may be pruned. "
                + (
                    f"Left alone: {plan.left_alone}."
                    if plan.left_alone
                    else "It has no recurrent layer that pruning knows."
                )
            )
        self._regularizers = [regularizer for _, regularizer in held(model)]
        if self._regularizers:
            self._regularizers[0].bind(model, plan=plan)
        # What can go wrong when the model is rebuilt goes wrong now, not after hours
        # of training.
        rehearse(model, plan)
        self._steps_before = 0
        self._steps_in_epoch = 0
        self._first_epoch: int | None = None
        self._total = self.total_steps
        self._done = 0
        self._removed_at = [np.full(f.units, -1) for f in plan.families]
        self._masks = [
            keras.Variable(np.ones(f.units, "float32"), trainable=False)
            for f in plan.families
        ]
        for key, parts in self._parts_by_variable().items():
            after_step.attach(plan.variables[key], "mask", self._mask_action(parts))
        after_step.retrace(model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Learns how many steps there will be."""
        if self._first_epoch is None:
            self._first_epoch = epoch
        if self._total is None:
            per_epoch = self.params.get("steps")
            epochs = (self.params.get("epochs") or 1) - self._first_epoch
            if per_epoch is None and epoch > self._first_epoch:
                per_epoch = self._steps_before
            if per_epoch is not None:
                self._total = per_epoch * epochs
            elif epochs < 2:
                raise ValueError(
                    "`fit` can't tell how many steps its one epoch has, and the "
                    "pruning schedule is a share of them. Pass `steps_per_epoch` to "
                    "`fit`, or `total_steps` to ISSPruning."
                )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Removes units when the schedule says so."""
        self._steps_in_epoch = batch + 1
        step = self._steps_before + self._steps_in_epoch
        due = self._updates_due(step)
        if due > self._done:
            self._done = due
            self._remove(self._target(due), step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Counts the steps of the epoch."""
        self._steps_before += self._steps_in_epoch
        self._steps_in_epoch = 0

    def on_train_end(self, logs: Any = None) -> None:
        """Takes the masks away and rebuilds the smaller model."""
        plan = self._plan
        model = self.model
        assert plan is not None
        values = plan.values()
        families = zip(plan.families, self._masks, strict=True)
        came_back = any(
            np.any((ops.convert_to_numpy(mask.value) == 0) & ~family.dead(values))
            for family, mask in families
        )
        # Averaged weights, which Keras may just have swapped in, remember the dead.
        inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        if came_back and not getattr(inner, "use_ema", False):
            warnings.warn(
                "Another callback has put back weights from before units were removed; "
                "they are masked now, but were never trained without those units. List "
                "ISSPruning before callbacks such as "
                "EarlyStopping(restore_best_weights=True).",
                stacklevel=2,
            )
        self._write_masks()
        for variable in plan.variables:
            after_step.detach(variable, "mask")
        for regularizer in self._regularizers:
            regularizer.active = True
        after_step.retrace(model)
        self.report = PruningReport(
            [
                LayerReport(
                    layer.name,
                    removed[layer.component],
                    layer.segments,
                    int(f.fixed[layer.component].sum()),
                )
                for f, removed in zip(plan.families, self._removed_at, strict=True)
                for layer in f.layers
                if not f.fixed[layer.component].all()
            ],
            {**plan.left_alone, **plan.left_in_part},
            self.keep,
            self._total or 0,
        )
        left = sum(int(living.sum()) for living in self._alive())
        wanted = self._target(self.updates)
        if left > wanted:
            reason = (
                "one unit of every group and window, and `layer_floor` of every layer, "
                "stay: use fewer groups or a lower floor"
                if self._done == self.updates
                else "training ended before the schedule did: train longer, lower "
                "`end`, or set `total_steps` to the steps there are"
            )
            warnings.warn(
                f"ISSPruning leaves {left} units, not the {wanted} asked for, since "
                f"{reason}.",
                stacklevel=2,
            )
        self.pruned_model = shrink(model, self.ignore)
        self._masks = []
        if self.verbose:
            print(self.report)

    # The schedule.

    def _updates_due(self, step: int) -> int:
        """How many of the updates should have happened after `step` steps."""
        if self._total is None:
            return 0
        last = max(1, math.floor(self.end * self._total))
        first = min(last, math.ceil(self.begin * self._total))
        if step >= last:
            return self.updates
        if step < first or last == first:
            return 0
        return math.floor(self.updates * (step - first) / (last - first))

    def _target(self, updates_done: int) -> int:
        """How many units should live after that many updates."""
        assert self._plan is not None
        units = sum(int((~family.fixed).sum()) for family in self._plan.families)
        progress = updates_done / self.updates
        kept = 1 - (1 - self.keep) * (1 - (1 - progress) ** 3)
        return max(1, round(units * kept))

    # Removing.

    def _alive(self) -> list[np.ndarray]:
        """Which units live, of those that can be removed."""
        assert self._plan is not None
        return [
            (ops.convert_to_numpy(mask.value) > 0) & ~family.fixed
            for family, mask in zip(self._plan.families, self._masks, strict=True)
        ]

    def _remove(self, target: int, step: int) -> None:
        """Brings the number of living units down to `target`, weakest first."""
        plan = self._plan
        assert plan is not None
        # Through `self.model`, so that the JAX backend hands back its state.
        model = self.model
        families = plan.families
        values = plan.values()
        alive = self._alive()
        scores = []
        for family, living in zip(families, alive, strict=True):
            revived = ~living & ~family.fixed & ~family.dead(values)
            if revived.any():
                raise RuntimeError(
                    f"{int(revived.sum())} removed units of '{family.name}' have "
                    "come back: the training step was compiled before the masks "
                    "changed. In a JAX loop of your own, compile the step anew after "
                    "each update of ISSPruning."
                )
            score = np.sqrt(family.squared_norms(values) / family.sizes())
            scores.append(np.where(living, score, -1.0))
        floors = []
        for number, family in enumerate(families):
            for layer in family.layers:
                own = np.unique(layer.component)
                own = own[~family.fixed[own]]
                count = math.ceil(self.layer_floor * self.keep * len(own))
                floors.append((number, own, count))
        safe = protect(scores, plan.windows, floors)
        candidates = sorted(
            (scores[f][unit], f, int(unit))
            for f in range(len(families))
            for unit in np.flatnonzero(alive[f] & ~safe[f])
        )
        excess = sum(int(living.sum()) for living in alive) - target
        for _, f, unit in candidates[: max(0, excess)]:
            alive[f][unit] = False
            self._removed_at[f][unit] = step
        for mask, living, family in zip(self._masks, alive, families, strict=True):
            mask.assign((living | family.fixed).astype("float32"))
        self._write_masks()
        finished = self._done == self.updates
        if finished:
            for regularizer in self._regularizers:
                regularizer.active = False
        if keras.backend.backend() == "jax" or (finished and self._regularizers):
            # JAX compiles a variable that the model does not track in as a constant.
            after_step.retrace(model)

    def _write_masks(self) -> None:
        """Sets the weights and the carried states of removed units to zero."""
        plan = self._plan
        assert plan is not None
        for key, parts in self._parts_by_variable().items():
            variable = plan.variables[key]
            value = ops.convert_to_numpy(variable)
            for number, part in parts:
                living = ops.convert_to_numpy(self._masks[number].value) > 0
                value = np.where(part.along_axis(kept_along(part, living)), value, 0)
            variable.assign(value)

    def _parts_by_variable(self) -> dict[int, list[tuple[int, Part]]]:
        """For each variable, the number of a prunable family and its part in it."""
        assert self._plan is not None
        found: dict[int, list[tuple[int, Part]]] = {}
        for number, family in enumerate(self._plan.families):
            for part in family.parts:
                if part.role == "along":
                    continue
                found.setdefault(part.variable, []).append((number, part))
        return found

    def _mask_action(self, parts: list[tuple[int, Part]]) -> after_step.Action:
        masks = self._masks
        owners = [
            np.where(part.owner >= 0, part.owner, masks[number].shape[0])
            for number, part in parts
        ]

        def mask(variable: Any, value: Any) -> Any:
            for (number, part), owner in zip(parts, owners, strict=True):
                one = ops.ones((1,), dtype=value.dtype)
                living = ops.cast(masks[number].value, value.dtype)
                along = ops.take(ops.concatenate([living, one]), owner)
                shape = [-1 if a == part.axis else 1 for a in range(len(part.shape))]
                value = value * ops.reshape(along, shape)
            return value

        return mask
