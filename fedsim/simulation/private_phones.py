"""A cohort whose phones train by DP-SGD, on threads, with whichever engine's gradients."""

from concurrent.futures import Executor

import numpy as np

from fedsim.data.partition import Held, indices
from fedsim.seeds import generator
from fedsim.simulation.attempts import attempt_each
from fedsim.training.private_sgd import GradientSum, train_privately
from fedsim.updates import Failure, Orders, Updates


def train_cohort(
    pool: Executor,
    gradient_sum: GradientSum,
    held: Held,
    seed: int,
    orders: Orders,
    clip: float,
    noise_multiplier: float,
) -> Updates:
    """Train every phone of ``orders`` privately on its own examples.

    Row ``i`` of the result depends on the seed, the round and client ``i`` alone. There are no metrics: a loss would
    tell of examples beyond what the noise covers. A phone that raises becomes a `Failure`, and has no row.
    """
    training = orders.training
    if training is None:
        raise ValueError("these orders are for evaluation")
    shards = held(orders.clients)
    phones = [indices(shards, row) for row in range(len(orders.clients))]
    stack = np.empty((len(phones), len(orders.weights)), np.float32)

    def work(row: int) -> None:
        stack[row] = orders.weights
        own = generator(seed, "dp-sgd", orders.round, int(orders.clients[row]))
        train_privately(stack[row], phones[row], gradient_sum, training, clip, noise_multiplier, own)

    outcomes = attempt_each(pool, work, orders, "train", [len(phone) for phone in phones])
    good = [row for row, outcome in enumerate(outcomes) if not isinstance(outcome, Failure)]
    return Updates(
        clients=orders.clients[good],
        weights=stack if len(good) == len(stack) else stack[good],
        examples=np.array([len(phones[row]) for row in good], np.int64),
        metrics={},
        failures=tuple(outcome for outcome in outcomes if isinstance(outcome, Failure)),
    )
