"""The tagger's data, and the tagger in small, from files to tags by its files."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "pos_tagging.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pos_tagging", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["pos_tagging"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["pos_tagging"]


def test_names_of_a_source_have_their_roles(script):
    source = (
        "import os.path as place\n"
        "class Dog(Animal):\n"
        "    async def bark(self, times=1):\n"
        "        self.tired = print('wau', end=times)\n"
    )
    assert script.lines_of_source(source) == [
        [
            ("import", "keyword"),
            ("os", "module"),
            (".", "operator"),
            ("path", "module"),
            ("as", "keyword"),
            ("place", "imported as"),
        ],
        [
            ("class", "keyword"),
            ("Dog", "class"),
            ("(", "operator"),
            ("Animal", "variable"),
            (")", "operator"),
            (":", "operator"),
        ],
        [
            ("async", "keyword"),
            ("def", "keyword"),
            ("bark", "function"),
            ("(", "operator"),
            ("self", "argument"),
            (",", "operator"),
            ("times", "argument"),
            ("=", "operator"),
            ("<number>", "number"),
            (")", "operator"),
            (":", "operator"),
        ],
        [
            ("self", "variable"),
            (".", "operator"),
            ("tired", "attribute"),
            ("=", "operator"),
            ("print", "builtin"),
            ("(", "operator"),
            ("<string>", "string"),
            (",", "operator"),
            ("end", "keyword argument"),
            ("=", "operator"),
            ("times", "variable"),
            (")", "operator"),
        ],
    ]


def test_names_in_odd_places_have_their_roles(script):
    source = (
        "from collections.abc import Sized as S\n"
        "class  Ä(S):\n"
        "    größe = 1; b = größe.breite\n"
        "    async  def f(ä): return ä.größe\n"
        "    try: pass\n"
        "    except E as err: pass\n"
        "from . import near\n"
    )
    roles = [dict(line) for line in script.lines_of_source(source)]
    assert roles[0]["collections"] == roles[0]["abc"] == "module"
    assert (roles[0]["Sized"], roles[0]["S"]) == ("imported name", "imported as")
    assert (roles[1]["Ä"], roles[1]["class"]) == ("class", "keyword")
    assert roles[2]["breite"] == "attribute"
    assert (roles[3]["f"], roles[3]["async"]) == ("function", "keyword")
    assert (roles[3]["größe"], roles[3]["ä"]) == ("attribute", "variable")
    except_ = next(line for line in roles if "err" in line)
    assert (except_["err"], except_["as"]) == ("variable", "keyword")
    assert roles[-1]["near"] == "imported name"


def test_words_are_numbered_in_the_order_asked_for(script):
    sentence = [(word, "t") for word in ["a", "b", "b", "c", "c", "c"]]
    parts = {"train": [sentence], "dev": [], "test": [[("c", "t"), ("new", "u")]]}
    counts = {
        order: script.corpus(parts, order, 1).counts.tolist() for order in script.ORDERS
    }
    assert counts["frequent first"] == [0, 0, 3, 2, 1]
    assert counts["rare first"] == [0, 0, 1, 2, 3]
    assert sorted(counts["in no order"]) == [0, 0, 1, 2, 3]
    data = script.corpus(parts, "frequent first", 1)
    np.testing.assert_array_equal(data.words["test"][0], [2, script.UNKNOWN])
    # A tag that was never seen can't be right, and is counted.
    np.testing.assert_array_equal(data.tags["test"][0], [0, -1])
    assert script.share_alike(data.tags["test"], [np.array([0, 0])]) == 0.5


def write(path, sentences):
    lines = ["\n".join("\t".join(token) for token in one) for one in sentences]
    path.write_text("\n\n".join(lines) + "\n\n")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Words whose tag is known only with the word before them."""
    folder = tmp_path_factory.mktemp("tags")
    generator = np.random.default_rng(0)

    def sentence():
        length = generator.integers(2, 9)
        # As in texts, the first words are the frequent ones.
        ranks = np.exp(generator.random(length) * np.log(30)).astype(int)
        odd = np.concatenate([[0], ranks[:-1] % 2])
        return [
            (f"w{rank}", "x", f"{'low' if rank < 5 else 'high'}{after}")
            for rank, after in zip(ranks, odd, strict=True)
        ]

    paths = []
    for name, count in (("train", 600), ("dev", 20), ("test", 60)):
        paths.append(folder / f"{name}.tsv")
        write(paths[-1], [sentence() for _ in range(count)])
    return [str(path) for path in paths]


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    script.main()


