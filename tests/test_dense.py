"""Grouped layers made dense and dense ones grouped, against stock layers."""

import conftest
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops
from wirings import (
    FEATURES,
    GATES,
    KINDS,
    OPTIONS,
    OURS,
    STOCK,
    UNITS,
    WIRINGS,
    array,
    close,
    dense_twin,
    grouped_layer,
    normal,
    own_arguments,
    states_of,
)

from keras_sparse_rnn.layers import GroupedLSTM
from keras_sparse_rnn.layers.dense import KeptShare, from_dense, kept_share, to_dense
from keras_sparse_rnn.layers.weight_drop import WeightDropLSTM

WIRINGS = {**WIRINGS, "gaps": {"groups": [3, 4], "input_segments": [(1, 2), (3, 4)]}}
OPTIONS = {
    **OPTIONS,
    "zeros for masked": {"return_sequences": True, "zero_output_for_mask": True},
    "activation": {"activation": "relu"},
}
MASK = np.array([[1, 0, 1, 0], [1, 1, 0, 1]], bool)

every_kind = pytest.mark.parametrize("kind", KINDS)


def built_grouped(kind="lstm", wiring="windows", batch=None, **options):
    layer = grouped_layer(
        kind, WIRINGS[wiring], **{"bias_initializer": "random_normal", **options}
    )
    layer.build((batch, None, FEATURES))
    return layer


def built_stock(kind="lstm", **options):
    options = own_arguments(kind, {"bias_initializer": "random_normal", **options})
    layer = STOCK[kind](UNITS, **options)
    layer.build((None, None, FEATURES))
    return layer


def structure(layer, gates):
    """The entries of kernel, recurrent kernel and bias that a grouped layer has."""
    kernel = np.zeros((FEATURES, gates, UNITS), bool)
    recurrent = np.zeros((UNITS, gates, UNITS), bool)
    for window, units in zip(layer.input_segments, layer.group_segments, strict=True):
        kernel[slice(*window), :, slice(*units)] = True
        recurrent[slice(*units), :, slice(*units)] = True
    return [kernel.reshape(FEATURES, -1), recurrent.reshape(UNITS, -1), np.True_]


# To dense.


@conftest.crossed("wiring", WIRINGS, KINDS)
def test_weights_move_to_where_the_dense_layer_has_them_and_back(kind, wiring):
    layer = built_grouped(kind, wiring)
    dense = to_dense(layer)
    assert type(dense) is STOCK[kind]
    close(dense.get_weights(), dense_twin(kind, layer).get_weights(), 0)
    again = from_dense(dense, **WIRINGS[wiring])
    assert again.get_config() == layer.get_config()
    close(again.get_weights(), layer.get_weights(), 0)
    same = from_dense(dense, layer.group_sizes, input_segments=layer.input_segments)
    assert same.input_segments == layer.input_segments
    close(same.get_weights(), layer.get_weights(), 0)


@conftest.crossed("wiring", ["windows", "sizes", "gaps"], KINDS)
def test_dense_layer_equals_its_groups_side_by_side(kind, wiring):
    layer = built_grouped(kind, wiring, return_sequences=True)
    x = normal((2, 4, FEATURES))
    parts = []
    for cell, window in zip(layer.cell.cells, layer.input_segments, strict=True):
        own = STOCK[kind](cell.units, return_sequences=True, **own_arguments(kind, {}))
        own.build((None, None, window[1] - window[0]))
        own.set_weights(cell.get_weights())
        parts.append(array(own(x[..., slice(*window)], mask=MASK)))
    close(to_dense(layer)(x, mask=MASK), np.concatenate(parts, axis=-1))


@conftest.crossed("options", OPTIONS, ["lstm", "gru"])
def test_outputs_and_states_are_equal_with_every_option(kind, options):
    layer = built_grouped(kind, **OPTIONS[options])
    dense = to_dense(layer)
    x, state = normal((2, 4, FEATURES)), states_of(kind)
    close(dense(x), layer(x))
    close(
        dense(x, initial_state=state, mask=MASK),
        layer(x, initial_state=state, mask=MASK),
    )


