"""Who takes part, and the virtual environment that each of them runs in."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
OURS, LIKE_FOR_LIKE = "fedsim, every round tested", "fedsim"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """``script`` is a module of this package, started with ``words`` behind the job's path.

    ``environment`` names the virtual environment and ``requirements`` what pip puts there, None for the one that this
    runs in. ``does`` says what a reader of its figures must know.
    """

    name: str
    script: str
    does: str
    environment: str | None = None
    requirements: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A contestant that cannot take part, or whose run failed, and why in its own words."""

    reason: str


CONTESTANTS = (
    Contestant(
        name=LIKE_FOR_LIKE,
        script="in_fedsim",
        does="`fedsim.run` as it is, on 10 test images instead of 10,000. Rows, checkpoints and client accuracies are "
        "written every round. A round is the time between two calls of `listen`.",
    ),
    Contestant(
        name=OURS,
        script="in_fedsim",
        words=("evaluating",),
        does="the same with all test images, as its user meets it: the model is tested on 10,000 images every round.",
    ),
    Contestant(
        name="torch",
        script="in_torch",
        environment="torch",
        requirements=(TORCH, "numpy==2.4.6"),
        does="the plain eager loop, no framework: two processes share the cohort and add up the weights.",
    ),
    Contestant(
        name="Flower",
        script="in_flower",
        environment="flower",
        requirements=("flwr[simulation]==1.41.0", TORCH),
        does="`run_simulation` on Ray, the engine of `flwr run`, with `num_cpus` 1 a client, so two actors, which keep "
        "network and data; evaluation off. A round is the time between two calls of `evaluate_fn`, which does nothing "
        "else.",
    ),
    Contestant(
        name="pfl",
        script="in_pfl",
        environment="pfl",
        requirements=("pfl[pytorch]==0.6.0", TORCH),
        does="`SimulatedBackend` and `FederatedAveraging` in two processes joined by `PFL_WORKER_ADDRESSES`. It always "
        "evaluates the clients of round 1 on their own images, and prints metrics every round.",
    ),
    Contestant(
        name="BlazeFL",
        script="in_blazefl",
        environment="blazefl",
        requirements=("blazefl[contrib,reproducibility]==3.0.0", TORCH),
        does="its FedAvg trainers with two workers: threads where Python has no global lock, else processes, forked, "
        "which it starts anew every round. Its way of flattening weights rules out channels last and fused SGD.",
    ),
)


def interpreter(contestant: Contestant, cache: Path, python: str) -> str | Refused:
    """The Python to run a contestant with; its environment is made by ``python`` unless ``cache`` has it already."""
    if contestant.environment is None:
        return sys.executable
    folder = cache / contestant.environment
    own, installed = folder / _PYTHON, folder / "installed.txt"
    wanted = "\n".join(contestant.requirements)
    if installed.exists() and installed.read_text(encoding="utf-8") == wanted:
        return str(own)
    shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(own), "install", "--quiet"]
    for command in ([python, "-m", "venv", "--without-pip", str(folder)], [*pip, *contestant.requirements]):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            return Refused(reason=_errors(made.stderr or made.stdout))
    installed.write_text(wanted, encoding="utf-8")
    return str(own)


def newest_python() -> str:
    """The interpreter for BlazeFL 3, which wants Python 3.14: one found by name, else this one."""
    found = (shutil.which(name) for name in ("python3.14t", "python3.14"))
    return next(filter(None, found), sys.executable)


def _errors(text: str) -> str:
    """The lines in which pip or a script says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    return " ".join(line if len(line) < 300 else f"{line[:100]} ... {line[-150:]}" for line in said)


_PYTHON = Path("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
