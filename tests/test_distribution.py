"""Several devices against one: the scripts of `distribution/`, and the docs' programs.

How many devices there are is decided when a backend starts, so all of this runs in
processes of its own.
"""

import concurrent.futures
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE / "distribution"
DOCS = HERE.parent / "docs" / "distribution.md"

needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)


def printed_by(script, *arguments, backend, **environment):
    """What a script prints. It may neither fail nor warn of anything."""
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "KERAS_BACKEND": backend,
            "JAX_PLATFORMS": "cpu",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **environment,
            # Most of the time would go into optimizing tiny programs.
            "XLA_FLAGS": "--xla_backend_optimization_level=0 "
            + environment.get("XLA_FLAGS", ""),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning:" not in done.stderr
    assert "WARNING:tensorflow" not in done.stderr
    return done.stdout


def printed_by_processes(script, count):
    """What the same script prints in each of `count` processes that work together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def printed(number):
        return printed_by(
            script,
            backend="jax",
            KERAS_DISTRIBUTION_JOB_ADDRESSES=f"127.0.0.1:{port}",
            KERAS_DISTRIBUTION_NUM_PROCESSES=str(count),
            KERAS_DISTRIBUTION_PROCESS_ID=str(number),
        )

    def all_printed():
        with concurrent.futures.ThreadPoolExecutor(count) as together:
            return list(together.map(printed, range(count)))

    try:
        return all_printed()
    except AssertionError as error:
        # JAX gives processes up that it did not hear of for 100 seconds. That happens
        # where a virtual machine is suspended, whatever the processes compute.
        if "stopped sending heartbeats" not in str(error):
            raise
        return all_printed()


def last_line(printed):
    """The result; JAX's processes print of their own before it."""
    return json.loads(printed.splitlines()[-1])


def assert_same_training(many, one):
    assert one["losses"][-1] < 0.9 * one["losses"][0]
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-6)
    for ours, theirs in zip(many["weights"], one["weights"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def four_devices():
    printed = printed_by(
        SCRIPTS / "jax_devices.py",
        backend="jax",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    lines = map(json.loads, printed.splitlines())
    return {name: case for line in lines for name, case in line.items()}


@pytest.mark.long
@needs_jax
@pytest.mark.parametrize("case", ["data", "groups"])
def test_four_devices_learn_what_one_does(four_devices, case):
    assert_same_training(four_devices[case]["many"], four_devices[case]["one"])


@pytest.mark.long
@needs_jax
def test_a_rule_gives_each_device_its_groups(four_devices):
    # Groups, batch, size; size without and with gates: the steps back, and forth.
    together = four_devices["data"]["products in the loop"]
    assert together == [[4, 2, 8], [4, 2, 32]]
    divided = four_devices["groups"]["products in the loop"]
    assert divided == [[2, 4, 8], [2, 4, 32]]


@pytest.mark.long
@needs_jax
@pytest.mark.parametrize("case", ["data", "groups"])
def test_devices_do_not_wait_for_each_other_in_the_loop(four_devices, case):
    assert four_devices[case]["exchanges in the loop"] == []


@pytest.mark.long
@needs_jax
def test_with_data_parallel_devices_exchange_gradients_alone(four_devices):
    assert four_devices["data"]["exchanges outside"] == ["all-reduce"]


@pytest.mark.long
@needs_jax
@pytest.mark.parametrize("variables", ["kept", "kept by the optimizer"])
def test_rules_cut_variables_along_their_last_axis(four_devices, variables):
    whole = four_devices["data"][variables].values()
    assert all(part == shape for shape, part in whole)
    found = {
        path: [shape, part]
        for path, (shape, part) in four_devices["groups"][variables].items()
        if "group_" in path
    }
    assert len(found) == 4 * 3
    for *rest, last in found.values():
        assert last == [*rest[0][:-1], rest[0][-1] // 2]


@pytest.mark.long
@needs_jax
@pytest.mark.parametrize(
    ("case", "received"),
    [
        ("three groups", "3 groups, 2 devices"),
        ("two axes", r"axes=\('model', None\)"),
    ],
)
def test_a_rule_that_can_not_be_followed_is_an_error(four_devices, case, received):
    assert re.search(f"/groups' must have three axes.*{received}", four_devices[case])


@pytest.mark.long
@needs_jax
def test_groups_of_different_sizes_are_divided_too(four_devices):
    case = four_devices["uneven"]
    assert_same_training(case["many"], case["one"])
    # All at the size of the largest, 5; a GRU has three gates.
    assert case["products in the loop"] == [[2, 8, 5], [2, 8, 15]]
    assert case["exchanges in the loop"] == []


@pytest.mark.long
@needs_jax
def test_two_processes_learn_what_one_device_does(four_devices):
    one = four_devices["data"]["one"]
    for two in map(last_line, printed_by_processes(SCRIPTS / "processes.py", 2)):
        assert two["processes"] == 2
        assert_same_training(two["data"], one)
        assert_same_training(two["groups"], one)


@pytest.fixture(scope="module")
def two_replicas():
    return last_line(printed_by(SCRIPTS / "two_replicas.py", backend="tensorflow"))


@pytest.mark.long
def test_two_replicas_learn_what_one_device_does(two_replicas):
    assert two_replicas["replicas"] == 2
    assert_same_training(two_replicas["many"], two_replicas["one"])


@pytest.mark.long
def test_two_replicas_prune_what_one_device_does(two_replicas):
    one, many = two_replicas["one pruned"], two_replicas["many pruned"]
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-6)
    assert many["group_sizes"] == one["group_sizes"]
    assert sum(one["group_sizes"]) == 16


def program(title):
    """The program below a title of the docs."""
    text = DOCS.read_text(encoding="utf-8")
    _, below = text.split(f"## {title}\n")
    return re.search(r"```python\n(.*?)```", below, re.DOTALL)[1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("title", "backend"),
    [
        pytest.param("Groups on devices of their own", "jax", marks=needs_jax),
        ("A share of each batch on each device, with TensorFlow", "tensorflow"),
    ],
)
def test_programs_of_the_docs_run(title, backend, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(program(title), encoding="utf-8")
    printed_by(script, backend=backend)


@pytest.mark.long
@needs_jax
def test_program_of_the_docs_runs_in_two_processes(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(program("Several processes, with JAX"), encoding="utf-8")
    printed_by_processes(script, 2)
