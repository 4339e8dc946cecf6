"""`keras.layers.Bidirectional` around two layers of different sizes."""

from typing import Any

import keras


@keras.saving.register_keras_serializable("keras_sparse_rnn")
class UnevenBidirectional(keras.layers.Bidirectional):
    """A `keras.layers.Bidirectional` whose directions may differ in units.

    Keras takes the backward layer to be as wide as the forward layer when it infers
    shapes, though it computes both as they are. Pruning, which removes units from each
    direction, leaves this class behind where they end up different; there is no other
    difference.

    Args:
        layer: As in `keras.layers.Bidirectional`, and so are all other arguments.

    Call arguments and outputs: as in `keras.layers.Bidirectional`. With
    `merge_mode="concat"` the output is as wide as both directions together; the modes
    that add or multiply need directions of one size.

    Example:

    >>> layer = UnevenBidirectional(
    ...     keras.layers.LSTM(3),
    ...     backward_layer=keras.layers.LSTM(2, go_backwards=True),
    ... )
    >>> layer(keras.random.normal((8, 20, 4))).shape
    (8, 5)
    """

    def compute_output_shape(
        self, sequences_shape: Any, initial_state_shape: Any = None
    ) -> Any:
        """The shape of the output and, with `return_state=True`, of all states."""
        forth = self.forward_layer.compute_output_shape(sequences_shape)
        back = self.backward_layer.compute_output_shape(sequences_shape)
        states: tuple[Any, ...] = ()
        if self.return_state:
            states = (*forth[1:], *back[1:])
            forth, back = forth[0], back[0]
        if self.merge_mode is None:
            return (forth, back, *states) if states else [forth, back]
        output = tuple(forth)
        if self.merge_mode == "concat":
            output = (*forth[:-1], forth[-1] + back[-1])
        return (output, *states) if states else output
