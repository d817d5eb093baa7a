"""A round of a small federation as its server sees it, with the truth beside."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedsim.attacks.view import ServerView
from fedsim.coreml.contract import Contract
from fedsim.data.dataset import Dataset, select
from fedsim.data.partition import Shards, label_counts, shards_of, sizes
from fedsim.data.partitioners import partition
from fedsim.data.sources import load
from fedsim.models.initial import initial_weights
from fedsim.seeds import generator
from fedsim.training.batches import shuffle_keys
from fedsim.training.native import engine as native
from fedsim.updates import Weights


@dataclass(frozen=True, kw_only=True, eq=False)
class Small:
    """Clients that hold the first digits of MNIST, and an engine for their contract."""

    mnist: Dataset
    contract: Contract
    engine: native.Engine
    held: Shards
    start: Weights


def small(contract: Contract, scheme: str, clients: int, examples: int) -> Small:
    """``clients`` that share ``examples`` digits."""
    mnist, draw = load("mnist"), generator(0, "partition")
    labels = mnist.train.labels[:examples]
    dealt = partition(scheme, labels, clients, draw, alpha=0.5, classes_per_client=2, min_examples=2)
    start = initial_weights(contract, generator(0, "start"))
    return Small(mnist=mnist, contract=contract, engine=native.Engine(contract), held=dealt, start=start)


def updates(found: Small, weights: Weights, clients: NDArray[np.int64], *, seed: int = 0) -> NDArray[np.float32]:
    """What ``clients`` send back of a round that begins at ``weights``."""
    held, training = shards_of(found.held, clients), found.contract.training
    cohort = native.cohort(held, shuffle_keys(seed, 1, clients), training)
    return native.train_clients(found.engine, weights, found.mnist.train, cohort, training)[0] - weights


def seen(found: Small, weights: Weights, clients: NDArray[np.int64]) -> ServerView:
    """The round of ``clients`` that begins at ``weights``, each update by itself."""
    return ServerView(
        contract=found.contract,
        training=found.contract.training,
        weights=weights,
        updates=updates(found, weights, clients),
        examples=sizes(found.held)[clients].astype(np.float64),
        public=select(found.mnist.test, np.arange(300)),
        classes=found.mnist.classes,
    )


def together(view: ServerView) -> ServerView:
    """The same round seen by a server that learns nothing but the mean of its updates."""
    mean = view.updates.mean(axis=0, keepdims=True)
    return replace(view, updates=mean, examples=view.examples.mean(keepdims=True))


def noised(view: ServerView, deviation: float) -> ServerView:
    """The same round with Gaussian noise of standard ``deviation`` in every number of ``updates``."""
    noise = deviation * np.random.default_rng(0).standard_normal(view.updates.shape)
    return replace(view, updates=(view.updates + noise).astype(np.float32))


def shares(found: Small, clients: NDArray[np.int64]) -> NDArray[np.float64]:
    """Which share of the clients' examples has which label, in truth."""
    counts = label_counts(shards_of(found.held, clients), found.mnist.train.labels, 10)
    return counts / counts.sum(axis=1, keepdims=True)
