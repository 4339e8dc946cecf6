"""A stock LSTM that forgets some of its recurrent weights in every training batch."""

from typing import Any

import keras
from keras import ops

from keras_sparse_rnn.layers.grouped_rnn import check_rate


class _KeptApart(float):
    """A zero that is true, for a cell that must not be run but by its own layer."""

    def __bool__(self) -> bool:
        return True


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class WeightDropLSTM(keras.layers.LSTM):
    """`keras.layers.LSTM` with weight drop: DropConnect on its recurrent kernel.

    In training every weight of the recurrent kernel is set to zero with probability
    `weight_drop`, and those that stay are divided by `1 - weight_drop`. One mask is
    drawn for each call, which all time steps and all examples of the batch share,
    so that a unit that loses a connection loses it for the whole sequence. Outside
    training, and with `weight_drop=0`, the layer is the stock one.

    Where `recurrent_dropout` drops states, one mask an example, this drops weights.
    It is done once a batch and before the time loop, so the loop costs no more, and
    unlike `recurrent_dropout` it leaves cuDNN in use wherever stock Keras uses it.

    The variables are those of the stock layer, and weights can be copied between the
    two in either direction. Regularizers and constraints see the weights as they
    are, undropped; the gradient of a dropped weight is zero for that batch.

    Args:
        units: As in `keras.layers.LSTM`.
        *args: As in `keras.layers.LSTM`.
        weight_drop: Share of the recurrent weights to drop in training, in `[0, 1)`.
        **kwargs: As in `keras.layers.LSTM`. `seed` drives the dropped weights as it
            does `dropout` and `recurrent_dropout`, which work alongside.

    Call arguments:
        As in `keras.layers.LSTM`; `training` says whether to drop.

    Returns:
        As `keras.layers.LSTM`.

    Raises:
        ValueError: If `weight_drop` is no number in `[0, 1)`.

    Example:

    >>> layer = WeightDropLSTM(16, weight_drop=0.5, return_sequences=True)
    >>> layer(keras.random.normal((8, 20, 4)), training=True).shape
    (8, 20, 16)
    >>> stock = keras.layers.LSTM(16, return_sequences=True)
    >>> stock.build((None, None, 4))
    >>> stock.set_weights(layer.get_weights())

    Reference:
        Merity et al., [Regularizing and Optimizing LSTM Language Models](
        https://arxiv.org/abs/1708.02182), ICLR 2018, section 2, as used by Demeester
        et al., [Predefined Sparseness in Recurrent Sequence Models](
        https://aclanthology.org/K18-1032), CoNLL 2018, sections 3.2 and 4.2.
    """

    def __init__(self, units: int, *args: Any, weight_drop: float = 0.0, **kwargs: Any):
        rate = check_rate("weight_drop", weight_drop)
        super().__init__(units, *args, **kwargs)
        self.weight_drop = rate
        if self.weight_drop and not self.cell.recurrent_dropout:
            # On a GPU `Bidirectional` may hand the kernels of both directions to
            # cuDNN by itself, past this layer and so undropped. It leaves this to
            # the two layers where a cell has a dropout of its own.
            self.cell.recurrent_dropout = _KeptApart()

    @property
    def recurrent_dropout(self) -> float:
        """Share of the recurrent states dropped in training."""
        return float(self.cell.recurrent_dropout)

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> Any:
        """Stock Keras's loop, cuDNN or not, over a kernel with weights dropped."""
        if keras.backend.backend() == "torch" and self.stateful:
            # The states are assigned in place after the loop; without a copy
            # PyTorch would find its saved tensors changed.
            initial_state = [ops.copy(state) for state in initial_state]
        cell = self.cell
        kernel = cell.recurrent_kernel
        try:
            if training and self.weight_drop:
                cell.recurrent_kernel = self._dropped(kernel)
            return super().inner_loop(
                sequences, initial_state, mask=mask, training=training
            )
        finally:
            cell.recurrent_kernel = kernel

    def _dropped(self, kernel: Any) -> Any:
        # Not in half precision: some backends draw the mask in the kernel's type,
        # and bfloat16 has no more than 128 different numbers to compare a rate with.
        kernel = ops.convert_to_tensor(kernel, dtype=self.variable_dtype)
        dropped = keras.random.dropout(
            kernel, self.weight_drop, seed=self.cell.seed_generator
        )
        return ops.cast(dropped, self.cell.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments this layer was made with."""
        config = super().get_config()
        # Stock Keras leaves `use_cudnn` out, and a loaded layer has the default.
        config.update(weight_drop=self.weight_drop, use_cudnn=self.use_cudnn)
        return config
