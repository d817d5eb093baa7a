"""How accurate private training is: the settings that published results are of, three seeds each, against goals.

``python -m experiments.benchmarks.private_accuracy --out FILE.md`` trains each on all of MNIST and tests on its test
set. P1, P2, P4 and P5 were tuned with ``--held-out``, which tests on 5,000 training images left out of the training in
place of the test set; the others took the first settings tried. Each run is `fedsim run`, whole; its model, noise and
epsilon are those of its config.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedsim import run
from fedsim.config import from_mapping
from fedsim.data.dataset import Dataset, select
from fedsim.data.sources import load
from fedsim.results import processor
from fedsim.seeds import generator

HELD_OUT = 5000
SGD = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "momentum": 0.0}
Tables = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A setting and the test accuracy that it should reach, in the median of the seeds."""

    what: str
    accuracy: float
    tables: Tables


def federation(clients: int, cohort: int, rounds: int) -> Mapping[str, int]:
    """The size of a federation."""
    return {"clients": clients, "cohort": cohort, "rounds": rounds}


def momentum(server_learning_rate: float) -> Mapping[str, Any]:
    """FedAvgM with the momentum that all goals use."""
    return {"name": "FedAvgM", "server_learning_rate": server_learning_rate, "server_momentum": 0.9}


P1: Tables = {
    "federation": federation(1000, 100, 100),
    "training": {**SGD, "epochs": 2},
    "strategy": momentum(0.7),
    "privacy": {"epsilon": 8, "delta": 1e-5, "clip": 0.2},
}
P3: Tables = {
    "federation": federation(6000, 600, 100),
    "training": {**SGD, "epochs": 2, "batch_size": 5},
    "strategy": momentum(2.5),
    "privacy": {"epsilon": 8, "delta": 1e-5, "clip": 0.2},
}
GOALS = {
    "P1": Goal(what="1,000 clients IID, cohort 100, 100 rounds, (8, 1e-5)", accuracy=0.960, tables=P1),
    "P2": Goal(
        what="3,383 clients IID, cohort 120, 100 rounds, (2, 1e-5)",
        accuracy=0.935,
        tables={
            "federation": federation(3383, 120, 100),
            "training": {**SGD, "epochs": 2},
            "strategy": momentum(0.7),
            "privacy": {"epsilon": 2, "delta": 1e-5, "clip": 0.2},
        },
    ),
    "P3, epsilon 8": Goal(
        what="6,000 clients of 10 images, cohort 600, 100 rounds, (8, 1e-5)", accuracy=0.963, tables=P3
    ),
    "P3, epsilon 2": Goal(
        what="the same, (2, 1e-5)",
        accuracy=0.953,
        tables={**P3, "strategy": momentum(1.5), "privacy": {"epsilon": 2, "delta": 1e-5, "clip": 0.2}},
    ),
    "P4": Goal(
        what="example level: 60,000 clients of one image, cohort 4,096, 440 rounds, (2.93, 1e-5), tanh CNN",
        accuracy=0.978,
        tables={
            "federation": federation(60_000, 4096, 440),
            "model": {"name": "tanh_cnn"},
            "training": {"epochs": 1, "batch_size": 1, "learning_rate": 1.0, "momentum": 0.0},
            "strategy": momentum(8.0),
            "privacy": {"epsilon": 2.93, "delta": 1e-5, "clip": 0.1},
            "output": {"evaluate_every": 40, "checkpoint_every": 10_000},
        },
    ),
    "P5": Goal(
        what="1,000 clients of 2 label shards, cohort 100, 100 rounds, (8, 1e-5)",
        accuracy=0.92,
        tables={**P1, "data": {"partition": "shards"}},
    ),
    "P6": Goal(
        what="100 clients IID, all of them in each of 20 rounds, (8, 1e-3)",
        accuracy=0.91,
        tables={
            "federation": federation(100, 100, 20),
            "training": {**SGD, "batch_size": 20},
            "strategy": momentum(0.3),
            "privacy": {"epsilon": 8, "delta": 1e-3, "clip": 0.5, "sampling": "cyclic"},
        },
    ),
    "P11": Goal(
        what="P1 with distributed noise, 16 bits",
        accuracy=0.950,
        tables={**P1, "privacy": {**P1["privacy"], "mechanism": "distributed", "bits": 16}},
    ),
}


