"""The cross-entropy of a softmax over all words, without all of its logits at once."""

from collections.abc import Sequence
from typing import Any

from keras import ops

# Of so many states at a time logits stay near the processor: measured in
# benchmarks/tiered_embedding.py.
ROWS = 256


def crossentropy(
    states: Any,
    kernels: Sequence[Any],
    bias: Any,
    targets: Any,
    weights: Any,
    soft_cap: float | None = None,
    gradients_now: bool = True,
) -> Any:
    """The weighted sum of cross-entropies of softmax outputs.

    Logits are computed for `ROWS` states at a time, and with them the gradients, so
    that they need not be kept, nor computed again: what is held at once is
    `ROWS × words`, however many states there are. All of it in float32. The gradients
    have none of their own: asking for second derivatives is an error.

    Args:
        states: `(n, features)`.
        kernels: `(width, words)` for each tier, whose words have logits from the first
            `width` features.
        bias: `(words in all)`, or `None`.
        targets: Ids `(n,)`, int32. One that is no word makes the sum NaN, and the
            gradients, whatever its weight is.
        weights: `(n,)`. They get no gradient.
        soft_cap: If given, logits are `tanh(logits / soft_cap) * soft_cap`.
        gradients_now: Whether to compute gradients along with the sum. Else they take
            a second turn, if somebody asks for them.

    Returns:
        A scalar.
    """
    sizes = [kernel.shape[1] for kernel in kernels]
    edges = [sum(sizes[: k + 1]) for k in range(len(sizes) - 1)]
    words = sum(sizes)

    def logits_of(x: Any, kernels: Sequence[Any], bias: Any) -> Any:
        parts = [ops.matmul(x[:, : k.shape[0]], k) for k in kernels]
        logits = parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
        logits = logits if bias is None else logits + bias
        return logits if soft_cap is None else ops.tanh(logits / soft_cap) * soft_cap

    def run(given: Sequence[Any], gradients: bool) -> tuple[Any, list[Any]]:
        states, *kernels = given
        added = kernels.pop() if bias is not None else None
        count, features = ops.shape(states)
        if isinstance(count, int):
            rows = max(1, min(count, ROWS))
        else:
            rows = ops.clip(count, 1, ROWS)
        chunks = (count + rows - 1) // rows

        def step(i: Any, total: Any, *sums: Any) -> tuple[Any, ...]:
            # The last chunk begins earlier if need be, and skips what was had.
            begin = ops.minimum(i * rows, count - rows)
            x = ops.slice(states, (begin, 0), (rows, features))
            ids = ops.slice(targets, (begin,), (rows,))
            new = ops.arange(rows) + begin >= i * rows
            w = ops.slice(weights, (begin,), (rows,)) * ops.cast(new, "float32")
            # Else a loss would be finite, and its gradients those of something else.
            known = ops.logical_and(ids >= 0, ids < words)
            w = ops.expand_dims(ops.where(known, w, float("nan")), 1)
            ids = ops.clip(ids, 0, words - 1)
            logits = logits_of(x, kernels, added)
            most = ops.max(logits, axis=-1, keepdims=True)
            exponentials = ops.exp(logits - most)
            norm = ops.sum(exponentials, axis=-1, keepdims=True)
            own = ops.take_along_axis(logits, ops.expand_dims(ids, 1), axis=-1)
            total = total + ops.sum(w * (ops.log(norm) + most - own))
            if not sums:
                return i + 1, total
            by = exponentials * (w / norm) - w * ops.one_hot(
                ids, words, dtype="float32"
            )
            if soft_cap is not None:
                by = by * (1 - ops.square(logits / soft_cap))
            parts = ops.split(by, edges, axis=-1) if edges else [by]
            for_x = sum(
                ops.pad(
                    ops.matmul(part, ops.transpose(kernel)),
                    ((0, 0), (0, features - kernel.shape[0])),
                )
                for part, kernel in zip(parts, kernels, strict=True)
            )
            so_far = ops.slice(sums[0], (begin, 0), (rows, features))
            made = [ops.slice_update(sums[0], (begin, 0), so_far + for_x)]
            made += [
                sums[1 + k] + ops.matmul(ops.transpose(x[:, : kernel.shape[0]]), part)
                for k, (part, kernel) in enumerate(zip(parts, kernels, strict=True))
            ]
            if added is not None:
                made.append(sums[-1] + ops.sum(by, axis=0))
            return (i + 1, total, *made)

        start = [ops.zeros_like(one) for one in given] if gradients else []
        zero = ops.convert_to_tensor(0, dtype="int32")
        _, total, *found = ops.while_loop(
            lambda i, *_: i < chunks,
            step,
            (zero, ops.zeros((), dtype="float32"), *start),
        )
        return total, found

    given = [states, *kernels, *([] if bias is None else [bias])]
    given = [ops.cast(ops.convert_to_tensor(one), "float32") for one in given]

    @ops.custom_gradient
    def total(*given: Any) -> tuple[Any, Any]:
        value, early = run(given, gradients_now)

        def gradient(*args: Any, upstream: Any = None) -> tuple[Any, ...]:
            # PyTorch hands over the inputs too, and names what comes from above.
            scale = args[0] if upstream is None else upstream
            found = early if gradients_now else run(given, True)[1]
            return tuple(scale * one for one in found)

        return value, gradient

    return total(*given)
