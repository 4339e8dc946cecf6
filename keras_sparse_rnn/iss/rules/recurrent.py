"""Rules of recurrent layers, their cells and their wrappers: where components begin."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn.iss import trace
from keras_sparse_rnn.iss.flow import Axis, Call, Flow, flow_of
from keras_sparse_rnn.iss.rules.elementwise import keeps_units
from keras_sparse_rnn.iss.rules.registry import (
    Kept,
    Rule,
    as_steps,
    kind_of,
    register_rule,
    rule_of,
    unknown,
)
from keras_sparse_rnn.layers import (
    GroupedGRU,
    GroupedGRUCell,
    GroupedLSTM,
    GroupedLSTMCell,
    GroupedSimpleRNN,
    GroupedSimpleRNNCell,
    RecurrentHighway,
    RecurrentHighwayCell,
    UnevenBidirectional,
    WeightDropLSTM,
)


class CellRule:
    """How units enter and leave one kind of cell."""

    def follow(
        self, cell: Any, name: str, features: Axis | None, tracer: "trace.Tracer"
    ) -> list[Axis]:
        """Says where the weights of the cell's units lie.

        Args:
            cell: The cell.
            name: What users call it by.
            features: The features that come in; `None` if none of them can go.
            tracer: What collects it.

        Returns:
            The units of each state; those of the last layer's output come last.
        """
        raise NotImplementedError

    def resize(self, cell: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        """The cell's configuration once units are gone."""
        raise NotImplementedError


_CELLS: dict[type, CellRule] = {}


def _cell(*kinds: type) -> Any:
    def register(rule: type[CellRule]) -> type[CellRule]:
        for kind in kinds:
            _CELLS[kind] = rule()
        return rule

    return register


def _becomes_zero(activation: Any) -> bool:
    if not keeps_units(activation):
        return False
    return float(keras.ops.max(keras.ops.abs(activation(keras.ops.zeros((1, 1)))))) == 0


def _mixes(cell: Any) -> bool:
    activations = (cell.activation, getattr(cell, "recurrent_activation", None))
    return any(one is not None and not keeps_units(one) for one in activations)


def _states_of(cell: Any) -> int:
    return len(keras.tree.flatten(cell.state_size))


