"""Follows the units of recurrent layers through a model to all that reads them.

A model is walked call by call. Each tensor carries, for the indices along each of its
axes, the slots that they are (`flow.py`); the rule of each layer or operation says
which weights read or make them and which of them are tied (`rules/`). What is tied to
units in the end is what their components are made of.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn._graphs import as_graph
from keras_sparse_rnn._models import is_graph, layers_of, uncompiled
from keras_sparse_rnn.iss.components import Family, LayerUnits, Part, Role
from keras_sparse_rnn.iss.flow import Axis, Call, Flow, flow_of, flows_in
from keras_sparse_rnn.iss.slots import Slots

# Of two roles of one axis of a variable, the first counts.
_ROLES: tuple[Role, ...] = ("out", "in", "bias", "state", "along")


@dataclass
class Plan:
    """All components of a model.

    Attributes:
        graph: The model as a graph: itself, unless it is a subclass with a `call`.
        families: The components of each recurrent layer, or of several that are tied.
        variables: The variables that parts refer to by index.
        windows: Sets of `(family, component)` of which one at least must live: all
            that some axis is made of.
        skipped: Recurrent layers without components, with the reason.
        calls: What each call of the graph was given and returned, in order.
        first: For each layer and operation, by its `id`, its first call.
        seen: The slots that a cell sees, by its `id`, where its rule wants to know.
        classes: The class of each slot.
        members: The family and component of each class that is one, by class.
        axes: The slots along each axis of a variable, by the variable's key.
    """

    graph: Any
    families: list[Family] = field(default_factory=list)
    variables: list[Any] = field(default_factory=list)
    windows: list[list[tuple[int, int]]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    first: dict[int, Call] = field(default_factory=dict)
    seen: dict[int, np.ndarray] = field(default_factory=dict)
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    members: dict[int, tuple[int, int]] = field(default_factory=dict)
    axes: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    @property
    def prunable(self) -> list[Family]:
        """The families of which some component can be removed."""
        return [family for family in self.families if not family.fixed.all()]

    @property
    def left_alone(self) -> dict[str, str]:
        """Every recurrent layer none of whose units can be removed, with the reason."""
        found = dict(self.skipped)
        for family in self.families:
            for layer in family.layers:
                if family.fixed[layer.component].all():
                    found[layer.name] = family.reasons[int(layer.component[0])]
        return found

    @property
    def left_in_part(self) -> dict[str, str]:
        """Every layer some of whose units can't be removed, with the first reason."""
        found = {}
        for family in self.families:
            for layer in family.layers:
                fixed = family.fixed[layer.component]
                if fixed.any() and not fixed.all():
                    first = int(layer.component[np.argmax(fixed)])
                    found[layer.name] = (
                        f"{fixed.sum()} of {len(fixed)} units: {family.reasons[first]}"
                    )
        return found

    def fix(self, family: Family, components: Any, reason: str) -> None:
        """Keeps components of a family, whatever happens.

        Args:
            family: The family.
            components: Their indices.
            reason: Why.
        """
        for component in np.atleast_1d(components):
            family.fixed[component] = True
            family.reasons.setdefault(int(component), reason)

    def values(self) -> dict[int, np.ndarray]:
        """The present value of every variable that parts refer to."""
        return {
            key: keras.ops.convert_to_numpy(variable)
            for key, variable in enumerate(self.variables)
        }

    def living(self, alive: Sequence[np.ndarray]) -> np.ndarray:
        """Which classes stay.

        Args:
            alive: Which components of each of `families` live.
        """
        living = np.ones(len(self.classes) + 1, bool)
        for number, (family, component) in self.members.items():
            living[number] = alive[family][component]
        return living

    def stays(self, slots: np.ndarray, alive: Sequence[np.ndarray]) -> np.ndarray:
        """Which slots stay.

        Args:
            slots: Some slots.
            alive: Which components of each of `families` live.
        """
        stay = self.living(alive)
        return stay[self.classes[slots]] if len(slots) else np.ones(0, bool)

    def kept(self, alive: Sequence[np.ndarray]) -> Callable[[Any, int], np.ndarray]:
        """Which indices of each variable stay, as `rules.Kept`.

        Args:
            alive: Which components of each of `families` live.
        """
        keys = {id(variable): key for key, variable in enumerate(self.variables)}

        def kept(variable: Any, axis: int) -> np.ndarray:
            axis %= len(variable.shape)
            slots = self.axes.get((keys.get(id(variable), -1), axis))
            if slots is None:
                return np.ones(variable.shape[axis], bool)
            return self.stays(slots, alive)

        return kept


