"""Malicious phones in a run: what they send in the place of what they trained, and how far their attack has come."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.attacks.poisoning import aim, deviations, forged
from fedsim.federation import Federation
from fedsim.poisoning_settings import LittleIsEnough, NoPoisoning, Poisoning, forges_updates
from fedsim.simulation.engines import Engine
from fedsim.updates import Orders, Updates, Weights

Columns = dict[str, Any]


def poisoned(engine: Engine, federation: Federation) -> Engine:
    """The engine whose malicious phones send what ``poisoning.attack`` says; the same one where they forge nothing."""
    attack, malicious = federation.config.poisoning, federation.malicious

    def train(orders: Orders) -> Updates:
        return with_forged(attack, malicious, orders, engine.train(orders))

    return replace(engine, train=train) if forges_updates(attack) else engine


def with_forged(attack: Poisoning, malicious: NDArray[np.int64], orders: Orders, trained: Updates) -> Updates:
    """``trained``, with the rows of ``malicious`` clients as `forged` makes them of their updates."""
    rows = np.flatnonzero(np.isin(trained.clients, malicious))
    if not len(rows):
        return trained
    stack = trained.weights.copy()
    with np.errstate(over="ignore", invalid="ignore"):  # what is then not finite is a failed phone's
        stack[rows] = orders.weights + forged(attack, stack[rows] - orders.weights, len(orders.clients))
    return replace(trained, weights=stack)


def progress(engine: Engine, federation: Federation) -> Callable[[list[int], Weights], Columns]:
    """Gives the columns of a round with these clients and the model after it; none where nobody is malicious.

    ``malicious`` is how many of the clients are; ``attack_success``, where the attack has an `aim`, the share of its
    examples that the model labels as it wants; ``z``, of `LittleIsEnough`, its `deviations`, where 0 is idle.
    """
    attack, dataset = federation.config.poisoning, federation.dataset
    if isinstance(attack, NoPoisoning):
        return lambda clients, weights: {}
    aimed = aim(attack, dataset.test, dataset.classes)

    def columns(clients: list[int], weights: Weights) -> Columns:
        found: Columns = {"malicious": int(np.isin(clients, federation.malicious).sum())}
        if isinstance(attack, LittleIsEnough):
            found["z"] = deviations(attack, len(clients), found["malicious"]) if clients else None
        if aimed:
            found["attack_success"] = float(engine.score_on(weights, aimed)[1].mean())
        return found

    return columns