class _Gated(CellRule):
    """A kernel, a recurrent kernel and a bias, gates side by side."""

    def follow(
        self, cell: Any, name: str, features: Axis | None, tracer: "trace.Tracer"
    ) -> list[Axis]:
        units = tracer.units(cell, name, cell.units, anchors=[cell.recurrent_kernel])
        tracer.read(cell.kernel, 0, features)
        _own(cell.kernel, cell.recurrent_kernel, cell.bias, units, tracer)
        if _mixes(cell):
            tracer.fix(units, "the activation may mix units")
        axis = Axis.of(units, _becomes_zero(cell.activation))
        return [axis] * _states_of(cell)

    def resize(self, cell: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        return {**config, "units": int(kept.of(cell.recurrent_kernel, 0).sum())}


def _own(
    kernel: Any, recurrent: Any, bias: Any, units: np.ndarray, tracer: Any
) -> None:
    """The columns, rows and biases of units, whatever the number of gates."""
    columns = np.tile(units, recurrent.shape[1] // len(units))
    if kernel is not None:
        tracer.weights(kernel, 1, "in", columns)
    tracer.weights(recurrent, 0, "out", units)
    tracer.weights(recurrent, 1, "in", columns)
    if bias is not None:
        # A GRU may have two rows of biases.
        tracer.weights(bias, -1, "bias", columns)


for _kind in (
    keras.layers.LSTMCell,
    keras.layers.GRUCell,
    keras.layers.SimpleRNNCell,
):
    _CELLS[_kind] = _Gated()


@_cell(RecurrentHighwayCell)
class _Highway(CellRule):
    """Units run through every depth."""

    def follow(
        self, cell: Any, name: str, features: Axis | None, tracer: "trace.Tracer"
    ) -> list[Axis]:
        units = tracer.units(cell, name, cell.units, anchors=cell.recurrent_kernels)
        tracer.read(cell.kernel, 0, features)
        biases = cell.biases or [None] * cell.depth
        kernels = [cell.kernel] + [None] * (cell.depth - 1)
        for kernel, recurrent, bias in zip(
            kernels, cell.recurrent_kernels, biases, strict=True
        ):
            _own(kernel, recurrent, bias, units, tracer)
        if _mixes(cell):
            tracer.fix(units, "the activation may mix units")
        return [Axis.of(units, _becomes_zero(cell.activation))]

    def resize(self, cell: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        units = int(kept.of(cell.recurrent_kernels[0], 0).sum())
        return {**config, "units": units}


@_cell(GroupedLSTMCell, GroupedGRUCell, GroupedSimpleRNNCell)
class _Grouped(CellRule):
    """One stock cell for each group, that sees a window of the features."""

    def follow(
        self, cell: Any, name: str, features: Axis | None, tracer: "trace.Tracer"
    ) -> list[Axis]:
        if features is not None:
            tracer.seen[id(cell)] = features.slots
        anchors = [one.recurrent_kernel for one in cell.cells]
        units = tracer.units(
            cell, name, cell.units, anchors=anchors, segments=cell.group_segments
        )
        for one, (first, last), (begin, end) in zip(
            cell.cells, cell.input_segments, cell.group_segments, strict=True
        ):
            window = None if features is None else features[first:last]
            tracer.read(one.kernel, 0, window)
            own = units[begin:end]
            _own(one.kernel, one.recurrent_kernel, one.bias, own, tracer)
        if _mixes(cell.cells[0]):
            tracer.fix(units, "the activation may mix units")
        axis = Axis.of(units, _becomes_zero(cell.cells[0].activation))
        return [axis] * _states_of(cell)

    def resize(self, cell: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        sizes = [int(kept.of(one.recurrent_kernel, 0).sum()) for one in cell.cells]
        # Not from the kernels: windows may leave gaps.
        stay = np.ones(max(end for _, end in cell.input_segments), bool)
        if id(cell) in kept.seen:
            stay = kept.slots(kept.seen[id(cell)])
        if sizes == cell.group_sizes and stay.all():
            return config
        moved = np.concatenate([[0], np.cumsum(stay)])
        return {
            **config,
            "units": sum(sizes),
            "groups": sizes,
            "input_segments": [
                [int(moved[begin]), int(moved[end])]
                for begin, end in cell.input_segments
            ],
        }


@_cell(keras.layers.StackedRNNCells)
class _Stacked(CellRule):
    """One cell after another."""

    def follow(
        self, cell: Any, name: str, features: Axis | None, tracer: "trace.Tracer"
    ) -> list[Axis]:
        states = []
        for inner in cell.cells:
            rule = _CELLS[type(inner)]
            found = rule.follow(inner, f"{name}/{inner.name}", features, tracer)
            features = found[0]
            states += found
        return states

    def resize(self, cell: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        return {
            **config,
            "cells": [
                _inside(_CELLS[type(inner)], inner, one, kept)
                for inner, one in zip(cell.cells, config["cells"], strict=True)
            ],
        }


def _initial(call: Call) -> list[Any]:
    """The initial states of a call: flows, and tensors of no layer."""
    given = keras.tree.flatten(call.argument("initial_state", 1))
    return [one for one in given if one is not None]


def _shown(cell: Any, states: list[Axis]) -> Axis:
    """The units of the output: of the last cell, the first state."""
    stacked = type(cell) is keras.layers.StackedRNNCells
    return states[-_states_of(cell.cells[-1])] if stacked else states[0]


def _outputs(call: Call, axes: Sequence[Axis]) -> Any:
    """A flow for each output of a call, as many as it returns."""
    flat = keras.tree.flatten(call.spec)
    pairs = zip(flat, axes[: len(flat)], strict=True)
    found = [flow_of(spec, {-1: axis}) for spec, axis in pairs]
    return keras.tree.pack_sequence_as(call.spec, found)


def _known(cell: Any) -> bool:
    if type(cell) is keras.layers.StackedRNNCells:
        return all(_known(inner) for inner in cell.cells)
    return type(cell) in _CELLS


def _inside(
    rule: Any, layer: Any, config: dict[str, Any], kept: Kept
) -> dict[str, Any]:
    """A serialized layer inside another one's configuration, resized."""
    return {**config, "config": rule.resize(layer, config["config"], kept)}


@register_rule(
    keras.layers.LSTM,
    keras.layers.GRU,
    keras.layers.SimpleRNN,
    keras.layers.RNN,
    WeightDropLSTM,
    GroupedLSTM,
    GroupedGRU,
    GroupedSimpleRNN,
    RecurrentHighway,
)
class Recurrent(Rule):
    """A cell, step after step."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        """See `Rule.follow`."""
        if not _known(layer.cell):
            unknown(
                layer,
                call,
                tracer,
                f"whose cell ({kind_of(layer.cell)}) is of a kind that is not known",
            )
            tracer.skipped[tracer.path(layer)] = (
                f"no rule for {type(layer.cell).__name__}"
            )
            return call.outputs()
        states = self.states(layer, call.inputs[0], _initial(call), tracer)
        return _outputs(call, [_shown(layer.cell, states), *states])

    def states(
        self, layer: Any, inputs: Flow, initial: Sequence[Any], tracer: Any
    ) -> list[Axis]:
        """The units of each state of a layer called on a sequence."""
        name = tracer.path(layer)
        as_steps(layer, inputs, tracer)
        states = _CELLS[type(layer.cell)].follow(
            layer.cell, name, inputs.axis(), tracer
        )
        axes = [one.axis() if isinstance(one, Flow) else None for one in initial]
        for state, given in zip(states, axes, strict=False):
            tracer.tie(state, given, "the initial state comes from outside")
        if any(axis is not None and not axis.zero.all() for axis in axes):
            # A masked unit goes on from what it is given.
            states = [Axis.of(state.slots, False) for state in states]
        if layer.stateful:
            for state, variable in zip(
                states, keras.tree.flatten(layer.states or []), strict=False
            ):
                tracer.weights(variable, -1, "state", state.slots)
        return states

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        """See `Rule.resize`."""
        rule = _CELLS.get(type(layer.cell))
        if rule is None or not _known(layer.cell):
            return config
        if type(layer) is keras.layers.RNN:
            return {**config, "cell": _inside(rule, layer.cell, config["cell"], kept)}
        return rule.resize(layer.cell, config, kept)


@register_rule(keras.layers.Bidirectional, UnevenBidirectional)
class _Bidirectional(Rule):
    """Two recurrent layers, whose outputs are merged."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        sides = (layer.forward_layer, layer.backward_layer)
        if not all(
            isinstance(rule_of(side), Recurrent) and _known(side.cell) for side in sides
        ):
            unknown(
                layer, call, tracer, "which holds a layer for which there is no rule"
            )
            tracer.skipped[tracer.path(layer)] = "no rule for the layers in it"
            return call.outputs()
        initial = _initial(call)
        half = len(initial) // 2
        rule = rule_of(sides[0])
        assert isinstance(rule, Recurrent)
        found = []
        with tracer.within(layer):
            for side, given in zip(
                sides, (initial[:half], initial[half:]), strict=True
            ):
                found.append(rule.states(side, call.inputs[0], given, tracer))
        forth, back = found[0], found[1]
        one, other = (
            _shown(side.cell, states) for side, states in zip(sides, found, strict=True)
        )
        merged: list[Axis]
        if layer.merge_mode == "concat":
            merged = [
                Axis(
                    np.concatenate([one.slots, other.slots]),
                    np.concatenate([one.zero, other.zero]),
                )
            ]
        elif layer.merge_mode is None:
            merged = [one, other]
        else:
            tracer.tie(one, other, "")
            product = layer.merge_mode == "mul"
            zero = one.zero | other.zero if product else one.zero & other.zero
            merged = [Axis(one.slots, zero)]
        return _outputs(call, [*merged, *forth, *back])

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        sides = {"layer": layer.forward_layer, "backward_layer": layer.backward_layer}
        resized = {}
        for name, side in sides.items():
            rule = rule_of(side)
            if not isinstance(rule, Recurrent):
                return config
            resized[name] = _inside(rule, side, config[name], kept)
        return {**config, **resized}

    def remake(self, layer: Any, config: dict[str, Any]) -> Any:
        made = type(layer).from_config(config)
        if made.forward_layer.cell.output_size == made.backward_layer.cell.output_size:
            return made
        # Keras's own infers the shapes of directions of one size only.
        return UnevenBidirectional.from_config(config)


@register_rule(keras.layers.TimeDistributed)
class _TimeDistributed(Rule):
    """The same layer at each index of the second axis."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        rule = rule_of(layer.layer)
        if rule is None:
            what = f"'{layer.layer.name}' ({kind_of(layer.layer)})"
            unknown(layer, call, tracer, f"which holds {what}: there is no rule for it")
            return call.outputs()
        as_steps(layer, flow, tracer)
        inside = Call(
            (_without_time(flow, flow.axes),),
            {},
            keras.tree.map_structure(
                lambda one: keras.KerasTensor(
                    (one.shape[0], *one.shape[2:]), one.dtype
                ),
                call.spec,
            ),
        )
        with tracer.within(layer):
            found = rule.follow(layer.layer, inside, tracer)
        inside.operation, inside.results = layer.layer, found
        call.inner.append(inside)
        return keras.tree.map_structure(
            lambda one, spec: Flow(
                tuple(spec.shape),
                {k + 1 if k else 0: axis for k, axis in one.axes.items()},
            ),
            found,
            call.spec,
        )

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        rule = rule_of(layer.layer)
        if rule is None or kept.call is None or not kept.call.inner:
            return config
        kept = replace(kept, call=kept.call.inner[0])
        resized = rule.resize(layer.layer, config["layer"]["config"], kept)
        # It may become a layer of another kind.
        made = rule.remake(layer.layer, resized)
        return {**config, "layer": keras.saving.serialize_keras_object(made)}


def _without_time(flow: Flow, axes: Any) -> Flow:
    shape = (flow.shape[0], *flow.shape[2:])
    return Flow(shape, {k - 1 if k else 0: axis for k, axis in axes.items() if k != 1})
