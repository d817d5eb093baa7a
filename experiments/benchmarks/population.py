"""A million registered phones, ten thousand a round: memory, and whether a round costs more for there being so many.

Each size of population is run in a process of its own, in turn, so that peak memory is that run's alone.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from fedsim.results import processor

POPULATIONS = (20_000, 1_000_000)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run: seconds until round 1 began, seconds of every round after it, and the most memory held."""

    clients: int
    start: float
    rounds: list[float]
    peak_bytes: int


def measure(clients: int, cohort: int, examples: int, rounds: int) -> Measured:
    """One cold `fedsim run` without baselines."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"federation.clients={clients}",
            f"federation.cohort={cohort}",
            f"federation.rounds={rounds}",
            "data.partition=sampled",
            f"data.examples_per_client={examples}",
            "training.epochs=1",
            "baselines.central=false",
            "baselines.local_only=0",
            f"output.folder={folder}/run",
        ]
        command = [sys.executable, "-m", "fedsim", "run", *(part for key in settings for part in ("--set", key))]
        subprocess.run(command, check=True, capture_output=True)
        run = Path(folder) / "run"
        timings = [json.loads(line)["wall"] for line in (run / "timings.jsonl").read_text().splitlines()]
        summary = json.loads((run / "summary.json").read_text())
    return Measured(
        clients=clients,
        start=summary["seconds"]["total"] - sum(timings[1:]),
        rounds=timings[2:],
        peak_bytes=summary["peak_memory_bytes"],
    )


def main() -> None:
    """Measure in turn and write one dated markdown file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the markdown file to write")
    parser.add_argument("--cohort", type=int, default=10_000)
    parser.add_argument("--examples", type=int, default=12, help="images a phone")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    found = [
        measure(clients, arguments.cohort, arguments.examples, arguments.rounds)
        for _ in range(arguments.repeats)
        for clients in POPULATIONS
    ]
    rows = [row(clients, [one for one in found if one.clients == clients]) for clients in POPULATIONS]
    lines = [
        f"# A large population, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{arguments.cohort:,} phones a round with {arguments.examples} images each, LeNet, batch 20, one local epoch; "
        f"{arguments.repeats} runs of {arguments.rounds} rounds for each size of population, in turn. Rounds are those "
        "after the first.",
        "",
        f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, NumPy {version('numpy')}; load "
        f"average at the end {os.getloadavg()[0]:.1f}.",
        f"`python -m experiments.benchmarks.population {' '.join(sys.argv[1:])}`",
        "",
        "| phones registered | seconds a round, median (least to most) | start-up and report, s | peak memory, GB |",
        "| ---: | --- | ---: | ---: |",
        *rows,
        "",
    ]
    arguments.out.write_text("\n".join(lines), encoding="utf-8")
    print(arguments.out.read_text(encoding="utf-8"))


def row(clients: int, runs: list[Measured]) -> str:
    """One line of the table."""
    rounds = [seconds for one in runs for seconds in one.rounds]
    return (
        f"| {clients:,} | {statistics.median(rounds):.2f} ({min(rounds):.2f} to {max(rounds):.2f}) "
        f"| {statistics.median(one.start for one in runs):.1f} | {max(one.peak_bytes for one in runs) / 1e9:.2f} |"
    )


if __name__ == "__main__":
    main()
