"""Runs TFLite files, as a program of its own.

A runtime may crash, and its memory can be told only from outside of TensorFlow. Run by
`running`, and only by path: importing the package would cost seconds and memory. Reads
one folder a line from standard input, as JSON, and answers each with a line. The folder
holds `request.json`, which says what to do, and `inputs.npz`.

Each file is run by a fork of this process, so that what one leaves behind, or a crash,
concerns no other. Where processes can't be forked, they share this one.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path


def main():
    """Answers requests until there are no more."""
    # The folder of this file holds modules that are none of the runtime's business.
    sys.path.pop(0)
    # What the runtimes print goes to the log; only answers go to the caller.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Before anything is measured: what is imported is no cost of a file.
    import ai_edge_litert.compiled_model
    import ai_edge_litert.interpreter  # noqa: F401

    for line in sys.stdin:
        folder = Path(json.loads(line)["folder"])
        if hasattr(os, "fork"):
            child = os.fork()
            if child == 0:
                _answer(folder)
                sys.stderr.flush()
                # Without the ending of a process that this one will have, too.
                os._exit(0)
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
        else:
            _answer(folder)
            code = 0
        path = folder / "answer.json"
        answer = path.read_text() if path.exists() and not code else ""
        answers.write((answer or json.dumps({"crash": code})) + "\n")
        answers.flush()


def _answer(folder):
    try:
        answer = _run(folder)
    except Exception as error:
        traceback.print_exc()
        answer = {"error": f"{error}"}
    (folder / "answer.json").write_text(json.dumps(answer))


def _run(folder):
    import numpy as np

    request = json.loads((folder / "request.json").read_text())
    with np.load(folder / "inputs.npz") as loaded:
        arrays = dict(loaded)
    kind = _Classic if request["runtime"] == "Interpreter" else _Compiled
    before = _memory("VmRSS")
    model = kind(request["path"], request["threads"])
    outputs, same = {}, True
    states = request["states"]
    for e, episode in enumerate(request["episodes"]):
        model.reset()
        carried = None
        for s, names in enumerate(episode):
            inputs = {name: arrays[key] for name, key in names.items()}
            model.resize(inputs, states)
            if carried is None:
                carried = {
                    name: np.zeros(shape, "float32") for name, shape in states.items()
                }
            inputs.update(carried)
            first = model.run(inputs)
            if request["twice"]:
                second = model.run(inputs)
                same = same and all(
                    np.array_equal(first[name], second[name], equal_nan=True)
                    for name in first
                )
            carried = {name: first.pop(name) for name in states}
            for name, array in first.items():
                outputs[f"{e}/{s}/{name}"] = array
    times = []
    if request["repeats"]:
        model.resize(inputs, states)
        model.set(inputs)
        for number in range(request["warm_up"] + request["repeats"]):
            begin = time.perf_counter()
            model.invoke()
            taken = time.perf_counter() - begin
            if number >= request["warm_up"]:
                times.append(taken)
    peak = _memory("VmHWM")
    memory = None if before is None else max(0, peak - before)
    np.savez(folder / "outputs.npz", **outputs)
    return {"same": same, "memory": memory, "seconds": times}


class _Classic:
    def __init__(self, path, threads):
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=path, num_threads=threads)
        keys = self.interpreter.get_signature_list()
        if keys:
            runner = self.interpreter.get_signature_runner(_chosen(keys))
            inputs = runner.get_input_details()
            outputs = runner.get_output_details()
        else:
            inputs = _by_name(self.interpreter.get_input_details())
            outputs = _by_name(self.interpreter.get_output_details())
        self.inputs = {name: detail["index"] for name, detail in inputs.items()}
        self.outputs = {name: detail["index"] for name, detail in outputs.items()}
        self.shapes = None

    def reset(self):
        if self.shapes is not None:
            self.interpreter.reset_all_variables()

    def resize(self, inputs, states):
        shapes = {name: inputs[name].shape for name in inputs if name not in states}
        if shapes == self.shapes:
            return
        for name, shape in shapes.items():
            self.interpreter.resize_tensor_input(self.inputs[name], shape)
        self.interpreter.allocate_tensors()
        self.shapes = shapes

    def set(self, inputs):
        for name, array in inputs.items():
            self.interpreter.set_tensor(self.inputs[name], array)

    def invoke(self):
        self.interpreter.invoke()

    def run(self, inputs):
        self.set(inputs)
        self.invoke()
        return {
            name: self.interpreter.get_tensor(index)
            for name, index in self.outputs.items()
        }


class _Compiled:
    def __init__(self, path, threads):
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.options import CpuOptions, Options

        options = Options(cpu_options=CpuOptions(num_threads=threads))
        self.load = lambda: CompiledModel.from_file(path, options=options)
        self.shapes = None

    def reset(self):
        pass

    def resize(self, inputs, states):
        shapes = {name: inputs[name].shape for name in inputs if name not in states}
        if shapes == self.shapes:
            return
        # Anew: this runtime has been seen to crash when inputs are resized twice.
        self.model = self.load()
        signatures = self.model.get_signature_list()
        self.key = _chosen(signatures)
        names = signatures[self.key]
        details = self.model.get_input_tensor_details(self.key)
        for name, shape in shapes.items():
            if tuple(details[name]["shape"]) != tuple(shape):
                self.model.resize_input_tensor_by_name(self.key, name, shape)
        self.inputs = {
            name: self.model.create_input_buffer_by_name(self.key, name)
            for name in names["inputs"]
        }
        self.outputs = {
            name: self.model.create_output_buffer_by_name(self.key, name)
            for name in names["outputs"]
        }
        self.shapes = shapes

    def set(self, inputs):
        for name, array in inputs.items():
            self.inputs[name].write(array)

    def invoke(self):
        self.model.run_by_name(self.key, self.inputs, self.outputs)

    def run(self, inputs):
        import numpy as np

        self.set(inputs)
        self.invoke()
        details = self.model.get_output_tensor_details(self.key)
        made = {}
        for name, buffer in self.outputs.items():
            shape, dtype = details[name]["shape"], np.dtype(details[name]["dtype"])
            count = int(np.prod(shape))
            made[name] = np.array(buffer.read(count, dtype)).reshape(shape)
        return made


def _chosen(keys):
    """The signature that `flatfile.signature` tells of."""
    return "serving_default" if "serving_default" in keys else next(iter(keys))


def _by_name(details):
    return {detail["name"]: detail for detail in details}


def _memory(field):
    """Bytes of this process, resident now (`VmRSS`) or at most so far (`VmHWM`)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(1024 * int(x.split()[1]) for x in lines if x.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
