"""Training steps and predictions of grouped layers against stock Keras, in turn.

    python benchmarks/grouped_rnn.py [part ...] [--repeats 9]

Every contender is a one-layer model with a small dense output, trained by
`train_on_batch` on the same random batch. The contenders of a table take turns in one
process, so that what else the machine does falls on all of them; a ratio (×) compares
medians with the first row's. Without a part all run, and those in BACKENDS once more on
JAX and PyTorch, each in a process of its own.

"Peak" is the share of the machine's matrix-product peak (a 2048×2048 product on the
same backend) at which a training step does the products that it can't do without.
"""

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops

import keras_sparse_rnn as ksr

SEED = 1


@dataclass
class Contender:
    """A layer to time."""

    name: str
    # The layer's input and its output, as Keras tensors.
    build: Callable[[keras.KerasTensor], keras.KerasTensor]


def stock(kind: str, units: int) -> Contender:
    layer = getattr(keras.layers, kind)
    return Contender(f"keras.layers.{kind}({units})", lambda x: layer(units)(x))


def grouped(kind: str, units: int, groups: int, density: float = 1.0) -> Contender:
    layer = getattr(ksr, f"Grouped{kind}")
    name = f"Grouped{kind}({units}, {groups}" + (
        f", {density:g})" if density < 1 else ")"
    )
    return Contender(name, lambda x: layer(units, groups, density)(x))