class Tracer:
    """Collects what rules say while a model is walked."""

    def __init__(self) -> None:
        self.slots = Slots()
        self.variables: list[Any] = []
        self.axes: dict[tuple[int, int], np.ndarray] = {}
        self.roles: dict[tuple[int, int], Role] = {}
        self.layers: list[tuple[str, Any, np.ndarray, list[Any], list[Any]]] = []
        self.calls: list[Call] = []
        self.skipped: dict[str, str] = {}
        self._keys: dict[int, int] = {}
        self._units: dict[int, np.ndarray] = {}
        self._fixed: list[tuple[np.ndarray, str]] = []
        self._stopped: list[tuple[np.ndarray, str]] = []
        self._summed: list[np.ndarray] = []
        self._wrappers: list[str] = []
        self.first: dict[int, Call] = {}
        self.seen: dict[int, np.ndarray] = {}
        self._ignored: set[int] = set()
        self._ignored_paths: set[str] = set()
        self._owned: set[int] = set()
        self.vanishing: set[tuple[int, int]] = set()

    # What rules call.

    def weights(
        self, variable: Any, axis: int, role: Role, slots: np.ndarray | None = None
    ) -> np.ndarray:
        """Says that the indices along an axis of a variable may go with units.

        Asked again for the same axis, as for a layer that is called twice, it ties
        the slots of both.

        Args:
            variable: A Keras variable.
            axis: Its axis.
            role: `"out"` for weights that read what goes along the axis, `"in"` for
                those that make it, `"bias"` for what is added or scales it (set to
                zero with it, but not in its norm), `"state"` for a carried state,
                `"along"` for what only has to be as long.
            slots: The slots along it; by default new ones.

        Returns:
            The slots.
        """
        axis %= len(variable.shape)
        if id(variable) not in self._keys:
            self._keys[id(variable)] = len(self.variables)
            self.variables.append(variable)
        key = (self._keys[id(variable)], axis)
        if key not in self.axes:
            self.axes[key] = (
                self.slots.new(variable.shape[axis]) if slots is None else slots
            )
            self.roles[key] = role
        if slots is not None:
            self.slots.tie(self.axes[key], slots)
        if _ROLES.index(role) < _ROLES.index(self.roles[key]):
            self.roles[key] = role
        return self.axes[key]

    def read(self, variable: Any, axis: int, features: Axis | None) -> None:
        """Says that a variable reads features along one of its axes.

        Args:
            variable: A Keras variable.
            axis: Its axis.
            features: What it is multiplied with; `None` if nothing there can go.
        """
        if features is not None:
            self.weights(variable, axis, "out", features.slots)
        else:
            # Another call of the same layer may bring units.
            self.fix(
                self.weights(variable, axis, "out"),
                "the same weights read what can't be removed",
            )

    def may_go(self, variable: Any, axis: int) -> None:
        """Says that a variable may lose all indices along an axis, and go itself.

        Args:
            variable: A Keras variable that `weights` was told of.
            axis: Its axis.
        """
        self.vanishing.add((self._keys[id(variable)], axis % len(variable.shape)))

    def tie(self, first: Axis | None, second: Axis | None, reason: str) -> None:
        """Says that two axes only lose indices together.

        Args:
            first: An axis.
            second: An axis of as many indices; `None` if nothing there can go.
            reason: Why the other can't lose any either, in that case.
        """
        if first is not None and second is not None:
            self.slots.tie(first.slots, second.slots)
        for one, other in ((first, second), (second, first)):
            if one is None and other is not None:
                self.fix(other.slots, reason)

    def fix(self, what: Flow | np.ndarray, reason: str) -> None:
        """Says that something can't be removed; that is no error.

        Args:
            what: Slots, or a tensor with all its axes.
            reason: Why, for the report.
        """
        slots = what.slots if isinstance(what, Flow) else what
        if len(slots):
            self._fixed.append((slots, reason))

    def stop(self, what: Flow | Axis, message: str) -> None:
        """Says that what became of something can't be followed.

        It is an error if units of a recurrent layer are meant that is not in `ignore`.

        Args:
            what: The axis, or a tensor with all its axes.
            message: What they run into, as the end of "… can't be followed …".
        """
        if len(what.slots):
            self._stopped.append((what.slots, message))

    def add_up(self, features: Axis, message: str) -> None:
        """Says that features are summed without weights, so they must become zero.

        Args:
            features: The axis that is summed.
            message: As for `stop`, where they need not be zero.
        """
        # Set to zero with the units, they add nothing to the sum.
        self._summed.append(features.slots)
        if not features.zero.all():
            self.stop(features[~features.zero], message)

    def units(
        self,
        cell: Any,
        name: str,
        count: int,
        anchors: Sequence[Any],
        segments: Sequence[tuple[int, int]] = (),
    ) -> np.ndarray:
        """The slots of a cell's units, the same at each call.

        Args:
            cell: The cell.
            name: What users call it by.
            count: Number of its units.
            anchors: Its recurrent kernels.
            segments: The `(begin, end)` of each group, for the report.
        """
        if id(cell) not in self._units:
            slots = self._units[id(cell)] = self.slots.new(count)
            ranges = [(begin, end) for begin, end in segments] or [(0, count)]
            self.layers.append((name, cell, slots, ranges, list(anchors)))
            if id(cell) in self._ignored or name in self._ignored_paths:
                self.fix(slots, f"'{name}' is named in `ignore`")
        return self._units[id(cell)]

    def owns(self, variable: Any) -> bool:
        """Whether a variable is one of the model's weights, and so made again with it.

        Args:
            variable: A Keras variable.
        """
        return id(variable) in self._owned

    @property
    def untouched(self) -> bool:
        """Whether nothing that was followed was summed, kept or lost."""
        return not (self._fixed or self._stopped or self._summed)

    def rigid(self, count: int) -> Axis:
        """An axis of which nothing can be removed, where slots are wanted.

        Args:
            count: Its size.
        """
        axis = Axis.of(self.slots.new(count), False)
        self.fix(axis.slots, "joined with what can't be removed")
        return axis

    def path(self, layer: Any) -> str:
        """What users call a layer by: its name, after those of its wrappers."""
        return "/".join([*self._wrappers, layer.name])

    @contextmanager
    def within(self, wrapper: Any) -> Iterator[None]:
        """What is followed meanwhile is inside a wrapper."""
        self._wrappers.append(wrapper.name)
        try:
            yield
        finally:
            self._wrappers.pop()

    # What the walk calls.

    def begin(self, model: Any, ignore: Sequence[str]) -> None:
        """Notes what a model's user wants left alone.

        Args:
            model: The model.
            ignore: Names of layers; all that is in them counts too.
        """
        holders = [one for one in layers_of(model) if one.name in ignore]
        self._ignored = {id(inner) for one in holders for inner in layers_of(one)}
        self._ignored_paths = {name for name in ignore if "/" in name}
        self._owned = {id(variable) for variable in model.weights}

    def call(self, operation: Any, call: Call) -> Any:
        """Follows one call, and remembers it.

        Args:
            operation: The layer or operation.
            call: What it is called with.

        Returns:
            A `Flow` for each output.
        """
        from keras_sparse_rnn.iss.rules import registry

        call.operation = operation
        self.calls.append(call)
        self.first.setdefault(id(operation), call)
        outside, self.calls = self.calls, call.inner
        call.results = registry.follow(operation, call, self)
        self.calls = outside
        return call.results

    def plan(self, graph: Any) -> Plan:
        """All that was collected."""
        classes = self.slots.classes()
        plan = Plan(graph, variables=self.variables, skipped=self.skipped)
        plan.calls, plan.first, plan.seen = self.calls, self.first, self.seen
        plan.classes, plan.axes = classes, self.axes
        self._families(plan)
        self._fix(plan)
        self._parts(plan)
        self._windows(plan)
        return plan

    def _families(self, plan: Plan) -> None:
        """Layers that share a class are one family; its classes are components."""
        of_layer = [plan.classes[slots] for _, _, slots, _, _ in self.layers]
        group = Slots()
        numbers = group.new(len(of_layer))
        first: dict[int, int] = {}
        for number, own in enumerate(of_layer):
            for one in own.tolist():
                other = first.setdefault(one, number)
                group.tie(numbers[[number]], numbers[[other]])
        together = group.classes()
        for leader in np.unique(together):
            members = np.flatnonzero(together == leader)
            known = list(dict.fromkeys(np.concatenate([of_layer[m] for m in members])))
            index = {int(one): number for number, one in enumerate(known)}
            family = Family(" + ".join(self.layers[m][0] for m in members), len(known))
            for m in members:
                name, cell, _, segments, anchors = self.layers[m]
                component = np.array([index[int(one)] for one in of_layer[m]])
                keys = [self._keys[id(anchor)] for anchor in anchors]
                family.layers.append(LayerUnits(name, cell, component, segments, keys))
            for one, number in index.items():
                plan.members[one] = (len(plan.families), number)
            plan.families.append(family)

    def _members(self, plan: Plan, slots: np.ndarray) -> dict[int, list[int]]:
        """The components among some slots, by family."""
        found: dict[int, list[int]] = {}
        for one in np.unique(plan.classes[slots]).tolist():
            if one in plan.members:
                family, component = plan.members[one]
                found.setdefault(family, []).append(component)
        return found

    def _fix(self, plan: Plan) -> None:
        # What users asked for is told first, and is looked for below.
        for slots, reason in sorted(
            self._fixed, key=lambda one: "`ignore`" not in one[1]
        ):
            for number, components in self._members(plan, slots).items():
                plan.fix(plan.families[number], components, reason)
        for slots, message in self._stopped:
            for number, components in self._members(plan, slots).items():
                family = plan.families[number]
                loose = [c for c in components if not self._excused(family, c)]
                if loose:
                    raise ValueError(_stuck(plan.graph, family, message))
                plan.fix(family, components, message)
        for slots in self._summed:
            for number, components in self._members(plan, slots).items():
                plan.families[number].summed[components] = True

    def _excused(self, family: Family, component: int) -> bool:
        reason = family.reasons.get(component, "")
        return bool(family.fixed[component]) and "`ignore`" in reason

    def _parts(self, plan: Plan) -> None:
        for (key, axis), slots in self.axes.items():
            classes = plan.classes[slots]
            found = [plan.members.get(one, (-1, -1)) for one in classes.tolist()]
            families, components = np.array(found).reshape(-1, 2).T
            for number in np.unique(families[families >= 0]):
                owner = np.where(families == number, components, -1)
                shape = tuple(self.variables[key].shape)
                part = Part(key, shape, axis, owner, self.roles[key, axis])
                plan.families[number].parts.append(part)

    def _windows(self, plan: Plan) -> None:
        """An axis that is made of units alone must keep one of them."""
        seen = set()
        flows = flows_in([one.results for call in self.calls for one in call])
        made = [axis.slots for flow in flows for axis in flow.axes.values()]
        kept = [slots for key, slots in self.axes.items() if key not in self.vanishing]
        for slots in [*kept, *made]:
            classes = frozenset(plan.classes[slots].tolist())
            if classes in seen or not classes:
                continue
            seen.add(classes)
            members = [plan.members[one] for one in classes if one in plan.members]
            fixed = any(plan.families[f].fixed[c] for f, c in members)
            if len(members) == len(classes) and not fixed:
                plan.windows.append(sorted(members))


