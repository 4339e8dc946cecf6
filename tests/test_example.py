"""The demo, in small: it runs from text to files, and writes what it prints."""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "next_word.py"
NAMES = ["dense float32", "dense int8", "sparse float32", "sparse int8"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    words = ["the", "cat", "saw", "a", "dog", "and", "the", "dog", "saw", "a", "cat"]
    text = "\n\n".join(
        " ".join(words[(i * k) % len(words)] for k in range(1, 9)) + f" number {i}"
        for i in range(80)
    )
    (folder / "own.txt").write_text(text)
    sizes = ["--dense-units", "24", "--sparse-units", "24", "--window", "8"]
    arguments = ["--text", "own.txt", "--epochs", "2", *sizes]
    printed = io.StringIO()
    # Not in a process of its own: that would import TensorFlow once more.
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(printed):
        patched.chdir(folder)
        patched.setattr(sys, "argv", [str(SCRIPT), *arguments])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return folder / "saved_models" / "next_word", printed.getvalue()


def test_report_holds_every_number_of_the_table(demo):
    folder, printed = demo
    models = json.loads((folder / "report.json").read_text())["models"]
    assert [model["name"] for model in models] == NAMES
    for model in models:
        (line,) = [
            row for row in printed.split("\n") if row.startswith(f"{model['name']} ")
        ]
        assert line[len(model["name"]) :].split() == [
            f"{model['parameters']:,}",
            f"{model['perplexity']:.2f}",
            f"{model['tflite_bytes'] / 1000:,.0f}",
            f"{model['latency_ms']:.2f}",
        ]


def test_files_are_what_the_report_says(demo):
    folder, _ = demo
    for model in json.loads((folder / "report.json").read_text())["models"]:
        path = folder / f"{model['name'].replace(' ', '_')}.tflite"
        assert path.stat().st_size == model["tflite_bytes"]
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "vocabulary.txt").read_text().split()) > 5


def test_the_exported_file_types(demo):
    _, printed = demo
    typed = printed.split("Typed by sparse_int8.tflite:")[1].strip().split("\n")[:3]
    assert all(len(line.split()) > 10 for line in typed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "nowhere.txt"], "No such file"),
        (["--epochs", "1"], "at least 2"),
        (["--text", "a.txt", "--data", "b"], "not allowed with"),
    ],
)
def test_bad_arguments_are_explained(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stopped.value.code
    # A text as exit code is what Python prints at the end.
    assert message in f"{capsys.readouterr().err}{stopped.value.code}"
