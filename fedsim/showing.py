"""What the ``fedsim`` command shows on a terminal: rounds as they pass, what a run came to, tables, promises."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from textwrap import fill
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedsim.attacks.auditing import Audit
from fedsim.bench import Bench
from fedsim.doctor import Finding
from fedsim.privacy.words import Explanation, promise
from fedsim.recording import Row
from fedsim.results import to_json
from fedsim.run import RunRecord


@contextmanager
def listening(out: Console, rounds: int, as_json: bool) -> Generator[Callable[[Row], None]]:
    """What shows the rounds as they pass: JSON lines, a line a round, or a bar with accuracy and the time left."""
    if as_json:
        yield lambda row: print(to_json(row), flush=True)
    elif not out.is_terminal:
        yield lambda row: print(_line(row, rounds), flush=True)
    else:
        columns = (TextColumn("round"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
        with Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=out) as progress:
            bar = progress.add_task("setting up", total=rounds)

            def show(row: Row) -> None:
                after = "  baselines and report" if row["round"] == rounds else ""
                progress.update(bar, completed=row["round"], description=_figures(row) + after)

            yield show


def _line(row: Row, rounds: int) -> str:
    return f"round {row['round']:>{len(str(rounds))}}/{rounds}  {_figures(row)}  {row['seconds']:.1f} s"


def _figures(row: Row) -> str:
    loss = "" if row["train_loss"] is None else f"  train loss {row['train_loss']:.4f}"
    failures = f"  {row['failures']} failed" if row["failures"] else ""
    accuracy = "not tested" if row["test_accuracy"] is None else f"accuracy {row['test_accuracy']:.2%}"
    spent = f"  epsilon {row['privacy']['epsilon']:.3g}" if "privacy" in row else ""
    return f"{accuracy}{loss}{spent}{failures}"


def show_record(out: Console, record: RunRecord, as_json: bool) -> None:
    """The end of a run: a table for people, the summary for machines."""
    if as_json:
        print(to_json({"folder": str(record.folder), **record.summary}))
        return
    table = Table(box=None, show_header=False)
    for name, value in _headline(record.summary):
        table.add_row(name, value)
    out.print(table)
    out.print(f"{record.folder}/report.html", highlight=False, soft_wrap=True)


def audit_table(found: Audit) -> Table:
    """What an audit claimed and found."""
    table = Table(box=None, show_header=False)
    bounds = found.bounds
    table.add_row("claimed", f"epsilon {found.claimed_epsilon:.4g} at delta {found.delta:g}")
    table.add_row(
        f"at least, at {found.confidence:.0%}", f"epsilon {bounds.one_run_fdp:.3g} (f-DP in one run, which decides)"
    )
    table.add_row("", f"epsilon {bounds.one_run:.3g} (one run), {bounds.clopper_pearson:.3g} (Clopper-Pearson)")
    table.add_row("guesses", f"{found.correct:,} of {found.guesses:,} right, about {found.canaries:,} canaries")
    table.add_row("area under ROC", f"{found.auc:.3f}")
    return table


def bench_heading(found: Bench) -> Iterator[str]:
    """The machine, what ran on it, and the work."""
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    peaks = {rate.workers: rate.peak_gflops for rate in found.rates if rate.peak_gflops}
    yield f"{found.cpu}, {found.cores} cores, load {found.load:.1f} before; {found.platform}"
    if found.load > found.cores / 2:
        yield "other programs were busy: rates are lower than they could be, shares and ratios are unsure"
    yield f"{versions}; {found.missing or f'native engine: {found.variant}'}"
    yield (
        f"the seed's LeNet on MNIST, batches of 20, SGD: {found.mflop['train']:.2f} MFLOP to train on a sample, "
        f"{found.mflop['evaluate']:.2f} to evaluate one"
    )
    if peaks:
        yield "FMA peak by workers: " + ", ".join(f"{count}: {peak:,.0f} GFLOP/s" for count, peak in peaks.items())


def bench_table(found: Bench) -> Table:
    """A row for each engine, task and number of workers."""
    table = Table("task", "engine", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("workers", "images", "clients/s", "samples/s", "of peak", "over torch"):
        table.add_column(name, justify="right")
    for rate in found.rates:
        cells = [
            _cell(rate.images, "{:,}"),
            _cell(rate.clients_per_second, "{:,.1f}"),
            _cell(rate.samples_per_second, "{:,.0f}"),
            _cell(rate.of_peak, "{:.0%}"),
            _cell(rate.over_torch, "{:.1f} x"),
        ]
        table.add_row(rate.task, rate.engine, str(rate.workers), *cells)
    return table


def findings_table(findings: Iterable[Finding]) -> Table:
    """What the doctor found, a row a finding."""
    table = Table("", "what", "found", "what follows", box=None)
    for finding in findings:
        table.add_row("[green]ok" if finding.good else "[red]!!", finding.what, finding.found, finding.follows)
    return table


def show_explanation(out: Console, said: Explanation) -> None:
    """The promise in a strong line, how it is kept in paragraphs, and what it does not cover as a list."""
    out.print(Text(said.promise, style="bold"))
    for paragraph in said.paragraphs:
        out.print(Text(f"\n{paragraph}"))
    if said.not_covered:
        out.print(Text("\nNot covered:"))
    for item in said.not_covered:
        out.print(Text(fill(item, out.width, initial_indent="- ", subsequent_indent="  ")))


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _headline(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    accuracy, baselines = summary["client_accuracy"], summary["baselines"]
    yield "test accuracy", f"{summary['test_accuracy']:.2%} (best {summary['best_accuracy']:.2%})"
    if "central" in baselines:
        yield "central training", f"{baselines['central']:.2%} with the same budget"
    if "local_only" in baselines:
        yield "phones alone", f"{baselines['local_only']:.2%} on average"
    if "privacy" in summary:
        yield "privacy", promise(summary["privacy"])
    yield "clients", f"{accuracy['mean']:.2%} on average, worst tenth {accuracy['worst_decile_mean']:.2%}"
    yield "traffic", f"{summary['bytes']['down'] / 1e6:.0f} MB down, {summary['bytes']['up'] / 1e6:.0f} MB up"
    yield "time", f"{summary['seconds']['total']:.1f} s"
    yield "weights", summary["model"]["weights_id"][:16]
