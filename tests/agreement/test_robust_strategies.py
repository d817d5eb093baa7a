"""Robust strategies, Flower's and ours, on whole rounds: what slow code straight from the papers makes of the stack."""

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import Strategy
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.config import from_mapping
from fedsim.messages import model_record, read_weights, training_record
from fedsim.robust import geometric_median
from fedsim.seeds import generator
from fedsim.simulation.grid import FederationGrid, Phones
from fedsim.strategies import build_strategy
from fedsim.updates import LocalTraining, Orders, Updates, failure
from tests import slow_aggregators as slow

PHONES, SIZE = 11, 20
WEIGHTS = generator(0, "weights").standard_normal(SIZE, np.float32)
EXAMPLES = np.arange(10, 10 + PHONES)
TRAINING = LocalTraining(epochs=1, batch_size=10, optimizer="sgd", learning_rate=0.1)


@pytest.fixture(scope="module", autouse=True)
def short_collections() -> Iterator[None]:
    """Bulyan has Flower collect garbage once a reply: without the whole test run's heap, that is quick."""
    gc.freeze()
    yield
    gc.unfreeze()


def built(name: str, **settings: Any) -> Strategy:
    tables = {"federation": {"clients": PHONES, "cohort": PHONES}, "strategy": {"name": name, **settings}}
    return build_strategy(from_mapping(tables), 0.1)


def aggregated(strategy: Strategy, stack: np.ndarray, lost: tuple[int, ...] = ()) -> np.ndarray:
    """The model after a round in which client ``i`` sends row ``i``, and the ``lost`` fail."""

    def train(orders: Orders) -> Updates:
        own = orders.clients[~np.isin(orders.clients, lost)]
        losses = np.zeros((len(own), 1))
        metrics = {"train_loss": losses[:, 0], "epoch_losses": losses}
        failures = tuple(failure(orders, client, "train", RuntimeError("its battery is flat")) for client in lost)
        return Updates(clients=own, weights=stack[own], examples=EXAMPLES[own], metrics=metrics, failures=failures)

    grid = FederationGrid(Phones(clients=PHONES, train=train, evaluate=train))
    config: ConfigRecord = training_record(TRAINING)
    messages = list(strategy.configure_train(1, model_record(WEIGHTS), config, grid))
    record, _ = strategy.aggregate_train(1, list(grid.send_and_receive(messages)))
    assert record is not None
    return read_weights(record)


def models(key: int, wild: int = 0) -> np.ndarray:
    """Models about the round's; the first ``wild`` of them far off."""
    stack = WEIGHTS + 0.5 * generator(key, "models").standard_normal((PHONES, SIZE))
    stack[:wild] += generator(key, "wild").normal(0, 100, (wild, SIZE))
    return stack.astype(np.float32)


