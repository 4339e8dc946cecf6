"""How units pass through each kind of layer: one small rule for each.

A rule does two things. `follow` says which weights of the layer read the features
that come in, and what features go out. `resize` gives the configuration of the
layer when units are gone. Rules are found by exact type, since a subclass may
compute something else; `register_rule` adds one.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._models import is_elementwise, is_graph
from keras_sparse_rnn.iss import trace
from keras_sparse_rnn.layers import GroupedLSTM, TieredEmbedding, WeightDropLSTM

# For a variable and one of its axes, which indices stay.
Kept = Callable[[Any, int], np.ndarray]


class Rule:
    """How units pass through one kind of layer. The default reads nothing."""

    def follow(
        self, layer: Any, inputs: list[Any], extra: list[Any], tracer: trace.Tracer
    ) -> list[Any]:
        """Says which weights read the units that come in, and what goes out.

        Args:
            layer: The layer or operation that is called.
            inputs: `trace.Features` of each tensor of the first argument, `None`
                for a tensor that holds no units.
            extra: The same for tensors in all other arguments.
            tracer: Takes what was found: `tracer.read`, `tracer.own`.

        Returns:
            The `trace.Features` of each output.
        """
        raise NotImplementedError

    def resize(
        self, layer: Any, config: dict[str, Any], kept: Kept, inputs: Any
    ) -> dict[str, Any]:
        """The configuration of the layer once units are gone.

        Args:
            layer: The layer.
            config: Its present configuration.
            kept: `kept(variable, axis)` tells which indices stay.
            inputs: Which of the features that come in stay, a boolean array; `None`
                if none of them is a unit.
        """
        return config


_RULES: dict[type, Rule] = {}


def register_rule(*kinds: type) -> Callable[[type[Rule]], type[Rule]]:
    """Class decorator that makes a `Rule` the rule of these layer classes.

    Args:
        *kinds: Layer classes. Subclasses of them need a rule of their own.

    Example:

    >>> @register_rule(MyScaling)  # multiplies each feature by a learned scale
    ... class ScalingRule(Rule):
    ...     def follow(self, layer, inputs, extra, tracer):
    ...         for f in inputs[0].families if inputs[0] else ():
    ...             owner = np.where(inputs[0].family == f, inputs[0].unit, -1)
    ...             tracer.own(tracer.plan.families[f], layer.scale, 0, owner, "bias")
    ...         return inputs
    """

    def register(rule: type[Rule]) -> type[Rule]:
        for kind in kinds:
            _RULES[kind] = rule()
        return rule

    return register


def rule_of(layer: Any) -> Rule | None:
    """The rule of a layer, `None` if there is none."""
    return _RULES.get(type(layer))


def follow(
    layer: Any, inputs: list[Any], extra: list[Any], tracer: trace.Tracer
) -> list[Any]:
    """Follows features through one call of a layer; see `Rule.follow`."""
    if is_graph(layer) and all(features is None for features in inputs):
        return trace.walk(layer, inputs, tracer)
    rule = rule_of(layer)
    if rule is not None:
        if inputs and inputs[0] is not None:
            tracer.plan.incoming[id(layer)] = inputs[0]
        return rule.follow(layer, inputs, extra, tracer)
    carrying = [features for features in inputs + extra if features is not None]
    if carrying:
        names = ", ".join(tracer.names(features) for features in carrying)
        if is_graph(layer):
            raise ValueError(
                f"Pruning can't follow the units of {names} into the nested model "
                f"'{layer.name}', whose Input has a fixed number of features. Name "
                "those recurrent layers in `ignore` to leave them alone, or put the "
                "layers of the nested model into the outer one."
            )
        raise ValueError(
            f"Pruning can't follow the units of {names} through '{layer.name}' "
            f"(a {type(layer).__name__}): it has no rule for that layer. Name those "
            "recurrent layers in `ignore` to leave them alone, or teach it the layer "
            "with `register_rule`."
        )
    if isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)):
        tracer.plan.skipped[layer.name] = f"no rule for {type(layer).__name__} layers"
    return [None]


@register_rule(keras.layers.InputLayer, keras.layers.Embedding, TieredEmbedding)
class _Source(Rule):
    """What makes features that are no units."""

    def follow(self, layer, inputs, extra, tracer):
        return [None]


@register_rule(
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.AlphaDropout,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
)
class _Elementwise(Rule):
    """What works on each feature by itself and holds no weights."""

    def follow(self, layer, inputs, extra, tracer):
        return inputs


@register_rule(keras.layers.Activation)
class _Activation(_Elementwise):
    def follow(self, layer, inputs, extra, tracer):
        if inputs[0] is not None and not is_elementwise(layer.activation):
            raise ValueError(
                f"Layer '{layer.name}' applies {layer.activation!r} to the units of "
                f"{tracer.names(inputs[0])}; pruning knows only activations that "
                "work on each unit by itself. Name those recurrent layers in "
                "`ignore`."
            )
        return inputs


@register_rule(keras.layers.Dense)
class _Dense(Rule):
    def follow(self, layer, inputs, extra, tracer):
        if inputs[0] is not None and (layer.lora_enabled or layer.quantization_mode):
            raise ValueError(
                f"Layer '{layer.name}', which reads the units of "
                f"{tracer.names(inputs[0])}, holds LoRA or quantized weights; pruning "
                "needs plain ones. Prune first, or name those recurrent layers in "
                "`ignore`."
            )
        tracer.read(layer, layer.kernel, 0, inputs[0])
        return [None]


@register_rule(keras.layers.TimeDistributed)
class _TimeDistributed(Rule):
    """Wraps what works on the last axis anyway."""

    def follow(self, layer, inputs, extra, tracer):
        inner = rule_of(layer.layer)
        if isinstance(inner, (_Dense, _Elementwise)):
            return inner.follow(layer.layer, inputs, extra, tracer)
        if inputs[0] is None:
            return [None]
        raise ValueError(
            f"Pruning can't follow the units of {tracer.names(inputs[0])} through "
            f"'{layer.name}', a TimeDistributed {type(layer.layer).__name__}. Name "
            "those recurrent layers in `ignore`."
        )


class _Recurrent(Rule):
    """What recurrent layers of LSTM cells share, stock and grouped."""

    gates = 4

    def groups(self, layer: Any) -> list[tuple[Any, Any, tuple[int, int]]]:
        """`(cell, window of the inputs, segment of the units)` of each group."""
        raise NotImplementedError

    def follow(self, layer, inputs, extra, tracer):
        groups = self.groups(layer)
        (features,) = inputs
        for cell, window, _ in groups:
            seen = None if features is None else features[window]
            tracer.read(layer, cell.kernel, 0, seen)
            tracer.require_one(seen)
        for state in extra:
            if state is not None:
                raise ValueError(
                    f"Layer '{layer.name}' starts from the units of "
                    f"{tracer.names(state)}; pruning can't tie two layers by their "
                    "states. Name both layers in `ignore`."
                )
        if any(known is layer for known in tracer.plan.layers):
            raise ValueError(
                f"Layer '{layer.name}' is called more than once; pruning can't "
                "follow a shared recurrent layer. Name it in `ignore`."
            )
        family = tracer.new_family(layer, [segment for _, _, segment in groups])
        if family is not None:
            if extra:
                family.reason = "its initial state comes from outside"
            for cell, _, (begin, end) in groups:
                self._own(cell, begin, end, family, tracer)
        result = tracer.features_of(family)
        outputs = 1 + (len(layer.cell.state_size) if layer.return_state else 0)
        return [result] * outputs

    def _own(self, cell: Any, begin: int, end: int, family: Any, tracer: Any) -> None:
        units = np.arange(begin, end)
        columns = np.tile(units, self.gates)
        tracer.own(family, cell.kernel, 1, columns, "in")
        tracer.own(family, cell.recurrent_kernel, 1, columns, "in")
        tracer.own(family, cell.recurrent_kernel, 0, units, "out")
        if cell.bias is not None:
            tracer.own(family, cell.bias, 0, columns, "bias")
        family.anchors.append(tracer.key(cell.recurrent_kernel))


@register_rule(keras.layers.LSTM, WeightDropLSTM)
class _LSTM(_Recurrent):
    def groups(self, layer: Any) -> list[tuple[Any, Any, tuple[int, int]]]:
        return [(layer.cell, slice(None), (0, layer.units))]

    def resize(
        self, layer: Any, config: dict[str, Any], kept: Kept, inputs: Any
    ) -> dict[str, Any]:
        units = int(kept(layer.cell.recurrent_kernel, 0).sum())
        return {**config, "units": units}


@register_rule(GroupedLSTM)
class _GroupedLSTM(_Recurrent):
    def groups(self, layer: Any) -> list[tuple[Any, Any, tuple[int, int]]]:
        return [
            (cell, slice(*window), segment)
            for cell, window, segment in zip(
                layer.cell.cells,
                layer.input_segments,
                layer.group_segments,
                strict=True,
            )
        ]

    def resize(
        self, layer: Any, config: dict[str, Any], kept: Kept, inputs: Any
    ) -> dict[str, Any]:
        cells, windows = layer.cell.cells, layer.input_segments
        sizes = [int(kept(cell.recurrent_kernel, 0).sum()) for cell in cells]
        if inputs is None:
            inputs = np.ones(max(end for _, end in windows), bool)
        moved = np.concatenate([[0], np.cumsum(inputs)])
        if sizes == layer.group_sizes and inputs.all():
            return config
        return {
            **config,
            "units": sum(sizes),
            "groups": sizes,
            "input_segments": [
                [int(moved[begin]), int(moved[end])] for begin, end in windows
            ],
        }
