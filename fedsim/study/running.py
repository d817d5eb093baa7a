"""Runs what a study still lacks: a process a core, one run after another in each, every run in a folder of its own."""

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread
from typing import Any

from fedsim import results
from fedsim.attacking.attack import FOLDER as ATTACKS
from fedsim.attacking.attack import attack
from fedsim.config import ConfigError, RunConfig
from fedsim.recording import RunError
from fedsim.run import resume, run
from fedsim.study.plan import Cell, Study, config_hash, with_seed

RUNS = "runs"
LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a study: what it is ``called``, its config and folder, and the attacks to measure afterwards."""

    called: str
    config: RunConfig
    folder: Path
    measure: tuple[str, ...]

    def done(self) -> bool:
        """Whether the run has finished and every attack been measured."""
        return results.status(self.folder) == "finished" and not any(map(self.lacks, self.measure))

    def lacks(self, kind: str) -> bool:
        """Whether the outcome of this attack is still to be measured."""
        return not (self.folder / ATTACKS / f"{kind}.json").exists()


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A job that ended just now: ``failure`` says why it failed, where it did; then how the study stands.

    ``done`` of ``jobs`` were to be run this time, and ``left`` is the seconds that the others will take.
    """

    job: Job
    failure: str | None
    seconds: float
    done: int
    jobs: int
    left: float


def run_study(
    study: Study,
    folder: Path,
    *,
    workers: int | None = None,
    listen: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, str]:
    """Run every cell with every seed, unless it has finished before; returns why runs failed, by their folder's name.

    Runs are independent of one another, so a failed one does not stop the others, and whatever ends the study early
    leaves those that have finished; one that was cut off goes on from its checkpoint the next time.
    ``workers`` processes run at once, one a core if that is not given.

    Raises `ConfigError` where another process is at work in the folder.
    """
    failures: dict[str, str] = {}
    with _alone_in(folder):
        todo = [job for job in jobs(study, folder) if not job.done()]
        for progress in _progress(todo, workers or os.cpu_count() or 1):
            if progress.failure:
                failures[progress.job.folder.name] = progress.failure
            listen(progress)
    return failures


def jobs(study: Study, folder: Path) -> list[Job]:
    """Every run of a study once, seed by seed, so that a study cut short has something of each cell."""
    every = {
        (run := run_folder(folder, cell, seed)): Job(
            called=f"{cell}, seed {seed}",
            config=_in_folder(with_seed(cell.config, seed), run),
            folder=run,
            measure=study.file.measure,
        )
        for seed in study.seeds
        for cell in study.cells
    }
    return list(every.values())


def run_folder(folder: Path, cell: Cell, seed: int) -> Path:
    """Where a cell's run with this seed is kept: the same for equal configs and files, whichever study asks."""
    return folder / RUNS / config_hash(with_seed(cell.config, seed), cell.files)


def perform(job: Job) -> None:
    """Run a job to its end, from wherever it was cut off, then measure the attacks it lacks."""
    if not (job.folder / results.CONFIG).exists():
        run(job.config)
    elif results.status(job.folder) != "finished":
        resume(job.folder)
    for kind in filter(job.lacks, job.measure):
        attack(job.folder, kind)


def _in_folder(config: RunConfig, folder: Path) -> RunConfig:
    return config.model_copy(update={"output": config.output.model_copy(update={"folder": str(folder)})})


def _progress(todo: Sequence[Job], workers: int) -> Iterator[Progress]:
    """The jobs as they end, with the time that the rest will take at the pace so far."""
    began = time.perf_counter()
    for done, (job, failure, seconds) in enumerate(_finished(todo, min(workers, len(todo))), 1):
        left = (time.perf_counter() - began) / done * (len(todo) - done)
        yield Progress(job=job, failure=failure, seconds=seconds, done=done, jobs=len(todo), left=left)


def _finished(todo: Sequence[Job], workers: int) -> Generator[tuple[Job, str | None, float]]:
    """Each job as it ends, with why it failed and the seconds it took. Closing this kills what still runs."""
    waiting = deque(todo)
    busy: dict[Connection[Any, Any], tuple[SpawnProcess, Job, float]] = {}
    try:
        idle = [_start() for _ in range(workers)]
        while waiting or busy:
            while waiting and idle:
                process, connection = idle.pop()
                busy[connection] = (process, waiting.popleft(), time.perf_counter())
                connection.send(busy[connection][1])
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                process, job, began = busy.pop(connection)
                failure = _answer(connection, process)
                idle.append((process, connection) if process.is_alive() else _start())
                yield job, failure, time.perf_counter() - began
    finally:
        for process, *_ in busy.values():
            process.kill()


def _start() -> tuple[SpawnProcess, "Connection[Any, Any]"]:
    """A process that waits for jobs, and leaves when nobody is there to send any."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    assert isinstance(ours, Connection)
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _answer(connection: "Connection[Any, Any]", process: SpawnProcess) -> str | None:
    """Why the job failed that this process was given; a process that dies takes nothing but its job along."""
    try:
        return connection.recv()
    except EOFError:
        process.join()
        return f"its process ended with exit code {process.exitcode}"


def _work(connection: "Connection[Any, Any]") -> None:
    """What a process of a study does: one job after another, until there is no one to ask for the next."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that we work for
    Thread(target=_leave_with_parent, daemon=True).start()
    logging.getLogger("fedsim").setLevel(logging.ERROR)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            perform(job)
        except (ConfigError, RunError) as error:
            connection.send("; ".join(str(error).splitlines()))
        except Exception as error:
            connection.send(f"{type(error).__name__}: {' '.join(str(error).split())}")
        else:
            connection.send(None)


def _leave_with_parent() -> None:
    """Ends this process at once when the one that started it is no more, however that ended."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """Holds the folder's lock, which goes with the process, however that ends."""
    import fcntl  # not on Windows, where the rest of the command shall work all the same

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{folder}: another process is running a study here") from None
        yield
