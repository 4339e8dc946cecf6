"""A trained model as files for a device, measured as files."""

from typing import Any

import keras
import numpy as np
from experiments.records import Records, where

import keras_sparse_rnn as ksr
from answering import encoding, models, runs
from answering.encoding import Encoded
from answering.runs import Data, Run

KINDS = (None, "dynamic")


def ship(run: Run, data: Data) -> list[dict[str, Any]]:
    """Exports a model in float and in dynamic int8, unless that was done before.

    A file takes a passage and a question of fixed lengths, the longest of the data's.
    It is asked all questions of the test, and its answers are compared with Keras's.

    Returns:
        A line of records for each kind.
    """
    facts = {"run": run.name, "data": data.source, "data_hash": data.hash}
    records = Records(run.folder / f"{run.name}.shipped.jsonl", facts)
    records.check()
    done = {line["quantize"] for line in records.lines()}
    if done >= set(KINDS):
        return records.lines()
    if not run.file.is_file():
        raise SystemExit(
            f"--ship: {run.file} is gone; its records say that it was trained. Remove "
            f"{run.file.with_suffix('.jsonl')} to train it again."
        )
    model = keras.models.load_model(run.file, compile=False)
    vocabulary = run.vocabulary(data)
    questions = run.encoded(data.test)
    # The longest passage and question of all, as far as they are read.
    context, question = encoding.lengths_of(
        [*run.encoded([*data.train, *data.valid]), *questions]
    )
    logits = list(encoding.logits_of(model, questions, vocabulary, run.config))
    wanted, _ = encoding.answers_of(questions, logits, run.config, run.unanswerable)

    def given(one: Encoded) -> list[np.ndarray]:
        length = run.config.word_length
        return encoding.arrays_of([one], vocabulary, length, context, question)

    for quantize in KINDS:
        if quantize in done:
            continue
        kind = quantize or "float32"
        path = run.folder / f"{run.name}.{kind}.tflite"
        report = ksr.export_tflite(
            models.for_lengths(model, context, question), path, quantize=quantize
        )
        file = ksr.TFLiteModel(path, threads=1)
        answers = [[both[0] for both in file(*given(one))] for one in questions]
        spans, texts = encoding.answers_of(
            questions, answers, run.config, run.unanswerable
        )
        records.add(
            quantize=quantize,
            bytes=report.bytes,
            **runs.mean_scores(questions, texts),
            same_spans=sum(a == b for a, b in zip(spans, wanted, strict=True)),
            # Of tokens alone: logits of padding are all the same.
            max_difference=max(
                float(np.abs(a[:size] - b[:size]).max())
                for one, theirs, ours in zip(questions, answers, logits, strict=True)
                for a, b, size in zip(theirs, ours, [len(one.tokens)] * 2, strict=True)
            ),
            ms=file.latency(given(questions[0])),
            tokens=[context, question],
            operators=sorted(report.operators),
            **runs.sizes(model),
            **where(),
        )
    return records.lines()
