"""A TieredEmbedding against `keras.layers.Embedding` whose missing weights are zero."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_sparse_rnn import TieredEmbedding

TIERS = [(2, 6), (3, 4), (5, 1)]
KINDS = {
    "tiers": {"tiers": TIERS},
    "density": {"density": 0.4, "blocks": 3},
    "counts": {"density": 0.6, "counts": [90, 70, 20, 9, 9, 4, 2, 1, 1, 0]},
    "short": {"tiers": [(4, 3), (6, 2)]},
    "all": {"density": 1, "blocks": 1},
}


def array(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def table_of(layer):
    """The dense table that the stored blocks stand for, from `tiers` alone."""
    tiers = layer.tiers
    widths = sorted({0, *(width for _, width in tiers)})
    table = np.zeros((layer.input_dim, layer.output_dim), "float32")
    for block, begin, end in zip(
        layer.get_weights(), widths[:-1], widths[1:], strict=True
    ):
        rows = sum(size for size, width in tiers if width >= end)
        assert block.shape == (rows, end - begin)
        table[:rows, begin:end] = block
    return table


def pair(**arguments):
    ours = TieredEmbedding(10, 6, **arguments)
    ours.build()
    stock = layers.Embedding(10, 6, mask_zero=arguments.get("mask_zero", False))
    stock.build()
    stock.set_weights([table_of(ours)])
    return ours, stock


@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_dense_table_with_zeros(kind):
    ours, stock = pair(**KINDS[kind])
    ids = np.arange(10)
    np.testing.assert_array_equal(array(ours(ids)), array(stock(ids)))


def test_only_what_is_not_zero_is_stored():
    ours, _ = pair(tiers=TIERS)
    assert ours.count_params() == 2 * 6 + 3 * 4 + 5 * 1
    lengths = (array(ours(np.arange(10))) != 0).sum(axis=-1)
    assert lengths.tolist() == [6, 6, 4, 4, 4, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 3, 2), (0, 4)])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
def test_ids_of_any_rank_and_type(shape, dtype):
    ours, stock = pair(tiers=TIERS)
    ids = np.random.default_rng(0).integers(0, 10, shape).astype(dtype)
    output = ours(ops.convert_to_tensor(ids))
    assert tuple(output.shape) == (*shape, 6)
    np.testing.assert_array_equal(array(output), array(stock(ids)))


@given(st.integers(2, 60), st.integers(2, 12), st.data())
@settings(max_examples=20)
def test_equals_a_dense_table_for_any_density(input_dim, output_dim, data):
    blocks = data.draw(st.integers(2, output_dim))
    density = data.draw(st.floats(1 / blocks, 1))
    ours = TieredEmbedding(input_dim, output_dim, density, blocks)
    ids = data.draw(st.lists(st.integers(0, input_dim - 1), min_size=1, max_size=9))
    np.testing.assert_array_equal(array(ours(np.array(ids))), table_of(ours)[ids])


def test_a_dense_table_is_stock_in_name_and_shape():
    ours = TieredEmbedding(10, 6, density=1, blocks=1)
    stock = layers.Embedding(10, 6)
    ours.build(), stock.build()
    assert [(w.name, tuple(w.shape)) for w in ours.weights] == [
        (w.name, tuple(w.shape)) for w in stock.weights
    ]
    assert TieredEmbedding(10, 6, density=1.0).tiers == [(10, 6)]


def test_blocks_do_not_share_weights():
    ours = TieredEmbedding(
        10,
        6,
        tiers=[(5, 6), (5, 3)],
        embeddings_initializer=keras.initializers.RandomNormal(seed=1),
    )
    ours.build()
    first, second = ours.get_weights()
    assert not np.allclose(first[:5], second)


@pytest.mark.parametrize("kind", KINDS)
def test_mask_is_that_of_a_stock_embedding(kind):
    ours, stock = pair(**KINDS[kind], mask_zero=True)
    ids = np.array([[0, 3, 0], [9, 0, 1]])
    np.testing.assert_array_equal(
        array(ours.compute_mask(ids)), array(stock.compute_mask(ids))
    )
    lstm = layers.LSTM(3)
    outputs = []
    for embedding in (ours, stock):
        inputs = keras.Input((None,), dtype="int32")
        outputs.append(keras.Model(inputs, lstm(embedding(inputs)))(ids))
    np.testing.assert_allclose(array(outputs[0]), array(outputs[1]), atol=1e-6)
    unmasked, _ = pair(**KINDS[kind])
    assert unmasked.compute_mask(ids) is None


@pytest.mark.parametrize("bad", [-1, 10, 2**31 - 1])
def test_an_id_out_of_range_is_an_error_that_names_it(bad):
    ours, _ = pair(tiers=TIERS)
    with pytest.raises(ValueError, match=rf"0 to 9.*{bad}"):
        ours(np.array([[0, bad]]))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="GradientTape")
def test_gradient_is_that_of_a_dense_table_and_misses_what_is_missing():
    import tensorflow as tf

    ours, stock = pair(tiers=TIERS)
    ids, target = np.array([[0, 4, 9], [9, 9, 5]]), np.ones((2, 3, 6), "float32")
    dense_gradients = []
    for layer in (ours, stock):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((layer(ids) - target) ** 2)
        found = tape.gradient(loss, [v.value for v in layer.trainable_variables])
        dense_gradients.append([tf.convert_to_tensor(g).numpy() for g in found])
    by_block, (dense,) = dense_gradients
    # Blocks of the tiers (2, 6), (3, 4), (5, 1), from the first column on.
    np.testing.assert_allclose(by_block[0], dense[:, :1], atol=1e-6)
    np.testing.assert_allclose(by_block[1], dense[:5, 1:4], atol=1e-6)
    np.testing.assert_allclose(by_block[2], dense[:2, 4:], atol=1e-6)


def test_missing_entries_stay_zero_in_training():
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            TieredEmbedding(10, 6, tiers=TIERS),
            layers.Dense(1),
        ]
    )
    model.compile(
        keras.optimizers.AdamW(0.1, weight_decay=0.1), "mse", jit_compile=False
    )
    ids = np.tile(np.arange(10), (8, 1))
    history = model.fit(ids, np.ones((8, 10, 1)), epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]
    lengths = (array(model.layers[0](np.arange(10))) != 0).sum(axis=-1)
    assert lengths.tolist() == [6, 6, 4, 4, 4, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_configuration_saving_and_cloning(tmp_path, kind):
    layer = TieredEmbedding(
        10,
        6,
        **KINDS[kind],
        mask_zero=True,
        embeddings_initializer=keras.initializers.RandomUniform(-1, 1, seed=2),
        embeddings_regularizer=keras.regularizers.L2(0.1),
        embeddings_constraint="max_norm",
        name="table",
    )
    model = keras.Sequential([keras.Input((None,), dtype="int32"), layer])
    model.save(tmp_path / "model.keras")
    ids = np.array([[0, 3, 9]])
    loaded = keras.models.load_model(tmp_path / "model.keras")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for other in (loaded, clone):
        again = other.get_layer("table")
        assert again.get_config() == layer.get_config()
        assert again.tiers == layer.tiers
        np.testing.assert_array_equal(array(other(ids)), array(model(ids)))
        assert [w.constraint is not None for w in again.weights] == [True] * len(
            layer.weights
        )
        assert float(sum(other.losses)) == pytest.approx(float(sum(model.losses)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    ours = TieredEmbedding(3000, 6, tiers=[(10, 6), (2990, 2)], dtype=policy)
    ids = np.array([[0, 2999, 2049]])
    output = ours(ids)
    compute = keras.dtype_policies.get(policy).compute_dtype
    assert keras.backend.standardize_dtype(output.dtype) == compute
    assert {w.dtype for w in ours.weights} == {"float32"}
    # Neither type can tell 2049 from 2048: ids must not be cast.
    np.testing.assert_allclose(array(output)[0], table_of(ours)[ids[0]], atol=1e-2)
    assert ours.compute_output_spec(keras.Input((3,), dtype="int32")).dtype == compute


def test_symbolic_shapes():
    layer = TieredEmbedding(10, 6, tiers=TIERS)
    assert layer(keras.Input((None,), dtype="int32")).shape == (None, None, 6)
    assert layer(keras.Input((3, 4), dtype="int64")).shape == (None, 3, 4, 6)
    assert layer.compute_output_shape((2, 5)) == (2, 5, 6)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="no XLA")
def test_compiled_by_xla():
    ours, stock = pair(tiers=[(4, 5), (6, 2)])
    inputs = keras.Input((3,), dtype="int32")
    model = keras.Model(inputs, ours(inputs))
    model.compile("sgd", "mse", jit_compile=True)
    ids = np.array([[0, 5, 9]])
    np.testing.assert_array_equal(model.predict_on_batch(ids), array(stock(ids)))
    model.train_on_batch(ids, np.ones((1, 3, 6)))
