"""One builtin UNIDIRECTIONAL_SEQUENCE_LSTM for each group of an LSTM.

TensorFlow's converter makes that operation of a function that says of itself that it is
an LSTM, if its arguments and results are just those expected.

The operation keeps its states in variables, from call to call. Where it must not, a
step is put ahead of the first in which the input and the forget gate are shut: whatever
the cell held is then gone, exactly, since the gates' sigmoid is zero and not merely
small. What shuts them is one more input feature, which is large in that step and zero
in all others. It is the feature that is large, and not the weights it meets: these are
as large as the others of their gate, so that they change no scale of a quantized
kernel.
"""

import itertools
from typing import Any

import numpy as np
import tensorflow as tf

from keras_sparse_rnn.export.lowering.cells import LSTMCell

# Enough for float32's sigmoid to be zero, whatever bias and recurrent sum add.
_SHUT = 1e4
_numbers = itertools.count()


def run(
    cell: LSTMCell, sequences: Any, *, backwards: bool, remembers: bool
) -> tuple[Any, Any]:
    """Runs an LSTM over whole sequences, from states of zero.

    Args:
        cell: What to compute; with tanh and sigmoid.
        sequences: Tensor `(batch, time, features)` of static shape.
        backwards: Whether to go from the last step to the first.
        remembers: Whether to go on from the states of the previous call instead.

    Returns:
        `(last, outputs)`: `(batch, units)` and `(batch, time, units)`, in the order in
        which the steps were taken.
    """
    if backwards:
        sequences = tf.reverse(sequences, (1,))
    lasts, outputs = [], []
    for (begin, end), kernel, recurrent, bias, units in zip(
        cell.kernels.segments,
        cell.kernels.kernels,
        cell.recurrent.kernels,
        cell.biases,
        cell.kernels.sizes,
        strict=True,
    ):
        window = sequences
        if (begin, end) != (0, sequences.shape[-1]):
            window = sequences[:, :, begin:end]
        if not remembers:
            window, kernel = _with_reset(window, kernel)
        if bias is None:
            bias = np.zeros(4 * units, "float32")
        batch = window.shape[0]
        zeros = tf.zeros((batch, units))
        last, made, *_ = _annotated()(
            window,
            zeros,
            zeros,
            tf.constant(kernel),
            tf.constant(recurrent),
            tf.constant(bias),
        )
        lasts.append(last)
        outputs.append(made if remembers else made[:, 1:])
    if len(lasts) == 1:
        return lasts[0], outputs[0]
    return tf.concat(lasts, axis=-1), tf.concat(outputs, axis=-1)


def _with_reset(window: Any, kernel: Any) -> tuple[Any, Any]:
    """The inputs with one step and one feature more, and the kernel's row for it."""
    batch, length, features = window.shape
    units = kernel.shape[1] // 4
    sizes = np.abs(kernel.reshape(features, 4, units)).max(axis=(0, 2))
    row = np.zeros((4, units), "float32")
    for gate in (0, 1):
        row[gate] = -(sizes[gate] or 1.0)
    value = _SHUT / float(-row[:2].max())
    window = tf.concat([window, tf.zeros((batch, length, 1))], axis=-1)
    first = np.zeros((batch, 1, features + 1), "float32")
    first[..., -1] = value
    window = tf.concat([tf.constant(first), window], axis=1)
    return window, np.concatenate([kernel, row.reshape(1, -1)])


def _annotated() -> Any:
    """The function that becomes the operation: of its own name at each call."""
    return tf.function(
        _lstm,
        autograph=False,
        experimental_attributes={
            "api_implements": f"lstm_{next(_numbers)}",
            "api_preferred_device": "CPU",
            "time_major": False,
            "go_backwards": False,
        },
    )


def _lstm(x: Any, h: Any, c: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
    # Never run: the converter puts the operation in its place.
    batch, length, features = x.shape
    rows = tf.matmul(tf.reshape(tf.transpose(x, (1, 0, 2)), (-1, features)), kernel)
    rows = tf.reshape(rows + bias, (length, batch, bias.shape[0]))

    def body(t: Any, h: Any, c: Any, outputs: Any) -> Any:
        gates = tf.split(tf.gather(rows, t) + tf.matmul(h, recurrent), 4, axis=-1)
        i, f, o = (tf.sigmoid(gates[k]) for k in (0, 1, 3))
        c = f * c + i * tf.tanh(gates[2])
        h = o * tf.tanh(c)
        return t + 1, h, c, outputs.write(t, h)

    outputs = tf.TensorArray("float32", length, element_shape=h.shape)
    _, h, c, outputs = tf.while_loop(
        lambda t, *_: t < length,
        body,
        (0, h, c, outputs),
        maximum_iterations=length,
    )
    return h, tf.transpose(outputs.stack(), (1, 0, 2)), h, c, tf.constant(1.0)
