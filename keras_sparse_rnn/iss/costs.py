"""What a model costs, layer by layer, with only some of its units."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._models import is_graph, layers_of
from keras_sparse_rnn.iss.flow import Call
from keras_sparse_rnn.iss.trace import Plan
from keras_sparse_rnn.layers import TieredEmbedding

_PRODUCTS = ("Matmul", "Einsum", "Dot", "Tensordot")
# Layers each of whose weights meets one feature; these may have several axes.
_ELEMENTWISE = (
    keras.layers.PReLU,
    keras.layers.Normalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)
# Older versions of Keras do not have it.
_REVERSIBLE: Any = getattr(keras.layers, "ReversibleEmbedding", ())
_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
_UNCALLED = "(not called)"


@dataclass(frozen=True)
class Cost:
    """What a model, or one of its layers, costs.

    Attributes:
        parameters: Number of weights, as `count_params` counts them.
        bytes: What they take, each in the dtype of its variable.
        multiply_adds: Products of a weight with a feature for one time step: every
            matrix once for each call of its layer (of a layer that reads several
            positions in one step, such as characters of a word, once for each), a
            lookup not at all. Products of features with each other, as in attention,
            hold no weights, depend on the length, and are not counted.
    """

    parameters: int = 0
    bytes: int = 0
    multiply_adds: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.parameters + other.parameters,
            self.bytes + other.bytes,
            self.multiply_adds + other.multiply_adds,
        )


@dataclass(frozen=True, eq=False)
class _Weight:
    """A variable: the layer it counts for, and how often a time step multiplies it.

    Stored packed, it holds more weights than numbers, so that `uses` is a fraction.
    """

    layer: str
    shape: tuple[int, ...]
    itemsize: int
    # The slots along those axes that may lose indices.
    axes: dict[int, np.ndarray]
    uses: float
    # A variable that is handed to an operation is no weight of the model.
    counted: bool


class Costs:
    """The weights of a model, ready to be counted for any choice of units.

    Args:
        plan: The model's components.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        uses: dict[int, float] = {}
        first: dict[int, tuple[str, Any]] = {}
        for name, operation, call in _calls(plan.calls, ""):
            for variable, times in _products(operation, call):
                uses[id(variable)] = uses.get(id(variable), 0.0) + times
                first.setdefault(id(variable), (name, variable))
        own = {id(variable) for variable in plan.graph.weights}
        # One that no call of the graph uses is still stored.
        for variable in plan.graph.weights:
            first.setdefault(id(variable), (_UNCALLED, variable))
        # Each variable with the name of the layer that it counts for.
        self.variables = list(first.values())
        keys = {id(variable): key for key, variable in enumerate(plan.variables)}
        axes: dict[int, dict[int, np.ndarray]] = {}
        for (key, axis), slots in plan.axes.items():
            axes.setdefault(key, {})[axis] = slots
        self._weights = [
            _Weight(
                name,
                tuple(variable.shape),
                _itemsize(variable.dtype),
                axes.get(keys.get(number, -1), {}),
                uses.get(number, 0.0),
                number in own,
            )
            for number, (name, variable) in first.items()
        ]

    def by_layer(self, alive: Sequence[np.ndarray]) -> dict[str, Cost]:
        """What each layer with weights costs, in the order of the calls.

        Args:
            alive: Which components of each of the plan's families live.
        """
        living = self._plan.living(alive)
        found: dict[str, Cost] = {}
        for weight in self._weights:
            sizes = list(weight.shape)
            for axis, slots in weight.axes.items():
                sizes[axis] = int(np.count_nonzero(living[self._plan.classes[slots]]))
            size = math.prod(sizes)
            stored = size if weight.counted else 0
            cost = Cost(stored, stored * weight.itemsize, round(size * weight.uses))
            found[weight.layer] = found.get(weight.layer, Cost()) + cost
        return found

    def total(self, alive: Sequence[np.ndarray]) -> Cost:
        """What the model costs.

        Args:
            alive: Which components of each of the plan's families live.
        """
        return sum(self.by_layer(alive).values(), Cost())