def test_what_is_converted_stays_as_it_was():
    layer = built_grouped()
    before = layer.get_weights()
    to_dense(layer).cell.kernel.assign(np.ones((FEATURES, 4 * UNITS)))
    close(layer.get_weights(), before, 0)
    dense = built_stock()
    before = dense.get_weights()
    from_dense(dense, 2).cell.cells[0].kernel.assign(np.ones((FEATURES, 12)))
    close(dense.get_weights(), before, 0)


@every_kind
def test_layer_called_with_a_state_is_converted_like_any_other(kind):
    wiring = {"groups": 2, "input_segments": [(0, 2), (1, 3)]}
    layer = grouped_layer(kind, wiring)
    x, state = normal((2, 4, FEATURES)), states_of(kind)
    output = layer(x, initial_state=state)
    dense = to_dense(layer)
    close(dense(x, initial_state=state), output)
    again = from_dense(dense, **wiring)
    close(again(x, initial_state=state), output)


@every_kind
def test_states_of_a_stateful_layer_go_along(kind):
    options = {"stateful": True, "return_sequences": True}
    layer = built_grouped(kind, batch=2, **options)
    x, y = normal((2, 4, FEATURES)), normal((2, 4, FEATURES), 1)
    layer(x)
    dense = to_dense(layer)
    again = from_dense(dense, 3, 0.5)
    assert not np.allclose(array(dense.states[0]), 0)
    expected = layer(y)
    close(dense(y), expected)
    close(again(y), expected)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_precision_goes_along(kind, policy):
    if policy == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has it only where it is switched on")
    # Not every backend draws an orthogonal matrix in half precision.
    layer = built_grouped(kind, dtype=policy, recurrent_initializer="random_normal")
    dense = to_dense(layer)
    assert dense.dtype_policy.name == policy
    again = from_dense(dense, 3, 0.5)
    assert again.dtype_policy.name == policy
    variables = zip(again.weights, layer.weights, strict=True)
    assert all(a.dtype == b.dtype for a, b in variables)
    close(again.weights, layer.weights, 0)
    x = normal((2, 4, FEATURES))
    close(dense(x), layer(x), 1e-5 if policy == "float64" else 3e-2)


# From dense.


@conftest.crossed("wiring", ["windows", "sizes", "gaps"], KINDS)
def test_weights_inside_the_structure_stay_and_the_rest_is_dropped(kind, wiring):
    dense = built_stock(kind)
    layer = from_dense(dense, **WIRINGS[wiring])
    assert type(layer) is OURS[kind]
    inside = structure(layer, GATES[kind])
    expected = [w * m for w, m in zip(dense.get_weights(), inside, strict=True)]
    close(to_dense(layer).get_weights(), expected, 0)
    dense.set_weights(expected)
    x, state = normal((2, 4, FEATURES)), states_of(kind)
    close(
        layer(x, initial_state=state, mask=MASK),
        dense(x, initial_state=state, mask=MASK),
    )


@conftest.crossed("wiring", ["windows", "sizes", "gaps"], KINDS)
def test_no_other_weights_are_nearer(kind, wiring):
    dense = built_stock(kind)
    layer = from_dense(dense, **WIRINGS[wiring])
    target = np.concatenate([w.ravel() for w in dense.get_weights()])
    inside = np.concatenate(
        [
            np.broadcast_to(m, w.shape).ravel()
            for w, m in zip(
                dense.get_weights(), structure(layer, GATES[kind]), strict=True
            )
        ]
    )
    # What each weight of a grouped layer adds to the dense layer's, column by column.
    columns = np.eye(len(target))[:, inside]
    solution = np.linalg.lstsq(columns, target, rcond=None)[0]
    found = np.concatenate([w.ravel() for w in to_dense(layer).get_weights()])
    np.testing.assert_allclose(found, columns @ solution, atol=1e-6)
    assert layer.count_params() == len(solution)


@every_kind
def test_one_group_that_sees_everything_is_exact(kind):
    dense = built_stock(kind, return_sequences=True)
    layer = from_dense(dense, 1)
    close(layer.get_weights(), dense.get_weights(), 0)
    x = normal((2, 4, FEATURES))
    close(layer(x, mask=MASK), dense(x, mask=MASK))
    assert kept_share(dense, layer) == KeptShare(1, 1)
    assert to_dense(layer).get_config() == dense.get_config()


