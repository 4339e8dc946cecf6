"""The page of `examples/browser` in headless Chromium, against plain Keras.

And, without a browser: a step file driven by the positions of its states, as the
Kotlin and Swift lines of `docs/on_device.md` do it.
"""

import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_sparse_rnn import GroupedLSTM

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports need the TensorFlow backend", allow_module_level=True)
pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.interpreter import Interpreter

from keras_sparse_rnn.export import export_tflite

HERE = Path(__file__).parent
PAGE = HERE.parent / "examples" / "browser"
VOCABULARY = ["\0", "\n", *"abcdefghij .,"]


def missing():
    """What the test needs and does not find, with the command that brings it."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    needs = {
        "browser (apt-get install chromium)": found,
        "Node.js (apt-get install nodejs npm)": shutil.which("node"),
        "LiteRT.js and Playwright (npm ci in examples/browser)": all(
            (PAGE / "node_modules" / name).exists()
            for name in ("@litertjs/core", "@litertjs/wasm-utils", "playwright-core")
        ),
    }
    return [name for name, there in needs.items() if not there], found


LACKING, CHROMIUM = missing()
in_a_browser = pytest.mark.skipif(
    bool(LACKING),
    reason=f"NOT TESTED IN A BROWSER: there is no {', no '.join(LACKING)}",
)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(4)
    wide = keras.initializers.RandomNormal(stddev=0.7)
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="character"),
            layers.Embedding(len(VOCABULARY), 8, embeddings_initializer=wide),
            GroupedLSTM(
                12,
                groups=2,
                return_sequences=True,
                kernel_initializer=wide,
                recurrent_initializer=wide,
            ),
            layers.GRU(9, return_sequences=True),
            layers.Dense(len(VOCABULARY), kernel_initializer=wide, name="scores"),
        ]
    )


@pytest.fixture(scope="module")
def models(model, tmp_path_factory):
    """Folders with models, one that works and others that do not."""
    folder = tmp_path_factory.mktemp("models")
    names = ("step", "missing", "damaged", "sequence")
    for name in names:
        (folder / name).mkdir()
        (folder / name / "vocabulary.json").write_text(json.dumps(VOCABULARY))
    file = folder / "step" / "step.tflite"
    export_tflite(model, file, streaming="states")
    (folder / "damaged" / file.name).write_bytes(file.read_bytes()[:1000])
    export_tflite(model, folder / "sequence" / file.name, time_steps=4)
    return folder


@pytest.fixture
def serve(models):
    """Serves the page, without some of its files, and gives its address."""
    with contextlib.ExitStack() as stack:

        def start(model, hidden=()):
            class Handler(http.server.SimpleHTTPRequestHandler):
                def translate_path(self, path):
                    path = path.split("?")[0]
                    if path.startswith(hidden):
                        return str(models / "not there")
                    if path.startswith("/models/"):
                        return str(models / path.removeprefix("/models/"))
                    return super().translate_path(path)

                def log_message(self, *_):
                    pass

            handler = functools.partial(Handler, directory=str(PAGE))
            server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
            stack.callback(server.server_close)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            at = f"http://localhost:{server.server_port}/index.html"
            return f"{at}?model=models/{model}/"

        yield start


def in_browser(url, texts):
    done = subprocess.run(
        [
            "node",
            str(HERE / "browser_page.mjs"),
            str(PAGE / "node_modules"),
            CHROMIUM,
            url,
            json.dumps(texts),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def scores(model, text):
    """What Keras gives for the next character, from the whole text at once."""
    ids = [VOCABULARY.index(c) if c in VOCABULARY else 0 for c in f"\n{text}"]
    # Filled up to one length, so that Keras traces once; what comes after a character
    # does not change its scores.
    padded = np.zeros((1, 48), "int32")
    padded[0, : len(ids)] = ids
    return model.predict_on_batch(padded)[0, len(ids) - 1]


def chances(model, text):
    now = scores(model, text)
    powers = np.exp(now - now.max())
    return powers / powers.sum()


def completions(model, text, count=3):
    now = chances(model, text)
    letters = [k for k in np.argsort(-now) if VOCABULARY[k].isalnum()]
    found = []
    for first in letters[:count]:
        word, chance = VOCABULARY[first], now[first]
        while len(word) < 20:
            after = chances(model, text + word)
            character = VOCABULARY[int(np.argmax(after))]
            if not character.isalnum():
                break
            word, chance = word + character, chance * after.max()
        found.append((word, chance))
    return found


@in_a_browser
def test_completes_as_keras_does(model, serve):
    # The last ones correct an earlier one: at its end, in a word, at its beginning.
    texts = ["", "ab", "abba cab", "abba dog é", "abba cab. fad", "abba cab. f"]
    texts += ["abba dig", "j"]
    result = in_browser(serve("step"), texts)
    assert result["errors"] == []
    assert [one["text"] for one in result["shown"]] == texts
    for one in result["shown"]:
        expected = completions(model, one["text"])
        assert [word["word"] for word in one["words"]] == [w for w, _ in expected]
        np.testing.assert_allclose(
            [word["chance"] for word in one["words"]],
            [chance for _, chance in expected],
            atol=1e-4,
        )
        assert one["accepted"] == one["text"] + expected[0][0]


@in_a_browser
@pytest.mark.parametrize(
    ("model_folder", "hidden", "told"),
    [
        ("nowhere", (), ["nowhere/vocabulary.json: 404", "train.py"]),
        ("missing", (), ["missing/step.tflite: 404", "train.py"]),
        ("damaged", (), ["damaged/step.tflite", "can't load", "train.py"]),
        ("sequence", (), ["state_", 'streaming="states"']),
        ("step", ("/node_modules/",), ["LiteRT.js", "npm ci", "http.server"]),
        ("step", ("/node_modules/@litertjs/core/wasm/",), ["wasm", "npm ci"]),
    ],
    ids=["no folder", "no file", "damaged", "no step", "no LiteRT.js", "no wasm"],
)
def test_what_is_missing_is_told_on_the_page(serve, model_folder, hidden, told):
    error = in_browser(serve(model_folder, hidden), [])["error"]
    assert [words for words in told if words not in error] == []


TYPED = "abba cab. fad"


def test_a_stream_by_positions_in_the_interpreter(model, models):
    step = Interpreter(str(models / "step" / "step.tflite"))
    step.allocate_tensors()
    given = [one["index"] for one in step.get_input_details()]
    made = [one["index"] for one in step.get_output_details()]
    states = range(1, len(given))
    for state in states:
        step.set_tensor(given[state], np.zeros_like(step.get_tensor(given[state])))
    for character in f"\n{TYPED}":
        step.set_tensor(given[0], np.array([[VOCABULARY.index(character)]], "int32"))
        step.invoke()
        for state in states:
            step.set_tensor(given[state], step.get_tensor(made[state]))
    np.testing.assert_allclose(
        np.ravel(step.get_tensor(made[0])), scores(model, TYPED), atol=1e-5, rtol=1e-4
    )


def test_a_stream_by_positions_in_the_compiled_model(model, models):
    step = CompiledModel.from_file(str(models / "step" / "step.tflite"))
    given, made = step.create_input_buffers(0), step.create_output_buffers(0)
    # The LSTM's h and c, then the GRU's h.
    sizes = {1: 12, 2: 12, 3: 9}
    for state, size in sizes.items():
        given[state].write(np.zeros(size, "float32"))
    for character in f"\n{TYPED}":
        given[0].write(np.array([VOCABULARY.index(character)], "int32"))
        step.run_by_index(0, given, made)
        for state, size in sizes.items():
            given[state].write(np.array(made[state].read(size, np.float32)))
    np.testing.assert_allclose(
        made[0].read(len(VOCABULARY), np.float32),
        scores(model, TYPED),
        atol=1e-5,
        rtol=1e-4,
    )
