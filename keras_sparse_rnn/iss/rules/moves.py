"""Rules of operations of `keras.ops` that only move, repeat or leave out elements."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn.iss import trace
from keras_sparse_rnn.iss.flow import Axis, Call, Flow, flow_of, flows_in
from keras_sparse_rnn.iss.rules import elementwise as parts
from keras_sparse_rnn.iss.rules.layers import reshaped
from keras_sparse_rnn.iss.rules.registry import (
    Kept,
    Rule,
    register_operation,
    unknown,
)


class _Order(Rule):
    """Puts axes in another order."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        order = self.order(layer, len(flow.shape))
        return call.outputs({k: flow.axis(old) for k, old in enumerate(order)})

    def order(self, layer: Any, rank: int) -> Sequence[int]:
        """For each axis of the result the axis that it was."""
        raise NotImplementedError


@register_operation("Transpose")
class _Transpose(_Order):
    def order(self, layer: Any, rank: int) -> Sequence[int]:
        return layer.axes or tuple(reversed(range(rank)))


@register_operation("Swapaxes")
class _Swapaxes(_Order):
    def order(self, layer: Any, rank: int) -> Sequence[int]:
        order = list(range(rank))
        one, other = layer.axis1 % rank, layer.axis2 % rank
        order[one], order[other] = other, one
        return order


@register_operation("Moveaxis")
class _Moveaxis(_Order):
    def order(self, layer: Any, rank: int) -> Sequence[int]:
        moved = {
            to % rank: old % rank
            for old, to in zip(layer.source, layer.destination, strict=True)
        }
        rest = iter([old for old in range(rank) if old not in moved.values()])
        return [moved[to] if to in moved else next(rest) for to in range(rank)]


