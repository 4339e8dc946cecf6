"""What acts on a variable after every optimizer step.

Keras's optimizers call `variable.constraint` after each update, in `fit`, in custom
loops, under XLA and in JAX's stateless `apply` alike, once the gradients of all
variables have been applied. This is the one hook that reaches all of them, so the
proximal step, the threshold and the masks hang there, behind the user's own
constraint.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

# `action(variable, value) -> value`; `value` is the variable's value so far.
Action = Callable[[Any, Any], Any]

# Masks come last: nothing may bring a masked weight back.
_ORDER = ("threshold", "proximal", "mask")


class AfterStep(keras.constraints.Constraint):
    """A user's constraint, followed by named actions."""

    def __init__(self, original: Any):
        self.original = original
        self.actions: dict[str, Action] = {}

    def __call__(self, w: Any) -> Any:
        """The value `w` has once all of them have acted."""
        value = ops.convert_to_tensor(w if self.original is None else self.original(w))
        for name in _ORDER:
            if name in self.actions:
                value = self.actions[name](w, value)
        return value


def attach(variable: Any, name: str, action: Action) -> None:
    """Adds an action to a variable, or replaces the one of that name.

    Args:
        variable: A Keras variable.
        name: `"threshold"`, `"proximal"` or `"mask"`; they act in that order.
        action: What to do.
    """
    if name not in _ORDER:
        raise ValueError(f"`name` must be one of {_ORDER}. Received: {name!r}.")
    if not isinstance(variable.constraint, AfterStep):
        variable.constraint = AfterStep(variable.constraint)
    variable.constraint.actions[name] = action


def has(variable: Any, name: str) -> bool:
    """Whether a variable has an action of that name.

    Args:
        variable: A Keras variable.
        name: `"threshold"`, `"proximal"` or `"mask"`.
    """
    hook = variable.constraint
    return isinstance(hook, AfterStep) and name in hook.actions


def detach(variable: Any, name: str) -> None:
    """Removes an action; with the last one the user's constraint is back."""
    hook = variable.constraint
    if isinstance(hook, AfterStep):
        hook.actions.pop(name, None)
        if not hook.actions:
            variable.constraint = hook.original


def retrace(model: Any) -> None:
    """Makes the model compile its training step again, with the hooks of now.

    A compiled step holds the hooks that were there when it was traced, and changes
    would go unheard.
    """
    if getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)
    if getattr(model, "test_function", None) is not None:
        model.make_test_function(force=True)
