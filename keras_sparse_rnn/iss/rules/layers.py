"""Rules of Keras's layers that are not recurrent."""

import string
from typing import Any

import keras
import numpy as np

from keras_sparse_rnn.iss import trace
from keras_sparse_rnn.iss.flow import Axis, Call, flow_of
from keras_sparse_rnn.iss.rules import elementwise as parts
from keras_sparse_rnn.iss.rules.registry import (
    Kept,
    Rule,
    as_steps,
    register_rule,
    unknown,
)
from keras_sparse_rnn.iss.slots import one_axis_of
from keras_sparse_rnn.layers import TieredEmbedding
from keras_sparse_rnn.layers.tiers import tiers_from_blocks


@register_rule(keras.layers.InputLayer)
class _Source(Rule):
    """What makes features that can't be removed."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        return call.outputs()


@register_rule(
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.GaussianDropout,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
)
class _Unchanged(Rule):
    """What passes every element on, zeros as zeros."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        return call.outputs(dict(call.inputs[0].axes))

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        noise = config.get("noise_shape")
        if noise is None or kept.call is None:
            return config
        shape = kept.shape(kept.call.inputs[0])
        new = [o if o in (1, None) else n for o, n in zip(noise, shape, strict=True)]
        return {**config, "noise_shape": new}


@register_rule(keras.layers.GaussianNoise, keras.layers.AlphaDropout)
class _Noise(_Unchanged):
    """The same, though not zeros as zeros."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        return call.outputs(dict(call.inputs[0].never_zero().axes))


@register_rule(
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Activation,
)
class _Function(Rule):
    """A function of each element."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        activation = getattr(layer, "activation", None)
        if activation is not None and not parts.keeps_units(activation):
            if activation is keras.activations.softmax and flow.axis() is None:
                return call.outputs(dict(flow.never_zero().axes))
            unknown(
                layer,
                call,
                tracer,
                f"whose activation {_name(activation)} may mix them",
            )
            return call.outputs()
        function = activation or layer.call
        zero = parts.is_zero(lambda x: keras.ops.convert_to_numpy(function(x)), [True])
        return call.outputs(dict((flow if zero else flow.never_zero()).axes))


@register_rule(keras.layers.Rescaling)
class _Rescaling(_Function):
    """By one number, or by one for each feature."""

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        assert kept.call is not None
        flow = kept.call.results
        names = ("scale", "offset")
        return {
            **config,
            **{
                name: parts.cut(np.asarray(getattr(layer, name)), flow, kept).tolist()
                for name in names
            },
        }


def _name(function: Any) -> str:
    return getattr(function, "__name__", repr(function))


@register_rule(keras.layers.Softmax)
class Softmax(Rule):
    """Mixes what lies along its axis, and passes the rest on."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        """See `Rule.follow`."""
        (flow,) = call.inputs
        numbers = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
        for number in numbers:
            axis = flow.axis(number)
            if axis is not None:
                tracer.stop(axis, f"through '{layer.name}', a softmax over the units")
        over = {number % len(flow.shape) for number in numbers}
        kept = {k: axis for k, axis in flow.never_zero().axes.items() if k not in over}
        return call.outputs(kept)


@register_rule(keras.layers.UnitNormalization)
class Normalized(Rule):
    """Divides by a norm, to which zeros add nothing."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        """See `Rule.follow`."""
        (flow,) = call.inputs
        numbers = flow.axes if layer.axis is None else np.atleast_1d(layer.axis)
        for number in numbers:
            axis = flow.axis(int(number))
            if axis is not None:
                tracer.add_up(axis, parts.left_over(layer.name, _DIVIDES))
        return call.outputs(dict(flow.axes))


_DIVIDES = "divides by the norm of"


@register_rule(keras.layers.Masking)
class _Masking(Rule):
    """Masks steps all of whose features have one value."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        axis = flow.axis()
        if axis is not None and layer.mask_value != 0:
            unknown(layer, call, tracer, "which looks for a value that is not zero")
        elif axis is not None:
            # A step is masked if all units are zero: so must those be that go.
            tracer.add_up(axis, parts.left_over(layer.name, "looks for zeros among"))
        return call.outputs(dict(flow.axes))


