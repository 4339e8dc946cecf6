"""A next-word model, from `fit` to the phone: dense against sparse.

Trains a dense two-layer LSTM on real text and, on the same tokens for the same number
of epochs, a sparse rival: a tiered embedding and grouped LSTMs that lose most of their
units while they train, are rebuilt smaller and are trained on. Both are exported to
TFLite, as float and with dynamic-range int8 weights, and everything in the table at the
end is measured on the exported files.

    python examples/next_word.py                     # the documentation of Python
    python examples/next_word.py --text my.txt       # your own text
    python examples/next_word.py --data tiny_shakespeare   # from tensorflow-datasets

Perplexity is over the words of held-out text, cut into windows; every window starts
from a zero state. Words seen once in training are one unknown word, which counts.
"""

import argparse
import collections
import datetime
import json
import math
import os
import platform
import re
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_sparse_rnn as ksr

UNKNOWN = "<unk>"
PARAGRAPH = "<p>"


# Text ---------------------------------------------------------------------------------


def python_documentation() -> list[str]:
    """The topics of Python's own `help()`, one document each."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def text_of_dataset(name: str) -> list[str]:
    """The text feature of a tensorflow-datasets data set, one document an example."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise SystemExit(
            "--data needs tensorflow-datasets: pip install keras-sparse-rnn[datasets]"
        ) from error
    examples = tfds.as_numpy(tfds.load(name, split="train"))
    documents = []
    for example in examples:
        if "text" not in example:
            raise SystemExit(
                f"--data {name}: its examples have no feature 'text', only "
                f"{sorted(example)}."
            )
        documents.append(example["text"].decode("utf-8"))
    return documents


