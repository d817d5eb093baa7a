"""Phones whose training is arithmetic, for tests of everything around training."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from fedsim.seeds import generator
from fedsim.simulation.grid import Phones
from fedsim.updates import Failure, Orders, Updates, Weights

Kind = Literal["train", "evaluate"]
Fails = Callable[[Kind, int, int], bool]
"""Whether, asked to do this in this round, this client fails."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One phone's reply: its model ``float32[P]`` (``[0]`` after an evaluation), its examples and its metrics."""

    weights: Weights
    examples: int
    metrics: dict[str, float | list[float]]


def answer(kind: Kind, number: int, client: int, weights: Weights, proximal_mu: float) -> Answer:
    """A pure function in the place of training: a step to the client's own target, shorter with ``proximal_mu``."""
    target = generator(0, "target", client).standard_normal(len(weights), np.float32)
    loss = float(np.mean(np.square(weights - target), dtype=np.float64))
    if kind == "evaluate":
        return Answer(weights=weights[:0], examples=3 + client, metrics={"loss": loss, "accuracy": 1 / (1 + loss)})
    stumble = generator(0, "stumble", number, client).standard_normal(len(weights), np.float32)
    trained = weights + np.float32(0.5 / (1 + proximal_mu)) * (target - weights) + np.float32(0.1) * stumble
    return Answer(weights=trained, examples=10 + client, metrics={"train_loss": loss, "epoch_losses": [2 * loss, loss]})


def arithmetic_phones(clients: int, fails: Fails = lambda kind, number, client: False) -> Phones:
    """Phones that `answer`, except where they fail."""
    return Phones(clients=clients, train=partial(_cohort, "train", fails), evaluate=partial(_cohort, "evaluate", fails))


def _cohort(kind: Kind, fails: Fails, orders: Orders) -> Updates:
    clients = orders.clients.tolist()
    good = [client for client in clients if not fails(kind, orders.round, client)]
    mu = orders.training.proximal_mu if orders.training else 0.0
    answers = [answer(kind, orders.round, client, orders.weights, mu) for client in good]
    weights = np.empty((len(good), len(orders.weights) if kind == "train" else 0), np.float32)
    for row, one in enumerate(answers):
        weights[row] = one.weights
    names = answers[0].metrics if answers else ()
    return Updates(
        clients=np.array(good, np.int64),
        weights=weights,
        examples=np.array([one.examples for one in answers], np.int64),
        metrics={name: np.array([one.metrics[name] for one in answers]) for name in names},
        failures=tuple(_failure(kind, orders.round, client) for client in clients if client not in good),
    )


def _failure(kind: Kind, number: int, client: int) -> Failure:
    return Failure(client=client, round=number, stage=kind, reason="its battery is flat", traceback="")
