"""A TieredEmbedding against `keras.layers.Embedding` whose missing weights are zero."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_sparse_rnn import TieredEmbedding, to_dense

TIERS = [(2, 6), (3, 4), (5, 1)]
KINDS = {
    "tiers": {"tiers": TIERS},
    "density": {"density": 0.4, "blocks": 3},
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
        layer.get_weights()[: len(tiers)], widths[:-1], widths[1:], strict=True
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


def test_sparse_ids_are_refused():
    ours, _ = pair(tiers=TIERS)
    dense = np.array([[1, 2, 0]])
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        found = tf.sparse.from_dense(dense)
    elif keras.backend.backend() == "jax":
        from jax.experimental import sparse

        found = sparse.BCOO.fromdense(dense)
    else:
        import torch

        found = torch.tensor(dense).to_sparse()
    for ids in (found, keras.KerasTensor((None, 3), "int32", sparse=True)):
        with pytest.raises(ValueError, match=r"dense tensors\. Received a sparse one"):
            ours(ids)


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
        assert array(sum(other.losses)) == pytest.approx(array(sum(model.losses)))


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


# In reverse.


def reversible(**arguments):
    """A layer and Keras's own, which has the same table with zeros in it."""
    stock_only = {"tiers", "density", "blocks", "reverse_bias"}
    ours = TieredEmbedding(10, 6, **arguments)
    ours.build()
    given = {k: v for k, v in arguments.items() if k not in stock_only}
    stock = layers.ReversibleEmbedding(10, 6, **given)
    stock.build()
    for number, variable in enumerate(ours.weights):
        variable.assign(random(variable.shape, number))
    tables = [table_of(ours)]
    if not ours.tie_weights:
        kernel, begin = np.zeros((6, 10), "float32"), 0
        for table in ours.reverse_tables:
            width, size = table.shape
            kernel[:width, begin : begin + size] = array(table)
            begin += size
        tables.append(kernel)
    stock.set_weights(tables)
    return ours, stock


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 3, 6), (2, 0, 6)])
def test_logits_are_those_of_a_dense_table_with_zeros(kind, shape):
    ours, stock = reversible(**KINDS[kind])
    states = random(shape)
    logits = array(ours(states, reverse=True))
    assert logits.shape == (*shape[:-1], 10)
    expected = states @ array(stock.embeddings).T
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"tie_weights": False},
        {"reverse_dtype": "float16"},
        {"logit_soft_cap": 1.5},
        {"mask_zero": True},
    ],
    ids=str,
)
def test_other_arguments_are_those_of_the_reversible_layer(arguments):
    ours, stock = reversible(tiers=TIERS, **arguments)
    states = random((2, 3, 6))
    made, wanted = ours(states, reverse=True), stock(states, reverse=True)
    assert made.dtype == wanted.dtype
    np.testing.assert_allclose(array(made), array(wanted), rtol=2e-3, atol=1e-5)
    assert ours.compute_output_spec(states, reverse=True).dtype == (
        keras.backend.standardize_dtype(made.dtype)
    )


def test_a_bias_of_the_logits():
    ours, stock = reversible(tiers=TIERS, reverse_bias=True)
    states = random((2, 6))
    np.testing.assert_allclose(
        array(ours(states, reverse=True)),
        array(stock(states, reverse=True)) + array(ours.bias),
        atol=1e-5,
    )


def test_a_single_block_has_the_variables_of_the_stock_layer():
    for arguments in ({}, {"tie_weights": False}):
        ours = TieredEmbedding(10, 6, density=1, blocks=1, name="e", **arguments)
        stock = layers.ReversibleEmbedding(10, 6, name="e", **arguments)
        for layer in (ours, stock):
            layer.build()
        assert [(v.path, v.shape) for v in ours.weights] == [
            (v.path, v.shape) for v in stock.weights
        ]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="GradientTape")
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_of_logits_are_those_of_a_dense_table(tied):
    import tensorflow as tf

    ours, stock = reversible(tiers=TIERS, tie_weights=tied)
    states, ids = tf.constant(random((4, 6))), tf.constant([0, 3, 3, 9])
    found = []
    for layer in (ours, stock):
        with tf.GradientTape() as tape:
            logits = layer(layer(ids) + states, reverse=True)
            loss = tf.reduce_sum(tf.nn.log_softmax(logits)[:, 2])
        gradients = tape.gradient(loss, [v.value for v in layer.weights])
        found.append([tf.convert_to_tensor(one).numpy() for one in gradients])
    theirs = found[1][0]
    begin = 0
    for gradient, (rows, width) in zip(found[0], ours.blocks, strict=False):
        np.testing.assert_allclose(
            gradient, theirs[:rows, begin : begin + width], atol=1e-5
        )
        begin += width


