"""Models as users write them: own `call`s and training steps, preprocessing."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_sparse_rnn import ISSPruning, fit_shrinking, shrink
from keras_sparse_rnn.iss.trace import trace

WORDS, TIME, FEATURES = 10, 5, 3
TENSORFLOW = keras.backend.backend() == "tensorflow"
rng = np.random.default_rng(0)
IDS = rng.integers(0, WORDS, (16, TIME))
X = rng.standard_normal((16, TIME, FEATURES)).astype("float32")
Y = X[:, 0, :1]
# Compiling takes longer than all the steps; JAX can't do without.
EAGERLY = {"run_eagerly": keras.backend.backend() != "jax", "jit_compile": False}


def array(value):
    return ops.convert_to_numpy(value)


def agree(ours, theirs, x):
    np.testing.assert_allclose(array(ours(x)), array(theirs(x)), atol=1e-5)


def masked(model, share=0.5):
    """The model, with some components set to zero wherever they lie."""
    plan = trace(model)
    for family in plan.families:
        living = np.random.default_rng(1).random(family.units) > share
        living[:2] = True, False
        living |= family.fixed
        for part in family.parts:
            if part.role != "along":
                variable = plan.variables[part.variable]
                keep = part.along_axis(np.append(living, True)[part.owner])
                variable.assign(np.where(keep, array(variable), 0))
    return model


class TiedByHand(keras.Model):
    """An output that is tied to the table by plain code."""

    def __init__(self, product):
        super().__init__()
        self.product = product
        self.table = layers.Embedding(WORDS, 6)
        self.layer = layers.LSTM(6, return_sequences=True)
        self.drop = layers.Dropout(0.1)

    def call(self, x, training=None):
        h = self.drop(self.layer(self.table(x)), training=training)
        return self.product(h, self.table.embeddings)


@pytest.mark.parametrize(
    "product",
    [
        lambda h, table: ops.matmul(h, ops.transpose(table)),
        lambda h, table: ops.einsum("bth,vh->btv", h, table),
    ],
    ids=["matmul", "einsum"],
)
def test_a_product_with_the_transposed_table_goes_with_it(product):
    model = TiedByHand(product)
    model(IDS)
    # A column of the table, and a row and four columns of both kernels.
    (family,) = trace(model).families
    assert list(family.sizes()) == [WORDS + 2 * (24 + 24 - 4)] * 6
    small = shrink(masked(model))
    agree(small, model, IDS)
    # The table is one variable still, which learns from both its uses.
    tables = [v for v in small.trainable_variables if v.shape[0] == WORDS]
    assert len(tables) == 1
    table = tables[0]
    before = array(small(IDS))
    table.assign(2 * array(table))
    np.testing.assert_raises(
        AssertionError, np.testing.assert_allclose, array(small(IDS)), before, 0.1
    )
    # As many ids as one likes.
    assert small(IDS[:3, :2]).shape == (3, 2, WORDS)
    assert small.inputs[0].dtype == "int32"


def test_weights_that_a_graph_would_hold_for_good_are_refused():
    model = TiedByHand(lambda h, table: h * ops.mean(table))
    model(IDS)
    with pytest.raises(ValueError, match=r"made of no input.*ReversibleEmbedding"):
        trace(model)


class Encoder(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.table = layers.Embedding(WORDS, 4, mask_zero=True)
        self.layer = layers.LSTM(
            6, return_sequences=True, return_state=True, name="first"
        )

    def call(self, x, training=None):
        sequence, *states = self.layer(self.table(x))
        return sequence, states


class Decoder(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.table = layers.Embedding(WORDS, 4)
        self.layer = layers.LSTM(6, return_sequences=True, name="second")
        self.head = layers.Dense(WORDS)

    def call(self, x, memory, states=None, training=None):
        sequence = self.layer(self.table(x), initial_state=states)
        return self.head(sequence + ops.mean(memory, axis=1, keepdims=True))


class Translator(keras.Model):
    """Models within a model, all of them code; a dictionary of inputs."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(name="there"), Decoder(name="back")

    def call(self, x, training=None):
        memory, states = self.encoder(x["from"], training=training)
        return self.decoder(x["to"], memory, states=states, training=training)


def test_models_of_code_within_a_model_of_code_are_followed():
    model = Translator()
    x = {"from": IDS, "to": IDS[:, :3]}
    model(x)
    plan = trace(model)
    assert plan.left_alone == {}
    # The states that are handed over, and the sum, tie the two.
    (family,) = plan.families
    assert [layer.name for layer in family.layers] == ["there/first", "back/second"]
    assert family.units == 6
    small = shrink(masked(model))
    assert small.count_params() < model.count_params()
    agree(small, model, x)


