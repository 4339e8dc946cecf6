"""Trained embeddings as tiered ones, against principal components and brute force."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_sparse_rnn import TieredEmbedding, compress_embedding, to_dense
from keras_sparse_rnn.layers import compress, tiers

SIZE, WIDTH = 60, 8
COUNTS = [1000 // rank for rank in range(1, SIZE + 1)]


def array(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def trained(kind=layers.Embedding, **arguments):
    """A table whose directions do not lie along its axes."""
    layer = kind(SIZE, WIDTH, name="words", **arguments)
    layer.build()
    scale = 0.6 ** np.arange(WIDTH)
    turn, _ = np.linalg.qr(random((WIDTH, WIDTH), 1))
    layer.set_weights([(random((SIZE, WIDTH)) * scale) @ turn])
    return layer


def error(layer, embedding):
    gap = array(layer(np.arange(SIZE))) - array(embedding.embeddings)
    return float((np.square(gap).sum(1) * COUNTS).sum())


def test_one_tier_is_a_principal_component_analysis():
    embedding = trained()
    small = compress_embedding(embedding, COUNTS, tiers=[(SIZE, 3)])
    values = array(embedding.embeddings) * np.sqrt(COUNTS)[:, None]
    singular = np.linalg.svd(values, compute_uv=False)
    assert error(small, embedding) == pytest.approx((singular[3:] ** 2).sum(), rel=1e-3)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_no_turn_that_was_tried_is_better(seed):
    rng = np.random.default_rng(seed)
    table, weights = rng.standard_normal((12, 4)), rng.random(12)
    lengths = [(3, 4), (4, 2), (5, 1)]
    limits = np.repeat([w for _, w in lengths], [n for n, _ in lengths])
    short = np.arange(4) >= limits[:, None]

    def lost(turn):
        return (np.square((table @ turn.T) * short).sum(1) * weights).sum()

    found = compress.best_turn(table, lengths, weights)
    np.testing.assert_allclose(found @ found.T, np.eye(4), atol=1e-9)
    # Neither any near it, nor the principal components.
    for _ in range(20):
        near, _ = np.linalg.qr(found.T + 0.03 * rng.standard_normal((4, 4)))
        near *= np.sign(np.diag(near.T @ found.T))
        assert lost(near.T) >= lost(found) - 1e-6 * np.square(table).sum()
    _, vectors = np.linalg.eigh((table * weights[:, None]).T @ table)
    assert lost(found) <= lost(vectors.T[::-1]) + 1e-9


def test_of_several_hills_a_high_one_is_found():
    # The rare words have their strength where the frequent ones have none.
    rng = np.random.default_rng(0)
    scale = 0.7 ** np.arange(12)
    table = rng.standard_normal((400, 12)) * scale
    table[100:] = rng.standard_normal((300, 12)) * scale[::-1]
    lengths, weights = [(20, 8), (80, 4), (300, 2)], np.ones(400)
    limits = np.repeat([w for _, w in lengths], [n for n, _ in lengths])
    short = np.arange(12) >= limits[:, None]

    def lost(turn):
        return np.square((table @ turn.T) * short).sum()

    found = lost(compress.best_turn(table, lengths, weights))
    values = table.astype("float64")
    sums = [values[:n].T @ values[:n] for n in (20, 100, 400)]
    for _ in range(30):
        # The same ascent, in other words, from anywhere.
        turn, _ = np.linalg.qr(rng.standard_normal((12, 12)))
        for _ in range(500):
            forms = [sums[2]] * 2 + [sums[1]] * 2 + [sums[0]] * 4 + [0 * sums[0]] * 4
            pulled = np.stack([f @ row for f, row in zip(forms, turn, strict=True)])
            left, _, right = np.linalg.svd(pulled)
            turn = left @ right
        assert found <= 1.005 * lost(turn)


def test_tiers_and_blocks_are_too_much():
    with pytest.raises(ValueError, match="blocks=3"):
        compress_embedding(trained(), COUNTS, tiers=[(SIZE, 3)], blocks=3)


def least_of_one_tier(embedding, budget):
    """The least error of vectors that are all alike, by principal components."""
    values = array(embedding.embeddings) * np.sqrt(COUNTS)[:, None]
    singular = np.linalg.svd(values, compute_uv=False)
    return float((singular[budget // (SIZE + WIDTH) :] ** 2).sum())


def test_a_table_of_few_directions_is_kept_whole():
    embedding = trained()
    table = array(embedding.embeddings)
    left, singular, right = np.linalg.svd(table, full_matrices=False)
    embedding.set_weights([(left[:, :2] * singular[:2]) @ right[:2]])
    # Two features of each word, and a projection of two.
    budget = 2 * (SIZE + WIDTH)
    small = compress_embedding(embedding, COUNTS, max_parameters=budget)
    assert small.count_params() <= budget
    assert error(small, embedding) < 1e-5 * np.square(table).sum()


@pytest.mark.parametrize("budget", [68, 100, 150, 300, 450, 1000])
def test_no_budget_has_more_error_than_vectors_that_are_alike(budget):
    embedding = trained()
    small = compress_embedding(embedding, COUNTS, max_parameters=budget)
    assert small.count_params() <= budget
    least = least_of_one_tier(embedding, budget)
    assert error(small, embedding) <= least * (1 + 1e-4) + 1e-6
    # As many lengths as are asked for, by the counts.
    small = compress_embedding(embedding, COUNTS, max_parameters=budget, blocks=3)
    assert small.count_params() <= budget
    assert len(small.tiers) <= 3


def test_a_share_of_the_weights_is_kept_and_most_of_the_table():
    embedding = trained(mask_zero=True)
    small = compress_embedding(embedding, COUNTS, density=0.6, reserved=1)
    assert small.count_params() <= 0.6 * SIZE * WIDTH
    assert small.count_params() > 0.5 * SIZE * WIDTH
    assert (small.name, small.mask_zero) == ("words", True)
    total = float((np.square(array(embedding.embeddings)).sum(1) * COUNTS).sum())
    assert error(small, embedding) < 0.1 * total
    # Without turning, as much is cut off as any features are worth.
    plain = np.zeros((SIZE, WIDTH))
    limits = np.repeat(*zip(*((w, n) for n, w in small.tiers), strict=True))
    plain = array(embedding.embeddings) * (np.arange(WIDTH) >= limits[:, None])
    lost = float((np.square(plain).sum(1) * COUNTS).sum())
    assert error(small, embedding) < 0.3 * lost


def test_at_full_length_nothing_is_lost_in_either_direction():
    embedding = trained(layers.ReversibleEmbedding, logit_soft_cap=3.0)
    small = compress_embedding(embedding, COUNTS, tiers=[(SIZE, WIDTH)])
    ids, states = np.arange(SIZE), random((3, WIDTH))
    np.testing.assert_allclose(array(small(ids)), array(embedding(ids)), atol=1e-5)
    np.testing.assert_allclose(
        array(small(states, reverse=True)),
        array(embedding(states, reverse=True)),
        atol=1e-5,
    )


def test_a_compressed_layer_trains_saves_and_is_made_dense(tmp_path):
    small = compress_embedding(trained(), COUNTS, max_parameters=300)
    start = keras.Input((4,), dtype="int32")
    model = keras.Model(start, small(layers.LSTM(WIDTH)(small(start)), reverse=True))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=False)
    x = np.arange(40).reshape(10, 4) % SIZE
    before = small.count_params()
    model.fit(x, x[:, 0], verbose=0)
    assert small.count_params() == before <= 300
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(again(x)), array(model(x)), atol=1e-6)
    dense = to_dense(small)
    np.testing.assert_allclose(array(dense(x)), array(small(x)), atol=1e-6)
    states = random((3, WIDTH))
    np.testing.assert_allclose(
        array(dense(states, reverse=True)),
        array(small(states, reverse=True)),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "arguments",
    [{}, {"tie_weights": False}, {"mask_zero": True}, {"projection": True}],
    ids=str,
)
def test_the_dense_layer_of_a_tiered_one(arguments):
    ours = TieredEmbedding(10, 6, tiers=[(2, 6), (3, 4), (5, 1)], **arguments)
    ours.build()
    for number, variable in enumerate(ours.weights):
        variable.assign(random(variable.shape, number))
    dense = to_dense(ours)
    assert type(dense) is layers.ReversibleEmbedding
    ids, states = np.arange(10), random((2, 6))
    np.testing.assert_allclose(array(dense(ids)), array(ours(ids)), atol=1e-5)
    np.testing.assert_allclose(
        array(dense(states, reverse=True)), array(ours(states, reverse=True)), atol=1e-5
    )


@pytest.mark.parametrize(
    ("embedding", "arguments", "match"),
    [
        (None, {"density": 0.5}, "must be a built.*Received: None"),
        (layers.Embedding(SIZE, WIDTH), {"density": 0.5}, "must be a built"),
        (trained, {}, "Give the size in one way"),
        (trained, {"density": 0.5, "max_parameters": 9}, "Give the size in one way"),
        (trained, {"max_parameters": 67}, "to 8, are 68 weights, and only 67 are to"),
        (trained, {"density": 0.5, "blocks": 0}, "blocks=0"),
        (trained, {"density": 2.0}, "density=2.0"),
        (trained, {"tiers": [(9, 3)]}, "must sum to `input_dim`"),
        (trained, {"density": 0.5, "counts": COUNTS[1:]}, "59 counts for input_dim=60"),
        (trained, {"density": 0.5, "counts": COUNTS[::-1]}, "sorted from frequent"),
    ],
)
def test_what_can_not_be_compressed_is_told(embedding, arguments, match):
    embedding = embedding() if embedding is trained else embedding
    arguments = {"counts": COUNTS, **arguments}
    with pytest.raises(ValueError, match=match):
        compress_embedding(embedding, **arguments)


def test_tables_that_are_not_plain_are_refused():
    untied = layers.ReversibleEmbedding(SIZE, WIDTH, tie_weights=False)
    untied.build()
    lora = trained()
    lora.enable_lora(2)
    for layer, match in ((untied, "table of its own"), (lora, "LoRA")):
        with pytest.raises(ValueError, match=match):
            compress_embedding(layer, COUNTS, density=0.5)
    biased = TieredEmbedding(10, 6, density=1, reverse_bias=True)
    biased.build()
    with pytest.raises(ValueError, match="has a bias"):
        to_dense(biased)


def test_tiers_cut_a_table_into_its_blocks():
    table = random((10, 6))
    blocks = tiers.cut(table, [(2, 6), (3, 4), (5, 1)])
    assert [block.shape for block in blocks] == [(10, 1), (5, 3), (2, 2)]
    np.testing.assert_array_equal(blocks[1], table[:5, 1:4])
