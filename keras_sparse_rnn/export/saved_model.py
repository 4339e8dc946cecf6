"""TensorFlow SavedModels, for servers."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._backend import origin, sublayers
from keras_sparse_rnn.export import copying, files, streams, verification
from keras_sparse_rnn.export.arguments import check_positive
from keras_sparse_rnn.export.lowering import Carried, Replacer, Settings
from keras_sparse_rnn.export.serving import Serving, serving
from keras_sparse_rnn.layers import TieredEmbedding

# Signatures: the whole sequence, under its own name too, and one step of a stream.
_SEQUENCE = ("serving_default", "sequence")
_STEP = "step"
# Float32 sums in another order; of the largest value of an output, or of 1.
_TOLERANCE = 1e-5
_LENGTH = 7


@dataclass(frozen=True)
class SavedModelReport:
    """What `export_saved_model` wrote.

    Attributes:
        path: The directory.
        signatures: Names of the signatures.
        inputs: Names of the model's inputs, the same in all signatures.
        outputs: Names of the model's outputs, the same in all signatures.
        states: For each signature the names of the states, each both an input and an
            output: hand back what came out, and zeros to begin anew.
        notes: What else is worth knowing, such as why there is no step.
    """

    path: Path
    signatures: list[str]
    inputs: list[str]
    outputs: list[str]
    states: dict[str, list[str]]
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [("directory", str(self.path))]
        rows += [("input", name) for name in self.inputs]
        rows += [("output", name) for name in self.outputs]
        for name in self.signatures:
            states = ", ".join(self.states[name])
            rows.append(("signature", f"{name}{', with ' if states else ''}{states}"))
        rows += [("note", note) for note in self.notes]
        return "\n".join(f"{name:<12}{text}" for name, text in rows)


def export_saved_model(
    model: Any, path: str | os.PathLike[str], batch_size: int | None = None
) -> SavedModelReport:
    """Writes a TensorFlow SavedModel that serves sequences, and steps of a stream.

    It has the signatures `serving_default` and `sequence`, which are one and take whole
    sequences, and, where the model can be run one time step at a time, `step`: that
    takes one time step and the states of all recurrent layers, and gives one time step
    and the new states. States are named `state_…` after their layers: hand back what
    came out, and zeros to begin anew. So are those of layers with `stateful=True`, in
    `sequence` too.

    Inputs are named after the model's inputs and outputs after the layers that make
    them. `tf.saved_model.load` loads it in a process that has neither Keras nor this
    package. Recurrent layers are written without cuDNN, so that the file runs on
    machines with and without a GPU. Dropout is off.

    Args:
        model: A Keras model; one whose `call` is code is made a graph of layers first.
            It is not changed.
        path: The directory to write. An older SavedModel there is replaced, but
            only once the new one is complete.
        batch_size: Fixes the batch size. By default it is as in the model,
            usually unknown, so that any batch can be served.

    Returns:
        What was written. If there is no `step`, the notes say why.

    Raises:
        ValueError: If the model can't be exported or `path` can't be written to.

    Example:

    >>> report = export_saved_model(model, "serving/1")
    >>> served = tf.saved_model.load("serving/1").signatures
    >>> served["sequence"](words=words)
    >>> states = {name: tf.zeros((1, 64)) for name in report.states["step"]}
    >>> made = served["step"](words=words[:, :1], **states)
    >>> states = {name: made[name] for name in states}
    """
    model = copying.checked(model)
    _check_numbers(model)
    check_positive("batch_size", batch_size)
    notes: list[str] = []
    with files.new_directory(Path(path), "saved_model.pb") as directory:
        shapes = [list(tensor.shape) for tensor in model.inputs]
        if batch_size is not None:
            for shape in shapes:
                shape[0] = batch_size
        with warnings.catch_warnings():
            # From inside TensorFlow, and from layers that look at their inputs'
            # values where there are some; while a function is traced there are none.
            warnings.simplefilter("ignore", DeprecationWarning)
            archive = keras.export.ExportArchive()
            graph, whole = _sequence(model, shapes)
            _track(archive, graph)
            states = {}
            for name in _SEQUENCE:
                archive.add_endpoint(name, whole.function)
                states[name] = list(whole.states)
            try:
                graph, step = _step(model, shapes, graph)
                _track(archive, graph)
                archive.add_endpoint(_STEP, step.function)
                states[_STEP] = list(step.states)
            except ValueError as error:
                notes.append(f"no signature '{_STEP}': {error}")
            archive.write_out(str(directory), verbose=False)
    return SavedModelReport(
        Path(path), list(states), whole.inputs, whole.outputs, states, notes
    )


def _check_numbers(model: Any) -> None:
    for tensor in model.inputs:
        if tensor.dtype == "string":
            raise ValueError(
                f"Input '{origin(tensor).name}' of model '{model.name}' takes text. "
                "Leave out the layer that makes ids of words, do its work before the "
                "model, and ship its vocabulary beside the file."
            )


def _track(archive: Any, graph: Any) -> None:
    """Adds what its functions need besides variables, such as vocabularies.

    Variables are found by the functions that use them. Keras would write those of a
    layer that is tracked once more.
    """
    for layer in sublayers(graph):
        if layer is not graph and layer.built and not layer.variables:
            archive.track(layer)


def _sequence(model: Any, shapes: Sequence[Any]) -> tuple[Any, Serving]:
    if not copying.is_stateful(model):
        graph = copying.copy_model(model, lambda layer: None, shapes)
        return graph, serving(graph)
    carried = Carried(False, _names(model))
    replacer = Replacer(Settings({"": "loop"}, carried=carried))
    graph = copying.copy_model(model, _but_tables(replacer), shapes)
    return graph, serving(graph, carried)


def _names(model: Any) -> list[str]:
    graph = copying.graph_of(model)
    return copying.input_names(graph) + copying.output_names(graph)


def _but_tables(
    replacer: Callable[[Any], Any], whole: Any = None
) -> Callable[[Any], Any]:
    """Leaves tables of words as they are: as constants each use would hold one.

    Args:
        replacer: For all other layers.
        whole: The model of sequences, whose tables serve the step too.
    """

    def replace(layer: Any) -> Any:
        if not isinstance(layer, (keras.layers.Embedding, TieredEmbedding)):
            return replacer(layer)
        names = [] if whole is None else [one.name for one in whole.layers]
        return whole.get_layer(layer.name) if layer.name in names else None

    return replace


def _step(model: Any, shapes: Sequence[Any], whole: Any) -> tuple[Any, Serving]:
    """The model as one step.

    Args:
        model: The model.
        shapes: Of its inputs.
        whole: The model of sequences.

    Raises:
        ValueError: If a stream of such steps is not the whole sequence.
    """
    timed = streams.timed(model)
    if not any(timed):
        raise ValueError("no input has an axis of time, behind the batch.")
    streams.check(model)
    carried = Carried(True, _names(model))
    settings = Settings({"": "auto"}, carried=carried, streaming="states")
    graph = copying.copy_model(
        model,
        _but_tables(Replacer(settings), whole),
        streams.step_shapes(shapes, timed),
    )
    step = serving(graph, carried)
    reference = copying.copy_model(model, lambda layer: None, shapes)
    batched = [[shape[0] or 2, *shape[1:]] for shape in shapes]
    arrays = dict(
        zip(
            step.inputs,
            verification.check_inputs(reference, batched, _LENGTH),
            strict=True,
        )
    )
    expected = reference([keras.ops.convert_to_tensor(one) for one in arrays.values()])
    states = {
        name: np.zeros((batched[0][0], shape[1]), "float32")
        for name, shape in step.states.items()
    }
    made = []
    for frame in streams.frames(arrays, step.inputs, timed):
        results = step.function(*frame.values(), *states.values())
        states = {name: results[name] for name in states}
        made.append([results[name].numpy() for name in step.outputs])
    for name, got, want in zip(
        step.outputs,
        zip(*made, strict=True),
        keras.tree.flatten(expected),
        strict=True,
    ):
        want = keras.ops.convert_to_numpy(want)
        # As floats: of booleans there is no difference.
        joined = streams.joined(list(got), want).astype("float64")
        difference = np.abs(joined - want.astype("float64")).max(initial=0.0)
        if not difference <= _TOLERANCE * max(1.0, np.abs(want).max(initial=0.0)):
            raise ValueError(
                f"output '{name}' of a stream of steps differs from that of the whole "
                f"sequence by {difference:.3g}: some layer must look at more than one "
                "time step."
            )
    return graph, step
