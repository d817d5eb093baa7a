"""A corner where attacks work: small networks that learn a few hundred digits by heart, and their figures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.attacks import roc
from fedsim.attacks.membership import Confidences, Members, Scores, confidence, turns
from fedsim.attacks.shadows import logits, random_halves, shadow_models
from fedsim.coreml.contract import Contract
from fedsim.data.dataset import Examples, select
from fedsim.data.sources import load
from fedsim.models.initial import initial_weights
from fedsim.seeds import generator
from fedsim.training.native.engine import Engine
from fedsim.updates import LocalTraining
from tests.training.native.networks import Chain

BY_HEART = LocalTraining(epochs=60, batch_size=20, optimizer="sgd", learning_rate=0.05, momentum=0.9)


def small_network(training: LocalTraining = BY_HEART) -> Contract:
    """Two dense layers for MNIST, which train some ten times as fast as the LeNet."""
    chain = Chain((1, 28, 28)).flatten("channel_first").dense(48).activate("relu").dense(10)
    return chain.contract(training=training)


@dataclass(frozen=True, kw_only=True, eq=False)
class Overfit:
    """Shadow models of one pool: what they say of it, who saw what, and what they say of a population."""

    confidences: Confidences
    members: Members
    population: Confidences


def overfit(contract: Contract, models: int, examples: int, *, first: int = 0) -> Overfit:
    """``models`` trained on random halves of ``examples`` digits from ``first`` on, asked about as many from 0 on."""
    mnist, engine, draw = load("mnist"), Engine(contract), generator(0, "overfit")
    pool = select(mnist.train, np.arange(first, first + examples))
    members = random_halves(models, examples, draw)
    start = initial_weights(contract, draw)
    stack = shadow_models(contract, start, pool, members, contract.training, seed=0, engine=engine)

    def say(asked: Examples) -> Confidences:
        return confidence(logits(contract, stack, asked, engine=engine), asked.labels)

    asked, population = select(mnist.train, np.arange(examples)), select(mnist.test, np.arange(500))
    return Overfit(confidences=say(asked), members=members, population=say(population))


def each_in_turn(
    found: Overfit, attack: Callable[[int, NDArray[np.int64]], Scores], members: Members | None = None
) -> roc.Figures:
    """The figures of ``attack(victim, others)`` on every model of ``found``, pooled."""
    scores = np.concatenate([attack(victim, others) for victim, others in turns(len(found.members))])
    return roc.figures(scores, (found.members if members is None else members).ravel())
