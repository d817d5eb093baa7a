"""Whole clients: found where they learn by heart, and not where they took no part."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedsim.attacks.membership import confidence, loss_threshold
from fedsim.attacks.participation import alignment, loss_falls
from fedsim.attacks.roc import figures
from fedsim.attacks.shadows import logits
from fedsim.data.dataset import select
from fedsim.updates import LocalTraining, Weights
from tests.attacks.overfit import small_network
from tests.attacks.rounds import Small, noised, seen, small, together, updates

TRAINING = LocalTraining(epochs=5, batch_size=10, optimizer="sgd", learning_rate=0.05, momentum=0.9)
CLIENTS, ALLOWED, COHORT, ROUNDS = 80, 40, 20, 12


@pytest.fixture(scope="module")
def few() -> Small:
    """80 clients of ten digits each."""
    return small(small_network(TRAINING), "iid", CLIENTS, 10 * CLIENTS)


def client_losses(found: Small, weights: Weights) -> NDArray[np.float64]:
    examples = select(found.mnist.train, found.held.order)
    scores = logits(found.contract, weights[np.newaxis], examples, engine=found.engine)[0]
    return -loss_threshold(confidence(scores, examples.labels)).reshape(CLIENTS, 10).mean(axis=1)


@pytest.fixture(scope="module")
def history(few: Small) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Losses of all clients by round, and who of them was in which: only the first 40 may be."""
    draw, weights = np.random.default_rng(0), few.start
    losses, present = [client_losses(few, weights)], np.zeros((ROUNDS, CLIENTS), np.bool_)
    for number in range(ROUNDS):
        cohort = np.sort(draw.choice(ALLOWED, COHORT, replace=False))
        present[number, cohort] = True
        weights = weights + updates(few, weights, cohort, seed=number).mean(axis=0)
        losses.append(client_losses(few, weights))
    return np.stack(losses), present


def test_the_federations_clients_are_told_from_others_by_their_losses(
    history: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> None:
    losses, present = history
    found = figures(loss_falls(losses).sum(axis=0), present.any(axis=0))
    assert found.members == ALLOWED
    assert found.area > 0.7
    assert found.area_interval[0] > 0.5


def test_a_rounds_clients_are_told_from_the_federations_others(
    history: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> None:
    losses, present = history
    falls = loss_falls(losses)[:, :ALLOWED]
    assert figures(falls.ravel(), present[:, :ALLOWED].ravel()).area_interval[0] > 0.5


def test_clients_that_never_took_part_cannot_be_told_apart(
    history: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> None:
    scores = loss_falls(history[0])[:, ALLOWED:].sum(axis=0)
    low, high = figures(scores, np.random.default_rng(1).permutation(CLIENTS - ALLOWED) < 20).area_interval
    assert low < 0.5 < high


def test_a_rounds_clients_are_told_by_what_they_would_send(few: Small) -> None:
    cohort = np.arange(0, ALLOWED, 2)
    view = seen(few, few.start, cohort)
    expected = updates(few, few.start, np.arange(CLIENTS), seed=9)
    chosen = np.isin(np.arange(CLIENTS), cohort)
    assert figures(alignment(view, expected), chosen).area > 0.99
    assert figures(alignment(together(view), expected), chosen).area > 0.9
    others = alignment(together(view), expected)[~chosen]
    low, high = figures(others, np.arange(len(others)) % 2 == 0).area_interval
    assert low < 0.5 < high
    drowned = noised(together(view), 10.0 / len(cohort))
    low, high = figures(alignment(drowned, expected), chosen).area_interval
    assert low < 0.5 < high


def test_alignment_is_the_cosine_of_what_is_not_common(few: Small) -> None:
    view = seen(few, few.start, np.arange(4))
    expected = updates(few, few.start, np.arange(6), seed=9).astype(np.float64)
    rest, total = expected - expected.mean(axis=0), view.updates.sum(axis=0) - 4 * expected.mean(axis=0)
    cosines = rest @ total / np.linalg.norm(rest, axis=1) / np.linalg.norm(total)
    np.testing.assert_allclose(alignment(together(view), expected.astype(np.float32)), cosines, atol=1e-4)
