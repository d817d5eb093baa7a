"""What an attacker on one round may look at."""

from dataclasses import replace

import numpy as np
import pytest

from fedsim.updates import LocalTraining
from tests.attacks.overfit import small_network
from tests.attacks.rounds import seen, small

ONCE = LocalTraining(epochs=1, batch_size=10, optimizer="sgd", learning_rate=0.05)


def test_updates_of_another_number_of_rows_are_refused() -> None:
    found = small(small_network(ONCE), "iid", 6, 120)
    view = seen(found, found.start, np.arange(6))
    with pytest.raises(ValueError, match=r"updates are \[6, \d+\]; they must be \[1, \d+\]"):
        replace(view, examples=view.examples[:1])
