"""What a model has besides weights goes on with the smaller one, as if it were it."""

import conftest
import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_sparse_rnn import ISSPruning, ISSRegularizer, fit_shrinking, shrink

TIME, FEATURES = 3, 4
rng = np.random.default_rng(0)
X = rng.standard_normal((16, TIME, FEATURES)).astype("float32")
Y = rng.standard_normal((16, 1)).astype("float32") + 3
GIVEN = {"epochs": 4, "batch_size": 8, "verbose": 0, "shuffle": False}
EAGERLY = {"run_eagerly": keras.backend.backend() != "jax"}


def graph(kind=keras.Model, **arguments):
    keras.utils.set_random_seed(1)
    start = keras.Input((TIME, FEATURES))
    hidden = layers.SimpleRNN(8, name="a", **arguments)(start)
    return kind(start, layers.Dense(1, name="head")(hidden))


def both(make):
    """Losses with masks alone and with `fit_shrinking`, and the smaller model."""
    pruning = ISSPruning(0.5, begin=0.1, end=0.4, updates=1)
    masked = make().fit(X, Y, callbacks=[pruning], **GIVEN).history["loss"]
    pruning = ISSPruning(0.5, begin=0.1, end=0.4, updates=1)
    small, history = fit_shrinking(make(), X, Y, pruning=pruning, at=[2], **GIVEN)
    return masked, history.history["loss"], small


# Optimizers.


@pytest.mark.parametrize(
    ("by", "scaled"),
    [("name", True), pytest.param("variable", False, marks=pytest.mark.long)],
)
def test_weights_that_do_not_decay_still_do_not(by, scaled):
    def make():
        model = graph()
        optimizer = keras.optimizers.AdamW(0.05, weight_decay=2.0)
        if by == "name":
            optimizer.exclude_from_weight_decay(var_names=["bias"])
        else:
            optimizer.exclude_from_weight_decay([model.get_layer("head").kernel])
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(optimizer, "mse", **EAGERLY)
        return model

    masked, shrunk, _ = both(make)
    np.testing.assert_allclose(shrunk, masked, rtol=1e-4)


def several():
    optimizers = keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(0.05, momentum=0.9), {"a/.*": keras.optimizers.Adam(0.01)}
    )
    return keras.optimizers.MultiOptimizer(optimizers)


@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="older")
def test_several_optimizers_go_on():
    def make():
        model = graph()
        model.compile(several(), "mse", **EAGERLY)
        return model

    masked, shrunk, _ = both(make)
    np.testing.assert_allclose(shrunk, masked, rtol=1e-4)


@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="older")
def test_the_proximal_form_needs_one_learning_rate():
    model = graph(recurrent_regularizer=ISSRegularizer(1e-3))
    model.compile(several(), "mse", **EAGERLY)
    with pytest.raises(ValueError, match=r"one learning rate.*form='paper'"):
        model.fit(X, Y, callbacks=[ISSPruning(0.5)], **GIVEN)


# Attributes.


class Weighted(keras.Model):
    """A loss with a factor that is set on the model."""

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return self.factor * ops.mean(ops.square(y - y_pred))


class WithDefault(Weighted):
    def compile(self, optimizer, factor=0.1, **arguments):
        super().compile(optimizer, **arguments)
        self.factor = factor


class Required(Weighted):
    def compile(self, optimizer, factor, **arguments):
        super().compile(optimizer, **arguments)
        self.factor = factor


@pytest.mark.parametrize(
    "kind", conftest.often([Weighted, WithDefault, Required], WithDefault)
)
def test_what_is_set_on_a_model_goes_with_it(kind):
    def make():
        model = graph(kind)
        if kind is Weighted:
            model.factor = 7.0
            model.compile("sgd", **EAGERLY)
        else:
            model.compile("sgd", factor=7.0, **EAGERLY)
        return model

    masked, shrunk, small = both(make)
    np.testing.assert_allclose(shrunk, masked, rtol=1e-4)
    assert type(small) is kind
    assert small.factor == 7.0


def test_metrics_layers_and_variables_that_a_model_holds_become_the_new_ones():
    model = graph()
    model.compile("sgd", "mse", **EAGERLY)
    model.count = keras.metrics.Sum(name="count")
    model.held = {"layers": [model.get_layer("a")], "bias": model.layers[-1].bias}
    small = shrink(model)
    assert small.count is not model.count
    assert small.count.get_config() == model.count.get_config()
    assert small.held["layers"][0] is small.get_layer("a")
    assert small.held["bias"] is small.layers[-1].bias


def test_attributes_that_can_not_be_carried_are_told():
    model = graph()
    model.compile("sgd", "mse", **EAGERLY)
    model.critic = keras.optimizers.Adam()
    with pytest.raises(ValueError, match="has the attribute `critic`, which the small"):
        fit_shrinking(model, X, Y, pruning=ISSPruning(0.5), at=[2], **GIVEN)
    with pytest.warns(UserWarning, match="lacks what the Functional has: the attribut"):
        assert not hasattr(shrink(model), "critic")


# Inputs.


class Either(layers.Layer):
    """The sum of what is given."""

    def call(self, one, other=None):
        return one if other is None else one + other

    def compute_output_shape(self, one_shape, other_shape=None):
        return one_shape


def test_an_optional_input_stays_one():
    one, other = keras.Input((TIME, FEATURES)), keras.Input((8,), optional=True)
    hidden = Either()(layers.Dense(8)(layers.SimpleRNN(8)(one)), other)
    model = keras.Model([one, other], layers.Dense(1)(hidden))
    model.compile("sgd", "mse", **EAGERLY)
    small = shrink(model)
    np.testing.assert_allclose(
        ops.convert_to_numpy(small([X, None])),
        ops.convert_to_numpy(model([X, None])),
        atol=1e-6,
    )


# Code that does something else in training.


class Branching(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.layer, self.head = layers.SimpleRNN(8), layers.Dense(1)
        self.drop = layers.Dropout(0.5, seed=1)

    def call(self, x, training=None):
        x = self.layer(x)
        if training:
            x = self.drop(x)
        return self.head(x)


class Scaling(Branching):
    def call(self, x, training=None):
        return self.head(self.layer(x) * (0.5 if training else 1.0))


class HandingOn(Branching):
    def call(self, x, training=False):
        return self.head(self.drop(self.layer(x), training=training))


def built(model):
    model.compile("sgd", "mse", **EAGERLY)
    model(X)
    return model


def nested(model):
    start = keras.Input((TIME, FEATURES))
    return built(keras.Model(start, model(start)))


@pytest.mark.parametrize("within", [built, nested])
@pytest.mark.parametrize("kind", [Branching, Scaling])
def test_a_second_path_for_training_is_refused(kind, within):
    model = within(kind(name="mine"))
    with pytest.raises(ValueError, match=r"'mine'.*training=True its `call` does som"):
        shrink(model)


@pytest.mark.parametrize("within", [built, nested])
def test_training_is_handed_on_as_it_was(within):
    small = shrink(within(HandingOn()))
    quiet = ops.convert_to_numpy(small(X))
    np.testing.assert_array_equal(ops.convert_to_numpy(small(X)), quiet)
    dropped = ops.convert_to_numpy(small(X, training=True))
    assert np.abs(dropped - quiet).max() > 0.01
