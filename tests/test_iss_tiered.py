"""Features of a tiered table that live and die with hidden units."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_sparse_rnn import ISSPruning, TieredEmbedding, report, shrink
from keras_sparse_rnn.iss.trace import trace

WORDS, WIDTH, TIME = 10, 6, 4
TIERS = [(3, WIDTH), (2, 5), (5, 2)]
IDS = np.random.default_rng(0).integers(0, WORDS, (16, TIME))
EAGERLY = {"run_eagerly": keras.backend.backend() != "jax", "jit_compile": False}


def array(value):
    return ops.convert_to_numpy(value)


def tied(**arguments):
    start = keras.Input((TIME,), dtype="int32")
    words = TieredEmbedding(WORDS, WIDTH, tiers=TIERS, name="words", **arguments)
    hidden = layers.LSTM(WIDTH, return_sequences=True, name="lstm")(words(start))
    return keras.Model(start, words(hidden, reverse=True))


def kill(model, units):
    """Sets some components to zero wherever they lie, in fresh random weights."""
    random = np.random.default_rng(1)
    for variable in model.weights:
        variable.assign(random.normal(0, 0.5, variable.shape))
    plan = trace(model)
    (family,) = plan.families
    living = ~np.isin(np.arange(family.units), units)
    for part in family.parts:
        if part.role != "along":
            variable = plan.variables[part.variable]
            keep = part.along_axis(np.append(living, True)[part.owner])
            variable.assign(np.where(keep, array(variable), 0))


def test_a_component_is_a_column_of_its_block_and_all_of_the_unit():
    (family,) = trace(tied()).families
    lstm = 2 * (24 + 24 - 4)
    rows = [10, 10, 5, 5, 5, 3]
    assert list(family.sizes()) == [lstm + n for n in rows]


def test_untied_tables_go_with_the_units_too():
    (family,) = trace(tied(tie_weights=False, reverse_bias=True)).families
    lstm = 2 * (24 + 24 - 4)
    rows = [10, 10, 5, 5, 5, 3]
    assert list(family.sizes()) == [lstm + 2 * n for n in rows]


@pytest.mark.parametrize(
    ("dead", "tiers"),
    [
        ([0, 3], [(3, 4), (2, 3), (5, 1)]),
        ([5], [(5, 5), (5, 2)]),
        ([2, 3, 4], [(3, 3), (7, 2)]),
        ([1, 2, 3, 4, 5], [(10, 1)]),
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [False, True])
def test_tiers_become_uneven_and_what_is_empty_goes(dead, tiers, bias):
    model = tied(reverse_bias=bias)
    model.compile("adam", "sparse_categorical_crossentropy", **EAGERLY)
    model.fit(IDS, IDS, verbose=0)
    kill(model, dead)
    small = shrink(model)
    words = small.get_layer("words")
    assert words.tiers == tiers
    assert words.output_dim == WIDTH - len(dead) == small.get_layer("lstm").units
    np.testing.assert_allclose(array(small(IDS)), array(model(IDS)), atol=1e-5)
    small.fit(IDS, IDS, verbose=0)
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations) + 1


def test_untied_tiers_stay_as_many():
    model = tied(tie_weights=False)
    kill(model, [0, 5])
    small = shrink(model)
    # The only feature that no other words have.
    assert small.get_layer("words").tiers == [(3, 5), (2, 4), (5, 1)]
    np.testing.assert_allclose(array(small(IDS)), array(model(IDS)), atol=1e-5)


def test_the_rarest_words_keep_a_feature():
    model = tied()
    for variable in model.weights:
        variable.assign(np.random.default_rng(2).normal(0, 1, variable.shape))
    # What all words have is the weakest.
    table = model.get_layer("words").tables[0]
    table.assign(1e-3 * array(table))
    model.compile("sgd", "sparse_categorical_crossentropy", **EAGERLY)
    pruning = ISSPruning(keep=0.35, begin=0.1, end=0.5, updates=2, layer_floor=0)
    model.fit(IDS, IDS, 4, epochs=2, verbose=0, callbacks=[pruning])
    assert pruning.pruned_model.get_layer("lstm").units == 2
    assert pruning.pruned_model.get_layer("words").tiers[-1][1] >= 1


def test_features_that_no_word_has_stay():
    start = keras.Input((TIME,), dtype="int32")
    words = TieredEmbedding(WORDS, 8, tiers=TIERS, name="words")
    hidden = layers.LSTM(8, return_sequences=True, name="lstm")(words(start))
    model = keras.Model(start, layers.Add()([hidden, words(start)]))
    model = keras.Model(start, words(model.output, reverse=True))
    kill(model, [0])
    small = shrink(model)
    assert small.get_layer("words").output_dim == 7
    np.testing.assert_allclose(array(small(IDS)), array(model(IDS)), atol=1e-5)


@pytest.mark.parametrize("tie_weights", [True, False])
def test_states_that_no_word_reads_stay(tie_weights):
    start = keras.Input((TIME,), dtype="int32")
    words = TieredEmbedding(
        WORDS, 8, tiers=[(4, 6), (6, 2)], tie_weights=tie_weights, name="words"
    )
    hidden = layers.LSTM(8, return_sequences=True, name="lstm")(words(start))
    model = keras.Model(start, words(hidden, reverse=True))
    kill(model, [0, 7])
    small = shrink(model)
    assert small.get_layer("words").output_dim == 7
    assert small.get_layer("lstm").units == 7
    np.testing.assert_allclose(array(small(IDS)), array(model(IDS)), atol=1e-5)


def test_projected_tables_are_left_alone():
    model = tied(projection=True)
    found = trace(model)
    assert not found.prunable
    assert "projects them" in str(found.left_alone)


def test_multiply_adds_of_logits_are_those_that_are_stored():
    cost = report(tied()).before
    stored = 3 * 6 + 2 * 5 + 5 * 2
    assert cost.multiply_adds == 2 * 24 * WIDTH + stored
    projected = report(tied(projection=True)).before
    # Once for the words, once for the logits.
    assert projected.multiply_adds == cost.multiply_adds + 2 * WIDTH * WIDTH
