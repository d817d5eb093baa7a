"""Whole rounds of `fedsim run` against the native kernel's own rate: what everything around the training costs.

The kernel's rate is that of the same cohort trained by the engine alone, on all cores, in turn with the runs. A round
is what passes between two rows of ``rounds.jsonl``. Every round is evaluated on the whole test set, which is work of
its own; so each run is repeated with a test set of 100 images, where a round is little more than its training.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from fedsim import run
from fedsim.config import RunConfig, from_mapping
from fedsim.data.dataset import Dataset, select
from fedsim.data.sources import load
from fedsim.federation import set_up, training_shards
from fedsim.results import processor
from fedsim.training.batches import shuffle_keys
from fedsim.training.native.engine import Engine, cohort, sum_clients

WORK = {"10 phones of 600 images": (100, 10), "100 phones of 60 images": (1000, 100)}
SMALL = 100
SGD = {"epochs": 1, "batch_size": 20, "learning_rate": 0.05, "momentum": 0.0}


def main() -> None:
    """Measure in turn and write one dated markdown file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the markdown file to write")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    whole = load("mnist")
    tests = {"10,000": whole, f"{SMALL}": replace(whole, test=select(whole.test, slice(0, SMALL)))}
    rows: list[str] = []
    for name, (clients, chosen) in WORK.items():
        kernel: list[float] = []
        rates: dict[str, list[float]] = {count: [] for count in tests}
        for _ in range(arguments.repeats):
            for count, dataset in tests.items():
                kernel.append(kernel_rate(config_of(clients, chosen, 1, Path()), dataset, arguments.rounds))
                rates[count].append(round_rate(clients, chosen, arguments.rounds, dataset))
        best = max(kernel)
        rows += [
            f"| {name} | {count} | {max(rates[count]):,.0f} | {statistics.median(rates[count]):,.0f} | {best:,.0f} "
            f"| {statistics.median(kernel):,.0f} | {max(rates[count]) / best:.0%} "
            f"| {statistics.median(rates[count]) / statistics.median(kernel):.0%} |"
            for count in tests
        ]
    arguments.out.write_text(page(rows, arguments.repeats, arguments.rounds), encoding="utf-8")
    print(arguments.out.read_text(encoding="utf-8"))


def config_of(clients: int, chosen: int, rounds: int, folder: Path) -> RunConfig:
    """The run: FedAvg, IID, plain SGD, no baselines."""
    return from_mapping(
        {
            "federation": {"clients": clients, "cohort": chosen, "rounds": rounds},
            "training": SGD,
            "baselines": {"central": False, "local_only": 0},
            "output": {"folder": str(folder)},
        }
    )


def kernel_rate(config: RunConfig, dataset: Dataset, rounds: int) -> float:
    """Samples a second of the engine alone, on cohorts of the run's size."""
    federation = set_up(config, dataset)
    engine, training = Engine(federation.contract), federation.contract.training
    clients = np.arange(config.federation.cohort)
    held = cohort(training_shards(federation, clients), shuffle_keys(0, 1, clients), training)
    shares = held.counts / held.counts.sum()
    threads = os.cpu_count() or 1
    seconds: list[float] = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        sum_clients(engine, federation.initial, dataset.train, held, shares, training, threads=threads)
        seconds.append(time.perf_counter() - began)
    return float(held.counts.sum() / statistics.median(seconds[1:]))


def round_rate(clients: int, chosen: int, rounds: int, dataset: Dataset) -> float:
    """Samples a second of a run's rounds after the first, by the clock between their rows."""
    ends: list[float] = []
    examples: list[int] = []
    with tempfile.TemporaryDirectory() as folder:

        def listen(row: dict[str, object]) -> None:
            ends.append(time.perf_counter())
            examples.append(int(str(row["examples"])))

        run(config_of(clients, chosen, rounds, Path(folder) / "run"), dataset=dataset, listen=listen)
    return statistics.median(
        count / (end - start) for start, end, count in zip(ends[1:], ends[2:], examples[2:], strict=False)
    )


def page(rows: list[str], repeats: int, rounds: int) -> str:
    """The dated result."""
    lines = [
        f"# Whole rounds against the kernel, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"Seed LeNet, batch 20, SGD, one local epoch, all cores; {repeats} runs of {rounds} rounds each, in turn with "
        "the kernel alone. Samples a second; a run's figure is the median of its rounds after the first.",
        "",
        f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, NumPy {version('numpy')}, "
        f"flwr {version('flwr')}; load average at the end {os.getloadavg()[0]:.1f}.",
        f"`python -m experiments.benchmarks.rounds {' '.join(sys.argv[1:])}`",
        "",
        "| a round | test images | rounds, best | median | kernel, best | median | best / best | median / median |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
