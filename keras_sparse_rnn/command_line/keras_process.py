"""Loads one `.keras` file and times it, as a program of its own.

Threads can be chosen, and memory told, only for a whole process. Run by `keras_timer`.
It reads requests as lines of JSON and answers each with one: the first says what to
load, each further one how often to call the model.
"""

import json
import os
import sys
import time
from pathlib import Path


def main():
    """Answers requests until there are no more."""
    # Next to this file are modules that bear the names of others.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    # Nothing but answers goes to whoever asked.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if serve is None:
                serve, answer = _load(**request)
            else:
                answer = serve(**request)
        except Exception as error:
            answer = {"error": f"{_prefix(error)}{error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _load(path, threads, batch_size, time_steps):
    import keras

    from keras_sparse_rnn._graphs import as_graph
    from keras_sparse_rnn._models import is_graph
    from keras_sparse_rnn.command_line import feeding, loading

    limited = _limit(keras.backend.backend(), threads)
    loading.import_keras()
    before = _memory("VmRSS")
    model = loading.load(Path(path))
    if not is_graph(model):
        model = as_graph(model)
    arrays, inputs = [], []
    for one in model.inputs:
        name = f"'{one.name}' of '{path}'"
        shape = feeding.filled(one.shape, batch_size, time_steps, name)
        arrays.append(feeding.array(shape, one.dtype, name))
        inputs.append({"name": one.name, "shape": list(shape)})
    given = arrays[0]
    if not isinstance(model, keras.Sequential):
        given = keras.tree.pack_sequence_as(model.input, arrays)

    def serve(warm_up, repeats):
        seconds = []
        for number in range(warm_up + repeats):
            begin = time.perf_counter()
            model.predict_on_batch(given)
            taken = time.perf_counter() - begin
            if number >= warm_up:
                seconds.append(taken)
        peak = _memory("VmHWM")
        memory = None if before is None or peak is None else max(0, peak - before)
        return {"seconds": seconds, "memory": memory}

    # Compiling is no part of a call, be there a warm-up or not.
    model.predict_on_batch(given)
    timed = f"Keras's predict_on_batch ({keras.backend.backend()}, CPU)"
    if not limited:
        timed += ", with threads of its own choice"
    return serve, {"timed": timed, "inputs": inputs}


def _limit(backend, threads):
    """Sets the number of threads where there is a way to."""
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    elif backend == "torch":
        import torch

        torch.set_num_threads(threads)
    else:
        return False
    return True


def _prefix(error):
    from keras_sparse_rnn.command_line.output import CommandError

    return "" if isinstance(error, CommandError) else f"{type(error).__name__}: "


def _memory(field):
    """Bytes of this process, resident now (`VmRSS`) or at most so far (`VmHWM`)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(1024 * int(x.split()[1]) for x in lines if x.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
