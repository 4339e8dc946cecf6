"""A training run that goes on exactly where it was interrupted."""

import os
from typing import Any

import keras

from keras_sparse_rnn.iss.backup import Backup


class ExactBackup(keras.callbacks.Callback):
    """Keeps the state of training after each epoch, until `fit` ends.

    Unlike `keras.callbacks.BackupAndRestore` it keeps the states of dropout seeds too,
    so a run that is taken up again draws the masks that it would have drawn, and not
    those of its first epochs once more. What callbacks remember is theirs to keep, and
    the states of stateful layers start anew. `fit_shrinking` has such a backup of its
    own.

    With PyTorch, Keras draws the masks of layers that were given no `seed` from
    PyTorch's own generator, which is not kept: give dropouts a seed there.

    List it last: what callbacks before it do at the end of an epoch is then part of the
    state.

    Args:
        folder: Where; it is made if it does not exist.

    Example:

    >>> backup = ExactBackup("backup")
    >>> model.fit(
    ...     x, y, epochs=10, initial_epoch=backup.restore(model), callbacks=[backup]
    ... )
    """

    def __init__(self, folder: str | os.PathLike[str]):
        super().__init__()
        self._backup = Backup(folder)

    @property
    def epochs(self) -> int:
        """How many epochs the state that is kept has been trained for; 0 without."""
        state = self._backup.read()
        return 0 if state is None else int(state["epochs"])

    def restore(self, model: Any) -> int:
        """Gives a model the state that was kept last, if there is any.

        Args:
            model: A compiled model, made as the one that was interrupted.

        Returns:
            How many epochs that one had been trained for, to be passed to `fit` as
            `initial_epoch`.

        Raises:
            ValueError: If the backup is of a model of other shapes.
        """
        state = self._backup.read()
        if state is None:
            return 0
        self._backup.restore(model, state)
        return int(state["epochs"])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the state beside the last one, and then in its place."""
        self._backup.write(self.model, {"epochs": epoch + 1})

    def on_train_end(self, logs: Any = None) -> None:
        """Nothing is left to go on with."""
        self._backup.remove()
