"""The smaller model, layer by layer, with weights and states that are left."""

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._models import (
    copied_lambda,
    input_like,
    is_graph,
    layers_of,
    uncompiled,
)
from keras_sparse_rnn.iss import continuing, rules
from keras_sparse_rnn.iss.components import protect
from keras_sparse_rnn.iss.continuing import lost_in
from keras_sparse_rnn.iss.flow import Call
from keras_sparse_rnn.iss.regularizer import ISSRegularizer, held
from keras_sparse_rnn.iss.trace import Plan, trace

# What to do about what would be lost; takes the name of a class.
KEEPING = (
    "A class's own methods are kept where the model is made as `{}(inputs, outputs)`, "
    "with the constructor and the `call` of keras.Model; attributes, where they hold "
    "no optimizer, and no layer or variable but the model's own."
)


def shrink(model: Any, ignore: Iterable[str] = ()) -> Any:
    """Rebuilds a model without its dead units: same outputs, fewer weights.

    A unit is dead when every weight that leaves it is exactly zero: its recurrent row
    and its row in every layer that reads it; where something reads it without weights,
    such as a dot product of states, all that enters it must be zero too. This is read
    from the weights alone, so it works on a model that was just loaded. One unit of
    every layer, and of every group of a grouped layer, stays even if it is dead.

    Args:
        model: A built model: Sequential, Functional, or a subclass whose `call` runs
            on symbolic tensors, which comes back as a Functional one.
        ignore: Names of recurrent layers to leave alone.

    Returns:
        A new model of plain layers, without any `ISSRegularizer`. If `model` is
        compiled so is the result, with the optimizer's state (learning rate,
        iterations, moments; factored ones start anew) and the states of all dropout
        seeds; stateful layers keep their states. `model` itself is not changed; both
        use the same preprocessing layers, with what these have learned from data. A
        subclass of Keras's models stays one if it has their constructor and `call`,
        with the attributes that were set on it; a warning names what is lost.

    Raises:
        ValueError: If units reach an operation that pruning can't follow, or an
            optimizer or metric of your own can't be made again from its configuration.

    Example:

    >>> small = shrink(keras.models.load_model("masked.keras"))
    >>> small.save("small.keras")
    """
    plan = trace(model, ignore)
    values = plan.values()
    small = rebuild(model, plan, [~family.dead(values) for family in plan.families])
    warn_of_lost(model, lost_in(model, small))
    return small


def warn_of_lost(model: Any, lost: Sequence[str]) -> None:
    """Warns that something of a model is not the smaller model's.

    Args:
        model: The model.
        lost: What, as `lost_in` says it.
    """
    if lost:
        warnings.warn(
            f"The smaller model lacks what the {type(model).__name__} has: "
            f"{', '.join(lost)}. {KEEPING.format(type(model).__name__)}",
            stacklevel=3,
        )


def rehearse(model: Any, plan: Plan) -> list[str]:
    """Rebuilds a model as if some units were dead, so that errors come early.

    Args:
        model: The model.
        plan: Its components.

    Returns:
        What for training the smaller model will lack, in words.
    """
    alive = []
    for family in plan.families:
        living = np.ones(family.units, bool)
        for layer in family.layers:
            living[[layer.component[begin] for begin, _ in layer.segments]] = False
        alive.append(living)
    return lost_in(model, rebuild(model, plan, alive))


def rebuild(
    model: Any, plan: Plan, alive: Sequence[np.ndarray], pulled: bool = False
) -> Any:
    """A model with only some of its units.

    Args:
        model: The model.
        plan: Its components.
        alive: Which components of each of `plan.families` live.
        pulled: Whether each `ISSRegularizer` holds on to its variable, unbound.

    Returns:
        The new model, as `shrink` describes it.
    """
    builder = _Builder(plan, with_protected(plan, alive))
    small = builder.model(plan.graph, plan.calls, None)
    if model.compiled:
        continuing.compile_alike(model, small)
    _copy_variables(model, small, builder)
    continuing.carry_attributes(model, small, builder.partners())
    if pulled:
        partners = {id(old): new for old, new in builder.variables()}
        for variable, regularizer in held(model):
            partners[id(variable)].regularizer = regularizer
    return small


