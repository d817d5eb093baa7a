"""Canary clients in a cohort, for an audit: drawn, asked and summed up as phones are, where phones' updates enter."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedsim.attacks.canaries import Canaries, contribution, directions
from fedsim.privacy.clipping import clip
from fedsim.simulation.private import Cohort, Draw, Vector
from fedsim.updates import ClippedSum, Orders, Updates


def with_canaries(cohort: Cohort, canaries: Canaries, first: int, attend: Draw) -> tuple[Cohort, Callable[[], Vector]]:
    """The ``cohort`` with ``canaries`` in it, as clients from number ``first`` on, and an ear at its phones.

    ``attend`` says which of the canaries come to a round. They hold no examples, and nobody tells any metrics. Each
    sends as much as the clip allows: ``canaries.clip`` where it sends a model, the round's where a sum is clipped. The
    ear gives the sum ``float64[P]`` of all that the phones have sent, clipped, since it was last asked.
    """
    heard = np.zeros(canaries.dimension)

    def split(orders: Orders) -> tuple[Orders, NDArray[np.int64]]:
        phones = orders.clients < first
        return replace(orders, clients=orders.clients[phones]), orders.clients[~phones] - first

    def draw(number: int) -> NDArray[np.int64]:
        return np.concatenate([cohort.draw(number), first + attend(number)])

    def train(orders: Orders) -> Updates:
        nonlocal heard
        asked, present = split(orders)
        sent = cohort.train(asked)
        heard = heard + clip(sent.weights.astype(np.float64) - orders.weights, canaries.clip)[0].sum(axis=0)
        own = orders.weights + canaries.clip * directions(canaries, present)
        return Updates(
            clients=np.concatenate([sent.clients, first + present]),
            weights=np.concatenate([sent.weights, own.astype(np.float32)]),
            examples=np.append(sent.examples, np.zeros(len(present), np.int64)),
            metrics={},
            failures=sent.failures,
        )

    def clipped(orders: Orders, longest: float) -> ClippedSum:
        nonlocal heard
        asked, present = split(orders)
        found = cohort.clipped(asked, longest)
        heard = heard + found.total
        return ClippedSum(
            clients=np.concatenate([found.clients, first + present]),
            total=found.total + longest / canaries.clip * contribution(canaries, present),
            norms=np.append(found.norms, np.full(len(present), longest)),
            examples=np.append(found.examples, np.zeros(len(present), np.int64)),
            metrics={},
            failures=found.failures,
        )

    def hear() -> Vector:
        nonlocal heard
        told, heard = heard, np.zeros(canaries.dimension)
        return told

    return Cohort(draw=draw, train=train, clipped=clipped), hear
