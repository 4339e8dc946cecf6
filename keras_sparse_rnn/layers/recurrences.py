"""The equations of the recurrent cells, forwards and backwards through time.

`run` is a plain time loop, differentiated by the backend. `run_for_training` computes
the same with a gradient written by hand. The backend would form the gradient of a
recurrent kernel as the sum of one thin product for each time step; here the loop back
through time carries states only, and every kernel's gradient is a single product over
all steps, made after it.

The equations act on tensors as an `arrangement` lays them out: units last, gates before
them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_sparse_rnn import _backend

# An activation's derivative, from the activation's own result.
_DERIVATIVES: list[tuple[Any, Callable[[Any], Any]]] = [
    (keras.activations.tanh, lambda y: 1 - y * y),
    (keras.activations.sigmoid, lambda y: y * (1 - y)),
    (keras.activations.hard_sigmoid, lambda y: _where_true((y > 0) & (y < 1), y) / 6),
    (keras.activations.relu, lambda y: _where_true(y > 0, y)),
    (keras.activations.linear, ops.ones_like),
]


def _derivative_of(activation: Any) -> Any:
    # By identity: a user's own activation need not have a hash.
    return next((d for known, d in _DERIVATIVES if known is activation), None)


class Recurrence:
    """Base class: the equations of one kind of cell.

    Args:
        activation: Of the candidate (and of an LSTM's output).
        recurrent_activation: Of the gates.
    """

    def __init__(self, activation: Any, recurrent_activation: Any):
        self.activation = activation
        self.recurrent_activation = recurrent_activation

    @property
    def differentiable_by_hand(self) -> bool:
        """Whether the activations' derivatives are known here."""
        activations = (self.activation, self.recurrent_activation)
        return all(_derivative_of(one) is not None for one in activations)

    def split_kernels(self, kernels: Sequence[Any]) -> list[list[Any]]:
        """The recurrent kernels, apart where a step needs more than one product."""
        return [list(kernels)]

    def forward(
        self,
        projected: Any,
        states: Sequence[Any],
        products: Sequence[Callable[[Any], Any]],
        drop: Any,
        bias: Any,
    ) -> tuple[list[Any], list[Any]]:
        """One time step.

        Args:
            projected: `x·kernel + bias`, `(..., gates, units)`.
            states: `(..., units)` each, the output first.
            products: With the recurrent kernels of `split_kernels`.
            drop: `None`, or what multiplies the output on its way into a product.
            bias: `None`, or the recurrent bias of the candidate.

        Returns:
            The new states, and what `coefficients` needs.
        """
        raise NotImplementedError

    def coefficients(
        self,
        kept: Sequence[Any],
        before: Sequence[Any],
        after: Sequence[Any],
        drop: Any,
        mask: Any,
    ) -> list[Any]:
        """All of a step back that doesn't depend on the step after it.

        Args:
            kept: What `forward` returned, for all steps.
            before: The states before each step.
            after: The states after each step.
            drop: As for `forward`.
            mask: `None`, or 1 for a step that counts and 0 for one that does not.
        """
        raise NotImplementedError

    def backward(
        self,
        coefficients: Sequence[Any],
        gradients: Sequence[Any],
        products: Sequence[Callable[[Any], Any]],
        drop: Any,
    ) -> tuple[Any, list[Any]]:
        """One time step back.

        Args:
            coefficients: Those of this step.
            gradients: Of the states after this step.
            products: With the transposed recurrent kernels.
            drop: As for `forward`.

        Returns:
            What `finish` needs, and the gradients of the states before this step.
        """
        raise NotImplementedError

    def finish(
        self, steps: Any, kept: Sequence[Any], coefficients: Sequence[Any], h: Any
    ) -> tuple[Any, list[tuple[Any, Any]], Any]:
        """The gradients of what all steps share.

        Args:
            steps: What `backward` returned, for all steps.
            kept: What `forward` returned, for all steps.
            coefficients: Of all steps.
            h: The output before each step, times `drop`.

        Returns:
            The gradient of `projected`; for each product the factors `(left, right)`
            whose product over time and batch is its kernel's gradient; and what sums
            to the gradient of `bias`.
        """
        raise NotImplementedError

    def _slope(self, activated: Any) -> Any:
        return _derivative_of(self.activation)(activated)

    def _gate_slope(self, activated: Any) -> Any:
        return _derivative_of(self.recurrent_activation)(activated)


class LSTM(Recurrence):
    """Gates in Keras's order: input, forget, candidate, output. States `h`, `c`."""

    def forward(
        self, projected: Any, states: Any, products: Any, drop: Any, bias: Any
    ) -> tuple[list[Any], list[Any]]:
        """One time step."""
        h, c = states
        gates = projected + products[0](_times(h, drop))
        i, f, candidate, o = ops.unstack(gates, 4, axis=-2)
        i, f, o = (self.recurrent_activation(gate) for gate in (i, f, o))
        candidate = self.activation(candidate)
        c = f * c + i * candidate
        return [o * self.activation(c), c], [i, f, candidate, o]

    def coefficients(
        self, kept: Any, before: Any, after: Any, drop: Any, mask: Any
    ) -> list[Any]:
        """See the base class."""
        i, f, candidate, o = kept
        squashed = self.activation(after[1])
        into_cell = o * self._slope(squashed)
        into_gates = ops.stack(
            [
                candidate * self._gate_slope(i),
                before[1] * self._gate_slope(f),
                i * self._slope(candidate),
                squashed * self._gate_slope(o),
            ],
            axis=-2,
        )
        if mask is None:
            return [into_cell, into_gates, f]
        return [
            into_cell * mask,
            into_gates * ops.expand_dims(mask, -2),
            _one_where_masked(f, mask),
            1 - mask,
        ]

    def backward(
        self, coefficients: Any, gradients: Any, products: Any, drop: Any
    ) -> tuple[Any, list[Any]]:
        """See the base class."""
        dh, dc = gradients
        into_cell, into_gates, f, *passed = coefficients
        dc = dc + dh * into_cell
        steps = ops.stack([dc, dc, dc, dh], axis=-2) * into_gates
        back = _times(products[0](steps), drop)
        if passed:
            back = back + dh * passed[0]
        return steps, [back, dc * f]

    def finish(
        self, steps: Any, kept: Any, coefficients: Any, h: Any
    ) -> tuple[Any, list[tuple[Any, Any]], Any]:
        """See the base class."""
        return steps, [(h, steps)], None


class GRU(Recurrence):
    """Gates in Keras's order: update, reset, candidate. Base of both kinds."""

    def forward(
        self, projected: Any, states: Any, products: Any, drop: Any, bias: Any
    ) -> tuple[list[Any], list[Any]]:
        """One time step, the reset gate applied after the product."""
        (h,) = states
        recurrent = products[0](_times(h, drop))
        update = self.recurrent_activation(projected[..., 0, :] + recurrent[..., 0, :])
        reset = self.recurrent_activation(projected[..., 1, :] + recurrent[..., 1, :])
        inner = recurrent[..., 2, :]
        if bias is not None:
            inner = inner + bias
        candidate = self.activation(projected[..., 2, :] + reset * inner)
        return [update * h + (1 - update) * candidate], [
            update,
            reset,
            candidate,
            inner,
        ]

    def coefficients(
        self, kept: Any, before: Any, after: Any, drop: Any, mask: Any
    ) -> list[Any]:
        """See the base class."""
        update, reset, candidate, inner = kept
        into_update = (before[0] - candidate) * self._gate_slope(update)
        into_candidate = (1 - update) * self._slope(candidate)
        into_reset = into_candidate * inner * self._gate_slope(reset)
        into_recurrent = ops.stack(
            [into_update, into_reset, into_candidate * reset], axis=-2
        )
        if mask is None:
            return [into_recurrent, update, into_candidate]
        return [
            into_recurrent * ops.expand_dims(mask, -2),
            _one_where_masked(update, mask),
            into_candidate * mask,
        ]

    def backward(
        self, coefficients: Any, gradients: Any, products: Any, drop: Any
    ) -> tuple[Any, list[Any]]:
        """See the base class."""
        (dh,) = gradients
        into_recurrent, update, _ = coefficients
        back = products[0](ops.expand_dims(dh, -2) * into_recurrent)
        return dh, [dh * update + _times(back, drop)]

    def finish(
        self, steps: Any, kept: Any, coefficients: Any, h: Any
    ) -> tuple[Any, list[tuple[Any, Any]], Any]:
        """See the base class."""
        into_recurrent, _, into_candidate = coefficients
        recurrent = ops.expand_dims(steps, -2) * into_recurrent
        projected = ops.concatenate(
            [
                recurrent[..., :2, :],
                ops.expand_dims(steps * into_candidate, -2),
            ],
            axis=-2,
        )
        return projected, [(h, recurrent)], recurrent[..., 2, :]


class GRUResetBefore(GRU):
    """A GRU whose reset gate is applied before the candidate's product."""

    def split_kernels(self, kernels: Sequence[Any]) -> list[list[Any]]:
        """The gates' columns, and the candidate's."""
        split = [2 * (kernel.shape[-1] // 3) for kernel in kernels]
        return [
            [kernel[:, :at] for kernel, at in zip(kernels, split, strict=True)],
            [kernel[:, at:] for kernel, at in zip(kernels, split, strict=True)],
        ]

    def forward(
        self, projected: Any, states: Any, products: Any, drop: Any, bias: Any
    ) -> tuple[list[Any], list[Any]]:
        """One time step, the reset gate applied before the product."""
        (h,) = states
        dropped = _times(h, drop)
        gates = self.recurrent_activation(projected[..., :2, :] + products[0](dropped))
        update, reset = ops.unstack(gates, 2, axis=-2)
        inner = products[1](reset * dropped)[..., 0, :]
        candidate = self.activation(projected[..., 2, :] + inner)
        return [update * h + (1 - update) * candidate], [update, reset, candidate]

    def coefficients(
        self, kept: Any, before: Any, after: Any, drop: Any, mask: Any
    ) -> list[Any]:
        """See the base class."""
        update, reset, candidate = kept
        into_update = (before[0] - candidate) * self._gate_slope(update)
        into_candidate = (1 - update) * self._slope(candidate)
        into_reset = _times(before[0], drop) * self._gate_slope(reset)
        if mask is not None:
            into_update = into_update * mask
            into_candidate = into_candidate * mask
            update = _one_where_masked(update, mask)
        return [into_update, into_reset, into_candidate, update, reset]

    def backward(
        self, coefficients: Any, gradients: Any, products: Any, drop: Any
    ) -> tuple[Any, list[Any]]:
        """See the base class."""
        (dh,) = gradients
        into_update, into_reset, into_candidate, update, reset = coefficients
        candidate = dh * into_candidate
        inner = products[1](ops.expand_dims(candidate, -2))
        gates = ops.stack([dh * into_update, inner * into_reset], axis=-2)
        back = inner * reset + products[0](gates)
        steps = ops.concatenate([gates, ops.expand_dims(candidate, -2)], axis=-2)
        return steps, [dh * update + _times(back, drop)]

    def finish(
        self, steps: Any, kept: Any, coefficients: Any, h: Any
    ) -> tuple[Any, list[tuple[Any, Any]], Any]:
        """See the base class."""
        factors = [(h, steps[..., :2, :]), (coefficients[4] * h, steps[..., 2:, :])]
        return steps, factors, None


class SimpleRNN(Recurrence):
    """One activated product. State `h`."""

    def forward(
        self, projected: Any, states: Any, products: Any, drop: Any, bias: Any
    ) -> tuple[list[Any], list[Any]]:
        """One time step."""
        sums = projected + products[0](_times(states[0], drop))
        return [self.activation(sums[..., 0, :])], []

    def coefficients(
        self, kept: Any, before: Any, after: Any, drop: Any, mask: Any
    ) -> list[Any]:
        """See the base class."""
        slope = self._slope(after[0])
        return [slope] if mask is None else [slope * mask, 1 - mask]

    def backward(
        self, coefficients: Any, gradients: Any, products: Any, drop: Any
    ) -> tuple[Any, list[Any]]:
        """See the base class."""
        (dh,) = gradients
        slope, *passed = coefficients
        steps = ops.expand_dims(dh * slope, -2)
        back = _times(products[0](steps), drop)
        if passed:
            back = back + dh * passed[0]
        return steps, [back]

    def finish(
        self, steps: Any, kept: Any, coefficients: Any, h: Any
    ) -> tuple[Any, list[tuple[Any, Any]], Any]:
        """See the base class."""
        return steps, [(h, steps)], None


def run(
    recurrence: Recurrence,
    arrangement: Any,
    projected: Any,
    states: Sequence[Any],
    kernels: Sequence[Any],
    *,
    bias: Any = None,
    drop: Any = None,
    mask: Any = None,
    length: int | None = None,
    return_sequences: bool = True,
    unroll: bool = False,
) -> tuple[Any, list[Any]]:
    """All time steps, differentiated by the backend.

    Args:
        recurrence: The equations.
        arrangement: How the groups lie beside each other.
        projected: `x·kernel + bias` of all steps, `(time, ..., gates, units)`.
        states: The initial states, as the arrangement holds them.
        kernels: Each group's recurrent kernel, `(size, gates * size)`.
        bias: `None`, or the recurrent bias of the candidate.
        drop: `None`, or what multiplies the output on its way into a product.
        mask: `None`, or booleans over time that broadcast over a state. Where false,
            the states stay as they were.
        length: The number of steps if it is known, else `None`.
        return_sequences: Whether the outputs of all steps are wanted.
        unroll: Whether to write the steps out one by one.

    Returns:
        The outputs of all steps, time first, or `None`; and the last states. A masked
        step's output is that of the last step before it that was not masked.
    """
    split = recurrence.split_kernels(kernels)
    products = [arrangement.product(arrangement.kernels(part)) for part in split]
    outputs, last = _loop(
        recurrence,
        projected,
        states,
        products,
        bias,
        drop,
        mask,
        length,
        return_sequences,
        unroll,
        keep=False,
    )
    return (outputs if return_sequences else None), last


def run_for_training(
    recurrence: Recurrence,
    arrangement: Any,
    projected: Any,
    states: Sequence[Any],
    kernels: Sequence[Any],
    *,
    bias: Any = None,
    drop: Any = None,
    mask: Any = None,
    length: int | None = None,
    return_sequences: bool = True,
) -> tuple[Any, list[Any]]:
    """As `run`, with the gradient written by hand.

    That gradient is made of operations that the backend can differentiate once more.
    JAX's forward mode (`jax.jvp`) can't pass here, and raises.
    """
    split = [arrangement.kernels(part) for part in recurrence.split_kernels(kernels)]
    counts = [len(part) for part in split]
    constants = {"drop": drop, "mask": mask}
    if mask is not None:
        constants["mask"] = ops.cast(mask, projected.dtype)
    given = {name: value for name, value in constants.items() if value is not None}
    arguments = [projected, *states, *_flat(split), *given.values()]
    if bias is not None:
        arguments.append(bias)

    def compute(*arguments: Any) -> Any:
        rest = list(arguments)
        projected = rest.pop(0)
        initial = [rest.pop(0) for _ in states]
        parts = [[rest.pop(0) for _ in range(count)] for count in counts]
        constant = {name: rest.pop(0) for name in given}
        drop, mask = constant.get("drop"), constant.get("mask")
        bias = rest.pop(0) if rest else None
        products = [arrangement.product(part) for part in parts]
        kept, last = _loop(
            recurrence,
            projected,
            initial,
            products,
            bias,
            drop,
            None if mask is None else mask > 0,
            length,
            return_sequences=True,
            unroll=False,
            keep=True,
        )
        after, kept = kept[: len(states)], kept[len(states) :]
        before = [
            ops.concatenate([ops.expand_dims(first, 0), sequence[:-1]])
            for first, sequence in zip(initial, after, strict=True)
        ]

        def gradient(upstream: Any) -> tuple[Any, ...]:
            count = len(states)
            carried = [upstream[k - count] for k in range(count)]
            coefficients = recurrence.coefficients(kept, before, after, drop, mask)
            transposed = [arrangement.transposed_product(part) for part in parts]
            inputs = list(coefficients)
            if return_sequences:
                inputs.append(upstream[:-count])

            def step(inputs: Any, gradients: Any) -> tuple[Any, list[Any]]:
                if return_sequences:
                    *inputs, by_output = inputs
                    gradients = [gradients[0] + by_output, *gradients[1:]]
                return recurrence.backward(inputs, gradients, transposed, drop)

            steps, first = _backend.time_loop(
                step,
                [_backend.reversed_time(x) for x in inputs],
                carried,
                length=length,
                return_sequences=True,
                unroll=False,
            )
            steps = _backend.reversed_time(steps)
            by_projected, factors, by_bias = recurrence.finish(
                steps, kept, coefficients, _times(before[0], drop)
            )
            by_kernels = [
                g
                for left, right in factors
                for g in arrangement.kernel_gradients(left, right)
            ]
            by_constants = [ops.zeros_like(value) for value in constant.values()]
            results = [by_projected, *first, *by_kernels, *by_constants]
            if bias is not None:
                results.append(arrangement.summed(by_bias))
            return tuple(results)

        def checked(*arguments: Any, upstream: Any = None) -> tuple[Any, ...]:
            if upstream is None:
                return gradient(arguments[0])
            # PyTorch passes the arguments as well. It records nothing inside a custom
            # gradient: what is to be differentiated once more is computed again.
            recording = any(argument[:0].requires_grad for argument in arguments)
            return compute(*arguments)[1](upstream) if recording else gradient(upstream)

        # One tensor: PyTorch's custom_gradient takes no more.
        result = ops.concatenate([after[0], *[ops.expand_dims(s, 0) for s in last]])
        return result, checked

    result = ops.custom_gradient(compute)(*arguments)
    count = len(states)
    return result[:-count], [result[k - count] for k in range(count)]


def _loop(
    recurrence: Recurrence,
    projected: Any,
    states: Sequence[Any],
    products: Sequence[Callable[[Any], Any]],
    bias: Any,
    drop: Any,
    mask: Any,
    length: int | None,
    return_sequences: bool,
    unroll: bool,
    keep: bool,
) -> tuple[Any, list[Any]]:
    """The outputs of all steps, or `[*states, *kept]` of all, and the last states."""

    def step(inputs: Any, states: Any) -> tuple[Any, list[Any]]:
        own, *counts = inputs
        new, kept = recurrence.forward(own, states, products, drop, bias)
        if counts:
            new = [
                ops.where(counts[0], after, before)
                for after, before in zip(new, states, strict=True)
            ]
        return ([*new, *kept] if keep else new[0]), new

    inputs = [projected] if mask is None else [projected, mask]
    return _backend.time_loop(
        step,
        inputs,
        states,
        length=length,
        return_sequences=return_sequences,
        unroll=unroll,
    )


def _times(value: Any, factor: Any) -> Any:
    return value if factor is None else value * factor


def _where_true(condition: Any, like: Any) -> Any:
    return ops.cast(condition, like.dtype)


def _one_where_masked(value: Any, mask: Any) -> Any:
    return value * mask + (1 - mask)


def _flat(lists: Sequence[Sequence[Any]]) -> list[Any]:
    return [item for part in lists for item in part]
