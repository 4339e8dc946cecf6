"""What all tests share: the same random numbers in every run."""

import gc
import os

# Most of the time would go into optimizing tiny programs. Read when XLA starts.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Several processes test at a time, each of them with tiny tensors.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import hypothesis
import keras
import pytest

# Tracing makes millions of objects; what the imports made need not be looked at each
# time: a tenth of the time of a file that traces a lot.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 20)

FUZZ_EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
# `make test` draws the same few models every time, ten for each of three properties,
# `make fuzz` as many new ones as it is told to.
EXAMPLES = int(FUZZ_EXAMPLES or 10)
hypothesis.settings.register_profile(
    "deterministic",
    deadline=None,
    derandomize=FUZZ_EXAMPLES is None,
    database=None,
    max_examples=EXAMPLES,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("deterministic")


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


def often(names, *few):
    """Parameters of which `make test` runs a few, and `make fuzz` all."""
    return [
        name if name in few else pytest.param(name, marks=pytest.mark.long)
        for name in names
    ]


def crossed(name, values, kinds):
    """Kinds of layers times something; `make test` runs one by one, `make fuzz` all.

    That is: all kinds with the first of the values, and all values with the first kind.
    """
    kinds, values = list(kinds), list(values)
    pairs = [(kind, value) for value in values for kind in kinds]
    return pytest.mark.parametrize(
        ("kind", name),
        [
            pytest.param(
                *pair,
                id=f"{pair[1]}-{pair[0]}",
                marks=[] if {kinds[0], values[0]} & set(pair) else pytest.mark.long,
            )
            for pair in pairs
        ],
    )
