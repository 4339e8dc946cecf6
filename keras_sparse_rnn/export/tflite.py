"""TFLite files, for phones, browsers and anything else that runs LiteRT."""

import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._models import layers_of
from keras_sparse_rnn.export import (
    converter,
    copying,
    evaluation,
    files,
    flatfile,
    running,
    streams,
    verification,
)
from keras_sparse_rnn.export.arguments import check_choice, check_positive
from keras_sparse_rnn.export.lowering import (
    CLASSIC,
    LOWERINGS,
    TARGETS,
    Carried,
    LoweringError,
    Replacer,
    Settings,
)
from keras_sparse_rnn.export.serving import Serving, serving
from keras_sparse_rnn.export.workers import Crash

QUANTIZATIONS = ("float16", "dynamic", "int8")
STREAMINGS = ("states", "memory")
_TABLES = (
    keras.layers.StringLookup,
    keras.layers.IntegerLookup,
    keras.layers.TextVectorization,
    keras.layers.Hashing,
)
# Beyond this, more samples make the conversion longer and the ranges no better.
_MOST_SAMPLES = 500


@dataclass(frozen=True)
class ExportReport:
    """What `export_tflite` wrote.

    Attributes:
        path: The file.
        bytes: Its size.
        batch_size: The batch size it takes.
        time_steps: The number of time steps it takes, `None` if any.
        streaming: `None` for whole sequences; else how a stream's states are kept.
        quantize: How its weights are quantized, `None` if they are not.
        inputs: The inputs' names, shapes and types, in their order; -1 is any size.
        outputs: The same of the outputs.
        states: Names of the states, each both an input and an output: hand back what
            came out, and zeros to begin anew.
        layers: What became of each recurrent layer, by name.
        operators: How often each operation is in the file.
        runtimes: Those of LiteRT's runtimes that ran the file and agreed.
        max_difference: Largest absolute difference from the Keras model, over all
            outputs for the check inputs, in these runtimes.
        max_share: The largest difference as a share of its output's largest value.
        peak_memory: Bytes that loading and running the file took at most in each
            runtime, weights included; `None` where it can't be told.
        float_weights: Weights that are stored as float32 though the file is quantized:
            the layers that use them, and their shapes. The converter leaves matrices of
            fewer than 1,024 elements as they are.
        metric: `None`, or what the metric was in Keras and is in the file.
        notes: What else is worth knowing.
    """

    path: Path
    bytes: int
    batch_size: int
    time_steps: int | None
    streaming: str | None
    quantize: str | None
    inputs: list[flatfile.Tensor]
    outputs: list[flatfile.Tensor]
    states: list[str]
    layers: dict[str, str]
    operators: dict[str, int]
    runtimes: list[str]
    max_difference: float
    max_share: float
    peak_memory: dict[str, int | None]
    float_weights: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    metric: evaluation.Metric | None = None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        steps = "any number of" if self.time_steps is None else self.time_steps
        what = (
            f"{steps} time steps"
            if self.streaming is None
            else f"one step of a stream ({self.streaming})"
        )
        rows = [
            ("file", f"{self.path}, {self.bytes:,} bytes"),
            ("takes", f"batch size {self.batch_size}, {what}"),
            ("weights", self.quantize or "float32"),
        ]
        rows += [("input", str(tensor)) for tensor in self.inputs]
        rows += [("output", str(tensor)) for tensor in self.outputs]
        rows += [("layer", f"{name}: {form}") for name, form in self.layers.items()]
        rows.append(("operations", ", ".join(_times(self.operators))))
        for runtime in self.runtimes:
            memory = self.peak_memory[runtime]
            shown = "unknown" if memory is None else f"{memory:,} bytes"
            rows.append(("runs in", f"LiteRT's {runtime}, peak memory {shown}"))
        rows.append(
            (
                "differs",
                f"from Keras by at most {self.max_difference:.2g}, "
                f"{self.max_share:.2g} of the largest output",
            )
        )
        if self.metric is not None:
            rows.append(("metric", str(self.metric)))
        rows += [
            ("in float32", f"{name} {list(shape)}")
            for name, shape in self.float_weights
        ]
        rows += [("note", note) for note in self.notes]
        return "\n".join(f"{name:<12}{text}" for name, text in rows)


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    lowering: str | Mapping[str, str] = "auto",
    quantize: str | None = None,
    *,
    target: str = "any",
    streaming: str | None = None,
    batch_size: int | None = None,
    time_steps: int | None = None,
    representative_data: Any = None,
    max_error: float | None = None,
    metric: Any = None,
    data: Any = None,
) -> ExportReport:
    """Writes a TFLite file of builtin operations and checks it against the model.

    Recurrent layers of Keras and of this package (LSTM, GRU, simple RNN, recurrent
    highway, grouped ones, `keras.layers.RNN` of their cells; also in `Bidirectional`
    and `TimeDistributed`) are written in a form of their own: the products of the
    inputs of all time steps at once, then one small product for each group and step.
    Others are written as Keras runs them. The file never needs the Flex delegate, and
    keeps no state between calls. It loads in LiteRT's `Interpreter` and in its
    `CompiledModel`, hence on Android, on iOS and in browsers.

    The states of a layer with `stateful=True` become inputs and outputs of the file,
    named `state_…` after the layer: hand back what came out, and zeros to begin anew.

    Before anything appears at `path`, the file was run on several inputs, twice each,
    in both runtimes, and the outputs were compared with the Keras model's.

    Args:
        model: A Keras model; one whose `call` is code is made a graph of layers first.
            It is not changed.
        path: The file to write.
        lowering: `"loop"`: one WHILE operation for each layer; small, and any number
            of time steps where the model takes any. `"unrolled"`: each step written
            out, for a fixed number of steps; the file grows with it. `"fused"`: one
            builtin LSTM operation for each group, for a `target` that runs it.
            `"auto"`: the best of them by measurements, see docs/benchmarks.md. Or a
            dictionary from layers' names, as in the report's `layers`, to forms; the
            other layers are `"auto"`. The name of a wrapper speaks of what is in it.
        quantize: `None`; `"float16"`: weights of half the size; `"dynamic"`: int8
            weights, float activations, a quarter of the size; `"int8"`: activations
            too, which needs `representative_data`. What it costs is measured and
            reported; a file that is too far from the model is not written.
        target: Where the file must run: `"any"`, in both of LiteRT's runtimes;
            `"interpreter"`, only in its classic one (also TFLite in Play services); or
            `"micro"`, on microcontrollers (checked with the classic one).
        streaming: `None`: the file takes whole sequences. `"states"`: it takes one
            time step and gives one, with all layers' states as inputs and outputs.
            `"memory"`: one step too, but the fused operation keeps the states; for a
            `target` that runs it, and begun anew by `reset_all_variables()`.
        batch_size: The batch size of the file. By default the model's, and 1 if
            that is unknown.
        time_steps: The number of time steps, where the model leaves it open.
        representative_data: For `"int8"`: typical inputs, from which the ranges of
            activations are taken. An array with examples along its first axis, a list
            of such arrays for several inputs, or a dictionary of them by input name,
            Keras's or the file's. At most 500 examples are used; the file is then also
            checked with them.
        max_error: How far the outputs may be from the model's, as a share of an
            output's largest value. By default 0.0001 for float32 (there of 1 at
            least; 0.00001 for streams), 0.01 for float16 and 0.1 for int8.
        metric: A function of what `data` expects and what the model gives that returns
            a number, a Keras metric, or the name of one. It is computed for the Keras
            model and for the file.
        data: `(x, y)` for `metric`, as for `model.evaluate`.

    Returns:
        What was written, how far it is from the model, and what it costs to run.

    Raises:
        ValueError: If an argument is wrong, the model or a layer can't be exported in
            this form, or `path` can't be written to.
        RuntimeError: If the converter fails or crashes, or the file does not compute
            what the model does. Nothing is written then.

    Example:

    >>> report = export_tflite(model, "model.tflite", quantize="dynamic")
    >>> print(report)
    """
    model = copying.checked(model)
    settings = _settings(model, lowering, quantize, target, streaming)
    check_positive("batch_size", batch_size)
    check_positive("time_steps", time_steps)
    bound = _bound(max_error, quantize, streaming)
    evaluation.check(metric, data)
    timed = streams.timed(model)
    if streaming is not None:
        _check_streaming(model, timed, time_steps)
    names = copying.input_names(model)
    whole, notes = _input_shapes(model, batch_size, time_steps)
    dtypes = [copying.narrowed(tensor.dtype) for tensor in model.inputs]
    samples = _samples(representative_data, quantize, names, whole, dtypes)
    shapes = whole if streaming is None else streams.step_shapes(whole, timed)
    with files.new_file(Path(path)) as temporary:
        graph = _copy(model, settings, shapes)
        reference = copying.graph_of(model)
        if copying.needs_float32(model):
            notes.append("the file computes in float32, and was compared in float32")
        if copying.needs_float32(model) or copying.is_stateful(model):
            # A stateful model's states are its user's.
            reference = copying.copy_model(model, lambda layer: None, whole)
        with _quiet():
            served = serving(graph, settings.carried)
            _check_named(model, settings)
            content = _convert(graph, served, settings, samples, timed)
            doubled = flatfile.doubled(content)
            if doubled:
                served = serving(graph, settings.carried, doubled)
                content = _convert(graph, served, settings, samples, timed)
            content = _ordered(content, graph, served)
            temporary.write_bytes(content)
            runtimes = _runtimes(settings, notes)
            checked = verification.verify(
                verification.Plan(
                    path=temporary,
                    model=reference,
                    inputs=served.inputs,
                    outputs=served.outputs,
                    shapes=shapes,
                    states=served.states,
                    streaming=streaming,
                    timed=timed,
                    runtimes=runtimes,
                    quantize=quantize,
                    bound=bound,
                    samples=samples,
                )
            )
            measured = evaluation.measure(
                metric, data, reference, temporary, served, streaming, timed
            )
    if quantize == "dynamic":
        notes += [
            f"'{name}' {why}; so int8 weights of this file have one scale a matrix, "
            "not one a row"
            for name, why in settings.one_scale.items()
        ]
    inputs, outputs = flatfile.signature(content)
    return ExportReport(
        path=Path(path),
        bytes=len(content),
        batch_size=shapes[0][0] or 1,
        time_steps=_time_steps(shapes, timed),
        streaming=streaming,
        quantize=quantize,
        inputs=inputs,
        outputs=outputs,
        states=list(served.states),
        layers=dict(settings.chosen),
        operators=flatfile.counts(content),
        runtimes=runtimes,
        max_difference=checked.difference,
        max_share=checked.share,
        peak_memory=checked.memory,
        float_weights=[] if quantize is None else _float_weights(content, graph),
        metric=measured,
        notes=notes,
    )


