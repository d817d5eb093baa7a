"""The result as a page of markdown."""

import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from experiments.benchmarks.peers.contestants import CONTESTANTS, LIKE_FOR_LIKE, OURS, Contestant, Refused
from experiments.benchmarks.peers.job import Job
from experiments.benchmarks.peers.measure import Measured
from fedsim.results import processor

Runs = list[Measured | Refused]
"""Of one contestant at one job: one a repeat."""
GOALS = (("pfl", 600, 5), ("Flower", 600, 8), ("Flower", 60, 20))
"""Peer, images a client, and how many times as long its round should take."""
HOW = """\
Everybody trains the seed LeNet (585,958 weights, float32) from the same first weights by FedAvg: one local epoch,
batch 20, SGD 0.05 without momentum, IID shards of MNIST, every cohort drawn by the contestant itself. Two workers on
this machine's cores; in torch a thread each, channels last and fused SGD wherever the peer leaves that to its user,
images in memory. Every contestant runs in processes of its own, in turn, once a repeat, and hands over its final
weights; the driver tests them all on the 10,000 test images in the same way. Seconds a round are over all repeats
without their first rounds, which stand apart. Samples/s is images trained in a round by its median. Times fedsim
compares medians repeat by repeat: median (least to most). Start-up is from the start of the process to the first
round: imports, data, workers. Peak memory sums all processes of a contestant, looked at up to twice a second,
shared pages counted once. Testing the model is not in anybody's rounds but those of "fedsim, every round tested"."""


@dataclass(frozen=True, kw_only=True)
class Bout:
    """One job and how everybody did it, by name."""

    job: Job
    runs: dict[str, Runs]


def page(bouts: list[Bout], command: str, started: datetime, loads: tuple[float, float]) -> str:
    """The whole result file."""
    lines = [
        f"# Peers, {started:%Y-%m-%d}",
        "",
        HOW,
        "",
        f"Command: `{command}`",
        f"Machine: {processor()}, {os.cpu_count()} cores; {platform.platform()}; load {loads[0]:.1f} when it began, "
        f"{loads[1]:.1f} when it ended, its own work included",
        "",
        "## Goals",
        "",
        "| times as long as fedsim | goal | measured | against fedsim with every round tested |",
        "| --- | ---: | ---: | ---: |",
        *(_goal(bouts, *goal) for goal in GOALS),
    ]
    for bout in bouts:
        lines += ["", *_table(bout)]
    lines += ["", "## Who did what", "", *(_about(bouts, contestant) for contestant in CONTESTANTS)]
    return "\n".join([*lines, ""])


def _goal(bouts: list[Bout], name: str, images: int, goal: int) -> str:
    runs = next(bout.runs for bout in bouts if bout.job.images == images)
    measured, ours = (_times(runs[name], runs[base]) or "not measured" for base in (LIKE_FOR_LIKE, OURS))
    return f"| {name}, {images} images a client | {goal} | {measured} | {ours} |"


def _table(bout: Bout) -> Iterable[str]:
    job = bout.job
    yield f"## {job.clients:,} clients of {job.images} images, {job.cohort} a round, {job.rounds} rounds"
    yield ""
    yield (
        "| contestant | seconds a round, median (least to most) | samples/s | times fedsim | round 1, s | start-up, s "
        "| peak memory, GB | test accuracy |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, runs in bout.runs.items():
        if done := _done(runs):
            yield _row(name, job, done, _times(runs, bout.runs[LIKE_FOR_LIKE]))
        yield from (f"| {name} | did not run: {_cell(run.reason)} |" for run in runs if isinstance(run, Refused))


def _row(name: str, job: Job, done: list[Measured], times: str) -> str:
    later = [seconds for run in done for seconds in run.rounds[1:]]
    middle = statistics.median(later)
    first, start_up, accuracy = (
        statistics.median(values)
        for values in zip(*((run.rounds[0], run.start_up, run.accuracy) for run in done), strict=True)
    )
    memory = max(run.memory for run in done) / 1e9
    return (
        f"| {name} | {middle:.2f} ({min(later):.2f} to {max(later):.2f}) | {job.cohort * job.images / middle:,.0f} "
        f"| {times} | {first:.2f} | {start_up:.1f} | {memory:.2f} | {accuracy:.2%} |"
    )


def _times(runs: Runs, base: Runs) -> str:
    """How many times as long a round takes as one of ``base``, repeat by repeat; empty if there is no such repeat."""
    pairs = zip(runs, base, strict=True)
    both = [(run, one) for run, one in pairs if isinstance(run, Measured) and isinstance(one, Measured)]
    ratios = [_middle(run) / _middle(one) for run, one in both]
    return f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})" if ratios else ""


def _middle(run: Measured) -> float:
    return statistics.median(run.rounds[1:])


def _about(bouts: list[Bout], contestant: Contestant) -> str:
    versions = next((run.versions for bout in bouts for run in _done(bout.runs[contestant.name])), {})
    known = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"- **{contestant.name}** ({known or ', '.join(contestant.requirements)}): {contestant.does}"


def _done(runs: Runs) -> list[Measured]:
    return [run for run in runs if isinstance(run, Measured)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
