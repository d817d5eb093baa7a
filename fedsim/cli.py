"""The ``fedsim`` command: each verb reads its arguments, calls one function and shows what came of it."""

import json
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # Ray tells its own troubles on stdout, amid the rounds
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # of 40 seconds each, where something that is not Ray answers

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedsim import __version__, model_files
from fedsim.attacking.attack import KINDS, attack
from fedsim.bench import Bench, bench
from fedsim.config import ConfigError, load
from fedsim.doctor import examine
from fedsim.federation import set_up, with_plan
from fedsim.outcome import write_partition
from fedsim.privacy.words import explain, statement
from fedsim.recording import Row, RunError
from fedsim.results import CONFIG, read_config, to_json
from fedsim.run import RunRecord, resume, run
from fedsim.study.command import study_verb

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
privacy = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="What a config's privacy comes to.")
app.add_typer(privacy, name="privacy")
model = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Build, describe and check Core ML files.")
app.add_typer(model, name="model")
app.command("study")(study_verb)

out = Console()
err = Console(stderr=True)

File = Annotated[Path | None, typer.Argument(help="A TOML file; without one, the main job: 100 phones, MNIST, LeNet.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key; repeatable.")]
Cluster = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Train on the Ray cluster at host:port, or auto; '': on none."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line: every round, then the summary.")]


def main() -> None:
    """The console entry point; exit code 0: finished, 1: had to stop, 2: a mistake in the request, 130: interrupted."""
    try:
        app(standalone_mode=True)
    except ConfigError as error:
        err.print(*str(error).splitlines(), sep="\n", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except RunError as error:
        err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"fedsim {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which fedsim.")
    ] = False,
) -> None:
    """Federated on-device training, simulated and real, in one system."""


@app.command("run")
def run_verb(file: File = None, overrides: Set = None, cluster: Cluster = None, as_json: Json = False) -> None:
    """Run a federation to its end and write its folder.

    **Examples**

    - `fedsim run`
    - `fedsim run --set data.partition=dirichlet --set data.alpha=0.3`
    - `fedsim run FILE.toml --set strategy.name=FedAdam --json`
    - `fedsim run --cluster 10.0.0.5:6379`
    """
    config = load(file, [*(overrides or ()), *([] if cluster is None else [f"speed.cluster={cluster}"])])
    with _listening(config.federation.rounds, as_json) as listen:
        record = run(config, listen=listen)
    _show(record, as_json)


