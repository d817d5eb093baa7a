"""The main job as a user meets it, cold: ``python experiments/benchmarks/main_job.py --out FILE.md``.

Runs ``fedsim run`` in processes of its own and measures from outside: seconds from the command to the first round and
to the end, the peak memory of the whole process, accuracy; then the memory of a longer run early and late.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedsim.results import processor

GOALS = {"first round (s)": 3.0, "whole job (s)": 8.0, "peak memory (GB)": 1.5}
LONG = (
    *("--set", "federation.rounds=100"),
    *("--set", "federation.cohort=2"),
    *("--set", "training.epochs=1"),
    *("--set", "baselines.central=false"),
    *("--set", "baselines.local_only=0"),
)


def main() -> None:
    """Measure and write one dated markdown file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the markdown file to write")
    parser.add_argument("--repeats", type=int, default=3, help="cold runs of the main job")
    arguments = parser.parse_args()
    runs = [measure([]) for _ in range(arguments.repeats)]
    growth, importing = memory_growth(), [seconds_to_import() for _ in range(5)]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page(runs, growth, importing), encoding="utf-8")
    print(arguments.out.read_text(encoding="utf-8"))


def measure(settings: list[str]) -> dict[str, float]:
    """One cold run, timed from outside."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = start([*settings, "--set", f"output.folder={folder}/run"])
        first, last = 0.0, {}
        assert process.stdout is not None
        for line in process.stdout:
            last = json.loads(line)
            if last.get("round") == 1:
                first = time.perf_counter() - began
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    if status != 0:
        raise RuntimeError(f"fedsim run ended with status {status}")
    return {
        "first round (s)": first,
        "whole job (s)": seconds,
        "peak memory (GB)": usage.ru_maxrss * 1024 / 1e9,
        "CPU (s)": usage.ru_utime + usage.ru_stime,
        "test accuracy": last["test_accuracy"],
        **{f"{part} (s)": value for part, value in last["seconds"].items()},
    }


def memory_growth() -> float:
    """How much more is resident in the last ten rounds of a 100-round run than in rounds 10 to 19, in the median.

    Ten of each, because a round is written down while the next one trains, and what both hold differs from row to row.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = start([*LONG, "--set", f"output.folder={folder}/run"])
        assert process.stdout is not None
        held = [resident(process.pid) for line in process.stdout if "round" in json.loads(line)]
        process.wait()
    return statistics.median(held[-10:]) / statistics.median(held[10:20]) - 1


def start(settings: list[str]) -> "subprocess.Popen[str]":
    """``fedsim run --json`` with these settings, without the BLAS settings of this machine."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    command = [sys.executable, "-m", "fedsim", "run", "--json", *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def resident(process: int) -> int:
    """Resident memory in bytes (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def seconds_to_import() -> float:
    """What ``fedsim --help`` waits for: a fresh interpreter and the import of the whole command, without torch."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import fedsim.cli"], check=True)
    return time.perf_counter() - began


def page(runs: list[dict[str, float]], growth: float, importing: list[float]) -> str:
    """The dated result: medians with range, goals beside them."""
    rows = [f"| {key} | {figures(runs, key)} | {GOALS.get(key, '')} |" for key in runs[0]]
    rows.append(f"| memory, rounds 91 to 100 against 10 to 19 | {growth:+.1%} | within 5 % |")
    rows.append(f"| interpreter and import fedsim.cli (s) | {statistics.median(importing):.2f} | |")
    packages = ", ".join(f"{name} {version(name)}" for name in ("fedsim", "flwr", "torch", "numpy"))
    return "\n".join(
        [
            f"# The main job, {datetime.now(UTC):%Y-%m-%d}",
            "",
            f"{processor()}, {os.cpu_count()} cores; {platform.platform()}; "
            f"Python {platform.python_version()}, {packages}.",
            f"`{shlex.join(['python', *sys.argv])}`, {len(runs)} cold runs of `fedsim run`: median (least to most). "
            f"Load average at the end {os.getloadavg()[0]:.1f}.",
            "",
            "| figure | measured | goal |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


def figures(runs: list[dict[str, Any]], key: str) -> str:
    """Median and range of one figure."""
    values = [run[key] for run in runs]
    form = "{:.2%}" if "accuracy" in key else "{:.2f}"
    return f"{form.format(statistics.median(values))} ({form.format(min(values))} to {form.format(max(values))})"


if __name__ == "__main__":
    main()
