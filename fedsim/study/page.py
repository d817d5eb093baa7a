"""The page of a study: its figures, the Pareto front, the table of all cells, and how much was run for it."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedsim.config import RunConfig
from fedsim.report.drawing import Picture
from fedsim.report.layout import Section
from fedsim.report.layout import Table as PageTable
from fedsim.report.numbers import NOTHING, Cell, Number, count
from fedsim.report.page import write_page
from fedsim.study.figures import Front, Panel, fronts, key_words, meaning_words, panels
from fedsim.study.nested import flat, worded
from fedsim.study.pictures import picture
from fedsim.study.plan import Study
from fedsim.study.table import Estimate, Row, is_share, written


def write_study_page(study: Study, folder: Path, rows: Sequence[Row], table: dict[str, Any], command: str) -> Path:
    """Write ``study.html`` into the folder, from what `write_table` returned; returns the page's path."""
    drawn = [(figure, panels(figure, rows)) for figure in study.file.figures]
    pictures = tuple(
        picture(panel, f"figure-{i}-{j}") for i, (_, several) in enumerate(drawn) for j, panel in enumerate(several)
    )
    best = tuple(_front(panel, *one) for _, several in drawn for panel in several for one in fronts(panel).items())
    return write_page(
        folder / "study.html",
        title=study.file.title,
        lead=_lead(study, table),
        notices=tuple(_notices(study, rows, table)),
        sections=(
            *((_results(pictures, best),) if pictures else ()),
            Section(name="cells", heading="Every cell", text=_meant(rows), tables=(_cells(study, rows),)),
            _settings(study, table, command),
        ),
    )


def _lead(study: Study, table: dict[str, Any]) -> tuple[Cell, ...]:
    cells, seeds = len(study.cells), len(study.seeds)
    intervals = (
        " ± is a 95 % interval of the mean over seeds (Student's t)." if seeds > 1 else " One seed, so no intervals."
    )
    return (
        count(table["runs"]),
        " runs: ",
        count(cells),
        " cells, ",
        count(seeds),
        f" seed{'s' * (seeds > 1)} each.{intervals}",
    )


def _notices(study: Study, rows: Sequence[Row], table: dict[str, Any]) -> Iterator[str]:
    finished = sum(row.estimates["test_accuracy"].n for row in rows if "test_accuracy" in row.estimates)
    wanted = len(study.cells) * len(study.seeds)
    if finished < wanted:
        yield f"Not all runs have finished: {finished} of {wanted}. The same command runs what is missing."
    for run, reason in table["failures"].items():
        yield f"Run {run} failed: {reason}"
    for path in study.numbers:
        if finished and not any(path in row.estimates for row in rows):
            yield f"No run holds {path}."


def _results(pictures: tuple[Picture, ...], fronts: tuple[PageTable, ...]) -> Section:
    return Section(name="results", heading="Results", pictures=pictures, tables=fronts)


def _front(panel: Panel, meaning: str, front: Front) -> PageTable:
    rows = tuple((point.at, series.label or NOTHING, _cell(panel.figure.show, point.found)) for series, point in front)
    series = panel.figure.series
    columns = ("epsilon", key_words(series) if series else "series", _heading(panel.figure.show))
    return PageTable(caption=f"Pareto front. {panel.title} ({meaning})", columns=columns, rows=rows)


def _meant(rows: Sequence[Row]) -> tuple[Cell, ...]:
    """What the cells' epsilons mean, by what decides that: the mechanism, and how it samples."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.meaning:
            mechanism, sampling = (row.cell.value(f"privacy.{key}") for key in ("mechanism", "sampling"))
            found.setdefault(row.meaning, {})[f"{worded(mechanism)} with {sampling} sampling"] = None
    words = meaning_words({meaning: list(labels) for meaning, labels in found.items()})
    return (words,) if words else ()


def _cells(study: Study, rows: Sequence[Row]) -> PageTable:
    numbers = study.numbers
    headings = map(_heading, numbers)
    return PageTable(
        caption="Mean over seeds and interval of every cell; table.csv has the medians",
        columns=(*(map(key_words, study.axes) if study.axes else ("cell",)), *headings, "seeds"),
        rows=tuple(
            (
                *((worded(row.cell.value(axis)) for axis in study.axes) if study.axes else (str(row.cell),)),
                *(_cell(path, row.estimates.get(path)) for path in numbers),
                count(row.estimates["test_accuracy"].n if "test_accuracy" in row.estimates else 0),
            )
            for row in rows
        ),
        wide=True,
    )


def _cell(path: str, found: Estimate | None) -> Cell:
    return Number(value=found.mean, text=written(path, found)) if found else NOTHING


def _heading(path: str) -> str:
    return f"{key_words(path)}{', %' if is_share(path) else ''}"


def _settings(study: Study, table: dict[str, Any], command: str) -> Section:
    """What all cells share, how many runs were made, and the command that makes this page again."""
    made = (
        f"{table['runs_in_folder']:,} runs are in this study's folder, and the results of each may have been looked at"
    )
    text = f"{made}: on private data, choosing among them is not covered by the epsilon of any one of them."
    return Section(
        name="settings",
        heading="Settings that all cells share",
        text=(text,),
        command=command,
        tables=(PageTable(caption="Not the defaults", rows=tuple(_shared(study))),),
    )


def _shared(study: Study) -> Iterator[tuple[Cell, ...]]:
    defaults = flat(RunConfig().model_dump(mode="json", exclude={"output", "speed", "seed"}))
    configs = [flat(cell.config.model_dump(mode="json", exclude={"output", "speed", "seed"})) for cell in study.cells]
    for key, value in configs[0].items():
        if value is not None and value != defaults.get(key) and all(config.get(key) == value for config in configs):
            yield key, str(value)
    yield "seeds", ", ".join(map(str, study.seeds))


def command_of(path: Path, overrides: Sequence[str], *, quick: bool) -> str:
    """The command that runs a study."""
    return shlex.join(
        ["fedsim", "study", str(path), *(["--quick"] * quick), *(w for o in overrides for w in ("--set", o))]
    )
