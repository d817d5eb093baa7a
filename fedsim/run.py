"""One run from top to bottom: a `RunConfig` in, a run folder out. Read this first.

`set_up` builds everything that a mistake in the config can break; `_play` lets Flower's own ``Strategy.start`` train on
our grid round by round; what is left when the rounds are over, `outcome` writes down.
"""

import gc
import logging
import os
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedsim import messages, results
from fedsim.baselines import CentralTraining
from fedsim.config import ConfigError, RunConfig, command_line, with_cluster
from fedsim.coreml.contract import architecture_id, weights_id
from fedsim.data.dataset import Dataset, digest
from fedsim.federation import Federation, set_up, with_plan
from fedsim.outcome import finish, write_baselines, write_clients, write_partition
from fedsim.poisoning_settings import NoPoisoning
from fedsim.privacy.plan import draw, noise_id
from fedsim.privacy.words import statement
from fedsim.privacy_settings import Central, Distributed
from fedsim.recording import RoundRecorder, Row
from fedsim.report import write_report
from fedsim.simulation.engines import Engine, open_engine
from fedsim.simulation.grid import FederationGrid, ask_clients
from fedsim.simulation.poisoned import poisoned, progress
from fedsim.simulation.private import cohort_of, first_state, own_training, private_phone
from fedsim.simulation.streamed import open_phones
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
    written, on a thread of its own while the next round trains. Equal configs give bit-identical rows and models,
    whatever the number of workers.

    Raises `ConfigError` before any work for what cannot be run, and `RunError` for a run that had to stop; the
    folder then holds a checkpoint from which `resume` goes on.
    """
    began, started = time.perf_counter(), datetime.now(UTC)
    config = _for_real_phones(config or RunConfig()) if inner else config or RunConfig()
    federation = with_plan(set_up(config, dataset))
    asked = config.model_copy(update={"speed": federation.config.speed})  # engines differ by rounding
    command = None if dataset else command_line(asked)  # no command can name arrays of one's own
    with open_engine(federation) as engine:
        folder = results.create(federation.config, command, started)
        results.write_json(folder / results.INPUTS, _inputs(federation))
        if federation.plan:
            results.write_json(folder / results.PRIVACY, statement(federation.plan))
        return _run(federation, folder, poisoned(engine, federation), inner, listen, began)


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
    federation = with_plan(set_up(config if cluster is None else with_cluster(config, cluster), dataset))
    begun, now = results.read_json(folder / results.INPUTS), _inputs(federation)
    if begun and (changed := [name for name in now if now[name] != begun.get(name)]):
        raise ConfigError(f"{folder}: the {' and the '.join(changed)} are not those this run began with")
    if said := results.read_json(folder / results.PRIVACY):
        federation = _as_asked(federation, said["rounds_asked"])
    with open_engine(federation) as engine:
        return _run(federation, folder, poisoned(engine, federation), None, listen, began)


def _as_asked(federation: Federation, rounds: int) -> Federation:
    """The federation of a run for which more ``rounds`` were asked than its config, cut to the budget, tells."""
    return replace(federation, plan=federation.plan and replace(federation.plan, asked=rounds))


def _for_real_phones(config: RunConfig) -> RunConfig:
    """The config of a federation with phones behind another grid, each of which sends its own model."""
    if config.speed.cluster:
        raise ConfigError(f"speed.cluster = {config.speed.cluster}: all phones must be simulated; leave it empty here")
    if config.speed.aggregation == "streamed":
        raise ConfigError("speed.aggregation = streamed: all phones must be simulated; allowed here: stacked")
    if not isinstance(config.poisoning, NoPoisoning):
        raise ConfigError(
            f"poisoning.attack = {config.poisoning.attack}: all phones must be simulated; leave it out here"
        )
    if isinstance(config.privacy, Distributed):
        raise ConfigError(
            "privacy.mechanism = distributed: real phones have no secure aggregation that would open sums only; "
            "allowed here: none, central, local, matrix or dp_sgd"
        )
    if isinstance(config.privacy, Central) and config.privacy.sampling != "cyclic":
        raise ConfigError(
            f"privacy.sampling = {config.privacy.sampling}: phones check in when they like and the server sees who "
            "does, so nobody is hidden among those who were not drawn; allowed here: cyclic"
        )
    return config.model_copy(update={"speed": config.speed.model_copy(update={"aggregation": "stacked"})})


def _inputs(federation: Federation) -> dict[str, str]:
    """Digests of what a run begins with and its config only names, so that it resumes with the same."""
    inputs = {
        "data": digest(federation.dataset),
        "model settings": architecture_id(federation.contract),
        "initial weights": weights_id(federation.initial),
    }
    return inputs | ({"noise": noise_id(federation.plan)} if federation.plan else {})


def quieten_flower() -> None:
    """Let Flower say only what is amiss, unless its user has said otherwise."""
    if "FLWR_LOG_LEVEL" not in os.environ:
        logging.getLogger("flwr").setLevel(logging.WARNING)


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
    quieten_flower()
    results.write_json(folder / results.SUMMARY, {"status": "running"})
    try:
        page = None if (folder / results.CLIENTS).exists() else engine.aside.submit(write_partition, federation, folder)
        central = CentralTraining(engine, federation) if config.baselines.central else None
        weights, accuracy = _play(federation, folder, engine, inner, central, listen)
        if page:
            page.result()
        write_clients(federation, folder, accuracy)
        write_baselines(federation, folder, engine, central)
        summary = finish(federation, folder, weights, accuracy, time.perf_counter() - began)
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

    def client_of(node: int) -> int:
        return grid.client_of(node)

    recorder = RoundRecorder(
        folder=folder,
        strategy=strategy,
        evaluate=engine.score,
        further=progress(engine, federation),
        test_partition=federation.test_partition,
        client_of=client_of,
        stop_on_failure=config.federation.on_client_failure == "stop",
        evaluate_every=config.output.evaluate_every,
        checkpoint_every=config.output.checkpoint_every,
        last_round=config.federation.rounds,
        resumed_after=done if checkpoint else None,
        listen=tell,
    )
    rows = results.read_rounds(folder / results.ROUNDS)
    grid = _grid(federation, engine, inner, recorder, rows)
    if central:
        for row in rows:
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


def _grid(
    federation: Federation, engine: Engine, inner: Grid | None, recorder: RoundRecorder, rows: list[Row]
) -> FederationGrid:
    """What the strategy meets: every phone, or one node that stands for a round's cohort."""
    plan = federation.plan
    own = own_training(plan, engine)

    def train(orders: Orders) -> Updates:
        return recorder.note_updates(own(orders))

    def mean(orders: Orders) -> Mean:
        found = engine.mean(orders)
        recorder.note_cohort(orders, found)
        return found

    asked = own
    if inner or not plan:
        phones = open_phones(federation, replace(engine, train=train, mean=mean))
        remote = ask_clients(inner, NODES_ANSWER_SECONDS) if inner else {}
        everybody = FederationGrid(phones, inner=inner, remote=remote)
        if not plan:
            return everybody
        asked = partial(_ask, everybody)
    cohort = cohort_of(federation, engine, partial(draw, plan), asked)
    return FederationGrid(private_phone(plan, cohort, first_state(plan, rows), recorder.note_cohort))


def _ask(grid: FederationGrid, orders: Orders) -> Updates:
    """What the phones of ``orders``, real and simulated, send back."""
    nodes = [grid.node_ids[client] for client in orders.clients.tolist()]
    replies = grid.send_and_receive(messages.write_orders(orders, nodes), timeout=REPLY_SECONDS)
    return messages.read_replies(replies, orders)
