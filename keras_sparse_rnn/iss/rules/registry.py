"""How units pass through each kind of layer and operation: where the rules are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._models import is_graph
from keras_sparse_rnn.iss import trace
from keras_sparse_rnn.iss.flow import Call, Flow


@dataclass(frozen=True)
class Kept:
    """What is left of a model when a layer is made again.

    Attributes:
        of: `of(variable, axis)` tells which indices along an axis of a variable stay.
        slots: `slots(slots)` tells which slots stay.
        call: What the layer was called with, for the first time.
        seen: The slots that a cell sees, by its `id`, where it asked to remember them.
    """

    of: Callable[[Any, int], np.ndarray]
    slots: Callable[[np.ndarray], np.ndarray]
    call: Call | None
    seen: Mapping[int, np.ndarray] = field(default_factory=dict)

    def shape(self, flow: Any) -> list[int | None]:
        """The shape that a tensor has now.

        Args:
            flow: Its `Flow`.
        """
        shape = list(flow.shape)
        for number, axis in flow.axes.items():
            shape[number] = int(self.slots(axis.slots).sum())
        return shape


class Rule:
    """How units pass through one kind of layer, or of operation of `keras.ops`."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        """Says what reads and what makes the features of a call.

        Args:
            layer: The layer or operation.
            call: What it is called with: a `Flow` for every tensor.
            tracer: Takes what was found: `tracer.weights`, `tracer.read`,
                `tracer.tie`, `tracer.add_up`, `tracer.fix`, `tracer.stop`.

        Returns:
            A `Flow` for each output, in the structure of `call.spec`;
            `call.outputs({axis: …})` makes them.
        """
        raise NotImplementedError

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        """The configuration of the layer once units are gone.

        Args:
            layer: The layer or operation.
            config: Its present configuration.
            kept: What is left.
        """
        return config

    def remake(self, layer: Any, config: dict[str, Any]) -> Any:
        """The layer of a configuration that `resize` gave.

        Args:
            layer: The layer or operation as it was.
            config: The configuration.
        """
        return type(layer).from_config(config)

    def rewrite(
        self, layer: Any, args: Any, kwargs: Any, kept: Kept
    ) -> tuple[Any, dict[str, Any]]:
        """The arguments of a call once units are gone; tensors are smaller already.

        Args:
            layer: The layer or operation.
            args: The positional arguments.
            kwargs: The arguments by name.
            kept: What is left; `kept.call` is this call.
        """
        return args, kwargs


_RULES: dict[type, Rule] = {}
_OPERATIONS: dict[str, Rule] = {}


def register_rule(*kinds: type) -> Callable[[type[Rule]], type[Rule]]:
    """Class decorator that makes a `Rule` the rule of these layer classes.

    Args:
        *kinds: Layer classes. Subclasses of them need a rule of their own, since they
            may compute something else.

    Example:

    >>> @register_rule(MyScaling)  # multiplies each feature by a learned scale
    ... class ScalingRule(Rule):
    ...     def follow(self, layer, call, tracer):
    ...         features = call.inputs[0].axis(-1)
    ...         if features is not None:
    ...             tracer.weights(layer.scale, 0, "bias", features.slots)
    ...         return call.outputs({-1: features})
    """

    def register(rule: type[Rule]) -> type[Rule]:
        for kind in kinds:
            _RULES[kind] = rule()
        return rule

    return register


def register_operation(*names: str) -> Callable[[type[Rule]], type[Rule]]:
    """The same for operations of `keras.ops`, by the names of their classes."""

    def register(rule: type[Rule]) -> type[Rule]:
        for name in names:
            _OPERATIONS[name] = rule()
        return rule

    return register


def rule_of(layer: Any) -> Rule | None:
    """The rule of a layer or operation, `None` if there is none."""
    rule = _RULES.get(type(layer))
    stock = type(layer).__module__.startswith("keras.")
    if rule is None and stock and not isinstance(layer, keras.layers.Layer):
        return _OPERATIONS.get(type(layer).__name__)
    return rule


def follow(layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
    """Follows features through one call of a layer or operation; see `Rule.follow`."""
    if is_graph(layer):
        with tracer.within(layer):
            found = trace.walk(layer, call.inputs, tracer)
        return keras.tree.pack_sequence_as(call.spec, found)
    rule = rule_of(layer)
    if rule is not None:
        return rule.follow(layer, call, tracer)
    unknown(layer, call, tracer)
    if isinstance(layer, _RECURRENT):
        tracer.skipped[tracer.path(layer)] = (
            f"no rule for {type(layer).__name__} layers"
        )
    else:
        what = f"inside '{layer.name}' ({kind_of(layer)}), for which there is no rule"
        for inner in _hidden(layer):
            tracer.skipped[f"{tracer.path(layer)}/{inner.name}"] = what
    return call.outputs()


_RECURRENT = (keras.layers.RNN, keras.layers.Bidirectional)


def _hidden(layer: Any) -> list[Any]:
    """The recurrent layers that are attributes of a layer, or of a layer in it."""
    found = []
    for value in keras.tree.flatten([*vars(layer).values()]):
        if isinstance(value, _RECURRENT):
            found.append(value)
        elif isinstance(value, keras.layers.Layer):
            found += _hidden(value)
    return list({id(one): one for one in found}.values())


def kind_of(layer: Any) -> str:
    """What a layer or operation is, with its article: "a Dense", "an LSTM".

    Args:
        layer: The layer or operation.
    """
    name = type(layer).__name__.lstrip("_")
    if len(name) > 1 and name[:2].isupper():
        # Letters are spelled.
        vowel = name[0] in "AEFHILMNORSX"
    else:
        vowel = name[0] in "AEIOU" and not name.startswith("Uni")
    return f"{'an' if vowel else 'a'} {name}"


def unknown(layer: Any, call: Call, tracer: "trace.Tracer", why: str = "") -> None:
    """Says that nothing is known of what becomes of the features of a call.

    Args:
        layer: The layer or operation.
        call: Its call.
        tracer: What collects it.
        why: The reason, if there is more to say than that there is no rule.
    """
    what = f"through '{layer.name}' ({kind_of(layer)})"
    for flow in call.flows:
        tracer.stop(flow, f"{what}, {why or 'for which there is no rule'}")
    for value in keras.tree.flatten([call.args, call.kwargs]):
        if isinstance(value, keras.Variable):
            for axis in range(len(value.shape)):
                slots = tracer.weights(value, axis, "along")
                tracer.fix(slots, f"tied to '{value.path}', which goes {what}")


def as_steps(layer: Any, flow: Flow, tracer: "trace.Tracer") -> None:
    """Says that the steps of a sequence can't be removed.

    Args:
        layer: What goes through the sequence.
        flow: The sequence, steps along its second axis.
        tracer: What collects it.
    """
    axis = flow.axis(1)
    if axis is not None:
        what = f"into '{layer.name}' ({kind_of(layer)})"
        tracer.stop(axis, f"{what}, to which they are time steps")
