"""A written file against the model it was made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._models import layers_of
from keras_sparse_rnn.export import copying, running, streams

# Of the largest value of an output: how far a file may be from the model.
BOUNDS = {None: 1e-4, "float16": 0.01, "dynamic": 0.1, "int8": 0.1}
# Float32 sums in another order; of the largest value of an output, or of 1.
STREAM = 1e-5
# Two lengths, so that a file that takes any length is seen to do so.
_LENGTHS = (16, 25)
_STREAM_LENGTHS = (12, 7)
_SAMPLES = 4

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is to be checked.

    Attributes:
        path: The file.
        model: The Keras model whose inference it should be: a Functional model with
            flat inputs and outputs, for sequences.
        inputs: Names of the model's inputs, in order.
        outputs: Names of its outputs, in order.
        shapes: Shapes of the file's inputs; `None` for the number of time steps where
            any will do.
        states: Name and shape of each state that the file takes and gives.
        streaming: `None`; `"states"` or `"memory"` if the file is one step of a stream.
        timed: Which inputs have an axis of time, behind the batch.
        runtimes: Those that should take the file.
        quantize: How the file is quantized, `None` if it is not.
        bound: The largest difference allowed, as a share of an output's largest value.
        samples: `None`, or arrays by the inputs' names to check with.
    """

    path: Path
    model: Any
    inputs: Sequence[str]
    outputs: Sequence[str]
    shapes: Sequence[Sequence[int | None]]
    states: Mapping[str, Sequence[int]]
    streaming: str | None
    timed: Sequence[bool]
    runtimes: Sequence[str]
    quantize: str | None
    bound: float
    samples: Sequence[Arrays] | None


@dataclass(frozen=True)
class Result:
    """How far a file is from its model.

    Attributes:
        difference: The largest absolute difference, over all.
        share: The largest as a share of its output's largest value.
        by_runtime: The largest absolute difference in each runtime.
        memory: Peak memory in bytes in each runtime; `None` where it can't be told.
    """

    difference: float
    share: float
    by_runtime: dict[str, float]
    memory: dict[str, int | None]


def verify(plan: Plan) -> Result:
    """Runs a file in LiteRT's runtimes, and the model in Keras, on the same inputs.

    Several inputs, each twice. A file that carries states runs several steps from
    states of zero, a step of a stream as many as a sequence has.

    Raises:
        RuntimeError: If a runtime can't load or run the file, a second run gives
            something else than the first, or the difference is too large.
    """
    sequences = _sequences(plan)
    expected = [_expected(plan, sequence) for sequence in sequences]
    episodes = [_steps(plan, sequence) for sequence in sequences]

    def run(runtime: str) -> running.Run:
        try:
            return running.run(
                plan.path,
                runtime,
                episodes,
                plan.states,
                twice=plan.streaming != "memory",
            )
        except RuntimeError as error:
            lengths = [size for x in plan.model.inputs for size in x.shape[1:]]
            advice = (
                ""
                if None not in lengths
                else (
                    " Of unknown length it may be too much for it: export with "
                    "`time_steps=`, if one length will do."
                )
            )
            raise RuntimeError(
                f"LiteRT's {runtime} can't run the file made from model "
                f"'{plan.model.name}'. Nothing was written.{advice} It says: {error}"
            ) from error

    runs = {runtime: run(runtime) for runtime in plan.runtimes}
    by_runtime, shares = {}, []
    for runtime, made in runs.items():
        if not made.same:
            raise RuntimeError(
                f"Two runs of LiteRT's {runtime} on the same inputs gave different "
                "outputs, so the file would carry something over from call to call, "
                "or draw random numbers. Nothing was written. Check whether a layer "
                f"of model '{plan.model.name}' was called with training=True."
            )
        difference, share = _compare(plan, runtime, expected, made.outputs)
        by_runtime[runtime] = difference
        shares.append(share)
    return Result(
        max(by_runtime.values()),
        max(shares),
        by_runtime,
        {runtime: made.memory for runtime, made in runs.items()},
    )


def _sequences(plan: Plan) -> list[list[Arrays]]:
    """For each episode what the Keras model is called with, one call after another."""
    calls = 2 if plan.states and plan.streaming is None else 1
    if plan.samples is not None:
        return [[sample] for sample in plan.samples[:_SAMPLES]]
    wanted: Sequence[Any] = plan.shapes
    lengths: Sequence[int | None] = _LENGTHS
    if plan.streaming is not None:
        wanted = [tensor.shape for tensor in plan.model.inputs]
        lengths = _STREAM_LENGTHS
    if not any(None in shape[1:] for shape in wanted):
        lengths = (None, None)
    batched = [
        (own[0], *shape[1:]) for own, shape in zip(plan.shapes, wanted, strict=True)
    ]
    found = []
    for seed, length in enumerate(lengths):
        found.append(
            [
                dict(
                    zip(
                        plan.inputs,
                        check_inputs(plan.model, batched, length, seed + 2 * call),
                        strict=True,
                    )
                )
                for call in range(calls)
            ]
        )
    return found


def _expected(plan: Plan, calls: Sequence[Arrays]) -> list[list[Any]]:
    """The Keras model's outputs for each call of an episode."""
    model = plan.model
    # Keras draws dropout masks, unused, in inference too. The model's random state
    # shall be what it was.
    kept = [(variable, variable.numpy()) for variable in model.non_trainable_variables]
    copying.reset(model)
    made = []
    for arrays in calls:
        inputs = [keras.ops.convert_to_tensor(arrays[name]) for name in plan.inputs]
        outputs = keras.tree.flatten(model(inputs))
        made.append([keras.ops.convert_to_numpy(one) for one in outputs])
    copying.reset(model)
    for variable, value in kept:
        variable.assign(value)
    return made


