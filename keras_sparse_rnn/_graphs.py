"""A model whose `call` is code, as a graph of its layers."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._models import input_like, is_graph, layers_of, uncompiled


def as_graph(model: Any, for_training: bool = False) -> Any:
    """A model as a graph of layers: itself, or what `call` makes of symbols.

    The layers of the graph are the model's own. Models within it that are code become
    graphs too, each under its own name.

    Args:
        model: A built Keras model.
        for_training: Whether the graph is to be trained on. Code that calls other
            layers in training is refused then: a graph has one path.

    Raises:
        ValueError: If its `call` can't be run on symbols, or makes tensors of no input.
    """
    expansion = _Expansion(for_training)
    if is_graph(model):
        return expansion.graph(model)
    declared = _declared(model)
    if declared is not None:
        try:
            graph = _traced(model, declared)
        except Exception as error:
            says = f"Calling it on symbols says: {error}"
            raise _refused(model, says) from error
        return expansion.finished(model, (graph.input,), {}, graph)
    shape = (model.get_build_config() or {}).get("input_shape")
    if shape is None:
        raise _refused(model, "It was not built on a single known input.")
    stateful = any(getattr(one, "stateful", False) for one in layers_of(model))
    # The shape it was built with need not be the only one. Where its code does not ask
    # for them, batches may be of any size, and sequences of any length.
    for open_axes in (0,) if stateful else (2, 1, 0):
        try:
            graph = _traced(model, _inputs(shape, open_axes))
            graph = _traced(model, _with_ids(graph, open_axes))
            break
        except Exception as error:
            if open_axes == 0:
                says = f"Calling it on symbols says: {error}"
                raise _refused(model, says) from error
    return expansion.finished(model, (graph.input,), {}, graph)


def _refused(model: Any, why: str) -> ValueError:
    return ValueError(
        f"Model '{model.name}' (a {type(model).__name__}) is code that can't be turned "
        "into a graph of layers. Build it as a Sequential or a Functional model. "
        f"{why}"
    )


def _declared(model: Any) -> Any:
    """Symbols like the inputs of a Functional model that has code of its own."""
    try:
        given = model.input
    except AttributeError:
        return None
    return keras.tree.map_structure(lambda one: input_like(one, one.shape), given)


def _inputs(shapes: Any, open_axes: int) -> Any:
    """Symbols of some shapes, but for a few axes at the front, which may be any size.

    Args:
        shapes: A shape, or a list or dictionary of them.
        open_axes: How many; the last axis keeps its size.
    """

    def start(shape: Any, name: str | None = None) -> Any:
        count = min(open_axes, max(1, len(shape) - 1))
        return keras.Input(
            batch_shape=(None,) * count + tuple(shape[count:]), name=name
        )

    if isinstance(shapes, dict):
        # Keras wants an input to be named after its key.
        return {key: start(one, key) for key, one in shapes.items()}
    return keras.tree.map_shape_structure(start, shapes)


def _traced(model: Any, inputs: Any) -> Any:
    return keras.Model(inputs, _outputs(model, (inputs,), {}), name=model.name)


def _outputs(model: Any, args: Any, kwargs: Any, training: Any = None) -> Any:
    """What `call` makes of symbols.

    Args:
        model: A model that is code.
        args: What it is called with.
        kwargs: By name.
        training: What `call` is told of training, unless `kwargs` say it. Told
            nothing, it hands nothing on, and layers ask when they are called; a
            default of `False` would stay with them for good.
    """
    signature = inspect.signature(model.call)
    if "training" in signature.parameters:
        given = signature.bind(*args, **kwargs).arguments
        if given.get("training") is None:
            kwargs = {**kwargs, "training": training}
    return model.call(*args, **kwargs)


def _check_training(model: Any, args: Any, kwargs: Any, graph: Any) -> None:
    """Refuses code that takes another path in training.

    Args:
        model: A model that is code.
        args: What it is called with.
        kwargs: By name.
        graph: What it made of them, told nothing of training.
    """
    try:
        outputs = _outputs(model, args, kwargs, training=True)
        trained = _steps(keras.Model(graph.input, outputs))
    except Exception as error:
        says = f"Calling it on symbols, with training=True, says: {error}"
        raise _refused(model, says) from error
    if trained != _steps(graph):
        raise _refused(
            model,
            "With training=True its `call` does something else, and a graph has only "
            "one path. Call the layers in any case: a `Dropout` does nothing outside "
            "of training.",
        )


def _steps(graph: Any) -> list[Any]:
    """What a graph does, call by call: layers, or operations and their constants."""
    found: list[Any] = []

    def visit(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(operation, keras.layers.Layer):
            found.append(id(operation))
        else:
            values = keras.tree.flatten((args, kwargs))
            constants = [one for one in values if isinstance(one, (int, float, str))]
            found.append((type(operation), constants))
        return operation(*args, **kwargs)

    _visited(graph, visit)
    return found


def _with_ids(graph: Any, open_axes: int) -> Any:
    """Inputs of a graph, integers where a layer looks them up in a table.

    A model remembers the shapes of its inputs, but not their types.

    Args:
        graph: The graph, with inputs of `_inputs`.
        open_axes: As for `_inputs`; ids have no axis of features.
    """
    ids = looked_up(graph)
    starts = []
    for number, one in enumerate(graph.inputs):
        shape, dtype = one.shape, one.dtype
        if number in ids:
            shape, dtype = (None,) * open_axes + shape[open_axes:], "int32"
        starts.append(keras.Input(batch_shape=shape, dtype=dtype, name=one.name))
    return keras.tree.pack_sequence_as(graph.input, starts)


def looked_up(graph: Any) -> set[int]:
    """Which inputs of a Functional model, by number, are looked up in a table."""
    numbers = {id(one): number for number, one in enumerate(graph.inputs)}
    found: set[int] = set()

    def visit(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(operation, "input_dim") and hasattr(operation, "output_dim"):
            given = keras.tree.flatten((args, kwargs))
            found.update(numbers[id(one)] for one in given if id(one) in numbers)
        return operation(*args, **kwargs)

    _visited(graph, visit)
    return found


def _visited(graph: Any, visit: Callable[..., Any]) -> Any:
    """A copy of a Functional model, of the same layers and inputs, call by call."""
    with uncompiled(graph):
        return keras.models.clone_model(
            graph,
            input_tensors=graph.input,
            clone_function=lambda operation: operation,
            call_function=visit,
        )


def _with_tables(graph: Any) -> Any:
    """A graph in which products with a transposed weight are products with the weight.

    Code that multiplies with `ops.transpose(table)` hands over the present values of
    the table; the graph has to hold on to the table.

    Raises:
        ValueError: If a tensor among the arguments is of some other origin.
    """
    found = []

    def visit(operation: Any, *args: Any, **kwargs: Any) -> Any:
        values = keras.tree.flatten((args, kwargs))
        if not any(_is_constant(one) for one in values):
            return operation(*args, **kwargs)
        table = None
        if type(operation).__name__ == "Matmul" and not _is_constant(args[0]):
            table = _transposed(args[1], graph.weights)
        if table is None:
            raise ValueError(
                f"Model '{graph.name}' hands '{operation.name}' a tensor that its "
                "`call` made of no input. Were it made of weights, a graph would hold "
                "their present values for good. Make it inside a layer (a tied output: "
                "`keras.layers.ReversibleEmbedding`), or build a Functional model."
            )
        found.append(table)
        axes = "abcdefgh"[: len(args[0].shape) - 1]
        return keras.ops.einsum(f"{axes}y,zy->{axes}z", args[0], table)

    copy = _visited(graph, visit)
    return copy if found else graph


def _is_constant(value: Any) -> bool:
    return keras.ops.is_tensor(value) and not isinstance(value, keras.Variable)


def _transposed(value: Any, weights: Iterable[Any]) -> Any:
    """The weight that a tensor is the transpose of; `None` if that is not certain."""
    shape = tuple(value.shape)[::-1]
    array = keras.ops.convert_to_numpy(value).T
    # Of tables full of one number it could be any.
    if len(shape) != 2 or array.min() == array.max():
        return None
    same = [
        one
        for one in weights
        if tuple(one.shape) == shape
        and np.array_equal(keras.ops.convert_to_numpy(one), array)
    ]
    return same[0] if len(same) == 1 else None


class _Expansion:
    """Makes graphs of the models that are code within a graph, each once.

    Args:
        for_training: As for `as_graph`.
    """

    def __init__(self, for_training: bool):
        self._for_training = for_training
        self._made: dict[int, tuple[Any, Any]] = {}

    def finished(self, model: Any, args: Any, kwargs: Any, graph: Any) -> Any:
        """What a model that is code becomes.

        Args:
            model: The model.
            args: The symbols that it was called with.
            kwargs: By name.
            graph: What it made of them.
        """
        if self._for_training:
            _check_training(model, args, kwargs, graph)
        return self.graph(_with_tables(graph))

    def graph(self, model: Any) -> Any:
        """The same model, without any within that is code.

        Args:
            model: A Sequential or Functional model.
        """
        models = [one for one in layers_of(model) if isinstance(one, keras.Model)]
        if all(is_graph(one) for one in models):
            return model
        if isinstance(model, keras.Sequential):
            inputs = model.input
            outputs = inputs
            for layer in model.layers:
                outputs = layer(outputs)
            model = keras.Model(inputs, outputs, name=model.name)

        def visit(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(operation, keras.Model):
                return operation(*args, **kwargs)
            given = keras.tree.flatten((args, kwargs))
            tensors = [one for one in given if isinstance(one, keras.KerasTensor)]
            if id(operation) not in self._made:
                made = self._inner(operation, args, kwargs)
                self._made[id(operation)] = (operation, made)
            inner = self._made[id(operation)][1]
            if is_graph(operation):
                return inner(*args, **kwargs)
            return inner(tensors if len(tensors) > 1 else tensors[0])

        return _visited(model, visit)

    def _inner(self, model: Any, args: Any, kwargs: Any) -> Any:
        if is_graph(model):
            return self.graph(model)
        starts: list[Any] = []

        def start(one: Any) -> Any:
            if not isinstance(one, keras.KerasTensor):
                return one
            starts.append(keras.Input(batch_shape=one.shape, dtype=one.dtype))
            return starts[-1]

        args, kwargs = keras.tree.map_structure(start, (args, kwargs))
        try:
            outputs = _outputs(model, args, kwargs)
            inputs = starts if len(starts) > 1 else starts[0]
            graph = keras.Model(inputs, outputs, name=model.name)
        except Exception as error:
            says = f"Calling it on symbols says: {error}"
            raise _refused(model, says) from error
        return self.finished(model, args, kwargs, graph)
