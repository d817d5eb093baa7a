"""One run from top to bottom: a `RunConfig` in, a run folder out. Read this first.

`set_up` builds everything that a mistake in the config can break; `_play` lets Flower's own ``Strategy.start`` train on
our grid round by round; `_finish` adds the baselines, the trained model and the report.
"""

import gc
import logging
import os
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedsim import messages, results
from fedsim.baselines import CentralTraining, train_alone
from fedsim.config import ConfigError, RunConfig, command_line, with_cluster
from fedsim.coreml.contract import architecture_id, weights_id
from fedsim.coreml.weights import named_weights, write_weights
from fedsim.data import partition as partitions
from fedsim.data.dataset import Dataset, digest
from fedsim.federation import Federation, set_up
from fedsim.recording import RoundRecorder, Row, spread
from fedsim.report import write_partition_page, write_report
from fedsim.simulation.engines import Engine, open_engine
from fedsim.simulation.grid import FederationGrid, Phones, ask_clients
from fedsim.simulation.streamed import cohort_phone
from fedsim.strategies import ResumableStrategy, build_strategy, restore
from fedsim.updates import Mean, Orders, Updates, Weights

log = logging.getLogger("fedsim")

NODES_ANSWER_SECONDS = 60.0
REPLY_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run leaves: its ``folder``, resolved ``config``, a row a round (0: the initial model) and ``summary``."""

    folder: Path
    config: RunConfig
    rounds: list[Row]
    summary: dict[str, Any]
    weights: Weights


def run(
    config: RunConfig | None = None,
    *,
    dataset: Dataset | None = None,
    inner: Grid | None = None,
    listen: Callable[[Row], None] = lambda row: None,
) -> RunRecord:
    """Run a federation to its end and write its folder.

    ``dataset`` replaces ``data.source`` with arrays of one's own; ``inner`` is a Flower grid whose nodes take the
    place of the simulated phones that they say they are; ``listen`` gets every row of ``rounds.jsonl`` as it is
    written. Equal configs give bit-identical rows and models, whatever the number of workers.

    Raises `ConfigError` before any work for what cannot be run, and `RunError` for a run that had to stop; the
    folder then holds a checkpoint from which `resume` goes on.
    """
    began, started = time.perf_counter(), datetime.now(UTC)
    config = _for_real_phones(config or RunConfig()) if inner else config or RunConfig()
    federation = set_up(config, dataset)
    asked = config.model_copy(update={"speed": federation.config.speed})  # engines differ by rounding
    command = None if dataset else command_line(asked)  # no command can name arrays of one's own
    with open_engine(federation) as engine:
        folder = results.create(federation.config, command, started)
        results.write_json(folder / results.INPUTS, _inputs(federation))
        return _run(federation, folder, engine, inner, listen, began)


def resume(
    folder: Path,
    *,
    dataset: Dataset | None = None,
    cluster: str | None = None,
    listen: Callable[[Row], None] = lambda row: None,
) -> RunRecord:
    """Go on with a run that was cut off, from its last checkpoint; the result is bit-identical to one run through.

    ``cluster`` takes the place of the recorded ``speed.cluster`` this time; an empty one is this machine alone.

    Raises `ConfigError` where there is nothing to resume, or data or model are not those the run began with.
    """
    began = time.perf_counter()
    if results.status(folder) == "finished":
        raise ConfigError(f"{folder}: this run has finished; there is nothing to resume")
    config = results.read_config(folder)
    federation = set_up(config if cluster is None else with_cluster(config, cluster), dataset)
    begun, now = results.read_json(folder / results.INPUTS), _inputs(federation)
    if begun and (changed := [name for name in now if now[name] != begun.get(name)]):
        raise ConfigError(f"{folder}: the {' and the '.join(changed)} are not those this run began with")
    with open_engine(federation) as engine:
        return _run(federation, folder, engine, None, listen, began)


def _for_real_phones(config: RunConfig) -> RunConfig:
    """The config of a federation with phones behind another grid, each of which sends its own model."""
    if config.speed.cluster:
        raise ConfigError(f"speed.cluster = {config.speed.cluster}: all phones must be simulated; leave it empty here")
    if config.speed.aggregation == "streamed":
        raise ConfigError("speed.aggregation = streamed: all phones must be simulated; allowed here: stacked")
    return config.model_copy(update={"speed": config.speed.model_copy(update={"aggregation": "stacked"})})


def write_partition(federation: Federation, folder: Path) -> Path:
    """Who holds what: ``partition.npz``, ``clients.npz`` and a page with the plot. Returns the page.

    A population deals nothing, so there is no ``partition.npz``, and the page shows its first phones.
    """
    dataset = federation.dataset
    counts = partitions.label_counts(federation.partition, dataset.train.labels, dataset.classes)
    if isinstance(federation.partition, partitions.Partition):
        partitions.save(federation.partition, folder / results.PARTITION)
    results.write_arrays(folder / results.CLIENTS, {"label_counts": counts, **_population(federation)})
    return write_partition_page(folder)


def _inputs(federation: Federation) -> dict[str, str]:
    """Digests of what a run begins with and its config only names, so that it resumes with the same."""
    return {
        "data": digest(federation.dataset),
        "model settings": architecture_id(federation.contract),
        "initial weights": weights_id(federation.initial),
    }


def _run(
    federation: Federation,
    folder: Path,
    engine: Engine,
    inner: Grid | None,
    listen: Callable[[Row], None],
    began: float,
) -> RunRecord:
    """Rounds, then baselines, then the report; whatever ends this early leaves a folder that says so."""
    config = federation.config
    if "FLWR_LOG_LEVEL" not in os.environ:
        logging.getLogger("flwr").setLevel(logging.WARNING)
    results.write_json(folder / results.SUMMARY, {"status": "running"})
    try:
        page = None if (folder / results.CLIENTS).exists() else engine.aside.submit(write_partition, federation, folder)
        central = CentralTraining(engine, federation) if config.baselines.central else None
        weights, accuracy = _play(federation, folder, engine, inner, central, listen)
        if page:
            page.result()
        _write_clients(federation, folder, accuracy)
        _write_baselines(federation, folder, engine, central)
        summary = _finish(federation, folder, weights, accuracy, time.perf_counter() - began)
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = " ".join(str(error).split()) or type(error).__name__
        with suppress(OSError, ValueError):  # what ended the run is what its user must see
            results.write_json(folder / results.SUMMARY, {"status": status, "reason": reason})
            write_report(folder)
        if status == "interrupted":
            log.warning("interrupted; to go on from the last checkpoint: fedsim resume %s", shlex.quote(str(folder)))
        raise
    rows = results.read_rounds(folder / results.ROUNDS)
    return RunRecord(folder=folder, config=config, rounds=rows, summary=summary, weights=weights)


def _play(
    federation: Federation,
    folder: Path,
    engine: Engine,
    inner: Grid | None,
    central: CentralTraining | None,
    listen: Callable[[Row], None],
) -> tuple[Weights, NDArray[np.float64]]:
    """All rounds from the last checkpoint on, by Flower's ``Strategy.start`` on our grid: weights, client accuracy."""
    config, contract = federation.config, federation.contract
    strategy = build_strategy(config, contract.training.learning_rate)
    checkpoint = results.read_checkpoint(folder)
    done = checkpoint.round if checkpoint else 0
    results.rewind(folder, done if checkpoint else -1)
    if checkpoint:
        restore(strategy, checkpoint.arrays, checkpoint.scalars)

    def tell(row: Row) -> None:
        if central:
            central.follow(row)
        listen(row)

    def train(orders: Orders) -> Updates:
        return recorder.note_updates(engine.train(orders))

    def mean(orders: Orders) -> Mean:
        return recorder.note_mean(orders, engine.mean(orders))

    size = config.federation
    if config.speed.aggregation == "streamed":
        phones = cohort_phone(size.clients, size.cohort, config.seed, mean)
    else:
        phones = Phones(clients=size.clients, train=train, evaluate=engine.evaluate)
    grid = FederationGrid(
        phones,
        inner=inner,
        remote=ask_clients(inner, NODES_ANSWER_SECONDS) if inner else {},
    )
    recorder = RoundRecorder(
        folder=folder,
        strategy=strategy,
        evaluate=engine.score,
        test_partition=federation.test_partition,
        client_of=grid.client_of,
        stop_on_failure=config.federation.on_client_failure == "stop",
        checkpoint_every=config.output.checkpoint_every,
        last_round=config.federation.rounds,
        resumed_after=done if checkpoint else None,
        listen=tell,
    )
    if central:
        for row in results.read_rounds(folder / results.ROUNDS):
            central.follow(row)
    model = messages.model_record(federation.initial)
    if checkpoint:
        model = ArrayRecord({key: Array(array) for key, array in checkpoint.model.items()})
    resumable = ResumableStrategy(strategy, seed=config.seed, first_round=done + 1, on_replies=recorder.on_replies)
    gc.freeze()  # QFedAvg and Bulyan collect garbage once a reply, over whatever is not frozen: seconds a round
    try:
        result = resumable.start(
            grid,
            model,
            num_rounds=config.federation.rounds - done,
            timeout=REPLY_SECONDS,
            train_config=messages.training_record(contract.training),
            evaluate_fn=lambda number, record: recorder.on_model(done + number, record),
        )
    finally:
        recorder.close()
        gc.unfreeze()
    return messages.read_weights(result.arrays if result.arrays else model), recorder.accuracy


