"""A model of sequences as one step of a stream: what may be cut, and how."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._graphs import looked_up
from keras_sparse_rnn.export import copying

# Layers that look at other time steps than the one they make. Others that do are found
# when the stream is compared with the sequence.
_ACROSS_TIME: tuple[Any, ...] = (
    keras.layers.Attention,
    keras.layers.AdditiveAttention,
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
    keras.layers.AveragePooling1D,
    keras.layers.MaxPooling1D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.Cropping1D,
    keras.layers.UpSampling1D,
    keras.layers.ZeroPadding1D,
    keras.layers.Flatten,
    keras.layers.RepeatVector,
)
_CONVOLUTIONS: tuple[Any, ...] = (
    keras.layers.Conv1D,
    keras.layers.Conv1DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.SeparableConv1D,
)


def timed(model: Any) -> list[bool]:
    """Which inputs of a model have an axis of time, behind the batch.

    Those that leave it open; if none does, those as long as the first sequence of
    vectors, or else as the longest of ids.

    Args:
        model: A Functional or Sequential model.
    """
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if any(len(shape) > 1 and shape[1] is None for shape in shapes):
        return [len(shape) > 1 and shape[1] is None for shape in shapes]
    vectors = [shape[1] for shape in shapes if len(shape) > 2]
    ids = looked_up(copying.graph_of(model))
    integers = [
        shape[1]
        for number, (shape, tensor) in enumerate(zip(shapes, model.inputs, strict=True))
        # Ids are floats unless Keras is told otherwise.
        if len(shape) == 2 and ("int" in tensor.dtype or number in ids)
    ]
    if not vectors and not integers:
        return [len(shape) > 1 and shape[1] == _first(shapes) for shape in shapes]
    length = vectors[0] if vectors else max(integers)
    return [
        len(shape) > 1
        and shape[1] == length
        and (len(shape) > 2 or "int" in tensor.dtype or number in ids)
        for number, (shape, tensor) in enumerate(zip(shapes, model.inputs, strict=True))
    ]


def _first(shapes: Sequence[tuple[int, ...]]) -> int | None:
    return next((shape[1] for shape in shapes if len(shape) > 1), None)


def check(model: Any) -> None:
    """Raises if a layer is known to look at more than one time step.

    Args:
        model: A Functional or Sequential model.
    """
    for layer in _at_each_step(model):
        wide = isinstance(layer, _CONVOLUTIONS) and (
            tuple(layer.kernel_size) != (1,) or tuple(layer.strides) != (1,)
        )
        if wide or isinstance(layer, _ACROSS_TIME):
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) looks at more than one "
                f"time step, so that model '{model.name}' can't be streamed. Export "
                "the whole sequence, without `streaming=`."
            )


def _at_each_step(model: Any) -> Iterator[Any]:
    """The layers that see the model's own time, and not one within a time step."""
    for layer in getattr(model, "layers", []):
        if isinstance(layer, keras.Model):
            yield from _at_each_step(layer)
        elif not isinstance(layer, keras.layers.TimeDistributed):
            yield layer


def step_shapes(
    shapes: Sequence[Sequence[int | None]], timed: Sequence[bool]
) -> list[list[int | None]]:
    """Shapes of the inputs of one step.

    Args:
        shapes: Those of sequences.
        timed: Which of them have an axis of time.
    """
    return [
        [shape[0], 1, *shape[2:]] if own else list(shape)
        for shape, own in zip(shapes, timed, strict=True)
    ]


def frames(
    arrays: dict[str, Any], inputs: Sequence[str], timed: Sequence[bool]
) -> Iterator[dict[str, Any]]:
    """A sequence as the steps of a stream.

    Args:
        arrays: By the inputs' names.
        inputs: Their names.
        timed: Which of them have an axis of time, behind the batch.
    """
    by_name = dict(zip(inputs, timed, strict=True))
    length = next(arrays[name].shape[1] for name, own in by_name.items() if own)
    for t in range(length):
        yield {
            name: array[:, t : t + 1] if by_name[name] else array
            for name, array in arrays.items()
        }


def of_sequence(steps: list[Any], whole: Any) -> list[Any]:
    """An output of a stream: all steps if it has an axis of time, or the last.

    Args:
        steps: The output at each step.
        whole: The same output for the whole sequence.
    """
    shape = steps[0].shape
    if len(shape) < 2 or len(shape) != len(whole.shape):
        return steps[-1:]
    per_step = shape[1] == 1 and whole.shape[1] == len(steps)
    return steps if per_step else steps[-1:]


def joined(steps: list[Any], whole: Any) -> Any:
    """The same as one array, like that of the whole sequence."""
    found = of_sequence(steps, whole)
    return found[0] if len(found) == 1 else np.concatenate(found, axis=1)
