"""Canary clients in a cohort, for an audit: what they send is clipped, added up and noised as what phones send."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedsim.attacks.canaries import Canaries, directions
from fedsim.privacy.clipping import clip
from fedsim.simulation.private import Clipped, Cohort, Draw, Train, Vector, stacked
from fedsim.updates import ClippedSum, Orders, Updates

CLIPS = 100.0
"""How long a canary's update is: one that nobody clips counts so many times what the noise is for."""

EXAMPLES = 10_000
"""How many examples a canary says that it holds: it must not count for more than a phone with few."""


def with_canaries(
    draw: Draw,
    train: Train,
    canaries: Canaries,
    *,
    first: int,
    attend: Draw,
    summed: Callable[[Train], Clipped] = stacked,
) -> tuple[Cohort, Callable[[], Vector]]:
    """The cohort of the phones that ``draw`` names, with ``canaries`` from number ``first`` on, and an ear at phones.

    ``attend`` says which of the canaries come to a round. Each sends a model, as a phone does: the round's, moved by
    `CLIPS` clips its own way. ``summed`` makes of such training the clipped sum that a round releases; that of real
    phones, by default, which an engine's own agrees with. Nobody tells any metrics. The ear gives the sum
    ``float64[P]`` of what the phones have sent since it was last asked, each clipped as it should be.
    """
    heard = np.zeros(canaries.dimension)

    def with_attending(number: int) -> NDArray[np.int64]:
        return np.concatenate([draw(number), first + attend(number)])

    def asked(longest: float, orders: Orders) -> Updates:
        phones = orders.clients < first
        sent, present = train(replace(orders, clients=orders.clients[phones])), orders.clients[~phones] - first
        for model in sent.weights:
            heard[:] += clip(model[np.newaxis].astype(np.float64) - orders.weights, longest)[0][0]
        stack = np.empty((len(sent.clients) + len(present), canaries.dimension), np.float32)
        stack[: len(sent.clients)] = sent.weights
        for row, canary in enumerate(present, len(sent.clients)):
            stack[row] = orders.weights + CLIPS * longest * directions(canaries, np.array([canary]))[0]
        return Updates(
            clients=np.append(sent.clients, first + present),
            weights=stack,
            examples=np.append(sent.examples, np.full(len(present), EXAMPLES)),
            metrics={},
            failures=sent.failures,
        )

    def clipped(orders: Orders, longest: float) -> ClippedSum:
        return summed(partial(asked, longest))(orders, longest)

    def hear() -> Vector:
        told = heard.copy()
        heard[:] = 0
        return told

    return Cohort(draw=with_attending, train=partial(asked, canaries.clip), clipped=clipped), hear
