"""A callback that removes hidden units on a schedule, towards a target."""

import numbers
import warnings
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sparse_rnn.iss import after_step
from keras_sparse_rnn.iss.components import Part, kept_along
from keras_sparse_rnn.iss.continuing import optimizers_in
from keras_sparse_rnn.iss.pictures import matrices_of
from keras_sparse_rnn.iss.regularizer import held
from keras_sparse_rnn.iss.reports import PruningReport, layer_costs, layers_of_plan
from keras_sparse_rnn.iss.schedules import Cubic, Foreign
from keras_sparse_rnn.iss.shrink import rebuild, rehearse, warn_of_lost, with_protected
from keras_sparse_rnn.iss.targets import Aim, Target
from keras_sparse_rnn.iss.trace import Plan, names_in, trace
from keras_sparse_rnn.layers.segments import positive

# Those in the midst of a `fit`, which hands the same `params` to all its callbacks.
_AT_WORK: weakref.WeakSet[Any] = weakref.WeakSet()


class ISSPruning(keras.callbacks.Callback):
    """Removes hidden units while a model trains, until it is as small as wanted.

    Add it to `fit`. On a schedule the units with the weakest components (all weights
    that enter or leave a unit: their norm over the square root of their number) are
    set to zero and held there by a mask that acts after every optimizer step; one
    ranking runs over all layers, with a floor for each. When `fit` ends,
    `pruned_model` is the model rebuilt without the dead units.

    Works on stock recurrent layers (`LSTM`, `GRU`, `SimpleRNN`, `RNN` of stock cells,
    `Bidirectional` and `TimeDistributed` of them), on the grouped ones and on
    `RecurrentHighway`, in any model that can be followed as a graph. Units that are
    added to, multiplied with or handed on as states to others are removed together.

    Give one target: `keep`, `keep_parameters`, `max_bytes`, `max_multiply_adds` or
    `units`. `report(model, pruning)` tells beforehand what it would leave.

    With or without an `ISSRegularizer` on the layers: if there are any, the callback
    binds them when training starts and switches them off when the target is reached,
    since a pull that goes on biases what survives. Without a target the regularizer
    alone decides: what it has made zero goes at each update and stays gone, and its
    pull ends at `end`.

    Every epoch's logs, and so `History`, the progress bar and `TensorBoard` (listed
    behind this callback), get `units_left`, of the units that may be pruned, and
    `parameters_left`, of the model without the dead units.

    Args:
        keep: Share of the units to keep, in `(0, 1]`, of those that may be pruned:
            units that are an output of the model, or in a layer named in `ignore`,
            are not counted.
        keep_parameters: Share of the model's parameters to keep, in `(0, 1]`.
        max_bytes: The most bytes that the weights may take, each in the dtype of its
            variable: of float32 weights, an int8 file has a quarter.
        max_multiply_adds: The most multiply-adds for each time step, as `Cost` counts
            them.
        units: The units to keep of each layer, by its name in the report, as in
            `{"lstm": 64}`. Other layers are left alone, but for units that are tied
            to those.
        ignore: Names of recurrent layers to leave alone.
        begin: Share of the training steps before the first unit goes.
        end: Share of the training steps by which the target is reached; what is left
            of training is fine-tuning.
        updates: In how many steps units are removed, faster first (a cubic). After
            the first the training step is compiled again; with the JAX backend, after
            each.
        schedule: In place of `begin`, `end` and `updates`: a `PruningSchedule` of
            tensorflow-model-optimization, or any function of the training step,
            counted from epoch 0, that returns whether units are due and the sparsity
            wanted then. Its last sparsity is the share of the units to remove; with
            another target than `keep` only its course counts. An `end_step` is the
            step of an update, whatever `frequency` is.
        layer_floor: No layer keeps less than this share of its fair part: what it
            would keep if all layers were pruned alike. The ranking compares norms
            across layers, so layers whose weights begin smaller, such as those that
            read many features, lose more; with 1.0 all lose alike. With `units`, or no
            target, there is none.
        minimum: No layer keeps fewer units.
        round_to: The units left of each layer, of each group of a grouped one, are a
            multiple of this, such as the width of a device's vectors. A layer that has
            a few units more loses those.
        total_steps: Number of training steps. Needed only where `fit` can't tell it
            beforehand: a generator without `steps_per_epoch`, and one epoch.
        verbose: 0, or 1 to print a line for each epoch, and the report when training
            ends.

    Attributes:
        pruned_model: After `fit`, the rebuilt, compiled model. Train it on, save it,
            export it. Do not train the old one on: nothing masks it any more.
        report: A `PruningReport`; `print(report)` is a table.
        lost: What the model has for training and `pruned_model` will not, in words:
            a subclass with a `call` of its own comes back as a Functional model,
            without its `train_step`.

    Training steps are counted from epoch 0 to `epochs`, also when `fit` is given an
    `initial_epoch`. So a run that was interrupted goes on where it was, with
    `BackupAndRestore`, or with a model loaded from a `ModelCheckpoint` and
    `initial_epoch`: units whose weights are all zero when training starts count as
    removed.

    Callbacks that put back other weights when training ends, such as `EarlyStopping`
    with `restore_best_weights`, belong behind this one in the list: `pruned_model` is
    made of the last weights, and the old model may then get whatever they want. If
    `fit` was interrupted, `on_train_end()` takes the masks away and rebuilds.

    Raises:
        ValueError: When training starts, if an argument is invalid, the model can't
            be followed or rebuilt, has no units that may be pruned, can't become as
            small as the target, or trains for fewer steps than the schedule has.

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
        keep: float | None = None,
        *,
        keep_parameters: float | None = None,
        max_bytes: int | None = None,
        max_multiply_adds: int | None = None,
        units: Mapping[str, int] | None = None,
        ignore: Iterable[str] = (),
        begin: float = 0.15,
        end: float = 0.6,
        updates: int = 12,
        schedule: Any = None,
        layer_floor: float = 0.5,
        minimum: int = 1,
        round_to: int = 1,
        total_steps: int | None = None,
        verbose: int = 0,
    ):
        super().__init__()
        self.target = Target.of(
            {
                "keep": keep,
                "keep_parameters": keep_parameters,
                "max_bytes": max_bytes,
                "max_multiply_adds": max_multiply_adds,
                "units": units,
            }
        )
        self.schedule: Cubic | Foreign = Cubic(begin, end, updates)
        if schedule is not None:
            self.schedule = Foreign(schedule)
            if keep is not None:
                raise ValueError(
                    "Give `keep` or `schedule`: the last sparsity of the schedule is "
                    f"the share of the units to remove. Received: keep={keep} and a "
                    f"schedule that ends with {self.schedule.final}."
                )
            if self.target.measure == "none":
                self.target = Target("units", 1 - self.schedule.final)
        number = isinstance(layer_floor, numbers.Real)
        if not number or not 0 <= layer_floor <= 1:
            raise ValueError(
                f"`layer_floor` must lie in [0, 1]. Received: {layer_floor!r}."
            )
        self.ignore = names_in("ignore", ignore)
        self.layer_floor = float(layer_floor)
        self.minimum = positive("minimum", minimum)
        self.round_to = positive("round_to", round_to)
        if self.target.measure == "none" and self.round_to > 1:
            raise ValueError(
                "`round_to` needs a target: without one only units that are zero go. "
                f"Received: round_to={round_to}."
            )
        self.total_steps = (
            None if total_steps is None else positive("total_steps", total_steps)
        )
        self.verbose = verbose
        self.pruned_model: Any = None
        self.report: PruningReport | None = None
        self.lost: list[str] = []
        self._plan: Plan | None = None

    # What Keras calls, in this order.

    def on_train_begin(self, logs: Any = None) -> None:
        """Traces the model, binds its regularizers, and sees that the target works."""
        model = self.model
        if any(
            one is not self and one.params is self.params and one.model is model
            for one in _AT_WORK
        ):
            raise ValueError(
                "There are two ISSPruning callbacks in one `fit`. Give one: a target "
                "is for all layers, and `units` for each by name."
            )
        self.pruned_model = None
        self.report = None
        self._plan = plan = self.traced(model)
        self._aim = self.aim(plan)
        self._regularizers = [regularizer for _, regularizer in held(model)]
        self._bind(model, plan)
        # What can go wrong when the model is rebuilt goes wrong now, not after hours
        # of training.
        self.lost = rehearse(model, plan)
        self._layers = layers_of_plan(plan)
        # For each layer, which of its first units are still in the model.
        self._origins = [np.arange(one.before) for one in self._layers]
        self._alive = [np.ones(f.units, bool) for f in plan.families]
        self._costs = self._aim.costs.by_layer(self._alive)
        self._masks: list[Any] | None = None
        self._progress = 0.0
        self._gone_on = False
        self._steps_before = 0
        self._steps_in_epoch = 0
        self._first_epoch: int | None = None
        self._steps_per_epoch: int | None = None
        self._total = self.total_steps
        # Left by a `fit` that was interrupted, they would go on acting.
        if any(after_step.has(variable, "mask") for variable in plan.variables):
            self._release(plan)
            after_step.retrace(model)
        _AT_WORK.add(self)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Learns how many steps there will be, and what was removed before."""
        epochs = self.params.get("epochs") or 1
        if self._steps_per_epoch is None:
            self._steps_per_epoch = self.params.get("steps")
            if self._steps_per_epoch is None and self._first_epoch is not None:
                self._steps_per_epoch = self._steps_before
        if self._steps_per_epoch is not None:
            self._steps_before = epoch * self._steps_per_epoch
            steps = self._steps_per_epoch * epochs
            if self._total is None:
                self._total = steps
            last = self.schedule.last(self._total)
            if last > steps and self._first_epoch is None:
                raise ValueError(
                    f"The schedule of ISSPruning ends at step {last}, but `fit` trains "
                    f"only {steps} steps, so the target would be missed: train more "
                    "epochs, or give another `total_steps` or `schedule`."
                )
        elif self._total is None and epochs - epoch < 2:
            raise ValueError(
                "`fit` can't tell how many steps its one epoch has, and the "
                "pruning schedule is a share of them. Pass `steps_per_epoch` to "
                "`fit`, or `total_steps` to ISSPruning."
            )
        if self._first_epoch is None:
            self._first_epoch = epoch
            self._resume(epoch, epochs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Removes units when the schedule says so."""
        self._steps_in_epoch = batch + 1
        step = self._steps_before + self._steps_in_epoch
        progress = self.schedule.progress(step, self._total)
        if progress is not None and progress > self._progress:
            self._progress = progress
            self._remove(progress, step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Counts the steps of the epoch, and logs what is left."""
        self._steps_before += self._steps_in_epoch
        self._steps_in_epoch = 0
        if not self._averages():
            # Through `self.model`, so that the JAX backend hands back its state.
            self._check_dead()
        units = self._aim.units(self._alive)
        parameters = self._aim.costs.total(self._alive).parameters
        if logs is not None:
            logs["units_left"] = units
            logs["parameters_left"] = parameters
        if self.verbose:
            layers = ", ".join(f"{one.layer} {one.after}" for one in self._layers)
            print(
                f"\nISSPruning, epoch {epoch + 1}: {units} units left ({layers}), "
                f"{parameters:,} parameters"
            )

    def on_train_end(self, logs: Any = None) -> None:
        """Takes the masks away and rebuilds the smaller model."""
        plan = self._plan
        model = self.model
        assert plan is not None
        values = plan.values()
        if self._revived(values) and not self._averages():
            warnings.warn(
                "Another callback has put back weights from before units were removed; "
                "they are masked now, but were never trained without those units. List "
                "ISSPruning before callbacks such as "
                "EarlyStopping(restore_best_weights=True).",
                stacklevel=2,
            )
        _AT_WORK.discard(self)
        self._write_masks()
        self._release(plan)
        for regularizer in self._regularizers:
            regularizer.active = True
        after_step.retrace(model)
        if missed := self._aim.missed(self._alive):
            reason = (
                "one unit of every group and window, `minimum` and `layer_floor` of "
                "every layer stay: use fewer groups or a lower floor"
                if self._progress >= 1
                else "training ended before the schedule did: train longer, lower "
                "`end`, or set `total_steps` to the steps there are"
            )
            warnings.warn(f"ISSPruning leaves {missed}, since {reason}.", stacklevel=2)
        # What a regularizer made zero beyond the target has no use either.
        values = plan.values()
        self._note(
            with_protected(
                plan,
                [
                    living & ~family.dead(values)
                    for family, living in zip(plan.families, self._alive, strict=True)
                ],
            ),
            self._steps_before + self._steps_in_epoch,
        )
        self.pruned_model = rebuild(model, plan, self._alive)
        warn_of_lost(model, self.lost)
        self.report = PruningReport(
            [one for one in self._layers if one.fixed < one.before],
            layer_costs(self._costs, self._aim.costs.by_layer(self._alive)),
            {**plan.left_alone, **plan.left_in_part},
            str(self.target),
            self._total or 0,
            matrices_of(plan, self._alive),
        )
        if self.verbose:
            print(self.report)

    # What others of this wing call.

    def traced(self, model: Any) -> Plan:
        """The model's components, those with frozen weights fixed.

        Args:
            model: A built model.

        Raises:
            ValueError: If it has none that may be pruned.
        """
        plan = trace(model, self.ignore)
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
        return plan

    def aim(self, plan: Plan) -> Aim:
        """The target, for one model.

        Args:
            plan: The model's components.

        Raises:
            ValueError: If the model can't become that small.
        """
        if self.target.measure == "none" and not held(plan.graph):
            raise ValueError(
                "ISSPruning has no target, and the model no ISSRegularizer that would "
                "decide. Give `keep` or another target, or give the recurrent layers "
                "`recurrent_regularizer=ISSRegularizer(…)`."
            )
        aim = Aim(self.target, plan, self.layer_floor, self.minimum, self.round_to)
        alive = [np.ones(f.units, bool) for f in plan.families]
        if aim.met_by_all:
            warnings.warn(
                f"ISSPruning removes nothing: the model, with {aim.all:,}, is within "
                f"its target, {self.target}, as it is.",
                stacklevel=2,
            )
        least = aim.left(alive, 1.0)
        if missed := aim.missed(least):
            raise ValueError(
                f"ISSPruning can't reach its target, {self.target}: when all goes that "
                f"may go, there are {missed}. One unit (a multiple of `round_to`) of "
                "every group and window, `minimum` and `layer_floor` of every layer, "
                f"and layers in `ignore` stay. Left alone: {plan.left_alone or 'none'}."
            )
        return aim

    def move(self) -> Any:
        """Rebuilds the model in the midst of training, without what is dead.

        Returns:
            The smaller model, with this callback set up to go on with it.
        """
        old, model = self._plan, self.model
        assert old is not None
        self._write_masks()
        small = rebuild(model, old, self._alive, pulled=True)
        self._release(old)
        after_step.retrace(model)
        origins = iter(range(len(self._origins)))
        for family, living in zip(old.families, self._alive, strict=True):
            for layer in family.layers:
                number = next(origins)
                own = living[layer.component]
                self._origins[number] = self._origins[number][own]
        self._plan = self.traced(small)
        families = zip(self._plan.families, old.families, self._alive, strict=True)
        for family, larger, living in families:
            family.descend(larger, living)
        self._aim.move(self._plan)
        self._alive = [np.ones(f.units, bool) for f in self._plan.families]
        self._masks = None
        active = [regularizer.active for regularizer in self._regularizers]
        self._bind(small, self._plan)
        for regularizer, was in zip(self._regularizers, active, strict=True):
            regularizer.active = was
        return small

    def state(self) -> dict[str, Any]:
        """Which units there were, are, and when the others went, to go on later.

        And what no weights tell: units that are zero may have been removed, or just be
        zero, by a lasso that pulls on or has ended.
        """
        return {
            "units": [one.before for one in self._layers],
            "left": [origin.tolist() for origin in self._origins],
            "removed_at": [one.removed_at.tolist() for one in self._layers],
            "alive": [living.tolist() for living in self._alive],
            "progress": self._progress,
            "active": [one.active for one in self._regularizers],
        }

    def go_on(self, state: dict[str, Any]) -> Any:
        """Rebuilds the model, as it was at first, as it was when a run was interrupted.

        Args:
            state: What `state` returned then.

        Returns:
            The smaller model, whose weights are to be loaded.
        """
        plan = self._plan
        assert plan is not None
        mine = [f"{one.layer}: {one.before}" for one in self._layers]
        if state["units"] != self.state()["units"]:
            raise ValueError(
                "The backup is of another model: its recurrent layers began with "
                f"{state['units']} units, those of this model are {mine}. Delete the "
                "backup to start anew."
            )
        for layer, removed_at in zip(self._layers, state["removed_at"], strict=True):
            layer.removed_at[:] = removed_at
        self._alive = [np.zeros(family.units, bool) for family in plan.families]
        left = iter(state["left"])
        for family, living in zip(plan.families, self._alive, strict=True):
            for layer_units in family.layers:
                living[layer_units.component[next(left)]] = True
        small = self.move()
        self._alive = [np.array(living, bool) for living in state["alive"]]
        self._progress = state["progress"]
        for regularizer, active in zip(
            self._regularizers, state["active"], strict=True
        ):
            regularizer.active = active
        self._gone_on = True
        return small

    # Beginning.

    def _bind(self, model: Any, plan: Plan) -> None:
        if self._regularizers:
            self._regularizers[0].bind(model, plan=plan)

    def _resume(self, epoch: int, epochs: int) -> None:
        """Takes units whose weights are all zero for removed before."""
        if self._gone_on:
            # It was told which these are.
            if not all(living.all() for living in self._alive):
                self._mask()
            return
        plan = self._plan
        # Through `self.model`, so that the JAX backend hands back its state.
        _ = self.model
        assert plan is not None
        values = plan.values()
        alive = with_protected(
            plan, [family.squared_norms(values) > 0 for family in plan.families]
        )
        position = self._steps_before
        if not all(living.all() for living in alive):
            self._note(alive, position)
            self._mask()
            due = self.schedule.progress(position, self._total)
            if due is not None and due >= 1:
                # The target was reached before.
                for regularizer in self._regularizers:
                    regularizer.active = False
            return
        due = self.schedule.progress(position, self._total)
        # Without a target nothing need have gone.
        late = due and self.target.measure != "none" and self._aim.left(alive, due)
        begin = getattr(self.schedule, "begin", 0.0)
        if late and not all(living.all() for living in late) and epoch > begin * epochs:
            raise ValueError(
                f"Training goes on at epoch {epoch} of {epochs}, where the schedule "
                "has removed units, but the model still has them all. To resume a run, "
                "load the weights that it saved. To begin pruning now, pass "
                f"`begin={epoch / epochs:.4g}` or more: shares are of all steps from "
                "epoch 0 to `epochs`."
            )

    # Removing.

    def _remove(self, progress: float, step: int) -> None:
        """Removes the weakest units, as many as `progress` asks for."""
        # Through `self.model`, so that the JAX backend hands back its state.
        model = self.model
        plan = self._plan
        assert plan is not None
        self._check_dead()
        before = sum(int(living.sum()) for living in self._alive)
        self._note(self._aim.left(self._alive, progress), step)
        removed = sum(int(living.sum()) for living in self._alive) < before
        # From the next step on the regularizers say nothing.
        finished = progress >= 1 and any(one.active for one in self._regularizers)
        if finished:
            for regularizer in self._regularizers:
                regularizer.active = False
        if removed:
            self._mask()
        if finished:
            after_step.retrace(model)

    def _check_dead(self) -> None:
        plan = self._plan
        assert plan is not None
        revived = self._revived(plan.values())
        if revived:
            raise RuntimeError(
                f"{revived} removed units have come back: the training step was "
                "compiled before the masks changed. In a loop of your own, compile the "
                "step anew after the first update of ISSPruning, with JAX after each."
            )

    def _revived(self, values: dict[int, np.ndarray]) -> int:
        """How many components that were removed are not dead."""
        assert self._plan is not None
        return sum(
            int((~living & ~family.fixed & ~family.dead(values)).sum())
            for family, living in zip(self._plan.families, self._alive, strict=True)
        )

    def _averages(self) -> bool:
        """Whether the optimizer may put averages in place, which remember the dead."""
        return any(
            getattr(one, "use_ema", False) or getattr(one, "averaging", False)
            for one in optimizers_in(self.model.optimizer)
        )

    def _averages_of(self, variable: Any) -> list[Any]:
        """Means of a variable that an `AveragedSGD` keeps, which may be evaluated."""
        optimizer = self.model.optimizer
        found = [
            one.average_of(variable)
            for one in optimizers_in(optimizer)
            if hasattr(one, "average_of")
        ]
        return [one for one in found if one is not None]

    def _note(self, alive: list[np.ndarray], step: int) -> None:
        """Remembers which components live, and when the others' units went."""
        plan = self._plan
        assert plan is not None
        self._alive = [
            living | family.fixed
            for living, family in zip(alive, plan.families, strict=True)
        ]
        layers = iter(zip(self._layers, self._origins, strict=True))
        for family, living in zip(plan.families, self._alive, strict=True):
            for layer in family.layers:
                report, origin = next(layers)
                gone = origin[~living[layer.component]]
                report.removed_at[gone[report.removed_at[gone] < 0]] = step

    def _mask(self) -> None:
        """Sets what is removed to zero, and sees that it stays so."""
        plan = self._plan
        assert plan is not None
        begun = self._masks is None
        if self._masks is None:
            # Before anything is removed, training costs nothing more.
            self._masks = [
                keras.Variable(np.ones(f.units, "float32"), trainable=False)
                for f in plan.families
            ]
            for key, parts in self._parts_by_variable().items():
                action = self._mask_action(parts, self._masks)
                after_step.attach(plan.variables[key], "mask", action)
        for mask, living in zip(self._masks, self._alive, strict=True):
            mask.assign(living.astype("float32"))
        self._write_masks()
        if begun or keras.backend.backend() == "jax":
            # JAX compiles a variable that the model does not track in as a constant.
            after_step.retrace(self.model)

    def _write_masks(self) -> None:
        """Sets the weights and the carried states of removed units to zero."""
        plan = self._plan
        assert plan is not None
        if self._masks is None:
            return
        for key, parts in self._parts_by_variable().items():
            own = plan.variables[key]
            for variable in [own, *self._averages_of(own)]:
                value = ops.convert_to_numpy(variable)
                for number, part in parts:
                    living = kept_along(part, self._alive[number])
                    value = np.where(part.along_axis(living), value, 0)
                variable.assign(value)

    def _release(self, plan: Plan) -> None:
        for variable in plan.variables:
            after_step.detach(variable, "mask")
        self._masks = None

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

    def _mask_action(
        self, parts: list[tuple[int, Part]], masks: list[Any]
    ) -> after_step.Action:
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