def _itemsize(dtype: str) -> int:
    """Bytes of one number; NumPy does not know all the names."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1


def _calls(calls: Sequence[Call], prefix: str) -> Iterator[tuple[str, Any, Call]]:
    """Each call of a layer or operation by name, those of nested models included."""
    for call in calls:
        name = f"{prefix}{call.operation.name}"
        if is_graph(call.operation):
            yield from _calls(call.inner, f"{name}/")
        else:
            yield name, call.operation, call


def _products(operation: Any, call: Call) -> Iterator[tuple[Any, float]]:
    """The variables of a call, and how often one time step multiplies each."""
    if not isinstance(operation, keras.layers.Layer):
        if type(operation).__name__ in _PRODUCTS:
            for value in keras.tree.flatten((call.args, call.kwargs)):
                if isinstance(value, keras.Variable) and len(value.shape) > 1:
                    yield value, 1.0
        return
    products = {
        id(variable): _once(layer, variable, call)
        for layer in _inside(operation)
        for variable in layer.weights
    }
    positions = _positions(operation, call)
    for variable in operation.weights:
        size = max(1, math.prod(variable.shape))
        yield variable, positions * products[id(variable)] / size


def _inside(operation: Any) -> Iterator[Any]:
    """A layer and those in it, which know more of their weights, behind it."""
    for layer in layers_of(operation):
        yield layer
        if isinstance(layer, keras.layers.MultiHeadAttention):
            yield from (layer.query_dense, layer.key_dense)
            yield from (layer.value_dense, layer.output_dense)


def _once(layer: Any, variable: Any, call: Call) -> int:
    """How many products with features a variable is in, where its layer acts once."""
    name, size = variable.name, math.prod(variable.shape)
    if isinstance(layer, _ELEMENTWISE) or len(variable.shape) < 2 or "bias" in name:
        return 0
    if name.endswith(("_scale", "_zero")):
        return 0  # Of a quantized kernel, along with it.
    quantized = getattr(layer, "quantization_mode", None)
    if name.startswith("lora_"):
        # Else they are added to the kernel, which is then multiplied as one.
        return size if quantized and name != "lora_embeddings_a" else 0
    if isinstance(layer, TieredEmbedding):
        if name == "projection":
            return size
        table = "embeddings" if layer.tie_weights else "reverse_embeddings"
        loss = call.argument("targets", 2) is not None
        upward = loss or call.argument("reverse", 1, False)
        return size if upward and name.startswith(table) else 0
    if isinstance(layer, keras.layers.Embedding):
        if not isinstance(layer, _REVERSIBLE) or not call.argument("reverse", 1, False):
            return 0
        table = "embeddings" if layer.tie_weights else "reverse_embeddings"
        return layer.input_dim * layer.output_dim if name == table else 0
    # Two weights of four bits share a byte of the variable.
    whole = getattr(layer, "kernel", None) if quantized and name == "kernel" else None
    return size if whole is None else math.prod(whole.shape)


def _positions(layer: Any, call: Call) -> int:
    """At how many positions of one time step the weights of a layer are applied.

    A time step of a convolution over characters, or of a Dense layer over heads, has
    several. One of a size that is not known counts as one position.
    """
    inner = layer
    while isinstance(inner, keras.layers.TimeDistributed):
        inner = inner.layer
    if isinstance(inner, (keras.layers.RNN, keras.layers.Bidirectional)):
        # In a wrapper, their own steps are within one of the model's.
        return _product(call.inputs[0].shape[2:-1])
    if isinstance(inner, keras.layers.EinsumDense):
        return _product(_free(inner.equation, call.inputs[0].shape))
    if not isinstance(inner, (keras.layers.Dense, *_CONVOLUTIONS)):
        return 1
    made = list(keras.tree.flatten(call.spec)[0].shape)
    first = getattr(inner, "data_format", "") == "channels_first"
    del made[-len(inner.kernel_size) - 1 if first else -1]
    return _product(made[2:])


def _product(sizes: Iterable[int | None]) -> int:
    return math.prod(size for size in sizes if size)


def _free(equation: str, shape: Sequence[int | None]) -> list[int | None]:
    """The sizes of the axes of an input that neither a kernel has nor time lies along.

    Args:
        equation: Of an `EinsumDense`.
        shape: Of its input; in a wrapper it has axes more, behind the first.
    """
    given, rest = equation.replace(" ", "").split(",")
    kernel = rest.split("->")[0]
    before, dots, after = given.partition("...")
    if not dots:
        before, after = given[:1], given[1:]
    letters = before + "." * (len(shape) - len(before + after)) + after
    named = zip(letters[2:], shape[2:], strict=True)
    return [size for letter, size in named if letter not in kernel]
