"""A model's inference as a TensorFlow function with named arguments and results."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from keras_sparse_rnn.export import copying
from keras_sparse_rnn.export.lowering import Carried


@dataclass(frozen=True)
class Serving:
    """The function, and what it takes and gives.

    Attributes:
        function: A `tf.function`; its results are a dictionary.
        inputs: Names of the model's inputs, in Keras's order.
        outputs: Names of the model's outputs, in Keras's order.
        states: Name and shape of each state. It is an argument and a result of that
            name, behind the model's own.
    """

    function: Any
    inputs: list[str]
    outputs: list[str]
    states: Mapping[str, tuple[Any, ...]]


def serving(
    graph: Any,
    carried: Carried | None = None,
    copies: Mapping[str, int] | None = None,
) -> Serving:
    """The inference of a model.

    Args:
        graph: What `copying.copy_model` returns.
        carried: What its lowered layers ask for their states.
        copies: How often to copy a result, by name, which the converter would else
            find to be the same as another.

    Raises:
        LoweringError: If a layer can't have the form asked for.
    """
    inputs, outputs = copying.input_names(graph), copying.output_names(graph)
    specs = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for tensor, name in zip(graph.inputs, inputs, strict=True)
    ]

    def infer(arguments: Any) -> dict[str, Any]:
        made = keras.tree.flatten(graph(list(arguments), training=False))
        return dict(zip(outputs, made, strict=True))

    def apart(results: dict[str, Any]) -> dict[str, Any]:
        return {
            name: _copied(result, (copies or {}).get(name, 0))
            for name, result in results.items()
        }

    states: dict[str, tuple[Any, ...]] = {}
    if carried is not None:

        def record(*arguments: Any) -> dict[str, Any]:
            with carried.recording():
                infer(arguments)
            return {}

        _traced(tf.function(record, input_signature=specs, autograph=False))
        states = dict(carried.shapes)

    def serve(*arguments: Any) -> dict[str, Any]:
        if carried is None:
            return apart(infer(arguments))
        own, given = arguments[: len(inputs)], arguments[len(inputs) :]
        with carried.given(dict(zip(states, given, strict=True))) as after:
            made = infer(own)
            made.update({name: after[name] for name in states})
        return apart(made)

    specs += [
        tf.TensorSpec(shape, "float32", name=name) for name, shape in states.items()
    ]
    function = tf.function(serve, input_signature=specs, autograph=False)
    _traced(function)
    return Serving(function, inputs, outputs, states)


def _copied(tensor: Any, times: int) -> Any:
    """The same values by operations of no effect that the converter does not remove."""
    for _ in range(times):
        same = tf.logical_or if tensor.dtype == tf.bool else tf.maximum
        tensor = same(tensor, tensor)
    return tensor


def _traced(function: Any) -> None:
    try:
        function.get_concrete_function()
    except ValueError as error:
        # Keras wraps an error in a copy that also tells the arguments.
        original: BaseException = error
        while type(original.__context__) is type(original):
            original = original.__context__
        if original is error:
            raise
        raise original from None
