"""The native engine and the torch loop do the same work: one behaviour, both implementations."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedsim import run
from fedsim.data.dataset import Examples
from fedsim.federation import Federation, set_up
from fedsim.simulation.engines import Engine, open_engine
from fedsim.updates import Orders
from tests.small import small_config, small_dataset

CLIENTS = np.array([7, 0, 11, 3])


def federation(engine: str, **tables: object) -> Federation:
    data, speed = {"partition": "dirichlet", "alpha": 0.5}, {"engine": engine, "workers": 2}
    return set_up(small_config(Path("unused"), data=data, speed=speed, **tables), small_dataset())


@pytest.fixture(params=["sgd", "adam"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Federation, Engine, Engine]]:
    momentum = {"momentum": 0.9} if request.param == "sgd" else {}
    training = {"optimizer": request.param, "learning_rate": 0.01 if momentum else 0.001, "epochs": 1, **momentum}
    both = [federation(engine, training=training) for engine in ("native", "torch")]
    with open_engine(both[0]) as native, open_engine(both[1]) as torch:
        yield both[0], native, torch


def orders(given: Federation, **changes: object) -> Orders:
    training = replace(given.contract.training, **changes)  # type: ignore[arg-type]
    return Orders(round=1, clients=CLIENTS, weights=given.initial, training=training)


@pytest.mark.parametrize("mu", [0.0, 0.1])
def test_a_cohort_trains_alike(pair: tuple[Federation, Engine, Engine], mu: float) -> None:
    given, native, torch = pair
    ours, theirs = (engine.train(orders(given, proximal_mu=mu)) for engine in (native, torch))
    np.testing.assert_array_equal(ours.clients, theirs.clients)
    np.testing.assert_array_equal(ours.examples, theirs.examples)
    np.testing.assert_allclose(ours.metrics["epoch_losses"], theirs.metrics["epoch_losses"], rtol=1e-4)
    moved = np.linalg.norm(theirs.weights - given.initial, axis=1)
    apart = np.linalg.norm(ours.weights - theirs.weights, axis=1)
    assert (apart < 2e-3 * moved).all(), apart / moved
    assert not ours.failures


def test_models_are_scored_alike(pair: tuple[Federation, Engine, Engine]) -> None:
    given, native, torch = pair
    (ours, right), (theirs, right_too) = (engine.score(given.initial) for engine in (native, torch))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (right != right_too).sum() <= 1
    alike = [engine.evaluate(replace(orders(given), training=None)) for engine in (native, torch)]
    np.testing.assert_array_equal(alike[0].clients, alike[1].clients)
    np.testing.assert_array_equal(alike[0].examples, alike[1].examples)
    np.testing.assert_allclose(alike[0].metrics["loss"], alike[1].metrics["loss"], rtol=1e-4)


def test_a_trainer_keeps_its_optimizer_alike(pair: tuple[Federation, Engine, Engine]) -> None:
    given, native, torch = pair
    rows, weights = np.arange(100), [given.initial.copy() for _ in range(2)]
    for engine, own in zip((native, torch), weights, strict=True):
        train = engine.trainer(own, given.contract.training)
        for first in range(0, 100, 40):  # batches of 20: cut where a batch ends
            train(rows[first : first + 40])
    moved = np.linalg.norm(weights[1] - given.initial)
    assert np.linalg.norm(weights[0] - weights[1]) < 2e-3 * moved


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_failing_phone_is_named_and_the_others_are_kept(engine: str) -> None:
    good = small_dataset()
    sound = federation(engine)
    labels = good.train.labels.copy()
    labels[sound.partition.order[sound.partition.offsets[11]]] = 99  # client 11's first example
    spoilt = replace(sound, dataset=replace(good, train=Examples(inputs=good.train.inputs, labels=labels)))
    with open_engine(sound) as engine_of_sound, open_engine(spoilt) as engine_of_spoilt:
        whole, partly = engine_of_sound.train(orders(sound)), engine_of_spoilt.train(orders(spoilt))
    assert partly.clients.tolist() == [7, 0, 3]
    assert [failure.client for failure in partly.failures] == [11]
    assert "Traceback" in partly.failures[0].traceback
    np.testing.assert_array_equal(partly.weights, whole.weights[[0, 1, 3]])


def test_a_whole_run_comes_out_alike(tmp_path: Path) -> None:
    ours, theirs = (
        run(small_config(tmp_path / engine, speed={"engine": engine}), dataset=small_dataset())
        for engine in ("native", "torch")
    )
    for row, other in zip(ours.rounds, theirs.rounds, strict=True):
        assert row["clients"] == other["clients"]
        np.testing.assert_allclose(row["test_loss"], other["test_loss"], rtol=0.02)
