"""What the federated model is compared with: one central training, and phones that train alone, of the same budget."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Dataset
from fedsim.data.partition import Partition, indices, sizes
from fedsim.seeds import generator
from fedsim.simulation.engines import Engine
from fedsim.training.batches import epoch_order
from fedsim.updates import LocalTraining, Weights

CURVE_POINTS = 10
Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the baselines share with the federation: its engine, data, initial model and settings of training.

    ``examples`` is how many examples all its phones together have trained on, an example counted each time.
    """

    engine: Engine
    dataset: Dataset
    initial: Weights
    training: LocalTraining
    seed: int
    examples: int


def train_centrally(budget: Budget) -> dict[str, Any]:
    """One model trained on all the examples together, by one optimizer that is never reset.

    Returns the ``curve``: loss and accuracy on the test set after about every tenth of the budget, cut where a batch
    ends, with ``examples`` so far.
    """
    weights = budget.initial.copy()
    train = budget.engine.trainer(weights, budget.training)
    everything = np.arange(len(budget.dataset.train.labels))
    curve: list[dict[str, float]] = [{"examples": 0, **_figures(budget.engine, weights)}]
    shuffle, every = generator(budget.seed, "central"), budget.examples / CURVE_POINTS
    for seen, rows in _pieces(everything, budget.training, shuffle, every, budget.examples):
        budget.engine.pool.submit(train, rows).result()
        if seen >= every * len(curve):
            curve.append({"examples": seen, **_figures(budget.engine, weights)})
    return {"curve": curve}


def train_alone(budget: Budget, partition: Partition, phones: int) -> dict[str, Any]:
    """``phones`` of the clients, drawn without replacement, each training alone on its own examples.

    Each has its share of the budget: as many examples as a phone of the federation trained on, on average. Returns
    their ``clients`` and each one's loss and accuracy on the whole test set.
    """
    count = len(sizes(partition))
    clients = np.sort(generator(budget.seed, "local only").choice(count, min(phones, count), replace=False))

    def train(client: int) -> Weights:
        weights = budget.initial.copy()
        step = budget.engine.trainer(weights, budget.training)
        shuffle = generator(budget.seed, "local only", client)
        share = budget.examples / count
        for _, rows in _pieces(indices(partition, client), budget.training, shuffle, np.inf, share):
            step(rows)
        return weights

    models = budget.engine.pool.map(train, map(int, clients))
    found = [_figures(budget.engine, weights) for weights in models]
    return {"clients": clients.tolist(), **{key: [row[key] for row in found] for key in found[0]}}


def _figures(engine: Engine, weights: Weights) -> dict[str, float]:
    """Loss and accuracy on the test set."""
    losses, correct = engine.score(weights)
    return {"test_loss": float(losses.mean()), "test_accuracy": float(correct.mean())}


def _pieces(
    held: Rows, training: LocalTraining, shuffle: np.random.Generator, every: float, goal: float
) -> Iterator[tuple[int, Rows]]:
    """What to train on until ``goal`` examples are used up: how many that makes so far, and the next rows.

    A piece ends where an epoch does, at the first batch that reaches a multiple of ``every``, or with the goal.
    """
    seen = 0
    while seen < goal:
        order = held[epoch_order(len(held), training, shuffle)]
        ends = np.append(np.arange(training.batch_size, len(order), training.batch_size), len(order))
        first = 0
        for end in _cuts(seen + ends, every, goal) - seen:
            yield seen + int(end), order[first:end]
            first = int(end)
        seen += first


def _cuts(totals: Rows, every: float, goal: float) -> Rows:
    """The totals at which to stop: the first past each multiple of ``every``, the first past ``goal``, or the last."""
    within = totals[: int(np.searchsorted(totals, goal)) + 1]
    passed = np.flatnonzero(np.diff(within // every, prepend=0)) if np.isfinite(every) else np.empty(0, np.int64)
    return within[np.union1d(passed, len(within) - 1)]
