"""What importing the package brings with it, and what it does not."""

import importlib.util
import os
import subprocess
import sys

import conftest
import pytest

import keras_sparse_rnn


def in_new_process(code, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


LOADED = """
import sys
import keras_sparse_rnn
assert "GroupedLSTM" in dir(keras_sparse_rnn)
print(*[name for name in ("tensorflow", "tf_keras", "ai_edge_litert",
                          "tensorflow_model_optimization")
        if name in sys.modules])
"""


@pytest.mark.parametrize("backend", conftest.often(["jax", "torch"], "jax"))
def test_importing_brings_no_tensorflow_on_other_backends(backend):
    assert in_new_process(LOADED, backend) == []


def test_importing_brings_no_tf_keras_and_no_export_on_tensorflow():
    assert in_new_process(LOADED, "tensorflow") == ["tensorflow"]


@pytest.mark.parametrize("name", keras_sparse_rnn.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(keras_sparse_rnn, name).__doc__


def test_names_of_the_issue_are_public():
    assert {
        "GroupedLSTM",
        "TieredEmbedding",
        "ISSPruning",
        "ISSRegularizer",
        "shrink",
        "export_saved_model",
        "export_tflite",
    } <= set(keras_sparse_rnn.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = keras_sparse_rnn.no_such_name