def _stuck(model: Any, family: Family, message: str) -> str:
    """What to do about units that run into something.

    Args:
        model: The model.
        family: Theirs.
        message: What they run into.
    """
    names = [layer.name for layer in family.layers]
    models = {layer.name for layer in layers_of(model) if is_graph(layer)}
    outer: list[str] = []
    for name in names:
        *inside, last = name.split("/")
        # With a wrapper all that is in it is left alone, but not with a model.
        one = f"'{next((part for part in inside if part not in models), last)}'"
        outer += [one] if one not in outer else []
    if len(names) == 1:
        whose, which = f"'{names[0]}'", outer[0]
    else:
        whose = _listed([f"'{name}'" for name in names], "and")
        whose += ", which live and die together,"
        which = f"one of {_listed(outer, 'or')}" if len(outer) > 1 else outer[0]
    return (
        f"The units of {whose} can't be followed {message}. Name {which} in `ignore` "
        "to leave them alone, or teach pruning what is in the way with "
        "`register_rule`, for which an operation must be put into a layer of your own."
    )


def _listed(names: Sequence[str], last: str) -> str:
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def _check_directions(model: Any) -> None:
    """Keras infers a wrong shape where a `Bidirectional` holds two different sizes."""
    for layer in layers_of(model):
        if type(layer) is not keras.layers.Bidirectional:
            continue
        sides = (layer.forward_layer, layer.backward_layer)
        forth, back = (
            getattr(getattr(side, "cell", None), "output_size", None) for side in sides
        )
        if forth != back:
            raise ValueError(
                f"The directions of '{layer.name}' (a Bidirectional) have {forth} and "
                f"{back} units, for which Keras infers a wrong shape. Make it a "
                "`keras_sparse_rnn.UnevenBidirectional` of the same arguments."
            )


