"""Which form a layer takes in a file, and why one can't be had."""

from dataclasses import dataclass

import keras

from keras_sparse_rnn.export.lowering.cells import Cell, LSTMCell

LOWERINGS = ("loop", "unrolled", "fused")
# Those that run the fused operation. LiteRT's CompiledModel does not.
CLASSIC = ("interpreter", "micro")
TARGETS = ("any", *CLASSIC)
# By benchmarks/lowering.py: up to here steps written out are 1.1 to 3 times as fast as
# a loop. Beyond, each step's own copy of the recurrent weights (of float ones: int8 is
# a quarter) no longer stays in a cache, and files and memory grow with the steps.
MOST_STEPS = 8
MOST_WEIGHTS = 65_536


class LoweringError(ValueError):
    """A layer can't have the form that was asked for."""


@dataclass(frozen=True)
class Call:
    """A call of a recurrent layer, as far as its form depends on it.

    Attributes:
        name: The layer's name.
        cell: What it computes.
        batch: The batch size.
        length: The number of time steps, `None` if unknown.
        masked: Whether steps may be masked.
        starts: Whether it is handed states to start from.
        carries: Whether its states are inputs and outputs of the file.
        ends: Whether it returns its last states.
        backwards: Whether it goes from the last step to the first.
        target: The runtime that the file is for, one of `TARGETS`.
        quantize: How the file will be quantized, `None` if it will not.
        streaming: `None`, or how the states of a stream are kept.
    """

    name: str
    cell: Cell
    batch: int
    length: int | None
    masked: bool
    starts: bool
    carries: bool
    ends: bool
    backwards: bool
    target: str
    quantize: str | None
    streaming: str | None


def choose(lowering: str, call: Call) -> tuple[str, str]:
    """The form of a layer, and a remark for the report.

    Args:
        lowering: `"auto"`, or one of `LOWERINGS`.
        call: How the layer is called.

    Raises:
        LoweringError: If the layer can't have that form.
    """
    if call.streaming is not None:
        _check_stream(call)
    if lowering == "auto":
        form = _automatic(call)
        return form, ""
    _raise(lowering, call, _obstacle(lowering, call))
    return lowering, ""


def _raise(form: str, call: Call, obstacle: str | None) -> None:
    if obstacle is not None:
        raise LoweringError(f"Layer '{call.name}' can't be {form}: {obstacle}")


def _automatic(call: Call) -> str:
    if call.streaming == "memory":
        _raise("fused", call, _obstacle("fused", call))
        return "fused"
    if call.streaming == "states":
        return "unrolled"
    if call.target == "micro" and _obstacle("fused", call) is None:
        return "fused"
    if call.quantize == "int8":
        _raise("unrolled", call, _obstacle("unrolled", call))
        return "unrolled"
    most = MOST_WEIGHTS * (4 if call.quantize == "dynamic" else 1)
    short = call.length is not None and call.length <= MOST_STEPS
    return "unrolled" if short and call.cell.recurrent_weights <= most else "loop"


def _obstacle(form: str, call: Call) -> str | None:
    """Why a layer can't have a form; `None` if it can."""
    if form == "loop":
        if call.quantize == "int8":
            return (
                "TensorFlow's converter crashes when it calibrates a loop for int8. "
                "Use lowering='unrolled', or quantize='dynamic'."
            )
        return None
    if call.length is None:
        return (
            "its number of time steps is unknown. Pass `time_steps=`, give the model's "
            "Input a fixed length, or use lowering='loop', which takes any number of "
            "steps."
        )
    return None if form == "unrolled" else _not_fused(call)


def _not_fused(call: Call) -> str | None:
    cell = call.cell
    activations = (
        getattr(cell, "activation", None),
        getattr(cell, "recurrent_activation", None),
    )
    reasons = [
        (
            call.target not in CLASSIC,
            "LiteRT's CompiledModel (Android, iOS, browsers) does not load the "
            "operation. If the file is for the classic interpreter or a "
            "microcontroller, pass target='interpreter' or target='micro'",
        ),
        (type(cell) is not LSTMCell, "the operation is an LSTM, and the layer is not"),
        (
            activations != (keras.activations.tanh, keras.activations.sigmoid),
            "the operation has tanh and sigmoid for activations, and no others",
        ),
        (
            call.quantize == "int8" and call.streaming is None,
            "the step that makes it forget the call before has an input far beyond all "
            "others, for which the range of int8 has no room",
        ),
        (call.masked, "the operation knows no mask"),
        (call.starts, "the operation can't start from given states"),
        (
            call.carries,
            "the operation can't start from given states, as a stateful layer must",
        ),
        (call.ends, "the operation does not give out its last states"),
    ]
    for holds, text in reasons:
        if holds:
            return f"{text}. Use 'loop' or 'unrolled' for it."
    return None


def _check_stream(call: Call) -> None:
    if call.backwards:
        raise LoweringError(
            f"Layer '{call.name}' goes backwards, so that it needs a sequence's last "
            "step first. It can't be streamed; export the whole sequence."
        )
    if call.starts:
        raise LoweringError(
            f"Layer '{call.name}' starts from states that the model computes, so that "
            "they would begin anew at each step. It can't be streamed; export the "
            "whole sequence."
        )
