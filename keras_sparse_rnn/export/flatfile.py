"""What is in a TFLite file: its operations, tensors and signature, read and mended.

Files are flat buffers; they are read, and changed in place, through the schema that
comes with LiteRT.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

# What multiplies weights, and the inputs that hold them.
_WEIGHTS = {
    "FULLY_CONNECTED": (1,),
    "BATCH_MATMUL": (0, 1),
    "CONV_2D": (1,),
    "DEPTHWISE_CONV_2D": (1,),
    "TRANSPOSE_CONV": (1,),
    "EMBEDDING_LOOKUP": (1,),
    "GATHER": (0,),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": tuple(range(1, 9)),
}
_IDENTIFIER = b"TFL3"
_DEFAULT = "serving_default"


@dataclass(frozen=True)
class Tensor:
    """A tensor at the border of a file.

    Attributes:
        name: Its name in the signature.
        shape: Its sizes; -1 where any will do.
        dtype: What it holds, `"float32"` for example.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)} {self.dtype}"


def read(path: Path) -> bytes:
    """The content of a TFLite file.

    Raises:
        ValueError: If there is none, or it is not whole.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"'{path}' can't be read: {error.strerror}.") from error
    check(content, f"'{path}'")
    return content


def check(content: bytes, name: str) -> None:
    """Raises unless the content is that of a whole TFLite file.

    A file that was cut short is found, other damage need not be.

    Args:
        content: The bytes.
        name: What to call it in the message.
    """
    if not content:
        raise ValueError(f"{name} is empty.")
    if content[4:8] != _IDENTIFIER:
        raise ValueError(
            f"{name} is no TFLite file: it does not bear the mark "
            f"'{_IDENTIFIER.decode()}' at its beginning."
        )
    try:
        _visit(content)
    except Exception as error:
        raise ValueError(
            f"{name} is a damaged TFLite file: it was cut short, or changed. Copy or "
            "export it again."
        ) from error


def _visit(content: bytes) -> None:
    """Follows all that leads to data, and asks for the last byte of each piece."""
    flat = schema.Model.GetRootAs(content, 0)
    for k in range(flat.BuffersLength()):
        buffer = flat.Buffers(k)
        size = buffer.DataLength()
        if size:
            buffer.Data(size - 1)
        if buffer.Offset() > 1 and buffer.Offset() + buffer.Size() > len(content):
            raise ValueError("a buffer behind the end")
    if flat.SubgraphsLength() == 0:
        raise ValueError("no graph")
    codes = flat.OperatorCodesLength()
    for k in range(flat.SubgraphsLength()):
        graph = flat.Subgraphs(k)
        for j in range(graph.TensorsLength()):
            tensor = graph.Tensors(j)
            tensor.ShapeAsNumpy()
            tensor.ShapeSignatureAsNumpy()
            tensor.Name().decode()
            if tensor.Type() not in _TYPES:
                raise ValueError("a tensor of no type")
            if tensor.Buffer() >= flat.BuffersLength():
                raise ValueError("a tensor without a buffer")
        for j in range(graph.OperatorsLength()):
            operator = graph.Operators(j)
            operator.InputsAsNumpy()
            operator.OutputsAsNumpy()
            if operator.OpcodeIndex() >= codes:
                raise ValueError("an operation without a code")
    # And whatever else is asked of a file later.
    counts(content)
    operators(content)
    signature(content)
    float_weights(content)


def operators(content: bytes) -> list[str]:
    """Sorted names of the operations in a file, custom ones with their own."""
    flat = schema.Model.GetRootAs(content, 0)
    return sorted({_name(flat, k) for k in range(flat.OperatorCodesLength())})


def counts(content: bytes) -> dict[str, int]:
    """How often each operation is in a file, by name; loops' bodies count once."""
    found: dict[str, int] = {}
    for name, _, _, _ in _operations(content):
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))


def signature(content: bytes) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs and outputs of a file.

    Those of `serving_default`, or else of the first signature; of the graph if there
    is none.
    """
    flat = schema.Model.GetRootAs(content, 0)
    keys = signatures(content)
    if not keys:
        graph = flat.Subgraphs(0)
        return (
            [_tensor(graph, index) for index in _numbers(graph.InputsAsNumpy())],
            [_tensor(graph, index) for index in _numbers(graph.OutputsAsNumpy())],
        )
    number = keys.index(_DEFAULT) if _DEFAULT in keys else 0
    one = flat.SignatureDefs(number)
    graph = flat.Subgraphs(one.SubgraphIndex())
    sides = []
    for positions, count, entry in (
        (graph.InputsAsNumpy(), one.InputsLength(), one.Inputs),
        (graph.OutputsAsNumpy(), one.OutputsLength(), one.Outputs),
    ):
        names = {entry(k).TensorIndex(): entry(k).Name().decode() for k in range(count)}
        sides.append(
            [_tensor(graph, i, names[i]) for i in _numbers(positions) if i in names]
        )
    return sides[0], sides[1]


def signatures(content: bytes) -> list[str]:
    """The names of a file's signatures."""
    flat = schema.Model.GetRootAs(content, 0)
    keys = (flat.SignatureDefs(k) for k in range(flat.SignatureDefsLength()))
    return [one.SignatureKey().decode() for one in keys]


def doubled(content: bytes) -> dict[str, int]:
    """Outputs that are the same tensor as an input, or as outputs before them.

    LiteRT knows such a tensor by one name only.

    Returns:
        For each how many others came before.
    """
    flat = schema.Model.GetRootAs(content, 0)
    one = flat.SignatureDefs(0)
    seen = [one.Inputs(k).TensorIndex() for k in range(one.InputsLength())]
    found = {}
    for k in range(one.OutputsLength()):
        index = one.Outputs(k).TensorIndex()
        if index in seen:
            found[one.Outputs(k).Name().decode()] = seen.count(index)
        seen.append(index)
    return found


