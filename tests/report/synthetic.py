"""A made-up run folder with every file a run writes, its numbers as lively as a real run's."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PARAMETERS = 585_958
EXAMPLES = 60_000


def write_run(
    folder: Path, *, clients: int = 100, cohort: int = 10, rounds: int = 20, alpha: float = 0.5, seed: int = 0
) -> Path:
    """Write a finished run of ``rounds`` rounds into ``folder``: all files, baselines and comparison included."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    arrays = _clients(random, clients, cohort, rounds, alpha)
    records = _rounds(random, arrays, cohort, rounds)
    timings = [{"round": n, "seconds": _seconds(random, n)} for n in range(rounds + 1)]
    baselines = _baselines(random, records, clients)
    write_json(folder / "config.json", _config(clients, cohort, rounds, alpha, seed))
    write_json(folder / "environment.json", _environment())
    write_lines(folder / "rounds.jsonl", records)
    write_lines(folder / "timings.jsonl", timings)
    write_json(folder / "summary.json", _summary(records, timings, baselines))
    write_json(folder / "baselines.json", baselines)
    write_json(folder / "comparison.json", _comparison(random))
    np.savez(folder / "clients.npz", **arrays)
    (folder / "model.safetensors").write_bytes(bytes(2_344_200))
    (folder / "model.mlmodel").write_bytes(bytes(2_345_678))
    return folder


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _clients(random: np.random.Generator, clients: int, cohort: int, rounds: int, alpha: float) -> dict[str, Any]:
    shares = random.dirichlet(np.full(10, alpha), size=clients)
    sizes = np.maximum(1, random.multinomial(EXAMPLES, random.dirichlet(np.full(clients, 4.0))))
    counts = np.stack([random.multinomial(size, share) for size, share in zip(sizes, shares, strict=True)])
    test_examples = random.poisson(10_000 / clients, clients)
    skill = np.clip(0.985 - 0.08 * random.exponential(0.4, clients) * shares.max(axis=1), 0.5, 1)
    right = random.binomial(test_examples, skill)
    accuracy = np.where(test_examples > 0, right / np.maximum(test_examples, 1), np.nan)
    chosen = np.zeros(clients, np.int64)
    for _ in range(rounds):
        chosen[random.choice(clients, cohort, replace=False)] += 1
    return {
        "label_counts": counts.astype(np.int64),
        "examples": counts.sum(axis=1).astype(np.int64),
        "test_examples": test_examples.astype(np.int64),
        "accuracy": accuracy,
        "times_chosen": chosen,
    }


def _rounds(random: np.random.Generator, arrays: dict[str, Any], cohort: int, rounds: int) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for number in range(rounds + 1):
        chosen = sorted(random.choice(len(arrays["examples"]), cohort, replace=False).tolist()) if number else []
        error = 0.9 / (1 + 3.0 * number) * float(np.exp(random.normal(0, 0.08)))
        by_client = (
            np.clip(1 - (1 - arrays["accuracy"]) * error / 0.02, 0, 1) if number < rounds else arrays["accuracy"]
        )
        records.append(
            {
                "round": number,
                "clients": chosen,
                "examples": int(arrays["examples"][chosen].sum()),
                "train_loss": 2.9 * error + 0.01 if number else None,
                "failures": 0,
                "bytes_down": 4 * PARAMETERS * len(chosen),
                "bytes_up": (4 * PARAMETERS + 120) * len(chosen),
                "test_loss": 2.55 * error,
                "test_accuracy": round(1 - error, 4),
                "client_accuracy": _spread(by_client),
            }
        )
    return records


