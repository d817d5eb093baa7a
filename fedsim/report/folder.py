"""A run folder as plain data: what is in it, and what is not there (yet)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim import results
from fedsim.config import RunConfig
from fedsim.files import DAMAGE
from fedsim.privacy_settings import NoPrivacy

Record = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]

COMPARISON = "comparison.json"
EXPECTED = (results.ENVIRONMENT, results.ROUNDS, results.TIMINGS, results.SUMMARY, results.CLIENTS)
"""What every finished run has besides ``config.json``; privacy, baselines and comparison are asked for or not."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One run's files. A file that is not there is empty here.

    ``rounds`` and ``timings`` hold one record a round, oldest first. ``clients`` holds the arrays of
    ``clients.npz``, client axis first. ``models`` names the model files with their sizes in bytes.
    ``missing`` names what `EXPECTED` lists, and privacy's statement where there is any, and the folder lacks.
    """

    config: RunConfig
    environment: Record
    rounds: Sequence[Record]
    timings: Sequence[Record]
    privacy: Record
    summary: Record
    baselines: Record
    comparison: Record
    clients: Arrays
    models: Mapping[str, int]
    missing: Sequence[str]

    @property
    def status(self) -> str:
        """How the run itself says it stands; a run that was killed could not say so, and stays ``running``."""
        return self.summary.get("status", "running")


def read_run_folder(folder: Path) -> RunFolder:
    """Read what ``folder`` holds; only ``config.json`` has to be there.

    Raises ``ValueError`` where ``config.json`` is missing or no config of ours, and naming the file where another one
    is not what its name says.
    """
    config = results.read_config(folder)
    models = [folder / name for name in (results.MODEL_TENSORS, results.MODEL_FILE)]
    expected = EXPECTED if isinstance(config.privacy, NoPrivacy) else (*EXPECTED, results.PRIVACY)
    return RunFolder(
        config=config,
        environment=_read_json(folder / results.ENVIRONMENT),
        rounds=results.read_rounds(folder / results.ROUNDS),
        timings=results.read_rounds(folder / results.TIMINGS),
        privacy=_read_json(folder / results.PRIVACY),
        summary=_read_json(folder / results.SUMMARY),
        baselines=_read_json(folder / results.BASELINES),
        comparison=_read_json(folder / COMPARISON),
        clients=read_clients(folder) if (folder / results.CLIENTS).exists() else {},
        models={path.name: path.stat().st_size for path in models if path.exists()},
        missing=[name for name in expected if not (folder / name).exists()],
    )


def read_clients(folder: Path) -> Arrays:
    """The arrays of ``clients.npz``. Raises ``ValueError`` where the file is missing or is no such archive."""
    path = folder / results.CLIENTS
    try:
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no {path.name}; a run writes it when it deals out the data") from None
    except DAMAGE:
        raise ValueError(f"{path} is not an .npz archive of plain arrays; run again to write it anew") from None


def column(records: Sequence[Record], *path: str) -> NDArray[np.float64]:
    """One field of every record as ``float64[len(records)]``, nan where it is null or absent.

    >>> column([{"seconds": {"train": 2}}, {"seconds": {}}], "seconds", "train")
    array([ 2., nan])
    """
    return np.array([_field(record, path) for record in records], dtype=np.float64)


def _field(record: Record, path: Sequence[str]) -> float:
    value: Any = record
    for name in path:
        value = None if value is None else value.get(name)
    return float("nan") if value is None else float(value)


def _read_json(path: Path) -> Record:
    try:
        return results.read_json(path) or {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error.msg}); run again to write it anew") from None
