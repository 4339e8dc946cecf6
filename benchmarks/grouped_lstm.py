"""A training step and a prediction of GroupedLSTM against stock Keras, in turn.

    python benchmarks/grouped_lstm.py [--units 1024] [--repeats 15]

Every contender is a one-layer model with a small dense output, on the same random
batch. The contenders take turns in one process, so that what else the machine does
falls on all of them; ratios of medians are printed.
"""

import argparse
import datetime
import os
import platform
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_sparse_rnn as ksr

BATCH, TIME = 20, 35


def stock_side_by_side(inputs: keras.KerasTensor, units: int, groups: int):
    """What a user would write without this package: small LSTMs one after another."""
    parts = [keras.layers.LSTM(units // groups)(inputs) for _ in range(groups)]
    return keras.layers.Concatenate()(parts)


def contenders(units: int) -> dict[str, keras.Model]:
    layers = {
        f"keras.layers.LSTM({units})": lambda x: keras.layers.LSTM(units)(x),
        f"GroupedLSTM({units}, 1)": lambda x: ksr.GroupedLSTM(units, 1)(x),
        f"4 × keras.layers.LSTM({units // 4})": lambda x: stock_side_by_side(
            x, units, 4
        ),
        f"GroupedLSTM({units}, 4)": lambda x: ksr.GroupedLSTM(units, 4)(x),
        f"GroupedLSTM({units}, 4, 0.25)": lambda x: ksr.GroupedLSTM(units, 4, 0.25)(x),
    }
    models = {}
    for name, layer in layers.items():
        inputs = keras.Input((TIME, units), batch_size=BATCH)
        model = keras.Model(inputs, keras.layers.Dense(8)(layer(inputs)))
        model.compile("sgd", "mse", jit_compile=False)
        models[name] = model
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    x = rng.standard_normal((BATCH, TIME, args.units)).astype("float32")
    y = rng.standard_normal((BATCH, 8)).astype("float32")
    models = contenders(args.units)
    train = {name: [] for name in models}
    infer = {name: [] for name in models}
    for turn in range(args.repeats + 2):
        for name, model in models.items():
            for seconds, step in (
                (train, lambda m=model: m.train_on_batch(x, y)),
                (infer, lambda m=model: m.predict_on_batch(x)),
            ):
                start = time.perf_counter()
                step()
                if turn >= 2:  # The first turns compile.
                    seconds[name].append(time.perf_counter() - start)
    print(
        f"\nbatch {BATCH}, {TIME} steps, {args.units} inputs, float32, seed 1, "
        f"{args.repeats} turns; {keras.backend.backend()} backend, Keras "
        f"{keras.__version__}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{datetime.date.today()}\n"
    )
    print(
        f"{'layer':32}{'weights':>10}{'train ms':>10}{'×':>6}{'infer ms':>10}{'×':>6}"
    )
    base = None
    for name, model in models.items():
        medians = [statistics.median(times[name]) for times in (train, infer)]
        base = base or medians
        weights = model.count_params() - 8 * (args.units + 1)
        print(
            f"{name:32}{weights / 1e6:>9.2f}M"
            + "".join(
                f"{1e3 * own:>10.1f}{stock / own:>6.2f}"
                for own, stock in zip(medians, base, strict=True)
            )
        )


if __name__ == "__main__":
    main()
