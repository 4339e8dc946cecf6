"""How a model was compiled, and what training remembers, for the smaller model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras

from keras_sparse_rnn import _backend

Sliced = Callable[[Any, Any], Any]


def compile_alike(model: Any, small: Any) -> None:
    """Compiles a model with the arguments that another was compiled with.

    Args:
        model: A compiled model.
        small: The one to compile.
    """
    arguments = _backend.compile_arguments(model)
    arguments = keras.tree.map_structure(_fresh, arguments)
    arguments["optimizer"] = _fresh(model.optimizer)
    # What a class's own `compile` keeps of arguments of its own is in attributes; how
    # it was called nobody knows.
    keras.Model.compile(small, **arguments)


def carry_attributes(
    model: Any, small: Any, partners: Sequence[tuple[Any, Any]]
) -> None:
    """Gives a model what was set on another of the same class.

    Args:
        model: The model.
        small: The smaller one.
        partners: Layers and variables, old and new.
    """
    if type(model) is not type(small):
        return
    new = {id(old): other for old, other in partners}
    for name, value in _own_attributes(model, small):
        if not _owned(value, new):
            setattr(small, name, _carried(value, new))


def lost_in(model: Any, small: Any) -> list[str]:
    """What a model has for training and the smaller one lost, in words.

    The code of a subclass can't be rebuilt, so its smaller model is a Functional one;
    and what is held in an attribute, such as an optimizer, may be one model's only.

    Args:
        model: The model.
        small: What was made of it, with what could be carried over.
    """
    if type(model) is type(small):
        return [f"the attribute `{name}`" for name, _ in _own_attributes(model, small)]
    names = ["train_step", "test_step", "predict_step", "compute_loss"]
    names += ["compute_metrics", "compile", "fit", "evaluate", "predict"]
    return [
        f"`{name}`"
        for name in names
        if getattr(type(model), name, None) is not getattr(type(small), name, None)
    ]


def _own_attributes(model: Any, small: Any) -> Iterator[tuple[str, Any]]:
    """What was set on a model, but not by Keras."""
    known = {*vars(small), *_backend.SET_IN_USE}
    for name, value in vars(model).items():
        if name not in known:
            yield name, value


def _owned(value: Any, new: dict[int, Any]) -> bool:
    """Whether a value holds something that is one model's, and has no partner."""
    kinds = (keras.layers.Layer, keras.optimizers.Optimizer, keras.Variable)
    return any(
        isinstance(one, kinds) and id(one) not in new
        for one in keras.tree.flatten(value)
    )


def _carried(value: Any, new: dict[int, Any]) -> Any:
    held = keras.tree.flatten(value)
    if not any(id(one) in new or isinstance(one, keras.metrics.Metric) for one in held):
        # The same object, whatever it is.
        return value
    return keras.tree.map_structure(
        lambda one: new[id(one)] if id(one) in new else _fresh(one), value
    )


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


def copy_optimizer(
    old: Any,
    new: Any,
    pairs: Sequence[tuple[Any, Any]],
    trainable: Sequence[Any],
    sliced: Sliced,
) -> None:
    """Carries over what an optimizer remembers of each weight that stays.

    Args:
        old: The optimizer.
        new: One of the same configuration, not yet built.
        pairs: The variables that they see to, old and new.
        trainable: Those of the new ones that are trained.
        sliced: What is left of a value that is shaped like an old variable.
    """
    for one, other in zip(optimizers_in(old), optimizers_in(new), strict=False):
        excluded = {
            id(variable)
            for variable in _backend.kept_from_decay(one, [old for old, _ in pairs])
        }
        if excluded:
            # It is no part of the configuration.
            other.exclude_from_weight_decay(
                [new for old, new in pairs if id(old) in excluded]
            )
    if not old.built:
        return
    new.build(trainable)
    # Keras names each slot after its variable; the same name may come more than once.
    owners: dict[str, list[tuple[Any, Any]]] = {}
    for one, other in pairs:
        owners.setdefault(other.path.replace("/", "_"), []).append((one, other))
    olds = _numbered(old.variables)
    for (name, number), slot in _numbered(new.variables).items():
        found = [path for path in owners if name.startswith(f"{path}_")]
        owner = None
        if found:
            path = max(found, key=len)
            owner, _ = owners[path][min(number, len(owners[path]) - 1)]
            name = owner.path.replace("/", "_") + name[len(path) :]
        before = olds.get((name, number))
        if before is None:
            continue  # Not trained before.
        value = keras.ops.convert_to_numpy(before)
        if owner is not None and tuple(owner.shape) == tuple(value.shape):
            value = sliced(owner, value)
        if tuple(value.shape) == tuple(slot.shape):
            slot.assign(value)
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


def optimizers_in(optimizer: Any) -> list[Any]:
    """The optimizers that do the work: itself, or those that it hands it to."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return list(getattr(inner, "optimizers", [inner]))
