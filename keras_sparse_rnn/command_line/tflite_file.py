"""What is in a `.tflite` file. Needs no TensorFlow and no Keras."""

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_sparse_rnn.command_line import feeding
from keras_sparse_rnn.command_line.output import (
    CommandError,
    pairs,
    shortened,
    sizes,
    table,
)
from keras_sparse_rnn.export import flatfile, running

# What `export_tflite` calls the states, which are inputs and outputs of the same name.
_STATE = "state_"
_FUSED = "UNIDIRECTIONAL_SEQUENCE_LSTM"
_TYPES = {
    value: name.lower()
    for name, value in vars(schema.TensorType).items()
    if isinstance(value, int)
}


def facts(path: Path) -> dict[str, Any]:
    """What is in a file, for JSON and for `text`.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no whole TFLite file.
    """
    content = flatfile.read(path)
    inputs, outputs = flatfile.signature(content)
    return {
        "file": path,
        "kind": "tflite",
        "bytes": len(content),
        "inputs": _tensors(inputs, outputs),
        "outputs": _tensors(outputs, inputs),
        "signatures": flatfile.signatures(content),
        "operations": flatfile.counts(content),
        "stored": stored(content),
        "runtimes": {name: _tried(path, content, name) for name in running.RUNTIMES},
    }


def text(facts: dict[str, Any]) -> list[str]:
    """Lines that tell what `facts` found.

    Args:
        facts: What it returned.
    """
    rows = [
        [kind, one["name"], sizes(one["shape"]), one["dtype"], _state(one)]
        for kind, side in (("input", "inputs"), ("output", "outputs"))
        for one in facts[side]
    ]
    lines = [f"{facts['file']}: TFLite, {facts['bytes']:,} bytes", ""]
    if len(facts["signatures"]) > 1:
        told = ", ".join(facts["signatures"])
        lines += [*pairs([("signatures", f"{told}; what follows is of one")]), ""]
    lines += table(["", "name", "shape", "type", ""], rows, names=5)
    operations = facts["operations"].items()
    listed = ", ".join(name if n == 1 else f"{name} ×{n}" for name, n in operations)
    lines += ["", *pairs([("operations", listed)]), ""]
    weights = [
        [kind, *(f"{one[key]:,}" for key in ("tensors", "numbers", "bytes"))]
        for kind, one in facts["stored"].items()
    ]
    lines += table(["stored as", "tensors", "numbers", "bytes"], weights)
    lines += ["", *pairs([_ran(*one) for one in facts["runtimes"].items()])]
    return lines


def episode(
    path: Path, content: bytes, batch_size: int, time_steps: int
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """What a file can be run on.

    Args:
        path: The file.
        content: What is in it.
        batch_size: The batch size, where the file leaves it open.
        time_steps: The number of time steps, where it does.

    Returns:
        An array for each input that is no state, and the shape of each state, by name.
    """
    inputs, outputs = flatfile.signature(content)
    arrays, states = {}, {}
    for one, described in zip(inputs, _tensors(inputs, outputs), strict=True):
        name = f"'{one.name}' of '{path}'"
        shape = feeding.filled(one.shape, batch_size, time_steps, name)
        if described["state"]:
            states[one.name] = shape
        else:
            arrays[one.name] = feeding.array(shape, one.dtype, name)
    return arrays, states


def failure(content: bytes, runtime: str, error: Exception) -> str:
    """Why a runtime does not run a file.

    Args:
        content: What is in the file.
        runtime: The runtime.
        error: What it says.
    """
    if runtime == "CompiledModel" and _FUSED in flatfile.counts(content):
        return f"it has no {_FUSED}, the fused LSTM of lowering='fused'"
    return shortened(str(error))


def stored(content: bytes) -> dict[str, dict[str, int]]:
    """The constants of a file, by type, the largest share first.

    Args:
        content: What is in the file.

    Returns:
        For each type how many tensors there are, of how many numbers, in how many
        bytes; what several tensors share counts once.
    """
    flat = schema.Model.GetRootAs(content, 0)
    found: dict[str, dict[str, int]] = {}
    seen = set()
    for k in range(flat.SubgraphsLength()):
        graph = flat.Subgraphs(k)
        for j in range(graph.TensorsLength()):
            tensor = graph.Tensors(j)
            number = tensor.Buffer()
            buffer = flat.Buffers(number)
            # Of a file beyond 2 GB, constants lie behind the flat buffer.
            size = buffer.DataLength() or buffer.Size()
            if number in seen or not size:
                continue
            seen.add(number)
            shape = tensor.ShapeAsNumpy() if tensor.ShapeLength() else ()
            kind = _TYPES.get(tensor.Type(), "unknown")
            one = found.setdefault(kind, {"tensors": 0, "numbers": 0, "bytes": 0})
            one["tensors"] += 1
            one["numbers"] += int(np.prod(shape, dtype=np.int64))
            one["bytes"] += size
    return dict(sorted(found.items(), key=lambda one: -one[1]["bytes"]))


def _tensors(
    tensors: list[flatfile.Tensor], others: list[flatfile.Tensor]
) -> list[dict[str, Any]]:
    names = {one.name for one in others}
    return [
        {
            "name": one.name,
            "shape": [None if size < 0 else size for size in one.shape],
            "dtype": one.dtype,
            "state": one.name.startswith(_STATE) and one.name in names,
        }
        for one in tensors
    ]


def _tried(path: Path, content: bytes, runtime: str) -> dict[str, Any]:
    try:
        arrays, states = episode(path, content, 1, 1)
        # The process that runs it may be older than this one's present directory.
        running.run(path.resolve(), runtime, [[arrays]], states)
    except (CommandError, RuntimeError) as error:
        return {"runs": False, "reason": failure(content, runtime, error)}
    return {"runs": True, "reason": None}


def _state(one: dict[str, Any]) -> str:
    return "state" if one["state"] else ""


def _ran(name: str, tried: dict[str, Any]) -> tuple[str, str]:
    if tried["runs"]:
        return "runs in", f"LiteRT's {name}"
    return "fails in", f"LiteRT's {name}: {tried['reason']}"
