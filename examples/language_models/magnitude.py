"""Runs of tensorflow-model-optimization's magnitude pruning, beside ours."""

import gzip
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from experiments.course import Course
from experiments.records import Records, where

import keras_sparse_rnn as ksr
from language_models import runs
from language_models.shipping import WINDOW
from language_models.texts import Text


def trained(run: runs.Run, text: Text) -> dict[str, Any]:
    """Trains in a process of its own, unless that was done before; the last line."""
    config = run.config
    if config.tied or config.depth or config.dense_units or config.jitter:
        raise SystemExit(
            "--method magnitude is for untied models of dense LSTMs: the toolkit knows "
            f"no other layers. {run.configuration} is {config.about}."
        )
    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        raise SystemExit(
            "--method magnitude needs tensorflow-model-optimization: "
            "pip install keras-sparse-rnn[tfmot]"
        )
    records = Records(run.folder / f"{run.name}.jsonl", runs.facts_of(run, text))
    if (final := records.done_before()) is not None:
        return final
    if len(text.test) < WINDOW:
        raise SystemExit(
            f"--method magnitude measures windows of {WINDOW} words, and the test part "
            f"has only {len(text.test)}."
        )
    backup = Course(run.file, records).folder
    results = backup / "results.json"
    if not results.exists():
        _in_its_process(run, text, backup, results)
    found = json.loads(results.read_text())
    files = found.pop("files")
    records.forget_from(0)
    for line in found.pop("epochs"):
        records.add(**line)
    records.add(
        final=True,
        **found,
        units=list(config.units),
        embedding=config.embedding,
        files=[_measured(run, text, file) for file in files],
        **where(),
    )
    # Only now: it takes hours to make.
    shutil.rmtree(backup)
    return records.lines()[-1]


def _in_its_process(run: runs.Run, text: Text, backup: Path, results: Path) -> None:
    assert run.keep is not None
    backup.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        ids = Path(folder) / "ids.npz"
        np.savez(ids, train=text.train, valid=text.valid, test=text.test, end=text.end)
        settings = Path(folder) / "settings.json"
        settings.write_text(
            json.dumps(
                {
                    **asdict(run.config),
                    "rates": [
                        runs.rate_at(run, epoch) for epoch in range(run.config.epochs)
                    ],
                    "folder": str(run.folder),
                    "name": run.name,
                    "seed": run.seed,
                    "sparsity": 1 - run.keep,
                    "words": len(text.vocabulary),
                    "window": WINDOW,
                    "ids": str(ids),
                    "backup": str(backup),
                }
            )
        )
        program = Path(__file__).with_name("magnitude_process.py")
        subprocess.run(
            [sys.executable, str(program), str(settings), str(results)], check=True
        )


def _measured(run: runs.Run, text: Text, file: dict[str, Any]) -> dict[str, Any]:
    path = run.folder / file["file"]
    # What its users are told to do with the zeros.
    file = {**file, "gzip_bytes": len(gzip.compress(path.read_bytes()))}
    try:
        latency = ksr.TFLiteModel(path, threads=1).latency(text.test[None, :WINDOW])
    except (RuntimeError, ValueError) as error:
        # The runtime refuses some sparse files.
        return {**file, "window_ms": None, "error": str(error)}
    return {**file, "window_ms": latency}
