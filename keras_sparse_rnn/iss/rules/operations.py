"""Rules of the operations of `keras.ops`, of operators and of indexing.

An operation that is called on symbolic tensors is a node of a model like a layer. Rules
are found by the name of its class.
"""

import string
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn.iss import trace
from keras_sparse_rnn.iss.flow import Axis, Call, Flow, flow_of, flows_in
from keras_sparse_rnn.iss.rules import elementwise as parts
from keras_sparse_rnn.iss.rules.layers import Softmax, reshaped
from keras_sparse_rnn.iss.rules.registry import (
    Kept,
    Rule,
    register_operation,
    unknown,
)


def _on_arrays(operation: Any) -> Callable[..., Any]:
    """An operation on NumPy arrays."""
    return lambda *arrays: keras.ops.convert_to_numpy(operation.call(*arrays))


@register_operation(
    "Absolute",
    "Abs",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Copy",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Expm1",
    "Floor",
    "Gelu",
    "HardShrink",
    "HardSigmoid",
    "HardSilu",
    "HardTanh",
    "LeakyRelu",
    "Log",
    "Log1p",
    "LogSigmoid",
    "Negative",
    "Reciprocal",
    "Relu",
    "Relu6",
    "Round",
    "Rsqrt",
    "Selu",
    "Sigmoid",
    "Sign",
    "Silu",
    "Sin",
    "Sinh",
    "SoftShrink",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Square",
    "StopGradient",
    "Tan",
    "Tanh",
    "TanhShrink",
    "Threshold",
)
class _Unary(Rule):
    """A function of each element."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        rest = call.args[1:]
        function = _on_arrays(layer)
        zero = parts.is_zero(lambda x: function(x, *rest, **call.kwargs), [True])
        return call.outputs(dict((flow if zero else flow.never_zero()).axes))


@register_operation(
    "Add",
    "Divide",
    "DivideNoNan",
    "Equal",
    "Greater",
    "GreaterEqual",
    "Less",
    "LessEqual",
    "LogicalAnd",
    "LogicalOr",
    "Maximum",
    "Minimum",
    "Multiply",
    "NotEqual",
    "Power",
    "Subtract",
    "TrueDivide",
    "Where",
)
class _Many(Rule):
    """A function of each element of several tensors, which are tied where they meet."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        operands = [*call.args, *call.kwargs.values()]
        if any(hasattr(operand, "trainable") for operand in operands):
            unknown(layer, call, tracer, "with a variable outside of all layers")
            return call.outputs()
        arrays = [
            operand if isinstance(operand, Flow) else _array(operand)
            for operand in operands
        ]
        return parts.elementwise(call, arrays, tracer, _on_arrays(layer))

    def rewrite(
        self, layer: Any, args: Any, kwargs: Any, kept: Kept
    ) -> tuple[Any, dict[str, Any]]:
        assert kept.call is not None
        result = kept.call.results

        def cut(operand: Any) -> Any:
            if isinstance(operand, keras.KerasTensor) or np.ndim(operand) == 0:
                return operand
            array = _array(operand)
            for number, axis in result.axes.items():
                own = number - len(result.shape) + array.ndim
                if own >= 0 and array.shape[own] != 1:
                    array = np.compress(kept.slots(axis.slots), array, own)
            return array

        return tuple(map(cut, args)), {name: cut(one) for name, one in kwargs.items()}


def _array(value: Any) -> Any:
    return keras.ops.convert_to_numpy(value)


@register_operation(
    "All",
    "Amax",
    "Amin",
    "Logsumexp",
    "Max",
    "Mean",
    "Min",
    "Prod",
    "Std",
    "Var",
)
class _Reduction(Rule):
    """Takes axes together; not the units themselves."""

    sums = False

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        rank = len(flow.shape)
        numbers = range(rank) if layer.axis is None else np.atleast_1d(layer.axis)
        over = {int(number) % rank for number in numbers}
        for number in over:
            axis = flow.axis(number)
            if axis is None:
                continue
            if self.sums:
                tracer.add_up(axis, "through a sum over what is not zero when removed")
            else:
                name = type(layer).__name__.lower()
                tracer.stop(axis, f"through a {name} over the units ('{layer.name}')")
        function = _on_arrays(layer)
        zero = parts.is_zero(
            lambda x: function(np.broadcast_to(x.reshape((1,) * rank), (1,) * rank)),
            [True],
        )
        left = [number for number in range(rank) if number not in over]
        axes = {}
        for place, number in enumerate(left):
            axis = flow.axis(number)
            if axis is not None:
                own = number if layer.keepdims else place
                axes[own] = Axis(axis.slots, axis.zero & zero)
        return flow_of(call.spec, axes)


@register_operation("Any", "Sum")
class _Sum(_Reduction):
    """A sum over units, or an "or", is exact where what is removed is zero."""

    sums = True


register_operation("Softmax", "LogSoftmax")(Softmax)


@register_operation("Transpose")
class _Transpose(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        rank = len(flow.shape)
        order = layer.axes or tuple(reversed(range(rank)))
        return call.outputs({k: flow.axis(old) for k, old in enumerate(order)})


@register_operation("Swapaxes")
class _Swapaxes(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        order = list(range(len(flow.shape)))
        one, other = layer.axis1 % len(order), layer.axis2 % len(order)
        order[one], order[other] = other, one
        return call.outputs({k: flow.axis(old) for k, old in enumerate(order)})


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
                tracer.fix(axis.slots, "it is squeezed away")
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
            unknown(layer, call, tracer, "with a constant array")
            return call.outputs()
        axis = layer.axis % len(call.spec.shape)
        return parts.joined(flows, axis, call.spec, tracer)


@register_operation("Stack")
class _Stack(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        flows = flows_in(call.args[0])
        if len(flows) != len(keras.tree.flatten(call.args[0])):
            unknown(layer, call, tracer, "with a constant array")
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


@register_operation("Matmul")
class _Matmul(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        operands = [*call.args, *call.kwargs.values()]
        ranks = [len(operand.shape) for operand in operands]
        if min(ranks) < 2:
            unknown(layer, call, tracer, "with a vector")
            return call.outputs()
        letters = string.ascii_lowercase
        batch = letters[: max(ranks) - 2]
        terms = [
            batch[len(batch) - (rank - 2) :] + ending
            for rank, ending in zip(ranks, ("xy", "yz"), strict=True)
        ]
        return _contracted(operands, terms, batch + "xz", call, tracer, layer)


@register_operation("Einsum")
class _Einsum(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        equation = layer.subscripts.replace(" ", "")
        operands = list(call.args)
        given, arrow, result = equation.partition("->")
        terms = given.split(",")
        repeated = any(len(set(term)) < len(term) for term in terms)
        if not arrow or "." in equation or repeated or len(terms) != len(operands):
            unknown(layer, call, tracer, f"'{equation}'")
            return call.outputs()
        return _contracted(operands, terms, result, call, tracer, layer)


def _contracted(
    operands: Any, terms: Any, result: str, call: Call, tracer: Any, layer: Any
) -> Any:
    message = f"through '{layer.name}', which sums what is not zero when removed"
    return parts.contracted(operands, terms, result, call.spec, tracer, message)


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
                        tracer.fix(axis.slots, "it is indexed with a step")
                place += 1
            elif axis is not None:
                tracer.fix(axis.slots[[key]], "it is picked by its number")
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