def _write_baselines(federation: Federation, folder: Path, engine: Engine, central: CentralTraining | None) -> None:
    """Central and local-only training of the budget that the rounds used; the seconds are those after the rounds."""
    phones = federation.config.baselines.local_only
    if not central and not phones:
        return
    began = time.perf_counter()
    trained = sum(row["examples"] for row in results.read_rounds(folder / results.ROUNDS))
    baselines: dict[str, Any] = {"examples": trained * federation.contract.training.epochs}
    if phones:
        baselines["local_only"] = train_alone(engine, federation, phones, baselines["examples"])
    if central:
        baselines["central"] = {"curve": central.curve()}
    results.write_json(folder / results.BASELINES, {**baselines, "seconds": time.perf_counter() - began})


def _population(federation: Federation) -> dict[str, NDArray[np.int64]]:
    """How many phones there are, where the others are no more than the first of them."""
    return {"population": np.array(federation.config.federation.clients)} if federation.population else {}


def _write_clients(federation: Federation, folder: Path, accuracy: NDArray[np.float64]) -> None:
    """What there is to say of every client, of a population its first ones: arrays with the client axis first."""
    dataset, clients = federation.dataset, len(federation.partition.offsets) - 1
    chosen = [client for row in results.read_rounds(folder / results.ROUNDS) for client in row["clients"]]
    results.write_arrays(
        folder / results.CLIENTS,
        {
            "label_counts": partitions.label_counts(federation.partition, dataset.train.labels, dataset.classes),
            "examples": partitions.sizes(federation.partition),
            "test_examples": partitions.sizes(federation.test_partition),
            "accuracy": accuracy,
            "times_chosen": np.bincount([client for client in chosen if client < clients], minlength=clients),
            **_population(federation),
        },
    )


