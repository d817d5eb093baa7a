"""The two engines under privacy: the same clipped sums and the same private training, and what fails in both."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from fedsim.data.dataset import Examples
from fedsim.data.partition import indices
from fedsim.federation import Federation
from fedsim.simulation.engines import Engine, open_engine
from tests.agreement.test_engines import CLIENTS, federation, orders
from tests.small import small_dataset

TRAINING = {"epochs": 1, "batch_size": 8, "learning_rate": 0.05, "momentum": 0.5}


@pytest.fixture(scope="module", params=["lenet5", "tanh_cnn"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Federation, Engine, Engine]]:
    both = [federation(engine, training=TRAINING, model={"name": request.param}) for engine in ("native", "torch")]
    with open_engine(both[0]) as native, open_engine(both[1]) as torch:
        yield both[0], native, torch


def far_apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Their distance in multiples of the second's length."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("clip", [0.01, 1e6])
def test_cohorts_are_clipped_alike(pair: tuple[Federation, Engine, Engine], clip: float) -> None:
    given, native, torch = pair
    ours, theirs = (engine.clipped(orders(given), clip) for engine in (native, torch))
    np.testing.assert_array_equal(ours.clients, CLIENTS)
    np.testing.assert_array_equal(ours.clients, theirs.clients)
    np.testing.assert_array_equal(ours.examples, theirs.examples)
    np.testing.assert_allclose(ours.norms, theirs.norms, rtol=1e-4)
    np.testing.assert_allclose(ours.metrics["epoch_losses"], theirs.metrics["epoch_losses"], rtol=1e-4)
    assert far_apart(ours.total, theirs.total) < 2e-3
    assert ours.total.dtype == theirs.total.dtype == np.float64
    assert not ours.failures


def test_a_clipped_sum_is_that_of_the_stack(pair: tuple[Federation, Engine, Engine]) -> None:
    given, *engines = pair
    for engine in engines:
        updates = engine.train(orders(given)).weights.astype(np.float64) - given.initial
        norms = np.linalg.norm(updates, axis=1)
        clip = float(np.median(norms))
        found = engine.clipped(orders(given), clip)
        np.testing.assert_allclose(found.norms, norms, rtol=1e-12)
        np.testing.assert_allclose(found.total, np.minimum(1, clip / norms) @ updates, atol=1e-12)


def test_phones_train_privately_alike(pair: tuple[Federation, Engine, Engine]) -> None:
    given, native, torch = pair
    some = replace(orders(given), clients=CLIENTS[:2])  # torch takes one example after another
    ours, theirs = (engine.private(some, 0.5, 0.8) for engine in (native, torch))
    np.testing.assert_array_equal(ours.clients, theirs.clients)
    np.testing.assert_array_equal(ours.examples, theirs.examples)
    assert ours.metrics == theirs.metrics == {}
    for our, their in zip(ours.weights, theirs.weights, strict=True):
        assert far_apart(our - given.initial, their - given.initial) < 2e-3


def test_a_phones_private_training_does_not_depend_on_its_company(pair: tuple[Federation, Engine, Engine]) -> None:
    given, native, _ = pair
    together = native.private(orders(given), 0.5, 0.8)
    alone = native.private(replace(orders(given), clients=CLIENTS[2:3]), 0.5, 0.8)
    np.testing.assert_array_equal(alone.weights[0], together.weights[2])
    later = native.private(replace(orders(given), clients=CLIENTS[2:3], round=2), 0.5, 0.8)
    assert not np.array_equal(later.weights, alone.weights)


def test_an_empty_cohort_adds_up_to_nothing(pair: tuple[Federation, Engine, Engine]) -> None:
    given, *engines = pair
    for engine in engines:
        nobody = replace(orders(given), clients=CLIENTS[:0])
        found = engine.clipped(nobody, 1.0)
        assert found.total.shape == given.initial.shape
        assert not found.total.any()
        assert (len(found.clients), len(found.norms), found.metrics["epoch_losses"].shape) == (0, 0, (0, 1))
        assert engine.private(nobody, 1.0, 1.0).weights.shape == (0, len(given.initial))


def spoilt(given: Federation, *, label: int | None = None, pixel: float | None = None) -> Federation:
    """The federation with all of client 11's labels, or the pixels of its examples, changed."""
    inputs, labels = given.dataset.train.inputs / np.float32(255), given.dataset.train.labels.copy()
    rows = indices(given.partition, 11)
    if label is not None:
        labels[rows] = label
    if pixel is not None:
        inputs[rows] = pixel
    return replace(given, dataset=replace(small_dataset(), train=Examples(inputs=inputs, labels=labels)))


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize(
    ("change", "reason"), [({"label": 99}, ""), ({"pixel": np.inf}, "FloatingPointError: its update is not finite")]
)
def test_a_failing_phone_is_named_and_adds_nothing(engine: str, change: dict[str, float], reason: str) -> None:
    sound = federation(engine, training=TRAINING, model={"name": "tanh_cnn"})
    others = replace(orders(sound), clients=CLIENTS[[0, 1, 3]])
    with open_engine(spoilt(sound)) as engine_of_sound, open_engine(spoilt(sound, **change)) as engine_of_spoilt:  # type: ignore[arg-type]
        whole, partly = engine_of_sound.clipped(others, 0.1), engine_of_spoilt.clipped(orders(sound), 0.1)
    assert partly.clients.tolist() == [7, 0, 3]
    assert [failure.client for failure in partly.failures] == [11]
    assert reason in partly.failures[0].reason
    np.testing.assert_array_equal(partly.norms, whole.norms)
    np.testing.assert_array_equal(partly.metrics["epoch_losses"], whole.metrics["epoch_losses"])
    np.testing.assert_allclose(partly.total, whole.total, rtol=0, atol=1e-15)


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_phone_that_cannot_train_privately_is_named(engine: str) -> None:
    sound = federation(engine, training=TRAINING, model={"name": "tanh_cnn"})
    both = replace(orders(sound), clients=np.array([11, 7]))
    with open_engine(spoilt(sound)) as engine_of_sound, open_engine(spoilt(sound, label=99)) as engine_of_spoilt:
        whole = engine_of_sound.private(replace(both, clients=both.clients[1:]), 0.5, 0.8)
        partly = engine_of_spoilt.private(both, 0.5, 0.8)
    assert partly.clients.tolist() == [7]
    assert [failure.client for failure in partly.failures] == [11]
    np.testing.assert_array_equal(partly.weights, whole.weights)
