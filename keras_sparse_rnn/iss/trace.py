"""Follows the units of recurrent layers through a model to all that reads them.

A model is walked call by call. Each tensor carries, for every feature of its last
axis, the unit that it is; the rule of each layer (`rules.py`) says which of the
layer's weights read these features and what its outputs carry.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._models import is_functional, is_graph, layers_of
from keras_sparse_rnn.iss.components import Family, Part, Role


@dataclass(frozen=True, eq=False)
class Features:
    """Which unit each feature of a tensor's last axis is.

    Attributes:
        family: Index of the family of each feature, -1 for none.
        unit: The unit within the family.
    """

    family: np.ndarray
    unit: np.ndarray

    @property
    def families(self) -> list[int]:
        """The families that occur."""
        return [int(f) for f in np.unique(self.family) if f >= 0]

    def __getitem__(self, index: slice) -> "Features":
        return Features(self.family[index], self.unit[index])


@dataclass
class Plan:
    """All components of a model.

    Attributes:
        families: The components of each recurrent layer that has a rule.
        layers: The layer of each family.
        variables: The variables that parts refer to by index.
        windows: Sets of `(family, unit)` of which one at least must live.
        incoming: For each layer, by its `id`, the features that come in, if any of
            them is a unit.
        skipped: Recurrent layers without components, with the reason.
    """

    families: list[Family] = field(default_factory=list)
    layers: list[Any] = field(default_factory=list)
    variables: list[Any] = field(default_factory=list)
    windows: list[list[tuple[int, int]]] = field(default_factory=list)
    incoming: dict[int, "Features"] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def prunable(self) -> list[Family]:
        """The families whose units can be removed."""
        return [family for family in self.families if family.reason is None]

    @property
    def prunable_layers(self) -> list[Any]:
        """The layers of `prunable`."""
        pairs = zip(self.families, self.layers, strict=True)
        return [layer for family, layer in pairs if family.reason is None]

    @property
    def left_alone(self) -> dict[str, str]:
        """Every recurrent layer that is not pruned, with the reason."""
        fixed = {f.layer: f.reason for f in self.families if f.reason is not None}
        return {**self.skipped, **fixed}

    def prunable_windows(self) -> list[list[tuple[int, int]]]:
        """`windows`, numbered as in `prunable`; those that can't empty left out."""
        number = {id(family): i for i, family in enumerate(self.prunable)}
        numbered = []
        for window in self.windows:
            if all(id(self.families[f]) in number for f, _ in window):
                numbered.append(
                    [(number[id(self.families[f])], unit) for f, unit in window]
                )
        return numbered

    def values(self) -> dict[int, np.ndarray]:
        """The present value of every variable that parts refer to."""
        return {
            key: keras.ops.convert_to_numpy(variable.value)
            for key, variable in enumerate(self.variables)
        }


class Tracer:
    """Collects a `Plan` while a model is walked; what a rule talks to."""

    def __init__(self, ignore: Iterable[str] = ()):
        self.plan = Plan()
        self.ignore = set(ignore)
        self._keys: dict[int, int] = {}

    def key(self, variable: Any) -> int:
        """The key of a variable; a new one gets the next number."""
        if id(variable) not in self._keys:
            self._keys[id(variable)] = len(self.plan.variables)
            self.plan.variables.append(variable)
        return self._keys[id(variable)]

    def new_family(self, layer: Any, segments: Sequence[tuple[int, int]]) -> Any:
        """A family for a recurrent layer, or `None` if the layer is ignored."""
        if layer.name in self.ignore:
            self.plan.skipped[layer.name] = "named in `ignore`"
            return None
        family = Family(layer.name, segments[-1][1], [(b, e) for b, e in segments])
        self.plan.families.append(family)
        self.plan.layers.append(layer)
        return family

    def own(
        self, family: Family, variable: Any, axis: int, owner: Any, role: Role
    ) -> None:
        """Gives a family the indices of a variable along an axis.

        Args:
            family: The family.
            variable: A Keras variable.
            axis: The axis.
            owner: For each index along it the unit that owns it, -1 for none.
            role: What the weights are to the unit.
        """
        owner = np.asarray(owner, np.int64)
        shape = tuple(variable.shape)
        family.parts.append(Part(self.key(variable), shape, axis, owner, role))

    def read(self, layer: Any, variable: Any, axis: int, features: Any) -> None:
        """Records that a variable reads features along one of its axes."""
        if features is None:
            return
        key = self.key(variable)
        if any(
            (part.variable, part.axis, part.role) == (key, axis, "out")
            for family in self.plan.families
            for part in family.parts
        ):
            raise ValueError(
                f"Layer '{layer.name}' is called more than once on the units of "
                f"{self.names(features)}; pruning can't follow a shared layer. Name "
                "those recurrent layers in `ignore`, or use a layer of its own."
            )
        for f in features.families:
            owner = np.where(features.family == f, features.unit, -1)
            self.own(self.plan.families[f], variable, axis, owner, "out")

    def require_one(self, features: Any) -> None:
        """Records that at least one of these features must live."""
        if features is not None and np.all(features.family >= 0):
            self.plan.windows.append(
                [
                    (int(f), int(u))
                    for f, u in zip(features.family, features.unit, strict=True)
                ]
            )

    def features_of(self, family: Any) -> Any:
        """The features of a tensor whose last axis is a family's units."""
        if family is None:
            return None
        index = self.plan.families.index(family)
        return Features(np.full(family.units, index), np.arange(family.units))

    def keep_all(self, features: Any, reason: str) -> None:
        """Records that the units of these features can't be removed."""
        if features is not None:
            for f in features.families:
                self.plan.families[f].reason = reason

    def names(self, features: Any) -> str:
        """The layers whose units these features are, for a message."""
        return ", ".join(f"'{self.plan.families[f].layer}'" for f in features.families)


