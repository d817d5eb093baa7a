"""What the federated model is compared with: one central training, and phones that train alone, of the same budget."""

from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.partition import indices, sizes
from fedsim.federation import Federation
from fedsim.seeds import generator, key, words
from fedsim.simulation.engines import Engine
from fedsim.training.batches import epoch_order
from fedsim.updates import Weights

CURVE_POINTS = 10
Point = dict[str, float]


class Chain:
    """One model trained on and on from the federation's first: its optimizer is never reset.

    ``weights`` has been trained on ``seen`` of the examples ``held``, an example counted each time.
    """

    def __init__(self, engine: Engine, federation: Federation, held: NDArray[np.int64], shuffle: np.uint64) -> None:
        self.weights = federation.initial.copy()
        self.seen = 0
        self._training = federation.contract.training
        self._train = engine.trainer(self.weights, self._training)
        self._held, self._shuffle = held, shuffle
        self._epoch, self._left = 0, held[:0]

    def train_until(self, goal: float) -> None:
        """Train on, up to the end of the first batch that makes ``seen`` at least ``goal``."""
        size = self._training.batch_size
        while self.seen < goal:
            if not len(self._left):
                order = epoch_order(len(self._held), self._shuffle, self._epoch, shuffle=self._training.shuffle)
                self._left, self._epoch = self._held[order], self._epoch + 1
            count = int(np.ceil((goal - self.seen) / size)) * size
            rows, self._left = self._left[:count], self._left[count:]
            self._train(rows)
            self.seen += len(rows)


class CentralTraining:
    """One model trained on all the examples together, beside a federation whose budget it follows round by round.

    It trains on the engine's thread for work aside, so that the rounds need not wait for it. About a tenth of the
    rounds apart, and after the last, its loss and accuracy on the test set are taken.
    """

    def __init__(self, engine: Engine, federation: Federation) -> None:
        everything = np.arange(len(federation.dataset.train.labels))
        self._chain = Chain(engine, federation, everything, key(federation.config.seed, "central"))
        self._engine = engine
        self._rounds, self._epochs = federation.config.federation.rounds, federation.contract.training.epochs
        self._budget = 0
        self._start: Point = {}
        self._advances: list[Future[Point]] = []

    def follow(self, row: dict[str, Any]) -> None:
        """Spend what the federation spent in the round that ``row`` tells of; returns at once."""
        number = row["round"]
        if number == 0:  # the same model on the same examples
            self._start = {"examples": 0, "test_loss": row["test_loss"], "test_accuracy": row["test_accuracy"]}
            return
        self._budget += row["examples"] * self._epochs
        due = number * CURVE_POINTS // self._rounds > (number - 1) * CURVE_POINTS // self._rounds
        self._advances.append(self._engine.aside.submit(self._advance, self._budget, due))

    def curve(self) -> list[Point]:
        """Loss and accuracy at each point, with the ``examples`` trained on so far; waits for the training to end."""
        return [self._start, *(point for advance in self._advances if (point := advance.result()))]

    def _advance(self, goal: int, due: bool) -> Point:
        self._chain.train_until(goal)
        return {"examples": self._chain.seen, **_figures(self._engine, self._chain.weights)} if due else {}


def train_alone(engine: Engine, federation: Federation, phones: int, examples: int) -> dict[str, Any]:
    """``phones`` of the clients, drawn without replacement, each training alone on its own examples.

    Each has its share of the budget of ``examples``: as many as a phone of the federation trained on, on average.
    Returns their ``clients`` and each one's loss and accuracy on the whole test set.
    """
    held, seed = federation.partition, federation.config.seed
    count = len(sizes(held))
    clients = np.sort(generator(seed, "local only").choice(count, min(phones, count), replace=False))
    shuffles = words(key(seed, "local only"), clients)

    def train(client: int, shuffle: np.uint64) -> Weights:
        chain = Chain(engine, federation, indices(held, client), shuffle)
        chain.train_until(examples / federation.config.federation.clients)
        return chain.weights

    models = list(engine.pool.map(train, clients.tolist(), shuffles))
    found = [_figures(engine, weights) for weights in models]
    return {"clients": clients.tolist(), **{name: [row[name] for row in found] for name in found[0]}}


def _figures(engine: Engine, weights: Weights) -> Point:
    """Loss and accuracy on the test set."""
    losses, correct = engine.score(weights)
    return {"test_loss": float(losses.mean()), "test_accuracy": float(correct.mean())}
