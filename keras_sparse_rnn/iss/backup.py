"""What an interrupted `fit_shrinking` needs to go on, in a folder."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_sparse_rnn.iss.shrink import seeds_of


class Backup:
    """The state of a training run after its last whole epoch.

    One file of weights, with the optimizer's, for each epoch, and a file that names the
    one that counts. That file is written last and renamed into place, so whenever a
    process is killed a whole state is there.

    Args:
        folder: Where; it is made if it does not exist.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._index = self.folder / "training.json"

    def read(self) -> dict[str, Any] | None:
        """What `write` was given last, `None` if there is nothing."""
        if not self._index.exists():
            return None
        state: dict[str, Any] = json.loads(self._index.read_text(encoding="utf-8"))
        return state

    def write(self, model: Any, state: dict[str, Any]) -> None:
        """Saves a model's weights, optimizer and seeds.

        Args:
            model: The model.
            state: What else there is to know, as JSON.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self.read()
        # Another name for a model that was rebuilt: what counts till now stays whole.
        kind = "rebuilt" if state.get("rebuilt") else "epoch"
        name = f"{kind}-{state['epochs']:05d}.weights.h5"
        model.save_weights(self.folder / name)
        seeds = [np.asarray(seed.value).tolist() for seed in seeds_of(model)]
        partial = self._index.with_suffix(".partial")
        partial.write_text(
            json.dumps({**state, "weights": name, "seeds": seeds}), encoding="utf-8"
        )
        partial.replace(self._index)
        if before is not None and before["weights"] != name:
            (self.folder / before["weights"]).unlink(missing_ok=True)

    def restore(self, model: Any, state: dict[str, Any]) -> None:
        """Gives a model of the same shapes what `write` saved.

        Args:
            model: A compiled model.
            state: What `read` returned.
        """
        model.optimizer.build(model.trainable_variables)
        model.load_weights(self.folder / state["weights"])
        for seed, value in zip(seeds_of(model), state["seeds"], strict=True):
            seed.assign(value)

    def remove(self) -> None:
        """Deletes what `write` wrote, and the folder if nothing else is in it."""
        state = self.read()
        self._index.unlink(missing_ok=True)
        if state is not None:
            (self.folder / state["weights"]).unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
