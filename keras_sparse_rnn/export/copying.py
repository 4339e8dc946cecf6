"""A copy of a model in which layers are replaced and shapes fixed.

The user's model is only read: every layer is made again from its configuration,
and the new ones get its weights.
"""

import keyword
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sparse_rnn._backend import origin, sublayers
from keras_sparse_rnn._graphs import as_graph
from keras_sparse_rnn._models import copied_lambda, is_graph, layers_of

_NARROWED = {"int64": "int32", "uint32": "int32", "uint64": "int32"}
_FLOATS = {"float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16"}

Replace = Callable[[Any], Any]


def checked(model: Any) -> Any:
    """A model as a graph that can be copied and exported: itself, if it is one.

    Raises:
        ValueError: If it is no model, can't be one, or Keras runs on another backend.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Only Keras with the TensorFlow backend can export. Save the model with "
            "`model.save('model.keras')` and export it in a process that has "
            "KERAS_BACKEND=tensorflow in its environment. Received: "
            f"backend={keras.backend.backend()!r}."
        )
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a Keras model. Received: model={model!r} of type "
            f"{type(model).__name__}."
        )
    graph = as_graph(model)
    if not hasattr(graph, "inputs"):
        raise ValueError(
            f"Model '{model.name}' does not know the shape of its inputs yet. Add a "
            "`keras.Input`, or build it, before exporting."
        )
    return graph


def is_stateful(model: Any) -> bool:
    """Whether some recurrent layer goes on from the states of the call before."""
    return any(
        getattr(layer, "stateful", False)
        and isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional))
        for layer in sublayers(model)
    )


def reset(model: Any) -> None:
    """Sets the states of a model's stateful layers to zeros."""
    for layer in sublayers(model):
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            layer.reset_state()


def needs_float32(model: Any) -> bool:
    """Whether some layer computes in, or stores, another float than float32."""
    return any(
        {layer.compute_dtype, layer.variable_dtype} & _FLOATS
        for layer in layers_of(model)
    )


def input_names(graph: Any) -> list[str]:
    """Names of the inputs, in Keras's order."""
    return _unique([origin(tensor).name for tensor in graph.inputs])


def output_names(graph: Any) -> list[str]:
    """Names of the layers that make the outputs; numbered where one makes several."""
    return _unique(list(graph.output_names))


def plain_name(name: str) -> str:
    """What a file calls something that has a name in Keras.

    TensorFlow's signatures take Python's identifiers only, no words that mean
    something to Python, and none that begin with an underscore.
    """
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    if plain[:1] in ("", "_") or plain[:1].isdigit():
        plain = f"x{plain}"
    return f"{plain}_" if keyword.iskeyword(plain) or plain == "self" else plain


def _unique(names: Sequence[str]) -> list[str]:
    result: list[str] = []
    for name in names:
        plain = plain_name(name)
        count, candidate = 0, plain
        while candidate in result:
            count += 1
            candidate = f"{plain}_{count}"
        result.append(candidate)
    return result


def graph_of(model: Any) -> Any:
    """The model's graph alone: flat inputs and outputs, no training configuration."""
    return keras.Model(model.inputs, model.outputs, name=model.name)


def copy_model(
    model: Any,
    replace: Replace,
    shapes: Sequence[Sequence[int | None]] | None = None,
) -> Any:
    """A copy with the same weights, computing in float32.

    Args:
        model: A Sequential or Functional model.
        replace: Gets each layer and returns the one to stand in its place, weights
            and all, or `None` for an ordinary copy.
        shapes: Shapes of the inputs, batch included. As in `model` by default.

    Returns:
        A Functional model with flat inputs and outputs.

    Raises:
        ValueError: If a layer can't be made again from its configuration.
    """
    graph = graph_of(model)
    copies: dict[int, Any] = {}
    pairs: list[tuple[Any, Any]] = []
    float32 = needs_float32(model)

    def copy(layer: Any) -> Any:
        # A layer that is used twice, be it in an inner model, is one layer.
        if id(layer) not in copies:
            copies[id(layer)] = make(layer)
        return copies[id(layer)]

    def make(layer: Any) -> Any:
        if is_graph(layer):
            return keras.models.clone_model(_inner_graph(layer), clone_function=copy)
        new = replace(layer)
        if new is None:
            new = _from_config(layer, float32)
            pairs.append((layer, new))
        return new

    if shapes is None:
        shapes = [tensor.shape for tensor in graph.inputs]
    inputs = [
        keras.Input(
            batch_shape=shape, dtype=narrowed(tensor.dtype), name=origin(tensor).name
        )
        for shape, tensor in zip(shapes, graph.inputs, strict=True)
    ]
    result = keras.models.clone_model(graph, input_tensors=inputs, clone_function=copy)
    for layer, new in pairs:
        if not isinstance(layer, keras.layers.Layer) or not layer.weights:
            continue
        try:
            new.set_weights(layer.get_weights())
        except ValueError as error:
            raise ValueError(
                f"The weights of layer '{layer.name}' ({type(layer).__name__}) do not "
                "fit the layer that its `get_config()` describes. Make the "
                "configuration complete, or merge what was added to the layer "
                f"later (LoRA weights, for example). Keras says: {error}"
            ) from error
    return result


def _inner_graph(layer: Any) -> Any:
    # Without the training configuration, which a copy need not be able to restore.
    if isinstance(layer, keras.Sequential):
        outputs = layer.outputs
        return keras.Model(
            layer.inputs[0],
            outputs[0] if len(outputs) == 1 else outputs,
            name=layer.name,
        )
    return keras.Model(layer.input, layer.output, name=layer.name)


def narrowed(dtype: str) -> str:
    """The dtype that an input of `dtype` has in a file: one every runtime takes."""
    return "float32" if dtype in _FLOATS else _NARROWED.get(dtype, dtype)


def _from_config(layer: Any, float32: bool) -> Any:
    if type(layer) is keras.layers.Lambda:
        return copied_lambda(layer, "float32" if float32 else layer.dtype_policy)
    try:
        config = layer.get_config()
        if "use_cudnn" in config or hasattr(layer, "use_cudnn"):
            config["use_cudnn"] = False
        if float32:
            config = _in_float32(config)
        new = type(layer).from_config(config)
    except Exception as error:
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) can't be made again from "
            "its configuration, which exporting needs. Give its class a "
            "`get_config()` that holds every argument of its constructor. Keras "
            f"says: {error}"
        ) from error
    # Wrappers hold layers of their own.
    for inner in layers_of(new) if isinstance(new, keras.layers.Layer) else ():
        if hasattr(inner, "use_cudnn"):
            inner.use_cudnn = False
    return new


def _in_float32(config: Any, key: str | None = None) -> Any:
    if key == "dtype":
        name = config["config"]["name"] if isinstance(config, dict) else config
        return "float32" if name in _FLOATS else config
    if isinstance(config, dict):
        return {name: _in_float32(value, name) for name, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_in_float32(value) for value in config)
    return config
