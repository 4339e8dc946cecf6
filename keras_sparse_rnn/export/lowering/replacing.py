"""Lowered layers in the place of a model's recurrent ones."""

from typing import Any

import keras

from keras_sparse_rnn._backend import sublayers
from keras_sparse_rnn.export.lowering import dense, product, table
from keras_sparse_rnn.export.lowering.cells import can_lower
from keras_sparse_rnn.export.lowering.choice import LoweringError
from keras_sparse_rnn.export.lowering.layer import LoweredRNN, MergedSteps, Settings


class Replacer:
    """What `copy_model` takes: the layer to stand in the place of another.

    Args:
        settings: Those of the file.
    """

    def __init__(self, settings: Settings):
        self.settings = settings

    def __call__(self, layer: Any) -> Any:
        """The lowered layer, or `None` where the layer is to be copied as it is.

        Raises:
            LoweringError: If a recurrent layer can't have the form asked for.
        """
        if can_lower(layer):
            return LoweredRNN(layer, self.settings)
        if table.can_lower(layer):
            return table.LoweredTable(layer, self.settings)
        inner = layer.layer if type(layer) is keras.layers.TimeDistributed else layer
        if dense.can_lower(inner):
            return dense.LoweredDense(inner, layer.name)
        if product.can_lower(layer):
            return product.LoweredProduct(layer)
        if isinstance(layer, keras.layers.Bidirectional):
            if all(can_lower(side) for side in _sides(layer)):
                return self._both(layer)
        elif type(layer) is keras.layers.TimeDistributed:
            return self._each_step(layer)
        if _is_recurrent(layer):
            self._keep(layer)
        return None

    def _both(self, layer: Any, within_step: bool = False) -> Any:
        if self.settings.streaming is not None and not within_step:
            raise LoweringError(
                f"Layer '{layer.name}' also goes backwards, so that it needs a "
                "sequence's last step first. It can't be streamed; export the whole "
                "sequence."
            )
        config = layer.get_config()
        config["dtype"] = "float32"
        new = type(layer).from_config(config)
        # Keras's wrapper only ever calls its two layers; everything it asks of them
        # is there.
        new.forward_layer, new.backward_layer = (
            LoweredRNN(side, self.settings, within_step, f"{layer.name}/")
            for side in _sides(layer)
        )
        return new

    def _each_step(self, layer: Any) -> Any:
        inner = layer.layer
        if getattr(inner, "stateful", False):
            raise LoweringError(
                f"Layer '{layer.name}' runs a stateful layer within each time step, "
                "which is not exported. Build the inner layer with stateful=False."
            )
        if can_lower(inner):
            made = LoweredRNN(inner, self.settings, True, f"{layer.name}/")
            return MergedSteps(layer.name, made)
        if isinstance(inner, keras.layers.Bidirectional) and all(
            can_lower(side) for side in _sides(inner)
        ):
            return MergedSteps(layer.name, self._both(inner, within_step=True))
        if _is_recurrent(inner):
            self._keep(layer)
        return None

    def _keep(self, layer: Any) -> None:
        """Notes that a layer keeps the loop that Keras writes."""
        what = f"Layer '{layer.name}' ({_kind(layer)})"
        held = [one for one in sublayers(layer) if isinstance(one, keras.layers.RNN)]
        wanted = self.settings.wanted(layer.name, *(one.name for one in held))
        if wanted not in ("auto", "loop"):
            raise LoweringError(
                f"{what} can't be {wanted}: only Keras's own recurrent layers and "
                "cells and those of this package can, no subclass of them, and only "
                "where the model, a Bidirectional or a TimeDistributed calls them "
                "itself. Use lowering='loop' for it, which keeps the loop that Keras "
                "writes."
            )
        if self.settings.quantize == "int8":
            raise LoweringError(
                f"{what} keeps the loop that Keras writes, and TensorFlow's converter "
                "crashes when it calibrates a loop for int8. Use quantize='dynamic'."
            )
        # Within each time step it begins anew in a stream as well.
        within_step = type(layer) is keras.layers.TimeDistributed
        streamed = self.settings.streaming is not None and not within_step
        if streamed or any(one.stateful for one in held):
            raise LoweringError(
                f"It is not known what the states of l{what[1:]} are, so they can't "
                "become inputs and outputs. Keras's own recurrent layers and cells and "
                "those of this package are known, no subclass of them, and only where "
                "the model or a Bidirectional calls them itself."
            )
        self.settings.note(layer, layer.name, f"Keras's own loop ({_kind(layer)})")


def _sides(layer: Any) -> list[Any]:
    names = ("forward_layer", "backward_layer")
    return [getattr(layer, name) for name in names if hasattr(layer, name)]


def _is_recurrent(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Layer) and any(
        isinstance(one, keras.layers.RNN) for one in sublayers(layer)
    )


def _kind(layer: Any) -> str:
    return type(layer).__name__
