"""A finished run as its attackers need it: what its folder says, and its first round over again."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim import results
from fedsim.attacks.view import ServerView
from fedsim.config import ConfigError
from fedsim.coreml.contract import read_contract
from fedsim.coreml.weights import read_weights
from fedsim.data.dataset import Dataset, Examples, digest
from fedsim.federation import Federation, set_up
from fedsim.simulation.engines import open_engine
from fedsim.training.native import engine as native
from fedsim.updates import Orders, Weights

MOST_REPLAYED = 100
"""How many phones of a round are played again at most: each needs the memory of a model."""
_OTHER_SHUFFLE = 0
"""Of a round that never was: an attacker does not know in which order a phone shuffles."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedRun:
    """What a run left: its ``federation``, a row a round, and the ``weights`` of its last model.

    ``engine`` is the native one, None where the run trained in torch.
    """

    folder: Path
    federation: Federation
    rounds: list[dict[str, Any]]
    weights: Weights
    engine: native.Engine | None
    threads: int


def read_finished(folder: Path, dataset: Dataset | None = None) -> FinishedRun:
    """The run in ``folder``; ``dataset`` is given again where the run was given one.

    Raises `ConfigError` where there is none, it has not finished, or its data are not those that it trained on.
    """
    config = results.read_config(folder)
    if (status := results.status(folder)) != "finished":
        raise ConfigError(f"{folder}: this run is {status}; only a finished one can be attacked")
    federation = set_up(config, dataset)
    begun = results.read_json(folder / results.INPUTS)
    if begun and begun["data"] != digest(federation.dataset):
        raise ConfigError(f"{folder}: data.source = {config.data.source}: not the data that this run trained on")
    contract = read_contract((folder / results.MODEL_FILE).read_bytes())
    return FinishedRun(
        folder=folder,
        federation=federation,
        rounds=results.read_rounds(folder / results.ROUNDS),
        weights=read_weights(contract.file, contract.slots),
        engine=native.Engine(federation.contract) if federation.config.speed.engine == "native" else None,
        threads=federation.config.speed.workers or os.cpu_count() or 1,
    )


def participants(run: FinishedRun) -> NDArray[np.int64]:
    """The clients that took part in any round, in rising order."""
    return np.unique(np.concatenate([np.array(row["clients"], np.int64) for row in run.rounds]))


def examples_processed(run: FinishedRun) -> int:
    """How many examples the run trained on, one counted each time."""
    return sum(row["examples"] or 0 for row in run.rounds) * run.federation.contract.training.epochs


def first_round(run: FinishedRun, public: Examples) -> ServerView:
    """What the server saw in round 1, of the first `MOST_REPLAYED` of its phones, each update by itself.

    It starts from the initial weights, which follow from the config, so it can be had again from any folder.
    """
    clients = np.array(next(row["clients"] for row in run.rounds if row["round"] == 1), np.int64)[:MOST_REPLAYED]
    clients, models, examples = _trained(run, clients, 1)
    federation = run.federation
    return ServerView(
        contract=federation.contract,
        training=federation.contract.training,
        weights=federation.initial,
        clients=clients,
        updates=models - federation.initial,
        examples=examples,
        sees="each",
        public=public,
        classes=federation.dataset.classes,
    )


def expected_updates(run: FinishedRun, clients: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What clients would send in round 1, found out by whoever has their data but not their shuffling.

    The clients that can train, and their updates ``float32[C, P]``.
    """
    able, models, _ = _trained(run, clients, _OTHER_SHUFFLE)
    return able, models - run.federation.initial


def _trained(
    run: FinishedRun, clients: NDArray[np.int64], number: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    federation = run.federation
    orders = Orders(round=number, clients=clients, weights=federation.initial, training=federation.contract.training)
    with open_engine(federation) as engine:
        found = engine.train(orders)
    return found.clients, found.weights, found.examples