class Plain(keras.Model):
    """A model of code that does nothing much."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def call(self, inputs):
        return self.dense(inputs)


# Keras says that a nested model does not hand the mask on.
@pytest.mark.filterwarnings("ignore:.*destroy the mask")
def test_a_mask_reaches_a_nested_model_beside_one_of_code():
    x = keras.Input((4, 3))
    y = layers.LSTM(5, return_sequences=True, name="read")(layers.Masking()(x))
    inner = keras.Sequential(
        [keras.Input((4, 5)), layers.LSTM(4, return_sequences=True, name="inner")]
    )
    model = keras.Model(x, layers.LSTM(3, name="last")(Plain()(inner(y))))
    read, inner, last = trace(model).families
    assert [len(read.layers), len(inner.layers), last.fixed.all()] == [1, 1, True]
    assert inner.layers[0].name.endswith("/inner")


class Block(layers.Layer):
    """A layer of code, which has no rule."""

    def __init__(self):
        super().__init__(name="block")
        self.parts = [layers.LSTM(4, return_sequences=True, name="hidden")]

    def call(self, x):
        return self.parts[0](x)


def test_recurrent_layers_within_a_layer_without_a_rule_are_told():
    start = keras.Input((TIME, FEATURES))
    h = layers.LSTM(4, name="seen")(Block()(start))
    model = keras.Model(start, layers.Dense(1)(h))
    plan = trace(model)
    assert [family.name for family in plan.families] == ["seen"]
    assert list(plan.left_alone) == ["block/hidden"]
    assert "inside 'block' (a Block)" in plan.left_alone["block/hidden"]
    alone = keras.Model(start, layers.Dense(1)(Block()(start)))
    with pytest.raises(ValueError, match=r"no units that may be pruned.*block/hidden"):
        ISSPruning(0.5).traced(alone)


# Activations.


@keras.saving.register_keras_serializable("test_iss_models")
def steep(x):
    return ops.tanh(3 * x)


@keras.saving.register_keras_serializable("test_iss_models")
def uneven(x):
    return x * np.arange(6, dtype="float32")


@keras.saving.register_keras_serializable("test_iss_models")
def centred(x):
    return x - ops.mean(x, axis=-1, keepdims=True)


def of(activation):
    start = keras.Input((TIME, FEATURES))
    h = layers.LSTM(6, activation=activation)(start)
    return keras.Model(start, layers.Dense(1)(h))


def test_an_activation_of_ones_own_is_followed():
    model = of(steep)
    small = shrink(masked(model))
    assert small.count_params() < model.count_params()
    agree(small, model, X)


@pytest.mark.parametrize("activation", [uneven, centred])
def test_an_activation_that_mixes_units_or_tells_them_apart_keeps_them(activation):
    assert trace(of(activation)).prunable == []


# Preprocessing.


def test_what_preprocessing_has_learned_stays():
    scaled = layers.Normalization()
    scaled.adapt(3 * X + 5)
    model = keras.Sequential(
        [keras.Input((TIME, FEATURES)), scaled, layers.LSTM(6), layers.Dense(1)]
    )
    agree(shrink(masked(model)), model, X)


@pytest.mark.skipif(not TENSORFLOW, reason="strings")
def test_a_vocabulary_stays(tmp_path):
    import tensorflow as tf

    text = layers.TextVectorization(output_sequence_length=TIME)
    text.adapt(["small fast networks", "all the way to the phone"])
    model = keras.Sequential(
        [
            keras.Input((), dtype="string"),
            text,
            layers.Embedding(12, 4),
            layers.LSTM(6),
            layers.Dense(1),
        ]
    )
    x = tf.constant(["fast all the way", "small phone"])
    small = shrink(masked(model))
    agree(small, model, x)
    small.save(tmp_path / "small.keras")
    agree(keras.models.load_model(tmp_path / "small.keras"), model, x)


def test_inputs_keep_their_names():
    start = keras.Input((TIME, FEATURES))
    model = keras.Model(start, layers.Dense(1)(layers.LSTM(4)(start)))
    assert shrink(model).layers[0].name == model.layers[0].name


# Training in ways of one's own.


class Shifted:
    """A loss a thousand higher than the compiled one."""

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return 1000.0 + loss


class ShiftedSequential(Shifted, keras.Sequential):
    pass


class ShiftedFunctional(Shifted, keras.Model):
    pass


class ShiftedCode(Shifted, keras.Model):
    def __init__(self):
        super().__init__()
        self.layer, self.head = layers.LSTM(4), layers.Dense(1)

    def call(self, x):
        return self.head(self.layer(x))


def shifted(kind):
    if kind is ShiftedSequential:
        stack = [keras.Input((TIME, FEATURES)), layers.LSTM(4), layers.Dense(1)]
        return kind(stack)
    if kind is ShiftedFunctional:
        start = keras.Input((TIME, FEATURES))
        return kind(start, layers.Dense(1)(layers.LSTM(4)(start)))
    model = kind()
    model(X)
    return model


GIVEN = {"epochs": 4, "batch_size": 8, "verbose": 0}


@pytest.mark.parametrize("kind", [ShiftedSequential, ShiftedFunctional])
def test_a_training_step_of_ones_own_goes_on(kind):
    model = shifted(kind)
    model.compile("sgd", "mse", **EAGERLY)
    small, history = fit_shrinking(
        model, X, Y, pruning=ISSPruning(0.5), at=[2], **GIVEN
    )
    assert type(small) is kind
    assert min(history.history["loss"]) > 1000


def test_a_training_step_that_the_smaller_model_would_lack_is_told():
    model = shifted(ShiftedCode)
    model.compile("sgd", "mse", **EAGERLY)
    with pytest.raises(ValueError, match=r"ShiftedCode.*compute_loss"):
        fit_shrinking(model, X, Y, pruning=ISSPruning(0.5), at=[2], **GIVEN)
    pruning = ISSPruning(0.5)
    with pytest.warns(UserWarning, match=r"ShiftedCode.*compute_loss"):
        model.fit(X, Y, callbacks=[pruning], **GIVEN)
    with pytest.warns(UserWarning, match=r"ShiftedCode.*compute_loss"):
        agree(shrink(model), pruning.pruned_model, X)


def test_averaged_weights_take_no_part_before_the_end():
    def model():
        keras.utils.set_random_seed(3)
        made = keras.Sequential(
            [keras.Input((TIME, FEATURES)), layers.SimpleRNN(8), layers.Dense(1)]
        )
        optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
        made.compile(optimizer, "mse", **EAGERLY)
        return made

    given = {**GIVEN, "shuffle": False}
    pruning = ISSPruning(0.5)
    expected = model().fit(X, Y, callbacks=[pruning], **given)
    small, history = fit_shrinking(
        model(), X, Y, pruning=ISSPruning(0.5), at=[2, 3], **given
    )
    np.testing.assert_allclose(
        history.history["loss"], expected.history["loss"], rtol=1e-5
    )
    agree(small, pruning.pruned_model, X)


# Wrong ways.


def chain():
    model = keras.Sequential(
        [keras.Input((TIME, FEATURES)), layers.SimpleRNN(8), layers.Dense(1)]
    )
    model.compile("sgd", "mse", **EAGERLY)
    return model


def test_two_callbacks_in_one_fit_are_an_error():
    model, one = chain(), ISSPruning(0.5)
    with pytest.raises(ValueError, match="two ISSPruning callbacks in one `fit`"):
        model.fit(X, Y, callbacks=[one, ISSPruning(0.25)], **GIVEN)
    # One after the other is none.
    model = chain()
    model.fit(X, Y, callbacks=[one], **GIVEN)
    model.fit(X, Y, callbacks=[ISSPruning(0.25)], **GIVEN)


def test_one_that_could_not_begin_is_not_at_work():
    failed = ISSPruning(max_bytes=1)
    with pytest.raises(ValueError, match="can't reach"):
        fit_shrinking(chain(), X, Y, pruning=failed, at=[1], **GIVEN)
    fit_shrinking(chain(), X, Y, pruning=ISSPruning(0.5), at=[1], **GIVEN)


class Interrupted(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


def test_masks_of_an_interrupted_fit_do_not_act_in_the_next():
    model = chain()
    weights = model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, callbacks=[ISSPruning(0.3, end=0.5), Interrupted()], **GIVEN)
    model.set_weights(weights)
    pruning = ISSPruning(0.75)
    history = model.fit(X, Y, callbacks=[pruning], **GIVEN).history
    assert pruning.report.units_after == history["units_left"][-1]


def test_a_history_of_ones_own_has_each_epoch_once():
    own = keras.callbacks.History()
    pruning = ISSPruning(0.5)
    _, history = fit_shrinking(
        chain(), X, Y, pruning=pruning, at=[1, 2], callbacks=[own], **GIVEN
    )
    assert history.epoch == list(range(GIVEN["epochs"]))
    assert len(history.history["loss"]) == GIVEN["epochs"]


def test_units_that_come_back_after_the_last_update_are_told():
    model, pruning = chain(), ISSPruning(0.5, updates=1)

    class Meddler(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            layer = self.model.layers[0]
            layer.set_weights([np.ones_like(w) for w in layer.get_weights()])

    with pytest.raises(RuntimeError, match="removed units have come back"):
        model.fit(X, Y, callbacks=[pruning, Meddler()], **GIVEN)


def test_a_limit_that_holds_already_is_told():
    with pytest.warns(UserWarning, match="removes nothing.*within its target"):
        chain().fit(X, Y, callbacks=[ISSPruning(max_bytes=10**9)], **GIVEN)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"ignore": None}, "`ignore` must be names of layers.*None"),
        ({"ignore": [1]}, r"`ignore` must be names of layers.*\[1\]"),
        ({"begin": "a"}, "`begin` and `end`.*'a'"),
        ({"layer_floor": "x"}, "`layer_floor`.*'x'"),
    ],
    ids=str,
)
def test_arguments_of_wrong_types_are_told(arguments, told):
    with pytest.raises(ValueError, match=told):
        ISSPruning(0.5, **arguments)


def test_a_single_epoch_is_a_list_of_one():
    with pytest.raises(ValueError, match=r"`at` must be a list.*at=3"):
        fit_shrinking(chain(), X, Y, pruning=ISSPruning(0.5), at=3, **GIVEN)
