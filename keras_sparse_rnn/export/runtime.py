"""Running a TFLite file from Python, and timing it."""

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from keras_sparse_rnn.export import flatfile

# What the names of states begin with; see `lowering.carried`.
_STATE = "state_"


class TFLiteModel:
    """A TFLite file as a function of NumPy arrays.

    A file that takes states (of `streaming="states"`, or of stateful layers) is called
    with `step`, which hands the states that come out to the next step.

    Args:
        path: The file, or its content as `bytes`.
        threads: Number of threads to compute with.

    Attributes:
        input_names: Names of the inputs, in the order in which a call takes them.
            For a file of `export_tflite` that is the Keras model's order.
        output_names: Names of the outputs, in the order in which it returns them.
        input_shapes: Shapes of the inputs; -1 where any size will do.
        state_names: Those of the inputs that are states: an output has the same name.

    Example:

    >>> model = TFLiteModel("model.tflite")
    >>> model(np.zeros((1, 32), "int32")).shape
    (1, 32, 10000)

    >>> step = TFLiteModel("step.tflite")  # of streaming="states"
    >>> for word in words:
    ...     scores = step.step(np.array([[word]], "int32"))
    >>> step.reset()  # before another stream
    """

    def __init__(self, path: str | os.PathLike[str] | bytes, threads: int = 1):
        if isinstance(path, bytes):
            content, shown = path, "The content"
            flatfile.check(content, shown)
        else:
            content, shown = flatfile.read(Path(path)), f"'{path}'"
        try:
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            runner = self._interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"{shown} is no TFLite file with one signature that this runtime can "
                f"load. LiteRT says: {error}"
            ) from error
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self.input_names = _names(self._inputs, runner.get_input_details())
        self.output_names = _names(self._outputs, runner.get_output_details())
        self.input_shapes = [
            tuple(int(size) for size in detail["shape_signature"])
            for detail in self._inputs
        ]
        self.state_names = [
            name
            for name in self.input_names
            if name.startswith(_STATE) and name in self.output_names
        ]
        self._shapes: list[tuple[int, ...]] | None = None
        self._states: dict[str, Any] = {}
        self.reset()

    def step(self, *inputs: Any) -> Any:
        """Computes the outputs and keeps the states for the next step.

        Args:
            *inputs: One array for each input that is no state, in their order.

        Returns:
            An array, or a list of arrays, of the outputs that are no states.
        """
        if len(inputs) != len(self.input_names) - len(self._states):
            own = [name for name in self.input_names if name not in self._states]
            raise ValueError(
                f"A step takes one array for each of {own}; the states "
                f"{self.state_names} are kept. Received: {len(inputs)} arrays."
            )
        given = iter(inputs)
        outputs = self(
            *(
                self._states[name] if name in self._states else next(given)
                for name in self.input_names
            )
        )
        made = dict(
            zip(
                self.output_names,
                outputs if isinstance(outputs, list) else [outputs],
                strict=True,
            )
        )
        self._states = {name: made.pop(name) for name in self.state_names}
        found = list(made.values())
        return found[0] if len(found) == 1 else found

    def reset(self) -> None:
        """Begins anew: states of zeros, also those that the file keeps itself."""
        shapes = dict(zip(self.input_names, self.input_shapes, strict=True))
        self._states = {
            name: np.zeros([max(size, 1) for size in shapes[name]], "float32")
            for name in self.state_names
        }
        if self._shapes is not None:
            self._interpreter.reset_all_variables()

    def __call__(self, *inputs: Any) -> Any:
        """Computes the outputs.

        Args:
            *inputs: One array for each input, in the order of `input_names`. An
                input is resized where its shape differs from the file's.

        Returns:
            An array, or a list of arrays in the order of `output_names`.
        """
        self._set(inputs)
        self._interpreter.invoke()
        outputs = [
            self._interpreter.get_tensor(detail["index"]) for detail in self._outputs
        ]
        return outputs[0] if len(outputs) == 1 else outputs

    def latency(self, inputs: Any, repeats: int = 50) -> float:
        """Median time of one run, in milliseconds, without setting the inputs.

        Args:
            inputs: An array, or a list of arrays in the order of `input_names`.
            repeats: Number of runs to take the median of; a few more come before.
        """
        self._set(inputs if isinstance(inputs, (list, tuple)) else [inputs])
        for _ in range(3):
            self._interpreter.invoke()
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            self._interpreter.invoke()
            seconds.append(time.perf_counter() - begin)
        return 1e3 * statistics.median(seconds)

    def _set(self, inputs: Sequence[Any]) -> None:
        if len(inputs) != len(self._inputs):
            raise ValueError(
                f"The file has {len(self._inputs)} inputs, {self.input_names}. "
                f"Received: {len(inputs)} arrays."
            )
        arrays = [
            np.asarray(array).astype(detail["dtype"], copy=False)
            for array, detail in zip(inputs, self._inputs, strict=True)
        ]
        shapes = [array.shape for array in arrays]
        for name, array, expected in zip(
            self.input_names, arrays, self.input_shapes, strict=True
        ):
            if len(array.shape) != len(expected) or any(
                size not in (-1, own)
                for own, size in zip(array.shape, expected, strict=True)
            ):
                raise ValueError(
                    f"Input '{name}' takes arrays of shape {expected} (-1 is any "
                    f"size). Received: an array of shape {array.shape}."
                )
        if shapes != self._shapes:
            for array, detail in zip(arrays, self._inputs, strict=True):
                self._interpreter.resize_tensor_input(detail["index"], array.shape)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for array, detail in zip(arrays, self._inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], array)


def _names(details: list[dict[str, Any]], signature: dict[str, Any]) -> list[str]:
    by_tensor = {detail["index"]: name for name, detail in signature.items()}
    return [by_tensor[detail["index"]] for detail in details]