def ordered(content: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The file with its inputs and outputs in a given order.

    The converter orders them as it likes. Only positions change, those in the graph,
    which the classic interpreter goes by, and those in the signature, which others go
    by: names still lead to the same tensors.

    Raises:
        ValueError: If the file has others.
    """
    changed = bytearray(content)
    flat = schema.Model.GetRootAs(changed, 0)
    one = flat.SignatureDefs(0)
    graph = flat.Subgraphs(one.SubgraphIndex())
    for positions, count, entry, field, names in (
        (graph.InputsAsNumpy(), one.InputsLength(), one.Inputs, 4, inputs),
        (graph.OutputsAsNumpy(), one.OutputsLength(), one.Outputs, 6, outputs),
    ):
        entries = {entry(k).Name().decode(): k for k in range(count)}
        if sorted(entries) != sorted(names):
            raise ValueError(f"{sorted(entries)} instead of {sorted(names)}")
        order = [entry(entries[name]).TensorIndex() for name in names]
        if sorted(order) != sorted(positions):
            raise ValueError(f"other tensors than {sorted(names)}")
        # A view into `changed`.
        positions[:] = order
        # The signature's vector holds how far each entry is from its own place.
        start = one._tab.Vector(one._tab.Offset(field))
        places = [start + 4 * k for k in range(count)]
        tables = [
            place + struct.unpack_from("<I", changed, place)[0] for place in places
        ]
        for place, name in zip(places, names, strict=True):
            struct.pack_into("<I", changed, place, tables[entries[name]] - place)
    return bytes(changed)


def without_cell_clip(content: bytes) -> bytes:
    """The file with no limit to what the cells of its fused LSTMs hold.

    The converter sets one of 10, and Keras has none.
    """
    changed = bytearray(content)
    flat = schema.Model.GetRootAs(changed, 0)
    for k in range(flat.SubgraphsLength()):
        graph = flat.Subgraphs(k)
        for j in range(graph.OperatorsLength()):
            operator = graph.Operators(j)
            if _name(flat, operator.OpcodeIndex()) != "UNIDIRECTIONAL_SEQUENCE_LSTM":
                continue
            options = schema.UnidirectionalSequenceLSTMOptions()
            table = operator.BuiltinOptions()
            options.Init(table.Bytes, table.Pos)
            # The second field of the table: its place, 0 if it has its default of none.
            offset = options._tab.Offset(6)
            if offset:
                struct.pack_into("<f", changed, table.Pos + offset, 0.0)
            if options.CellClip() != 0.0:
                raise RuntimeError(
                    "The cell clip of a fused LSTM could not be removed."
                )
    return bytes(changed)


def float_weights(content: bytes, least: int = 2) -> list[tuple[str, tuple[int, ...]]]:
    """Weights that are stored as float32: where they are used, and their shapes.

    Args:
        content: The file.
        least: Number of elements below which weights are not told.

    Returns:
        `(name, shape)` for each; the name is that of the result it goes into, which
        begins with the layers' names.
    """
    flat = schema.Model.GetRootAs(content, 0)
    found = {}
    for name, graph, inputs, outputs in _operations(content):
        for position in _WEIGHTS.get(name, ()):
            if position >= len(inputs) or inputs[position] < 0:
                continue
            tensor = graph.Tensors(inputs[position])
            shape = tuple(_numbers(tensor.ShapeAsNumpy()))
            size = 1
            for axis in shape:
                size *= axis
            stored = flat.Buffers(tensor.Buffer()).DataLength()
            is_float = tensor.Type() == schema.TensorType.FLOAT32
            if is_float and stored and len(shape) > 1 and size >= least:
                label = graph.Tensors(outputs[0]).Name().decode()
                found[tensor.Buffer(), shape] = label
    return [(label, shape) for (_, shape), label in found.items()]


def _operations(content: bytes) -> Iterator[tuple[str, Any, list[int], list[int]]]:
    flat = schema.Model.GetRootAs(content, 0)
    for k in range(flat.SubgraphsLength()):
        graph = flat.Subgraphs(k)
        for j in range(graph.OperatorsLength()):
            operator = graph.Operators(j)
            yield (
                _name(flat, operator.OpcodeIndex()),
                graph,
                _numbers(operator.InputsAsNumpy()),
                _numbers(operator.OutputsAsNumpy()),
            )


def _name(flat: Any, index: int) -> str:
    code = flat.OperatorCodes(index)
    custom = code.CustomCode()
    # Small codes are also, and in old files only, in a field of one byte.
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    return f"CUSTOM:{custom.decode()}" if custom else _OPERATORS[number]


def _tensor(graph: Any, index: int, name: str | None = None) -> Tensor:
    tensor = graph.Tensors(index)
    shape = tensor.ShapeSignatureAsNumpy()
    if not tensor.ShapeSignatureLength():
        shape = tensor.ShapeAsNumpy()
    return Tensor(
        name or tensor.Name().decode(),
        tuple(_numbers(shape)),
        _TYPES[tensor.Type()].lower(),
    )


def _numbers(array: Any) -> list[int]:
    # The schema gives 0 for a vector that is not there.
    return [int(x) for x in array] if hasattr(array, "__len__") else []


def _names(enumeration: Any) -> dict[int, str]:
    return {
        value: name
        for name, value in vars(enumeration).items()
        if isinstance(value, int)
    }


_OPERATORS = _names(schema.BuiltinOperator)
_TYPES = _names(schema.TensorType)
