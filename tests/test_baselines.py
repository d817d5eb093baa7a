"""The baselines use the budget they are given, on the batches they say."""

import numpy as np
import pytest

from fedsim.baselines import _cuts, _pieces  # pyright: ignore[reportPrivateUsage]
from fedsim.updates import LocalTraining

TRAINING = LocalTraining(epochs=1, batch_size=8, optimizer="sgd", learning_rate=0.1)


@pytest.mark.parametrize("goal", [1, 8, 50, 100, 101, 250, 1000])
@pytest.mark.parametrize("every", [np.inf, 25.0, 7.0, 100.0])
def test_pieces_join_to_whole_epochs_cut_at_batches(goal: int, every: float) -> None:
    held = np.arange(100, 200)
    pieces = list(_pieces(held, TRAINING, np.random.default_rng(0), every, goal))
    rows = np.concatenate([rows for _, rows in pieces])
    assert goal <= len(rows) < goal + TRAINING.batch_size
    assert [seen for seen, _ in pieces] == np.cumsum([len(rows) for _, rows in pieces]).tolist()
    for epoch in range(len(rows) // 100):
        assert sorted(rows[100 * epoch : 100 * (epoch + 1)]) == held.tolist()
    shuffle = np.random.default_rng(0)
    expected = np.concatenate([held[shuffle.permutation(100)] for _ in range(len(rows) // 100 + 1)])
    np.testing.assert_array_equal(rows, expected[: len(rows)])
    for seen, _ in pieces:
        assert seen % 100 % TRAINING.batch_size == 0 or seen % 100 == 0


def test_cuts_fall_on_the_first_batch_past_each_multiple() -> None:
    assert _cuts(np.array([8, 16, 24, 32, 40]), 15.0, 1e9).tolist() == [16, 32, 40]
    assert _cuts(np.array([8, 16, 24, 32, 40]), 15.0, 20).tolist() == [16, 24]
    assert _cuts(np.array([8, 16]), np.inf, 1e9).tolist() == [16]