def text_of_file(path: Path) -> list[str]:
    """A text file as one document; `paragraphs_of` cuts it up."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"--text {path}: {error}") from error
    return [text]


def paragraphs_of(documents: list[str]) -> list[list[list[str]]]:
    """Words of each paragraph of each document; a repeated paragraph counts once.

    Documentation repeats itself, and what is repeated must not be held out and trained
    on at once.
    """
    seen = set()
    result = []
    for document in documents:
        kept = []
        for paragraph in re.split(r"\n\s*\n", document):
            words = re.findall(r"\w+|[^\w\s]", paragraph.lower())
            if words and tuple(words) not in seen:
                seen.add(tuple(words))
                kept.append([*words, PARAGRAPH])
        if kept:
            result.append(kept)
    if len(result) < 10:
        # Few long documents: cut them up, so that a tenth can be held out.
        flat = [paragraph for document in result for paragraph in document]
        size = max(1, math.ceil(len(flat) / 50))
        result = [flat[i : i + size] for i in range(0, len(flat), size)]
    return result


def split(documents: list[list[list[str]]]) -> tuple[list[str], list[str]]:
    """Words to train on and words held out: every tenth document."""
    train = [d for i, d in enumerate(documents) if i % 10 != 9]
    held_out = documents[9::10]
    if not held_out:
        raise SystemExit("The text is too short: it needs ten paragraphs or more.")

    def flat(part: list[list[list[str]]]) -> list[str]:
        return [
            word for document in part for paragraph in document for word in paragraph
        ]

    return flat(train), flat(held_out)


def vocabulary_of(words: list[str], most: int) -> list[str]:
    """Words seen twice or more, most frequent first, the unknown word among them."""
    counts = collections.Counter(words)
    known = {word: n for word, n in counts.most_common(most - 1) if n > 1}
    known[UNKNOWN] = sum(counts.values()) - sum(known.values())
    return sorted(known, key=lambda word: -known[word])


def windows_of(words: list[str], vocabulary: list[str], length: int) -> np.ndarray:
    """Ids in rows of `length + 1` that overlap by one; the rest is dropped."""
    index = {word: i for i, word in enumerate(vocabulary)}
    ids = np.array([index.get(word, index[UNKNOWN]) for word in words], "int32")
    count = (len(ids) - 1) // length
    if count < 1:
        raise SystemExit(f"The text is too short for windows of {length} words.")
    starts = np.arange(count)[:, None] * length
    return ids[starts + np.arange(length + 1)]


# Models -------------------------------------------------------------------------------


# Both models start from larger word vectors than Keras's default: from ±0.05 either
# spends its first two epochs on finding out how often each word occurs.
WORD_VECTORS = keras.initializers.RandomUniform(-0.5, 0.5)


def dense_model(vocabulary: int, units: int, dropout: float) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="words"),
            keras.layers.Embedding(
                vocabulary, units, embeddings_initializer=WORD_VECTORS
            ),
            keras.layers.Dropout(dropout),
            keras.layers.LSTM(units, return_sequences=True),
            keras.layers.Dropout(dropout),
            keras.layers.LSTM(units, return_sequences=True),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(vocabulary, name="next_word"),
        ],
        name="dense",
    )


def sparse_model(vocabulary: int, units: int, dropout: float) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="words"),
            ksr.TieredEmbedding(
                vocabulary, units, density=0.2, embeddings_initializer=WORD_VECTORS
            ),
            keras.layers.Dropout(dropout),
            ksr.GroupedLSTM(units, 2, return_sequences=True),
            keras.layers.Dropout(dropout),
            ksr.GroupedLSTM(units, 2, return_sequences=True),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(vocabulary, name="next_word"),
        ],
        name="sparse",
    )


def compiled(model: keras.Model, steps: int) -> keras.Model:
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, steps, alpha=0.05)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule, clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


# Measuring the files ------------------------------------------------------------------


def perplexity_of(run: ksr.TFLiteModel, windows: np.ndarray) -> float:
    """Perplexity of an exported file over all words of these windows."""
    total = 0.0
    for window in windows:
        logits = np.asarray(run(window[None, :-1]), np.float64)[0]
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = logits[np.arange(len(logits)), window[1:]]
        total += float(np.sum(np.log(np.exp(logits).sum(axis=-1)) - chosen))
    return math.exp(total / (windows.shape[0] * (windows.shape[1] - 1)))


def complete(
    run: ksr.TFLiteModel,
    vocabulary: list[str],
    prompt: str,
    length: int,
    rng: np.random.Generator,
    words: int = 14,
) -> str:
    """Lets an exported file type on after a prompt."""
    index = {word: i for i, word in enumerate(vocabulary)}
    typed = re.findall(r"\w+|[^\w\s]", prompt.lower())
    for _ in range(words):
        ids = [index.get(word, index[UNKNOWN]) for word in typed[-length:]]
        # The file takes a fixed number of words. What comes after a position does
        # not change it, so the end is filled up and not looked at.
        padded = np.zeros((1, length), "int32")
        padded[0, : len(ids)] = ids
        logits = np.asarray(run(padded), np.float64)[0, len(ids) - 1]
        logits[[index[UNKNOWN], index[PARAGRAPH]]] = -np.inf
        chances = np.exp((logits - logits.max()) / 0.6)
        typed.append(vocabulary[rng.choice(len(vocabulary), p=chances / chances.sum())])
    text = " ".join(typed)
    text = re.sub(r" ([.,;:)\]])", r"\1", text)
    return re.sub(r"([(\[]) ", r"\1", text)


# The whole path -----------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", type=Path, help="a text file of your own")
    source.add_argument("--data", help="a tensorflow-datasets name, e.g. lm1b")
    parser.add_argument("--epochs", type=int, default=6, help="for each model")
    parser.add_argument("--dense-units", type=int, default=160)
    parser.add_argument("--sparse-units", type=int, default=256, help="at the start")
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--keep", type=float, default=0.27, help="share of units")
    parser.add_argument("--window", type=int, default=32, help="words in a sequence")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--most-words", type=int, default=20_000, help="vocabulary")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("saved_models/next_word"))
    chosen = parser.parse_args()
    if chosen.epochs < 2:
        parser.error("--epochs must be at least 2: some to prune in, some to tune.")
    return chosen


def train(args: argparse.Namespace, x: np.ndarray, y: np.ndarray, held_out: np.ndarray):
    """Both models, with the same tokens; returns them and what was pruned."""
    vocabulary = int(max(x.max(), y.max(), held_out.max())) + 1
    steps = args.epochs * math.ceil(len(x) / args.batch)
    options = {
        "batch_size": args.batch,
        "validation_data": (held_out[:, :-1], held_out[:, 1:]),
        "validation_batch_size": 64,
        # In a log a line for each epoch; bars are for a terminal.
        "verbose": 1 if sys.stdout.isatty() else 2,
    }
    seconds = {}

    print(f"\n1. Dense: {args.epochs} epochs")
    keras.utils.set_random_seed(args.seed)
    dense = compiled(dense_model(vocabulary, args.dense_units, args.dropout), steps)
    start = time.perf_counter()
    dense.fit(x, y, epochs=args.epochs, **options)
    seconds["dense"] = time.perf_counter() - start

    pruned_epochs = max(1, round(0.6 * args.epochs))
    print(f"\n2. Sparse: {pruned_epochs} epochs, {args.keep:.0%} of the units survive")
    keras.utils.set_random_seed(args.seed)
    sparse = compiled(sparse_model(vocabulary, args.sparse_units, args.dropout), steps)
    started_with = sparse.count_params()
    # All of this `fit` is pruning; tuning follows on the rebuilt model.
    pruning = ksr.ISSPruning(keep=args.keep, begin=0.25, end=1.0)
    start = time.perf_counter()
    sparse.fit(x, y, epochs=pruned_epochs, callbacks=[pruning], **options)
    print(f"\n{pruning.report}")
    sparse = pruning.pruned_model
    print(
        f"\n3. Rebuilt: {started_with:,} parameters became {sparse.count_params():,}; "
        f"{args.epochs - pruned_epochs} epochs of tuning"
    )
    sparse.fit(x, y, initial_epoch=pruned_epochs, epochs=args.epochs, **options)
    seconds["sparse"] = time.perf_counter() - start
    return dense, sparse, pruning.report, started_with, seconds


def main() -> None:
    args = arguments()
    if args.text:
        source, documents = str(args.text), text_of_file(args.text)
    elif args.data:
        source, documents = args.data, text_of_dataset(args.data)
    else:
        version = platform.python_version()
        source, documents = f"documentation of Python {version}", python_documentation()
    args.out.mkdir(parents=True, exist_ok=True)

    train_words, held_out_words = split(paragraphs_of(documents))
    vocabulary = vocabulary_of(train_words, args.most_words)
    rows = windows_of(train_words, vocabulary, args.window)
    held_out = windows_of(held_out_words, vocabulary, args.window)
    print(
        f"Text: {source}; {len(train_words):,} words to train on, "
        f"{len(held_out_words):,} held out, {len(vocabulary):,} different ones."
    )
    (args.out / "vocabulary.txt").write_text("\n".join(vocabulary) + "\n")

    dense, sparse, pruned, started_with, seconds = train(
        args, rows[:, :-1], rows[:, 1:], held_out
    )

    print("\n4. Export")
    models = []
    runs = {}
    for name, model in (("dense", dense), ("sparse", sparse)):
        model.save(args.out / f"{name}.keras")
        for kind, quantize in (("float32", None), ("int8", "dynamic")):
            path = args.out / f"{name}_{kind}.tflite"
            exported = ksr.export_tflite(
                model, path, quantize=quantize, time_steps=args.window
            )
            run = runs[name, kind] = ksr.TFLiteModel(path, threads=1)
            models.append(
                {
                    "name": f"{name} {kind}",
                    "parameters": model.count_params(),
                    "perplexity": perplexity_of(run, held_out),
                    "tflite_bytes": exported.bytes,
                    "latency_ms": run.latency(held_out[:1, :-1]),
                    "max_difference_from_keras": exported.max_difference,
                }
            )
            print(f"   {path}: {exported.bytes:,} bytes, builtin operators only")

    report = {
        "models": models,
        "source": source,
        "train_words": len(train_words),
        "held_out_words": len(held_out_words),
        "vocabulary": len(vocabulary),
        "sparse_parameters_before_pruning": started_with,
        "units": {layer.layer: [layer.before, layer.after] for layer in pruned.layers},
        "training_seconds": seconds,
        "settings": {
            k: str(v) if k in ("text", "out") else v for k, v in vars(args).items()
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.date.today().isoformat(),
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    draw(args.out / "report.png", pruned, models)
    show(report)

    print("\nTyped by sparse_int8.tflite:")
    rng = np.random.default_rng(args.seed)
    for prompt in prompts(args, held_out_words):
        typed = complete(runs["sparse", "int8"], vocabulary, prompt, args.window, rng)
        print(f"   {typed}")
    print(f"\nEverything is in {args.out}/: open report.png.")


def prompts(args: argparse.Namespace, words: list[str]) -> list[str]:
    if args.text or args.data:
        return [" ".join(words[i : i + 3]) for i in range(0, 300, 100)]
    return ["the import statement", "a class definition", "if the expression"]


def show(report: dict) -> None:
    """Prints the table, and what it says."""
    window = report["settings"]["window"]
    print(f"\n{'':16}{'parameters':>12}{'perplexity':>12}{'file kB':>10}{'ms':>8}")
    for row in report["models"]:
        print(
            f"{row['name']:16}{row['parameters']:>12,}{row['perplexity']:>12.2f}"
            f"{row['tflite_bytes'] / 1000:>10,.0f}{row['latency_ms']:>8.2f}"
        )
    print(
        f"Perplexity on held-out text; ms for {window} words, batch 1, one thread; "
        f"{report['machine']}, {report['date']}, seed {report['settings']['seed']}."
    )
    dense, dense_int8, sparse, _ = report["models"]
    best = min(dense["perplexity"], dense_int8["perplexity"])
    print(
        f"Sparse float32: {sparse['tflite_bytes'] / dense['tflite_bytes']:.0%} of the "
        f"dense float32 file, {sparse['latency_ms'] / dense['latency_ms']:.0%} of its "
        f"time, perplexity {sparse['perplexity'] / best - 1:+.1%} against the better "
        "dense row."
    )


def draw(path: Path, pruned: ksr.PruningReport, models: list[dict]) -> None:
    """Which units died, layer by layer; size against perplexity."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.5, 1])
    pruned.draw(above)
    axes = below.subplots()
    for row in models:
        dense = row["name"].startswith("dense")
        axes.scatter(
            row["tflite_bytes"] / 1000,
            row["perplexity"],
            s=90,
            marker="o" if "float32" in row["name"] else "s",
            color="#d95f02" if dense else "#1b9e77",
        )
        axes.annotate(
            f"{row['name']}\n{row['latency_ms']:.1f} ms",
            (row["tflite_bytes"] / 1000, row["perplexity"]),
            xytext=(0, 10 if dense else -10),
            textcoords="offset points",
            ha="center",
            va="bottom" if dense else "top",
            fontsize=9,
        )
    largest = max(row["tflite_bytes"] for row in models) / 1000
    axes.set_xlim(0, 1.2 * largest)
    # At least 5 % up and down: a smaller difference shall look small.
    seen = [row["perplexity"] for row in models]
    middle, spread = (max(seen) + min(seen)) / 2, max(seen) - min(seen)
    half = max(0.05 * middle, 0.85 * spread)
    axes.set_ylim(middle - half, middle + half)
    axes.set_xlabel("file size, kB (left is better)")
    axes.set_ylabel("held-out perplexity (down is better)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
