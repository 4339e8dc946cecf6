"""A metric of the user's, for the Keras model and for the file made from it."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn.export import copying, streams
from keras_sparse_rnn.export.runtime import TFLiteModel
from keras_sparse_rnn.export.serving import Serving


@dataclass(frozen=True)
class Metric:
    """A metric before and after exporting.

    Attributes:
        name: What it is called.
        keras: Its value for the Keras model.
        file: Its value for the file.
    """

    name: str
    keras: float
    file: float

    def __str__(self) -> str:
        return f"{self.name} {self.keras:.6g} in Keras, {self.file:.6g} in the file"


def check(metric: Any, data: Any) -> None:
    """Raises unless a metric can be computed from the data, or neither is given."""
    if (metric is None) != (data is None):
        raise ValueError(
            "`metric` and `data` go together: a metric, and the (x, y) to compute it "
            f"from. Received: metric={metric!r}, data "
            f"{'missing' if data is None else 'given'}."
        )
    if metric is None:
        return
    if inspect.isclass(metric) or not callable(_callable(metric)):
        raise ValueError(
            "`metric` must be a function of what is expected and what is given, a "
            "Keras metric (an object, not its class), or the name of one. Received: "
            f"metric={metric!r}."
        )
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(
            "`data` must be a pair (x, y) of arrays, as for `model.evaluate`. "
            f"Received: data of type {type(data).__name__}."
        )


def measure(
    metric: Any,
    data: Any,
    model: Any,
    path: Path,
    served: Serving,
    streaming: str | None,
    timed: Sequence[bool],
) -> Metric | None:
    """The metric of a model and of its file; `None` if there is no metric.

    Args:
        metric: As `check` takes it.
        data: As `check` takes it.
        model: The Keras model: a Functional model with flat inputs and outputs.
        path: The file.
        served: What the file takes and gives.
        streaming: `None`, or how a stream's states are kept.
        timed: Which inputs have an axis of time.
    """
    if metric is None:
        return None
    x, y = data
    arrays = by_name(x, served.inputs, "data")
    file = TFLiteModel(path)
    batch = file.input_shapes[0][0]
    count = len(next(iter(arrays.values())))
    expected = _arrays(y)
    given, wanted = [], []
    for begin in range(0, count, batch):
        # The last batch is filled up with the first examples.
        rows = np.arange(begin, begin + batch) % count
        part = {name: array[rows] for name, array in arrays.items()}
        want = _of_keras(model, part, served)
        wanted.append(want)
        given.append(_of_file(file, part, served, streaming, timed, want))
    return Metric(
        _name(metric),
        _score(metric, expected, _joined(wanted, count)),
        _score(metric, expected, _joined(given, count)),
    )


def _arrays(y: Any) -> Any:
    """What is expected, as an array, or arrays in a structure."""
    if isinstance(y, (list, tuple)) and y and np.ndim(y[0]) == 0:
        return np.asarray(y)
    return keras.tree.map_structure(np.asarray, y)


def by_name(data: Any, names: Sequence[str], argument: str) -> dict[str, Any]:
    """Arrays of examples by the inputs' names.

    Args:
        data: An array, a list of arrays in the inputs' order, or a dictionary.
        names: The inputs' names.
        argument: What to call it in a message.
    """
    if isinstance(data, dict):
        # By the names in Keras or by those in the file.
        arrays = {
            name if name in names else copying.plain_name(name): array
            for name, array in data.items()
        }
    elif isinstance(data, (list, tuple)) and len(data) == len(names):
        arrays = dict(zip(names, data, strict=True))
    elif len(names) == 1 and not isinstance(data, (list, tuple)):
        arrays = {names[0]: data}
    else:
        arrays = {}
    if sorted(arrays) != sorted(names):
        raise ValueError(
            f"`{argument}` must hold an array for each input of the model, {names}: a "
            "list in this order, or a dictionary by these names. Received: "
            f"{sorted(data) if isinstance(data, dict) else type(data).__name__}."
        )
    arrays = {name: np.asarray(arrays[name]) for name in names}
    if any(array.dtype == object or not array.ndim for array in arrays.values()):
        raise ValueError(
            f"`{argument}` must hold arrays of numbers, the examples along the first "
            f"axis. Received: {type(data).__name__}. Of a data set take some batches, "
            "for example with `np.concatenate(list(dataset.take(10).as_numpy_iterator"
            "()))`."
        )
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or not min(lengths.values()):
        raise ValueError(
            f"`{argument}` must hold as many examples for each input, and one at "
            f"least. Received: {lengths}."
        )
    return arrays


def _of_keras(model: Any, part: dict[str, Any], served: Serving) -> list[Any]:
    # As the file does, each batch begins anew.
    copying.reset(model)
    inputs = [keras.ops.convert_to_tensor(part[name]) for name in served.inputs]
    outputs = keras.tree.flatten(model(inputs, training=False))
    return [keras.ops.convert_to_numpy(one) for one in outputs]


def _of_file(
    file: TFLiteModel,
    part: dict[str, Any],
    served: Serving,
    streaming: str | None,
    timed: Sequence[bool],
    want: list[Any],
) -> list[Any]:
    file.reset()
    states = [np.zeros(shape, "float32") for shape in served.states.values()]
    steps = []
    frames = [part]
    if streaming is not None:
        frames = list(streams.frames(part, served.inputs, timed))
    for frame in frames:
        # Not by `step`, which would take a model's own inputs for states where they
        # are named like them.
        made = _listed(file(*(frame[name] for name in served.inputs), *states))
        steps.append(made[: len(served.outputs)])
        states = made[len(served.outputs) :]
    if streaming is None:
        return steps[0]
    return [
        streams.joined(list(got), whole)
        for got, whole in zip(zip(*steps, strict=True), want, strict=True)
    ]


def _joined(parts: list[list[Any]], count: int) -> list[Any]:
    return [np.concatenate(one)[:count] for one in zip(*parts, strict=True)]


def _evaluated(name: str, expected: Any, given: Any) -> float:
    """A metric as `model.evaluate` has it: which "accuracy" depends on the shapes."""
    start = keras.Input(given.shape[1:], dtype=given.dtype.name)
    model = keras.Model(start, keras.layers.Identity()(start))
    # Keras does not evaluate without a loss.
    model.compile(
        loss=lambda wanted, made: keras.ops.zeros(()), metrics=[name], run_eagerly=True
    )
    found = model.evaluate(
        given, expected, batch_size=len(given), verbose=0, return_dict=True
    )
    (value,) = (number for key, number in found.items() if key != "loss")
    return float(value)


def _listed(outputs: Any) -> list[Any]:
    return outputs if isinstance(outputs, list) else [outputs]


def _callable(metric: Any) -> Any:
    return keras.metrics.get(metric) if isinstance(metric, str) else metric


def _name(metric: Any) -> str:
    if isinstance(metric, str):
        return metric
    return str(getattr(metric, "name", None) or getattr(metric, "__name__", "metric"))


def _score(metric: Any, expected: Any, given: list[Any]) -> float:
    if isinstance(metric, str) and len(given) == 1:
        return _evaluated(metric, expected, given[0])
    function = _callable(metric)
    made: Any = given[0] if len(given) == 1 else given
    if isinstance(function, keras.metrics.Metric):
        function.reset_state()
        function.update_state(expected, made)
        value = function.result()
        function.reset_state()
    else:
        value = function(expected, made)
    return float(np.mean(keras.ops.convert_to_numpy(value)))
