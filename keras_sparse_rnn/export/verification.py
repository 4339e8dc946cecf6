"""A written file against the model it was made from."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from ai_edge_litert.compiled_model import CompiledModel

from keras_sparse_rnn._models import layers_of
from keras_sparse_rnn.export import copying
from keras_sparse_rnn.export.runtime import TFLiteModel

# Of the largest value of an output, or of 1: float32 sums in another order.
TOLERANCE = 1e-4
# Two lengths, so that a file that takes any length is seen to do so.
_LENGTHS = (16, 25)


def max_difference(
    content: bytes, model: Any, shapes: Sequence[Sequence[int | None]], exact: bool
) -> float:
    """Largest absolute difference between a TFLite file and a Keras model.

    Both of LiteRT's runtimes run the file on fixed random inputs, twice each.

    Args:
        content: The file.
        model: The Keras model; its inference only.
        shapes: Shapes of the file's inputs; `None` for the number of time steps
            where any will do.
        exact: Whether the file should compute what the model does but for
            rounding; else it may be quantized.

    Returns:
        The difference over all outputs, inputs and runtimes.

    Raises:
        RuntimeError: If a runtime can't load or run the file, a second run gives
            something else than the first, or the difference is too large.
    """
    graph = copying.graph_of(model)
    dynamic = any(None in shape for shape in shapes)
    worst = 0.0
    for length in _LENGTHS if dynamic else (None,):
        inputs = check_inputs(graph, shapes, length)
        expected = _predict(graph, inputs)
        for name, run in (
            ("Interpreter", _interpreter),
            ("CompiledModel", _compiled_model),
        ):
            try:
                first, second = run(content, inputs)
            except (RuntimeError, ValueError) as error:
                raise RuntimeError(
                    f"LiteRT's {name} can't run the file made from model "
                    f"'{model.name}'. Nothing was written. It says: {error}"
                ) from error
            if any(
                not np.array_equal(a, b, equal_nan=True)
                for a, b in zip(first, second, strict=True)
            ):
                raise RuntimeError(
                    f"Two runs of LiteRT's {name} on the same inputs gave different "
                    "outputs, so the file would carry something over from call to "
                    "call, or draw random numbers. Nothing was written. Check "
                    f"whether a layer of model '{model.name}' was called with "
                    "training=True."
                )
            for got, want, output in zip(
                first, expected, copying.output_names(graph), strict=True
            ):
                worst = max(worst, _difference(got, want, output, name, exact))
    return worst


def check_inputs(
    graph: Any, shapes: Sequence[Sequence[int | None]], length: int | None
) -> list[Any]:
    """Deterministic inputs that a model accepts.

    Integers are ids that every embedding in the model knows. Some steps at the end
    are what the model's masking layers, if it has any, take for padding.

    Args:
        graph: A Functional model.
        shapes: Shapes of its inputs.
        length: The number of time steps where a shape leaves it open.

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
    generator = np.random.default_rng(0)
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


def _predict(graph: Any, inputs: Sequence[Any]) -> list[Any]:
    # Keras draws dropout masks, unused, in inference too. The model's random state
    # shall be what it was.
    kept = [(variable, variable.numpy()) for variable in graph.non_trainable_variables]
    outputs = graph([keras.ops.convert_to_tensor(array) for array in inputs])
    for variable, value in kept:
        variable.assign(value)
    return [keras.ops.convert_to_numpy(one) for one in keras.tree.flatten(outputs)]


def _interpreter(content: bytes, inputs: Sequence[Any]) -> list[list[Any]]:
    model = TFLiteModel(content)
    results = [model(*inputs) for _ in range(2)]
    return [one if isinstance(one, list) else [one] for one in results]


def _compiled_model(content: bytes, inputs: Sequence[Any]) -> list[list[Any]]:
    # The file's order of names: this runtime has an alphabetical one.
    names = TFLiteModel(content)
    with CompiledModel.from_buffer(content) as model:
        (key,) = model.get_signature_list()
        for name, array, shape in zip(
            names.input_names, inputs, names.input_shapes, strict=True
        ):
            if -1 in shape:
                model.resize_input_tensor_by_name(key, name, array.shape)
        buffers = {
            name: model.create_input_buffer_by_name(key, name)
            for name in names.input_names
        }
        outputs = {
            name: model.create_output_buffer_by_name(key, name)
            for name in names.output_names
        }
        results = []
        for _ in range(2):
            for name, array in zip(names.input_names, inputs, strict=True):
                buffers[name].write(array)
            model.run_by_name(key, buffers, outputs)
            details = model.get_output_tensor_details(key)
            results.append(
                [
                    _read(outputs[name], details[name]["shape"], details[name]["dtype"])
                    for name in names.output_names
                ]
            )
    return results


def _read(buffer: Any, shape: Sequence[int], dtype: str) -> Any:
    count = int(np.prod(shape))
    return np.array(buffer.read(count, np.dtype(dtype))).reshape(shape)


def _difference(got: Any, want: Any, output: str, runtime: str, exact: bool) -> float:
    if got.shape != want.shape:
        raise RuntimeError(
            f"Output '{output}' of the file has shape {got.shape} in LiteRT's "
            f"{runtime}, but {want.shape} in Keras. Nothing was written."
        )
    got, want = got.astype("float64"), want.astype("float64")
    if not np.isfinite(want).all():
        if np.array_equal(got, want, equal_nan=True):
            return 0.0
        raise RuntimeError(
            f"Output '{output}' of the Keras model is not finite on the check "
            "inputs, so the file can't be checked. Nothing was written."
        )
    difference = float(np.abs(got - want).max(initial=0.0))
    scale = max(1.0, float(np.abs(want).max(initial=0.0)))
    allowed = scale * (TOLERANCE if exact else 1.0)
    if not difference <= allowed:
        raise RuntimeError(
            f"Output '{output}' of the file differs from the Keras model by "
            f"{difference:.3g} in LiteRT's {runtime}; at most {allowed:.3g} is "
            "allowed. Nothing was written."
            + ("" if exact else " Export without `quantize`.")
        )
    return difference
