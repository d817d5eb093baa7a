"""Who does the phones' work: one face for the engines, so that a run does not care which it is."""

import os
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedsim.config import ConfigError
from fedsim.data.dataset import Examples
from fedsim.federation import Federation, test_shards, training_examples, training_shards
from fedsim.simulation import private_phones
from fedsim.updates import ClippedSum, LocalTraining, Mean, Orders, Updates, Weights

Scores = tuple[NDArray[np.float64], NDArray[np.bool_]]
Trainer = Callable[[NDArray[np.int64]], float]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What a run asks of an engine. Results are the same bits for any number of workers.

    ``train`` and ``evaluate`` do what a cohort was told; ``mean`` is ``train`` where the phones' average is all that is
    wanted, and its memory does not grow with the cohort; nor does that of ``clipped``, which adds up the phones'
    updates, each scaled down to the norm given. ``private`` is ``train`` by DP-SGD, with the norm to which it clips
    examples' gradients and the noise in multiples of it. ``score`` gives loss and correctness of every test example,
    ``score_on`` of other ones; ``trainer(weights, training)`` gives a function that trains ``weights`` in place on rows
    of the training set, keeps its optimizer's state from call to call, and returns their mean loss. ``pool`` runs jobs
    side by side, and ``aside`` one after another, beside the rounds.
    """

    train: Callable[[Orders], Updates]
    mean: Callable[[Orders], Mean]
    clipped: Callable[[Orders, float], ClippedSum]
    private: Callable[[Orders, float, float], Updates]
    evaluate: Callable[[Orders], Updates]
    score: Callable[[Weights], Scores]
    score_on: Callable[[Weights, Examples], Scores]
    trainer: Callable[[Weights, LocalTraining], Trainer]
    pool: Executor
    aside: Executor


@contextmanager
def open_engine(federation: Federation) -> Generator[Engine]:
    """The engine that ``speed.engine`` names, on ``speed.workers`` threads (none: one a core).

    Where there is central training to be done ``aside``, it has one of them to itself: it is a single chain of steps
    that takes as long as all the rounds. Where ``speed.cluster`` is given, ``mean`` is that cluster's. Raises
    `ConfigError` where there is none.
    """
    speed = federation.config.speed
    threads = max(1, (speed.workers or os.cpu_count() or 1) - federation.config.baselines.central)
    opened = _torch_engine if speed.engine == "torch" else _native_engine
    with opened(federation, threads) as engine:
        if speed.cluster:
            with _cluster(federation, engine.mean) as mean:
                yield replace(engine, mean=mean)
        else:
            yield engine


@contextmanager
def _cluster(federation: Federation, alone: Callable[[Orders], Mean]) -> Generator[Callable[[Orders], Mean]]:
    try:
        from fedsim.simulation import cluster  # here, as only its own runs need Ray
    except ImportError as error:
        raise ConfigError(
            f"speed.cluster = {federation.config.speed.cluster}: needs Ray ({error}); pip install 'fedsim[ray]'"
        ) from None
    with cluster.joined(federation, alone) as mean:
        yield mean


@contextmanager
def _native_engine(federation: Federation, threads: int) -> Generator[Engine]:
    from fedsim.simulation import native_phones
    from fedsim.training.native import engine as native

    dataset, engine, seed = federation.dataset, native.Engine(federation.contract), federation.config.seed
    examples = training_examples(federation)
    held, tested_on = partial(training_shards, federation), partial(test_shards, federation)
    gradient_sum = partial(native.gradient_sum, engine, examples)

    def trainer(weights: Weights, training: LocalTraining) -> Trainer:
        state = native.new_state(engine, training)
        return lambda rows: native.train_on(engine, weights, dataset.train, rows, training, state)

    with ThreadPoolExecutor(threads) as pool, _dropping(ThreadPoolExecutor(1)) as aside:
        yield Engine(
            train=partial(native_phones.train_cohort, engine, threads, examples, held, seed),
            mean=partial(native_phones.mean_cohort, engine, threads, examples, held, seed),
            clipped=partial(native_phones.clipped_cohort, engine, threads, examples, held, seed),
            private=partial(private_phones.train_cohort, pool, gradient_sum, held, seed),
            evaluate=partial(native_phones.evaluate_cohort, engine, threads, dataset.test, tested_on),
            score=lambda weights: native.evaluate(engine, weights, dataset.test, threads=threads),
            score_on=lambda weights, chosen: native.evaluate(engine, weights, chosen, threads=threads),
            trainer=trainer,
            pool=pool,
            aside=aside,
        )


@contextmanager
def _torch_engine(federation: Federation, threads: int) -> Generator[Engine]:
    from fedsim.simulation import workers  # here, as torch takes a second that only its own runs should pay
    from fedsim.training import reference

    dataset, contract, seed = federation.dataset, federation.contract, federation.config.seed
    examples = training_examples(federation)
    held, tested_on = partial(training_shards, federation), partial(test_shards, federation)
    gradient_sum = partial(reference.gradient_sum, contract, examples)
    with workers.worker_threads(threads) as pool, workers.worker_threads(1) as aside:
        yield Engine(
            train=partial(workers.train_cohort, pool, contract, examples, held, seed),
            mean=partial(workers.mean_cohort, pool, contract, examples, held, seed),
            clipped=partial(workers.clipped_cohort, pool, contract, examples, held, seed),
            private=partial(private_phones.train_cohort, pool, gradient_sum, held, seed),
            evaluate=partial(workers.evaluate_cohort, pool, contract, dataset.test, tested_on),
            score=lambda weights: workers.evaluate_all(pool, contract, weights, dataset.test),
            score_on=partial(workers.evaluate_all, pool, contract),
            trainer=lambda weights, training: reference.trainer(contract, weights, dataset.train, training),
            pool=pool,
            aside=aside,
        )


@contextmanager
def _dropping(pool: ThreadPoolExecutor) -> Generator[ThreadPoolExecutor]:
    """``pool``; what has not begun is dropped on the way out."""
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
