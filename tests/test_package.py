"""The wheel and the sdist build, and the wheel works where it is installed."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    return folder


def test_sdist_and_wheel_build(built):
    assert len(list(built.glob("keras_sparse_rnn-*.tar.gz"))) == 1
    assert len(list(built.glob("keras_sparse_rnn-*.whl"))) == 1


def test_wheel_holds_the_package_alone(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "keras_sparse_rnn/py.typed" in names
    assert "keras_sparse_rnn/export/lowering/loop.py" in names
    assert all(name.startswith("keras_sparse_rnn") for name in names)


def test_wheel_works_elsewhere(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        ["pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)],
        executable=Path(sys.executable).with_name("pip"),
        check=True,
        capture_output=True,
    )
    code = (
        "import keras_sparse_rnn as ksr, numpy as np; print(ksr.__file__);"
        "print(ksr.GroupedLSTM(6, 2)(np.zeros((1, 3, 4), 'float32')).shape)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    where, shape = result.stdout.split("\n")[:2]
    assert Path(where).is_relative_to(site)
    assert shape == "(1, 6)"
