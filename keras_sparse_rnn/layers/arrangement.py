"""How the groups of a layer lie beside each other inside the time loop.

`SideBySide` keeps the groups in columns of one matrix, `(batch, units)`, and multiplies
one group after another: right for one group, and for groups of very different sizes.
`Stacked` keeps them on an axis of their own, `(groups, batch, size)`, so that one
batched product advances all of them; where sizes differ, the smaller are padded with
zeros, which stay without effect because the rows of the recurrent kernel that they
would be multiplied with are zero too.

In both, units come last and gates before them: projections are `(..., gates, size)`.
The equations of a cell are element-wise apart from the products made here, so they
need not know which arrangement they work in.
"""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from keras_sparse_rnn.layers import segments


class SideBySide:
    """All groups in the columns of one matrix; one product for each group.

    Args:
        sizes: Units of each group.
    """

    def __init__(self, sizes: Sequence[int]):
        self.sizes = list(sizes)
        self.segments = segments.output_segments(sizes)

    def kernels(self, kernels: Sequence[Any]) -> list[Any]:
        """The groups' `(size, gates * size)` as the tensors that products take."""
        return list(kernels)

    def projected(
        self, windows: Sequence[Any], kernels: Sequence[Any], biases: Any
    ) -> Any:
        """`x·kernel + bias`: `(time, batch, gates, units)` of all groups.

        Args:
            windows: The inputs of each group, `(time, batch, width)`; the same tensor
                again where groups see the same.
            kernels: `(width, gates * size)` each.
            biases: `(gates * size,)` each, or `None`.
        """
        return _join(_projections(windows, kernels, biases, self.sizes))

    def per_unit(self, values: Sequence[Any]) -> Any:
        """Each group's `(size,)`, as one tensor that broadcasts over a state."""
        return _join(values)

    def state(self, state: Any) -> Any:
        """A state `(batch, units)` as the loop holds it."""
        return state

    def joined_state(self, state: Any) -> Any:
        """The inverse of `state`."""
        return state

    def joined_outputs(self, outputs: Any) -> Any:
        """The states of all steps as `(batch, time, units)`."""
        return ops.transpose(outputs, (1, 0, 2))

    def mask(self, mask: Any) -> Any:
        """A mask `(time, batch)` so that it broadcasts over a state."""
        return ops.expand_dims(mask, -1)

    def product(self, kernels: Sequence[Any]) -> Callable[[Any], Any]:
        """`h -> h·kernel`, `(batch, units)` to `(batch, gates, units)`."""

        def multiply(h: Any) -> Any:
            parts = []
            for (begin, end), kernel in zip(self.segments, kernels, strict=True):
                own = h if len(kernels) == 1 else h[:, begin:end]
                gates = kernel.shape[-1] // (end - begin)
                product = ops.matmul(own, kernel)
                parts.append(ops.reshape(product, (-1, gates, end - begin)))
            return _join(parts)

        return multiply

    def transposed_product(self, kernels: Sequence[Any]) -> Callable[[Any], Any]:
        """`dz -> dz·kernelᵀ`, `(batch, gates, units)` to `(batch, units)`."""
        # Transposed once, before the loop: the product with a flag that says
        # "transposed" took four times as long with TensorFlow on a CPU.
        transposed = [ops.transpose(kernel) for kernel in kernels]

        def multiply(dz: Any) -> Any:
            parts = []
            for (begin, end), kernel in zip(self.segments, transposed, strict=True):
                own = dz if len(kernels) == 1 else dz[:, :, begin:end]
                parts.append(
                    ops.matmul(ops.reshape(own, (-1, kernel.shape[0])), kernel)
                )
            return _join(parts)

        return multiply

    def kernel_gradients(self, h: Any, dz: Any) -> list[Any]:
        """The sum over time and batch of `hᵀ·dz`: one product for each group."""
        gradients = []
        for begin, end in self.segments:
            # Not as a matrix product of reshaped tensors: to merge time with a batch
            # that is spread over devices would gather it on each of them.
            product = ops.tensordot(
                h[..., begin:end], dz[..., begin:end], axes=((0, 1), (0, 1))
            )
            gradients.append(ops.reshape(product, (end - begin, -1)))
        return gradients

    def summed(self, values: Any) -> Any:
        """`values` of all steps, summed over time and batch."""
        return ops.sum(values, axis=(0, 1))


