"""Random models through every form that a TFLite file can have."""

import conftest
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

from keras_sparse_rnn import (
    GroupedGRU,
    GroupedGRUCell,
    GroupedLSTM,
    GroupedSimpleRNN,
    RecurrentHighway,
    RecurrentHighwayCell,
    TieredEmbedding,
    UnevenBidirectional,
    WeightDropLSTM,
)

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports need the TensorFlow backend", allow_module_level=True)
pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

from keras_sparse_rnn.export import TFLiteModel, copying, export_tflite

FEATURES = 5
VOCABULARY = 11
# Which can't be had, in the words of the errors.
NOT_FUSED = "can't be fused"
NOT_STREAMED = (
    "goes backwards",
    "would begin anew at each step",
    "looks at more than one time step",
    "can't be run one time step at a time",
    "is not the whole sequence",
)


class Builder:
    """A random model of sequences.

    Attributes:
        fusible: Whether all its recurrent layers are LSTMs as the fused operation is.
        streamable: Whether every step depends on no later one.
    """

    def __init__(self, seed):
        keras.utils.set_random_seed(seed % 2**31)
        self.random = np.random.default_rng(seed)
        self.fusible = self.streamable = True
        self.stateful = bool(self.random.random() < 0.2)
        self.length = int(self.random.integers(1, 8))
        self.batch = int(self.random.integers(1, 3))
        self.masked = False
        self.least = 1
        self.table = None
        # Features of the tensor that is read.
        self.features = FEATURES

    def chance(self, share):
        return bool(self.random.random() < share)

    def choice(self, *options):
        return options[self.random.integers(len(options))]

    def width(self):
        return int(self.random.integers(self.least, 9))

    def groups(self, units, density=1.0):
        least = 1 if density == 1 else 2
        count = int(self.random.integers(least, max(least, min(units, 3)) + 1))
        if self.chance(0.5):
            return count
        cuts = self.random.choice(np.arange(1, units), count - 1, replace=False)
        return np.diff([0, *sorted(cuts), units]).tolist()

    def cell(self):
        units = self.width()
        return self.choice(
            lambda: layers.LSTMCell(units),
            lambda: layers.GRUCell(units, reset_after=self.chance(0.5)),
            lambda: layers.SimpleRNNCell(units),
            lambda: GroupedGRUCell(units, self.groups(units)),
            lambda: RecurrentHighwayCell(units, 2),
        )()

    def recurrent(self, may_turn=True, **options):
        """A recurrent layer; what it is decides what can be had of the model."""
        units = self.width()
        options = {
            "return_sequences": True,
            "zero_output_for_mask": self.chance(0.3),
            "stateful": self.stateful and self.chance(0.6),
            **options,
        }
        if may_turn and self.chance(0.15):
            options["go_backwards"] = True
            self.streamable = False
        wide = units > 1 and self.features >= 4
        density = self.choice(1.0, 0.5) if wide else 1.0
        plain = {"use_bias": self.chance(0.7)}
        kind = int(self.random.integers(10))
        lstm = kind in (0, 1, 2, 3) and not options["stateful"] and not self.masked
        if options.get("return_state"):
            lstm = False
        made = [
            lambda: layers.LSTM(units, **plain, **options),
            lambda: layers.LSTM(units, **options),
            lambda: GroupedLSTM(
                units,
                self.groups(units, density),
                input_density=density,
                **plain,
                **options,
            ),
            lambda: WeightDropLSTM(units, weight_drop=0.3, **options),
            lambda: layers.LSTM(units, activation="relu", **options),
            lambda: layers.GRU(units, reset_after=self.chance(0.5), **plain, **options),
            lambda: GroupedGRU(
                units,
                self.groups(units, density),
                input_density=density,
                reset_after=self.chance(0.5),
                **plain,
                **options,
            ),
            lambda: layers.SimpleRNN(units, **plain, **options),
            lambda: GroupedSimpleRNN(units, self.groups(units), **options),
            lambda: RecurrentHighway(
                units, int(self.random.integers(1, 4)), **plain, **options
            ),
        ][kind]()
        self.fusible &= lstm
        return made

    def both(self):
        self.streamable = False
        forth = self.recurrent(may_turn=False)
        return self.choice(
            lambda: layers.Bidirectional(
                forth, merge_mode=self.choice("concat", "sum")
            ),
            lambda: UnevenBidirectional(
                forth,
                backward_layer=layers.GRU(
                    self.width(),
                    return_sequences=True,
                    go_backwards=True,
                    stateful=forth.stateful,
                ),
            ),
        )()

    def step(self, x):
        self.features = x.shape[-1]
        kind = int(self.random.integers(12))
        if kind < 5:
            return self.recurrent()(x)
        if kind == 5:
            made = self.both()
            if isinstance(made, UnevenBidirectional):
                self.fusible = False
            return made(x)
        if kind == 6:
            self.fusible = False
            cells = [self.cell() for _ in range(int(self.random.integers(1, 4)))]
            # Keras can't run a stack of one cell under a mask.
            return layers.RNN(
                cells if len(cells) > 1 else cells[0], return_sequences=True
            )(x)
        if kind == 7:
            return self.choice(
                layers.Dense(self.width(), activation="tanh"),
                layers.TimeDistributed(layers.Dense(self.width())),
                layers.LayerNormalization(),
                layers.Dropout(0.5),
            )(x)
        if kind in (8, 9):
            # Keras adds a tensor (1, time, 1) as a bias along time, and the converter
            # knows no such thing.
            self.least = 2
            merged = self.merged(x) if kind == 8 else self.shared(x)
            self.least = 1
            return merged
        if kind == 10:
            return self.handed_on(x)
        return self.nested(x)

    def merged(self, x):
        one, two = self.recurrent(False)(x), self.recurrent(False)(x)
        if one.shape[-1] == two.shape[-1]:
            return self.choice(layers.Add(), layers.Multiply())([one, two])
        return layers.Concatenate()([one, two])

    def shared(self, x):
        layer = self.recurrent(stateful=False)
        return ops.tanh(layer(x)) + layer(x)

    def handed_on(self, x):
        self.streamable = self.fusible = False
        units = self.width()
        _, *states = layers.LSTM(units, return_state=True)(x)
        reader = GroupedLSTM(units, self.groups(units), return_sequences=True)
        return reader(x, initial_state=states)

    def nested(self, x):
        start = keras.Input((None, x.shape[-1]), batch_size=x.shape[0])
        return keras.Model(start, self.recurrent()(start))(x)

    def start(self):
        length = self.choice(None, self.length)
        batch = self.batch if self.stateful else self.choice(None, self.batch)
        if self.chance(0.4):
            ids = keras.Input((length,), batch_size=batch, dtype="int32", name="ids")
            self.masked = self.chance(0.4)
            self.table = self.choice(
                layers.Embedding(VOCABULARY, 4, mask_zero=self.masked),
                layers.ReversibleEmbedding(VOCABULARY, 4, mask_zero=self.masked),
                TieredEmbedding(
                    VOCABULARY,
                    4,
                    density=0.6,
                    mask_zero=self.masked,
                    tie_weights=self.chance(0.7),
                    reverse_bias=self.chance(0.5),
                    projection=self.chance(0.3),
                    name="tiered",
                ),
            )
            return ids, self.table(ids)
        x = keras.Input((length, FEATURES), batch_size=batch, name="x")
        self.masked = self.chance(0.3)
        return x, layers.Masking()(x) if self.masked else x

    def model(self):
        start, x = self.start()
        for _ in range(int(self.random.integers(1, 4))):
            x = self.step(x)
        ends = [layers.Dense(3, name="each")(x)]
        if type(self.table) not in (type(None), layers.Embedding):
            ends = [self.table(layers.Dense(4, name="each")(x), reverse=True)]
        self.features = x.shape[-1]
        if self.chance(0.4):
            ends.append(self.recurrent(False, return_sequences=False)(x))
        model = keras.Model(start, ends)
        for number, variable in enumerate(model.trainable_variables):
            if "bias" in variable.name:
                shape = variable.shape
                drawn = np.random.default_rng(number).standard_normal(shape)
                variable.assign(0.3 * drawn)
        return model

    def inputs(self, model, seed):
        (tensor,) = model.inputs
        length = tensor.shape[1] or self.length
        random = np.random.default_rng(seed)
        if tensor.dtype == "int32":
            return random.integers(0, VOCABULARY, (self.batch, length), "int32")
        x = random.standard_normal((self.batch, length, FEATURES)).astype("float32")
        if length > 1:
            x[:, self.random.integers(length)] = 0
        return x


