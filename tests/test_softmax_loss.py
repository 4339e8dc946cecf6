"""The loss of a tiered table: that of Keras, from all of the logits at once."""

import conftest
import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_sparse_rnn import TieredEmbedding, report, shrink
from keras_sparse_rnn.layers import softmax_loss

BACKEND = keras.backend.backend()
WORDS, WIDTH, BATCH, TIME = 11, 6, 3, 5
TIERS = [(3, WIDTH), (2, 5), (6, 2)]
IDS = np.random.default_rng(0).integers(0, WORDS, (BATCH, TIME)).astype("int32")
STATES = np.random.default_rng(1).standard_normal((BATCH, TIME, WIDTH))
MASK = np.array([[1, 1, 0, 0, 1], [0] * TIME, [1] * TIME], bool)


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    """The last of them not full."""
    monkeypatch.setattr(softmax_loss, "ROWS", 4)


def table(**arguments):
    keras.utils.set_random_seed(3)
    layer = TieredEmbedding(
        WORDS, WIDTH, tiers=TIERS, embeddings_initializer="normal", **arguments
    )
    layer.build()
    for number, variable in enumerate(layer.weights):
        if variable.dtype == "float32":
            drawn = np.random.default_rng(number).standard_normal(variable.shape)
            variable.assign(drawn)
    return layer


def value_and_gradients(layer, loss):
    """A loss of states, and its gradients by them and by all weights."""
    variables = [v.value for v in layer.trainable_variables]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        states = tf.constant(STATES, "float32")
        with tf.GradientTape() as tape:
            tape.watch(states)
            value = loss(states)
        found = tape.gradient(value, [states, *variables], unconnected_gradients="zero")
        found = [tf.convert_to_tensor(one) for one in found]
    elif BACKEND == "jax":
        import jax

        def stateless(states, values):
            pairs = zip(layer.trainable_variables, values, strict=True)
            with keras.StatelessScope(list(pairs)):
                return loss(states)

        arguments = (ops.cast(STATES, "float32"), variables)
        value, found = jax.value_and_grad(stateless, (0, 1))(*arguments)
        found = keras.tree.flatten(found)
    else:
        import torch

        states = torch.tensor(STATES, dtype=torch.float32, requires_grad=True)
        value = loss(states)
        found = torch.autograd.grad(value, [states, *variables], materialize_grads=True)
    return [ops.convert_to_numpy(ops.convert_to_tensor(v)) for v in (value, *found)]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"tie_weights": False, "reverse_bias": True},
        {"logit_soft_cap": 0.7, "reverse_bias": True},
        {"projection": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [4, 15, 100])
def test_value_and_gradients_are_those_of_keras(arguments, weighted, rows, monkeypatch):
    monkeypatch.setattr(softmax_loss, "ROWS", rows)
    layer = table(**arguments)
    stock = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weights = np.linspace(0, 2, BATCH).astype("float32") if weighted else None

    def ours(states):
        mask = ops.convert_to_tensor(MASK) if weighted else None
        return layer(states, targets=IDS, sample_weight=weights, inputs_mask=mask)

    def theirs(states):
        logits = layer(states, reverse=True)
        if weighted:
            # As `compile` does of the mask that a tensor carries.
            full = np.repeat(weights[:, None], TIME, 1)
            return stock(IDS, logits, full * MASK * (MASK.size / MASK.sum()))
        return stock(IDS, logits)

    expected = value_and_gradients(layer, theirs)
    for a, b in zip(value_and_gradients(layer, ours), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def model_of(length=None, loss=True, **arguments):
    start = keras.Input((length,), dtype="int32", name="ids")
    words = TieredEmbedding(
        WORDS, WIDTH, tiers=TIERS, mask_zero=True, name="words", **arguments
    )
    hidden = layers.SimpleRNN(WIDTH, return_sequences=True, name="rnn")(words(start))
    if not loss:
        return keras.Model(start, words(hidden, reverse=True))
    targets = keras.Input((length,), dtype="int32", name="targets")
    return keras.Model([start, targets], words(hidden, targets=targets))


@pytest.mark.parametrize("length", conftest.often([None, TIME], None))
def test_fits_as_with_logits(length, tmp_path):
    following = np.roll(IDS, -1, 1)
    stock = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain, ours = model_of(length, loss=False), model_of(length)
    ours.set_weights(plain.get_weights())
    plain.compile(keras.optimizers.SGD(0.5), stock)
    ours.compile(keras.optimizers.SGD(0.5))
    arguments = {"epochs": 3, "batch_size": 2, "shuffle": False, "verbose": 0}
    a = plain.fit(IDS, following, **arguments).history["loss"]
    b = ours.fit([IDS, following], **arguments).history["loss"]
    np.testing.assert_allclose(a, b, rtol=1e-4)
    for one, other in zip(plain.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    expected = plain.evaluate(IDS, following, verbose=0)
    assert ours.evaluate([IDS, following], verbose=0) == pytest.approx(expected, 1e-4)
    ours.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate([IDS, following], verbose=0) == pytest.approx(expected, 1e-4)


def test_half_precision_computes_the_loss_in_full():
    layer = table(dtype="mixed_float16")
    loss = layer(ops.cast(STATES, "float16"), targets=IDS)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    full = table()(ops.cast(STATES, "float32"), targets=IDS)
    loss, full = map(ops.convert_to_numpy, (loss, full))
    np.testing.assert_allclose(loss, full, rtol=1e-2)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has no loops over nothing")
def test_no_states_have_no_loss():
    loss = table()(np.zeros((0, WIDTH), "float32"), targets=np.zeros((0,), "int32"))
    assert ops.convert_to_numpy(loss) == 0


def test_targets_are_checked():
    with pytest.raises(ValueError, match="takes ids from 0 to 10"):
        table()(ops.cast(STATES, "float32"), targets=IDS + 1)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"targets": IDS.T}, r"one target for each state.*\(5, 3\).*\(3, 5, 6\)"),
        ({"targets": IDS[:, 1:]}, r"of shape \(3, 4\).*Give.*of shape \(3, 5\)"),
        ({"targets": IDS[..., None]}, r"of shape \(3, 5, 1\)"),
        ({"targets": IDS[:1]}, r"of shape \(1, 5\)"),
        ({"sample_weight": np.ones((3, 5, 1))}, r"`sample_weight`.*\(3, 5, 1\)"),
        ({"sample_weight": np.ones(5)}, r"`sample_weight`.*\(5,\).*\(3, 5, 6\)"),
        ({"inputs_mask": MASK[:, :2]}, r"`inputs_mask`.*\(3, 2\)"),
    ],
)
def test_other_shapes_than_that_of_the_states_are_refused(given, match):
    given = {"targets": IDS, **given}
    symbols = {
        name: keras.KerasTensor(value.shape, "int32") for name, value in given.items()
    }
    with pytest.raises(ValueError, match=match):
        table()(ops.cast(STATES, "float32"), **given)
    with pytest.raises(ValueError, match=match):
        table()(keras.KerasTensor(STATES.shape), **symbols)