class Stacked:
    """The groups on an axis of their own; one batched product for all of them.

    Args:
        sizes: Units of each group.
        place: `None`, or a function that spreads a tensor, whose leading axis is that
            of the groups, over devices.
    """

    def __init__(self, sizes: Sequence[int], place: Callable[[Any], Any] | None = None):
        self.sizes = list(sizes)
        self.segments = segments.output_segments(sizes)
        self.size = max(sizes)
        self.place = place
        self.even = len(set(self.sizes)) == 1

    def kernels(self, kernels: Sequence[Any]) -> list[Any]:
        """The groups' kernels as one `(groups, rows, gates * size)`.

        Args:
            kernels: `(rows, gates * size)` each; recurrent ones have `size` rows.
        """
        rows = max(kernel.shape[0] for kernel in kernels)
        if not self.even:
            kernels = [
                ops.reshape(
                    ops.pad(
                        self._padded(ops.reshape(kernel, (kernel.shape[0], -1, size))),
                        [(0, rows - kernel.shape[0]), (0, 0), (0, 0)],
                    ),
                    (rows, -1),
                )
                for kernel, size in zip(kernels, self.sizes, strict=True)
            ]
        stacked = ops.stack(list(kernels))
        return [stacked if self.place is None else self.place(stacked)]

    def projected(
        self, windows: Sequence[Any], kernels: Sequence[Any], biases: Any
    ) -> Any:
        """As of `SideBySide`, but `(time, groups, batch, gates, size)`."""
        if len({window.shape[-1] for window in windows}) > 1:
            parts = _projections(windows, kernels, biases, self.sizes)
            return ops.stack([self._padded(part) for part in parts], axis=1)
        # One product, spread over devices like the recurrent kernels.
        if all(window is windows[0] for window in windows):
            equation, inputs = "tbi,gij->tgbj", windows[0]
        else:
            equation, inputs = "tbgi,gij->tgbj", ops.stack(list(windows), axis=2)
        projected = ops.einsum(equation, inputs, *self.kernels(kernels))
        if biases is not None:
            (rows,) = self.kernels([ops.expand_dims(bias, 0) for bias in biases])
            projected = projected + rows
        time, _, batch, columns = ops.shape(projected)
        shape = (time, len(self.sizes), batch, columns // self.size, self.size)
        return ops.reshape(projected, shape)

    def per_unit(self, values: Sequence[Any]) -> Any:
        """Each group's `(size,)`, as one tensor that broadcasts over a state."""
        return ops.expand_dims(ops.stack([self._padded(v) for v in values]), 1)

    def state(self, state: Any) -> Any:
        """A state `(batch, units)` as the loop holds it."""
        if self.even:
            split = ops.reshape(state, (-1, len(self.sizes), self.size))
            return ops.transpose(split, (1, 0, 2))
        return ops.stack(
            [self._padded(state[:, begin:end]) for begin, end in self.segments]
        )

    def joined_state(self, state: Any) -> Any:
        """The inverse of `state`."""
        return self._joined(ops.transpose(state, (1, 0, 2)))

    def joined_outputs(self, outputs: Any) -> Any:
        """The states of all steps as `(batch, time, units)`."""
        return self._joined(ops.transpose(outputs, (2, 0, 1, 3)))

    def mask(self, mask: Any) -> Any:
        """A mask `(time, batch)` so that it broadcasts over a state."""
        return ops.expand_dims(ops.expand_dims(mask, 1), -1)

    def product(self, kernels: Sequence[Any]) -> Callable[[Any], Any]:
        """`h -> h·kernel`: `(groups, batch, size)` gains an axis of gates."""
        (kernel,) = kernels
        return lambda h: self._gates(ops.matmul(h, kernel))

    def transposed_product(self, kernels: Sequence[Any]) -> Callable[[Any], Any]:
        """`dz -> dz·kernelᵀ` for all groups."""
        # As in `SideBySide`: transposed once, before the loop.
        transposed = ops.transpose(kernels[0], (0, 2, 1))
        shape = (len(self.sizes), -1, kernels[0].shape[-1])
        return lambda dz: ops.matmul(ops.reshape(dz, shape), transposed)

    def kernel_gradients(self, h: Any, dz: Any) -> list[Any]:
        """The sum over time and batch of `hᵀ·dz`, one batched product."""
        product = ops.einsum("tgbi,tgbqj->giqj", h, dz)
        return [ops.reshape(product, (len(self.sizes), self.size, -1))]

    def summed(self, values: Any) -> Any:
        """`values` of all steps, summed over time and batch."""
        return ops.sum(values, axis=(0, 2), keepdims=True)[0]

    def _gates(self, product: Any) -> Any:
        return ops.reshape(
            product,
            (len(self.sizes), -1, product.shape[-1] // self.size, self.size),
        )

    def _padded(self, value: Any) -> Any:
        """`value` with its last axis as long as the largest group's."""
        missing = self.size - value.shape[-1]
        if missing == 0:
            return value
        return ops.pad(value, [(0, 0)] * (len(value.shape) - 1) + [(0, missing)])

    def _joined(self, value: Any) -> Any:
        """`(..., groups, size)` without what was padded, as `(..., units)`."""
        if self.even:
            leading = ops.shape(value)[:-2]
            return ops.reshape(value, (*leading, len(self.sizes) * self.size))
        return _join([value[..., g, :size] for g, size in enumerate(self.sizes)])


def _projections(
    windows: Sequence[Any], kernels: Sequence[Any], biases: Any, sizes: Sequence[int]
) -> list[Any]:
    """`x·kernel + bias` of each group, `(time, batch, gates, size)`."""
    parts = []
    for g, (window, kernel, size) in enumerate(
        zip(windows, kernels, sizes, strict=True)
    ):
        part = ops.tensordot(window, kernel, axes=1)
        if biases is not None:
            part = ops.add(part, biases[g])
        time, batch = ops.shape(part)[:2]
        parts.append(ops.reshape(part, (time, batch, kernel.shape[-1] // size, size)))
    return parts


def _join(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else ops.concatenate(list(parts), axis=-1)
