"""A recurrent layer in the form that it has in a file."""

from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from keras_sparse_rnn.export.lowering import fused, loop, unrolled
from keras_sparse_rnn.export.lowering.carried import Carried
from keras_sparse_rnn.export.lowering.cells import cell_of
from keras_sparse_rnn.export.lowering.choice import Call, LoweringError, choose

_STEPS = {"loop": loop.run, "unrolled": unrolled.run}


@dataclass
class Settings:
    """What all layers of a file have in common.

    Attributes:
        lowering: The form asked for, by the layer's name; that of `""` is for all
            others.
        target: The runtime that the file is for.
        quantize: How its weights will be quantized.
        carried: `None`, or what holds the states that come in as inputs.
        streaming: `None`; `"states"` or `"memory"` if the file is one step of a stream.
        chosen: What became of each layer, in words, in the order of their calls.
        fused: For each call of a layer that is fused, by the layer's name and the
            call's input, how many operations it takes.
        one_scale: Why int8 weights of the file have one scale a matrix, not one a row,
            by the names of the tables that need it.
        named: The names by which `lowering` can speak of a layer.
    """

    lowering: dict[str, str]
    target: str = "any"
    quantize: str | None = None
    carried: Carried | None = None
    streaming: str | None = None
    chosen: dict[str, str] = field(default_factory=dict)
    fused: dict[tuple[str, str], int] = field(default_factory=dict)
    one_scale: dict[str, str] = field(default_factory=dict)
    named: dict[str, None] = field(default_factory=dict)
    _owners: dict[str, Any] = field(default_factory=dict)

    def wanted(self, *names: str) -> str:
        """The form asked for a layer.

        Args:
            *names: What it may be called; the first that is named counts.
        """
        self.named.update(dict.fromkeys(names))
        found = (self.lowering[name] for name in names if name in self.lowering)
        return next(found, self.lowering[""])

    def note(self, layer: Any, name: str, what: str) -> str:
        """Remembers what became of a layer.

        Args:
            layer: The layer.
            name: Its name.
            what: In words. A layer may be called more than once, and become several.

        Returns:
            Its name, numbered if another layer has it too.
        """
        shown, number = name, 1
        while self._owners.setdefault(shown, layer) is not layer:
            number += 1
            shown = f"{name} ({number})"
        before = self.chosen.get(shown, "").split(", ")
        if what not in before:
            self.chosen[shown] = ", ".join([*filter(None, before), what])
        return shown


