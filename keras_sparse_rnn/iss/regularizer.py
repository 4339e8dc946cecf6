"""Group lasso over whole components, as a Keras regularizer."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sparse_rnn import _backend
from keras_sparse_rnn.iss import after_step
from keras_sparse_rnn.iss.components import Family, Part
from keras_sparse_rnn.iss.continuing import optimizers_in
from keras_sparse_rnn.iss.trace import Plan, trace

_FORMS = ("proximal", "paper")


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class ISSRegularizer(keras.regularizers.Regularizer):
    """Pulls whole hidden units towards zero: group lasso over ISS components.

    Given as `recurrent_regularizer` to each recurrent layer to prune. A component is
    all weights that enter or leave one unit: its columns in the layer's kernel and
    recurrent kernel, its recurrent row, and its row in every later layer that reads
    it. Biases do not count. Keras hands a regularizer one variable only, so `bind`
    must tie it to the rest of each component before training; `ISSPruning` does.

    Two forms:

    - `"proximal"` adds no loss. After every optimizer step each component `w` is
      scaled by `max(0, 1 - learning_rate * strength / ‖w‖)`, which reaches exact
      zeros. Every weight counts once. A weight that leads from a unit of one layer
      into a unit of the next belongs to both; the layers are scaled one after the
      other.
    - `"paper"` adds `strength * Σ ‖w‖` to the loss, as in the paper, and after
      every step sets weights of components below `threshold` to zero. The weights a
      unit sends to itself count twice, as in the paper's sum. With Adam, whose steps
      are larger than the threshold, units collapse without becoming exactly zero;
      use SGD.

    Unbound, it raises as soon as a loss is computed. A custom loop that never reads
    `model.losses` computes none, and must not forget `bind`.

    The strength is relative to Keras's mean loss. The paper's is relative to a sum
    over 35 time steps: divide it by 35. It means something else for every optimizer
    and size; to reach a given size use `ISSPruning`, which works without any
    regularizer.

    Args:
        strength: Non-negative number.
        form: `"proximal"` or `"paper"`.
        scale_by_size: Whether to multiply by the square root of the component's
            number of weights, so that layers with long components are not drained
            last. The paper does not: pass `False` for its exact sum.
        threshold: Weights smaller than this become zero after a step, in the paper's
            form.

    Raises:
        ValueError: If an argument is invalid, or by `bind`.
        RuntimeError: When a loss is computed before `bind`.

    Example:

    >>> regularizer = ISSRegularizer(1e-4)
    >>> model = keras.Sequential([
    ...     keras.Input((None,)),
    ...     keras.layers.Embedding(1000, 64),
    ...     keras.layers.LSTM(64, recurrent_regularizer=regularizer),
    ...     keras.layers.Dense(10),
    ... ])
    >>> model.compile("sgd", "mse")
    >>> regularizer.bind(model)  # not needed with ISSPruning
    >>> model.fit(x, y)
    >>> small = shrink(model)

    Reference:
        Wen et al., [Learning Intrinsic Sparse Structures within Long Short-Term
        Memory](https://arxiv.org/abs/1709.05027), ICLR 2018, section 3.2.
    """

    def __init__(
        self,
        strength: float,
        form: str = "proximal",
        scale_by_size: bool = True,
        threshold: float = 1e-4,
    ):
        if not (np.isfinite(strength) and strength >= 0):
            raise ValueError(
                f"`strength` must be a number >= 0. Received: strength={strength!r}."
            )
        if form not in _FORMS:
            raise ValueError(
                f"`form` must be one of {_FORMS}. Received: form={form!r}."
            )
        if not (np.isfinite(threshold) and threshold >= 0):
            raise ValueError(
                f"`threshold` must be a number >= 0. Received: threshold={threshold!r}."
            )
        self.strength = float(strength)
        self.form = form
        self.scale_by_size = bool(scale_by_size)
        self.threshold = float(threshold)
        # `ISSPruning` switches the pull off once its target is reached.
        self.active = True

    def __call__(self, x: Any) -> Any:
        """Raises: `bind` puts something that sees whole components in its place."""
        # Shapes are inferred before anybody can bind; values are not.
        if _backend.in_symbolic_scope():
            return ops.zeros((), dtype=x.dtype)
        raise RuntimeError(
            "This ISSRegularizer is not bound to a model, so it can't see the whole "
            "of its components. Pass the ISSPruning callback to `fit`, or call "
            "`regularizer.bind(model)` once before training or evaluating. A model "
            "that was loaded or cloned must be bound anew."
        )

    def bind(self, model: Any, optimizer: Any = None, plan: Plan | None = None) -> None:
        """Ties every `ISSRegularizer` of a model to the components it acts on.

        Layers restored from a file hold regularizers of their own; calling this on
        any of them binds all.

        Args:
            model: The built model.
            optimizer: The optimizer of a custom loop, whose learning rate the
                proximal form uses. By default the compiled model's.
            plan: The model's components, if they are traced already.

        Raises:
            ValueError: If the model holds no `ISSRegularizer`, one sits where it
                matches no component, a reader of the units is frozen, or there is
                no optimizer.
        """
        if plan is None:
            plan = trace(model)
        found = held(model)
        if not found:
            raise ValueError(
                f"Model '{model.name}' holds no ISSRegularizer. Give one to the "
                "layers to prune, as `recurrent_regularizer`."
            )
        taken: dict[int, Any] = {}
        ties = [
            (variable, regularizer, _components(variable, regularizer, plan, taken))
            for variable, regularizer in found
        ]
        for _, regularizer, _ in ties:
            if regularizer.form == "proximal" and not (
                optimizer or getattr(model, "optimizer", None)
            ):
                raise ValueError(
                    "The proximal form needs the learning rate. Compile the model, or "
                    "pass `bind(model, optimizer=…)`."
                )
            if regularizer.form == "proximal" and (
                len(optimizers_in(optimizer or model.optimizer)) != 1
            ):
                raise ValueError(
                    "The proximal form needs one learning rate, and a MultiOptimizer "
                    "has several. Give the model one optimizer, use "
                    "`ISSRegularizer(…, form='paper')`, or prune with ISSPruning "
                    "alone, which needs no regularizer."
                )
        for variable, regularizer, components in ties:
            # A unit of several kernels, as of several depths, counts with the first.
            # Found anew at each trace: the model may be compiled again.
            regularizer._tie(variable, components, lambda: optimizer or model.optimizer)
        after_step.retrace(model)

    def _tie(
        self, variable: Any, components: "_Components", optimizer: Callable[[], Any]
    ) -> None:
        variable.regularizer = _Bound(self, components)
        self.active = True
        if self.form == "proximal":

            def shrink(w: Any, value: Any) -> Any:
                if not self.active:
                    return value
                (found,) = optimizers_in(optimizer())
                rate = ops.cast(found.learning_rate, "float32")
                # Keras calls this after every gradient, also those it only collects.
                rate = rate / (found.gradient_accumulation_steps or 1)
                pull = ops.multiply(rate, self.strengths(components.family))
                return components.proximal_step(w, value, pull)

            after_step.attach(variable, "proximal", shrink)
        else:

            def threshold(w: Any, value: Any) -> Any:
                if not self.active:
                    return value
                return ops.where(
                    ops.less(ops.abs(value), self.threshold),
                    ops.zeros_like(value),
                    value,
                )

            for other in components.trainable():
                after_step.attach(other, "threshold", threshold)

    def strengths(self, family: Family) -> np.ndarray:
        """How hard each component of a family is pulled."""
        if not self.scale_by_size:
            return np.full(family.units, self.strength, np.float32)
        form = "once" if self.form == "proximal" else "paper"
        return (self.strength * np.sqrt(family.first_sizes(form))).astype(  # type: ignore[arg-type]
            np.float32
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments; what it is bound to is not part of them."""
        return {
            "strength": self.strength,
            "form": self.form,
            "scale_by_size": self.scale_by_size,
            "threshold": self.threshold,
        }


class _Bound(keras.regularizers.Regularizer):
    """What takes a regularizer's place on one recurrent kernel once it is bound.

    Keras hands over a variable, or in JAX's stateless scope its bare value, which
    can't be told from any other; so each kernel gets a callable of its own.
    """

    def __init__(self, source: ISSRegularizer, components: "_Components"):
        self.source = source
        self.components = components

    def __call__(self, x: Any) -> Any:
        if self.source.form == "proximal" or not self.source.active:
            return ops.zeros((), dtype=x.dtype)
        if not self.components.family.units:
            return ops.zeros((), dtype=x.dtype)
        squares = self.components.squared_norms()
        # The gradient of a root is infinite at zero; that of a dead component is zero.
        living = ops.greater(squares, 0.0)
        norms = ops.where(living, ops.sqrt(ops.where(living, squares, 1.0)), 0.0)
        pulls = ops.multiply(norms, self.source.strengths(self.components.family))
        return ops.cast(ops.sum(pulls), dtype=x.dtype)


def held(model: Any) -> list[tuple[Any, ISSRegularizer]]:
    """The variables of a model that have an `ISSRegularizer`, bound or not."""
    found = []
    for variable in model.weights:
        regularizer = variable.regularizer
        if isinstance(regularizer, _Bound):
            regularizer = regularizer.source
        if isinstance(regularizer, ISSRegularizer):
            found.append((variable, regularizer))
    return found


class _Components:
    """The components whose recurrent rows lie in one variable, as tensors."""

    def __init__(self, family: Family, variables: list[Any], count_once: bool):
        self.family = family
        self.variables = {
            part.variable: variables[part.variable] for part in family.parts
        }
        self.count_once = count_once

    def trainable(self) -> list[Any]:
        weights = {part.variable for part in self.family.weights}
        return [self.variables[key] for key in sorted(weights)]

    def squared_norms(self, values: Mapping[int, Any] | None = None) -> Any:
        """As `Family.squared_norms`, on tensors and differentiable."""
        squares = {
            key: ops.square(
                ops.cast((values or {}).get(key, variable.value), "float32")
            )
            for key, variable in self.variables.items()
        }
        units = self.family.units
        total = ops.zeros((units,), dtype="float32")
        for part in self.family.weights:
            others = tuple(a for a in range(len(part.shape)) if a != part.axis)
            sums = ops.sum(squares[part.variable], axis=others)
            total = total + _sum_by_owner(sums, part.owner, units)
        if self.count_once:
            for crossing in self.family.crossings:
                flat = ops.reshape(squares[crossing.variable], (-1,))
                own = ops.take(flat, crossing.index)
                total = total - _sum_by_owner(own, crossing.owner, units)
        return ops.maximum(total, 0.0)

    def proximal_step(self, anchor: Any, value: Any, pull: Any) -> Any:
        """Shrinks each component towards zero by `pull`, whole.

        Args:
            anchor: The variable whose hook this is; the others are assigned.
            value: The anchor's value so far.
            pull: How far, for each unit.

        Returns:
            The anchor's new value.
        """
        if not self.family.units:
            return value
        own = next(k for k, v in self.variables.items() if v is anchor)
        norms = ops.sqrt(self.squared_norms({own: value}))
        factor = ops.maximum(0.0, 1.0 - pull / ops.maximum(norms, 1e-30))
        result = value
        for key, variable in self.variables.items():
            parts = [part for part in self.family.weights if part.variable == key]
            if not parts:
                continue
            present = value if key == own else ops.convert_to_tensor(variable)
            scale = ops.cast(_scale(parts, factor), present.dtype)
            if key == own:
                result = present * scale
            else:
                variable.assign(present * scale)
        return result


def _sum_by_owner(values: Any, owner: np.ndarray, units: int) -> Any:
    """Sums values by the unit that owns them; what has no owner is dropped."""
    segments = np.where(owner >= 0, owner, units).astype("int32")
    return ops.segment_sum(values, segments, num_segments=units + 1)[:units]


def _scale(parts: list[Part], factor: Any) -> Any:
    """What one variable is multiplied by when component k is scaled by factor[k]."""
    units = factor.shape[0]
    extended = ops.concatenate([factor, ops.ones((1,), dtype=factor.dtype)])
    vectors = [
        ops.reshape(
            ops.take(extended, np.where(part.owner >= 0, part.owner, units)),
            [-1 if a == part.axis else 1 for a in range(len(part.shape))],
        )
        for part in parts
    ]
    if len(vectors) == 1:
        return vectors[0]
    first, second = parts
    # A weight that a component owns by both axes belongs to it once.
    same = (first.along_axis(first.owner) == second.along_axis(second.owner)) & (
        first.along_axis(first.owner) >= 0
    )
    return ops.where(same, vectors[0], vectors[0] * vectors[1])


def _components(
    variable: Any, regularizer: ISSRegularizer, plan: Plan, taken: dict[int, Any]
) -> _Components:
    """The components whose recurrent rows lie in `variable`.

    Args:
        variable: A recurrent kernel.
        regularizer: What it holds.
        plan: The model's components.
        taken: For each family, by its `id`, which components another kernel's
            regularizer sees to already; those of this one are added.
    """
    for family in plan.families:
        for layer in family.layers:
            if not any(plan.variables[key] is variable for key in layer.anchors):
                continue
            (part,) = [
                part
                for part in family.parts
                if plan.variables[part.variable] is variable and part.axis == 0
            ]
            own = np.unique(part.owner[part.owner >= 0])
            free = own[~family.fixed[own]]
            if not len(free):
                reason = family.reasons[int(own[0])]
                raise ValueError(
                    f"Layer '{layer.name}' holds an ISSRegularizer, but none of its "
                    f"units can be removed: {reason}. Take the regularizer away."
                )
            done = taken.setdefault(id(family), np.zeros(family.units, bool))
            mine = free[~done[free]]
            done[mine] = True
            once = regularizer.form == "proximal"
            components = _Components(family.subset(mine), plan.variables, once)
            for other in components.trainable():
                if not other.trainable:
                    raise ValueError(
                        f"The units of '{layer.name}' can't become zero: "
                        f"'{other.path}', which belongs to them, is frozen. Make its "
                        "layer trainable, or take the ISSRegularizer away."
                    )
            return components
    raise ValueError(
        f"The ISSRegularizer on '{variable.path}' matches no component. It belongs on "
        "the `recurrent_regularizer` of a recurrent layer that pruning can follow"
        + (f"; left alone are {plan.skipped}" if plan.skipped else "")
        + "."
    )
