"""Who does the phones' work: one face for the engines, so that a run does not care which it is."""

import os
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
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
    """The engine that ``speed.engine`` names, on ``speed.workers`` threads (none: one a core)."""
    threads = federation.config.speed.workers or os.cpu_count() or 1
    opened = _torch_engine if federation.config.speed.engine == "torch" else _native_engine
    with opened(federation, threads) as engine:
        yield engine


@contextmanager
def _native_engine(federation: Federation, threads: int) -> Generator[Engine]:
    from fedsim.simulation import native_phones
    from fedsim.training.native import engine as native

    dataset, engine, seed = federation.dataset, native.Engine(federation.contract), federation.config.seed

    def trainer(weights: Weights, training: LocalTraining) -> Trainer:
        state = native.new_state(engine, training)
        return lambda rows: native.train_on(engine, weights, dataset.train, rows, training, state)

    with ThreadPoolExecutor(threads) as pool:
        yield Engine(
            train=partial(native_phones.train_cohort, engine, threads, dataset.train, federation.partition, seed),
            evaluate=partial(native_phones.evaluate_cohort, engine, threads, dataset.test, federation.test_partition),
            score=lambda weights: native.evaluate(engine, weights, dataset.test, threads=threads),
            trainer=trainer,
            pool=pool,
        )


@contextmanager
def _torch_engine(federation: Federation, threads: int) -> Generator[Engine]:
    from fedsim.simulation import workers  # here, as torch takes a second that only its own runs should pay
    from fedsim.training import reference

    dataset, contract, seed = federation.dataset, federation.contract, federation.config.seed
    with workers.worker_threads(threads) as pool:
        yield Engine(
            train=partial(workers.train_cohort, pool, contract, dataset.train, federation.partition, seed),
            evaluate=partial(workers.evaluate_cohort, pool, contract, dataset.test, federation.test_partition),
            score=lambda weights: workers.evaluate_all(pool, contract, weights, dataset.test),
            trainer=lambda weights, training: reference.trainer(contract, weights, dataset.train, training),
            pool=pool,
        )
