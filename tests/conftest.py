"""Settings that every test shares."""

import os

import hypothesis
import pytest
import torch

# A property is allowed the time it needs: the first example of a run pays for imports and compilation.
# In CI the same examples are drawn every time, so that a red run can be repeated.
hypothesis.settings.register_profile("local", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

# Tests run beside each other in processes: one thread each is both faster and repeatable to the last bit.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _global_state_of_torch_is_kept():
    """No test may leave another default dtype or thread count to the tests after it."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    assert torch.get_default_dtype() == dtype, "a test, or the code it called, changed torch's default dtype"
    assert torch.get_num_threads() == threads, "a test, or the code it called, changed torch's thread count"


@pytest.fixture
def generator() -> torch.Generator:
    """A source of random numbers that is the same in every run."""
    return torch.Generator().manual_seed(20240229)
