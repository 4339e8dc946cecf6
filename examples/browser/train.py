"""Trains a small model of characters and writes what the page beside it needs.

    python examples/browser/train.py

The text is the topics of Python's own `help()`. Written are `model/step.tflite`, one
step of a stream with its states as inputs and outputs, and `model/vocabulary.json`.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pydoc_data.topics import topics

import keras
import numpy as np

import keras_sparse_rnn as ksr

HERE = Path(__file__).parent
# Whatever is not in the vocabulary, and what every text begins with.
UNKNOWN, START = "\0", "\n"


def text() -> str:
    """All topics, line breaks within a paragraph and runs of spaces taken away."""
    paragraphs = []
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            paragraphs.append(" ".join(paragraph.split()))
    return START.join(dict.fromkeys(paragraphs))


def vocabulary_of(words: str) -> list[str]:
    """Characters seen twenty times or more, most frequent first."""
    counts = {c: words.count(c) for c in set(words)}
    kept = [c for c in counts if counts[c] >= 20 and c != START]
    return [UNKNOWN, START, *sorted(kept, key=lambda c: -counts[c])]


def model_of(characters: int, units: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="character"),
            keras.layers.Embedding(characters, 32),
            ksr.GroupedLSTM(units, groups=2, return_sequences=True, name="memory"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(characters, name="scores"),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--units", type=int, default=256)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(1)
    words = text()
    vocabulary = vocabulary_of(words)
    index = {c: i for i, c in enumerate(vocabulary)}
    ids = np.array([index.get(c, 0) for c in words], "int32")
    length = 96
    count = (len(ids) - 1) // length
    windows = ids[np.arange(count)[:, None] * length + np.arange(length + 1)]
    held_out = np.arange(count) % 10 == 9
    model = model_of(len(vocabulary), arguments.units)
    model.compile(
        keras.optimizers.Adam(4e-3, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        windows[~held_out, :-1],
        windows[~held_out, 1:],
        batch_size=32,
        epochs=arguments.epochs,
        validation_data=(windows[held_out, :-1], windows[held_out, 1:]),
        verbose=2,
    )
    folder = HERE / "model"
    folder.mkdir(exist_ok=True)
    report = ksr.export_tflite(
        model,
        folder / "step.tflite",
        quantize="dynamic",
        streaming="states",
        metric=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        data=(windows[held_out][:20, :-1], windows[held_out][:20, 1:]),
    )
    print(report)
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))
    print(f"\nNow serve {HERE} and open the page; see its README.md.")


if __name__ == "__main__":
    main()