@register_operation("ExpandDims")
class _ExpandDims(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        rank = len(flow.shape) + 1
        new = {int(number) % rank for number in np.atleast_1d(layer.axis)}
        rest = [number for number in range(rank) if number not in new]
        return call.outputs({k: flow.axis(old) for old, k in enumerate(rest)})


@register_operation("Squeeze")
class _Squeeze(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        shape = flow.shape
        if layer.axis is None:
            gone = {k for k, size in enumerate(shape) if size == 1}
        else:
            gone = {int(number) % len(shape) for number in np.atleast_1d(layer.axis)}
        for number in gone:
            axis = flow.axis(number)
            if axis is not None:
                tracer.fix(axis.slots, "squeezed away")
        rest = [number for number in range(len(shape)) if number not in gone]
        return call.outputs({k: flow.axis(old) for k, old in enumerate(rest)})


@register_operation("Reshape")
class _Reshape(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        return reshaped(layer, call, tracer)

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        assert kept.call is not None
        old = layer.newshape
        old = [old] if isinstance(old, int) else list(old)
        new = kept.shape(kept.call.results)
        changed = [
            o if o in (-1, None) or n is None else n
            for o, n in zip(old, new, strict=True)
        ]
        return {**config, "newshape": changed}


@register_operation("Concatenate")
class _Concatenate(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        flows = flows_in(call.args[0])
        if len(flows) != len(keras.tree.flatten(call.args[0])):
            unknown(layer, call, tracer, "which joins them with a constant array")
            return call.outputs()
        axis = layer.axis % len(call.spec.shape)
        return parts.joined(flows, axis, call.spec, tracer)


@register_operation("Stack")
class _Stack(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        flows = flows_in(call.args[0])
        if len(flows) != len(keras.tree.flatten(call.args[0])):
            unknown(layer, call, tracer, "which joins them with a constant array")
            return call.outputs()
        place = layer.axis % len(call.spec.shape)
        lifted = []
        for flow in flows:
            axes = {k + (k >= place): axis for k, axis in flow.axes.items()}
            shape = (*flow.shape[:place], 1, *flow.shape[place:])
            lifted.append(Flow(shape, axes))
        return parts.joined(lifted, place, call.spec, tracer)


@register_operation("Split")
class _Split(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        number = layer.axis % len(flow.shape)
        axis = flow.axis(number)
        found, begin = [], 0
        for spec in call.spec:
            axes: dict[int, Axis | None] = dict(flow.axes)
            if axis is not None:
                end = begin + spec.shape[number]
                axes[number] = axis[begin:end]
                begin = end
            found.append(flow_of(spec, axes))
        return found

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        assert kept.call is not None
        number = layer.axis % len(kept.call.inputs[0].shape)
        if kept.call.inputs[0].axis(number) is None:
            return config
        sizes = [kept.shape(flow)[number] for flow in kept.call.results]
        cuts = [int(cut) for cut in np.cumsum(sizes)[:-1]]
        return {**config, "indices_or_sections": cuts}


@register_operation("Flip")
class _Flip(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        rank = len(flow.shape)
        numbers = range(rank) if layer.axis is None else np.atleast_1d(layer.axis)
        axes = dict(flow.axes)
        for number in {int(one) % rank for one in numbers} & set(axes):
            axes[number] = axes[number][::-1]
        return call.outputs(axes)


@register_operation("Repeat")
class _Repeat(Rule):
    """Each index several times over."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        if layer.axis is None:
            if flow.axes:
                unknown(layer, call, tracer, "which flattens them: name an axis")
            return call.outputs()
        number = layer.axis % len(flow.shape)
        axes = dict(flow.axes)
        if number in axes:
            index = np.arange(len(axes[number]))
            axes[number] = axes[number][np.repeat(index, layer.repeats)]
        return call.outputs(axes)

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        assert kept.call is not None
        (flow,) = kept.call.inputs
        axis = None if layer.axis is None else flow.axis(layer.axis)
        if axis is None or np.size(layer.repeats) == 1:
            return config
        stay = kept.slots(axis.slots)
        return {**config, "repeats": np.asarray(layer.repeats)[stay].tolist()}


@register_operation("Tile")
class _Tile(Rule):
    """All indices several times over."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        rank = len(call.spec.shape)
        repeats = np.atleast_1d(layer.repeats)
        times = [1] * (rank - len(repeats)) + repeats.tolist()
        axes = {}
        for number, axis in flow.axes.items():
            place = number + rank - len(flow.shape)
            axes[place] = axis[np.tile(np.arange(len(axis)), times[place])]
        return call.outputs(axes)


@register_operation("BroadcastTo")
class _BroadcastTo(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        return parts.elementwise(call, call.inputs, tracer, lambda x: x)

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        assert kept.call is not None
        return {**config, "shape": kept.shape(kept.call.results)}


@register_operation("Pad")
class _Pad(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        widths = list(layer.pad_width)
        if len(widths) == 1:
            widths = widths * len(flow.shape)
        if any(any(widths[number]) for number in flow.axes):
            unknown(layer, call, tracer, "which pads the units")
            return call.outputs()
        filled = call.argument("constant_values", 1)
        if filled is not None and np.any(np.asarray(filled) != 0):
            flow = flow.never_zero()
        return call.outputs(dict(flow.axes))


@register_operation("Take")
class _Take(Rule):
    """Picks indices along an axis."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        given, indices = call.argument("x", 0), call.argument("indices", 1)
        picked = isinstance(indices, Flow) and bool(indices.axes)
        if layer.axis is None or picked or not isinstance(given, Flow):
            unknown(layer, call, tracer, "which picks from a table, or by units")
            return call.outputs()
        number = layer.axis % len(given.shape)
        longer = len(call.spec.shape) - len(given.shape)
        axes: dict[int, Axis | None] = {}
        for k, axis in given.axes.items():
            if k == number:
                tracer.fix(axis.slots, "picked by number")
            else:
                axes[k + longer if k > number else k] = axis
        return call.outputs(axes)


@register_operation("Unstack")
class _Unstack(Rule):
    """Each index along an axis by itself."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        number = layer.axis % len(flow.shape)
        axes: dict[int, Axis | None] = {}
        for k, axis in flow.axes.items():
            if k == number:
                tracer.fix(axis.slots, "picked by number")
            else:
                axes[k - 1 if k > number else k] = axis
        return call.outputs(axes)


@register_operation("GetItem")
class _GetItem(Rule):
    """Indexing: a range of units, or one of them."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        axes: dict[int, Axis | None] = {}
        place = number = 0
        for key in _keys(call.argument("key", 1), len(flow.shape)):
            if key is None:
                place += 1
                continue
            axis = flow.axis(number)
            number += 1
            if isinstance(key, slice):
                if axis is not None:
                    axes[place] = axis[key]
                    if key.step not in (None, 1, -1):
                        tracer.fix(axis.slots, "indexed with a step")
                place += 1
            elif axis is not None:
                tracer.fix(axis.slots[[key]], "picked by number")
        return call.outputs(axes)

    def rewrite(
        self, layer: Any, args: Any, kwargs: Any, kept: Kept
    ) -> tuple[Any, dict[str, Any]]:
        assert kept.call is not None
        (flow,) = kept.call.inputs
        keys = []
        number = 0
        for key in _keys(kept.call.argument("key", 1), len(flow.shape)):
            if key is not None:
                axis = flow.axis(number)
                number += 1
                if axis is not None:
                    key = _moved(key, kept.slots(axis.slots))
            keys.append(key)
        return (args[0] if args else next(iter(kwargs.values())), tuple(keys)), {}


def _keys(key: Any, rank: int) -> list[Any]:
    """An index, written out for every axis."""
    keys = list(key) if isinstance(key, (tuple, list)) else [key]
    missing = rank - sum(one is not None and one is not Ellipsis for one in keys)
    place = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
    return keys[:place] + [slice(None)] * missing + keys[place + 1 :]


def _moved(key: Any, stay: np.ndarray) -> Any:
    """An index into an axis of which only some indices are left."""
    place = np.concatenate([[0], np.cumsum(stay)])
    if not isinstance(key, slice):
        return int(place[key % len(stay)])
    begin, end, step = key.indices(len(stay))
    if step == 1:
        return slice(int(place[begin]), int(place[max(begin, end)]))
    if step == -1:
        first, last = int(place[begin + 1]) - 1, int(place[end + 1]) - 1
        return slice(first, None if last < 0 else last, -1)
    return key
