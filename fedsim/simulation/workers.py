"""Spreads the phones' work over threads, one phone a thread, with results that do not depend on how many there are."""

import math
from collections.abc import Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.coreml.contract import Contract
from fedsim.data.dataset import Examples, select
from fedsim.data.partition import Held, indices
from fedsim.simulation.attempts import attempt_each, clipped_sum, train_blocks
from fedsim.training import reference
from fedsim.training.batches import shuffle_keys
from fedsim.updates import NO_TEST_EXAMPLES, ClippedSum, Failure, Mean, Orders, Updates, Weights

EVALUATION_BLOCK = 1000
"""Examples a task when evaluating: fixed, so that the split does not follow the number of workers."""


@contextmanager
def worker_threads(count: int) -> Generator[ThreadPoolExecutor]:
    """``count`` threads, each computing on one core; what has not begun is dropped on the way out.

    Threads, not processes: torch lets go of the interpreter lock, nothing is copied, torch is imported once, and the
    two measure alike (``experiments/benchmarks/workers.py``).
    """
    pool = ThreadPoolExecutor(count, "fedsim", initializer=_on_one_core)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _on_one_core() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # dead units' momenta decay into denormal numbers, which cost a factor of four


def train_cohort(
    pool: Executor, contract: Contract, examples: Examples, held: Held, seed: int, orders: Orders
) -> Updates:
    """Train every phone of ``orders`` on its own examples, the largest first.

    Row ``i`` of the result depends on the seed, the round and client ``i`` alone. A phone that raises becomes a
    `Failure`, and has no row.
    """
    training = orders.training
    if training is None:
        raise ValueError("these orders are for evaluation")
    stack = np.empty((len(orders.clients), len(orders.weights)), np.float32)
    phones = _phones(examples, held, orders)
    keys = shuffle_keys(seed, orders.round, orders.clients)

    def work(row: int) -> list[float]:
        stack[row] = orders.weights
        return reference.train_client(contract, stack[row], phones[row], training, keys[row])

    outcomes = attempt_each(pool, work, orders, "train", [len(phone.labels) for phone in phones])
    good = [row for row, outcome in enumerate(outcomes) if not isinstance(outcome, Failure)]
    losses = np.array([outcomes[row] for row in good], np.float64).reshape(len(good), training.epochs)
    return Updates(
        clients=orders.clients[good],
        weights=stack if len(good) == len(stack) else stack[good],
        examples=np.array([len(phones[row].labels) for row in good], np.int64),
        metrics={"train_loss": losses[:, -1], "epoch_losses": losses},
        failures=tuple(outcome for outcome in outcomes if isinstance(outcome, Failure)),
    )


def mean_cohort(pool: Executor, contract: Contract, examples: Examples, held: Held, seed: int, orders: Orders) -> Mean:
    """As `train_cohort`, but for the mean in place of the stack, of which there is never more than a block."""
    total = np.zeros(len(orders.weights), np.float64)

    def add(block: Updates) -> None:
        for model, count in zip(block.weights, block.examples.tolist(), strict=True):
            total[:] += count * model.astype(np.float64)

    cohort = train_blocks(partial(train_cohort, pool, contract, examples, held, seed), orders, add)
    examined = int(cohort.examples.sum())
    return Mean(
        clients=cohort.clients,
        weights=(total / examined if examined else total[:0]).astype(np.float32),
        examples=cohort.examples,
        metrics=cohort.metrics,
        failures=cohort.failures,
    )


def clipped_cohort(
    pool: Executor, contract: Contract, examples: Examples, held: Held, seed: int, orders: Orders, clip: float
) -> ClippedSum:
    """As `train_cohort`, but for the sum of the updates, each scaled down to a norm of ``clip`` where it is longer.

    A phone whose update is not finite is a `Failure` like any other, and adds nothing.
    """
    total = np.zeros(len(orders.weights), np.float64)
    norms: list[float] = []

    def add(block: Updates) -> None:
        for model in block.weights:
            update = model.astype(np.float64) - orders.weights
            norm = float(np.linalg.norm(update))
            norms.append(norm)
            if math.isfinite(norm):
                total[:] += update if norm <= clip else update * (clip / norm)

    cohort = train_blocks(partial(train_cohort, pool, contract, examples, held, seed), orders, add)
    return clipped_sum(cohort, total, np.array(norms, np.float64), orders)


def evaluate_cohort(pool: Executor, contract: Contract, examples: Examples, held: Held, orders: Orders) -> Updates:
    """Mean loss and accuracy of ``orders.weights`` on every phone's own test examples.

    A phone that holds none of these has nothing to say: it is a `Failure`, not a made-up number.
    """
    phones = _phones(examples, held, orders)

    def work(row: int) -> tuple[float, float]:
        if not len(phones[row].labels):
            raise ValueError(NO_TEST_EXAMPLES)
        losses, correct = reference.evaluate(contract, orders.weights, phones[row])
        return float(losses.mean()), float(correct.mean())

    outcomes = attempt_each(pool, work, orders, "evaluate", [len(phone.labels) for phone in phones])
    good = [row for row, outcome in enumerate(outcomes) if not isinstance(outcome, Failure)]
    means = np.array([outcomes[row] for row in good], np.float64).reshape(-1, 2)
    return Updates(
        clients=orders.clients[good],
        weights=np.empty((len(good), 0), np.float32),
        examples=np.array([len(phones[row].labels) for row in good], np.int64),
        metrics={"loss": means[:, 0], "accuracy": means[:, 1]},
        failures=tuple(outcome for outcome in outcomes if isinstance(outcome, Failure)),
    )


def evaluate_all(
    pool: Executor, contract: Contract, weights: Weights, examples: Examples
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """`reference.evaluate` over all ``examples``, a block a task."""
    starts = range(0, len(examples.labels), EVALUATION_BLOCK)
    blocks = [slice(start, start + EVALUATION_BLOCK) for start in starts]

    def score(rows: slice) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return reference.evaluate(contract, weights, select(examples, rows))

    parts = list(pool.map(score, blocks))
    return np.concatenate([losses for losses, _ in parts]), np.concatenate([correct for _, correct in parts])


def _phones(examples: Examples, held: Held, orders: Orders) -> list[Examples]:
    """Each phone's own examples."""
    shards = held(orders.clients)
    return [select(examples, indices(shards, row)) for row in range(len(orders.clients))]