def _steps(plan: Plan, calls: Sequence[Arrays]) -> list[Arrays]:
    """What the file is called with, step by step."""
    if plan.streaming is None:
        return list(calls)
    (arrays,) = calls
    return list(streams.frames(arrays, plan.inputs, plan.timed))


def check_inputs(
    graph: Any,
    shapes: Sequence[Sequence[int | None]],
    length: int | None,
    seed: int = 0,
) -> list[Any]:
    """Deterministic inputs that a model accepts.

    Integers are ids that every embedding in the model knows. Some steps at the end
    are what the model's masking layers, if it has any, take for padding.

    Args:
        graph: A Functional model.
        shapes: Shapes of its inputs.
        length: The number of time steps where a shape leaves it open.
        seed: What the numbers are drawn from.

    Returns:
        One array for each input.
    """
    layers = list(layers_of(graph))
    sizes = [
        layer.input_dim
        for layer in layers
        if isinstance(getattr(layer, "input_dim", None), int)
    ]
    padding = [
        layer.mask_value for layer in layers if isinstance(layer, keras.layers.Masking)
    ]
    generator = np.random.default_rng(seed)
    inputs = []
    for tensor, shape in zip(graph.inputs, shapes, strict=True):
        size = [length or 1 if axis is None else axis for axis in shape]
        dtype = np.dtype(tensor.dtype if tensor.dtype != "bfloat16" else "float32")
        array: Any
        if dtype.kind == "b":
            array = generator.random(size) < 0.5
        elif dtype.kind in "iu" or (sizes and len(size) <= 2):
            # Keras's inputs are floats unless it is told otherwise, also in front
            # of an embedding.
            array = generator.integers(0, min(sizes, default=2), size)
            if len(size) == 2 and sizes:
                array[:, size[1] - size[1] // 4 :] = 0
        else:
            array = generator.standard_normal(size)
            if padding and len(size) == 3:
                array[:, size[1] - size[1] // 4 :] = padding[0]
        inputs.append(array.astype(_device_dtype(dtype)))
    return inputs


def _device_dtype(dtype: Any) -> str:
    return "float32" if dtype.kind == "f" else copying.narrowed(dtype.name)


def _compare(
    plan: Plan,
    runtime: str,
    expected: Sequence[Sequence[Sequence[Any]]],
    made: Sequence[Sequence[Mapping[str, Any]]],
) -> tuple[float, float]:
    """The largest difference, absolute and as a share of its output's largest value."""
    worst, worst_share = 0.0, 0.0
    for number, name in enumerate(plan.outputs):
        pairs: list[tuple[Any, Any]] = []
        for calls, steps in zip(expected, made, strict=True):
            got = [step[name] for step in steps]
            wanted = [call[number] for call in calls]
            if plan.streaming is not None:
                count = len(got)
                got = streams.of_sequence(got, wanted[0])
                if len(got) == count > 1:
                    wanted = [wanted[0][:, t : t + 1] for t in range(count)]
            pairs += zip(got, wanted, strict=True)
        largest = max(_largest(want) for _, want in pairs)
        difference = max(_difference(a, b, name, runtime) for a, b in pairs)
        scale = largest if plan.quantize is not None else max(1.0, largest)
        if not difference <= plan.bound * scale:
            raise RuntimeError(_too_far(plan, name, runtime, difference, scale))
        worst = max(worst, difference)
        # Of an output that is all zeros there is no share.
        worst_share = max(worst_share, difference / largest if largest else 0.0)
    return worst, worst_share


def _too_far(
    plan: Plan, name: str, runtime: str, difference: float, scale: float
) -> str:
    bound = plan.bound
    text = (
        f"Output '{name}' of the file differs from the Keras model by "
        f"{difference:.3g} in LiteRT's {runtime}; at most {bound * scale:.3g} is "
        f"allowed, {bound:.3g} of {scale:.3g}. Nothing was written."
    )
    if plan.quantize is not None:
        return (
            f"{text} This is what quantize='{plan.quantize}' costs this model. Export "
            "it in another form, or, if you know better from data of your own, allow "
            "more with `max_error=`."
        )
    if plan.streaming is not None:
        return (
            f"{text} A stream of steps is not the whole sequence for this model: some "
            "layer may look at more than one step, and then the whole sequence can be "
            "exported; or it makes much of small differences, and then `max_error=` "
            "allows more."
        )
    return text


# What stands where a mask lets nothing through, such as -1e9, measures nothing.
_FILL = 1e8


def _measured(want: Any) -> Any:
    """Which values are compared by how far they are: finite, and no fill of a mask."""
    finite = np.isfinite(want)
    small = finite & (np.abs(np.where(finite, want, 0.0)) < _FILL)
    return small if small.any() else finite


def _largest(want: Any) -> float:
    """The largest value that is measured, without its sign."""
    values = want.astype("float64")
    return float(np.abs(values[_measured(values)]).max(initial=0.0))


def _difference(got: Any, want: Any, name: str, runtime: str) -> float:
    if got.shape != want.shape:
        raise RuntimeError(
            f"Output '{name}' of the file has shape {got.shape} in LiteRT's "
            f"{runtime}, but {want.shape} in Keras. Nothing was written."
        )
    got, want = got.astype("float64"), want.astype("float64")
    measured = _measured(want)
    # Fills, infinities and what is no number must be there, too.
    if not np.allclose(got[~measured], want[~measured], rtol=1e-3, equal_nan=True):
        return float("inf")
    difference = np.abs(got[measured] - want[measured]).max(initial=0.0)
    # Not a number is farther than any bound.
    return float(difference) if np.isfinite(difference) else float("inf")