def trace(model: Any, ignore: Iterable[str] = ()) -> Plan:
    """Finds the components of every recurrent layer of a model.

    Args:
        model: A built Keras model: Sequential, Functional, or a subclass whose `call`
            can be run on symbolic tensors.
        ignore: Names of recurrent layers to leave alone, or their names in the report,
            after those of what they are in: `"encoder/lstm"`.

    Returns:
        A `Plan`.

    Raises:
        ValueError: If units reach a layer or an operation that has no rule, the model
            has no graph to follow or is not built, `ignore` names no layer, or a
            `Bidirectional` has directions of different sizes.
    """
    ignore = names_in("ignore", ignore)
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' has no weights yet. Build it first: give it an "
            "`Input`, or call it on a batch."
        )
    known = {layer.name for layer in layers_of(model)} - {model.name}
    # Names with those of wrappers are known once the model is walked.
    _check_known({name for name in ignore if "/" not in name}, known, model)
    _check_directions(model)
    graph = as_graph(model, for_training=True)
    tracer = Tracer()
    tracer.begin(graph, ignore)
    specs = keras.tree.flatten(graph.inputs)
    outputs = walk(graph, [flow_of(spec) for spec in specs], tracer)
    for flow in outputs:
        tracer.fix(flow, "its units are an output of the model")
    paths = {name for name, *_ in tracer.layers}
    _check_known({name for name in ignore if "/" in name}, paths, model)
    return tracer.plan(graph)


