"""The Python lines of `docs/on_device.md`, run as they stand."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_sparse_rnn as ksr

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports need the TensorFlow backend", allow_module_level=True)
pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

PAGE = Path(__file__).parent.parent / "docs" / "on_device.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The model that the page speaks of, and the folder of its files."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="character"),
            layers.Embedding(93, 32, embeddings_initializer="orthogonal"),
            ksr.GroupedLSTM(256, groups=2, return_sequences=True, name="memory"),
            layers.Dense(93, name="scores"),
        ]
    )
    folder = tmp_path_factory.mktemp("shipped")
    step = ksr.export_tflite(model, folder / "step.tflite", streaming="states")
    ksr.export_tflite(model, folder / "sequence.tflite", time_steps=32)
    return model, folder, step


def test_the_files_are_those_of_the_page(shipped):
    _, _, report = shipped
    table = PAGE.read_text("utf-8").split("```")[1]
    for side, tensors in (("input", report.inputs), ("output", report.outputs)):
        told = [line.split() for line in table.splitlines() if line.startswith(side)]
        assert [(name, shape, dtype) for _, name, shape, dtype, *_ in told] == [
            (one.name, "×".join(map(str, one.shape)), one.dtype) for one in tensors
        ]


@pytest.mark.parametrize("block", BLOCKS, ids=["package", "interpreter", "compiled"])
def test_python(shipped, monkeypatch, block):
    model, folder, _ = shipped
    monkeypatch.chdir(folder)
    text = [int(one) for one in np.random.default_rng(0).integers(0, 93, 32)]
    names = {"np": np, "text": text, "ids": np.array([text], "int32")}
    exec(block, names)
    want = keras.ops.convert_to_numpy(model(names["ids"]))
    # What the last step of the stream gave.
    np.testing.assert_allclose(
        np.ravel(names["scores"]), want[0, -1], atol=1e-5, rtol=1e-4
    )
    if "sequence" in names:
        np.testing.assert_allclose(
            names["sequence"](names["ids"]), want, atol=1e-5, rtol=1e-4
        )