def _settings(
    model: Any,
    lowering: str | Mapping[str, str],
    quantize: str | None,
    target: str,
    streaming: str | None,
) -> Settings:
    if not isinstance(lowering, (str, Mapping)):
        raise ValueError(
            "`lowering` must be one of 'auto', 'loop', 'unrolled' and 'fused', or a "
            f"dictionary of these by layers' names. Received: lowering={lowering!r}."
        )
    forms = {"": lowering} if isinstance(lowering, str) else {"": "auto", **lowering}
    for form in forms.values():
        check_choice("lowering", form, ("auto", *LOWERINGS))
    check_choice("quantize", quantize, (None, *QUANTIZATIONS))
    check_choice("target", target, TARGETS)
    check_choice("streaming", streaming, (None, *STREAMINGS))
    if "fused" in forms.values() and target not in CLASSIC:
        raise ValueError(
            "lowering='fused', the builtin LSTM operation, keeps its states in "
            "variables, which LiteRT's CompiledModel (Android, iOS, browsers) does not "
            "load. If the file is for the classic interpreter or a microcontroller, "
            "pass target='interpreter' or target='micro'; else use 'loop' or "
            "'unrolled'."
        )
    if streaming == "memory" and target not in CLASSIC:
        raise ValueError(
            "streaming='memory' keeps the states in the fused operation, which "
            "LiteRT's CompiledModel (Android, iOS, browsers) does not load. Use "
            "streaming='states', or pass target='interpreter' or target='micro'."
        )
    wrong = {"states": ("loop", "fused"), "memory": ("loop", "unrolled")}
    for form in forms.values():
        if streaming is not None and form in wrong[streaming]:
            raise ValueError(
                f"A step of a stream with streaming='{streaming}' has one time step, "
                "and its form follows from that: leave `lowering` at 'auto'. "
                f"Received: lowering={lowering!r}."
            )
    carries = streaming == "states" or (
        streaming is None and copying.is_stateful(model)
    )
    carried = None
    if carries:
        reserved = copying.input_names(model) + copying.output_names(
            copying.graph_of(model)
        )
        carried = Carried(streaming == "states", reserved)
    return Settings(forms, target, quantize, carried, streaming)


