"""What several tests attack: trained once."""

from collections.abc import Generator

import pytest
import torch

from tests.attacks.overfit import Overfit, overfit, small_network


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> Generator[None]:
    """Networks this small only get slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def learnt_by_heart() -> Overfit:
    """16 small networks, each on a random half of 300 digits, 60 epochs."""
    return overfit(small_network(), models=16, examples=300)