def test_masks_pass_in_both_directions():
    start = keras.Input((4,), dtype="int32")
    layer = TieredEmbedding(10, 6, tiers=TIERS, mask_zero=True)
    hidden = layers.LSTM(6, return_sequences=True)(layer(start))
    model = keras.Model(start, layer(hidden, reverse=True))
    ids = np.array([[3, 1, 0, 0]])
    mask = keras.src.backend.get_keras_mask(model(ops.convert_to_tensor(ids)))
    assert array(mask).tolist() == [[1, 1, 0, 0]]


def test_states_of_another_width_are_refused():
    layer = TieredEmbedding(10, 6, tiers=TIERS, name="words")
    with pytest.raises(ValueError, match=r"'words' turns states of 6 features.*5"):
        layer(keras.Input((3, 5)), reverse=True)
    with pytest.raises(ValueError, match=r"'words' turns states of 6 features.*5"):
        layer(np.zeros((2, 3, 5), "float32"), reverse=True)


def test_quantize_and_lora_are_refused():
    layer = TieredEmbedding(10, 6, tiers=TIERS)
    layer.build()
    for call in (lambda: layer.quantize("int8"), lambda: layer.enable_lora(2)):
        with pytest.raises(NotImplementedError, match="export_tflite"):
            call()
    for dtype in ("int8_from_float32", keras.dtype_policies.get("float8_from_float32")):
        with pytest.raises(ValueError, match=r"no LoRA.*from_float32"):
            TieredEmbedding(10, 6, tiers=TIERS, dtype=dtype)


def test_an_input_length_is_taken_as_by_the_stock_layer():
    for kind, arguments in ((layers.Embedding, {}), (TieredEmbedding, {"density": 1})):
        with pytest.warns(UserWarning, match="`input_length` is deprecated"):
            layer = kind(10, 6, input_length=3, **arguments)
        assert "input_length" not in layer.get_config()
        assert layer(keras.Input((4,), dtype="int32")).shape == (None, 4, 6)
        kind(10, 6, input_length=None, **arguments)


# Beginnings.


@pytest.mark.parametrize(
    "initializer", ["glorot_uniform", "he_normal", "lecun_uniform", "orthogonal"]
)
def test_vectors_start_as_large_as_in_a_dense_table(initializer):
    ours = TieredEmbedding(
        4000, 64, density=0.3, embeddings_initializer=initializer, tie_weights=False
    )
    ours.build()
    stock = layers.ReversibleEmbedding(
        4000, 64, embeddings_initializer=initializer, tie_weights=False
    )
    stock.build()
    for tables, table in (
        (ours.tables, stock.embeddings),
        (ours.reverse_tables, stock.reverse_embeddings),
    ):
        for own in tables:
            assert array(own).std() == pytest.approx(array(table).std(), rel=0.1)


def test_weights_are_a_table_to_start_with():
    table = table_of(pair(tiers=TIERS)[0])
    for weights in (table, [table]):
        layer = TieredEmbedding(10, 6, tiers=TIERS, weights=weights)
        np.testing.assert_array_equal(array(layer(np.arange(10))), table)
    wrong = table.copy()
    wrong[9, 3] = 1
    with pytest.raises(ValueError, match=r"1 of 6 weights of id 9.*1 that.*\[9, 3\]"):
        TieredEmbedding(10, 6, tiers=TIERS, weights=wrong)
    with pytest.raises(ValueError, match="a list of 2"):
        TieredEmbedding(10, 6, tiers=TIERS, tie_weights=False, weights=[table, table.T])
    with pytest.raises(ValueError, match=r"table of shape \(10, 6\).*\(6, 10\)"):
        TieredEmbedding(10, 6, tiers=TIERS, weights=table.T)
    for nothing in ([], ()):
        with pytest.raises(ValueError, match=r"table of shape \(10, 6\).*\(0,\)"):
            TieredEmbedding(10, 6, tiers=TIERS, weights=nothing)


def test_weights_of_a_stock_model_are_given_by_value():
    def model(layer):
        start = keras.Input((3,), dtype="int32")
        return keras.Model(start, layers.Dense(2)(layer(start)))

    stock = model(layers.Embedding(10, 6))
    ours = model(TieredEmbedding(10, 6, density=1, blocks=1))
    ours.set_weights(stock.get_weights())
    ids = np.array([[0, 4, 9]])
    np.testing.assert_array_equal(array(ours(ids)), array(stock(ids)))


