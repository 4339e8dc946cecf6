"""Magnitude pruning by tensorflow-model-optimization, in a process of its own.

It works on Keras 2 only, so this program imports nothing of Keras 3. `magnitude`
starts it with a file of settings and ids, and it writes a file of results:

    python magnitude_process.py settings.json results.json

The model is the one of `models.build`, untied and without groups, made of Keras 2
layers, and trained in the same way. Single weights of all LSTMs and of the dense layer
go on the toolkit's polynomial schedule. A run that was interrupted goes on behind its
last whole epoch, though with other dropout than it would have drawn.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras


def main(settings_file, results_file):
    settings = json.loads(Path(settings_file).read_text())
    ids = np.load(settings["ids"])
    keras.utils.set_random_seed(settings["seed"])
    batch, steps = settings["batch"], settings["steps"]
    x, y = windows(ids["train"], batch, steps)
    model = language_model(settings, batch, steps)
    count = len(x) // batch
    total = settings["epochs"] * count
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0,
        settings["sparsity"],
        begin_step=round(0.15 * total),
        end_step=round(0.6 * total),
        frequency=max(1, total // 100),
    )

    def pruned(layer):
        kinds = (keras.layers.LSTM, keras.layers.Dense)
        if not isinstance(layer, kinds):
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, schedule)

    model = keras.models.clone_model(model, clone_function=pruned)
    model.compile(
        keras.optimizers.SGD(settings["rate"], global_clipnorm=settings["clip"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    backup = Path(settings["backup"])
    state = backup / "state.json"
    lines = []
    if state.exists():
        lines = json.loads(state.read_text())
        with np.load(backup / f"weights-{len(lines)}.npz") as kept:
            model.set_weights([kept[f"arr_{k}"] for k in range(len(kept))])
    first = len(lines)
    # Dropout of what is left to train is none that was drawn before.
    keras.utils.set_random_seed(settings["seed"] + 1000 * first)

    class Told(keras.callbacks.Callback):
        """States of zeros, a line, and what a run that is interrupted goes on with."""

        def on_epoch_begin(self, epoch, logs=None):
            for layer in self.model.layers:
                # The toolkit's wrappers hand nothing on.
                inner = getattr(layer, "layer", layer)
                if getattr(inner, "stateful", False):
                    inner.reset_states()
            self.begin = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            spent = time.perf_counter() - self.begin
            lines.append(
                {"epoch": epoch + 1, "train_loss": logs["loss"], "seconds": spent}
            )
            print(
                f"{settings['name']}, epoch {epoch + 1}: {spent:.0f} s, loss "
                f"{logs['loss']:.3f}",
                flush=True,
            )
            # The state is written last, and says which weights are whole.
            np.savez(backup / f"weights-{len(lines)}.npz", *self.model.get_weights())
            beside = state.with_suffix(".part")
            beside.write_text(json.dumps(lines))
            beside.replace(state)
            (backup / f"weights-{len(lines) - 1}.npz").unlink(missing_ok=True)

    model.fit(
        x,
        y,
        batch_size=batch,
        initial_epoch=first,
        epochs=settings["epochs"],
        shuffle=False,
        verbose=0,
        callbacks=[
            tfmot.sparsity.keras.UpdatePruningStep(),
            keras.callbacks.LearningRateScheduler(
                lambda epoch, _: settings["rates"][epoch]
            ),
            Told(),
        ],
    )
    seconds = sum(line["seconds"] for line in lines)
    model = tfmot.sparsity.keras.strip_pruning(model)
    kernels = [w.numpy() for w in model.trainable_weights if "kernel" in w.name]
    zeros = sum(int((k == 0).sum()) for k in kernels) / sum(k.size for k in kernels)
    found = {"epochs": lines, "seconds": seconds, "zeros": zeros}
    found["trained_by"] = f"tf_keras {keras.__version__}"
    found["parameters"] = model.count_params()
    for part in ("valid", "test"):
        found[part] = perplexity(settings, model, ids[part], int(ids["end"]))
    found["files"] = files(settings, model, Path(settings["folder"]))
    beside = Path(f"{results_file}.part")
    beside.write_text(json.dumps(found))
    beside.replace(results_file)


def windows(ids, batch, steps):
    count = (len(ids) - 1) // (batch * steps)
    kept = count * batch * steps

    def cut(part):
        rows = part[:kept].reshape(batch, count, steps)
        return rows.swapaxes(0, 1).reshape(-1, steps)

    return cut(ids[:-1]), cut(ids[1:])


def language_model(settings, batch, steps, stateful=True):
    def start():
        # One for each weight: Keras 2 would draw the same values twice.
        return keras.initializers.RandomUniform(-settings["scale"], settings["scale"])

    layers = [
        keras.layers.InputLayer(batch_input_shape=(batch, steps), dtype="int32"),
        keras.layers.Embedding(
            settings["words"], settings["embedding"], embeddings_initializer=start()
        ),
        keras.layers.Dropout(settings["input_dropout"]),
    ]
    for number, units in enumerate(settings["units"]):
        last = number == len(settings["units"]) - 1
        layers += [
            keras.layers.LSTM(
                units,
                return_sequences=True,
                stateful=stateful,
                unit_forget_bias=False,
                kernel_initializer=start(),
                recurrent_initializer=start(),
            ),
            keras.layers.Dropout(
                settings["output_dropout" if last else "hidden_dropout"]
            ),
        ]
    layers.append(keras.layers.Dense(settings["words"], kernel_initializer=start()))
    return keras.Sequential(layers)


def perplexity(settings, model, ids, end):
    reader = language_model(settings, 1, None)
    reader.set_weights(model.get_weights())
    before = np.concatenate([[end], ids[:-1]])
    total = 0.0
    for begin in range(0, len(ids), 500):
        here = slice(begin, begin + 500)
        logits = reader.predict_on_batch(before[None, here])[0].astype("float64")
        most = logits.max(axis=-1, keepdims=True)
        norms = np.log(np.exp(logits - most).sum(axis=-1)) + most[:, 0]
        total += float((norms - logits[np.arange(len(norms)), ids[here]]).sum())
    return math.exp(total / len(ids))


def files(settings, model, folder):
    """As TensorFlow's converter writes them; sparse ones are an experiment of its."""
    found = []
    plain = language_model(settings, 1, settings["window"], stateful=False)
    plain.set_weights(model.get_weights())
    optimize = tf.lite.Optimize
    for kind, optimizations in (
        ("float32", []),
        ("float32 sparse", [optimize.EXPERIMENTAL_SPARSITY]),
        ("dynamic", [optimize.DEFAULT]),
    ):
        converter = tf.lite.TFLiteConverter.from_keras_model(plain)
        converter.optimizations = optimizations
        content = converter.convert()
        path = folder / f"{settings['name']}.{kind.replace(' ', '-')}.window.tflite"
        path.write_bytes(content)
        found.append({"kind": kind, "file": path.name, "bytes": len(content)})
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
