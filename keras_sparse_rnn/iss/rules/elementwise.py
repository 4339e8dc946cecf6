"""What works on each element by itself: shared by rules of layers and operations."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._models import is_elementwise
from keras_sparse_rnn.iss import trace
from keras_sparse_rnn.iss.flow import Axis, Call, Flow, flow_of
from keras_sparse_rnn.iss.rules.registry import Kept

# What stands for any value in the question whether a result is zero all the same.
_PROBES = (0.7, -1.3, 2.1, 0.0)


def is_zero(function: Callable[..., Any], zeros: Sequence[bool | float]) -> bool:
    """Whether an element-wise function is zero whatever its other arguments are.

    Args:
        function: Of as many arrays.
        zeros: For each of them a number that it is, or whether it is zero; if not it
            may be anything.
    """
    choices = [
        (one,) if not isinstance(one, bool) else ((0.0,) if one else _PROBES)
        for one in zeros
    ]
    columns = np.array(list(itertools.product(*choices)), "float32").T
    try:
        result = np.asarray(function(*columns))
    except (TypeError, ValueError):
        return False
    # A quotient says nothing where what divides happens to be zero.
    free = [isinstance(one, bool) and not one for one in zeros]
    odd = np.isnan(result) & np.any(columns[free] == 0, axis=0)
    return bool(np.all((result == 0) | odd))


@functools.cache
def keeps_units(activation: Callable[..., Any]) -> bool:
    """Whether an activation works on each unit by itself, and alike on all.

    One that is not Keras's own is followed as a model is.

    Args:
        activation: The function.
    """
    if is_elementwise(activation):
        return True
    probe = keras.Input((4,))
    try:
        graph = keras.Model(probe, activation(probe))
        tracer = trace.Tracer()
        slots = tracer.slots.new(4)
        (out,) = trace.walk(graph, [flow_of(probe, {-1: Axis.of(slots, True)})], tracer)
    except Exception:
        # Code that does not run on symbols may do anything.
        return False
    axis = out.axis()
    return (
        # Weights of its own would have to go with the units.
        not graph.weights
        and out.shape == tuple(probe.shape)
        and tracer.untouched
        and axis is not None
        and np.array_equal(axis.slots, slots)
    )


def left_over(name: str, does: str) -> str:
    """What stops units that leave something behind, as for `tracer.add_up`.

    Args:
        name: Of what they run into.
        does: What it does, as the beginning of "… features".
    """
    what = "features that do not become zero with their unit"
    return f"through '{name}', which {does} {what}"


def elementwise(
    call: Call,
    operands: Sequence[Any],
    tracer: "trace.Tracer",
    function: Callable[..., Any],
) -> Any:
    """The output of an element-wise call, whose operands are tied where they meet.

    Args:
        call: The call.
        operands: What it works on: flows, arrays and numbers.
        tracer: What collects it.
        function: The same on NumPy arrays, to see where zeros stay zeros.
    """
    spec = call.spec
    rank = len(spec.shape)
    axes: dict[int, Axis] = {}
    for number in range(rank):
        meeting: list[Axis | None] = []
        zeros: list[Any] = []
        for operand in operands:
            shape = operand.shape if isinstance(operand, Flow) else np.shape(operand)
            own = number - rank + len(shape)
            if own < 0 or shape[own] == 1:
                # The same for all indices along the axis.
                single = not isinstance(operand, Flow) and np.size(operand) == 1
                zeros.append(float(np.asarray(operand).ravel()[0]) if single else False)
                continue
            axis = operand.axis(own) if isinstance(operand, Flow) else None
            if isinstance(operand, Flow):
                meeting.append(axis)
            zeros.append(False if axis is None else axis.zero)
        known = [axis for axis in meeting if axis is not None]
        if not known:
            continue
        for axis in meeting[1:]:
            tracer.tie(meeting[0], axis, "joined with what can't be removed")
        if None in meeting:
            continue
        first = known[0]
        columns = [
            one if isinstance(one, np.ndarray) else [one] * len(first) for one in zeros
        ]
        patterns = list(zip(*columns, strict=True))
        answers = {
            pattern: is_zero(
                function,
                [bool(one) if not isinstance(one, float) else one for one in pattern],
            )
            for pattern in set(patterns)
        }
        zero = np.array([answers[pattern] for pattern in patterns])
        axes[number] = Axis(first.slots, zero)
    return flow_of(spec, axes)


def cut(array: np.ndarray, result: Flow, kept: Kept) -> np.ndarray:
    """A constant operand of an element-wise call once units are gone.

    Args:
        array: The operand.
        result: What the call returned.
        kept: What is left.
    """
    for number, axis in result.axes.items():
        own = number - len(result.shape) + array.ndim
        if own >= 0 and array.shape[own] != 1:
            array = np.compress(kept.slots(axis.slots), array, own)
    return array


def joined(flows: Sequence[Flow], axis: int, spec: Any, tracer: "trace.Tracer") -> Flow:
    """Tensors put one after another along an axis.

    Args:
        flows: The tensors.
        axis: The axis, counted from the start.
        spec: The result's shape.
        tracer: What collects it.
    """
    rank = len(spec.shape)
    axes: dict[int, Axis | None] = {}
    for number in range(rank):
        parts = [flow.axis(number) for flow in flows]
        if number != axis:
            for part in parts[1:]:
                tracer.tie(parts[0], part, "joined with what can't be removed")
            axes[number] = None if None in parts else parts[0]
        elif any(part is not None for part in parts):
            full = [
                tracer.rigid(flow.shape[number] or 1) if part is None else part
                for flow, part in zip(flows, parts, strict=True)
            ]
            axes[number] = Axis(
                np.concatenate([part.slots for part in full]),
                np.concatenate([part.zero for part in full]),
            )
    return flow_of(spec, axes)


def contracted(
    operands: Sequence[Any],
    terms: Sequence[str],
    result: str,
    spec: Any,
    tracer: "trace.Tracer",
    name: str,
) -> Flow:
    """A sum of products, as `einsum` writes it.

    Args:
        operands: Flows, arrays, and Keras variables.
        terms: The letters of each operand's axes.
        result: The letters of the result.
        spec: The result's shape.
        tracer: What collects it.
        name: Of what computes it.
    """
    axes: dict[int, Axis | None] = {}
    for letter in sorted(set("".join(terms))):
        flows: list[Axis | None] = []
        variables = []
        constant = False
        for operand, term in zip(operands, terms, strict=True):
            if letter not in term:
                continue
            number = term.index(letter)
            if isinstance(operand, Flow):
                if operand.shape[number] != 1 or len(operands) == 1:
                    flows.append(operand.axis(number))
            elif hasattr(operand, "trainable"):
                variables.append((operand, number))
            else:
                constant = True
        for variable, number in variables:
            if not tracer.owns(variable):
                tracer.fix(
                    tracer.weights(variable, number, "along"),
                    f"tied to '{variable.path}', which no layer of the model holds",
                )
        for axis in flows[1:]:
            tracer.tie(flows[0], axis, "multiplied with what can't be removed")
        known = [axis for axis in flows if axis is not None]
        if letter in result:
            for variable, number in variables:
                slots = known[0].slots if known else None
                own = tracer.weights(variable, number, "in", slots)
                if None in flows:
                    tracer.fix(own, "multiplied with what can't be removed")
                elif not known:
                    known = [Axis.of(own, True)]
                    flows = [known[0]]
            if known and None not in flows:
                zero = np.any([axis.zero for axis in known], axis=0)
                if variables:
                    zero = np.ones(len(known[0]), bool)
                axes[result.index(letter)] = Axis(known[0].slots, zero)
        elif variables:
            for variable, number in variables:
                tracer.read(variable, number, known[0] if known else None)
        elif known:
            zero = np.any([axis.zero for axis in known], axis=0)
            tracer.add_up(
                Axis(known[0].slots, zero),
                left_over(name, "sums"),
            )
        if constant and known:
            tracer.stop(
                known[0],
                f"through '{name}', which multiplies them with a constant array: a "
                "layer that is not trainable can hold one",
            )
    return flow_of(spec, axes)