def _check_named(model: Any, settings: Settings) -> None:
    """Raises if `lowering` names what is no recurrent layer of the file."""
    unknown = sorted(set(settings.lowering) - set(settings.named) - {""})
    if unknown:
        raise ValueError(
            "`lowering` must name recurrent layers of the model, as the report's "
            f"`layers` has them; '{model.name}' has {list(settings.named)}. "
            f"Received: {unknown}."
        )


def _bound(
    max_error: float | None, quantize: str | None, streaming: str | None
) -> float:
    if max_error is None:
        if quantize is None and streaming is not None:
            return verification.STREAM
        return verification.BOUNDS[quantize]
    number = isinstance(max_error, (int, float)) and not isinstance(max_error, bool)
    if not number or not max_error > 0:
        raise ValueError(
            "`max_error` must be a positive number, a share of an output's largest "
            f"value. Received: max_error={max_error!r}."
        )
    return float(max_error)


def _check_streaming(model: Any, timed: Sequence[bool], time_steps: int | None) -> None:
    if time_steps is not None:
        raise ValueError(
            "`time_steps` fixes the length of sequences, and with `streaming=` the "
            f"file takes one step. Leave it out. Received: time_steps={time_steps}."
        )
    if not any(timed):
        raise ValueError(
            f"Model '{model.name}' has no input with an axis of time, behind the "
            "batch, so that there is nothing to stream."
        )
    streams.check(model)


