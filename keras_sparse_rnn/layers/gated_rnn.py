"""What the grouped layers with gates share: cuDNN, one call for each group."""

from typing import Any

import keras
from keras import ops

from keras_sparse_rnn import _backend
from keras_sparse_rnn.layers.grouped_rnn import GroupedCell, GroupedRNN

# With more groups, one loop over all of them is faster than the backend's over each.
_MOST_LOOPS = 4


class GatedRNN(GroupedRNN):
    """Base class of the grouped LSTM and GRU.

    A subclass names the call that runs one group on cuDNN.
    """

    def __init__(self, cell: GroupedCell, use_cudnn: bool | str, **kwargs: Any):
        if use_cudnn not in ("auto", True, False):
            raise ValueError(
                "`use_cudnn` must be 'auto', True or False. "
                f"Received: use_cudnn={use_cudnn!r}."
            )
        super().__init__(cell, **kwargs)
        self.use_cudnn = use_cudnn if use_cudnn == "auto" else bool(use_cudnn)
        if self.use_cudnn is True and not self._may_use_cudnn():
            raise ValueError(self._no_cudnn())
        if self._cudnn_ok() and keras.backend.backend() == "tensorflow":
            # As stock Keras: cuDNN's operations can't be compiled by XLA.
            self.supports_jit = False

    def cudnn(
        self,
        inputs: Any,
        states: list[Any],
        mask: Any,
        **arguments: Any,
    ) -> tuple[Any, Any, list[Any]]:
        """One group on cuDNN: `(last_output, outputs, states)`."""
        raise NotImplementedError

    def cudnn_conditions(self) -> dict[str, Any]:
        """What the backend asks of the layer besides its activations."""
        return {"use_bias": self.cell.cells[0].use_bias}

    def _may_use_cudnn(self) -> bool:
        """Whether cuDNN could run this layer if there were a GPU."""
        first = self.cell.cells[0]
        return (
            first.activation is keras.activations.tanh
            and first.recurrent_activation is keras.activations.sigmoid
            and not self.recurrent_dropout
            and not self.unroll
            and all(self.cudnn_conditions().values())
        )

    def _no_cudnn(self) -> str:
        return (
            f"Layer '{self.name}' has use_cudnn=True, but cuDNN can't be used: it "
            "needs a GPU, the default activations, a bias, no recurrent_dropout, "
            "unroll=False, of a GRU reset_after=True and a backend other than JAX, "
            "with JAX and PyTorch no mask, and no layout that spreads the groups over "
            "devices. Pass use_cudnn='auto' to use it only where possible."
        )

    def _cudnn_ok(self) -> bool:
        first = self.cell.cells[0]
        return (
            self.use_cudnn in ("auto", True)
            and not self.recurrent_dropout
            and _backend.cudnn_ok(
                first.activation,
                first.recurrent_activation,
                self.unroll,
                **self.cudnn_conditions(),
            )
        )

    def _backend_is_faster(self) -> bool:
        # Keras's PyTorch backend runs stock layers without cuDNN in a loop of PyTorch's
        # own operations, which cost less than Keras's. Many groups are better stacked.
        return (
            keras.backend.backend() == "torch"
            and self.use_cudnn == "auto"
            and not self.unroll
            and not self.recurrent_dropout
            and (self.groups <= _MOST_LOOPS or not self.cell.worth_stacking)
            # An activation that may not be element-wise sees the units of all groups.
            and self.cell.recurrence.differentiable_by_hand
        )

    def fast_path(
        self,
        sequences: Any,
        initial_state: list[Any],
        mask: Any,
        recurrent_kernels: list[Any],
    ) -> Any:
        """All groups as stock Keras would run each; `None` where our loop is better."""
        # What a backend runs, it runs on one device.
        together = self.placement() is None
        if together and (self._cudnn_ok() or self._backend_is_faster()):
            try:
                return self._cudnn(sequences, initial_state, mask, recurrent_kernels)
            except NotImplementedError:
                # What the backend says for a mask it can't take.
                pass
        if self.use_cudnn is True:
            raise ValueError(self._no_cudnn())
        return None

    def _cudnn(
        self,
        sequences: Any,
        initial_state: list[Any],
        mask: Any,
        recurrent_kernels: list[Any],
    ) -> Any:
        cell = self.cell
        results = [
            self.cudnn(
                sequences[..., first:last],
                [state[..., begin:end] for state in initial_state],
                mask,
                kernel=group.kernel,
                recurrent_kernel=recurrent_kernel,
                bias=group.bias,
                activation=group.activation,
                recurrent_activation=group.recurrent_activation,
                return_sequences=self.return_sequences,
                go_backwards=self.go_backwards,
                unroll=self.unroll,
            )
            for group, recurrent_kernel, (first, last), (begin, end) in zip(
                cell.cells,
                recurrent_kernels,
                cell.input_segments,
                cell.group_segments,
                strict=True,
            )
        ]
        last_outputs, outputs, states = zip(*results, strict=True)
        return (
            ops.concatenate(last_outputs, axis=-1),
            ops.concatenate(outputs, axis=-1),
            [ops.concatenate(parts, axis=-1) for parts in zip(*states, strict=True)],
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments this layer was made with."""
        config = super().get_config()
        config["use_cudnn"] = self.use_cudnn
        return config
