"""What a run leaves beside its rounds: who holds what, what is known of every client, baselines, model and summary."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim import results
from fedsim.baselines import CentralTraining, train_alone
from fedsim.coreml.contract import architecture_id, weights_id
from fedsim.coreml.weights import named_weights, write_weights
from fedsim.data import partition as partitions
from fedsim.federation import Federation
from fedsim.poisoning_settings import NoPoisoning
from fedsim.privacy.plan import Plan, participations
from fedsim.recording import Row, spread
from fedsim.report import write_partition_page, write_report
from fedsim.simulation.engines import Engine
from fedsim.updates import Weights


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


def write_baselines(federation: Federation, folder: Path, engine: Engine, central: CentralTraining | None) -> None:
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


def write_clients(federation: Federation, folder: Path, accuracy: NDArray[np.float64]) -> None:
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


def finish(
    federation: Federation, folder: Path, weights: Weights, accuracy: NDArray[np.float64], seconds: float
) -> dict[str, Any]:
    """The trained model in both formats, the summary, the report."""
    contract = federation.contract
    rows = results.read_rounds(folder / results.ROUNDS)
    tested = [row for row in rows if row["test_accuracy"] is not None]
    accuracies = [row["test_accuracy"] for row in tested]
    model_file = write_weights(contract.file, contract.slots, weights)
    results.write_model(folder, named_weights(contract.slots, weights), model_file, weights_id(weights))
    summary = {
        "status": "finished",
        "rounds": rows[-1]["round"],
        "test_accuracy": accuracies[-1],
        "test_loss": rows[-1]["test_loss"],
        "best_accuracy": max(accuracies),
        "rounds_to": {str(goal): _first_round(tested, goal) for goal in (0.9, 0.95, 0.97, 0.98, 0.985, 0.99)},
        "client_accuracy": spread(accuracy),
        **_poisoning(federation, rows[-1]),
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
    if federation.plan:
        said = results.read_json(folder / results.PRIVACY) or {}  # as it was when the run began
        summary["privacy"] = {**said, "worst_client": _worst_client(federation.plan, rows)}
    results.write_json(folder / results.SUMMARY, summary)
    write_report(folder)
    return summary


def _worst_client(plan: Plan, rows: list[Row]) -> dict[str, int]:
    """The client that took part most often, and the most that it might have."""
    times = np.unique([client for row in rows for client in row["clients"]], return_counts=True)[1]
    return {"participations": int(times.max(initial=0)), "at_most": participations(plan)}


def _poisoning(federation: Federation, last: Row) -> dict[str, Any]:
    """How many clients were malicious, and how far they came where their attack has an aim."""
    if isinstance(federation.config.poisoning, NoPoisoning):
        return {}
    success = {"attack_success": last["attack_success"]} if "attack_success" in last else {}
    return {"poisoning": {"malicious": len(federation.malicious), **success}}


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