class _Builder:
    """Makes a graph again, layer by layer and call by call, without what is gone."""

    def __init__(self, plan: Plan, alive: Sequence[np.ndarray]):
        self.plan = plan
        self.of = plan.kept(alive)
        self.slots = functools.partial(plan.stays, alive=alive)
        # By the `id` of the old one.
        self.made: dict[int, tuple[Any, Any]] = {}

    def kept(self, call: Call | None) -> rules.Kept:
        return rules.Kept(self.of, self.slots, call, self.plan.seen)

    def model(
        self, graph: Any, calls: Sequence[Call], shapes: Sequence[Any] | None
    ) -> Any:
        """A Sequential or Functional model.

        Args:
            graph: The old one.
            calls: The calls in it.
            shapes: Of its inputs now, if they are not what they were.
        """
        flat = graph.inputs
        if shapes is None:
            shapes = [one.shape for one in flat]
        starts = [
            input_like(one, shape) for one, shape in zip(flat, shapes, strict=True)
        ]
        if isinstance(graph, keras.Sequential):
            made = [self.make(layer) for layer in graph.layers]
            return _like(type(graph), [*starts, *made], graph.name, graph.trainable)
        following = iter(calls)

        def visit(operation: Any, *args: Any, **kwargs: Any) -> Any:
            call = next(following)
            rule = rules.rule_of(operation)
            if rule is not None:
                args, kwargs = rule.rewrite(operation, args, kwargs, self.kept(call))
            args, kwargs = keras.tree.map_structure(self.partner, (args, kwargs))
            return self.make(operation)(*args, **kwargs)

        with uncompiled(graph):
            small = keras.models.clone_model(
                graph,
                input_tensors=keras.tree.pack_sequence_as(graph.input, starts),
                clone_function=lambda operation: operation,
                call_function=visit,
            )
        small.trainable = graph.trainable
        return small

    def make(self, old: Any) -> Any:
        """A layer, an operation or a nested model, made once."""
        if id(old) not in self.made:
            self.made[id(old)] = (old, self._make(old))
        return self.made[id(old)][1]

    def _make(self, old: Any) -> Any:
        call = self.plan.first.get(id(old))
        if is_graph(old):
            assert call is not None
            shapes = [self.kept(call).shape(flow) for flow in call.inputs]
            return self.model(old, call.inner, shapes)
        if type(old) is keras.layers.Lambda:
            return copied_lambda(old, old.dtype_policy)
        rule = rules.rule_of(old)
        if rule is None and not isinstance(old, keras.layers.Layer):
            return old
        if hasattr(old, "adapt"):
            # What preprocessing has learned from data is no weight, and no part of a
            # configuration: both models use the layer.
            return old
        try:
            config = _cleaned(old.get_config())
            if rule is None:
                return type(old).from_config(config)
            return rule.remake(old, rule.resize(old, config, self.kept(call)))
        except (TypeError, NotImplementedError) as error:
            raise ValueError(
                f"Layer '{old.name}' ({type(old).__name__}) can't be made again from "
                "its configuration. Give its class a `get_config()` that holds every "
                "argument of its constructor, and decorate your own functions with "
                f"`keras.saving.register_keras_serializable`. Keras says: {error}"
            ) from error

    def partner(self, value: Any) -> Any:
        """What takes the place of a variable that a call is given."""
        if not isinstance(value, keras.Variable):
            return value
        for old, new in self.variables():
            if old is value:
                return new
        return value

    def stays(self, variable: Any) -> bool:
        """Whether anything of a variable is left; some layers can do without."""
        axes = range(len(variable.shape))
        return all(self.of(variable, axis).any() for axis in axes)

    def partners(self) -> list[tuple[Any, Any]]:
        """Layers and variables, old and new."""
        return [*self.made.values(), *self.layers(), *self.variables()]

    def layers(self) -> Iterator[tuple[Any, Any]]:
        """Every layer, old and new, in wrappers too."""
        for old, new in self.made.values():
            if isinstance(old, keras.layers.Layer) and not is_graph(old):
                yield from zip(layers_of(old), layers_of(new), strict=True)

    def variables(self) -> Iterator[tuple[Any, Any]]:
        """Every weight and carried state, old and new."""
        seen = set()
        for old, new in self.layers():
            for one, other in zip(
                filter(self.stays, old.weights), new.weights, strict=True
            ):
                if id(one) not in seen:
                    seen.add(id(one))
                    yield one, other
            if isinstance(old, keras.layers.RNN) and old.stateful:
                states = (keras.tree.flatten(one.states or []) for one in (old, new))
                yield from zip(*states, strict=True)


def _like(kind: Any, layers: Sequence[Any], name: str, trainable: bool) -> Any:
    """A Sequential model, of a subclass if its constructor is Sequential's."""
    if kind.__init__ is not keras.Sequential.__init__:
        kind = keras.Sequential
    return kind(layers, name=name, trainable=trainable)


def with_protected(plan: Plan, alive: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`alive`, what can't be removed, and one of every window where all are dead.

    Args:
        plan: A model's components.
        alive: Which components of each of `plan.families` live.
    """
    living = [
        one | family.fixed for one, family in zip(alive, plan.families, strict=True)
    ]
    # Among units that are all dead it does not matter which one stays.
    safe = protect([one.astype(float) for one in living], plan.windows)
    return [one | needed for one, needed in zip(living, safe, strict=True)]


def _cleaned(config: Any) -> Any:
    """A configuration without ISSRegularizers, and without the shapes it had."""
    if isinstance(config, dict):
        if config.get("class_name") == ISSRegularizer.__name__:
            return None
        if config.get("class_name") == "Constant" and "config" in config:
            value = config["config"].get("value")
            if not isinstance(value, (int, float)):
                # An array of the old shape; the weights are copied in any case.
                return keras.initializers.serialize(keras.initializers.Zeros())
        return {k: _cleaned(v) for k, v in config.items() if k != "build_config"}
    if isinstance(config, list):
        return [_cleaned(value) for value in config]
    return config


def _copy_variables(model: Any, small: Any, builder: _Builder) -> None:
    pairs = list(builder.variables())
    for old, new in pairs:
        new.assign(_sliced(old, keras.ops.convert_to_numpy(old), builder.of))
    for one, other in builder.layers():
        for old, new in zip(seeds_of(one), seeds_of(other), strict=True):
            new.assign(keras.ops.convert_to_numpy(old))
    if getattr(model, "optimizer", None) is not None:
        continuing.copy_optimizer(
            model.optimizer,
            small.optimizer,
            pairs,
            small.trainable_variables,
            functools.partial(_sliced, kept=builder.of),
        )


def _sliced(variable: Any, value: np.ndarray, kept: Callable[..., Any]) -> np.ndarray:
    for axis in range(value.ndim):
        value = np.compress(kept(variable, axis), value, axis=axis)
    return value


def seeds_of(layer: Any) -> list[Any]:
    """The states of all dropout seeds: no weights, yet needed to go on as before.

    A seed set anew would replay the masks that the model has already seen.

    Args:
        layer: A layer or a model.
    """
    return [v for v in layer.non_trainable_variables if "seed_generator" in v.path]
