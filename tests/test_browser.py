"""The page of `examples/browser` in headless Chromium, against plain Keras."""

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

from keras_sparse_rnn.export import export_tflite

HERE = Path(__file__).parent
PAGE = HERE.parent / "examples" / "browser"
VOCABULARY = ["\0", "\n", *"abcdefghij .,"]


def missing():
    """What the test needs and does not find, with the command that brings it."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    needs = {
        "a browser (apt-get install chromium)": found,
        "Node.js (apt-get install nodejs)": shutil.which("node"),
        "LiteRT.js (npm ci in examples/browser)": (PAGE / "node_modules").exists(),
    }
    return [name for name, there in needs.items() if not there], found


LACKING, CHROMIUM = missing()
pytestmark = pytest.mark.skipif(
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


@pytest.fixture
def served(model, tmp_path):
    """The address of the page, with the model in a folder `tested/`."""
    export_tflite(model, tmp_path / "step.tflite", streaming="states")
    (tmp_path / "vocabulary.json").write_text(json.dumps(VOCABULARY))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            name = path.split("?")[0].removeprefix("/tested/")
            if name != path.split("?")[0]:
                return str(tmp_path / name)
            return super().translate_path(path)

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(PAGE))
    server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}/index.html"
    server.shutdown()
    thread.join()
    server.server_close()


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


def chances(model, text):
    """What Keras gives for the next character, from the whole text at once."""
    ids = [VOCABULARY.index(c) if c in VOCABULARY else 0 for c in f"\n{text}"]
    scores = keras.ops.convert_to_numpy(model(np.array([ids], "int32")))[0, -1]
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def completions(model, text, count=3):
    now = chances(model, text)
    letters = [k for k in np.argsort(-now) if VOCABULARY[k].isalnum()]
    found = []
    for first in letters[:count]:
        word = VOCABULARY[first]
        while len(word) < 20:
            character = VOCABULARY[int(np.argmax(chances(model, text + word)))]
            if not character.isalnum():
                break
            word += character
        found.append((word, now[first]))
    return found


def test_completes_as_keras_does(model, served):
    texts = ["", "ab", "abba cab", "abba dog é", "abba cab. fad"]
    result = in_browser(f"{served}?model=tested/", texts)
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


def test_a_missing_model_is_told_on_the_page(served):
    error = in_browser(f"{served}?model=nowhere/", [])["error"]
    assert "nowhere/vocabulary.json: 404" in error
    assert "train.py" in error
