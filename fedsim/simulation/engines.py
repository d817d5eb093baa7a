"""Who does the phones' work: one face for the engines, so that a run does not care which it is."""

import os
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedsim.federation import Federation
from fedsim.updates import LocalTraining, Orders, Updates, Weights

Scores = tuple[NDArray[np.float64], NDArray[np.bool_]]
Trainer = Callable[[NDArray[np.int64]], float]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What a run asks of an engine. Results are the same bits for any number of workers.

    ``train`` and ``evaluate`` do what a cohort was told; ``score`` gives loss and correctness of every test example;
    ``trainer(weights, training)`` gives a function that trains ``weights`` in place on rows of the training set,
    keeps its optimizer's state from call to call, and returns their mean loss. ``pool`` runs jobs side by side.
    """

    train: Callable[[Orders], Updates]
    evaluate: Callable[[Orders], Updates]
    score: Callable[[Weights], Scores]
    trainer: Callable[[Weights, LocalTraining], Trainer]
    pool: Executor


@contextmanager
def open_engine(federation: Federation) -> Generator[Engine]:
    """The engine that ``speed.engine`` names, with ``speed.workers`` threads (none: one a core)."""
    from fedsim.simulation import workers  # here, as torch takes a second that only its runs should pay
    from fedsim.training import reference

    dataset, contract = federation.dataset, federation.contract
    count = federation.config.speed.workers or os.cpu_count() or 1
    with workers.worker_threads(count) as pool:
        yield Engine(
            train=partial(
                workers.train_cohort, pool, contract, dataset.train, federation.partition, federation.config.seed
            ),
            evaluate=partial(workers.evaluate_cohort, pool, contract, dataset.test, federation.test_partition),
            score=lambda weights: workers.evaluate_all(pool, contract, weights, dataset.test),
            trainer=lambda weights, training: reference.trainer(contract, weights, dataset.train, training),
            pool=pool,
        )
