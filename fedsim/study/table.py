"""What a study found: of every cell the mean over seeds with its interval, for the terminal, the page and machines."""

import csv
import io
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedsim import results
from fedsim.files import write_atomically
from fedsim.study.nested import at, worded
from fedsim.study.plan import Cell, Study
from fedsim.study.running import ATTACKS, RUNS, run_folder

CONFIDENCE = 0.95
SHARES = ("accuracy", "success", "tpr", "fpr", "advantage")
"""Words in a number's path that make it a share, written as per cent."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number over ``n`` seeds: ``mean`` plus or minus ``half_width`` is the 95 % interval; one seed has none."""

    mean: float
    half_width: float | None
    median: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cell with its estimates, by the number's path; a number that no run of the cell holds is not there.

    ``meaning`` says what is hidden with the cell's epsilon, and with which delta; it is empty where there is none.
    Epsilons of different meanings cannot be compared.
    """

    cell: Cell
    runs: tuple[str, ...]
    estimates: dict[str, Estimate]
    meaning: str


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, median, and Student's t interval of the mean, which takes seeds for independent draws of a normal variable.

    >>> estimate([0.90, 0.92, 0.94]).half_width.__round__(4)
    0.0497
    """
    from scipy.special import stdtrit

    n, half = len(values), None
    if n > 1:
        half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(mean=statistics.mean(values), half_width=half, median=statistics.median(values), n=n)


def read_rows(study: Study, folder: Path) -> list[Row]:
    """Every cell with what its finished runs hold."""
    return [_row(study, folder, cell) for cell in study.cells]


def write_table(study: Study, folder: Path, rows: Sequence[Row], failures: dict[str, str]) -> dict[str, Any]:
    """Write ``table.json`` and ``table.csv`` into the folder; returns what ``table.json`` holds."""
    table = {
        "study": study.name,
        "title": study.file.title,
        "runs": len({run for row in rows for run in row.runs}),
        "runs_in_folder": sum(1 for _ in (folder / RUNS).glob(f"*/{results.CONFIG}")),
        "seeds": study.seeds,
        "confidence": CONFIDENCE,
        "failures": failures,
        "cells": [
            {
                "choices": row.cell.choices,
                "runs": row.runs,
                "epsilon_means": row.meaning or None,
                "numbers": {path: asdict(found) for path, found in row.estimates.items()},
            }
            for row in rows
        ],
    }
    results.write_json(folder / "table.json", table)
    write_atomically(folder / "table.csv", _csv(study, rows).encode())
    return table


def is_share(path: str) -> bool:
    """Whether a number is a share, and so best read as per cent."""
    return any(word in path for word in SHARES)


def written(path: str, found: Estimate | None) -> str:
    """An estimate for people: 97.21 ± 0.15, shares as per cent."""
    if found is None:
        return "–"
    scale = 100 if is_share(path) else 1
    form = "{:.2f}" if is_share(path) else "{:.4g}"
    half = "" if found.half_width is None else f" ± {form.format(scale * found.half_width)}"
    return f"{form.format(scale * found.mean)}{half}"


def _row(study: Study, folder: Path, cell: Cell) -> Row:
    folders = [run_folder(folder, cell, seed) for seed in study.seeds]
    found = [_numbers(run) for run in folders if results.status(run) == "finished"]
    values = {path: [value for run in found if (value := _number(run, path)) is not None] for path in study.numbers}
    estimates = {path: estimate(several) for path, several in values.items() if several}
    meaning = _meaning(found[0].get("privacy") or {}) if found else ""
    return Row(cell=cell, runs=tuple(run.name for run in folders), estimates=estimates, meaning=meaning)


def _meaning(said: dict[str, Any]) -> str:
    """What the epsilon of a run's ``summary["privacy"]`` is of."""
    return f"{said['adjacency']}, delta {said['delta']:g}" if said.get("epsilon") is not None else ""


def _numbers(run: Path) -> dict[str, Any]:
    """A run's summary, and beside it what attacks on it found."""
    attacks = {path.stem: results.read_json(path) for path in sorted((run / ATTACKS).glob("*.json"))}
    return {**(results.read_json(run / results.SUMMARY) or {}), ATTACKS: attacks}


def _number(numbers: dict[str, Any], path: str) -> float | None:
    value = at(numbers, path)
    return float(value) if isinstance(value, int | float) else None


def _csv(study: Study, rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("mean", "half_width", "median", "n")
    writer.writerow([*study.axes, *(f"{path} {part}" for path in study.numbers for part in parts)])
    writer.writerows(_csv_cells(study, row) for row in rows)
    return text.getvalue()


def _csv_cells(study: Study, row: Row) -> Iterator[Any]:
    yield from (worded(row.cell.value(axis)) for axis in study.axes)
    for path in study.numbers:
        found = row.estimates.get(path)
        yield from (found.mean, found.half_width, found.median, found.n) if found else ("", "", "", 0)