class LoweredRNN(keras.layers.Layer):
    """A recurrent layer written for a device; only for the TensorFlow backend.

    Args:
        layer: The built layer to take the weights and the arguments of. It is not
            changed.
        settings: Those of the file.
        within_step: Whether the layer runs anew within each time step of the model.
        within: What to put before the layer's name where it is told.
    """

    def __init__(
        self,
        layer: Any,
        settings: Settings,
        within_step: bool = False,
        within: str = "",
    ):
        super().__init__(name=layer.name, dtype="float32")
        self.streaming = None if within_step else settings.streaming
        self.rnn_cell: Any = cell_of(layer.cell)
        self.settings = settings
        self.carries = not within_step and (
            layer.stateful or settings.streaming == "states"
        )
        self.shown_name = f"{within}{layer.name}"
        self.names = [self.shown_name, layer.name, within.rstrip("/")]
        self.units = self.rnn_cell.units
        self.state_structure = list(layer.state_size)
        self.return_sequences = layer.return_sequences
        self.return_state = layer.return_state
        self.go_backwards = layer.go_backwards
        self.zero_output_for_mask = layer.zero_output_for_mask
        # What Keras's wrappers ask of the layers they hold.
        self.stateful = False
        self.states = None
        self.supports_masking = True
        self.built = True

    def compute_output_shape(
        self, sequences_shape: Any, initial_state_shape: Any = None
    ) -> Any:
        """Shapes of the output and, with `return_state=True`, of the states."""
        batch, length = sequences_shape[0], sequences_shape[1]
        output = (
            (batch, length, self.units)
            if self.return_sequences
            else (
                batch,
                self.units,
            )
        )
        if not self.return_state:
            return output
        shapes = [
            (batch, size) if isinstance(size, int) else [(batch, one) for one in size]
            for size in self.state_structure
        ]
        return (output, *shapes)

    def compute_output_spec(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
    ) -> Any:
        """What a call returns, without computing it."""
        return keras.tree.map_shape_structure(
            lambda shape: keras.KerasTensor(shape, "float32"),
            self.compute_output_shape(sequences.shape),
        )

    def compute_mask(self, _: Any, mask: Any) -> Any:
        """The mask goes on with a sequence, as in `keras.layers.RNN`."""
        mask = keras.tree.flatten(mask)[0]
        output_mask = mask if self.return_sequences else None
        if not self.return_state:
            return output_mask
        return [output_mask] + [None] * len(self.state_structure)

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
    ) -> Any:
        """As in `keras.layers.RNN`."""
        cell, settings = self.rnn_cell, self.settings
        mask = keras.tree.flatten(mask)[0]
        sequences = tf.cast(sequences, "float32")
        batch, length, features = sequences.shape
        carried = settings.carried if self.carries else None
        form, why = choose(
            settings.wanted(*filter(None, self.names)),
            Call(
                name=self.shown_name,
                cell=cell,
                batch=batch,
                length=length,
                masked=mask is not None,
                starts=initial_state is not None,
                carries=carried is not None,
                ends=self.return_state,
                backwards=self.go_backwards,
                target=settings.target,
                quantize=settings.quantize,
                streaming=self.streaming,
            ),
        )
        groups = f" over {cell.groups} groups" if cell.groups > 1 else ""
        shown = settings.note(self, self.shown_name, f"{form}{groups}{why}")
        if form == "fused":
            settings.fused[shown, sequences.name] = cell.groups
            last, outputs = fused.run(
                cell,
                sequences,
                backwards=self.go_backwards,
                remembers=self.streaming == "memory",
            )
            return outputs if self.return_sequences else last

        def zeros(size: int) -> Any:
            rows = tf.shape(sequences)[0] if batch is None else batch
            return tf.ensure_shape(tf.zeros((rows, size)), (batch, size))

        names: list[str] = []
        if initial_state is not None:
            states = tuple(
                tf.broadcast_to(tf.cast(state, "float32"), (batch, size))
                for state, size in zip(
                    keras.tree.flatten(initial_state), cell.sizes, strict=True
                )
            )
        elif carried is not None:
            states, names = carried.take(self, cell.states, cell.sizes, zeros)
        else:
            states = tuple(zeros(size) for size in cell.sizes)
        rows = cell.project(tf.reshape(_time_first(sequences), (-1, features)))
        rows = tf.reshape(rows, (*_open((length, batch)), rows.shape[-1]))
        if mask is not None:
            mask = tf.cast(mask, "bool")
            mask = mask if len(mask.shape) == 3 else tf.expand_dims(mask, -1)
            mask = _time_first(mask)
        # In a stream a masked step repeats the output of the call before.
        streamed = self.streaming is not None and carried is not None
        output = states[cell.output]
        last, outputs, states = _STEPS[form](
            cell,
            rows,
            states,
            mask,
            before=output if streamed else tf.zeros_like(output),
            backwards=self.go_backwards,
            zero_masked=self.zero_output_for_mask,
            sequences=self.return_sequences,
        )
        if carried is not None and names:
            carried.put(names, states)
        result = _time_first(outputs) if self.return_sequences else last
        if not self.return_state:
            return result
        return (
            result,
            *keras.tree.pack_sequence_as(self.state_structure, list(states)),
        )


class MergedSteps(keras.layers.Layer):
    """`TimeDistributed` of a recurrent layer: its time steps as more of a batch.

    Args:
        name: Of the wrapper.
        layer: The lowered layer in it.
    """

    def __init__(self, name: str, layer: Any):
        super().__init__(name=name, dtype="float32")
        self.layer = layer
        self.supports_masking = True
        self.built = True

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As the inner layer's, for each step."""
        batch, length = input_shape[:2]
        inner = self.layer.compute_output_shape((batch, *input_shape[2:]))
        return (batch, length, *inner[1:])

    def compute_output_spec(
        self, inputs: Any, training: bool = False, mask: Any = None
    ) -> Any:
        """What a call returns, without computing it."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), "float32")

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        """All steps at once."""
        batch, length = inputs.shape[:2]
        if length is None:
            raise LoweringError(
                f"Layer '{self.name}' runs a recurrent layer within each time step, "
                "and the number of these is unknown. Pass `time_steps=`, or give the "
                "model's Input a fixed length."
            )
        rows = -1 if batch is None else batch * length
        merged = tf.reshape(inputs, (rows, *_open(inputs.shape[2:])))
        if mask is not None:
            mask = tf.reshape(mask, (rows, *_open(mask.shape[2:])))
        made = self.layer(merged, mask=mask)
        return tf.reshape(made, (*_open((batch, length)), *_open(made.shape[1:])))


def _open(shape: Any) -> list[int]:
    return [-1 if size is None else size for size in shape]


def _time_first(tensor: Any) -> Any:
    """`(batch, time, ...)` to `(time, batch, ...)`, and back."""
    # Not folded away by the converter where one of the two is 1.
    a, b, *rest = tensor.shape
    if a == 1 or b == 1:
        return tf.reshape(
            tensor,
            (-1 if b is None else b, -1 if a is None else a, *rest),
        )
    return tf.transpose(tensor, (1, 0, *range(2, 2 + len(rest))))