def _output(layer: Any, kernel: Any, axis: int, bias: Any, tracer: Any) -> Axis:
    """The features that a kernel makes, with their biases and activation."""
    slots = tracer.weights(kernel, axis, "in")
    if bias is not None:
        tracer.weights(bias, -1, "bias", slots)
    activation = layer.activation
    if not parts.keeps_units(activation):
        tracer.fix(slots, f"the activation of '{layer.name}' may mix units")
        return Axis.of(slots, False)
    zero = parts.is_zero(
        lambda x: keras.ops.convert_to_numpy(activation(x[None])), [True]
    )
    return Axis.of(slots, zero)


def _plain(layer: Any, call: Call, tracer: Any) -> bool:
    """Whether a layer's weights are what they seem to be."""
    if getattr(layer, "lora_enabled", False) or getattr(
        layer, "quantization_mode", None
    ):
        unknown(layer, call, tracer, "which holds LoRA or quantized weights")
        return False
    return True


@register_rule(keras.layers.Dense)
class _Dense(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        if not _plain(layer, call, tracer):
            return call.outputs()
        tracer.read(layer.kernel, 0, flow.axis())
        made = _output(layer, layer.kernel, 1, layer.bias, tracer)
        return call.outputs({**flow.never_zero().axes, len(flow.shape) - 1: made})

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        return {**config, "units": int(kept.of(layer.kernel, 1).sum())}


@register_rule(keras.layers.EinsumDense)
class _EinsumDense(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        if not _plain(layer, call, tracer):
            return call.outputs()
        given, kernel, result = _letters(layer.equation, len(flow.shape))
        found = parts.contracted(
            [flow, layer.kernel],
            [given, kernel],
            result,
            call.spec,
            tracer,
            layer.name,
        )
        axes = dict(found.axes)
        if layer.bias is not None:
            for number, letter in enumerate(_bias_letters(layer, result)):
                axis = axes.get(result.index(letter))
                if axis is not None and layer.bias.shape[number] == len(axis):
                    tracer.weights(layer.bias, number, "bias", axis.slots)
        for number, axis in axes.items():
            if layer.activation is None or layer.activation is keras.activations.linear:
                continue
            if not parts.keeps_units(layer.activation):
                tracer.fix(
                    axis.slots, f"the activation of '{layer.name}' may mix units"
                )
            axes[number] = Axis.of(axis.slots, False)
        if layer.bias is not None:
            # Along any other axis than the bias's own, zeros do not stay zeros.
            letters = _bias_letters(layer, result)
            for number, axis in axes.items():
                if result[number] not in letters or len(letters) > 1:
                    axes[number] = Axis.of(axis.slots, False)
        return flow_of(call.spec, axes)

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        assert kept.call is not None
        rank = len(kept.call.inputs[0].shape)
        _, kernel, result = _letters(layer.equation, rank)
        shape = list(config["output_shape"])
        own = result[len(result) - len(shape) :]
        for number, letter in enumerate(own):
            if letter in kernel and shape[number] is not None:
                shape[number] = int(kept.of(layer.kernel, kernel.index(letter)).sum())
        return {**config, "output_shape": shape}


def _letters(equation: str, rank: int) -> tuple[str, str, str]:
    """The letters of input, kernel and result; an ellipsis written out."""
    given, rest = equation.replace(" ", "").split(",")
    kernel, result = rest.split("->")
    free = [letter for letter in string.ascii_uppercase if letter not in equation]
    more = "".join(free[: rank - len(given.replace("...", ""))])
    return given.replace("...", more), kernel, result.replace("...", more)


def _bias_letters(layer: Any, result: str) -> str:
    return "".join(letter for letter in result if letter in (layer.bias_axes or ""))


@register_rule(keras.layers.Conv1D)
class _Conv1D(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        if layer.groups != 1 or layer.data_format != "channels_last":
            unknown(layer, call, tracer, "which has groups, or channels first")
            return call.outputs()
        if not _plain(layer, call, tracer):
            return call.outputs()
        as_steps(layer, flow, tracer)
        tracer.read(layer.kernel, 1, flow.axis())
        made = _output(layer, layer.kernel, 2, layer.bias, tracer)
        return call.outputs({-1: made})

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        return {**config, "filters": int(kept.of(layer.kernel, 2).sum())}


@register_rule(keras.layers.Embedding)
class _Embedding(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        if not _plain(layer, call, tracer):
            return call.outputs()
        slots = tracer.weights(_table(layer), 1, "in")
        axes = call.inputs[0].never_zero().axes
        return call.outputs({**axes, -1: Axis.of(slots, True)})

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        return {**config, "output_dim": int(kept.of(_table(layer), 1).sum())}


def _table(layer: Any) -> Any:
    return layer.embeddings


if hasattr(keras.layers, "ReversibleEmbedding"):

    @register_rule(keras.layers.ReversibleEmbedding)
    class _ReversibleEmbedding(_Embedding):
        def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
            if not call.argument("reverse", 1, False):
                return super().follow(layer, call, tracer)
            if _plain(layer, call, tracer):
                features = call.inputs[0].axis()
                if layer.tie_weights:
                    tracer.read(_table(layer), 1, features)
                else:
                    tracer.read(layer.reverse_embeddings, 0, features)
                    if features is not None:
                        # One width serves both directions.
                        tracer.weights(_table(layer), 1, "in", features.slots)
            flow = call.inputs[0].never_zero()
            return call.outputs(
                {k: axis for k, axis in flow.axes.items() if k < len(flow.shape) - 1}
            )


@register_rule(TieredEmbedding)
class _TieredEmbedding(Rule):
    """The columns of each block, and those that no word has.

    A block that loses all of its columns goes, and its words join the next tier.
    """

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        if layer.projection:
            tracer.fix(flow, f"'{layer.name}' projects them")
            return call.outputs()
        if call.argument("targets", 2) is not None:
            self._read(layer, flow.axis(), tracer)
            for other in call.others:
                tracer.fix(other, f"'{layer.name}' makes a loss of them")
            return call.outputs()
        if call.argument("reverse", 1, False):
            self._read(layer, flow.axis(), tracer)
            axes = flow.never_zero().axes
            last = len(flow.shape) - 1
            return call.outputs({k: axis for k, axis in axes.items() if k < last})
        slots = [tracer.weights(table, 1, "in") for table in layer.tables]
        missing = layer.output_dim - sum(width for _, width in layer.blocks)
        if missing:
            # What is always zero has no weights that could go.
            slots.append(tracer.rigid(missing).slots)
        self._may_go(layer, tracer)
        axes = flow.never_zero().axes
        return call.outputs({**axes, -1: Axis.of(np.concatenate(slots), True)})

    def _read(self, layer: Any, features: Axis | None, tracer: "trace.Tracer") -> None:
        begin = 0
        for table, (_, width) in zip(layer.tables, layer.blocks, strict=True):
            own = None if features is None else features[slice(begin, begin + width)]
            begin += width
            if layer.tie_weights:
                tracer.read(table, 1, own)
            elif own is not None:
                # One width serves both directions.
                tracer.weights(table, 1, "in", own.slots)
        for table in layer.reverse_tables:
            own = None if features is None else features[slice(table.shape[0])]
            tracer.read(table, 0, own)
        if features is not None and begin < layer.output_dim:
            reason = f"'{layer.name}' stores none of them"
            tracer.fix(features[slice(begin, None)].slots, reason)
        self._may_go(layer, tracer)

    def _may_go(self, layer: Any, tracer: "trace.Tracer") -> None:
        # The rarest words keep one feature. A table of its own for `reverse` is cut
        # by tiers, which must stay as many.
        if layer.tie_weights:
            for table in layer.tables[1:]:
                tracer.may_go(table, 1)

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        blocks = [
            (rows, int(kept.of(table, 1).sum()))
            for table, (rows, _) in zip(layer.tables, layer.blocks, strict=True)
        ]
        missing = layer.output_dim - sum(width for _, width in layer.blocks)
        return {
            **config,
            "output_dim": sum(width for _, width in blocks) + missing,
            "tiers": [
                list(tier)
                for tier in tiers_from_blocks([block for block in blocks if block[1]])
            ],
        }


@register_rule(keras.layers.BatchNormalization)
class _BatchNormalization(Rule):
    """Each feature has weights of its own, which go with it."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        axis = flow.axis(layer.axis)
        if axis is None:
            return call.outputs(dict(flow.never_zero().axes))
        for name in ("gamma", "beta", "moving_mean"):
            variable = getattr(layer, name, None)
            if variable is not None:
                tracer.weights(variable, 0, "bias", axis.slots)
        tracer.weights(layer.moving_variance, 0, "along", axis.slots)
        # The statistics of zeros are zero.
        normalized = Axis.of(axis.slots, axis.zero)
        others = dict(flow.never_zero().axes)
        return call.outputs({**others, layer.axis % len(flow.shape): normalized})


@register_rule(keras.layers.PReLU)
class _PReLU(Rule):
    """Zero stays zero, and each feature has slopes of its own, which go with it."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        for number, axis in flow.axes.items():
            # The slopes have no axis for the batch, and one where they are shared.
            if number and layer.alpha.shape[number - 1] == flow.shape[number]:
                tracer.weights(layer.alpha, number - 1, "along", axis.slots)
        return call.outputs(dict(flow.axes))


_MERGES: dict[type, Any] = {
    keras.layers.Add: lambda *x: sum(x),
    keras.layers.Subtract: lambda *x: x[0] - x[1],
    keras.layers.Multiply: lambda *x: np.prod(x, axis=0),
    keras.layers.Average: lambda *x: np.mean(x, axis=0),
    keras.layers.Maximum: lambda *x: np.max(x, axis=0),
    keras.layers.Minimum: lambda *x: np.min(x, axis=0),
}


@register_rule(*_MERGES)
class _Merge(Rule):
    """Element by element: what is merged lives and dies together."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        if len({len(flow.shape) for flow in call.inputs}) > 1:
            unknown(layer, call, tracer, "of tensors with different numbers of axes")
            return call.outputs()
        function = _MERGES[type(layer)]
        return parts.elementwise(call, call.inputs, tracer, function)


@register_rule(keras.layers.Concatenate)
class _Concatenate(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        axis = layer.axis % len(call.spec.shape)
        return parts.joined(call.inputs, axis, call.spec, tracer)


@register_rule(keras.layers.Dot)
class _Dot(Rule):
    """A sum of products of two tensors."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        one, other = call.inputs
        axes = layer.axes
        first, second = (axes, axes) if isinstance(axes, int) else axes
        first, second = first % len(one.shape), second % len(other.shape)
        if layer.normalize:
            for axis in (one.axis(first), other.axis(second)):
                if axis is not None:
                    tracer.add_up(axis, parts.left_over(layer.name, _DIVIDES))
        letters = "abcd"[: len(one.shape)]
        others = "a" + "wxyz"[: len(other.shape) - 1]
        others = others[:second] + letters[first] + others[second + 1 :]
        result = "".join(x for x in letters + others[1:] if x != letters[first])
        return parts.contracted(
            [one, other],
            [letters, others],
            result,
            call.spec,
            tracer,
            layer.name,
        )


@register_rule(keras.layers.Flatten, keras.layers.Reshape)
class _Reshape(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        return reshaped(layer, call, tracer)

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        if "target_shape" not in config or kept.call is None:
            return config
        shape = kept.shape(kept.call.results)[1:]
        old = list(config["target_shape"])
        new = [o if o in (-1, None) else n for o, n in zip(old, shape, strict=True)]
        return {**config, "target_shape": new}


def reshaped(layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
    """The output of a reshape."""
    (flow,) = call.inputs
    if not flow.axes:
        return call.outputs()
    shape, other = flow.shape, tuple(call.spec.shape)
    # What lies in axes at the end that stay as they are is not moved.
    end = len(shape) - min(flow.axes)
    if end <= len(other) and shape[-end:] == other[-end:] and None not in shape[-end:]:
        moved = len(other) - len(shape)
        return call.outputs({k + moved: axis for k, axis in flow.axes.items()})
    old, new = shape[1:], other[1:]
    if old == new:
        return call.outputs(dict(flow.axes))
    if len(flow.axes) > 1 or 0 in flow.axes:
        unknown(layer, call, tracer, "where features may go along more than one axis")
        return call.outputs()
    if None in old or None in new or np.prod(old) != np.prod(new):  # type: ignore[arg-type]
        unknown(
            layer,
            call,
            tracer,
            "whose sizes are not all known: give the `Input` a length",
        )
        return call.outputs()
    ((number, axis),) = flow.axes.items()
    along = [1] * len(old)
    along[number - 1] = -1
    index = np.broadcast_to(np.arange(len(axis)).reshape(along), old)  # type: ignore[arg-type]
    found = one_axis_of(index, new)
    axes = {}
    for place, rows in found.items():
        for column in range(1, rows.shape[1]):
            tracer.slots.tie(axis.slots[rows[:, 0]], axis.slots[rows[:, column]])
        axes[place + 1] = Axis(axis.slots[rows[:, 0]], axis.zero[rows].all(1))
    return call.outputs(axes)


@register_rule(keras.layers.Permute)
class _Permute(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        order = [0, *layer.dims]
        return call.outputs({k: flow.axis(old) for k, old in enumerate(order)})


@register_rule(keras.layers.RepeatVector)
class _RepeatVector(Rule):
    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        return call.outputs({-1: call.inputs[0].axis()})


@register_rule(
    keras.layers.MaxPooling1D,
    keras.layers.AveragePooling1D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.UpSampling1D,
    keras.layers.ZeroPadding1D,
    keras.layers.Cropping1D,
)
class _AlongTime(Rule):
    """Works along the time axis, on each feature by itself."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        (flow,) = call.inputs
        if getattr(layer, "data_format", "channels_last") == "channels_first":
            unknown(layer, call, tracer, "which has channels first")
            return call.outputs()
        as_steps(layer, flow, tracer)
        number = -1 if not getattr(layer, "keepdims", False) else 2
        return call.outputs({number: flow.axis()})


@register_rule(keras.layers.Attention, keras.layers.AdditiveAttention)
class _Attention(Rule):
    """Compares a query with keys, and adds values up over time."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        query, value, *rest = call.inputs
        key = rest[0] if rest else value
        for flow in (query, value, key):
            as_steps(layer, flow, tracer)
        tracer.tie(query.axis(), key.axis(), "compared with what can't be removed")
        found = [flow.axis() for flow in (query, key)]
        if None not in found:
            one, other = found
            assert one is not None
            assert other is not None
            zero = one.zero & other.zero
            additive = isinstance(layer, keras.layers.AdditiveAttention)
            scale = getattr(layer, "scale", None)
            if additive and scale is not None:
                tracer.weights(scale, 0, "out", one.slots)
            else:
                if not additive and layer.score_mode == "dot":
                    zero = one.zero | other.zero
                tracer.add_up(
                    Axis(one.slots, zero),
                    parts.left_over(layer.name, "sums"),
                )
        flat = keras.tree.flatten(call.spec)
        flows = [flow_of(flat[0], {-1: value.axis()})]
        flows += [flow_of(spec) for spec in flat[1:]]
        return keras.tree.pack_sequence_as(call.spec, flows)


@register_rule(keras.layers.MultiHeadAttention)
class _MultiHeadAttention(Rule):
    """Reads its inputs by kernels, and makes features of its own."""

    def follow(self, layer: Any, call: Call, tracer: "trace.Tracer") -> Any:
        query = call.argument("query", 0)
        value = call.argument("value", 1)
        key = call.argument("key", 2)
        key = value if key is None else key
        if not all(len(flow.shape) == 3 for flow in (query, value, key)):
            unknown(layer, call, tracer, "which goes over more than one axis")
            return call.outputs()
        for flow in (query, value, key):
            as_steps(layer, flow, tracer)
        for flow, dense in (
            (query, layer.query_dense),
            (key, layer.key_dense),
            (value, layer.value_dense),
        ):
            if not _plain(dense, call, tracer):
                return call.outputs()
            tracer.read(dense.kernel, 0, flow.axis())
        dense = layer.output_dense
        slots = tracer.weights(dense.kernel, -1, "in")
        if dense.bias is not None:
            tracer.weights(dense.bias, -1, "bias", slots)
        flat = keras.tree.flatten(call.spec)
        flows = [flow_of(flat[0], {-1: Axis.of(slots, True)})]
        flows += [flow_of(spec) for spec in flat[1:]]
        return keras.tree.pack_sequence_as(call.spec, flows)

    def resize(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        # By default as wide as the query, which may become narrower.
        width = int(kept.of(layer.output_dense.kernel, -1).sum())
        return {**config, "output_shape": [width]}
