"""A trained model as files for a device, measured as files."""

import gzip
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
from experiments.records import Records, where

import keras_sparse_rnn as ksr
from language_models import models
from language_models.texts import Text

# Words of the window whose latency is told.
WINDOW = 35
KINDS = (None, "dynamic")


def ship(name: str, file: Path, text: Text) -> list[dict[str, Any]]:
    """Exports a model in float and in dynamic int8, unless that was done before.

    Each kind is two files: one takes a word at a time and hands its states on, and is
    what the perplexity is of; the other takes a window of `WINDOW` words, for the
    latency. They hold the same weights.

    Returns:
        A line of records for each kind.
    """
    facts = {"run": name, "data": text.source, "data_hash": text.hash}
    records = Records(file.with_name(f"{name}.shipped.jsonl"), facts)
    records.check()
    if len(text.test) < WINDOW:
        raise SystemExit(
            f"--ship measures windows of {WINDOW} words, and the test part has only "
            f"{len(text.test)}."
        )
    done = {line["quantize"] for line in records.lines()}
    if done < set(KINDS):
        model = keras.models.load_model(file, compile=False)
        one_word = models.rebatched(model, 1, stateful=False)
        window = models.rebatched(model, 1, WINDOW, stateful=False)
    for quantize in KINDS:
        if quantize in done:
            continue
        kind = quantize or "float32"
        step, whole = (
            file.with_name(f"{name}.{kind}.{form}.tflite")
            for form in ("step", "window")
        )
        streamed = ksr.export_tflite(
            one_word, step, quantize=quantize, streaming="states"
        )
        ksr.export_tflite(window, whole, quantize=quantize)
        words = text.test[None, :WINDOW]
        records.add(
            quantize=quantize,
            bytes=streamed.bytes,
            test=perplexity(step, text),
            word_ms=word_latency(step, text),
            window_ms=ksr.TFLiteModel(whole, threads=1).latency(words),
            window_bytes=whole.stat().st_size,
            gzip_bytes=len(gzip.compress(step.read_bytes())),
            operators=sorted(streamed.operators),
            parameters=model.count_params(),
            **where(),
        )
    return records.lines()


def perplexity(step: Path, text: Text) -> float:
    """Over every word of the test, one after the other through the file."""
    run = ksr.TFLiteModel(step, threads=2)
    total = 0.0
    before = text.end
    for word in text.test:
        logits = np.asarray(run.step(np.array([[before]], "int32")))[0, 0]
        most = logits.max()
        norm = most + math.log(float(np.exp(logits - most).sum()))
        total += norm - float(logits[word])
        before = word
    return math.exp(total / len(text.test))


def word_latency(step: Path, text: Text) -> float:
    """Milliseconds for a word of a stream, on one thread."""
    run = ksr.TFLiteModel(step, threads=1)
    given: list[Any] = []
    for name, shape in zip(run.input_names, run.input_shapes, strict=True):
        sizes = [max(size, 1) for size in shape]
        if name in run.state_names:
            given.append(np.zeros(sizes, "float32"))
        else:
            given.append(np.full(sizes, text.test[0], "int32"))
    return run.latency(given, repeats=200)
