"""The job in plain torch: two processes share the cohort, each adding up what its clients learned."""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.benchmarks.peers.job import Job, given_job, report
from experiments.benchmarks.peers.lenet import first_model, own_model, set_weights, shard, train_epoch, weights

PROCESSES = 2


def main() -> None:
    job = given_job()
    torch.manual_seed(job.seed)
    model, choices = first_model(job), np.random.default_rng(job.seed)
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as processes:
        list(processes.map(train_clients, [job] * PROCESSES, [weights(model)] * PROCESSES, [[0]] * PROCESSES))
        marks = [time.monotonic()]
        for _ in range(job.rounds):
            cohort = choices.choice(job.clients, job.cohort, replace=False)
            halves = [half.tolist() for half in np.array_split(cohort, PROCESSES)]
            sums = processes.map(train_clients, [job] * PROCESSES, [weights(model)] * PROCESSES, halves)
            set_weights(model, [np.add(*parts) / job.cohort for parts in zip(*sums, strict=True)])
            marks.append(time.monotonic())
    report(job, marks, weights(model), ["torch", "numpy"])


def train_clients(job: Job, start: list[NDArray[np.float32]], clients: list[int]) -> list[NDArray[np.float32]]:
    """The sum of the weights of these clients after an epoch each from ``start``."""
    model, total = own_model(), [np.zeros_like(array) for array in start]
    for client in clients:
        set_weights(model, start)
        train_epoch(model, *shard(job, client), job)
        for parameter, array in zip(model.parameters(), total, strict=True):
            array += parameter.detach().numpy()
    return total


if __name__ == "__main__":
    main()