def _input_shapes(
    model: Any, batch_size: int | None, time_steps: int | None
) -> tuple[list[list[int | None]], list[str]]:
    notes, shapes = [], []
    open_time = False
    for layer in layers_of(model):
        if isinstance(layer, _TABLES):
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) looks things up in a "
                "table of words, which a device's file has no operation for. Export "
                "the model behind it, which takes numbers, and look words up in the "
                "app."
            )
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
        fixed = next((shape[1] for shape in shapes if len(shape) > 1), None)
        if fixed != time_steps:
            raise ValueError(
                "`time_steps` fixes a number of steps that the model leaves open, and "
                f"the Input of model '{model.name}' fixes it at {fixed}. "
                f"Received: time_steps={time_steps}."
            )
    return shapes, notes


def _time_steps(
    shapes: Sequence[Sequence[int | None]], timed: Sequence[bool]
) -> int | None:
    lengths = [shape[1] for shape, own in zip(shapes, timed, strict=True) if own]
    return lengths[0] if lengths else None


def _samples(
    data: Any,
    quantize: str | None,
    names: Sequence[str],
    shapes: Sequence[Sequence[int | None]],
    dtypes: Sequence[str],
) -> list[dict[str, Any]] | None:
    """Batches of representative data, by the inputs' names, in the file's types."""
    if quantize != "int8":
        if data is not None:
            raise ValueError(
                "`representative_data` is for quantize='int8', which takes the ranges "
                f"of activations from it. Received: quantize={quantize!r}."
            )
        return None
    if data is None:
        raise ValueError(
            "quantize='int8' needs `representative_data`: some hundred typical inputs, "
            "from which the ranges of activations are taken."
        )
    arrays = evaluation.by_name(data, names, "representative_data")
    for name, shape, dtype in zip(names, shapes, dtypes, strict=True):
        array = arrays[name]
        arrays[name] = array.astype(dtype)
        if "int" in dtype and not np.array_equal(arrays[name], array):
            raise ValueError(
                f"`representative_data` for input '{name}' must be integers, as the "
                f"input is {dtype}. Received: an array of {array.dtype} with others."
            )
        fits = len(array.shape) == len(shape) and all(
            wanted in (None, own)
            for own, wanted in zip(array.shape[1:], shape[1:], strict=True)
        )
        if not fits:
            raise ValueError(
                f"`representative_data` for input '{name}' must have shape "
                f"(examples, {', '.join(str(size or 'any') for size in shape[1:])}). "
                f"Received: shape {array.shape}."
            )
    batch = shapes[0][0] or 1
    count = min(len(next(iter(arrays.values()))), _MOST_SAMPLES) // batch
    if not count:
        raise ValueError(
            f"`representative_data` has fewer examples than the batch size, {batch}."
        )
    return [
        {name: array[k * batch : (k + 1) * batch] for name, array in arrays.items()}
        for k in range(count)
    ]


def _copy(
    model: Any, settings: Settings, shapes: Sequence[Sequence[int | None]]
) -> Any:
    try:
        return copying.copy_model(model, Replacer(settings), shapes)
    except LoweringError:
        raise
    except ValueError as error:
        if settings.streaming is None:
            raise
        raise ValueError(
            f"Model '{model.name}' can't be run one time step at a time, so it can't "
            f"be streamed. Export the whole sequence. It says: {error}"
        ) from error


def _runtimes(settings: Settings, notes: list[str]) -> list[str]:
    """Those that should run the file."""
    if not settings.fused:
        return list(running.RUNTIMES)
    notes.append(
        "the fused operation runs in LiteRT's Interpreter only, so the file was not "
        "run in its CompiledModel"
    )
    return ["Interpreter"]