@given(
    units=st.integers(1, 9),
    features=st.integers(1, 8),
    kind=st.sampled_from(KINDS),
    use_bias=st.booleans(),
    data=st.data(),
)
def test_any_shape_there_and_back(units, features, kind, use_bias, data):
    groups = data.draw(st.integers(1, min(units, features)))
    density = data.draw(st.floats(1 / groups, 1)) if groups > 1 else 1.0
    wiring = {"groups": groups, "input_density": density}
    layer = grouped_layer(kind, wiring, units, use_bias=use_bias)
    layer.build((None, None, features))
    dense = to_dense(layer)
    assert type(dense) is STOCK[kind]
    twin = dense_twin(kind, layer, features, use_bias=use_bias)
    close(dense.get_weights(), twin.get_weights(), 0)
    again = from_dense(dense, groups, density)
    close(again.get_weights(), layer.get_weights(), 0)


# Arguments.


def activation(x):
    return ops.minimum(ops.relu(x), 2.0)


def penalty(x):
    return 0.01 * ops.sum(ops.abs(x))


def everything(kind):
    """Arguments all away from their defaults; the functions are not registered."""
    arguments = {
        "activation": activation,
        "kernel_initializer": keras.initializers.RandomNormal(0.1, 0.2, seed=3),
        "recurrent_initializer": "glorot_normal",
        "bias_initializer": keras.initializers.Constant(0.5),
        "kernel_regularizer": penalty,
        "recurrent_regularizer": keras.regularizers.L1(0.1),
        "bias_regularizer": keras.regularizers.L1L2(0.1, 0.2),
        "activity_regularizer": keras.regularizers.L2(0.3),
        "kernel_constraint": keras.constraints.MaxNorm(3),
        "recurrent_constraint": "non_neg",
        "bias_constraint": keras.constraints.UnitNorm(),
        "dropout": 0.1,
        "recurrent_dropout": 0.2,
        "seed": 7,
        "return_sequences": True,
        "return_state": True,
        "go_backwards": True,
        "stateful": True,
        "unroll": True,
        "zero_output_for_mask": True,
        "name": "all_of_it",
        "trainable": False,
        "dtype": "mixed_bfloat16",
    }
    if kind != "simple":
        arguments.update(recurrent_activation="hard_sigmoid", use_cudnn=False)
    if kind == "lstm":
        arguments.update(unit_forget_bias=False)
    return own_arguments(kind, arguments)


@every_kind
def test_every_argument_goes_along_in_both_directions(kind):
    arguments = everything(kind)
    layer = OURS[kind](UNITS, [1, 4, 2], 0.8, **arguments)
    dense = STOCK[kind](UNITS, **arguments)
    # Keras's SimpleRNN takes an activity regularizer and forgets it.
    dense.activity_regularizer = layer.activity_regularizer
    for each in (layer, dense):
        each.build((2, 4, FEATURES))
    assert to_dense(layer).get_config() == dense.get_config()
    assert from_dense(dense, [1, 4, 2], 0.8).get_config() == layer.get_config()
    for made in (to_dense(layer), from_dense(dense, 2)):
        assert made.activation is activation
        assert made.kernel_regularizer is penalty
        assert made.trainable_variables == []
        assert getattr(made, "use_cudnn", False) is False


def test_penalties_are_the_same_and_are_those_of_each_group():
    layer = built_grouped(kernel_regularizer=penalty, recurrent_regularizer="l2")
    dense = to_dense(layer)
    again = from_dense(dense, 3, 0.5)
    totals = [float(array(sum(each.losses))) for each in (layer, dense, again)]
    assert totals == pytest.approx([totals[0]] * 3)
    assert totals[0] > 0


def test_an_lstm_keeps_its_weight_drop_in_both_directions():
    layer = built_grouped(weight_drop=0.25, return_sequences=True)
    dense = to_dense(layer)
    assert type(dense) is WeightDropLSTM
    assert (dense.weight_drop, dense.recurrent_dropout) == (0.25, 0.0)
    x = normal((2, 4, FEATURES))
    close(dense(x, mask=MASK), layer(x, mask=MASK))
    again = from_dense(dense, 3, 0.5)
    assert again.get_config() == layer.get_config()
    close(again.get_weights(), layer.get_weights(), 0)
    assert kept_share(dense, again) == KeptShare(1, 1)


