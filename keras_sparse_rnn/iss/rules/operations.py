"""Rules of the operations of `keras.ops` and of operators.

An operation that is called on symbolic tensors is a node of a model like a layer. Rules
are found by the name of its class.
"""

import string
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn.iss import trace
from keras_sparse_rnn.iss.flow import Axis, Call, Flow, flow_of
from keras_sparse_rnn.iss.rules import elementwise as parts
from keras_sparse_rnn.iss.rules.layers import Normalized, Softmax
from keras_sparse_rnn.iss.rules.registry import (
    Kept,
    Rule,
    kind_of,
    register_operation,
    unknown,
)


def _on_arrays(operation: Any) -> Callable[..., Any]:
    """An operation on NumPy arrays."""
    return lambda *arrays: keras.ops.convert_to_numpy(operation.call(*arrays))


@register_operation(
    "Absolute",
    "Abs",
    "Arcsin",
    "Arcsinh",
    "Arctan",
    "Arctanh",
    "Cast",
    "Cbrt",
    "Ceil",
    "Celu",
    "Clip",
    "ConvertToTensor",
    "Copy",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Exp2",
    "Expm1",
    "Floor",
    "Gelu",
    "HardShrink",
    "HardSigmoid",
    "HardSilu",
    "HardTanh",
    "Isfinite",
    "Isinf",
    "Isnan",
    "LeakyRelu",
    "Log",
    "Log10",
    "Log1p",
    "Log2",
    "LogSigmoid",
    "LogicalNot",
    "NanToNum",
    "Negative",
    "OnesLike",
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
    "SparsePlus",
    "SparseSigmoid",
    "Sqrt",
    "Square",
    "Squareplus",
    "StopGradient",
    "Tan",
    "Tanh",
    "TanhShrink",
    "Threshold",
    "Trunc",
    "ZerosLike",
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
    "Arctan2",
    "Divide",
    "DivideNoNan",
    "Equal",
    "FloorDivide",
    "FullLike",
    "Greater",
    "GreaterEqual",
    "Less",
    "LessEqual",
    "Logaddexp",
    "LogicalAnd",
    "LogicalOr",
    "LogicalXor",
    "Maximum",
    "Minimum",
    "Mod",
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
            unknown(layer, call, tracer, "which joins them with a bare variable")
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
            return parts.cut(_array(operand), result, kept)

        return tuple(map(cut, args)), {name: cut(one) for name, one in kwargs.items()}


def _array(value: Any) -> Any:
    return keras.ops.convert_to_numpy(value)


@register_operation(
    "All",
    "Amax",
    "Amin",
    "Argmax",
    "Argmin",
    "Logsumexp",
    "Max",
    "Mean",
    "Median",
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
                tracer.add_up(axis, parts.left_over(layer.name, "sums"))
            else:
                what = f"'{layer.name}' ({kind_of(layer)})"
                tracer.stop(axis, f"through {what}, which takes units together")
        function = _on_arrays(layer)
        # More than one: the logarithm of a sum is zero of a single zero alone.
        probe = [2 if number in over else 1 for number in range(rank)]
        zero = parts.is_zero(lambda x: function(np.broadcast_to(x, probe)), [True])
        left = [number for number in range(rank) if number not in over]
        axes = {}
        for place, number in enumerate(left):
            axis = flow.axis(number)
            if axis is not None:
                own = number if getattr(layer, "keepdims", False) else place
                axes[own] = Axis(axis.slots, axis.zero & zero)
        return flow_of(call.spec, axes)


@register_operation("Any", "CountNonzero", "Sum")
class _Sum(_Reduction):
    """A sum over units, or an "or", is exact where what is removed is zero."""

    sums = True


@register_operation("Norm")
class _Norm(_Sum):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        if isinstance(layer.ord, (int, float)) and layer.ord < 0:
            unknown(layer, call, tracer, "of a negative order")
            return call.outputs()
        return super().follow(layer, call, tracer)


@register_operation("Average")
class _Average(_Reduction):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        if call.argument("weights", 1) is not None:
            unknown(layer, call, tracer, "with weights: multiply, then sum")
            return call.outputs()
        return super().follow(layer, call, tracer)


@register_operation("Cumprod", "Cumsum", "Diff", "Roll", "Sort")
class _Along(Rule):
    """Works along an axis that is not the units'; zeros stay zeros."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        rank = len(flow.shape)
        numbers = range(rank) if layer.axis is None else np.atleast_1d(layer.axis)
        if {int(number) % rank for number in numbers} & set(flow.axes):
            unknown(layer, call, tracer, "which goes along the units")
            return call.outputs()
        return call.outputs(dict(flow.axes))


register_operation("Softmax", "LogSoftmax")(Softmax)
register_operation("Normalize")(Normalized)


@register_operation("Matmul")
class _Matmul(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        operands = [*call.args, *call.kwargs.values()]
        ranks = [len(operand.shape) for operand in operands]
        if min(ranks) < 2:
            unknown(layer, call, tracer, "of a vector: use `einsum`")
            return call.outputs()
        letters = string.ascii_lowercase
        batch = letters[: max(ranks) - 2]
        terms = [
            batch[len(batch) - (rank - 2) :] + ending
            for rank, ending in zip(ranks, ("xy", "yz"), strict=True)
        ]
        return parts.contracted(
            operands, terms, batch + "xz", call.spec, tracer, layer.name
        )


@register_operation("Einsum")
class _Einsum(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        equation = layer.subscripts.replace(" ", "")
        operands = list(call.args)
        given, arrow, result = equation.partition("->")
        terms = given.split(",")
        repeated = any(len(set(term)) < len(term) for term in terms)
        if not arrow or "." in equation or repeated or len(terms) != len(operands):
            unknown(
                layer,
                call,
                tracer,
                f"whose '{equation}' is not one letter for each axis, and an arrow",
            )
            return call.outputs()
        return parts.contracted(operands, terms, result, call.spec, tracer, layer.name)
