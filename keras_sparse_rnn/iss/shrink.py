"""The smaller model, and the optimizer state that goes with it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn import _backend
from keras_sparse_rnn._models import copied_lambda, layers_of
from keras_sparse_rnn.iss import rules
from keras_sparse_rnn.iss.components import kept_along, protect
from keras_sparse_rnn.iss.regularizer import ISSRegularizer
from keras_sparse_rnn.iss.trace import Plan, trace


def shrink(model: Any, ignore: Iterable[str] = ()) -> Any:
    """Rebuilds a model without its dead units: same outputs, fewer weights.

    A unit is dead when every weight that leaves it is exactly zero: its recurrent
    row and its row in every layer that reads it. This is read from the weights
    alone, so it works on a model that was just loaded. One unit of every layer, and
    of every group of a grouped layer, stays even if it is dead.

    Args:
        model: A built Sequential or Functional model.
        ignore: Names of recurrent layers to leave alone.

    Returns:
        A new model of plain layers, without any `ISSRegularizer`. If `model` is
        compiled so is the result, with the optimizer's state (learning rate,
        iterations, moments) and the states of all dropout seeds; stateful layers keep
        their states. `model` itself is not changed.

    Raises:
        ValueError: If units reach an operation that pruning can't follow, or an
            optimizer or metric of your own can't be made again from its configuration.

    Example:

    >>> small = shrink(keras.models.load_model("masked.keras"))
    >>> small.save("small.keras")
    """
    plan = trace(model, ignore)
    values = plan.values()
    return rebuild(model, plan, [~family.dead(values) for family in plan.prunable])


def rehearse(model: Any, plan: Plan) -> None:
    """Rebuilds a model as if some units were dead, so that errors come early.

    Args:
        model: The model.
        plan: Its components.
    """
    alive = []
    for family in plan.prunable:
        living = np.ones(family.units, bool)
        living[[begin for begin, _ in family.segments]] = False
        alive.append(living)
    rebuild(model, plan, alive)


def rebuild(model: Any, plan: Plan, alive: Sequence[np.ndarray]) -> Any:
    """A model with only some of its units.

    Args:
        model: The model.
        plan: Its components.
        alive: Which units of each of `plan.prunable` live.

    Returns:
        The new model, as `shrink` describes it.
    """
    living = with_protected(plan, alive)
    kept = kept_indices(plan, living)
    units = dict(zip(map(id, plan.prunable), living, strict=True))

    def staying(features: Any) -> Any:
        """Which of the features that come into a layer stay."""
        if features is None:
            return None
        stay = np.ones(len(features.unit), bool)
        for f in features.families:
            if id(plan.families[f]) in units:
                own = features.family == f
                stay[own] = units[id(plan.families[f])][features.unit[own]]
        return stay

    def clone(layer: Any) -> Any:
        if type(layer) is keras.layers.Lambda:
            return copied_lambda(layer, layer.dtype_policy)
        config = _without_regularizers(layer, _unbuilt(layer.get_config()))
        rule = rules.rule_of(layer)
        if rule is not None:
            inputs = staying(plan.incoming.get(id(layer)))
            config = rule.resize(layer, config, kept, inputs)
        return type(layer).from_config(config)

    with _compiled_later(model):
        small = keras.models.clone_model(model, clone_function=clone, recursive=True)
    if model.compiled:
        arguments = _backend.compile_arguments(model)
        arguments = keras.tree.map_structure(_fresh, arguments)
        small.compile(**{**arguments, "optimizer": _fresh(model.optimizer)})
    _copy_variables(model, small, kept)
    return small


@contextmanager
def _compiled_later(model: Any) -> Iterator[None]:
    """Keeps Keras from compiling a clone by way of the serialized arguments.

    Those would lose a user's own loss, metrics and optimizer.
    """
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def _fresh(argument: Any) -> Any:
    """An argument of `compile` for another model: what holds state is made anew."""
    stateful = (keras.optimizers.Optimizer, keras.metrics.Metric)
    if not isinstance(argument, stateful):
        return argument
    try:
        return type(argument).from_config(argument.get_config())
    except (TypeError, ValueError) as error:
        raise ValueError(
            "The smaller model can't be compiled like the old one: "
            f"{type(argument).__name__} '{argument.name}' can't be made again from its "
            "configuration. Give it a complete `get_config()`, and decorate your own "
            "schedules and functions with "
            f"`keras.saving.register_keras_serializable`. Keras says: {error}"
        ) from error


def with_protected(plan: Plan, alive: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`alive`, and one unit of every segment and window where all are dead.

    Args:
        plan: A model's components.
        alive: Which units of each of `plan.prunable` live.
    """
    # Among units that are all dead it does not matter which one stays.
    safe = protect(
        [living.astype(float) for living in alive],
        plan.prunable,
        plan.prunable_windows(),
        [1] * len(alive),
    )
    return [living | needed for living, needed in zip(alive, safe, strict=True)]


