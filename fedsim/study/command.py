"""``fedsim study``: reads its arguments, runs what is missing, and shows the table."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedsim.report.numbers import GAP, duration
from fedsim.study.figures import key_words
from fedsim.study.nested import worded
from fedsim.study.page import command_of, write_study_page
from fedsim.study.plan import Study, read_study
from fedsim.study.running import Progress, jobs, run_study
from fedsim.study.table import Row, is_share, read_rows, write_table, written

MOST_SHOWN = 4
"""Numbers a cell in the terminal; a table with more would be cut to nothing."""

out = Console()
err = Console(stderr=True)


def study_verb(
    file: Annotated[Path, typer.Argument(help="A TOML file: a base, a grid, seeds, figures.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="The small variant that the file's [quick] describes.")
    ] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key of the base; repeatable.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where runs, table and page go; studies/NAME if not given.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="How many runs at once; one a core if not given.")] = None,
) -> None:
    """Run a grid of configs times seeds, in parallel, then write its table and page.

    Runs that have finished are never run again, and one that was cut off goes on: the same command resumes a study,
    and with nothing left to run it writes the page anew. Exit code 1 if a run failed.

    **Examples**

    - `fedsim study experiments/studies/non_iid.toml`
    - `fedsim study experiments/studies/non_iid.toml --quick --set training.learning_rate=0.05`
    """
    study = read_study(file, overrides or (), quick=quick)
    folder = folder or Path("studies") / study.name
    left = sum(not job.done() for job in jobs(study, folder))
    print(
        f"{len(study.cells)} cells x {len(study.seeds)} seeds: {len(jobs(study, folder))} runs, {left} to do",
        flush=True,
    )
    try:
        failures = run_study(study, folder, workers=workers, listen=_tell)
    except KeyboardInterrupt:
        err.print("interrupted; the same command goes on with what is left", style="red", highlight=False)
        raise
    rows = read_rows(study, folder)
    table = write_table(study, folder, rows, failures)
    page = write_study_page(study, folder, rows, table, command_of(file, overrides or (), quick=quick))
    out.print(_shown(study, rows))
    if len(study.numbers) > MOST_SHOWN:
        print(f"{len(study.numbers) - MOST_SHOWN} more numbers a cell: {folder}/table.csv")
    out.print(str(page), highlight=False, soft_wrap=True)
    for run, reason in failures.items():
        err.print(f"{folder}/runs/{run} failed: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
    if failures:
        raise typer.Exit(1)


def _tell(progress: Progress) -> None:
    """A line for a run that ended."""
    width = len(str(progress.jobs))
    outcome = f"FAILED: {progress.failure}" if progress.failure else f"{progress.seconds:.1f} s"
    left = f"  ETA {_words(progress.left)}" if progress.done < progress.jobs else ""
    print(f"{progress.done:>{width}}/{progress.jobs}  {progress.job.called}  {outcome}{left}", flush=True)


def _words(seconds: float) -> str:
    written_out = duration(round(seconds))
    return (written_out if isinstance(written_out, str) else written_out.text).replace(GAP, " ")


def _shown(study: Study, rows: list[Row]) -> Table:
    table = Table(*(map(key_words, study.axes)) if study.axes else ("cell",), box=None, pad_edge=False)
    shown = study.numbers[:MOST_SHOWN]
    for path in shown:
        table.add_column(key_words(path) + (", %" if is_share(path) else ""), justify="right")
    table.add_column("seeds", justify="right")
    for row in rows:
        labels = [worded(row.cell.value(axis)) for axis in study.axes] or [str(row.cell)]
        numbers = [written(path, row.estimates.get(path)) for path in shown]
        seeds = row.estimates["test_accuracy"].n if "test_accuracy" in row.estimates else 0
        table.add_row(*labels, *numbers, str(seeds))
    return table