def _convert(
    graph: Any,
    served: Serving,
    settings: Settings,
    samples: Sequence[dict[str, Any]] | None,
    timed: Sequence[bool],
) -> bytes:
    try:
        with warnings.catch_warnings():
            # TensorFlow warns of itself.
            warnings.simplefilter("ignore", DeprecationWarning)
            content = converter.convert(
                served.function,
                [variable.value for variable in graph.variables],
                settings.quantize,
                _calls(served, samples, settings.streaming, timed),
                one_scale=settings.quantize == "dynamic" and bool(settings.one_scale),
            )
    except Crash as error:
        raise RuntimeError(
            f"TensorFlow's converter could not write model '{graph.name}': {error}. "
            "Nothing was written. Try another `lowering` or `quantize`."
        ) from error
    except RuntimeError as error:
        raise RuntimeError(
            f"Model '{graph.name}' can't be written with builtin operations. Nothing "
            f"was written. {_told(str(error))}"
        ) from error
    custom = [name for name in flatfile.operators(content) if name.startswith("CUSTOM")]
    if custom:
        raise RuntimeError(
            f"The file would need operations that LiteRT does not have: {custom}. "
            "Nothing was written. Replace the layers that make them."
        )
    _check_fused(content, settings)
    return flatfile.without_cell_clip(content)


def _told(text: str) -> str:
    """What the converter's many words come to."""
    missing = dict.fromkeys(
        re.findall(r'"([^"@]+)@\S+?"\][^\n]*?\'tf\.(\w+)\' op is neither', text)
    )
    if missing:
        listed = ", ".join(f"{name} (in '{where}')" for where, name in missing)
        return (
            f"It needs operations that LiteRT does not have: {listed}. Replace the "
            "layers that make them, or do what they do outside of the model."
        )
    lines = [line for line in text.splitlines() if line.strip()]
    shown = lines[0][:500] if lines else "no reason"
    return (
        "Unknown shapes are a common cause: try `time_steps=`. The converter says: "
        f"{shown}"
    )


def _ordered(content: bytes, graph: Any, served: Serving) -> bytes:
    """The file with its inputs and outputs in Keras's order, and states behind them."""
    try:
        return flatfile.ordered(
            content,
            [*served.inputs, *served.states],
            [*served.outputs, *served.states],
        )
    except ValueError as error:
        raise RuntimeError(
            "The TFLite converter has dropped or joined inputs or outputs of model "
            f"'{graph.name}'. Nothing was written. Remove what is unused or given out "
            f"twice. The file has {error}."
        ) from error


def _calls(
    served: Serving,
    samples: Sequence[dict[str, Any]] | None,
    streaming: str | None,
    timed: Sequence[bool],
) -> Iterator[dict[str, Any]]:
    """What the file will be called with, states included, for each call of a sample."""
    for sample in samples or ():
        states = {name: np.zeros(s, "float32") for name, s in served.states.items()}
        steps: Any = [sample]
        if streaming is not None:
            steps = streams.frames(sample, served.inputs, timed)
        for step in steps:
            arguments = {**step, **states}
            yield arguments
            if states:
                made = served.function(*arguments.values())
                states = {name: made[name].numpy() for name in states}


def _check_fused(content: bytes, settings: Settings) -> None:
    """Raises unless the converter made the operation of each function that is one."""
    found = flatfile.counts(content).get("UNIDIRECTIONAL_SEQUENCE_LSTM", 0)
    wanted = sum(settings.fused.values())
    if found < wanted:
        names = sorted({name for name, _ in settings.fused})
        raise RuntimeError(
            f"The TFLite converter did not fuse all of {names}: the "
            f"file has {found} LSTM operations instead of {wanted}. Nothing was "
            "written. Use lowering='loop'."
        )


def _float_weights(content: bytes, graph: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Weights left in float, by the names of the layers they belong to."""
    layers = sorted({layer.name for layer in layers_of(graph)}, key=len, reverse=True)
    found = []
    for label, shape in flatfile.float_weights(content):
        # A label is a path of names, which Keras may have numbered.
        parts = label.split(";")[0].split("/")[1:]
        names = (
            name
            for part in parts
            for name in layers
            if part == name or re.fullmatch(re.escape(name) + r"_\d+", part)
        )
        found.append((next(names, label), shape))
    return found


def _times(counts: Mapping[str, int]) -> list[str]:
    return [name if n == 1 else f"{name} ×{n}" for name, n in counts.items()]


_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what TensorFlow's and LiteRT's C++ code writes to stderr.

    If the block raises, it is shown after all. There is one stderr: another thread
    waits until the block ends.
    """
    with _ONE_AT_A_TIME, _held_back():
        yield


@contextmanager
def _held_back() -> Iterator[None]:
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
