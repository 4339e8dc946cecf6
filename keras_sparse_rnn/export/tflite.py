"""TFLite files, for phones, browsers and anything else that runs LiteRT."""

import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from keras_sparse_rnn.export import copying, files, verification
from keras_sparse_rnn.export.lowering import LOWERINGS, Replacer, UnknownTimeError
from keras_sparse_rnn.export.saved_model import check_positive, serving_function


@dataclass(frozen=True)
class ExportReport:
    """What `export_tflite` wrote.

    Attributes:
        path: The file.
        bytes: Its size.
        batch_size: The batch size it takes.
        time_steps: The number of time steps it takes, `None` if any.
        lowering: The form of its recurrent layers.
        quantize: How its weights are quantized, `None` if they are not.
        operators: Names of the operations in it.
        max_difference: Largest absolute difference from the Keras model, over all
            outputs for the check inputs, in both of LiteRT's runtimes.
        layers: What became of each recurrent layer.
        notes: What else is worth knowing.
    """

    path: Path
    bytes: int
    batch_size: int
    time_steps: int | None
    lowering: str
    quantize: str | None
    operators: list[str]
    max_difference: float
    layers: list[str]
    notes: list[str]

    def __str__(self) -> str:
        steps = "any" if self.time_steps is None else self.time_steps
        lines = [
            f"{self.path}: {self.bytes:,} bytes",
            f"  batch size {self.batch_size}, {steps} time steps, "
            f"lowering {self.lowering}, quantize {self.quantize}",
            f"  largest difference from Keras: {self.max_difference:.2g}",
            f"  operators: {', '.join(self.operators)}",
        ]
        lines += [f"  layer {layer}" for layer in self.layers]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    lowering: str = "auto",
    quantize: str | None = None,
    batch_size: int | None = None,
    time_steps: int | None = None,
) -> ExportReport:
    """Writes a TFLite file of builtin operations and checks it against the model.

    `keras.layers.LSTM` and `GroupedLSTM`, also in `Bidirectional`, are written in a
    form of their own: the products of the inputs of all time steps at once, then one
    small product per group and step. Other recurrent layers are written as Keras
    runs them. The file keeps no state between calls; it loads in LiteRT's
    `Interpreter` and in its `CompiledModel`, hence on Android, on iOS and in
    browsers.

    Before anything appears at `path`, both runtimes have run the file, and the
    outputs were compared with the Keras model's.

    Args:
        model: A Sequential or Functional Keras model. It is not changed.
        path: The file to write.
        lowering: `"loop"`: one WHILE operation per layer, small, and any number of
            time steps where the model takes any. `"unrolled"`: each step written
            out, for a fixed number of steps; the file grows with it. `"auto"` is
            `"loop"`.
        quantize: `None`, or `"dynamic"`: int8 weights, float activations; a quarter
            of the size. What it costs in accuracy is measured on random inputs and
            reported, not judged: look at `max_difference`, and at your own data.
        batch_size: The batch size of the file. By default the model's, and 1 if
            that is unknown.
        time_steps: The number of time steps, where the model leaves it open.

    Returns:
        What was written, and how far it is from the model.

    Raises:
        ValueError: If an argument is wrong, the model can't be exported in this
            form, or `path` can't be written to.
        RuntimeError: If the converter fails, or the file does not compute what the
            model does. Nothing is written then.

    Example:

    >>> report = export_tflite(model, "model.tflite", quantize="dynamic")
    >>> print(report)
    """
    form = _check_lowering(lowering)
    if quantize not in (None, "dynamic"):
        raise ValueError(
            f"`quantize` must be None or 'dynamic'. Received: quantize={quantize!r}."
        )
    check_positive("batch_size", batch_size)
    check_positive("time_steps", time_steps)
    copying.check_model(model)
    shapes, notes = _input_shapes(model, batch_size, time_steps)
    target = Path(path)
    with files.new_file(target) as temporary:
        replacer = Replacer(form)
        graph = copying.copy_model(model, replacer, shapes)
        reference = model
        if copying.needs_float32(model):
            reference = copying.copy_model(model, lambda layer: None, shapes)
            notes.append("the file computes in float32, and was compared in float32")
        with _quiet():
            content = _convert(graph, quantize)
            _check_builtin(content)
            difference = verification.max_difference(
                content, reference, shapes, exact=quantize is None
            )
        temporary.write_bytes(content)
    return ExportReport(
        path=target,
        bytes=len(content),
        batch_size=shapes[0][0] or 1,
        time_steps=_time_steps(model, shapes),
        lowering=form,
        quantize=quantize,
        operators=operators(content),
        max_difference=difference,
        layers=replacer.layers,
        notes=notes,
    )


def _check_lowering(lowering: str) -> str:
    if lowering == "fused":
        raise ValueError(
            "lowering='fused', the builtin LSTM operation, is not offered yet: it "
            "keeps its states in variables, which LiteRT's CompiledModel (Android, "
            "iOS, browsers) does not load, and carries them from call to call. Use "
            "'loop' or 'unrolled'."
        )
    form = "loop" if lowering == "auto" else lowering
    if form not in LOWERINGS:
        raise ValueError(
            "`lowering` must be 'auto', 'loop' or 'unrolled'. "
            f"Received: lowering={lowering!r}."
        )
    return form


