"""A cohort's work in the native engine: whole cohorts in one call, on threads of the engine's own."""

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Examples
from fedsim.data.partition import Partition, indices
from fedsim.seeds import generator
from fedsim.training.native import engine as native
from fedsim.updates import NO_TEST_EXAMPLES, Failure, LocalTraining, Orders, Updates, failure


def train_cohort(
    engine: native.Engine, threads: int, examples: Examples, partition: Partition, seed: int, orders: Orders
) -> Updates:
    """Train every phone of ``orders`` on its own examples; the twin of `workers.train_cohort`, on the same batches.

    If a phone fails, each is asked again alone, so that the others' work is kept and the culprit has a name.
    """
    training = orders.training
    if training is None:
        raise ValueError("these orders are for evaluation")
    walks = [
        native.epoch_orders(indices(partition, client), training, generator(seed, "shuffle", orders.round, client))
        for client in orders.clients.tolist()
    ]
    stack, losses, failures = _together(engine, threads, examples, walks, training, orders) or _one_by_one(
        engine, examples, walks, training, orders
    )
    failed = {failure.client for failure in failures}
    good = [row for row, client in enumerate(orders.clients.tolist()) if client not in failed]
    return Updates(
        clients=orders.clients[good],
        weights=stack,
        examples=np.array([walks[row].shape[1] for row in good], np.int64),
        metrics={"train_loss": losses[:, -1], "epoch_losses": losses},
        failures=tuple(failures),
    )


def evaluate_cohort(
    engine: native.Engine, threads: int, examples: Examples, partition: Partition, orders: Orders
) -> Updates:
    """Mean loss and accuracy on every phone's own test examples; the twin of `workers.evaluate_cohort`."""
    held = [indices(partition, client) for client in orders.clients.tolist()]
    good = [row for row, rows in enumerate(held) if len(rows)]
    sizes = np.array([len(held[row]) for row in good], np.int64)
    rows = np.concatenate([np.empty(0, np.int64), *(held[row] for row in good)])
    losses, correct = native.evaluate(engine, orders.weights, examples, rows=rows, threads=threads)
    starts = np.cumsum(sizes) - sizes
    means = [np.add.reduceat(values.astype(np.float64), starts) / sizes for values in (losses, correct)]
    without = orders.clients[[row for row, rows in enumerate(held) if not len(rows)]]
    return Updates(
        clients=orders.clients[good],
        weights=np.empty((len(good), 0), np.float32),
        examples=sizes,
        metrics={"loss": means[0], "accuracy": means[1]},
        failures=tuple(failure(orders, int(client), "evaluate", ValueError(NO_TEST_EXAMPLES)) for client in without),
    )


Trained = tuple[NDArray[np.float32], NDArray[np.float64], list[Failure]]


def _together(
    engine: native.Engine,
    threads: int,
    examples: Examples,
    walks: list[NDArray[np.int64]],
    training: LocalTraining,
    orders: Orders,
) -> Trained | None:
    """The stack and losses of all phones, or None where one of them fails: which one, the engine does not say."""
    clients = native.cohort(walks)
    try:
        return *native.train_clients(engine, orders.weights, examples, clients, training, threads=threads), []
    except (ValueError, MemoryError):
        return None


def _one_by_one(
    engine: native.Engine,
    examples: Examples,
    walks: list[NDArray[np.int64]],
    training: LocalTraining,
    orders: Orders,
) -> Trained:
    """The stack and losses of the phones that can do their work, and what stopped the others."""
    rows: list[NDArray[np.float32]] = []
    losses: list[NDArray[np.float64]] = []
    failures: list[Failure] = []
    for client, walk in zip(orders.clients.tolist(), walks, strict=True):
        try:
            row, loss = native.train_clients(engine, orders.weights, examples, native.cohort([walk]), training)
        except (ValueError, MemoryError) as error:
            failures.append(failure(orders, client, "train", error))
        else:
            rows.append(row)
            losses.append(loss)
    empty = np.empty((0, len(orders.weights)), np.float32)
    return np.concatenate([empty, *rows]), np.concatenate([np.empty((0, training.epochs)), *losses]), failures
