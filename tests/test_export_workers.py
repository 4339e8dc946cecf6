"""Programs in processes of their own: what they answer, and how they end."""

import os
import signal

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports need the TensorFlow backend", allow_module_level=True)
pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

from keras_sparse_rnn.export import running
from keras_sparse_rnn.export.workers import Crash, Worker

PROGRAM = """
import json, os, signal, sys
for line in sys.stdin:
    request = json.loads(line)
    print("INFO: noise", file=sys.stderr, flush=True)
    if request["do"] == "die":
        print("last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if request["do"] == "leave":
        sys.exit(3)
    if request["do"] == "fail":
        answer = {"error": "no such thing"}
    else:
        answer = {"error": None, "pid": os.getpid()}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def worker(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    made = Worker(str(path))
    yield made
    made.close()


def test_one_process_answers_all(worker):
    first = worker.ask(do="answer")["pid"]
    with pytest.raises(RuntimeError, match=r"^no such thing$"):
        worker.ask(do="fail")
    assert worker.ask(do="answer")["pid"] == first != os.getpid()


def test_a_crash_is_an_error_and_another_process_takes_over(worker):
    first = worker.ask(do="answer")["pid"]
    with pytest.raises(Crash, match=r"signal SIGSEGV\). Its last words: last words"):
        worker.ask(do="die")
    second = worker.ask(do="answer")["pid"]
    assert second != first
    with pytest.raises(Crash, match=r"exit status 3"):
        worker.ask(do="leave")
    # Killed between two requests, too.
    third = worker.ask(do="answer")["pid"]
    os.kill(third, signal.SIGKILL)
    os.waitpid(third, os.WNOHANG)
    while True:
        try:
            assert worker.ask(do="answer")["pid"] != third
            break
        except Crash:
            continue


# Newer versions of Python warn of forks beside threads, which is what is tested.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_a_worker_of_its_own(worker):
    first = worker.ask(do="answer")["pid"]
    child = os.fork()
    if child == 0:
        same = worker.ask(do="answer")["pid"] == first
        worker.close()
        os._exit(int(same))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert worker.ask(do="answer")["pid"] == first


@pytest.mark.parametrize("runtime", running.RUNTIMES)
def test_a_file_that_does_not_load_is_an_error(tmp_path, runtime):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\x1c\x00\x00\x00TFL3 nothing more")
    with pytest.raises(RuntimeError):
        running.run(path, runtime, [[{}]])
