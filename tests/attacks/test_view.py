"""What the server of a round may look at."""

from dataclasses import replace

import numpy as np
import pytest

from fedsim.attacks.view import noised, summed
from fedsim.updates import LocalTraining
from tests.attacks.overfit import small_network
from tests.attacks.rounds import seen, small

ONCE = LocalTraining(epochs=1, batch_size=10, optimizer="sgd", learning_rate=0.05)


def test_a_sum_is_one_row_and_noise_is_what_it_says() -> None:
    found = small(small_network(ONCE), "iid", 6, 120)
    view = seen(found, found.start, np.arange(6))
    total = summed(view)
    assert (total.sees, total.examples.tolist(), total.clients.tolist()) == ("sum", [120], list(range(6)))
    np.testing.assert_allclose(total.updates[0], view.updates.sum(axis=0), atol=1e-6)
    noise = noised(total, 0.5, np.random.default_rng(0)).updates - total.updates
    assert noise.std() == pytest.approx(0.5, rel=0.02)
    assert abs(noise.mean()) < 0.01


def test_updates_of_another_number_of_clients_are_refused() -> None:
    found = small(small_network(ONCE), "iid", 6, 120)
    view = seen(found, found.start, np.arange(6))
    with pytest.raises(ValueError, match="a server that sees sum has"):
        replace(view, sees="sum")
    with pytest.raises(ValueError, match="a server that sees each has"):
        replace(view, clients=np.arange(5))
