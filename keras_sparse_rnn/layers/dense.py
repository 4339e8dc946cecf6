"""A grouped layer as one stock layer with zeros, and the nearest grouped layer of one.

Both directions copy the same entries: the weights of a group are a block of the stock
layer's, and what lies in no block is zero in one and dropped in the other.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_sparse_rnn.layers import segments
from keras_sparse_rnn.layers.compress import dense_embedding
from keras_sparse_rnn.layers.grouped_gru import GroupedGRU
from keras_sparse_rnn.layers.grouped_lstm import GroupedLSTM
from keras_sparse_rnn.layers.grouped_rnn import GroupedRNN
from keras_sparse_rnn.layers.grouped_simple_rnn import GroupedSimpleRNN
from keras_sparse_rnn.layers.tiered_embedding import TieredEmbedding
from keras_sparse_rnn.layers.weight_drop import WeightDropLSTM

_STOCK = {
    GroupedLSTM: keras.layers.LSTM,
    GroupedGRU: keras.layers.GRU,
    GroupedSimpleRNN: keras.layers.SimpleRNN,
}
_GROUPED = {stock: grouped for grouped, stock in _STOCK.items()} | {
    WeightDropLSTM: GroupedLSTM
}


class KeptShare(NamedTuple):
    """How much of a dense layer lies inside a grouped structure.

    Attributes:
        kernel: Share of the kernel's sum of squares, in `[0, 1]`.
        recurrent_kernel: The same of the recurrent kernel.
    """

    kernel: float
    recurrent_kernel: float


def to_dense(layer: Any) -> Any:
    """One stock layer that computes what a grouped or tiered layer computes.

    The weights of every group are put where they belong in one kernel, one recurrent
    kernel and one bias; all other weights are zero. The result no longer knows of
    groups: for `I` inputs and `U` units it has all the weights of a dense layer, and
    training it further changes those that are zero.

    The arguments are those of `layer`, the name included. The new layer holds the same
    initializers, regularizers and constraints; from the initializers a copy without
    weights would start, as a dense layer does. A stateful layer's states are copied
    too. `layer` itself is not changed.

    Outside training the outputs are equal. In training the new layer draws dropout
    masks of its own.

    Args:
        layer: A built `GroupedLSTM`, `GroupedGRU`, `GroupedSimpleRNN` or
            `TieredEmbedding`.

    Returns:
        A built `keras.layers.LSTM`, `keras.layers.GRU` or `keras.layers.SimpleRNN`; a
        `GroupedLSTM` with weight drop becomes a `WeightDropLSTM`. The kernel has shape
        `(I, gates * U)`, the recurrent kernel `(U, gates * U)`. Of a `TieredEmbedding`
        a `keras.layers.ReversibleEmbedding`, which is an `Embedding`, without dropout.

    Raises:
        ValueError: If `layer` is of another class or not built, if it is no LSTM
            and has weight drop, for which there is no dense layer, or an embedding
            whose logits have a bias.

    Example:

    >>> layer = GroupedLSTM(512, groups=4, input_density=0.5)
    >>> layer.build((None, None, 128))
    >>> dense = to_dense(layer)
    >>> [w.shape for w in dense.weights]
    [(128, 2048), (512, 2048), (2048,)]

    Reference:
        Demeester et al., [Predefined Sparseness in Recurrent Sequence Models](
        https://aclanthology.org/K18-1032), CoNLL 2018, section 3.1.
    """
    if isinstance(layer, TieredEmbedding):
        return dense_embedding(layer)
    _check("to_dense", layer, _STOCK)
    stock = _STOCK[type(layer)]
    arguments = _arguments(layer, stock)
    if layer.weight_drop:
        if stock is not keras.layers.LSTM:
            raise ValueError(
                f"No {stock.__name__} has weight drop, so {type(layer).__name__} "
                f"'{layer.name}' can't be made dense. Received: a layer with "
                f"weight_drop={layer.weight_drop}. Make the same layer with "
                "weight_drop=0, give it the weights with `set_weights`, and convert "
                "that; outside training the two are equal."
            )
        stock = WeightDropLSTM
        arguments["weight_drop"] = layer.weight_drop
    dense = stock(**arguments)
    # Keras's SimpleRNN takes an activity regularizer and forgets it.
    dense.activity_regularizer = layer.activity_regularizer
    dense.build(_input_shape(layer))
    weights = {
        name: np.zeros(getattr(dense.cell, name).shape, array.dtype)
        for name, array in _arrays(layer.cell.cells[0]).items()
    }
    for cell, block in zip(layer.cell.cells, _blocks(layer), strict=True):
        for name, array in _arrays(cell).items():
            weights[name][block[name]] = array
    for name, value in weights.items():
        getattr(dense.cell, name).assign(value)
    _copy_states(layer, dense)
    return dense


def from_dense(
    layer: keras.layers.RNN,
    groups: int | Sequence[int],
    input_density: float = 1.0,
    input_segments: Sequence[Sequence[int]] | None = None,
) -> GroupedRNN:
    """The grouped layer nearest to a stock layer.

    Of all grouped layers with this structure it is the one whose weights, with zeros
    where it has none (see `to_dense`), differ least from those of `layer` in the sum of
    squares: the weights inside the structure stay as they are, the rest are dropped.
    `kept_share` says how much that leaves. With `groups=1` nothing is dropped, and what
    `to_dense` made of a grouped layer comes back exactly.

    Near in its weights is not near in its outputs: unless the layer was already close
    to this structure, train the model further.

    Units keep their places, so that whatever reads the outputs of `layer` can read
    those of the result. Nothing looks for another order of the units in which more
    would be kept.

    The arguments are those of `layer`, the name included. The new layer holds the same
    regularizers and constraints, now on the weights of each group, and starts a copy
    without weights from the same initializers, for each group as if it were a layer of
    its own. A stateful layer's states are copied too. `layer` itself is not changed.

    Args:
        layer: A built `keras.layers.LSTM`, `keras.layers.GRU`,
            `keras.layers.SimpleRNN` or `WeightDropLSTM`, whose weight drop is kept.
        groups: Number of groups, or a list of their sizes, as in `GroupedLSTM`.
        input_density: Share of the input features each group sees, as there.
        input_segments: Optional explicit windows, as there. They take the place of
            `input_density`.

    Returns:
        A built `GroupedLSTM`, `GroupedGRU` or `GroupedSimpleRNN`.

    Raises:
        ValueError: If `layer` is of another class, not built, or has too few units or
            inputs for the structure.

    Example:

    Every LSTM of a model, all else as it was (and shared with `model`):

    >>> def grouped(layer):
    ...     if isinstance(layer, keras.layers.LSTM):
    ...         return from_dense(layer, groups=2)
    ...     return layer
    >>> smaller = keras.models.clone_model(model, clone_function=grouped)

    Reference:
        Demeester et al., [Predefined Sparseness in Recurrent Sequence Models](
        https://aclanthology.org/K18-1032), CoNLL 2018, section 3.1, for the structure.
    """
    _check("from_dense", layer, _GROUPED)
    stock = keras.layers.LSTM if isinstance(layer, WeightDropLSTM) else type(layer)
    grouped = _GROUPED[stock](
        groups=groups,
        input_density=input_density,
        input_segments=input_segments,
        weight_drop=getattr(layer, "weight_drop", 0.0),
        **_arguments(layer, stock),
    )
    grouped.build(_input_shape(layer))
    weights = _arrays(layer.cell)
    for cell, block in zip(grouped.cell.cells, _blocks(grouped), strict=True):
        for name, array in weights.items():
            getattr(cell, name).assign(array[block[name]])
    _copy_states(layer, grouped)
    return grouped


def kept_share(layer: keras.layers.RNN, grouped: GroupedRNN) -> KeptShare:
    """How much of a dense layer's squared weights a grouped structure has room for.

    Read from the weights of `layer` and the structure of `grouped`, whose own weights
    don't matter. Biases are left out: every structure keeps them all. A share `s` of
    the squares means that `from_dense` misses the matrix by `sqrt(1 - s)` of its norm.

    Compare with chance: weights that are independent and of one size keep as large a
    share as there are entries inside the structure, about `input_density` of the
    kernel and `1 / groups` of the recurrent kernel.

    Args:
        layer: A built stock layer, as for `from_dense`.
        grouped: A built grouped layer with as many inputs and units and of the same
            kind, such as `from_dense` returns.

    Returns:
        A `KeptShare`, a pair of floats in `[0, 1]`. Of a matrix of zeros all is kept.

    Raises:
        ValueError: If one of them is of another class or not built, or if the two
            don't match.

    Example:

    >>> for groups in (2, 4, 8):
    ...     print(groups, kept_share(layer, from_dense(layer, groups)))
    """
    _check("kept_share", layer, _GROUPED)
    _check("kept_share", grouped, _STOCK)
    own = (_input_shape(layer)[-1], layer.units)
    other = (_input_shape(grouped)[-1], grouped.units)
    if _GROUPED[type(layer)] is not type(grouped) or own != other:
        raise ValueError(
            "`layer` and `grouped` must be of one kind and have as many inputs and "
            f"units. Received: {type(layer).__name__} '{layer.name}' with {own[0]} "
            f"inputs and {own[1]} units, {type(grouped).__name__} '{grouped.name}' "
            f"with {other[0]} inputs and {other[1]} units."
        )
    weights = _arrays(layer.cell)
    shares = {}
    for name in KeptShare._fields:
        squares = np.square(weights[name].astype("float64"))
        total = np.sum(squares)
        for block in _blocks(grouped):
            squares[block[name]] = 0
        shares[name] = float(1 - np.sum(squares) / total) if total else 1.0
    return KeptShare(**shares)


def _blocks(layer: GroupedRNN) -> Iterator[dict[str, Any]]:
    """Where each group's variables lie in those of a stock layer, as NumPy indices."""
    first = layer.cell.cells[0]
    gates = first.kernel.shape[-1] // first.units
    for window, units in zip(layer.input_segments, layer.group_segments, strict=True):
        columns = _columns(units, layer.units, gates)
        yield {
            "kernel": np.ix_(np.arange(*window), columns),
            "recurrent_kernel": np.ix_(np.arange(*units), columns),
            # A GRU may have two rows of biases.
            "bias": (..., columns),
        }


def _columns(segment: segments.Segment, units: int, gates: int) -> np.ndarray:
    """A group's columns among the `gates * units` of a stock layer, gate after gate."""
    return np.add.outer(units * np.arange(gates), np.arange(*segment)).ravel()


def _check(function: str, layer: Any, kinds: dict[type, type]) -> None:
    """Raises unless `layer` is exactly of one of these classes, and built.

    A subclass may compute something else.
    """
    if type(layer) not in kinds:
        names = ", ".join(kind.__name__ for kind in kinds)
        advice = (
            " Convert its `forward_layer` and its `backward_layer`, make a "
            "`Bidirectional` of the two results, and then give each of its layers the "
            "weights with `set_weights`: `Bidirectional` does not keep those it finds."
            if isinstance(layer, keras.layers.Bidirectional)
            else ""
        )
        raise ValueError(
            f"`{function}` needs a layer of one of the classes {names}. "
            f"Received: {_described(layer)}.{advice}"
        )
    if not layer.built or layer.get_build_config() is None:
        raise ValueError(
            f"`{function}` needs a layer that has weights. Received: "
            f"{_described(layer)}, which is not built. Call it on data, or "
            "`layer.build((None, None, features))`."
        )


def _described(layer: Any) -> str:
    name = type(layer).__name__
    return f"{name} '{layer.name}'" if isinstance(layer, keras.Layer) else name


def _arguments(layer: Any, stock: Any) -> dict[str, Any]:
    """The arguments of `layer` that `stock` takes.

    They are the objects themselves: serialized, a function would have to be registered.
    """
    parameters = inspect.signature(stock.__init__).parameters
    shared = [name for name in parameters if name not in ("self", "seed", "kwargs")]
    return {name: getattr(layer, name) for name in shared} | {
        "seed": layer.cell.seed,
        "zero_output_for_mask": layer.zero_output_for_mask,
        "dtype": layer.dtype_policy,
        "name": layer.name,
        "trainable": layer.trainable,
    }


def _input_shape(layer: Any) -> tuple[int | None, ...]:
    """The `(batch, time, features)` that a layer was built on."""
    # A window need not reach the last feature, so a grouped kernel doesn't tell.
    config = layer.get_build_config()
    if "shapes_dict" in config:
        # It was called with an initial state.
        return tuple(config["shapes_dict"]["sequences_shape"])
    return tuple(config["input_shape"])


def _arrays(cell: Any) -> dict[str, np.ndarray]:
    """The variables of a stock cell by their names; `bias` only if there is one."""
    names = ("kernel", "recurrent_kernel", "bias")
    variables = {name: getattr(cell, name) for name in names}
    return {
        name: keras.ops.convert_to_numpy(variable.value)
        for name, variable in variables.items()
        if variable is not None
    }


def _copy_states(old: Any, new: Any) -> None:
    for ours, theirs in zip(new.states or [], old.states or [], strict=True):
        ours.assign(theirs.value)