def _spread(accuracy: np.ndarray) -> dict[str, float]:
    measured = sorted(accuracy[~np.isnan(accuracy)].tolist())
    lowest = measured[: max(1, len(measured) // 10)]
    return {
        "mean": sum(measured) / len(measured),
        "p10": float(np.percentile(measured, 10)),
        "min": measured[0],
        "max": measured[-1],
        "worst_decile_mean": sum(lowest) / len(lowest),
    }


def _seconds(random: np.random.Generator, number: int) -> dict[str, float]:
    if not number:
        return {"aggregate": 0.001, "evaluate": 0.41, "checkpoint": 0.001}
    parts = ("train", "aggregate", "evaluate", "checkpoint")
    typical = (1.2, 0.05, 0.4, 0.01 if number % 5 else 0.12)
    return dict(zip(parts, random.uniform(0.9, 1.2, 4) * typical, strict=True))


def _summary(records: list[dict[str, Any]], timings: list[dict[str, Any]], baselines: dict[str, Any]) -> dict[str, Any]:
    last = records[-1]
    parts = ("train", "aggregate", "evaluate", "checkpoint")
    seconds = {part: sum(record["seconds"].get(part, 0.0) for record in timings) for part in parts}
    return {
        "status": "finished",
        "rounds": last["round"],
        "test_accuracy": last["test_accuracy"],
        "test_loss": last["test_loss"],
        "best_accuracy": max(record["test_accuracy"] for record in records),
        "rounds_to": {
            str(goal): next((record["round"] for record in records if record["test_accuracy"] >= goal), None)
            for goal in (0.9, 0.95, 0.97, 0.98, 0.985, 0.99)
        },
        "client_accuracy": last["client_accuracy"],
        "baselines": {
            "central": baselines["central"]["curve"][-1]["test_accuracy"],
            "local_only": float(np.mean(baselines["local_only"]["test_accuracy"])),
        },
        "bytes": {way: sum(record[f"bytes_{way}"] for record in records) for way in ("down", "up")},
        "failures": 0,
        "seconds": {"total": sum(seconds.values()) + 11.3, **seconds},
        "peak_memory_bytes": 812_345_678,
        "partition_digest": "c0ffee" * 10,
        "model": {"parameters": PARAMETERS, "architecture_id": "9f2c" * 16, "weights_id": "07ab" * 16},
    }


def _baselines(random: np.random.Generator, records: list[dict[str, Any]], clients: int) -> dict[str, Any]:
    budget = sum(record["examples"] for record in records)
    points = [budget * i // 10 for i in range(11)]
    errors = [0.9 / (1 + 70 * i / 10) * float(np.exp(random.normal(0, 0.04))) for i in range(11)]
    alone = sorted(random.choice(clients, min(clients, 5), replace=False).tolist())
    accuracy = random.uniform(0.61, 0.84, len(alone)).tolist()
    return {
        "examples": budget,
        "local_only": {
            "clients": alone,
            "test_loss": [2.5 * (1 - value) for value in accuracy],
            "test_accuracy": accuracy,
        },
        "central": {
            "curve": [
                {"examples": examples, "test_loss": 2.4 * error, "test_accuracy": 1 - error}
                for examples, error in zip(points, errors, strict=True)
            ],
        },
        "seconds": 8.75,
    }


def _comparison(random: np.random.Generator) -> dict[str, Any]:
    losses = (0.22 / np.arange(1, 11) ** 1.1 * np.exp(random.normal(0, 0.03, 10))).tolist()
    return {
        "title": "The seed's own experiment",
        "rows": [
            {
                "name": name,
                "test_accuracy": 0.9891,
                "test_loss": 0.0412,
                "seconds": seconds,
                "source": "measured on this machine",
            }
            for name, seconds in (("Core ML interpreter", 96.3), ("independent model", 88.1))
        ],
        "curves": [
            {"name": "Core ML interpreter", "epoch_losses": losses},
            {"name": "independent model", "epoch_losses": [loss * 1.0000001 for loss in losses]},
        ],
        "agreement": [
            {"what": "epoch losses, relative", "value": 1e-7, "allowed": 1e-5},
            {"what": "test accuracy", "value": 0.0, "allowed": 0.0005},
        ],
    }


def _config(clients: int, cohort: int, rounds: int, alpha: float, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "federation": {"clients": clients, "cohort": cohort, "rounds": rounds, "on_client_failure": "stop"},
        "strategy": {"name": "FedAvg"},
        "data": {
            "source": "mnist",
            "partition": "dirichlet",
            "alpha": alpha,
            "classes_per_client": None,
            "examples_per_client": None,
            "min_examples": 1,
        },
        "model": {"name": "lenet", "contract": None},
        "training": {
            "epochs": 1,
            "batch_size": 20,
            "optimizer": "sgd",
            "learning_rate": 0.05,
            "momentum": 0.9,
            "epsilon_form": None,
            "weight_decay": 0.0,
        },
        "baselines": {"central": True, "local_only": 5},
        "speed": {"workers": 2, "engine": "torch", "aggregation": "streamed", "cluster": ""},
        "output": {"folder": None, "evaluate_every": 1, "checkpoint_every": 1},
        "report": {
            "title": None,
            "published": [
                {"name": "iPhone 11, Core ML", "source": "the app's README", "seconds": 248.0, "test_accuracy": 0.98},
                {
                    "name": "i7 laptop, TensorFlow",
                    "source": "the app's README",
                    "seconds": 158.0,
                    "test_accuracy": None,
                },
            ],
        },
    }


def _environment() -> dict[str, Any]:
    return {
        "fedsim": "0.1.0",
        "python": "3.11.9",
        "platform": "Linux-6.1-x86_64",
        "cpu": "An Example CPU at 2.50 GHz",
        "cores": 2,
        "packages": {"flwr": "1.41.0", "numpy": "2.4.6", "torch": "2.13.0"},
        "commit": "0123456789abcdef",
        "started": "2026-11-21T22:57:00+00:00",
        "command": "fedsim run --set data.partition=dirichlet --set data.alpha=0.5",
    }


def make_private(folder: Path, **settings: Any) -> Path:
    """Give the run in ``folder`` the promise and the figures of a private one, its clip adaptive by default."""
    settings = settings or {"epsilon": 8.0, "delta": 1e-5, "clip": 2.0, "clip_quantile": 0.5}
    config, records = read_json(folder / "config.json"), read_lines(folder / "rounds.jsonl")
    rounds = config["federation"]["rounds"]
    random = np.random.default_rng(1)
    write_json(folder / "config.json", {**config, "privacy": {"mechanism": "central", **settings}})
    for record in records[1:]:
        share = record["round"] / rounds
        record["privacy"] = {
            "epsilon": None if settings.get("noise_multiplier") == 0 else 7.9 * share**0.5,
            "clip": 2.0 * 0.8 ** record["round"],
            "next_clip": 2.0 * 0.8 ** (record["round"] + 1),
            "unclipped": 1 - share / 2,
            "median_norm": float(random.uniform(0.1, 0.4)),
            "noise_to_signal": float(random.uniform(0.5, 30)),
        }
    write_lines(folder / "rounds.jsonl", records)
    write_json(folder / "privacy.json", _promise(settings, rounds))
    return folder


def _promise(settings: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    return {
        "mechanism": settings.get("mechanism", "central"),
        "epsilon": None if settings.get("noise_multiplier") == 0 else 7.9,
        "delta": 1e-5,
        "budget": settings.get("epsilon"),
        "unit": "one client, with all its examples",
        "adjacency": "add or remove one client",
        "sampling": "every client by its own coin, q = 0.1, secretly",
        "accountant": "privacy loss distributions (dp-accounting 0.6.0)",
        "noise_multiplier": settings.get("noise_multiplier", 1.25),
        "clip": 2.0,
        "noise_to_clip": 3.5,
        "rounds": rounds,
        "rounds_asked": rounds,
        "participations": rounds,
        "noise": "pseudo-random, from the seed",
        "not_covered": ["training losses", "single <phones>"],
    }
