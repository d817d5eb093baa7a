"""One training by one contestant, in processes of its own, watched from outside."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from experiments.benchmarks.peers.contestants import Contestant, Refused
from experiments.benchmarks.peers.job import Job, read_report, write_job
from experiments.benchmarks.peers.lenet import accuracy

CHECKOUT = Path(__file__).resolve().parents[3]
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_LOG_LEVEL": "ERROR",
    "RAY_USAGE_STATS_ENABLED": "0",
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""For everybody who trains in torch: two processes, a thread each."""
PAUSE, SHARE = 0.5, 0.01
"""Looking at memory: seconds between two looks at least, and the share of a core that they may take."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds from the start of the process to the first round and of every round; ``memory`` in bytes is the most
    that all its processes held at once, shared pages counted once (0 where the system does not say)."""

    start_up: float
    rounds: list[float]
    memory: int
    accuracy: float
    versions: dict[str, str]


def measure(contestant: Contestant, python: str, job: Job, limit: float) -> Measured | Refused:
    """Let the contestant do the job within ``limit`` seconds, and test the model that it hands over."""
    ours = contestant.environment is None
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    environment |= QUIET if ours else {**QUIET, **ONE_THREAD}
    with tempfile.TemporaryDirectory() as folder:
        job = replace(job, folder=folder)
        module = f"{__package__}.{contestant.script}"
        command = [python, "-m", module, str(write_job(job)), *contestant.words]
        log = Path(folder) / "log.txt"
        with log.open("wb") as output:
            began = time.monotonic()
            process = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=output, stderr=output)
            memory = _watch(process, began + limit)
        late = f"stopped after {limit:.0f} s; " if time.monotonic() > began + limit else ""
        reported = read_report(job)
        if process.returncode or not reported:
            said = log.read_text(encoding="utf-8", errors="replace").splitlines()
            errors = dict.fromkeys(line.strip() for line in said if "Error:" in line) or said[-1:]
            return Refused(reason=f"{late}exit status {process.returncode}; it said: {' / '.join(errors)}")
        report, weights = reported
        with np.load(job.data) as arrays:
            right = accuracy(weights, arrays["test_images"], arrays["test_labels"])
    ready, *ends = report.marks
    if len(ends) != job.rounds:
        return Refused(reason=f"{len(ends)} rounds reported, {job.rounds} asked for")
    return Measured(
        start_up=ready - began,
        rounds=np.diff([ready, *ends]).tolist(),
        memory=memory,
        accuracy=right,
        versions=report.versions,
    )


def _watch(process: "subprocess.Popen[bytes]", deadline: float) -> int:
    """Wait for the end, and bring it about at the deadline or with our own; the most memory seen meanwhile."""
    most = 0
    try:
        while process.poll() is None and time.monotonic() < deadline:
            busy = time.thread_time()
            most = max(most, sum(map(_memory, _family(process.pid))))
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(PAUSE, (time.thread_time() - busy) / SHARE))
    finally:
        if process.poll() is None:
            for each in _family(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            process.wait()
    return most


def _family(process: int) -> list[int]:
    """A process and all that descend from it (Linux; elsewhere itself)."""
    parents = dict(_parents())
    family = [process]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


def _parents() -> Iterable[tuple[int, int]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may have ended meanwhile
            yield int(path.parent.name), int(path.read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def _memory(process: int) -> int:
    """Bytes that a process holds, a page shared by n processes counted as an nth (Linux)."""
    with suppress(OSError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0