def main() -> None:
    """Run what is asked for, and write one dated markdown file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the markdown file to write")
    parser.add_argument("--only", nargs="*", default=list(GOALS), choices=list(GOALS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held-out", action="store_true", help="test on training images that are left out of it")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="try other settings")
    arguments = parser.parse_args()
    dataset = held_out(load("mnist")) if arguments.held_out else load("mnist")
    rows: list[str] = []
    for name in arguments.only:
        rows.append(measured(name, GOALS[name], arguments.seeds, dataset, arguments.set))
        if arguments.out:
            arguments.out.write_text(page(rows, arguments.held_out), encoding="utf-8")


def held_out(dataset: Dataset) -> Dataset:
    """The training set without `HELD_OUT` images drawn from it, which take the test set's place."""
    order = generator(0, "held out").permutation(len(dataset.train.labels))
    return replace(dataset, train=select(dataset.train, order[HELD_OUT:]), test=select(dataset.train, order[:HELD_OUT]))


def measured(name: str, goal: Goal, seeds: int, dataset: Dataset, overrides: Iterable[str]) -> str:
    """One goal's row, said as soon as it is known."""
    accuracies: list[float] = []
    began = time.perf_counter()
    said: dict[str, Any] = {}
    for seed in range(1, seeds + 1):
        tables = {key: dict(table) for key, table in goal.tables.items()}
        tables["federation"]["clients"] = min(tables["federation"]["clients"], len(dataset.train.labels))
        for override in overrides:
            key, _, value = override.partition("=")
            table, _, leaf = key.partition(".")
            tables.setdefault(table, {})[leaf] = type(tables[table].get(leaf, 0.0))(float(value))
        with tempfile.TemporaryDirectory() as folder:
            config = from_mapping(
                {
                    "model": {"name": "lenet5"},
                    "baselines": {"central": False, "local_only": 0},
                    **tables,
                    "seed": seed,
                    "output": {"evaluate_every": 10, **tables.get("output", {}), "folder": f"{folder}/run"},
                }
            )
            summary = run(config, dataset=dataset).summary
        said = summary["privacy"]
        accuracies.append(summary["test_accuracy"])
    median = statistics.median(accuracies)
    row = (
        f"| {name} | {goal.what} | {said['noise_multiplier']:.3f} | {said['epsilon']:.4f} | {goal.accuracy:.1%} "
        f"| **{median:.2%}** | {', '.join(f'{accuracy:.2%}' for accuracy in accuracies)} "
        f"| {(time.perf_counter() - began) / seeds:.0f} |"
    )
    print(row, *overrides, flush=True)
    return row


def page(rows: list[str], is_held_out: bool) -> str:
    """The dated result."""
    tested = f"{HELD_OUT:,} training images left out of the training" if is_held_out else "the 10,000 test images"
    lines = [
        f"# Accuracy under differential privacy, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"Whole runs of `fedsim run`, tested on {tested}; LeNet-5 with tanh (61,706 weights) unless said, FedAvgM with "
        "momentum 0.9, seeds 1 and up. Epsilon is for one client added or removed (P6: what one client contributes "
        "left out), at the delta given, by privacy loss distributions (P11: Renyi divergences).",
        "",
        f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, NumPy {version('numpy')}, "
        f"flwr {version('flwr')}, dp-accounting {version('dp-accounting')}; load average at the end "
        f"{os.getloadavg()[0]:.1f}.",
        f"`python -m experiments.benchmarks.private_accuracy {' '.join(sys.argv[1:])}`",
        "",
        "| goal | setting | noise multiplier | epsilon | goal | median | seeds | seconds a run |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |",
        *rows,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
