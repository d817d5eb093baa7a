"""What the driver tells a contestant and what the contestant reports: two files and an npz each way."""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

INITIAL = [f"initial{number}" for number in range(8)]
"""What ``data`` calls the weights before the first round, in the order of torch's parameters."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: ``clients`` hold ``images`` each, ``cohort`` of them train one epoch in each of ``rounds``.

    ``data`` is an npz of ``images`` uint8[N, 1, 28, 28] and ``labels`` int64[N] in random order, client ``c`` holding
    the rows from ``c * images``, of ``test_images`` and ``test_labels``, and of `INITIAL`. ``folder`` takes what is
    reported.
    """

    data: str
    folder: str = ""
    clients: int
    images: int
    cohort: int
    rounds: int
    seed: int
    batch_size: int = 20
    learning_rate: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a contestant says: ``marks`` are readings of the machine's monotonic clock in seconds, ready and then at
    the end of every round; ``versions`` by package."""

    marks: list[float]
    versions: dict[str, str]


def write_job(job: Job) -> Path:
    """Put the job into its folder; its path is what a contestant is started with."""
    path = Path(job.folder) / "job.json"
    path.write_text(json.dumps(asdict(job)), encoding="utf-8")
    return path


def given_job() -> Job:
    """The job that this process was started with."""
    return Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def report(job: Job, marks: list[float], weights: Sequence[NDArray[np.float32]], packages: Sequence[str]) -> None:
    """Leave the rounds' times and the trained weights, ordered and shaped as torch has the network's parameters."""
    np.savez(Path(job.folder) / "weights.npz", *weights)
    versions = {"Python": platform.python_version(), **{name: version(name) for name in packages}}
    said = asdict(Report(marks=marks, versions=versions))
    (Path(job.folder) / "report.json").write_text(json.dumps(said), encoding="utf-8")


def read_report(job: Job) -> tuple[Report, list[NDArray[np.float32]]] | None:
    """What `report` left; None where there is nothing."""
    path = Path(job.folder) / "report.json"
    if not path.exists():
        return None
    with np.load(Path(job.folder) / "weights.npz") as arrays:
        return Report(**json.loads(path.read_text(encoding="utf-8"))), list(arrays.values())
