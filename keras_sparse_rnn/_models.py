"""What a model is made of: questions that every wing asks of a Keras model."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_sparse_rnn import _backend

# Softmax and its like mix features, and so may any function that is not known.
_ELEMENTWISE = (
    keras.activations.elu,
    keras.activations.exponential,
    keras.activations.gelu,
    keras.activations.hard_sigmoid,
    keras.activations.hard_silu,
    keras.activations.hard_tanh,
    keras.activations.leaky_relu,
    keras.activations.linear,
    keras.activations.mish,
    keras.activations.relu,
    keras.activations.relu6,
    keras.activations.selu,
    keras.activations.sigmoid,
    keras.activations.silu,
    keras.activations.softplus,
    keras.activations.softsign,
    keras.activations.tanh,
)


def is_elementwise(activation: Any) -> bool:
    """Whether an activation is known to work on each feature by itself."""
    return any(activation is known for known in _ELEMENTWISE)


@functools.cache
def _functional_class() -> Any:
    # The class is not part of Keras's public names; its instances are.
    probe = keras.Input((1,), name="probe")
    passed = keras.layers.Identity(name="passed")(probe)
    return type(keras.Model(probe, passed, name="probe"))


def is_graph(layer: Any) -> bool:
    """Whether `layer` is a Sequential or Functional model, wholly told by its layers.

    A subclass with a `call` of its own is not: its Python code can't be copied.
    """
    return any(
        isinstance(layer, kind) and type(layer).call is kind.call
        for kind in (keras.Sequential, _functional_class())
    )


def input_like(symbol: Any, shape: Any) -> Any:
    """A symbol for another model that begins like one.

    Args:
        symbol: An input of that one. What it may be (optional, sparse) is kept, and
            its name.
        shape: The shape here, with the batch.
    """
    config = _backend.origin(symbol).get_config()
    return keras.Input(**{**config, "batch_shape": tuple(shape)})


@contextmanager
def uncompiled(model: Any) -> Iterator[None]:
    """Keeps Keras from compiling a clone by way of the serialized arguments.

    Those would lose a user's own loss, metrics and optimizer.

    Args:
        model: The model that is cloned meanwhile.
    """
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def copied_lambda(layer: Any, dtype: Any) -> Any:
    """A `Lambda` layer made again with its function.

    Keras does not restore a lambda from a configuration; none is needed in the same
    process.
    """
    return keras.layers.Lambda(
        layer.function,
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        dtype=dtype,
    )


def layers_of(layer: Any) -> Iterator[Any]:
    """`layer` and every layer in it: in models, in wrappers, in stacked cells."""
    yield layer
    inner = list(getattr(layer, "layers", None) or [])
    for name in ("layer", "forward_layer", "backward_layer", "cell"):
        inner.append(getattr(layer, name, None))
    cells = getattr(layer, "cells", None)
    inner.extend(cells if isinstance(cells, (list, tuple)) else [])
    for child in inner:
        if isinstance(child, keras.layers.Layer):
            yield from layers_of(child)