def _input_shapes(
    model: Any, batch_size: int | None, time_steps: int | None
) -> tuple[list[list[int | None]], list[str]]:
    notes, shapes = [], []
    open_time = False
    for tensor in model.inputs:
        shape = list(tensor.shape)
        if not shape or None in shape[2:]:
            raise ValueError(
                f"Input '{tensor.name}' of model '{model.name}' has shape "
                f"{tuple(tensor.shape)}. Only the batch and the axis behind it may be "
                "unknown; give the Input fixed sizes elsewhere."
            )
        if batch_size is not None or shape[0] is None:
            shape[0] = batch_size or 1
        if len(shape) > 1 and shape[1] is None:
            open_time = True
            shape[1] = time_steps
        shapes.append(shape)
        narrow = copying.narrowed(tensor.dtype)
        if narrow != tensor.dtype:
            notes.append(
                f"input '{tensor.name}' is {tensor.dtype} in Keras and {narrow} in the "
                "file"
            )
    if batch_size is None and any(tensor.shape[0] is None for tensor in model.inputs):
        notes.insert(
            0, "the unknown batch size was exported as 1; batch_size= changes it"
        )
    if time_steps is not None and not open_time:
        fixed = _time_steps(model, shapes)
        if fixed != time_steps:
            raise ValueError(
                "`time_steps` fixes a number of steps that the model leaves open, and "
                f"the Input of model '{model.name}' fixes it at {fixed}. "
                f"Received: time_steps={time_steps}."
            )
    return shapes, notes


def _time_steps(model: Any, shapes: Sequence[Sequence[int | None]]) -> int | None:
    """The axis behind the batch: of an input that left it open, or of the first."""
    candidates = [shape for shape in shapes if len(shape) > 1]
    for tensor, shape in zip(model.inputs, shapes, strict=True):
        if len(shape) > 1 and tensor.shape[1] is None:
            return shape[1]
    return candidates[0][1] if candidates else None


def _convert(graph: Any, quantize: str | None) -> bytes:
    # The converter sees the variables only. Given the layers it would also trace
    # each inner model by itself, for shapes that it never gets here.
    holder = tf.Module()
    holder.held = [variable.value for variable in graph.variables]
    try:
        with warnings.catch_warnings():
            # TensorFlow warns of itself.
            warnings.simplefilter("ignore", DeprecationWarning)
            concrete = serving_function(graph).get_concrete_function()
            converter = tf.lite.TFLiteConverter.from_concrete_functions(
                [concrete], holder
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            # Outputs of a loop are then written by one operation, not several.
            converter._experimental_enable_dynamic_update_slice = True
            if quantize == "dynamic":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            content = converter.convert()
    except UnknownTimeError as error:
        raise ValueError(str(_as_raised(error))) from None
    except Exception as error:
        raise RuntimeError(
            f"The TFLite converter can't write model '{graph.name}' with builtin "
            "operations. Nothing was written. Unknown shapes are a common cause: try "
            f"`time_steps=`. It says: {_plain(error)}"
        ) from error
    return _in_keras_order(content, graph)


def _as_raised(error: BaseException) -> BaseException:
    """The error before Keras wrapped it in a copy that also tells the arguments."""
    while type(error.__context__) is type(error):
        error = error.__context__
    return error


def _plain(error: Exception) -> str:
    """An error's text without the escape codes for terminals that Keras puts in."""
    return re.sub(r"\x1b\[\d+m", "", str(error))


def _in_keras_order(content: bytes, graph: Any) -> bytes:
    """The file with its inputs and outputs in the model's order.

    The converter orders them as it likes. Only positions change: names still lead
    to the same tensors.
    """
    changed = bytearray(content)
    flat = schema.Model.GetRootAs(changed, 0)
    signature = flat.SignatureDefs(0)
    subgraph = flat.Subgraphs(signature.SubgraphIndex())
    for positions, count, entry, names in (
        (
            subgraph.InputsAsNumpy(),
            signature.InputsLength(),
            signature.Inputs,
            copying.input_names(graph),
        ),
        (
            subgraph.OutputsAsNumpy(),
            signature.OutputsLength(),
            signature.Outputs,
            copying.output_names(graph),
        ),
    ):
        entries = [entry(k) for k in range(count)]
        tensors = {one.Name().decode(): one.TensorIndex() for one in entries}
        order = [tensors[name] for name in names]
        if sorted(order) != sorted(positions):
            raise RuntimeError(
                "The TFLite converter has dropped or joined inputs or outputs of "
                f"model '{graph.name}'. Nothing was written. The model has {names}; "
                "remove what is unused or given out twice."
            )
        # A view into `changed`.
        positions[:] = order
    return bytes(changed)


def operators(content: bytes) -> list[str]:
    """Sorted names of the operations in a TFLite file, custom ones with their own."""
    flat = schema.Model.GetRootAs(content, 0)
    names = {
        value: name
        for name, value in vars(schema.BuiltinOperator).items()
        if isinstance(value, int)
    }
    found = set()
    for k in range(flat.OperatorCodesLength()):
        code = flat.OperatorCodes(k)
        custom = code.CustomCode()
        # Small codes are also, and in old files only, in a field of one byte.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        found.add(f"CUSTOM:{custom.decode()}" if custom else names[number])
    return sorted(found)


def _check_builtin(content: bytes) -> None:
    custom = [name for name in operators(content) if name.startswith("CUSTOM")]
    if custom:
        raise RuntimeError(
            f"The file would need operations that LiteRT does not have: {custom}. "
            "Nothing was written. Replace the layers that make them."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what TensorFlow's and LiteRT's C++ code writes to stderr.

    If the block raises, it is shown after all.
    """
    try:
        saved = os.dup(2)
    except OSError:
        # There is no stderr.
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            if failed:
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace"))
