"""What all tests share: the same random numbers in every run."""

import hypothesis
import keras
import pytest

hypothesis.settings.register_profile(
    "deterministic", deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("deterministic")


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)
