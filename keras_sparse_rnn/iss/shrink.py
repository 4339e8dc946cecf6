"""The smaller model, and the optimizer state that goes with it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn import _backend
from keras_sparse_rnn._models import layers_of
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
        ValueError: If units reach an operation that pruning can't follow.

    Example:

    >>> small = shrink(keras.models.load_model("masked.keras"))
    >>> small.save("small.keras")
    """
    plan = trace(model, ignore)
    kept = kept_indices(plan)

    def clone(layer: Any) -> Any:
        config = _without_regularizers(layer, layer.get_config())
        rule = rules.rule_of(layer)
        if rule is not None:
            config = rule.resize(layer, config, kept)
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
    if isinstance(argument, stateful):
        return type(argument).from_config(argument.get_config())
    return argument


def kept_indices(plan: Plan) -> rules.Kept:
    """Which indices of each variable stay, as `rules.Kept`.

    Args:
        plan: A model's components; the weights decide which are dead.
    """
    values = plan.values()
    families = plan.prunable
    alive = [~family.dead(values) for family in families]
    # Among units that are all dead it does not matter which one stays.
    safe = protect(
        [mask.astype(float) for mask in alive],
        families,
        plan.prunable_windows(),
        [1] * len(families),
    )
    masks: dict[tuple[int, int], np.ndarray] = {}
    for family, living, needed in zip(families, alive, safe, strict=True):
        for part in family.parts:
            along = kept_along(part, living | needed)
            key = (id(plan.variables[part.variable]), part.axis)
            masks[key] = masks.get(key, True) & along

    def kept(variable: Any, axis: int) -> np.ndarray:
        found = masks.get((id(variable), axis))
        return np.ones(variable.shape[axis], bool) if found is None else found

    return kept


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
    references = {v.path.replace("/", "_"): v for v in model.trainable_variables}
    for old, new in zip(model.optimizer.variables, optimizer.variables, strict=True):
        value = keras.ops.convert_to_numpy(old.value)
        reference = _reference(old, references)
        if reference is not None:
            value = _sliced(reference, value, kept)
        if tuple(value.shape) == tuple(new.shape):
            new.assign(value)
        # What is left has a shape of its own (a factored moment, say): it starts
        # anew, as it did when training began.


def _reference(slot: Any, references: Mapping[str, Any]) -> Any:
    """The model's variable that an optimizer's variable goes with, if any.

    Keras names each after its variable.
    """
    names = [
        name
        for name, variable in references.items()
        if slot.name.startswith(f"{name}_")
        and tuple(slot.shape) == tuple(variable.shape)
    ]
    return references[max(names, key=len)] if names else None