@pytest.mark.long
def test_tagger_learns_and_its_files_tag_alike(
    script, files, monkeypatch, tmp_path, capsys
):
    settings = ["--tags", 2, "--epochs", 12, "--learning-rate", 0.02, "--verbose", 0]
    run(
        script, monkeypatch, "--files", *files, *settings, "--out", tmp_path,
        "--groups", 2, "--word-dropout", 0, "--dropout", 0,
    )  # fmt: skip
    rows = json.loads((tmp_path / "files.json").read_text())["files"]
    kinds = ["dense float32", "dense int8", "tiered float32", "tiered int8"]
    assert [row["name"] for row in rows] == kinds
    for row in rows:
        assert row["accuracy"] > 0.95
        assert row["same_as_keras"] >= (1 if "float" in row["name"] else 0.98)
        path = tmp_path / f"{row['name'].replace(' ', '_')}.tflite"
        assert path.stat().st_size == row["bytes"]
        assert "FLEX" not in " ".join(row["operators"]).upper()
    assert rows[2]["embedding"] < 0.3 * rows[0]["embedding"]
    printed = capsys.readouterr().out
    assert f"{rows[2]['bytes'] / 1000:,.0f}" in printed.split("tiered float32")[1]
    # So few words that all blocks of the short vectors stay as they are.
    assert rows[2]["bytes"] == rows[3]["bytes"]
    assert "'tiered int8' is as large as 'tiered float32': blocks" in printed


@pytest.mark.long
def test_study_answers_both_questions_and_goes_on(
    script, files, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(script, "LENGTHS", (2, 20))
    monkeypatch.setattr(script, "DENSITIES", (0.1,))
    settings = ["--study", "--seeds", 1, "--tags", 2, "--epochs", 1, "--verbose", 0]
    arguments = ["--files", *files, *settings, "--out", tmp_path]
    run(script, monkeypatch, *arguments)
    first = capsys.readouterr().out
    results = json.loads((tmp_path / "study.json").read_text())["runs"]
    assert len(results) == 5
    accuracy = f"{100 * results['tiered, 2, rare first, seed 1']['accuracy']:.2f}"
    (row,) = [line for line in first.split("\n") if line.startswith("| 0.1 |")]
    assert row.split(" | ")[-1].strip(" |") == accuracy
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(script, "train", None)
    run(script, monkeypatch, *arguments)
    assert row in capsys.readouterr().out
    with pytest.raises(
        SystemExit, match=r"other settings or other data.*another --out"
    ):
        run(script, monkeypatch, *arguments, "--units", 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, not 0"),
        (["--density", "0.01"], "between 0.05, one of 20 features"),
        (["--groups", "11"], "10 units can't be in 11"),
        (["--dropout", "1"], "must lie in"),
    ],
)
def test_impossible_settings_are_named(script, arguments, message, capsys):
    with pytest.raises(SystemExit):
        script.arguments(arguments)
    assert message in capsys.readouterr().err


def test_another_backend_is_refused(script, files, monkeypatch):
    monkeypatch.setattr(script.keras.backend, "backend", lambda: "jax")
    with pytest.raises(SystemExit, match=r"runs on jax: set KERAS_BACKEND=tensorflow"):
        run(script, monkeypatch, "--files", *files)


@pytest.mark.parametrize(
    ("text", "message"),
    [("word\n", "line 1 has 1 columns"), (None, "No such file")],
)
def test_bad_files_are_explained(script, tmp_path, text, message):
    path = tmp_path / "train.tsv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit, match=message):
        script.of_file(path, 1)