def test_a_weight_drop_of_zero_needs_no_layer_of_its_own():
    dense = WeightDropLSTM(UNITS)
    dense.build((None, None, FEATURES))
    assert type(to_dense(from_dense(dense, 2))) is layers.LSTM


@pytest.mark.parametrize("kind", ["gru", "simple"])
def test_weight_drop_that_no_stock_layer_has_is_named(kind):
    layer = built_grouped(kind, weight_drop=0.25, name="dropper")
    with pytest.raises(ValueError, match=r"'dropper'.*weight_drop=0.25.*set_weights"):
        to_dense(layer)


@every_kind
def test_a_copy_without_weights_starts_as_a_layer_of_its_kind_would(kind):
    initializer = keras.initializers.HeNormal(seed=3)
    dense = to_dense(built_grouped(kind, kernel_initializer=initializer))
    copy = STOCK[kind].from_config(dense.get_config())
    copy.build((None, None, FEATURES))
    drawn = initializer(dense.cell.kernel.shape)
    close(copy.get_weights()[0], drawn, 0)
    grouped = from_dense(dense, 2)
    copy = type(grouped).from_config(grouped.get_config())
    copy.build((None, None, FEATURES))
    first = initializer(copy.cell.cells[0].kernel.shape)
    close(copy.get_weights()[0], first, 0)


# In models.


@every_kind
def test_converted_layers_are_saved_and_loaded(tmp_path, kind):
    grouped = built_grouped(kind, "sizes", return_sequences=True)
    stock = STOCK[kind](6, **own_arguments(kind, {}))
    stock.build((None, None, UNITS))
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            to_dense(grouped),
            from_dense(stock, 2),
        ]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = normal((2, 4, FEATURES))
    close(loaded(x), model(x), 0)
    assert [type(layer) for layer in loaded.layers] == [
        type(layer) for layer in model.layers
    ]


def word_model():
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(9, FEATURES, mask_zero=True),
            layers.LSTM(UNITS, return_sequences=True, name="first"),
            layers.LSTM(UNITS, name="last"),
            layers.Dense(1),
        ]
    )


def test_layers_of_a_model_are_replaced_by_cloning():
    model = word_model()
    x = np.random.default_rng(0).integers(0, 9, (8, 6))

    def grouped(layer):
        return from_dense(layer, 2) if isinstance(layer, layers.LSTM) else layer

    def dense(layer):
        return to_dense(layer) if isinstance(layer, GroupedLSTM) else layer

    small = keras.models.clone_model(model, clone_function=grouped)
    assert {type(small.get_layer(n)) for n in ("first", "last")} == {GroupedLSTM}
    assert small.count_params() < model.count_params()
    back = keras.models.clone_model(small, clone_function=dense)
    assert {type(back.get_layer(n)) for n in ("first", "last")} == {layers.LSTM}
    close(back(x), small(x))


def test_zeros_of_a_dense_layer_are_trained_like_any_weight():
    dense = to_dense(built_grouped(wiring="disjoint"))
    model = keras.Sequential([keras.Input((4, FEATURES)), dense])
    model.compile("sgd", "mse", jit_compile=False)
    assert (dense.get_weights()[1] == 0).any()
    model.train_on_batch(normal((8, 4, FEATURES)), np.ones((8, UNITS), "float32"))
    assert (dense.get_weights()[1] != 0).all()


def test_the_two_layers_of_a_bidirectional_are_converted_apart():
    both = layers.Bidirectional(layers.GRU(UNITS, return_sequences=True))
    both.build((None, None, FEATURES))
    parts = [from_dense(p, 1) for p in (both.forward_layer, both.backward_layer)]
    again = layers.Bidirectional(parts[0], backward_layer=parts[1])
    again.build((None, None, FEATURES))
    again.forward_layer.set_weights(parts[0].get_weights())
    again.backward_layer.set_weights(parts[1].get_weights())
    x = normal((2, 4, FEATURES))
    close(again(x, mask=MASK), both(x, mask=MASK))


# What is kept.


@conftest.crossed("wiring", ["windows", "sizes", "gaps"], KINDS)
def test_kept_share_is_one_less_the_squared_distance(kind, wiring):
    dense = built_stock(kind)
    layer = from_dense(dense, **WIRINGS[wiring])
    near = to_dense(layer).get_weights()
    expected = [
        1 - np.sum((a - b) ** 2) / np.sum(a**2)
        for a, b in zip(dense.get_weights()[:2], near[:2], strict=True)
    ]
    assert list(kept_share(dense, layer)) == pytest.approx(expected, abs=1e-5)