@app.command("resume")
def resume_verb(
    folder: Annotated[Path, typer.Argument(help="The folder of a run that was cut off.")],
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Go on with a run that was interrupted or killed, from its last checkpoint, to the same result.

    Without `--cluster` it goes on where it ran before.

    **Examples**

    - `fedsim resume runs/2026-11-21-225459`
    - `fedsim resume runs/2026-11-21-225459 --cluster 10.0.0.5:6379`
    """
    with _listening(read_config(folder).federation.rounds, as_json) as listen:
        record = resume(folder, cluster=cluster, listen=listen)
    _show(record, as_json)


@app.command()
def partition(
    folder: Annotated[Path, typer.Argument(help="A new folder for partition.npz, clients.npz and partition.html.")],
    file: File = None,
    overrides: Set = None,
) -> None:
    """Deal the examples to the phones and plot who holds which labels, without training.

    **Example:** `fedsim partition shards --set data.partition=shards --set federation.clients=50`
    """
    if (folder / CONFIG).exists():
        raise ConfigError(f"{folder}: holds a run, whose partition this would write over; choose another folder")
    try:
        page = write_partition(set_up(load(file, overrides or ())), folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from None
    out.print(f"wrote {page}", highlight=False, soft_wrap=True)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Say what this machine has, what is missing, and what that costs.

    **Example:** `fedsim doctor`
    """
    findings = examine()
    if as_json:
        print(json.dumps([vars(finding) for finding in findings]))
    else:
        table = Table("", "what", "found", "what follows", box=None)
        for finding in findings:
            table.add_row("[green]ok" if finding.good else "[red]!!", finding.what, finding.found, finding.follows)
        out.print(table)
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


@app.command("bench")
def bench_verb(
    budget: Annotated[
        float, typer.Option("--seconds", min=0, max=3600, help="How long to measure; longer is surer.")
    ] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure how fast this machine trains: the native engine beside plain torch and the processor's own limit.

    Clients of 600 and of 60 images each; every figure is the best of several turns, by the clock on the wall, so let
    nothing else run meanwhile. The torch module is a loop as anyone would write it, the fallback is fedsim's own where
    there is no engine; one worker of the engine is held against the faster of the two, which has one thread.

    **Example:** `fedsim bench`
    """
    with err.status("measuring"):
        found = bench(budget)
    if as_json:
        print(to_json(asdict(found)))
        return
    for line in _bench_heading(found):
        out.print(line, highlight=False, soft_wrap=True, markup=False)
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
    out.print(table)


@privacy.command("explain")
def explain_verb(file: File = None, overrides: Set = None, as_json: Json = False) -> None:
    """Say in plain words what a private run promises, of whom, under which conditions, and what it does not cover.

    **Examples**

    - `fedsim privacy explain --set privacy.epsilon=8 --set federation.clients=1000 --set federation.cohort=100`
    - `fedsim privacy explain FILE.toml --json`
    """
    plan = with_plan(set_up(load(file, overrides or ()))).plan
    if plan is None:
        raise ConfigError("privacy.mechanism = none: promises nothing; give privacy.epsilon to begin with")
    if as_json:
        print(to_json(statement(plan)))
        return
    for paragraph in explain(plan):
        out.print(paragraph, highlight=False, markup=False)


@app.command("attack")
def attack_verb(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    kind: Annotated[str, typer.Argument(help=f"What to attack: {', '.join(KINDS)}.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Play an attacker on a finished run, and write what it learns to the run's folder.

    `membership` asks which examples and clients were trained on, by means of 16 shadow models that together cost about
    as much as the run; `inversion` rebuilds images, and `properties` label histograms, from round 1: from each update,
    from their sum, and from what the round releases.

    **Example:** `fedsim attack runs/2026-11-21-225459 membership`
    """
    with err.status("attacking"):
        found = attack(folder, kind)
    if as_json:
        print(to_json(found))
        return
    out.print(found["sentence"], highlight=False, soft_wrap=True, markup=False)
    out.print(f"{folder}/attacks/{kind}.html", highlight=False, soft_wrap=True, markup=False)


@model.command("build")
def build(
    path: Annotated[Path, typer.Argument(help="The .mlmodel file to write.")],
    overrides: Set = None,
) -> None:
    """Write the updatable file that a config's phones train, with the weights they start from.

    **Examples**

    - `fedsim model build lenet.mlmodel`
    - `fedsim model build adam.mlmodel --set training.optimizer=adam --set training.batch_size=128`
    """
    out.print(model_files.build(path, load(None, overrides or ())), highlight=False, soft_wrap=True)


@model.command("describe")
def describe(path: Annotated[Path, typer.Argument(help="An .mlmodel file.")]) -> None:
    """Say what a Core ML file computes, what may be trained in it, and how.

    **Example:** `fedsim model describe lenet.mlmodel`
    """
    out.print(model_files.describe(path), highlight=False, soft_wrap=True, markup=False)


@model.command("check")
def check(path: Annotated[Path, typer.Argument(help="An .mlmodel file.")]) -> None:
    """Check without a Mac whether a phone can train a Core ML file; exit code 1 if it cannot.

    **Example:** `fedsim model check lenet.mlmodel`
    """
    verdict, trainable = model_files.check(path)
    out.print(verdict, highlight=False, soft_wrap=True, markup=False)
    if not trainable:
        raise typer.Exit(1)


@contextmanager
def _listening(rounds: int, as_json: bool) -> Generator[Callable[[Row], None]]:
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


def _show(record: RunRecord, as_json: bool) -> None:
    """The end of a run: a table for people, the summary for machines."""
    if as_json:
        print(to_json({"folder": str(record.folder), **record.summary}))
        return
    table = Table(box=None, show_header=False)
    for name, value in _headline(record.summary):
        table.add_row(name, value)
    out.print(table)
    out.print(f"{record.folder}/report.html", highlight=False, soft_wrap=True)


def _promise(said: dict[str, Any]) -> str:
    if said["epsilon"] is None:
        return "none promised: no noise"
    return f"epsilon {said['epsilon']:.4g} at delta {said['delta']:g}; {said['adjacency']}; {said['sampling']}"


def _bench_heading(found: Bench) -> Iterator[str]:
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
        yield "privacy", _promise(summary["privacy"])
    yield "clients", f"{accuracy['mean']:.2%} on average, worst tenth {accuracy['worst_decile_mean']:.2%}"
    yield "traffic", f"{summary['bytes']['down'] / 1e6:.0f} MB down, {summary['bytes']['up'] / 1e6:.0f} MB up"
    yield "time", f"{summary['seconds']['total']:.1f} s"
    yield "weights", summary["model"]["weights_id"][:16]
