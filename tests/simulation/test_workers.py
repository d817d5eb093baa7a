"""Cohorts on worker threads: each row is its client's alone, and a client that fails is said to have failed."""

from functools import partial

import numpy as np
import pytest

from fedsim.data.dataset import Examples
from fedsim.data.partition import Held, Partition, from_owners, shards_of
from fedsim.simulation.workers import evaluate_all, evaluate_cohort, mean_cohort, train_cohort, worker_threads
from fedsim.training.batches import shuffle_keys
from fedsim.training.reference import evaluate, train_client
from fedsim.updates import LocalTraining, Orders
from tests.training.test_reference import CONTRACT, some_examples, some_weights

TRAINING = LocalTraining(epochs=2, batch_size=4, optimizer="sgd", learning_rate=0.1)
EXAMPLES = some_examples(30)
PARTITION: Partition = from_owners(np.arange(30), np.repeat(np.arange(4), [3, 12, 5, 10]), 4)
HELD: Held = partial(shards_of, PARTITION)


def orders(*clients: int, training: LocalTraining | None = TRAINING) -> Orders:
    return Orders(round=7, clients=np.array(clients, np.int64), weights=some_weights(), training=training)


def own(client: int) -> Examples:
    rows = PARTITION.order[PARTITION.offsets[client] : PARTITION.offsets[client + 1]]
    return Examples(inputs=EXAMPLES.inputs[rows], labels=EXAMPLES.labels[rows])


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_row_is_what_its_client_alone_would_send(workers: int) -> None:
    with worker_threads(workers) as pool:
        updates = train_cohort(pool, CONTRACT, EXAMPLES, HELD, 5, orders(2, 0, 1))
    assert updates.clients.tolist() == [2, 0, 1]
    assert updates.examples.tolist() == [5, 3, 12]
    for row, client in enumerate((2, 0, 1)):
        weights = some_weights()
        losses = train_client(CONTRACT, weights, own(client), TRAINING, shuffle_keys(5, 7, np.array([client]))[0])
        np.testing.assert_array_equal(updates.weights[row], weights)
        np.testing.assert_array_equal(updates.metrics["epoch_losses"][row], losses)
        assert updates.metrics["train_loss"][row] == losses[-1]


def test_the_mean_is_that_of_the_stack_whatever_the_blocks() -> None:
    clients = [client % 4 for client in range(70)]  # more than two blocks of phones
    with worker_threads(2) as pool:
        stacked = train_cohort(pool, CONTRACT, EXAMPLES, HELD, 5, orders(*clients))
        mean = mean_cohort(pool, CONTRACT, EXAMPLES, HELD, 5, orders(*clients))
    expected = np.average(stacked.weights.astype(np.float64), axis=0, weights=stacked.examples)
    np.testing.assert_allclose(mean.weights, expected, rtol=1e-6)
    np.testing.assert_array_equal(mean.clients, stacked.clients)
    np.testing.assert_array_equal(mean.metrics["epoch_losses"], stacked.metrics["epoch_losses"])


def test_a_failing_client_is_a_failure_and_has_no_row() -> None:
    labels = EXAMPLES.labels.copy()
    labels[PARTITION.order[4]] = 99  # client 1's
    with worker_threads(2) as pool:
        examples = Examples(inputs=EXAMPLES.inputs, labels=labels)
        updates = train_cohort(pool, CONTRACT, examples, HELD, 5, orders(0, 1, 2))
    assert updates.clients.tolist() == [0, 2]
    assert updates.weights.shape == (2, CONTRACT.parameters)
    (failure,) = updates.failures
    assert (failure.client, failure.round, failure.stage) == (1, 7, "train")
    assert failure.reason.startswith("IndexError")
    assert "train_client" in failure.traceback


def test_evaluation_is_per_client_and_says_who_holds_nothing() -> None:
    test_partition = from_owners(np.arange(30), np.repeat([0, 2, 3], 10), 4)
    with worker_threads(2) as pool:
        updates = evaluate_cohort(
            pool, CONTRACT, EXAMPLES, partial(shards_of, test_partition), orders(0, 1, 3, training=None)
        )
    assert updates.clients.tolist() == [0, 3]
    assert updates.examples.tolist() == [10, 10]
    losses, correct = evaluate(CONTRACT, some_weights(), EXAMPLES)
    np.testing.assert_allclose(updates.metrics["loss"], [losses[:10].mean(), losses[20:].mean()], rtol=1e-6)
    np.testing.assert_array_equal(updates.metrics["accuracy"], [correct[:10].mean(), correct[20:].mean()])
    assert [failure.client for failure in updates.failures] == [1]
    assert "no test examples" in updates.failures[0].reason


def test_all_examples_are_scored_the_same_on_any_number_of_threads() -> None:
    many = some_examples(2345)
    scored = []
    for workers in (1, 3):
        with worker_threads(workers) as pool:
            scored.append(evaluate_all(pool, CONTRACT, some_weights(), many))
    np.testing.assert_array_equal(scored[0][0], scored[1][0])
    np.testing.assert_array_equal(scored[0][1], scored[1][1])
    np.testing.assert_allclose(scored[0][0], evaluate(CONTRACT, some_weights(), many)[0], rtol=1e-6)


def test_orders_to_evaluate_are_not_trained_on() -> None:
    with worker_threads(1) as pool, pytest.raises(ValueError, match="for evaluation"):
        train_cohort(pool, CONTRACT, EXAMPLES, HELD, 5, orders(0, training=None))