def test_weights_of_shapes_that_fit_are_taken():
    layer, states = table(), ops.cast(STATES, "float32")
    plain = ops.convert_to_numpy(layer(states, targets=IDS))
    for shape in ((), (3,), (3, 1), (1, 5), (3, 5)):
        loss = layer(states, targets=IDS, sample_weight=2 * np.ones(shape))
        np.testing.assert_allclose(ops.convert_to_numpy(loss), 2 * plain, rtol=1e-5)
    unknown = keras.Input((None, WIDTH))
    loss = layer(unknown, targets=keras.Input((7,)), sample_weight=keras.Input(()))
    assert loss.shape == ()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sizes are known when traced")
@pytest.mark.parametrize("jit_compile", conftest.often([False, True], True))
@pytest.mark.parametrize(
    ("targets", "weights"),
    [(IDS.T, IDS.T), (IDS[:1], IDS), (IDS, IDS.T), (IDS[:1], IDS[:1])],
)
def test_a_graph_of_unknown_sizes_fails_at_other_ones(targets, weights, jit_compile):
    import tensorflow as tf

    layer = table()

    @tf.function(
        jit_compile=jit_compile,
        input_signature=[
            tf.TensorSpec((None, None, WIDTH)),
            tf.TensorSpec((None, None), "int32"),
            tf.TensorSpec((None, None)),
        ],
    )
    def loss(states, targets, weights):
        return layer(states, targets=targets, sample_weight=weights)

    states = tf.constant(STATES, "float32")
    expected = layer(states, targets=IDS, sample_weight=IDS)
    np.testing.assert_allclose(loss(states, IDS, IDS), expected, rtol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError):
        loss(states, targets, weights)


@pytest.mark.parametrize("bad", [-1, WORDS, 2**31 - 1])
def test_a_target_that_is_no_word_makes_nan_of_loss_and_gradients(bad, monkeypatch):
    layer, ids = table(reverse_bias=True), IDS.copy()
    ids[1, 2] = bad
    # As in a graph, where nobody can look at the ids.
    monkeypatch.setattr(layer, "_check_range", lambda ids: None)
    weights = np.ones(IDS.shape, "float32")
    weights[1, 2] = 0
    for given in (None, weights):
        value, states, *tables = value_and_gradients(
            layer, lambda x, w=given: layer(x, targets=ids, sample_weight=w)
        )
        assert np.isnan(value)
        assert all(np.isnan(one).all() for one in tables)
        assert np.isnan(states).all(-1).sum() == np.isnan(states).any(-1).sum() == 1


def test_there_are_gradients_without_training_too():
    layer = table(reverse_bias=True)
    found, expected = (
        value_and_gradients(
            layer, lambda x, arguments=arguments: layer(x, targets=IDS, **arguments)
        )
        for arguments in ({"training": False}, {})
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="GradientTape")
def test_there_are_gradients_without_training_by_xla():
    import tensorflow as tf

    layer = table()
    sizes = [tf.TensorSpec((None, TIME, WIDTH)), tf.TensorSpec((None, TIME), "int32")]

    @tf.function(jit_compile=True, input_signature=sizes)
    def gradient(states, targets):
        with tf.GradientTape() as tape:
            tape.watch(states)
            loss = layer(states, targets=targets, training=False)
        return tape.gradient(loss, states)

    _, expected, *_ = value_and_gradients(layer, lambda x: layer(x, targets=IDS))
    found = gradient(tf.constant(STATES, "float32"), IDS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_units_go_from_a_model_that_ends_in_its_loss():
    model, plain = model_of(TIME), model_of(TIME, loss=False)
    assert report(model).before == report(plain).before
    recurrent = model.get_layer("rnn").cell
    kernel, loop, bias = recurrent.get_weights()
    kernel[:, 2], kernel[2], loop[:, 2], loop[2], bias[2] = 0, 0, 0, 0, 0
    recurrent.set_weights([kernel, loop, bias])
    (first, *rest) = model.get_layer("words").get_weights()
    if first.shape[1] > 2:
        first[:, 2] = 0
    else:
        rest[0][:, 0] = 0
    model.get_layer("words").set_weights([first, *rest])
    small = shrink(model)
    assert small.get_layer("rnn").units == WIDTH - 1
    pair = [IDS, np.roll(IDS, -1, 1)]
    np.testing.assert_allclose(
        ops.convert_to_numpy(small(pair)), ops.convert_to_numpy(model(pair)), rtol=1e-5
    )