def names_in(argument: str, names: Any) -> list[str]:
    """The names that an argument gives, which may be one.

    Args:
        argument: What the argument is called.
        names: Its value.
    """
    found = [names] if isinstance(names, str) else names
    if not isinstance(found, Iterable) or not all(isinstance(n, str) for n in found):
        raise ValueError(
            f"`{argument}` must be names of layers. Received: {argument}={names!r}."
        )
    return list(found)


def _check_known(ignore: set[str], known: set[str], model: Any) -> None:
    unknown = sorted(ignore - known)
    if unknown:
        raise ValueError(
            f"`ignore` names layers that model '{model.name}' does not have: "
            f"{unknown}. Its layers are {sorted(known)}."
        )


class _Link(keras.Operation):
    """Stands for a call in a copy of a graph that is only looked at."""

    def __init__(self, spec: Any):
        super().__init__()
        self.spec = spec

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.spec


def walk(model: Any, inputs: Sequence[Flow], tracer: Tracer) -> list[Flow]:
    """Follows features through a Sequential or Functional model.

    Args:
        model: The model.
        inputs: The flow of each of its inputs.
        tracer: What collects the components.

    Returns:
        The flow of each of its outputs.
    """
    if isinstance(model, keras.Sequential):
        (flow,) = inputs
        spec = model.inputs[0]
        for layer in model.layers:
            spec = layer.compute_output_spec(spec)
            flow = tracer.call(layer, Call((flow,), {}, spec))
        return [flow]
    # Every tensor is known by the symbol that stands for it in the copy.
    flows: dict[int, Flow] = {}
    symbols: list[Any] = []

    def note(symbol: Any, flow: Flow) -> None:
        flows[id(symbol)] = flow
        symbols.append(symbol)

    def visit(operation: Any, *args: Any, **kwargs: Any) -> Any:
        spec = operation.compute_output_spec(*args, **kwargs)
        given = keras.tree.map_structure(
            lambda one: flows[id(one)] if isinstance(one, keras.KerasTensor) else one,
            (args, kwargs),
        )
        found = tracer.call(operation, Call(given[0], given[1], spec))
        made = _Link(spec)(*args, **kwargs)
        for symbol, flow in zip(
            keras.tree.flatten(made), keras.tree.flatten(found), strict=True
        ):
            note(symbol, flow)
        return made

    starts = keras.tree.map_structure(
        # Keras wants those of a dictionary to be named after their keys.
        lambda one: keras.Input(batch_shape=one.shape, dtype=one.dtype, name=one.name),
        model.input,
    )
    for symbol, flow in zip(keras.tree.flatten(starts), inputs, strict=True):
        note(symbol, flow)
    with uncompiled(model):
        copy = keras.models.clone_model(
            model,
            input_tensors=starts,
            clone_function=lambda operation: operation,
            call_function=visit,
        )
    return [flows[id(symbol)] for symbol in keras.tree.flatten(copy.outputs)]
