"""Work for every phone of a cohort, side by side; a phone that raises is a failure, not the end of the round."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedsim.updates import ClippedSum, Failure, Orders, Updates, failure

Outcome = TypeVar("Outcome")

BLOCK = 32
"""Phones whose models are in memory at once where only their sum is wanted, and nothing else is said."""


def attempt_each(
    pool: Executor,
    work: Callable[[int], Outcome],
    orders: Orders,
    stage: Literal["train", "evaluate"],
    sizes: list[int],
) -> list[Outcome | Failure]:
    """``work`` for every row, begun in order of falling size; what came of it in the order of the rows."""

    def attempt(row: int) -> Outcome | Failure:
        try:
            return work(row)
        except Exception as error:
            return failure(orders, int(orders.clients[row]), stage, error)

    futures = {row: pool.submit(attempt, row) for row in sorted(range(len(sizes)), key=lambda row: -sizes[row])}
    return [futures[row].result() for row in range(len(sizes))]


def train_blocks(
    train: Callable[[Orders], Updates], orders: Orders, add: Callable[[Updates], None], block: int = BLOCK
) -> Updates:
    """What ``train`` makes of a cohort, but for its stack, of which ``add`` gets ``block`` rows after another.

    It gets one for nobody where there is nobody.
    """
    blocks: list[Updates] = []
    for first in range(0, max(1, len(orders.clients)), block):
        some = train(replace(orders, clients=orders.clients[first : first + block]))
        add(some)
        blocks.append(replace(some, weights=some.weights[:0]))
    told = [some.metrics for some in blocks if len(some.clients)] or [blocks[0].metrics]  # real phones: none of none
    return Updates(
        clients=np.concatenate([some.clients for some in blocks]),
        weights=blocks[0].weights,
        examples=np.concatenate([some.examples for some in blocks]),
        metrics={name: np.concatenate([metrics[name] for metrics in told]) for name in told[0]},
        failures=tuple(failed for some in blocks for failed in some.failures),
    )


def clipped_sum(cohort: Updates, total: NDArray[np.float64], norms: NDArray[np.float64], orders: Orders) -> ClippedSum:
    """The `ClippedSum` of a cohort's ``total`` and ``norms``; those whose norm is not finite have failed.

    What they report besides is dropped with them.
    """
    good = np.isfinite(norms)
    diverged = FloatingPointError("its update is not finite")
    return ClippedSum(
        clients=cohort.clients[good],
        total=total,
        norms=norms[good],
        examples=cohort.examples[good],
        metrics={name: values[good] for name, values in cohort.metrics.items()},
        failures=(
            *cohort.failures,
            *(failure(orders, int(client), "train", diverged) for client in cohort.clients[~good]),
        ),
    )