@pytest.mark.parametrize("wild", [0, 2])
@pytest.mark.parametrize("key", range(3))
def test_flowers_do_what_slow_code_does(key: int, wild: int) -> None:
    """What their papers say, but for Bulyan, which selects otherwise, and multi-Krum, whose weights are Flower's."""
    stack = models(key, wild)
    exact = stack.astype(np.float64)
    for strategy, expected in (
        (built("FedMedian"), slow.median(exact)),
        (built("FedTrimmedAvg", beta=0.2), slow.trimmed_mean(exact, 0.2)),
        (built("Krum", num_malicious_nodes=3), slow.multi_krum(exact, 3, 1, EXAMPLES)),
        (built("MultiKrum", num_malicious_nodes=2, num_nodes_to_select=5), slow.multi_krum(exact, 2, 5, EXAMPLES)),
        (built("Bulyan", num_malicious_nodes=2), slow.bulyan(exact, 2)),
    ):
        np.testing.assert_allclose(aggregated(strategy, stack), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wild", [0, 4])
def test_ours_are_what_their_papers_say(wild: int) -> None:
    stack, zero = models(0, wild), np.zeros(SIZE)
    updates = (stack - WEIGHTS).astype(np.float64)
    np.testing.assert_allclose(
        aggregated(built("NormClip", clip=1.5), stack), WEIGHTS + slow.clipped_mean(updates, zero, 1.5), atol=1e-6
    )
    np.testing.assert_allclose(
        aggregated(built("GeometricMedian", smoothing=1e-6, iterations=8), stack),
        WEIGHTS + geometric_median(updates, 1e-6, 8),
        atol=1e-6,
    )


def test_centred_clipping_goes_on_from_the_round_before() -> None:
    strategy = built("CentredClipping", radius=0.8, iterations=2)
    centre = np.zeros(SIZE)
    for key in range(3):
        stack = models(key, wild=3)
        for _ in range(2):
            centre = slow.clipped_mean((stack - WEIGHTS).astype(np.float64), centre, 0.8)
        np.testing.assert_allclose(aggregated(strategy, stack), WEIGHTS + centre, atol=1e-6)


BROKEN = [
    ("FedMedian", {}, 5),
    ("FedTrimmedAvg", {"beta": 0.4}, 4),
]


@pytest.mark.parametrize(("name", "parameters", "most"), BROKEN)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_no_coordinate_leaves_the_honest_rows(
    name: str, parameters: dict[str, Any], most: int, data: st.DataObject
) -> None:
    count, seed = data.draw(st.integers(0, most)), data.draw(st.integers(0, 2**32))
    stack = models(seed)
    stack[:count] = data.draw(st.sampled_from([-1e6, -1.0, 0.0, 1e6]))
    found = aggregated(built(name, **parameters), stack)
    assert (found >= stack[count:].min(axis=0) - 1e-6).all()
    assert (found <= stack[count:].max(axis=0) + 1e-6).all()


@pytest.mark.parametrize("far", [10.0, 1000.0])
def test_krum_and_bulyan_keep_to_the_honest_rows(far: float) -> None:
    stack = models(1)
    stack[:2] += np.float32(far)
    chosen = aggregated(built("Krum", num_malicious_nodes=2), stack)
    assert (np.abs(stack[2:] - chosen).max(axis=1) < 1e-6).any()
    mixed = aggregated(built("Bulyan", num_malicious_nodes=2), stack)
    assert (mixed >= stack[2:].min(axis=0) - 1e-6).all()
    assert (mixed <= stack[2:].max(axis=0) + 1e-6).all()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("FedAvg", {}),
        ("FedMedian", {}),
        ("FedTrimmedAvg", {}),
        ("Krum", {"num_malicious_nodes": 3}),
        ("MultiKrum", {"num_malicious_nodes": 3, "num_nodes_to_select": 4}),
        ("Bulyan", {"num_malicious_nodes": 1}),
        ("NormClip", {}),
        ("GeometricMedian", {}),
        ("CentredClipping", {}),
    ],
)
def test_a_model_that_is_not_finite_counts_as_none(name: str, parameters: dict[str, Any]) -> None:
    stack = models(2)
    spoilt = stack.copy()
    spoilt[1, 3], spoilt[4] = np.nan, -np.inf
    found = aggregated(built(name, **parameters), spoilt)
    without = aggregated(built(name, **parameters), stack, lost=(1, 4))
    np.testing.assert_allclose(found, without, rtol=0, atol=1e-6)  # added up in whichever order Flower drew


def test_selecting_anew_each_time_selects_others_than_flowers_bulyan() -> None:
    """El Mhamdi et al. 2018, section 4: the best row by Krum's score, again and again, of those that are left."""
    other = 0
    for key in range(10):
        stack, left, chosen = models(key).astype(np.float64), list(range(PHONES)), set[int]()
        at_once = set(np.argsort(slow.krum_scores(stack, 2))[: PHONES - 4].tolist())
        while len(chosen) < PHONES - 4:
            chosen.add(left.pop(int(np.argmin(slow.krum_scores(stack[left], 2)))))
        other += chosen != at_once
    assert other > 5


def test_the_mean_does_leave_them() -> None:
    stack = models(1)
    stack[0] += np.float32(1000)
    assert (aggregated(built("FedAvg"), stack) > stack[1:].max(axis=0)).all()