def trace(model: Any, ignore: Iterable[str] = ()) -> Plan:
    """Finds the components of every recurrent layer of a model.

    Args:
        model: A built Sequential or Functional Keras model.
        ignore: Names of recurrent layers to leave alone.

    Returns:
        A `Plan`.

    Raises:
        ValueError: If units reach an operation that has no rule, the model has no
            graph to follow or is not built, or `ignore` names no layer.
    """
    ignore = [ignore] if isinstance(ignore, str) else list(ignore)
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' has no weights yet. Build it first: give it an "
            "`Input`, or call it on a batch."
        )
    known = {layer.name for layer in layers_of(model)} - {model.name}
    unknown = sorted(set(ignore) - known)
    if unknown:
        raise ValueError(
            f"`ignore` names layers that model '{model.name}' does not have: "
            f"{unknown}. Its layers are {sorted(known)}."
        )
    tracer = Tracer(ignore)
    for features in walk(model, None, tracer):
        tracer.keep_all(features, "its units are an output of the model")
    return tracer.plan


def walk(model: Any, inputs: Sequence[Any] | None, tracer: Tracer) -> list[Any]:
    """Follows features through a Sequential or Functional model.

    Args:
        model: The model.
        inputs: The features of each of its inputs; `None` for inputs without units.
        tracer: What collects the plan.

    Returns:
        The features of each of its outputs.
    """
    from keras_sparse_rnn.iss import rules

    if not is_graph(model):
        raise ValueError(
            f"Pruning can't follow model '{model.name}' (a {type(model).__name__}): "
            "it is code, not a graph of layers. Build it as a Sequential or a "
            "Functional model."
        )
    if isinstance(model, keras.Sequential):
        flowing = inputs[0] if inputs else None
        for layer in model.layers:
            flowing = rules.follow(layer, [flowing], [], tracer)[0]
        return [flowing]
    config = model.get_config()
    operations = {operation.name: operation for operation in model.operations}
    known: dict[tuple[str, int, int], Any] = {}
    for number, key in enumerate(_tensor_keys(config["input_layers"])):
        known[key] = inputs[number] if inputs else None
    # Every tensor that some call or output takes; outputs of a call beyond those
    # that its rule speaks of carry no units.
    taken: list[tuple[str, int, int]] = []
    waiting = []
    for entry in config["layers"]:
        for index, node in enumerate(entry["inbound_nodes"]):
            # An explicit mask says when units are read, not by whom.
            named = {k: v for k, v in node["kwargs"].items() if k != "mask"}
            first, *others = list(node["args"]) + list(named.values())
            main, extra = _history(first), _history(others)
            waiting.append((entry["name"], index, main, extra))
            taken += main + extra
    # Keras counts the nodes of a nested Functional model from 1 among the outputs,
    # and from 0 among the arguments of calls.
    outputs = [
        (name, node - is_functional(operations[name]), tensor)
        for name, node, tensor in _tensor_keys(config["output_layers"])
    ]
    taken += outputs
    while waiting:
        ready = [
            call for call in waiting if all(key in known for key in call[2] + call[3])
        ]
        if not ready:
            raise ValueError(
                f"Pruning can't follow model '{model.name}': its configuration names "
                f"tensors that no call makes, for {[call[0] for call in waiting]}."
            )
        waiting = [call for call in waiting if call not in ready]
        for name, index, main, extra in ready:
            results = rules.follow(
                operations[name],
                [known[key] for key in main],
                [known[key] for key in extra],
                tracer,
            )
            for number, features in enumerate(results):
                known[(name, index, number)] = features
            for key in taken:
                if key[:2] == (name, index):
                    known.setdefault(key, None)
    return [known[key] for key in outputs]


def _history(config: Any) -> list[tuple[str, int, int]]:
    """The tensors that occur in the configuration of a call, in order."""
    if isinstance(config, dict):
        if config.get("class_name") == "__keras_tensor__":
            name, node, tensor = config["config"]["keras_history"]
            return [(name, node, tensor)]
        return [key for value in config.values() for key in _history(value)]
    if isinstance(config, (list, tuple)):
        return [key for value in config for key in _history(value)]
    return []


def _tensor_keys(config: Any) -> list[tuple[str, int, int]]:
    """The tensors of a model's `input_layers` or `output_layers`, in order."""
    if isinstance(config, dict):
        return [key for value in config.values() for key in _tensor_keys(value)]
    if len(config) == 3 and isinstance(config[0], str):
        return [(config[0], config[1], config[2])]
    return [key for value in config for key in _tensor_keys(value)]
