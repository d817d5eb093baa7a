"""A whole cohort as one phone, for strategies that need no more of it than its mean: nothing grows with the cohort.

The weighted mean of one reply is that reply, so a linear strategy makes of the cohort's mean what it would have made
of all its replies, up to the order in which they are added.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedsim.federation import Federation
from fedsim.simulation.engines import Engine
from fedsim.simulation.grid import Phones, one_phone
from fedsim.strategies import draw_cohort
from fedsim.updates import Mean, Orders, Updates


def open_phones(federation: Federation, engine: Engine) -> Phones:
    """The phones that a strategy meets in a run without privacy: all, or the one that stands for a round's cohort."""
    config = federation.config
    if config.speed.aggregation == "streamed":
        return cohort_phone(config.federation.clients, config.federation.cohort, config.seed, engine.mean)
    return Phones(clients=config.federation.clients, train=engine.train, evaluate=engine.evaluate)


def cohort_phone(clients: int, cohort: int, seed: int, mean: Callable[[Orders], Mean]) -> Phones:
    """One phone that, told to train, draws the round's ``cohort`` of ``clients`` and answers with its ``mean``."""

    def train(orders: Orders) -> Updates:
        return _as_one(mean(replace(orders, clients=draw_cohort(seed, orders.round, clients, cohort))), orders)

    return one_phone(train)


def _as_one(found: Mean, orders: Orders) -> Updates:
    """The mean as the update of the one phone asked; a failure where no phone of the cohort succeeded."""
    if not len(found.weights):
        failed = [replace(one, client=int(orders.clients[0])) for one in found.failures[:1]]
        return Updates(
            clients=orders.clients[:0],
            weights=np.empty((0, 0), np.float32),
            examples=found.examples[:0],
            metrics={},
            failures=tuple(failed),
        )
    shares = found.examples / found.examples.sum()
    return Updates(
        clients=orders.clients,
        weights=found.weights[np.newaxis],
        examples=found.examples.sum(keepdims=True),
        metrics={name: (shares @ values)[np.newaxis] for name, values in found.metrics.items()},
    )