def test_from_counts_keeps_a_budget_and_what_is_reserved():
    counts = [0, 3, *(1000 // rank for rank in range(1, 99))]
    layer = TieredEmbedding.from_counts(
        counts, 32, max_parameters=800, reserved=2, mask_zero=True
    )
    layer.build()
    assert 700 < layer.count_params() <= 800
    lengths = np.repeat(*zip(*((w, n) for n, w in layer.tiers), strict=True))
    assert lengths[0] == lengths[1] == lengths.max()
    assert layer.mask_zero
    again = TieredEmbedding.from_config(layer.get_config())
    assert again.tiers == layer.tiers


def test_from_a_vocabulary():
    words = ["a rose is a rose is a rose"]
    lookups = [
        layers.TextVectorization(),
        layers.StringLookup(),
        layers.IntegerLookup(),
    ]
    for lookup, data in zip(lookups, [words, words[0].split(), [5, 5, 7]], strict=True):
        with pytest.raises(ValueError, match="no vocabulary yet"):
            TieredEmbedding.from_vocabulary(lookup, 8, density=0.5)
        lookup.adapt(data)
        layer = TieredEmbedding.from_vocabulary(lookup, 8, density=0.5)
        assert layer.input_dim == lookup.vocabulary_size()
    given = layers.StringLookup(vocabulary=["rose", "a"], name="given")
    with pytest.raises(ValueError, match=r"'given' was handed to it.*check_order"):
        TieredEmbedding.from_vocabulary(given, 8, density=0.5)
    one = layers.StringLookup(num_oov_indices=0)
    one.adapt(["rose"])
    assert TieredEmbedding.from_vocabulary(one, 8, density=0.5).input_dim == 1
    counting = layers.TextVectorization(output_mode="count")
    counting.adapt(words)
    with pytest.raises(ValueError, match="makes 'count' vectors"):
        TieredEmbedding.from_vocabulary(counting, 8, density=0.5)
    with pytest.raises(ValueError, match="makes words"):
        TieredEmbedding.from_vocabulary(
            layers.StringLookup(invert=True, vocabulary=["a"]), 8, density=0.5
        )
    with pytest.raises(ValueError, match="must be a TextVectorization"):
        TieredEmbedding.from_vocabulary(["rose"], 8, density=0.5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_graph_negative_ids_count_from_the_end(jit_compile):
    import tensorflow as tf

    layer = TieredEmbedding(20, 8, density=0.5)
    stock = to_dense(layer_built(layer))
    ids = tf.constant([-1, -15, -20, 3])
    call = tf.function(lambda one, x: one(x), jit_compile=jit_compile)
    np.testing.assert_allclose(call(layer, ids), call(stock, ids))


def layer_built(layer):
    layer.build()
    return layer


def test_one_tier_has_the_attributes_of_the_stock_layer():
    layer = layer_built(TieredEmbedding(5, 4, 1, 1, tie_weights=False))
    assert layer.embeddings is layer.weights[0]
    assert layer.reverse_embeddings is layer.weights[1]
    # PyTorch's modules have a message of their own.
    torch = keras.backend.backend() == "torch"
    match = "'embeddings'" if torch else "2 variables for 'embeddings'"
    with pytest.raises(AttributeError, match=match):
        _ = layer_built(TieredEmbedding(5, 4, tiers=[(1, 4), (4, 2)])).embeddings


def test_a_projection_is_as_long_as_the_longest_vectors():
    layer = TieredEmbedding(9, 6, tiers=[(4, 4), (5, 2)], projection=True)
    layer_built(layer)
    assert layer.projection_kernel.shape == (4, 6)
    dense, ids = to_dense(layer), np.arange(9)
    np.testing.assert_allclose(array(layer(ids)), array(dense(ids)), atol=1e-6)
    states = np.random.default_rng(0).standard_normal((3, 6)).astype("float32")
    ours, theirs = layer(states, reverse=True), dense(states, reverse=True)
    np.testing.assert_allclose(array(ours), array(theirs), atol=1e-6)


# Dropout.


def test_whole_words_are_dropped_the_same_wherever_they_occur():
    layer = TieredEmbedding(1000, 8, density=0.5, word_dropout=0.4, seed=1)
    layer.build()
    for table in layer.tables:
        table.assign(np.ones(table.shape))
    ids = np.concatenate([np.arange(1000)] * 2).reshape(2, 1000)
    made = array(layer(ids, training=True))
    np.testing.assert_array_equal(made[0], made[1])
    plain = array(layer(ids))
    kept = made[0, :, 0] != 0
    assert 0.5 < kept.mean() < 0.7
    np.testing.assert_allclose(made[0][kept], plain[0][kept] / 0.6, rtol=1e-6)
    assert not made[0][~kept].any()
    assert (array(layer(ids, training=True))[0, :, 0] != 0).tolist() != kept.tolist()
    states = np.ones((2, 8), "float32")
    np.testing.assert_array_equal(
        array(layer(states, reverse=True, training=True)),
        array(layer(states, reverse=True)),
    )


@pytest.mark.parametrize("shape", [(5,), (4, 7), (2, 3, 4)])
def test_features_are_dropped_for_a_whole_sequence(shape):
    layer = TieredEmbedding(10, 50, density=1, dropout=0.3, seed=2)
    layer.build()
    layer.tables[0].assign(np.ones((10, 50)))
    made = array(layer(np.zeros(shape, "int32"), training=True))
    kept = made != 0
    assert 0.5 < kept.mean() < 0.9
    np.testing.assert_allclose(made[kept], 1 / 0.7, rtol=1e-6)
    steps = kept.reshape(shape[0], -1, 50)
    assert (steps == steps[:, :1]).all()
    assert not (steps == steps[:1]).all()
