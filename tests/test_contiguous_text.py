"""Windows of a text: every word once, in order, whatever their lengths."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_sparse_rnn as ksr


@given(
    st.integers(1, 4),
    st.integers(2, 12),
    st.integers(30, 300),
    st.sampled_from([0.0, 1.0, 3.0]),
    st.integers(0, 3),
)
def test_rows_read_their_parts_from_end_to_end(batch, steps, length, jitter, epoch):
    ids = np.arange(batch * length + 1)
    jitter = min(jitter, steps / 2)
    text = ksr.ContiguousText(ids, batch, steps, jitter=jitter, shortest=1, seed=7)
    text.epoch = epoch
    read = [text[k] for k in range(text.num_batches)]
    x = np.concatenate([one for one, _ in read], axis=1)
    y = np.concatenate([one for _, one in read], axis=1)
    whole = length if jitter else length - length % steps
    assert x.shape == (batch, whole)
    assert text.words == x.size
    # What stands in row r goes on where row r of the window before ended.
    np.testing.assert_array_equal(x, x[:, :1] + np.arange(whole))
    np.testing.assert_array_equal(y, x + 1)
    np.testing.assert_array_equal(x[:, 0], whole * np.arange(batch))
    assert min(text.lengths) >= 1
    if not jitter:
        assert set(text.lengths) == {steps}


def test_lengths_are_drawn_as_awd_lstm_draws_them():
    text = ksr.ContiguousText(np.zeros(20 * 46_000 + 1, int), 20, 70, jitter=5)
    drawn = []
    for epoch in range(20):
        text.epoch = epoch
        drawn += text.lengths
    lengths = np.array(drawn)
    short = lengths < 52
    assert short.mean() == pytest.approx(0.05, abs=0.01)
    assert lengths[~short].mean() == pytest.approx(70, abs=1)
    assert lengths[~short].std() == pytest.approx(5, abs=0.5)
    assert lengths[short].mean() == pytest.approx(35, abs=1)
    assert len({tuple(text.lengths) for text.epoch in range(3)}) == 3
    assert len({sum(text.lengths) for text.epoch in range(3)}) == 1


def test_the_same_seed_and_epoch_give_the_same_windows():
    ids = np.arange(1000)
    one, other = (ksr.ContiguousText(ids, 2, 20, jitter=3, seed=5) for _ in range(2))
    one.epoch = other.epoch = 4
    assert one.lengths == other.lengths
    other.epoch = 5
    assert one.lengths != other.lengths


JAX = keras.backend.backend() == "jax"


def reader(batch):
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(batch, None), dtype="int32"),
            keras.layers.Embedding(11, 4),
            # The stock one is not stateful in training with PyTorch.
            ksr.GroupedLSTM(5, 1, return_sequences=True, stateful=True),
            keras.layers.Dense(11),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss)
    return model


class Seen(keras.callbacks.Callback):
    """Rates and states, as training finds them."""

    def on_train_begin(self, logs=None):
        self.rates, self.states = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))
        (layer,) = [x for x in self.model.layers if isinstance(x, keras.layers.RNN)]
        state = keras.ops.convert_to_numpy(layer.states[0])
        self.states.append(float(np.abs(state).max()))


@pytest.mark.skipif(JAX, reason="Keras carries no states in `fit` there")
def test_rates_follow_lengths_and_states_begin_at_zero():
    random = np.random.default_rng(0)
    text = ksr.ContiguousText(random.integers(0, 11, 200), 2, 10, jitter=2)
    model, seen = reader(2), Seen()
    half = keras.callbacks.LearningRateScheduler(lambda epoch, _: 0.5**epoch)
    callbacks = [half, ksr.ContiguousTraining(text), seen]
    model.fit(text, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    expected = []
    for epoch in range(2):
        text.epoch = epoch
        expected += [0.5**epoch * length / 10 for length in text.lengths]
    np.testing.assert_allclose(seen.rates, expected, rtol=1e-6)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.5)
    count = text.num_batches
    assert seen.states[0] == seen.states[count] == 0
    assert all(state > 0 for state in seen.states[1:count])


def test_a_model_that_makes_its_loss_gets_targets_as_an_input():
    text = ksr.ContiguousText(np.arange(21), 2, 5, as_inputs=True)
    ((x, y),) = text[0]
    np.testing.assert_array_equal(y, x + 1)


def test_what_is_wrong_is_told():
    ids = np.arange(100)
    for arguments, message in (
        ({"ids": ids * 0.5}, "one row of integers"),
        ({"ids": ids[None]}, "one row of integers"),
        ({"batch_size": 30}, "too short for 30 parts"),
        ({"jitter": 6.0}, r"`jitter` must lie in \[0, 5.0\]"),
        ({"seed": -1}, r"`seed` must lie in"),
        ({"jitter": -1}, r"`jitter` must lie in \[0"),
        ({"halved": 2}, r"`halved` must lie in \[0, 1\]"),
        ({"jitter": 1.0, "shortest": 11}, "between `shortest` and `longest`"),
        ({"steps": 0}, "`steps` must be a positive integer"),
    ):
        given = {"ids": ids, "batch_size": 2, "steps": 10, **arguments}
        with pytest.raises(ValueError, match=message):
            ksr.ContiguousText(**given)


def test_shuffled_windows_are_refused():
    text = ksr.ContiguousText(np.arange(100), 2, 5)
    with pytest.raises(ValueError, match="pass `shuffle=False`"):
        text[4]


@pytest.mark.skipif(not JAX, reason="about JAX")
def test_with_jax_states_are_not_carried_and_that_is_told():
    model = reader(2)
    x = np.ones((2, 3), "int32")
    # Where this fails, Keras has learned it: the error can go.
    one, other = (model.predict_on_batch(x) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    text = ksr.ContiguousText(np.arange(100) % 11, 2, 10)
    with pytest.raises(ValueError, match="JAX backend does not carry"):
        model.fit(text, verbose=0, callbacks=[ksr.ContiguousTraining(text)])


@pytest.mark.skipif(JAX, reason="Keras carries no states in `fit` there")
def test_a_schedule_of_rates_is_refused_where_lengths_differ():
    text = ksr.ContiguousText(np.arange(100) % 11, 2, 10, jitter=2)
    model = reader(2)
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss)
    with pytest.raises(ValueError, match="can't scale a schedule"):
        model.fit(
            text, shuffle=False, verbose=0, callbacks=[ksr.ContiguousTraining(text)]
        )
