"""Labels read off the last bias: closed forms, and phones whose labels must and must not be found."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.attacks.label_recovery import reach
from fedsim.attacks.properties import histogram_error, label_shares
from fedsim.attacks.roc import figures
from fedsim.data.dataset import select
from fedsim.updates import LocalTraining
from tests.attacks.overfit import small_network
from tests.attacks.rounds import Small, noised, seen, shares, small, together
from tests.training.native.networks import Chain

SGD = LocalTraining(epochs=2, batch_size=20, optimizer="sgd", learning_rate=0.05, momentum=0.9)
CLIENTS = np.arange(20)


@pytest.fixture(scope="module")
def two_shards() -> Small:
    """20 clients of 60 digits, most of two labels."""
    return small(small_network(SGD), "shards", len(CLIENTS), 60 * len(CLIENTS))


@pytest.mark.parametrize(("momentum", "examples"), [(0.0, 40), (0.9, 41), (0.5, 7)])
def test_reach_is_how_far_torch_goes_on_a_constant_gradient(momentum: float, examples: int) -> None:
    training = replace(SGD, momentum=momentum, epochs=3)
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=training.learning_rate, momentum=momentum)
    for _ in range(3 * -(-examples // 20)):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert reach(training, examples) == pytest.approx(-weight.item())


def test_one_step_of_a_network_that_sees_nothing_gives_the_shares_exactly() -> None:
    """With weights of zero all predictions are alike, and so is what the phone's and the public examples meet."""
    found = small(small_network(replace(SGD, epochs=1, batch_size=100, learning_rate=1e-3)), "shards", 20, 1200)
    view = seen(found, np.zeros_like(found.start), CLIENTS)
    np.testing.assert_allclose(label_shares(view, engine=found.engine), shares(found, CLIENTS), atol=0.01)


def test_labels_of_two_shard_clients_are_found(two_shards: Small) -> None:
    truth, found = shares(two_shards, CLIENTS), label_shares(seen(two_shards, two_shards.start, CLIENTS), engine=None)
    guess = histogram_error(np.broadcast_to(truth.mean(axis=0), truth.shape), truth).mean()
    assert guess > 1.2
    assert histogram_error(found, truth).mean() < guess / 3
    assert figures(found.ravel(), truth.ravel() > 0).area > 0.95
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found.min() >= 0


def test_the_sum_tells_of_the_cohort_and_not_of_its_clients(two_shards: Small) -> None:
    low_labels = np.argsort(shares(two_shards, CLIENTS) @ np.arange(10))[:8]
    truth = shares(two_shards, low_labels)
    view = together(seen(two_shards, two_shards.start, low_labels))
    found = label_shares(view, engine=two_shards.engine)
    assert found.shape == (1, 10)
    cohort = truth.mean(axis=0, keepdims=True)
    assert histogram_error(found, cohort)[0] < histogram_error(np.full_like(cohort, 0.1), cohort)[0] / 2
    guess = histogram_error(np.broadcast_to(cohort, truth.shape), truth).mean()
    assert histogram_error(np.broadcast_to(found, truth.shape), truth).mean() > 0.95 * guess


def test_labels_drown_in_noise(two_shards: Small) -> None:
    truth = shares(two_shards, CLIENTS)
    view = noised(seen(two_shards, two_shards.start, CLIENTS), 1.0)
    found = label_shares(view, engine=two_shards.engine)
    low, high = figures(found.ravel(), truth.ravel() > 0).area_interval
    assert low < 0.5 < high
    uniform = histogram_error(np.full_like(truth, 0.1), truth).mean()
    assert histogram_error(found, truth).mean() > 0.9 * uniform


def test_what_cannot_be_read_is_refused(two_shards: Small) -> None:
    view = seen(two_shards, two_shards.start, CLIENTS[:2])
    with pytest.raises(ValueError, match="read off SGD's updates only"):
        label_shares(replace(view, training=replace(SGD, optimizer="adam")), engine=None)
    zeros = np.flatnonzero(two_shards.mnist.test.labels != 0)[:100]
    with pytest.raises(ValueError, match="lack class 0"):
        label_shares(replace(view, public=select(two_shards.mnist.test, zeros)), engine=None)
    frozen = Chain((1, 28, 28)).flatten("channel_first").dense(10).dense(10, updatable=False).contract(training=SGD)
    with pytest.raises(ValueError, match="this contract trains none"):
        label_shares(replace(view, contract=frozen), engine=None)