def outputs_of(model, x):
    copying.reset(model)
    return [ops.convert_to_numpy(one) for one in keras.tree.flatten(model(x))]


def agree(got, want):
    for a, b in zip(got, want, strict=True):
        scale = max(1.0, np.abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, atol=1e-4 * scale)


def listed(outputs):
    return outputs if isinstance(outputs, list) else [outputs]


def as_sequence(path, model, x):
    """Whole sequences, twice each, other ones between."""
    file = TFLiteModel(path)
    want = outputs_of(model, x)
    for sequence in (x, x[:, ::-1].copy(), x):
        file.reset()
        got = listed(file.step(sequence))
        if sequence is x:
            agree(got, want)


def as_stream(path, model, x):
    file = TFLiteModel(path)
    want = outputs_of(model, x)
    for _ in range(2):
        file.reset()
        made = [listed(file.step(x[:, t : t + 1])) for t in range(x.shape[1])]
        agree([np.concatenate([step[0] for step in made], axis=1)], want[:1])
        agree(made[-1][1:], want[1:])


def exported(form, model, path, builder):
    """Writes the file, or says why it can't be had."""
    sizes = {"batch_size": builder.batch}
    if form != "streamed" and model.inputs[0].shape[1] is None:
        sizes["time_steps"] = builder.length
    arguments = {
        "loop": {"lowering": "loop", "batch_size": builder.batch},
        "unrolled": {"lowering": "unrolled", **sizes},
        "fused": {"lowering": "fused", "target": "interpreter", **sizes},
        "streamed": {"streaming": "states", **sizes},
    }[form]
    try:
        return export_tflite(model, path, **arguments), None
    except ValueError as error:
        return None, str(error)


