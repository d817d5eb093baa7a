"""The seed's experiment, beside a torch model written without the interpreter: ``python -m experiments.seed_central``.

Runs ``studies/seed_central.toml`` and, at the same time in a process of its own, `train_independently` from the same
initial weights on the same batches; writes ``comparison.json`` and the report into the run's folder. Exit code 1
where the two do not agree, or 0.98 is not passed.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedsim import RunConfig, run
from fedsim.config import load
from fedsim.federation import Federation, set_up
from fedsim.report import write_report
from fedsim.results import write_json
from fedsim.seeds import generator
from fedsim.training import reference
from fedsim.training.batches import epoch_order

STUDY = Path(__file__).parent / "studies" / "seed_central.toml"
COMPARED_STEPS = 50
ALLOWED = {
    f"largest difference of the first {COMPARED_STEPS} batch losses": 1e-4,
    "largest relative difference of an epoch's mean loss": 0.05,
    "difference of test accuracy": 0.003,
}
"""Two float32 trainings part by rounding, ever faster: step by step they agree at first, in the mean to the end."""


def lenet() -> nn.Module:
    """The seed's network in torch's own modules."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1152, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def train_independently(config: RunConfig, steps: int | None = None) -> dict[str, Any]:
    """Train `lenet` as a plain torch program would; stops after ``steps`` batches where they are given.

    Only the initial weights and the order of the examples are the federation's.
    """
    torch.set_num_threads(1)
    federation = set_up(config)
    training = federation.contract.training
    network = _initialised(federation)
    optimizer = torch.optim.Adam(network.parameters(), training.learning_rate, (training.beta1, training.beta2))
    images, labels = _tensors(federation.dataset.train)
    order = generator(config.seed, "shuffle", 1, 0)
    losses: list[float] = []
    epoch_losses: list[float] = []
    began = time.perf_counter()
    for _ in range(training.epochs):
        permutation = torch.from_numpy(order.permutation(len(labels)))
        held = federation.partition.order[permutation.numpy()]
        total = 0.0
        for batch in torch.from_numpy(held).split(training.batch_size):
            loss = nn.functional.cross_entropy(network(images[batch].float() / 255), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            total += losses[-1] * len(batch)
            if len(losses) == steps:
                return {"losses": losses}
        epoch_losses.append(total / len(labels))
    seconds = time.perf_counter() - began
    return {"losses": losses, "epoch_losses": epoch_losses, "seconds": seconds, **_tested(network, federation)}


def interpreted_losses(config: RunConfig, steps: int) -> list[float]:
    """The first batch losses of the interpreter on the same batches."""
    federation = set_up(config)
    weights, training = federation.initial.copy(), federation.contract.training
    held = federation.partition.order
    order = held[epoch_order(len(held), training, generator(config.seed, "shuffle", 1, 0))]
    train = reference.trainer(federation.contract, weights, federation.dataset.train, training)
    size = training.batch_size
    return [train(order[first : first + size]) for first in range(0, steps * size, size)]


def compare(folder: Path, ours: dict[str, Any], theirs: dict[str, Any], config: RunConfig) -> dict[str, float]:
    """Write ``comparison.json`` and the report; the differences that `ALLOWED` bounds."""
    first = np.abs(np.array(interpreted_losses(config, COMPARED_STEPS)) - theirs["losses"][:COMPARED_STEPS])
    epochs = np.abs(np.array(ours["epoch_losses"]) / theirs["epoch_losses"] - 1)
    figures = (first.max(), epochs.max(), abs(ours["test_accuracy"] - theirs["test_accuracy"]))
    found = dict(zip(ALLOWED, map(float, figures), strict=True))
    here = "this run, one core"
    rows = [
        {"name": "the contract, interpreted", "source": here, **_figures(ours)},
        {"name": "independent torch model", "source": here, **_figures(theirs)},
        *(row.model_dump() | {"test_loss": None} for row in config.report.published),
    ]
    comparison = {
        "title": config.report.title,
        "rows": rows,
        "curves": [
            {"name": "the contract, interpreted", "epoch_losses": ours["epoch_losses"]},
            {"name": "independent torch model", "epoch_losses": theirs["epoch_losses"]},
        ],
        "agreement": [{"what": what, "value": found[what], "allowed": ALLOWED[what]} for what in ALLOWED],
    }
    write_json(folder / "comparison.json", comparison)
    write_report(folder)
    return found


def main() -> int:
    """Run both at once, a core each, and say how they compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the run's folder, a new one; runs/<time> where it is not given")
    out = parser.parse_args().out
    config = load(STUDY, ["speed.workers=1", *([f"output.folder={out}"] if out else [])])
    with ProcessPoolExecutor(1, get_context("spawn")) as beside:
        independent = beside.submit(train_independently, config)
        record = run(config, listen=lambda row: print(f"round {row['round']}: {row['test_accuracy']:.2%}", flush=True))
        theirs = independent.result()
    timings = [json.loads(line) for line in (record.folder / "timings.jsonl").read_text().splitlines()]
    ours = {**record.rounds[1], "seconds": timings[1]["seconds"]["train"]}
    found = compare(record.folder, ours, theirs, config)
    for what, value in found.items():
        print(f"{what}: {value:.3g} (allowed {ALLOWED[what]:g})")
    print(f"accuracy {ours['test_accuracy']:.2%}, {record.folder / 'report.html'}")
    agree = all(value <= ALLOWED[what] for what, value in found.items())
    return 0 if agree and ours["test_accuracy"] > 0.98 else 1


def _initialised(federation: Federation) -> nn.Module:
    network = lenet()
    parts = np.split(federation.initial, np.cumsum([slot.count for slot in federation.contract.slots])[:-1])
    with torch.no_grad():
        for parameter, part in zip(network.parameters(), parts, strict=True):
            parameter.copy_(torch.from_numpy(part).view_as(parameter))
    return network


def _tensors(examples: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.array(examples.inputs)), torch.from_numpy(np.array(examples.labels))


def _tested(network: nn.Module, federation: Federation) -> dict[str, float]:
    images, labels = _tensors(federation.dataset.test)
    with torch.inference_mode():
        logits = torch.cat([network(part.float() / 255) for part in images.split(500)])
    loss = nn.functional.cross_entropy(logits, labels).item()
    return {"test_loss": loss, "test_accuracy": (logits.argmax(1) == labels).double().mean().item()}


def _figures(training: dict[str, Any]) -> dict[str, float]:
    return {key: training[key] for key in ("test_accuracy", "test_loss", "seconds")}


if __name__ == "__main__":
    sys.exit(main())
