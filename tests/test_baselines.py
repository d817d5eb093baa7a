"""The baselines use the budget they are given, on the batches they say."""

from pathlib import Path

import numpy as np
import pytest

from fedsim.baselines import CentralTraining, Chain
from fedsim.federation import Federation, set_up
from fedsim.seeds import key
from fedsim.simulation.engines import open_engine
from fedsim.training.batches import epoch_order
from tests.small import TRAIN, small_config, small_dataset

KEY = key(0, "test")


@pytest.fixture(scope="module")
def federation() -> Federation:
    return set_up(small_config(Path("unused"), training={"batch_size": 64, "epochs": 1}), small_dataset())


@pytest.mark.parametrize("goals", [[1], [64], [65, 70, 200], [480], [481, 1000], [100.5, 960]])
def test_a_chain_is_whole_epochs_one_after_another(federation: Federation, goals: list[float]) -> None:
    """However often it stops on the way, at the first batch past each goal."""
    with open_engine(federation) as engine:
        chain = Chain(engine, federation, np.arange(TRAIN), KEY)
        for goal in goals:
            chain.train_until(goal)
            assert goal <= chain.seen < goal + 64
        plain = federation.initial.copy()
        train = engine.trainer(plain, federation.contract.training)
        left = chain.seen
        for epoch in range(-(-chain.seen // TRAIN)):
            train(epoch_order(TRAIN, KEY, epoch, shuffle=True)[:left])
            left -= TRAIN
    np.testing.assert_array_equal(chain.weights, plain)


def test_central_training_follows_the_rounds(federation: Federation) -> None:
    rows = [{"round": 0, "examples": 0, "test_loss": 2.5, "test_accuracy": 0.1}]
    rows += [{"round": number, "examples": 160} for number in range(1, 4)]
    with open_engine(federation) as engine:
        central = CentralTraining(engine, federation)
        for row in rows:
            central.follow(row)
        curve = central.curve()
        chain = Chain(engine, federation, np.arange(TRAIN), key(federation.config.seed, "central"))
        chain.train_until(480)
        losses, correct = engine.score(chain.weights)
    assert [point["examples"] for point in curve] == [0, 192, 320, 480]
    assert curve[0] == {"examples": 0, "test_loss": 2.5, "test_accuracy": 0.1}
    assert curve[-1] == {"examples": 480, "test_loss": losses.mean(), "test_accuracy": correct.mean()}
