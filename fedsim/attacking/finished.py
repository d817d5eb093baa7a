"""A finished run as its attackers need it: what its folder says."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedsim import results
from fedsim.config import ConfigError
from fedsim.coreml.contract import Contract, read_contract
from fedsim.coreml.weights import read_weights
from fedsim.data.dataset import Dataset, digest
from fedsim.federation import Federation, set_up, with_plan
from fedsim.training.native import engine as native
from fedsim.updates import Weights

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedRun:
    """What a run left: its ``federation``, a row a round from 0 on, and the ``weights`` of its last model.

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

    Raises `ConfigError` where there is none, it has not finished, a file of it is missing or damaged, or its data are
    not those that it trained on.
    """
    config = _read(folder / results.CONFIG, lambda _: results.read_config(folder))
    if (status := _read(folder / results.SUMMARY, lambda _: results.status(folder))) != "finished":
        raise ConfigError(f"{folder}: this run is {status}; only a finished one can be attacked")
    begun = _read(folder / results.INPUTS, results.read_json)
    trained = _read(folder / results.MODEL_FILE, lambda path: read_contract(path.read_bytes()))
    federation = with_plan(set_up(config, dataset))
    if begun and begun.get("data") != digest(federation.dataset):
        raise ConfigError(f"{folder}: data.source = {config.data.source}: not the data that this run trained on")
    return FinishedRun(
        folder=folder,
        federation=federation,
        rounds=_read(folder / results.ROUNDS, lambda path: _rows(path, federation.config.federation.rounds)),
        weights=_read(folder / results.MODEL_FILE, lambda _: _weights(trained, federation.contract)),
        engine=native.Engine(federation.contract) if federation.config.speed.engine == "native" else None,
        threads=federation.config.speed.workers or os.cpu_count() or 1,
    )


def participants(run: FinishedRun) -> NDArray[np.int64]:
    """The clients that took part in any round, in rising order."""
    return np.unique(np.concatenate([np.array(row["clients"], np.int64) for row in run.rounds]))


def examples_processed(run: FinishedRun) -> int:
    """How many examples the run trained on, one counted each time."""
    return sum(row["examples"] or 0 for row in run.rounds) * run.federation.contract.training.epochs


def _read(path: Path, read: Callable[[Path], Value]) -> Value:
    """What a file of the run holds; raises `ConfigError` that names it where it is missing or damaged."""
    try:
        return read(path)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ConfigError(f"{path}: is damaged ({error})") from None


def _rows(path: Path, rounds: int) -> list[dict[str, Any]]:
    path.stat()  # who reads rows takes a missing file for a run that has not begun
    rows = results.read_rounds(path)
    if [row["round"] for row in rows] != list(range(rounds + 1)):
        raise ValueError(f"not one row for each round from 0 to {rounds}")
    return rows


def _weights(trained: Contract, contract: Contract) -> Weights:
    weights = read_weights(trained.file, trained.slots)
    if len(weights) != contract.parameters:
        raise ValueError(f"{len(weights)} weights, and the run's model has {contract.parameters}")
    return weights