def in_a_row(kind: str, units: int, groups: int) -> Contender:
    """What a user would write without this package: small layers one after another."""
    layer = getattr(keras.layers, kind)

    def build(x: keras.KerasTensor) -> keras.KerasTensor:
        parts = [layer(units // groups)(x) for _ in range(groups)]
        return keras.layers.Concatenate()(parts)

    return Contender(f"{groups} × keras.layers.{kind}({units // groups})", build)


def in_a_row_of_windows(kind: str, units: int, groups: int) -> Contender:
    """The same, each with its own part of the inputs."""
    layer = getattr(keras.layers, kind)

    def build(x: keras.KerasTensor) -> keras.KerasTensor:
        width = x.shape[-1] // groups
        windows = [x[..., g * width : (g + 1) * width] for g in range(groups)]
        return keras.layers.Concatenate()([layer(units // groups)(w) for w in windows])

    name = f"{groups} × keras.layers.{kind}({units // groups}), a window each"
    return Contender(name, build)


def equally_many_weights(
    kind: str, units: int, groups: int, density: float
) -> Contender:
    """The stock layer with as many weights as a grouped one with `units` inputs."""
    target = density * units**2 + units**2 / groups
    return stock(kind, round((-units + (units**2 + 4 * target) ** 0.5) / 2))


def torch_lstm(units: int) -> Contender:
    """PyTorch's own layer, as Keras would call it."""
    import torch

    class TorchLSTM(keras.layers.Layer):
        def build(self, shape):
            module = torch.nn.LSTM(shape[-1], units, batch_first=True)
            self.module = keras.layers.TorchModuleWrapper(module)

        def compute_output_shape(self, shape):
            return (shape[0], units)

        def call(self, x):
            return self.module(x)[0][:, -1]

    return Contender(f"torch.nn.LSTM({units})", lambda x: TorchLSTM()(x))


def lstm(units: int = 1024) -> list[Contender]:
    contenders = [
        stock("LSTM", units),
        grouped("LSTM", units, 1),
        in_a_row("LSTM", units, 4),
        grouped("LSTM", units, 4),
        in_a_row_of_windows("LSTM", units, 4),
        grouped("LSTM", units, 4, 0.25),
        equally_many_weights("LSTM", units, 4, 0.25),
    ]
    if keras.backend.backend() == "torch":
        contenders.append(torch_lstm(units))
    return contenders


def few(kind: str, units: int = 1024) -> list[Contender]:
    return [
        stock(kind, units),
        grouped(kind, units, 1),
        grouped(kind, units, 4),
        grouped(kind, units, 4, 0.25),
    ]


# What each part times: title, contenders, batch, steps, inputs.
PARTS = {
    "lstm": [("LSTM", lambda: lstm(), 20, 35, 1024)],
    "gru": [("GRU", lambda: few("GRU"), 20, 35, 1024)],
    "simple": [("SimpleRNN", lambda: few("SimpleRNN"), 20, 35, 1024)],
    "one": [("LSTM, one example", lambda: few("LSTM"), 1, 35, 1024)],
    "long": [("LSTM, 200 steps", lambda: few("LSTM"), 20, 200, 1024)],
    "units": [
        (f"LSTM, {units} units", lambda units=units: few("LSTM", units), 20, 35, units)
        for units in (16, 64, 128, 256, 512)
    ],
    "kinds": [
        (
            f"{kind}, {units} units",
            lambda kind=kind, units=units: [
                *few(kind, units)[:-1],
                grouped(kind, units, 16),
            ],
            20,
            35,
            units,
        )
        for kind in ("LSTM", "GRU", "SimpleRNN")
        for units in (64, 128, 256, 512)
    ],
    "groups": [
        (
            "LSTM, more and more groups",
            lambda: [
                stock("LSTM", 1024),
                *(grouped("LSTM", 1024, groups) for groups in (2, 4, 8, 16, 64, 256)),
            ],
            20,
            35,
            1024,
        ),
        (
            "LSTM, many groups of few units",
            lambda: [
                stock("LSTM", 64),
                *(grouped("LSTM", 64, groups) for groups in (1, 2, 4, 16, 64)),
            ],
            20,
            35,
            64,
        ),
    ],
}
BACKENDS = ["lstm", "gru", "kinds"]


def multiplications(model: keras.Model, steps: int) -> float:
    """Of a training step for one example; the inputs need no gradient."""
    kernels = recurrent = 0
    for variable in model.trainable_variables:
        if "dense" in variable.path or len(variable.shape) < 2:
            continue
        size = int(np.prod(variable.shape))
        if "recurrent" in variable.path or "_hh_" in variable.path:
            recurrent += size
        elif variable.shape[0] > 2:  # A GRU's bias has two rows.
            kernels += size
    return steps * (2 * kernels + 3 * recurrent)


def peak() -> float:
    """Multiplications with additions a second, in a product of two large matrices."""
    a = ops.convert_to_tensor(np.ones((2048, 2048), "float32"))
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        ops.convert_to_numpy(ops.matmul(a, a))
        seconds.append(time.perf_counter() - start)
    return 2048**3 / min(seconds)


def table(
    title: str,
    contenders: list[Contender],
    batch: int,
    steps: int,
    inputs: int,
    repeats: int,
) -> None:
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((batch, steps, inputs)).astype("float32")
    y = rng.standard_normal((batch, 8)).astype("float32")
    models, train, infer = [], [], []
    for contender in contenders:
        keras.utils.set_random_seed(SEED)
        given = keras.Input((steps, inputs), batch_size=batch)
        model = keras.Model(given, keras.layers.Dense(8)(contender.build(given)))
        jit = keras.backend.backend() == "jax"
        model.compile("sgd", "mse", jit_compile=jit)
        models.append(model)
        train.append([])
        infer.append([])
    for turn in range(repeats + 2):
        for k, model in enumerate(models):
            start = time.perf_counter()
            model.train_on_batch(x, y)
            trained = time.perf_counter()
            model.predict_on_batch(x)
            if turn >= 2:  # The first turns compile.
                train[k].append(trained - start)
                infer[k].append(time.perf_counter() - trained)
    best = peak()
    print(
        f"\n{title}: {keras.backend.backend()} backend, batch {batch}, {steps} steps, "
        f"{inputs} inputs, float32, median of {repeats}; peak "
        f"{2 * best / 1e9:.0f} GFLOP/s\n"
    )
    print("| layer | weights | train ms | × | peak | predict ms | × |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    medians = [[statistics.median(s) for s in times] for times in (train, infer)]
    for k, contender in enumerate(contenders):
        weights = models[k].count_params() - models[k].layers[-1].count_params()
        seconds, predict = medians[0][k], medians[1][k]
        share = batch * multiplications(models[k], steps) / best / seconds
        print(
            f"| {contender.name} | {weights / 1e6:.2f}M "
            f"| {1e3 * seconds:.1f} | {medians[0][0] / seconds:.2f} | {share:.0%} "
            f"| {1e3 * predict:.1f} | {medians[1][0] / predict:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    print(
        f"Keras {keras.__version__}, {platform.machine()}, {os.cpu_count()} cores, "
        f"seed {SEED}, {datetime.date.today()}",
        flush=True,
    )
    for part in args.parts or PARTS:
        for title, contenders, batch, steps, inputs in PARTS[part]:
            repeats = max(3, args.repeats // 3) if steps > 100 else args.repeats
            table(title, contenders(), batch, steps, inputs, repeats)
            keras.backend.clear_session()
    if not args.parts:
        for backend in ("jax", "torch"):
            subprocess.run(
                [sys.executable, __file__, *BACKENDS, "--repeats", str(args.repeats)],
                env={**os.environ, "KERAS_BACKEND": backend},
                check=True,
            )


if __name__ == "__main__":
    main()
