"""What a model costs, layer by layer, with only some of its units."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._models import is_graph, layers_of
from keras_sparse_rnn.iss.flow import Call
from keras_sparse_rnn.iss.trace import Plan
from keras_sparse_rnn.layers import TieredEmbedding

_PRODUCTS = ("Matmul", "Einsum", "Dot", "Tensordot")


@dataclass(frozen=True)
class Cost:
    """What a model, or one of its layers, costs.

    Attributes:
        parameters: Number of weights, as `count_params` counts them.
        bytes: What they take, each in the dtype of its variable.
        multiply_adds: Products of a weight with a feature for one time step: every
            matrix once for each call of its layer, a lookup not at all. Products of
            features with each other, as in attention, hold no weights, depend on
            the length, and are not counted.
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
    """A variable: the layer it counts for, and how often a time step multiplies it."""

    layer: str
    shape: tuple[int, ...]
    itemsize: int
    # The slots along those axes that may lose indices.
    axes: dict[int, np.ndarray]
    uses: int
    # A variable that is handed to an operation is no weight of the model.
    counted: bool


class Costs:
    """The weights of a model, ready to be counted for any choice of units.

    Args:
        plan: The model's components.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        uses: dict[int, int] = {}
        first: dict[int, tuple[str, Any]] = {}
        for name, operation, call in _calls(plan.calls, ""):
            for variable, products in _products(operation, call):
                uses[id(variable)] = uses.get(id(variable), 0) + products
                first.setdefault(id(variable), (name, variable))
        own = {id(variable) for variable in plan.graph.weights}
        # One that no call of the graph uses is still stored.
        for variable in plan.graph.weights:
            first.setdefault(id(variable), (variable.path.split("/")[0], variable))
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
                uses.get(number, 0),
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
            cost = Cost(stored, stored * weight.itemsize, size * weight.uses)
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
    return max(1, int(bits[0]) // 8) if bits else 1


def _calls(calls: Sequence[Call], prefix: str) -> Iterator[tuple[str, Any, Call]]:
    """Each call of a layer or operation by name, those of nested models included."""
    for call in calls:
        name = f"{prefix}{call.operation.name}"
        if is_graph(call.operation):
            yield from _calls(call.inner, f"{name}/")
        else:
            yield name, call.operation, call


def _products(operation: Any, call: Call) -> Iterator[tuple[Any, int]]:
    """The variables of a call, and how often one time step multiplies each."""
    if not isinstance(operation, keras.layers.Layer):
        if type(operation).__name__ in _PRODUCTS:
            for value in keras.tree.flatten((call.args, call.kwargs)):
                if isinstance(value, keras.Variable) and len(value.shape) > 1:
                    yield value, 1
        return
    unused = {
        id(table) for layer in layers_of(operation) for table in _looked_up(layer, call)
    }
    positions = _positions(operation, call)
    for variable in operation.weights:
        matrix = len(variable.shape) > 1 and "bias" not in variable.name
        yield variable, positions if matrix and id(variable) not in unused else 0


def _looked_up(layer: Any, call: Call) -> list[Any]:
    """The tables of an embedding that a call reads without multiplying them."""
    if isinstance(layer, keras.layers.ReversibleEmbedding):
        backwards = call.argument("reverse", 1, False)
        apart = [] if layer.tie_weights else [layer.reverse_embeddings]
        return apart if not backwards else [layer.embeddings] if apart else []
    if isinstance(layer, (keras.layers.Embedding, TieredEmbedding)):
        return list(layer.weights)
    return []


def _positions(layer: Any, call: Call) -> int:
    """At how many positions of one time step a kernel is applied.

    A time step of a convolution over characters, or of a Dense layer over heads, has
    several.
    """
    inner = layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer
    spread = (
        keras.layers.Dense,
        keras.layers.Conv1D,
        keras.layers.Conv2D,
        keras.layers.Conv3D,
    )
    if not isinstance(inner, spread):
        return 1
    (spec, *_) = keras.tree.flatten(call.spec)
    return math.prod(size for size in tuple(spec.shape)[2:-1] if size)
