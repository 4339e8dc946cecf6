"""Tiered embeddings against dense ones: sizes of everything, and times, in turn.

    python benchmarks/tiered_embedding.py [--vocabularies 10000 100000 1000000]

"Sizes": the model is a table that is looked up and, in reverse, makes logits of all
words. Every number is a share of what the same thing has for `keras.layers.Embedding`
(computed: rows × columns × 4 bytes, as often as it is held); it should be the density.

"Times": the contenders take turns in one process; medians, and how many times faster
than the first row. A training step is one of Adam on a batch of 32 × 35 ids, drawn as
words occur (the frequency of rank r is 1/r); logits are of fewer states where there
are more words. "Targets": the layer makes the loss itself, some states at a time. Where
a dense table with Adam would need more than the memory that is asked for with
--most-memory, its row says so.
"""

import argparse
import datetime
import gc
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_sparse_rnn as ksr

SEED, WIDTH, DENSITY = 1, 512, 0.25
BATCH, TIME = 32, 35
# What is trained is held with its gradient and two moments, and Adam works on copies.
COPIES = 6


def ids(vocabulary: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Words as often as they occur."""
    generator = np.random.default_rng(seed)
    # The inverse of the logarithm, which sums of 1/r grow with.
    ranks = np.exp(generator.random(shape) * np.log(vocabulary)).astype("int32")
    return np.minimum(ranks, vocabulary) - 1


def tiered(vocabulary: int, **arguments: Any) -> Any:
    return ksr.TieredEmbedding(vocabulary, WIDTH, DENSITY, **arguments)


def looked_up(table: Any) -> keras.Model:
    start = keras.Input((TIME,), dtype="int32")
    return keras.Model(start, table(start))


def summed(table: Any) -> keras.Model:
    start = keras.Input((TIME,), dtype="int32")
    mean = keras.layers.GlobalAveragePooling1D()(table(start))
    model = keras.Model(start, keras.layers.Dense(1)(mean))
    model.compile("adam", "mse", jit_compile=False)
    return model


def tied(table: Any, output: Any = None) -> keras.Model:
    """Words from words: through the table both ways, or a dense layer at the end."""
    start = keras.Input((None,), dtype="int32")
    vectors = table(start)
    logits = output(vectors) if output is not None else table(vectors, reverse=True)
    model = keras.Model(start, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=False)
    return model


def with_targets(table: Any) -> keras.Model:
    """As `tied`, but the table makes the loss itself."""
    start, following = keras.Input((None,), dtype="int32"), keras.Input((None,))
    model = keras.Model([start, following], table(table(start), targets=following))
    model.compile("adam", jit_compile=False)
    return model


# Sizes --------------------------------------------------------------------------------


def sizes(vocabulary: int, folder: Path) -> list[tuple[str, float]]:
    """Each as a share of a dense table's; NaN where it can't be had here."""
    dense = vocabulary * WIDTH * 4
    model = tied(tiered(vocabulary))
    # What is shipped first: the converter needs the room that training takes.
    files = _files(keras.Model(model.inputs, model.outputs), dense, folder)
    x = ids(vocabulary, (1, 8), SEED)
    model.train_on_batch(x, x)
    weights = sum(_bytes(v) for v in model.trainable_variables)
    slots = sum(_bytes(v) for v in model.optimizer.variables if len(v.shape) == 2)
    found = [("variables", weights / dense), ("slots of Adam", slots / dense / 2)]
    found.append(("gradients", _gradient_bytes(model, x) / dense))
    model.save(folder / "trained.keras")
    # With the optimizer's moments.
    found.append((".keras, compiled", _size(folder / "trained.keras") / dense / 3))
    return found + files


def _files(plain: keras.Model, dense: int, folder: Path) -> list[tuple[str, float]]:
    plain.save(folder / "model.keras")
    found = [(".keras", _size(folder / "model.keras") / dense)]
    ksr.export_saved_model(plain, folder / "saved")
    found.append(("SavedModel", _size(folder / "saved") / dense))
    for kind, quantize, times in (("float32", None, 1), ("int8", "dynamic", 4)):
        path = folder / f"{kind}.tflite"
        try:
            ksr.export_tflite(plain, path, quantize=quantize, time_steps=1)
        except RuntimeError as error:
            print(f"{kind}: {error}\n", flush=True)
            share = float("nan")
        else:
            share = times * _size(path) / dense
        found.append((f"TFLite, {kind}", share))
    return found


def _bytes(variable: Any) -> int:
    return int(np.prod(variable.shape)) * 4


def _gradient_bytes(model: keras.Model, x: np.ndarray) -> int:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x)))
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    return sum(tf.convert_to_tensor(one).numpy().nbytes for one in gradients)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    return path.stat().st_size


# Times --------------------------------------------------------------------------------


def in_turn(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each."""
    for run in runs.values():
        run()
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    return {name: 1e3 * statistics.median(found) for name, found in seconds.items()}


def lookup(vocabulary: int, fits: bool) -> dict[str, Callable[[], Any]]:
    import tensorflow as tf

    x = tf.constant(ids(vocabulary, (BATCH, TIME), SEED))
    runs = {}
    for name, table in (
        ("keras.layers.Embedding", keras.layers.Embedding(vocabulary, WIDTH)),
        ("TieredEmbedding", tiered(vocabulary)),
    ):
        model = looked_up(table)
        call = tf.function(lambda x, model=model: model(x, training=False))
        runs[name] = lambda call=call: call(x).numpy()
    return runs


def training(vocabulary: int, fits: bool) -> dict[str, Callable[[], Any]]:
    x, y = ids(vocabulary, (BATCH, TIME), SEED), np.zeros((BATCH, 1), "float32")
    tables: dict[str, Any] = {}
    if fits:
        tables["keras.layers.Embedding"] = keras.layers.Embedding(vocabulary, WIDTH)
    tables["TieredEmbedding"] = tiered(vocabulary)
    models = {name: summed(table) for name, table in tables.items()}
    return {
        name: lambda model=model: model.train_on_batch(x, y)
        for name, model in models.items()
    }


def softmax(vocabulary: int, fits: bool) -> dict[str, Callable[[], Any]]:
    states = min(BATCH * TIME, 100_000_000 // vocabulary)
    x = ids(vocabulary, (1, states), SEED)
    models: dict[str, keras.Model] = {}
    if fits:
        models["Embedding and Dense"] = tied(
            keras.layers.Embedding(vocabulary, WIDTH),
            keras.layers.Dense(vocabulary, use_bias=False),
        )
        models["keras.layers.ReversibleEmbedding"] = tied(
            keras.layers.ReversibleEmbedding(vocabulary, WIDTH)
        )
    models["TieredEmbedding"] = tied(tiered(vocabulary))
    runs: dict[str, Callable[[], Any]] = {
        name: lambda model=model: model.train_on_batch(x, x)
        for name, model in models.items()
    }
    by_targets = with_targets(tiered(vocabulary))
    runs["TieredEmbedding, targets"] = lambda: by_targets.train_on_batch([x, x])
    return runs


def table(title: str, found: dict[str, float], missing: str) -> None:
    print(f"\n{title}\n")
    print("| | ms | × faster |\n|---|--:|--:|")
    if missing:
        print(f"| {missing} | does not fit | |")
    first = next(iter(found.values()))
    for name, ms in found.items():
        ratio = "" if missing else f"{first / ms:.2f}"
        print(f"| {name} | {ms:.1f} | {ratio} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--vocabularies", type=int, nargs="+", default=[10_000, 100_000, 1_000_000]
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--most-memory", type=float, default=10, help="in GiB")
    args = parser.parse_args()
    keras.utils.set_random_seed(SEED)
    print(
        f"{WIDTH} wide, density {DENSITY}, seed {SEED}, {platform.machine()}, "
        f"{os.cpu_count()} cores, {datetime.date.today()}, Keras {keras.__version__} "
        f"on {keras.backend.backend()}"
    )
    print("\n## Sizes, as a share of a dense table's\n", flush=True)
    columns: dict[str, list[str]] = {}
    for vocabulary in args.vocabularies:
        with tempfile.TemporaryDirectory() as folder:
            for name, share in sizes(vocabulary, Path(folder)):
                columns.setdefault(name, []).append(f"{share:.4f}")
        keras.backend.clear_session()
        gc.collect()
    print("| | " + " | ".join(f"{v:,} words" for v in args.vocabularies) + " |")
    print("|---|" + "--:|" * len(args.vocabularies))
    for name, shares in columns.items():
        print(f"| {name} | {' | '.join(shares)} |", flush=True)
    print("\n## Times")
    for vocabulary in args.vocabularies:
        need = COPIES * vocabulary * WIDTH * 4 / 2**30
        for title, make, copies in (
            ("lookup", lookup, 0),
            ("training step of a lookup", training, 1),
            ("training step of tied logits", softmax, 2),
        ):
            fits = copies * need <= args.most_memory
            missing = "" if fits else f"dense tables with Adam, {copies * need:.0f} GiB"
            found = in_turn(make(vocabulary, fits), args.repeats)
            table(f"### {vocabulary:,} words: {title}", found, missing)
            keras.backend.clear_session()
            gc.collect()


if __name__ == "__main__":
    main()