def check(form, model, path, builder):
    report, refused = exported(form, model, path, builder)
    if form == "fused" and not builder.fusible:
        # Without any recurrent layer there is nothing to refuse.
        assert refused is None or NOT_FUSED in refused, refused
    elif form == "streamed" and not builder.streamable:
        assert refused is not None
        assert any(reason in refused for reason in NOT_STREAMED), refused
    else:
        assert refused is None, refused
    if refused is not None:
        assert not path.exists()
        return
    if form == "fused":
        assert "WHILE" not in report.operators
    assert len(report.runtimes) == (1 if _fused(report) else 2)
    run = as_stream if form == "streamed" else as_sequence
    run(path, model, builder.inputs(model, 1))
    path.unlink()


def _fused(report):
    return any(form.startswith("fused") for form in report.layers.values())


FORMS = ("loop", "unrolled", "fused", "streamed")


def of_seed(seed):
    keras.backend.clear_session()
    builder = Builder(seed)
    return builder, builder.model()


# All forms of many models by `make fuzz`, one form of each of a few by `make test`.
MANY = conftest.FUZZ_EXAMPLES is not None


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
@given(st.integers(0, 2**32 - 1))
def test_any_model_in_every_form(tmp_path_factory, seed):
    builder, model = of_seed(seed)
    path = tmp_path_factory.mktemp("fuzz") / "model.tflite"
    for form in FORMS if MANY else FORMS[seed % 4 :][:1]:
        check(form, model, path, builder)