def kept_indices(plan: Plan, alive: Sequence[np.ndarray]) -> rules.Kept:
    """Which indices of each variable stay, as `rules.Kept`.

    Args:
        plan: A model's components.
        alive: Which units of each of `plan.prunable` stay.
    """
    masks: dict[tuple[int, int], np.ndarray] = {}
    for family, living in zip(plan.prunable, alive, strict=True):
        for part in family.parts:
            key = (id(plan.variables[part.variable]), part.axis)
            masks[key] = masks.get(key, True) & kept_along(part, living)

    def kept(variable: Any, axis: int) -> np.ndarray:
        found = masks.get((id(variable), axis))
        return np.ones(variable.shape[axis], bool) if found is None else found

    return kept


def _unbuilt(config: Any) -> Any:
    """A configuration without the shapes that layers inside it were built on."""
    if isinstance(config, dict):
        return {k: _unbuilt(v) for k, v in config.items() if k != "build_config"}
    if isinstance(config, list):
        return [_unbuilt(value) for value in config]
    return config


def _without_regularizers(layer: Any, config: dict[str, Any]) -> dict[str, Any]:
    held = {
        name
        for name in config
        if name.endswith("_regularizer")
        and isinstance(getattr(_holder(layer), name, None), ISSRegularizer)
    }
    return {name: None if name in held else value for name, value in config.items()}


def _holder(layer: Any) -> Any:
    """What holds a layer's regularizers: of a grouped layer, any one group."""
    cell = getattr(layer, "cell", layer)
    return getattr(cell, "cells", [cell])[0]


def _copy_variables(model: Any, small: Any, kept: rules.Kept) -> None:
    pairs = [
        *zip(model.weights, small.weights, strict=True),
        *zip(_seeds(model), _seeds(small), strict=True),
    ]
    for old, new in pairs:
        new.assign(_sliced(old, keras.ops.convert_to_numpy(old.value), kept))
    _copy_states(model, small, kept)
    if getattr(model, "optimizer", None) is not None and model.optimizer.built:
        small.optimizer.build(small.trainable_variables)
        _copy_optimizer(model, small.optimizer, kept)


def _sliced(variable: Any, value: np.ndarray, kept: rules.Kept) -> np.ndarray:
    for axis in range(value.ndim):
        value = np.compress(kept(variable, axis), value, axis=axis)
    return value


def _seeds(model: Any) -> list[Any]:
    """The states of all dropout seeds: no weights, yet needed to go on as before.

    A seed set anew would replay the masks that the model has already seen.
    """
    return [v for v in model.non_trainable_variables if "seed_generator" in v.path]


def _copy_states(model: Any, small: Any, kept: rules.Kept) -> None:
    for old, new in zip(layers_of(model), layers_of(small), strict=True):
        if not isinstance(old, keras.layers.RNN) or not old.stateful or not old.states:
            continue
        for state, smaller in zip(old.states, new.states, strict=True):
            value = keras.ops.convert_to_numpy(state.value)
            if value.shape[-1] != smaller.shape[-1]:
                cells = getattr(old.cell, "cells", [old.cell])
                units = [kept(cell.recurrent_kernel, 0) for cell in cells]
                value = np.compress(np.concatenate(units), value, axis=-1)
            smaller.assign(value)


def _copy_optimizer(model: Any, optimizer: Any, kept: rules.Kept) -> None:
    """Carries over what the optimizer remembers of each weight that stays."""
    weights: dict[str, list[Any]] = {}
    for variable in model.weights:
        weights.setdefault(variable.path.replace("/", "_"), []).append(variable)
    olds = _numbered(model.optimizer.variables)
    for (name, number), new in _numbered(optimizer.variables).items():
        old = olds.get((name, number))
        if old is None:
            continue  # Not trained before.
        value = keras.ops.convert_to_numpy(old.value)
        # Keras names each slot after its variable.
        owners = [path for path in weights if name.startswith(f"{path}_")]
        if owners:
            same_path = weights[max(owners, key=len)]
            owner = same_path[min(number, len(same_path) - 1)]
            if tuple(owner.shape) == tuple(value.shape):
                value = _sliced(owner, value, kept)
        if tuple(value.shape) == tuple(new.shape):
            new.assign(value)
        # What is left has a shape of its own (a factored moment, say): it starts
        # anew, as it did when training began.


def _numbered(variables: Iterable[Any]) -> dict[tuple[str, int], Any]:
    """Variables by name, those of one name told apart by their order."""
    counts: dict[str, int] = {}
    found = {}
    for variable in variables:
        number = counts.get(variable.name, 0)
        counts[variable.name] = number + 1
        found[variable.name, number] = variable
    return found
