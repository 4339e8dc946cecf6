"""What only the layers with gates have: cuDNN, and an LSTM's forget bias."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from wirings import (
    FEATURES,
    OPTIONS,
    OURS,
    UNITS,
    array,
    close,
    grouped_layer,
    normal,
    pair,
    sequence_mask,
    states_of,
)

from keras_sparse_rnn import _backend
from keras_sparse_rnn.layers import GroupedLSTM, gated_rnn

gated = pytest.mark.parametrize("kind", ["lstm", "gru"])


def test_the_forget_bias_of_each_group_is_one():
    layer = GroupedLSTM(9, [4, 5])
    layer.build((None, None, FEATURES))
    for size, bias in zip([4, 5], layer.get_weights()[2::3], strict=True):
        np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], size))


@pytest.mark.parametrize("unit_forget_bias", [False, True])
def test_the_bias_of_one_group_starts_as_that_of_a_stock_lstm(unit_forget_bias):
    options = {"unit_forget_bias": unit_forget_bias, "bias_initializer": "zeros"}
    ours, stock = GroupedLSTM(UNITS, 1, **options), layers.LSTM(UNITS, **options)
    ours.build((None, None, FEATURES))
    stock.build((None, None, FEATURES))
    close(ours.get_weights()[2], stock.get_weights()[2], 0)


# cuDNN: what can be tested without a GPU.


@pytest.mark.skipif(
    _backend.cudnn_ok(
        keras.activations.tanh, keras.activations.sigmoid, False, use_bias=True
    ),
    reason="there is cuDNN",
)
@gated
def test_cudnn_where_there_is_none_is_an_error_that_says_what_to_do(kind):
    layer = OURS[kind](6, 2, use_cudnn=True)
    with pytest.raises(ValueError, match="use_cudnn='auto'"):
        layer(normal((1, 2, FEATURES)))


@gated
def test_cudnn_takes_no_other_word(kind):
    with pytest.raises(ValueError, match="use_cudnn='always'"):
        OURS[kind](6, 2, use_cudnn="always")


@gated
@pytest.mark.parametrize(
    "options",
    [
        {"recurrent_dropout": 0.5},
        {"unroll": True},
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"use_bias": False},
    ],
    ids=str,
)
def test_cudnn_with_what_it_can_not_do_is_an_error_at_once(kind, options):
    with pytest.raises(ValueError, match="use_cudnn='auto'"):
        OURS[kind](6, 2, use_cudnn=True, **options)


@pytest.fixture
def cudnn(monkeypatch):
    """Pretends that there is a GPU: a stock layer takes the place of cuDNN."""
    calls = []

    def run(kind, inputs, states, mask, weights, arguments):
        calls.append(tuple(inputs.shape))
        assert arguments.pop("activation") is keras.activations.tanh
        assert arguments.pop("recurrent_activation") is keras.activations.sigmoid
        stock = kind(
            int(states[0].shape[-1]), use_cudnn=False, return_state=True, **arguments
        )
        stock.build(inputs.shape)
        stock.set_weights([array(w) for w in weights])
        outputs, *states = stock(inputs, initial_state=states, mask=mask)
        if arguments["return_sequences"]:
            return outputs[:, -1], outputs, states
        return outputs, outputs[:, None], states

    def lstm(inputs, h, c, mask, kernel, recurrent_kernel, bias, **arguments):
        weights = (kernel, recurrent_kernel, bias)
        return run(layers.LSTM, inputs, [h, c], mask, weights, arguments)

    def gru(inputs, h, mask, kernel, recurrent_kernel, bias, **arguments):
        assert arguments["reset_after"]
        weights = (kernel, recurrent_kernel, bias)
        return run(layers.GRU, inputs, [h], mask, weights, arguments)

    def ok(activation, recurrent_activation, unroll, use_bias, reset_after=True):
        stock = (keras.activations.tanh, keras.activations.sigmoid)
        return (
            (activation, recurrent_activation) == stock
            and use_bias
            and reset_after
            and not unroll
        )

    # With PyTorch, a few groups would take the same call without cuDNN.
    monkeypatch.setattr(gated_rnn.GatedRNN, "_backend_is_faster", lambda self: False)
    monkeypatch.setattr(_backend, "cudnn_ok", ok)
    monkeypatch.setattr(_backend, "cudnn_lstm", lstm)
    monkeypatch.setattr(_backend, "cudnn_gru", gru)
    return calls


@gated
@pytest.mark.parametrize(
    "options", ["defaults", "state", "last and state", "backwards"]
)
def test_cudnn_runs_every_group(cudnn, kind, options):
    ours, dense = pair(kind, "sizes", **OPTIONS[options])
    x, state = normal((2, 4, FEATURES)), states_of(kind)
    close(ours(x, initial_state=state), dense(x, initial_state=state))
    assert cudnn == [(2, 4, end - begin) for begin, end in ours.input_segments]


@gated
def test_cudnn_runs_one_group(cudnn, kind):
    ours, dense = pair(kind, "one", return_sequences=True)
    x = normal((2, 4, FEATURES))
    close(ours(x), dense(x))
    assert cudnn == [(2, 4, FEATURES)]


@gated
def test_cudnn_gets_the_mask(cudnn, kind):
    ours, dense = pair(kind, return_sequences=True)
    x, mask = normal((2, 4, FEATURES)), sequence_mask("right padded")
    close(ours(x, mask=mask), dense(x, mask=mask))
    assert len(cudnn) == 3


@gated
def test_cudnn_gets_recurrent_kernels_without_the_dropped_weights(cudnn, kind):
    ours = grouped_layer(kind, "sizes", weight_drop=0.5)
    ours.build((None, None, FEATURES))
    masks = [
        2 * np.random.default_rng(g).integers(0, 2, w.shape).astype("float32")
        for g, w in enumerate(ours.get_weights()[1::3])
    ]
    ours.cell.draw_kernel_masks = lambda: [ops.convert_to_tensor(m) for m in masks]
    x = normal((2, 4, FEATURES))
    output = ours(x, training=True)
    dropped, _ = pair(kind, "sizes")
    dropped.set_weights(
        [
            w * masks[k // 3] if k % 3 == 1 else w
            for k, w in enumerate(ours.get_weights())
        ]
    )
    close(output, dropped(x))
    assert len(cudnn) == 6


@gated
@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"use_bias": False},
        {"unroll": True},
        {"recurrent_dropout": 0.1},
        {"use_cudnn": False},
    ],
)
def test_cudnn_is_left_where_stock_keras_leaves_it(cudnn, kind, options):
    x = normal((2, 4, FEATURES))
    grouped_layer(kind, {"groups": 2}, 6, **options)(x)
    assert cudnn == []
    if options.get("use_cudnn", True):
        with pytest.raises(ValueError, match="cuDNN can't be used"):
            grouped_layer(kind, {"groups": 2}, 6, use_cudnn=True, **options)


def test_cudnn_resets_after_the_product_only(cudnn):
    ours, dense = pair("gru, reset before", return_sequences=True)
    x = normal((2, 4, FEATURES))
    close(ours(x), dense(x))
    assert cudnn == []


@gated
def test_a_mask_that_cudnn_refuses_goes_through_the_loop(cudnn, monkeypatch, kind):
    def refuse(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(_backend, f"cudnn_{kind}", refuse)
    ours, dense = pair(kind, return_sequences=True)
    x, mask = normal((2, 4, FEATURES)), sequence_mask("holes")
    close(ours(x, mask=mask), dense(x, mask=mask))
    with pytest.raises(ValueError, match="no mask"):
        grouped_layer(kind, use_cudnn=True)(x, mask=mask)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="as stock Keras")
@gated
def test_cudnn_is_not_compiled_by_xla(cudnn, kind):
    assert not OURS[kind](6, 2).supports_jit
    assert OURS[kind](6, 2, use_cudnn=False).supports_jit


@gated
def test_cudnn_leaves_groups_that_are_spread_over_devices(cudnn, monkeypatch, kind):
    ours, dense = pair(kind, "windows", use_cudnn="auto")
    monkeypatch.setattr(type(ours), "placement", lambda self: lambda kernel: kernel)
    x = normal((2, 4, FEATURES))
    close(ours(x), dense(x))
    assert cudnn == []
    wanted = grouped_layer(kind, "windows", use_cudnn=True)
    with pytest.raises(ValueError, match="spreads the groups"):
        wanted(x)