def test_kept_share_of_weights_that_are_all_alike_counts_entries():
    dense = built_stock(kernel_initializer="ones", recurrent_initializer="ones")
    layer = from_dense(dense, [3, 4], input_segments=[(0, 2), (4, 5)])
    share = kept_share(dense, layer)
    assert share.kernel == pytest.approx((2 * 3 + 1 * 4) / (FEATURES * UNITS))
    assert share.recurrent_kernel == pytest.approx((9 + 16) / UNITS**2)


def test_kept_share_looks_at_the_structure_and_not_at_the_weights():
    dense = built_stock()
    layer = from_dense(dense, 3, 0.5)
    share = kept_share(dense, layer)
    layer.set_weights([0 * w for w in layer.get_weights()])
    assert kept_share(dense, layer) == share


def test_all_of_nothing_is_kept():
    dense = built_stock(recurrent_initializer="zeros")
    share = kept_share(dense, from_dense(dense, 7))
    assert share.recurrent_kernel == 1.0
    assert 0 < share.kernel <= 1


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_kept_share_of_layers_that_do_not_match_is_an_error(kind):
    dense = built_stock("gru", name="gruff")
    other = OURS[kind](UNITS + (kind == "gru"), 2, name="other")
    other.build((None, None, FEATURES))
    with pytest.raises(ValueError, match=r"one kind.*'gruff' with 5 .*'other' with 5"):
        kept_share(dense, other)


# Errors.


class OwnLSTM(layers.LSTM):
    pass


WRONG = {
    "a dense layer": (lambda: layers.Dense(3, name="d"), "Dense 'd'"),
    "a subclass": (lambda: OwnLSTM(3, name="own"), "OwnLSTM 'own'"),
    "a cell": (lambda: layers.GRUCell(3, name="c"), "GRUCell 'c'"),
    "an RNN": (lambda: layers.RNN(layers.GRUCell(3), name="r"), "RNN 'r'"),
    "no layer": (lambda: "lstm", "str"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_class_is_named(wrong):
    make, name = WRONG[wrong]
    for function, accepted in (
        (to_dense, "GroupedLSTM, GroupedGRU, GroupedSimpleRNN"),
        (lambda layer: from_dense(layer, 2), "LSTM, GRU, SimpleRNN, WeightDropLSTM"),
    ):
        with pytest.raises(ValueError, match=rf"{accepted}\. Received: {name}\."):
            function(make())


def test_what_is_dense_or_grouped_already_is_named():
    with pytest.raises(ValueError, match=r"`to_dense`.*Received: LSTM '"):
        to_dense(built_stock())
    with pytest.raises(ValueError, match=r"`from_dense`.*Received: GroupedLSTM '"):
        from_dense(built_grouped(), 2)


def test_bidirectional_is_told_what_to_do():
    for function, layer in (
        (to_dense, GroupedLSTM(4, 2)),
        (lambda layer: from_dense(layer, 2), layers.LSTM(4)),
    ):
        with pytest.raises(ValueError, match=r"`forward_layer`.*`backward_layer`"):
            function(layers.Bidirectional(layer))


def test_a_layer_without_weights_is_an_error():
    with pytest.raises(ValueError, match=r"`to_dense`.*'mine', which is not built"):
        to_dense(GroupedLSTM(4, 2, name="mine"))
    with pytest.raises(ValueError, match=r"`from_dense`.*'mine', which is not built"):
        from_dense(layers.GRU(4, name="mine"), 2)


@pytest.mark.parametrize(
    ("wiring", "message"),
    [
        ({"groups": 8}, "groups=8"),
        ({"groups": [3, 3]}, r"groups=\[3, 3\]"),
        ({"groups": 2, "input_density": 0.1}, "input_density=0.1"),
        ({"groups": 2, "input_segments": [(0, 3), (3, 6)]}, "5 input features"),
    ],
)
def test_structure_that_does_not_fit_is_named(wiring, message):
    with pytest.raises(ValueError, match=message):
        from_dense(built_stock(), **wiring)
