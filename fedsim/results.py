"""The run folder: what a run writes as it goes, so that it can be read while it runs and resumed when it was cut off.

``config.json`` (resolved), ``environment.json``, ``rounds.jsonl`` (a line a round: the same bytes for the same
config), ``timings.jsonl`` (what may differ), ``checkpoint.safetensors``, and at the end ``summary.json``.
"""

import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save as to_safetensors

from fedsim.config import ConfigError, RunConfig, from_mapping
from fedsim.files import write_atomically

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
INPUTS = "inputs.json"
PRIVACY = "privacy.json"
ROUNDS = "rounds.jsonl"
TIMINGS = "timings.jsonl"
SUMMARY = "summary.json"
BASELINES = "baselines.json"
PARTITION = "partition.npz"
CLIENTS = "clients.npz"
CHECKPOINT = "checkpoint.safetensors"
MODEL_TENSORS = "model.safetensors"
MODEL_FILE = "model.mlmodel"

PACKAGES = ("flwr", "torch", "numpy", "protobuf", "safetensors", "dp-accounting")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything the rounds after ``round`` depend on that the config does not say.

    ``model`` holds the server's arrays in their own dtype; ``arrays`` and ``scalars`` are the strategy's state.
    """

    round: int
    model: Mapping[str, NDArray[Any]]
    arrays: Mapping[str, NDArray[Any]]
    scalars: Mapping[str, Any]


def create(config: RunConfig, command: str | None, started: datetime) -> Path:
    """Make the run folder that ``config.output.folder`` names, ``runs/<time>`` where it names none.

    Raises `ConfigError` where the folder holds a run already, or cannot be made.
    """
    folder = Path(config.output.folder).expanduser() if config.output.folder else new_folder("runs", started)
    if (folder / CONFIG).exists():
        raise ConfigError(
            f"output.folder = {folder}: holds a run already; choose another folder, or fedsim resume {folder}"
        )
    try:
        write_json(folder / CONFIG, config.model_dump(mode="json"))
        write_json(folder / ENVIRONMENT, _environment(command, started))
    except OSError as error:
        raise ConfigError(f"output.folder = {folder}: cannot be written ({error.strerror})") from None
    return folder


def new_folder(kind: str, started: datetime) -> Path:
    """``<kind>/<time>``, with a number behind it where another has begun in the same second."""
    named = Path(kind) / started.strftime("%Y-%m-%d-%H%M%S")
    others = (named.with_name(f"{named.name}-{number}") for number in count(2))
    return next(folder for folder in chain([named], others) if not folder.exists())


def read_config(folder: Path) -> RunConfig:
    """The resolved config of a run; raises `ConfigError` where ``folder`` holds none."""
    try:
        return from_mapping(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except OSError:
        raise ConfigError(f"{folder}: holds no run (no {CONFIG})") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{folder / CONFIG}: is not JSON: {error}") from None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_atomically(path, (to_json(value, indent=2) + "\n").encode())


def to_json(value: Mapping[str, Any], indent: int | None = None) -> str:
    """``value`` as JSON; numbers that JSON lacks (NaN, infinities) become null."""
    return json.dumps(_plain(value), indent=indent)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an ``.npz`` file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **dict(arrays))
    write_atomically(path, buffer.getvalue())


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's content, None where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def status(folder: Path) -> str:
    """How the run in ``folder`` stands: running (or killed), interrupted, failed or finished."""
    return (read_json(folder / SUMMARY) or {"status": "running"})["status"]


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line to a ``.jsonl`` file and hand it to the operating system at once."""
    with path.open("a", encoding="utf-8") as file:
        file.write(to_json(row) + "\n")


def read_rounds(path: Path, upto: int | None = None) -> list[dict[str, Any]]:
    """The rows of a ``.jsonl`` file up to round ``upto``; a last line that was cut off is left out."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if upto is None or row["round"] <= upto:
            rows.append(row)
    return rows


def rewind(folder: Path, upto: int) -> None:
    """Forget what was written about the rounds after ``upto``: they are to be run again."""
    for name in (ROUNDS, TIMINGS):
        rows = read_rounds(folder / name, upto)
        write_atomically(folder / name, "".join(json.dumps(row) + "\n" for row in rows).encode())


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint.safetensors`` over the last one, whole or not at all."""
    tensors = {f"model:{key}": array for key, array in checkpoint.model.items()}
    tensors |= {f"state:{key}": array for key, array in checkpoint.arrays.items()}
    about = {"round": str(checkpoint.round), "scalars": json.dumps(dict(checkpoint.scalars))}
    write_atomically(folder / CHECKPOINT, _safetensors(tensors, about))


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The last checkpoint, bit for bit, or None where the run was cut off before its first."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except safetensors.SafetensorError as error:
        raise ConfigError(f"{path}: is damaged ({error}); delete it to run from the first round") from None
    parts: dict[str, dict[str, NDArray[Any]]] = {"model": {}, "state": {}}
    for key, array in tensors.items():
        kind, name = key.split(":", 1)
        parts[kind][name] = array
    return Checkpoint(
        round=int(about["round"]), model=parts["model"], arrays=parts["state"], scalars=json.loads(about["scalars"])
    )


def write_model(folder: Path, tensors: Mapping[str, NDArray[np.float32]], model_file: bytes, weights_id: str) -> None:
    """Write the trained model twice: named tensors as ``model.safetensors``, and the Core ML file."""
    write_atomically(folder / MODEL_TENSORS, _safetensors(tensors, {"weights_id": weights_id}))
    write_atomically(folder / MODEL_FILE, model_file)


def _safetensors(tensors: Mapping[str, NDArray[Any]], about: dict[str, str]) -> bytes:
    return to_safetensors({key: np.ascontiguousarray(array) for key, array in tensors.items()}, metadata=about)


def _environment(command: str | None, started: datetime) -> dict[str, Any]:
    return {
        "fedsim": importlib.metadata.version("fedsim"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def processor() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory() -> int:
    """The most memory this process has held, in bytes; 0 on Windows, which does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _commit() -> str | None:
    """The commit of the checkout that fedsim runs from, None where it runs from an installed package."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    git = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return git.stdout.strip() if git.returncode == 0 else None


def _plain(value: Any) -> Any:
    """``value`` in JSON's own types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
