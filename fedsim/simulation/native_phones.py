"""A cohort's work in the native engine: whole cohorts in one call, on threads of the engine's own."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Examples
from fedsim.data.partition import Held, shards_of, sizes
from fedsim.simulation.attempts import clipped_sum
from fedsim.training.batches import shuffle_keys
from fedsim.training.native import engine as native
from fedsim.training.native.engine import Cohort
from fedsim.updates import NO_TEST_EXAMPLES, ClippedSum, Failure, LocalTraining, Mean, Orders, Updates, Weights, failure

Result = TypeVar("Result")
ClippedResult = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def train_cohort(
    engine: native.Engine, threads: int, examples: Examples, held: Held, seed: int, orders: Orders
) -> Updates:
    """Train every phone of ``orders`` on its own examples; the twin of `workers.train_cohort`, on the same batches."""

    def train(cohort: Cohort, training: LocalTraining) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        return native.train_clients(engine, orders.weights, examples, cohort, training, threads=threads)

    (stack, losses), cohort, clients, failures = _sound(train, held, seed, orders)
    return Updates(clients=clients, weights=stack, examples=cohort.counts, metrics=_metrics(losses), failures=failures)


def mean_cohort(engine: native.Engine, threads: int, examples: Examples, held: Held, seed: int, orders: Orders) -> Mean:
    """As `train_cohort`, but for the mean in place of the stack: the sum is formed while the phones train."""

    def train(cohort: Cohort, training: LocalTraining) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        shares = cohort.counts / max(1, cohort.counts.sum())
        return native.sum_clients(engine, orders.weights, examples, cohort, shares, training, threads=threads)

    (weights, losses), cohort, clients, failures = _sound(train, held, seed, orders)
    return as_mean(clients, cohort.counts, weights, losses, failures)


def clipped_cohort(
    engine: native.Engine, threads: int, examples: Examples, held: Held, seed: int, orders: Orders, clip: float
) -> ClippedSum:
    """As `mean_cohort`, but for the sum of clipped updates; the twin of `workers.clipped_cohort`."""

    def train(cohort: Cohort, training: LocalTraining) -> ClippedResult:
        return native.sum_clipped(engine, orders.weights, examples, cohort, clip, training, threads=threads)

    (total, norms, losses), cohort, clients, failures = _sound(train, held, seed, orders)
    found = Updates(
        clients=clients,
        weights=np.empty((0, len(total)), np.float32),
        examples=cohort.counts,
        metrics=_metrics(losses),
        failures=failures,
    )
    return clipped_sum(found, total, norms, orders)


def as_mean(
    clients: NDArray[np.int64],
    counts: NDArray[np.int64],
    weights: Weights,
    losses: NDArray[np.float64],
    failures: tuple[Failure, ...] = (),
) -> Mean:
    """The `Mean` of phones with ``counts`` examples whose models' weighted sum is ``weights``."""
    return Mean(
        clients=clients,
        weights=weights if counts.any() else weights[:0],
        examples=counts,
        metrics=_metrics(losses),
        failures=failures,
    )


def evaluate_cohort(engine: native.Engine, threads: int, examples: Examples, held: Held, orders: Orders) -> Updates:
    """Mean loss and accuracy on every phone's own test examples; the twin of `workers.evaluate_cohort`."""
    shards = held(orders.clients)
    counts = sizes(shards)
    good = counts > 0
    losses, correct = native.evaluate(engine, orders.weights, examples, rows=shards.order, threads=threads)
    means = [
        np.add.reduceat(values.astype(np.float64), shards.offsets[:-1][good]) / counts[good]
        for values in (losses, correct)
    ]
    return Updates(
        clients=orders.clients[good],
        weights=np.empty((int(good.sum()), 0), np.float32),
        examples=counts[good],
        metrics={"loss": means[0], "accuracy": means[1]},
        failures=tuple(
            failure(orders, int(client), "evaluate", ValueError(NO_TEST_EXAMPLES)) for client in orders.clients[~good]
        ),
    )


def _sound(
    train: Callable[[Cohort, LocalTraining], Result], held: Held, seed: int, orders: Orders
) -> tuple[Result, Cohort, NDArray[np.int64], tuple[Failure, ...]]:
    """What ``train`` makes of the phones that can do their work, who they are, and what stopped the others.

    The engine does not say which phone of a cohort stopped it: each is then asked alone, and the sound ones again.
    """
    training = orders.training
    if training is None:
        raise ValueError("these orders are for evaluation")
    shards, keys = held(orders.clients), shuffle_keys(seed, orders.round, orders.clients)
    whole = native.cohort(shards, keys, training)
    try:
        return train(whole, training), whole, orders.clients, ()
    except (ValueError, MemoryError):
        pass
    good: list[int] = []
    failures: list[Failure] = []
    for row, client in enumerate(orders.clients.tolist()):
        try:
            train(native.cohort(shards_of(shards, np.array([row])), keys[row : row + 1], training), training)
        except (ValueError, MemoryError) as error:
            failures.append(failure(orders, client, "train", error))
        else:
            good.append(row)
    sound = native.cohort(shards_of(shards, np.array(good, np.int64)), keys[good], training)
    return train(sound, training), sound, orders.clients[good], tuple(failures)


def _metrics(losses: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return {"train_loss": losses[:, -1], "epoch_losses": losses}
