"""Threads against processes for the torch loop: ``python experiments/benchmarks/workers.py --out FILE.md``.

The same cohort of 600-image phones, in turn: on threads of one process, as ``speed.engine = torch`` trains them, and in
as many processes, each with its own torch. Start-up is left out of both; carrying the weights back is not.
"""

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from fedsim.config import load
from fedsim.data.dataset import select
from fedsim.data.partition import indices
from fedsim.federation import Federation, set_up
from fedsim.results import processor
from fedsim.simulation.engines import open_engine
from fedsim.training import reference
from fedsim.training.batches import shuffle_keys
from fedsim.updates import Orders, Weights

PHONES, IMAGES = 8, 600


@cache
def federation() -> Federation:
    """The main job's, in whichever process asks."""
    return set_up(load(None, ["speed.engine=torch", "training.epochs=1", f"speed.workers={os.cpu_count()}"]))


def train_in_process(client: int) -> Weights:
    """One phone's training where torch has one thread, as a worker process does it."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    given = federation()
    weights = given.initial.copy()
    own = select(given.dataset.train, indices(given.partition, client))
    (key,) = shuffle_keys(0, 1, np.array([client]))
    reference.train_client(given.contract, weights, own, given.contract.training, key)
    return weights


def main() -> None:
    """Measure in turn and write one dated markdown file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the markdown file to write")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    clients = np.arange(PHONES)
    given, rates = federation(), {"threads": list[float](), "processes": list[float]()}
    orders = Orders(round=1, clients=clients, weights=given.initial, training=given.contract.training)
    with open_engine(given) as engine, ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as processes:
        ways = {
            "threads": lambda: engine.train(orders).weights,
            "processes": lambda: list(processes.map(train_in_process, clients.tolist())),
        }
        same = np.array_equal(ways["threads"](), ways["processes"]())  # and so both are warm
        for _ in range(arguments.repeats):
            for name, work in ways.items():
                began = time.perf_counter()
                work()
                rates[name].append(PHONES * IMAGES / (time.perf_counter() - began))
    arguments.out.write_text(page(rates, same), encoding="utf-8")
    print(arguments.out.read_text(encoding="utf-8"))


def page(rates: dict[str, list[float]], same: bool) -> str:
    """The dated result: medians with range, and the ratio pair by pair."""
    ratios = [one / other for one, other in zip(rates["threads"], rates["processes"], strict=True)]
    rows = [
        f"| {os.cpu_count()} {name} | {statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f}) |"
        for name, values in rates.items()
    ]
    lines = [
        f"# Threads against processes for the torch loop, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {version('torch')}; load "
        f"average at the end {os.getloadavg()[0]:.1f}.",
        f"`{shlex.join(['python', *sys.argv])}`: {len(ratios)} times {PHONES} phones of {IMAGES} images, batch 20, in "
        f"turn. The trained weights are {'the same bits' if same else 'not the same bits'}.",
        "",
        "| | samples/s, median (least to most) |",
        "| --- | --- |",
        *rows,
        "",
        f"Threads over processes, pair by pair: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