def _finish(
    federation: Federation, folder: Path, weights: Weights, accuracy: NDArray[np.float64], seconds: float
) -> dict[str, Any]:
    """The trained model in both formats, the summary, the report."""
    contract = federation.contract
    rows = results.read_rounds(folder / results.ROUNDS)
    accuracies = [row["test_accuracy"] for row in rows]
    model_file = write_weights(contract.file, contract.slots, weights)
    results.write_model(folder, named_weights(contract.slots, weights), model_file, weights_id(weights))
    summary = {
        "status": "finished",
        "rounds": rows[-1]["round"],
        "test_accuracy": accuracies[-1],
        "test_loss": rows[-1]["test_loss"],
        "best_accuracy": max(accuracies),
        "rounds_to": {str(goal): _first_round(rows, goal) for goal in (0.9, 0.95, 0.97, 0.98, 0.985, 0.99)},
        "client_accuracy": spread(accuracy),
        "baselines": _baseline_accuracies(folder),
        "bytes": {way: sum(row[f"bytes_{way}"] for row in rows) for way in ("down", "up")},
        "failures": sum(row["failures"] for row in rows),
        "seconds": _seconds(folder, seconds),
        "peak_memory_bytes": results.peak_memory(),
        "partition_digest": partitions.digest(federation.partition),
        "model": {
            "parameters": len(weights),
            "architecture_id": architecture_id(contract),
            "weights_id": weights_id(weights),
        },
    }
    results.write_json(folder / results.SUMMARY, summary)
    write_report(folder)
    return summary


def _baseline_accuracies(folder: Path) -> dict[str, float]:
    """The final accuracy of central training, and the mean of the phones that trained alone."""
    baselines = results.read_json(folder / results.BASELINES) or {}
    found: dict[str, float] = {}
    if "central" in baselines:
        found["central"] = baselines["central"]["curve"][-1]["test_accuracy"]
    if "local_only" in baselines:
        found["local_only"] = float(np.mean(baselines["local_only"]["test_accuracy"]))
    return found


def _seconds(folder: Path, total: float) -> dict[str, float]:
    """Where the time of this process went; a resumed run counts its rounds before the cut in the parts only."""
    parts: dict[str, float] = {}
    for row in results.read_rounds(folder / results.TIMINGS):
        for part, seconds in row["seconds"].items():
            parts[part] = parts.get(part, 0.0) + seconds
    return {"total": total, **parts}


def _first_round(rows: list[Row], goal: float) -> int | None:
    return next((row["round"] for row in rows if row["test_accuracy"] >= goal), None)
