"""Forms of recurrent layers in TFLite files: size, memory and latency.

    python benchmarks/lowering.py [figures] [forms] [--rounds 15]

`figures`: an LSTM of 512 units over 512 inputs, against the best that stock Keras can
put into a file that needs no Flex delegate: its loop, or its steps written out.
`forms`: loop, unrolled and fused over units, groups, time steps and quantization; what
`lowering="auto"` chooses follows from this table.

One example, one thread, LiteRT's Interpreter. The files of a table, or of a group of
rows, take turns in one process; times are medians over the rounds. Memory is the peak
of a process of its own that loads and runs the file.
"""

import argparse
import datetime
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_sparse_rnn as ksr
from keras_sparse_rnn.export import converter, copying, running, serving

SEED = 1


@dataclass
class File:
    """A file to time."""

    name: str
    path: Path
    shape: tuple[int, ...]
    memory: int
    difference: float
    seconds: list[float]

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def milliseconds(self) -> float:
        return 1e3 * statistics.median(self.seconds)


def model_of(layer: keras.layers.Layer, steps: int, inputs: int) -> keras.Model:
    keras.utils.set_random_seed(SEED)
    x = keras.Input((steps, inputs), batch_size=1, name="x")
    return keras.Model(x, layer(x))


def samples(shape: tuple[int, ...], count: int = 32) -> np.ndarray:
    random = np.random.default_rng(SEED)
    return random.standard_normal((count, *shape[1:])).astype("float32")


def ours(
    name: str,
    folder: Path,
    layer: keras.layers.Layer,
    steps: int,
    inputs: int,
    lowering: str,
    quantize: str | None,
) -> File:
    path = folder / f"{len(list(folder.iterdir()))}.tflite"
    shape = (1, steps, inputs)
    report = ksr.export_tflite(
        model_of(layer, steps, inputs),
        path,
        lowering,
        quantize,
        target="interpreter",
        representative_data=samples(shape) if quantize == "int8" else None,
        # Weights that were never trained are no measure of accuracy.
        max_error=0.5 if quantize else None,
    )
    memory = report.peak_memory["Interpreter"] or 0
    return File(name, path, shape, memory, report.max_difference, [])


def stock(
    name: str, folder: Path, units: int, steps: int, unroll: bool, quantize: str | None
) -> File:
    """Keras's own layer, converted as it is."""
    path = folder / f"{len(list(folder.iterdir()))}.tflite"
    layer = keras.layers.LSTM(
        units, return_sequences=True, unroll=unroll, use_cudnn=False
    )
    model = model_of(layer, steps, units)
    graph = copying.copy_model(model, lambda layer: None)
    served = serving.serving(graph)
    shape = (1, steps, units)
    drawn = samples(shape)
    content = converter.convert(
        served.function,
        [variable.value for variable in graph.variables],
        quantize,
        [{"x": one[None]} for one in drawn] if quantize == "int8" else [],
    )
    path.write_bytes(content)
    run = running.run(path, "Interpreter", [[{"x": drawn[:1]}]])
    (output,) = run.outputs[0][0].values()
    want = keras.ops.convert_to_numpy(model(drawn[:1]))
    return File(
        name, path, shape, run.memory or 0, float(np.abs(output - want).max()), []
    )


def take_turns(files: list[File], rounds: int) -> None:
    """Times all files, one after another, round after round."""
    models = [ksr.TFLiteModel(one.path) for one in files]
    inputs = [samples(one.shape, 1) for one in files]
    # About as long for each: many runs of a quick one.
    repeats = []
    for model, x in zip(models, inputs, strict=True):
        taken = 1e-3 * model.latency(x, repeats=5)
        repeats.append(max(3, min(200, int(0.05 / taken))))
    for _ in range(rounds):
        for one, model, x, count in zip(files, models, inputs, repeats, strict=True):
            one.seconds.append(1e-3 * model.latency(x, repeats=count))


def table(files: list[File], against: dict[str, File]) -> None:
    print("| form | kB | memory, MB | ms | × faster | × smaller | difference |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for one in files:
        base = against[one.name]
        print(
            f"| {one.name} | {one.size / 1e3:,.0f} | {one.memory / 1e6:.1f} "
            f"| {one.milliseconds:.3f} "
            f"| {base.milliseconds / one.milliseconds:.2f} "
            f"| {base.size / one.size:.2f} | {one.difference:.1g} |"
        )
    print(flush=True)


def figures(folder: Path, rounds: int) -> None:
    units, steps = 512, 32
    files, against = [], {}
    best: dict[str | None, File] = {}
    for quantize in (None, "float16", "dynamic", "int8"):
        kind = quantize or "float32"
        group = []
        for unroll in (False, True):
            if quantize == "int8" and not unroll:
                continue  # The converter crashes on it.
            form = "unrolled" if unroll else "loop"
            name = f"stock Keras, {form}, {kind}"
            group.append(stock(name, folder, units, steps, unroll, quantize))
        rivals = list(group)
        for groups, density in ((1, 1.0), (4, 0.25)):
            for form in ("loop", "unrolled", "fused"):
                if quantize == "int8" and form != "unrolled":
                    continue
                layer = ksr.GroupedLSTM(units, groups, density, return_sequences=True)
                what = "dense" if groups == 1 else f"{groups} groups, ¼ of the inputs"
                name = f"{what}, {form}, {kind}"
                made = ours(name, folder, layer, steps, units, form, quantize)
                group.append(made)
        files.append((group, rivals))
    everything = [one for group, _ in files for one in group]
    take_turns(everything, rounds)
    for (group, rivals), quantize in zip(
        files, (None, "float16", "dynamic", "int8"), strict=True
    ):
        best[quantize] = min(rivals, key=lambda one: one.milliseconds)
        against = {one.name: best[quantize] for one in group}
        print(f"\nAgainst {best[quantize].name}:\n")
        table(group, against)
    quantized = [
        one for group, _ in files[2:] for one in group if "stock" not in one.name
    ]
    print(f"\nQuantized, against {best[None].name}:\n")
    table(quantized, {one.name: best[None] for one in quantized})


def forms(folder: Path, rounds: int) -> None:
    for quantize in (None, "dynamic", "int8"):
        print(f"\n{quantize or 'float32'}:\n")
        print("| units | groups | steps | form | kB | memory, MB | ms |")
        print("|--:|--:|--:|---|--:|--:|--:|")
        for units in (32, 128, 512):
            for groups in (1, 4):
                for steps in (8, 32, 128):
                    files = []
                    for form in ("loop", "unrolled", "fused"):
                        if quantize == "int8" and form != "unrolled":
                            continue
                        if units * steps > 512 * 32 and form == "unrolled":
                            continue
                        layer = ksr.GroupedLSTM(
                            units, groups, 1 / groups, return_sequences=True
                        )
                        files.append(
                            ours(form, folder, layer, steps, units, form, quantize)
                        )
                    take_turns(files, rounds)
                    for one in files:
                        print(
                            f"| {units} | {groups} | {steps} | {one.name} "
                            f"| {one.size / 1e3:,.0f} | {one.memory / 1e6:.1f} "
                            f"| {one.milliseconds:.3f} |",
                            flush=True,
                        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"figures": figures, "forms": forms}
    parser.add_argument("part", nargs="*", help=", ".join(parts))
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, one thread, seed {SEED}, "
        f"{datetime.date.today()}"
    )
    for name in arguments.part or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder), arguments.rounds)
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
