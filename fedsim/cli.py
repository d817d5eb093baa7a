"""The ``fedsim`` command: each verb reads its arguments, calls one function and has shown what came of it."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # Ray tells its own troubles on stdout, amid the rounds
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # of 40 seconds each, where something that is not Ray answers

import typer
from rich.console import Console

from fedsim import __version__, model_files
from fedsim.attacking.attack import KINDS, attack
from fedsim.auditing import FEWEST, audit, new_folder, write_audit
from fedsim.bench import bench
from fedsim.config import ConfigError, load
from fedsim.doctor import examine
from fedsim.federation import set_up, with_plan
from fedsim.outcome import write_partition
from fedsim.privacy.words import explain, projection, statement
from fedsim.recording import RunError
from fedsim.results import CONFIG, read_config, to_json
from fedsim.run import resume, run
from fedsim.showing import (
    audit_table,
    bench_heading,
    bench_table,
    findings_table,
    listening,
    show_explanation,
    show_record,
)
from fedsim.study.command import study_verb

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
privacy = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="What a config's privacy comes to.\n\n**Example:** `fedsim privacy explain --set privacy.epsilon=8`",
)
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
    with listening(out, config.federation.rounds, as_json) as listen:
        record = run(config, listen=listen)
    show_record(out, record, as_json)


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
    with listening(out, read_config(folder).federation.rounds, as_json) as listen:
        record = resume(folder, cluster=cluster, listen=listen)
    show_record(out, record, as_json)


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
        out.print(findings_table(findings))
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
    for line in bench_heading(found):
        out.print(line, highlight=False, soft_wrap=True, markup=False)
    out.print(bench_table(found))


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
        print(to_json({**statement(plan), "projected": projection(plan)}))
    else:
        show_explanation(out, explain(plan))


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


@app.command("audit")
def audit_verb(
    file: File = None,
    overrides: Set = None,
    canaries: Annotated[
        int, typer.Option(min=FEWEST, help="How many clients of the auditor's, half of them in.")
    ] = 1000,
    folder: Annotated[
        Path | None, typer.Option("--output", help="Where audit.json and audit.html go; audits/<time> if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Train with canary clients among the phones, and bound epsilon by how well the releases tell who they were.

    All rounds are played as `fedsim run --set speed.aggregation=stacked` plays them. Exit code 1 if refuted.

    **Examples**

    - `fedsim audit --set privacy.epsilon=8 --set federation.clients=1000 --set federation.cohort=100`
    - `fedsim audit FILE.toml --canaries 3000 --json`
    """
    config, folder = load(file, overrides or ()), folder or new_folder()
    if folder.is_file():
        raise ConfigError(f"--output {folder}: is a file; allowed are folders")
    with err.status("auditing"):
        found = audit(config, canaries=canaries)
    result = write_audit(folder, found, config)
    if as_json:
        print(to_json(result))
    else:
        out.print(audit_table(found))
        out.print(result["sentence"], highlight=False, soft_wrap=True, markup=False)
        out.print(f"{folder}/audit.html", highlight=False, soft_wrap=True, markup=False)
    if found.refuted:
        raise typer.Exit(1)


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
