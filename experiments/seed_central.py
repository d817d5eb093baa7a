"""The seed's experiment, beside a torch model written without the interpreter: ``python -m experiments.seed_central``.

Runs ``studies/seed_central.toml``; then, each in a process of its own, trains the contract in the interpreter and
`lenet` in torch's own modules, from the same initial weights on the same batches. Writes ``comparison.json`` and the
report into the run's folder. Exit code 1 where they do not agree, or 0.98 is not passed.
"""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedsim import RunConfig, RunRecord, run
from fedsim.config import load
from fedsim.coreml import interpret
from fedsim.data.dataset import batch_inputs
from fedsim.federation import Federation, set_up
from fedsim.report import write_report
from fedsim.results import ENVIRONMENT, TIMINGS, read_json, read_rounds, write_json
from fedsim.training import reference
from fedsim.training.batches import epoch_order, shuffle_keys

STUDY = Path(__file__).parent / "studies" / "seed_central.toml"
COMPARED_STEPS = 50
INTERPRETED, INDEPENDENT = "the contract, interpreted in torch", "independent torch model"
FIGURES = ("test_accuracy", "test_loss", "seconds")
ALLOWED = {
    f"largest difference of the first {COMPARED_STEPS} batch losses, at the independent model's weights": 1e-5,
    "largest relative difference of an epoch's mean loss": 0.05,
    "difference of test accuracy": 0.003,
}
"""Two float32 trainings part by rounding: one unit of one example whose input lies within rounding of zero, live in one
and dead in the other, is enough. So single steps are compared at common weights, and the trainings in the mean.
"""


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


def train_independently(config: RunConfig) -> dict[str, Any]:
    """Train `lenet` as a plain torch program would; only initial weights and the order of examples are given to it."""
    torch.set_num_threads(1)
    federation = set_up(config)
    training = federation.contract.training
    network = _initialised(federation)
    optimizer = torch.optim.Adam(network.parameters(), training.learning_rate, (training.beta1, training.beta2))
    images, labels = _tensors(federation.dataset.train)
    (key,) = shuffle_keys(config.seed, 1, np.array([0]))
    losses: list[float] = []
    epoch_losses: list[float] = []
    first_steps: list[tuple[torch.Tensor, torch.Tensor]] = []
    began = time.perf_counter()
    for epoch in range(training.epochs):
        held = federation.partition.order[epoch_order(len(labels), key, epoch, shuffle=True)]
        total = 0.0
        for batch in torch.from_numpy(held).split(training.batch_size):
            if len(first_steps) < COMPARED_STEPS:
                first_steps.append((nn.utils.parameters_to_vector(network.parameters()).detach(), batch))
            loss = nn.functional.cross_entropy(network(images[batch].float() / 255), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            total += losses[-1] * len(batch)
        epoch_losses.append(total / len(labels))
    seconds = time.perf_counter() - began
    figures = {"losses": losses, "epoch_losses": epoch_losses, "seconds": seconds, **_tested(network, federation)}
    return {**figures, "interpreted_losses": [_interpreted(federation, *step) for step in first_steps]}


def train_interpreted(config: RunConfig) -> dict[str, Any]:
    """Train the contract in the interpreter."""
    torch.set_num_threads(1)
    federation = set_up(config)
    weights, training, data = federation.initial.copy(), federation.contract.training, federation.dataset.train
    held = federation.partition.order
    train, size = reference.trainer(federation.contract, weights, data, training), training.batch_size
    (key,) = shuffle_keys(config.seed, 1, np.array([0]))
    losses: list[float] = []
    epoch_losses: list[float] = []
    began = time.perf_counter()
    for epoch in range(training.epochs):
        rows = held[epoch_order(len(held), key, epoch, shuffle=training.shuffle)]
        batches = [rows[first : first + size] for first in range(0, len(rows), size)]
        losses += [train(batch) for batch in batches]
        epoch_losses.append(float(np.dot(losses[-len(batches) :], [len(batch) for batch in batches]) / len(rows)))
    seconds = time.perf_counter() - began
    tested, correct = reference.evaluate(federation.contract, weights, federation.dataset.test)
    figures = {"test_loss": float(tested.mean()), "test_accuracy": float(correct.mean())}
    return {"losses": losses, "epoch_losses": epoch_losses, "seconds": seconds, **figures}


def compare(folder: Path, trainings: dict[str, dict[str, Any]], config: RunConfig) -> dict[str, float]:
    """Write ``comparison.json`` and the report; the differences that `ALLOWED` bounds, of the last two trainings."""
    ours, theirs = (trainings[name] for name in (INTERPRETED, INDEPENDENT))
    first = np.abs(np.array(theirs["interpreted_losses"]) - theirs["losses"][:COMPARED_STEPS])
    epochs = np.abs(np.array(ours["epoch_losses"]) / theirs["epoch_losses"] - 1)
    figures = (first.max(), epochs.max(), abs(ours["test_accuracy"] - theirs["test_accuracy"]))
    found = dict(zip(ALLOWED, map(float, figures), strict=True))
    rows = [
        {"name": name, "source": "here, one core", **{key: training[key] for key in FIGURES}}
        for name, training in trainings.items()
    ]
    rows += [row.model_dump() | {"test_loss": None} for row in config.report.published]
    curves = [{"name": name, "epoch_losses": training["epoch_losses"]} for name, training in trainings.items()]
    agreement = [{"what": what, "value": found[what], "allowed": ALLOWED[what]} for what in ALLOWED]
    comparison = {"title": config.report.title, "rows": rows, "curves": curves, "agreement": agreement}
    write_json(folder / "comparison.json", comparison)
    write_report(folder)
    return found


def main() -> int:
    """Run both at once, a core each, and say how they compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the run's folder, a new one; runs/<time> where it is not given")
    parser.add_argument("--result", type=Path, help="a markdown file to write the figures to, with date and machine")
    arguments = parser.parse_args()
    out = arguments.out
    config = load(STUDY, ["speed.workers=1", *([f"output.folder={out}"] if out else [])])
    record = run(config)
    timings = read_rounds(record.folder / TIMINGS)
    trainings = {f"the contract, {record.config.speed.engine} engine": _run_figures(record, timings[1])}
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        jobs = {INTERPRETED: pool.submit(train_interpreted, config)}
        jobs[INDEPENDENT] = pool.submit(train_independently, config)
        trainings |= {name: job.result() for name, job in jobs.items()}
    found = compare(record.folder, trainings, config)
    for what, value in found.items():
        print(f"{what}: {value:.3g} (allowed {ALLOWED[what]:g})")
    for name, training in trainings.items():
        print(f"{name}: accuracy {training['test_accuracy']:.2%} in {training['seconds']:.0f} s")
    print(record.folder / "report.html")
    if arguments.result:
        arguments.result.write_text(result_page(record.folder), encoding="utf-8")
    agree = all(value <= ALLOWED[what] for what, value in found.items())
    return 0 if agree and all(training["test_accuracy"] > 0.98 for training in trainings.values()) else 1


def result_page(folder: Path) -> str:
    """The figures of a finished study as dated markdown, read from its folder."""
    about, comparison = (read_json(folder / name) or {} for name in (ENVIRONMENT, "comparison.json"))
    packages = ", ".join(f"{name} {found}" for name, found in about["packages"].items())
    rows = [
        f"| {row['name']} | {row['seconds']:.0f} | {_percent(row['test_accuracy'])} | {row['source']} |"
        for row in comparison["rows"]
    ]
    agreement = [f"| {row['what']} | {row['value']:.3g} | {row['allowed']:g} |" for row in comparison["agreement"]]
    lines = [
        f"# {comparison['title']}, {about['started'][:10]}",
        "",
        f"{about['cpu']}, {about['cores']} cores; {about['platform']}; Python {about['python']}, {packages}.",
        "`python -m experiments.seed_central`: the native engine first, then the two torch trainings side by side.",
        "",
        "| training | seconds | test accuracy | where |",
        "| --- | ---: | ---: | --- |",
        *rows,
        "",
        "| the two torch trainings | found | allowed |",
        "| --- | ---: | ---: |",
        *agreement,
        "",
    ]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"


def _run_figures(record: RunRecord, timing: dict[str, Any]) -> dict[str, Any]:
    return {**record.rounds[1], "seconds": timing["seconds"]["train"]}


def _initialised(federation: Federation) -> nn.Module:
    network = lenet()
    parts = np.split(federation.initial, np.cumsum([slot.count for slot in federation.contract.slots])[:-1])
    with torch.no_grad():
        for parameter, part in zip(network.parameters(), parts, strict=True):
            parameter.copy_(torch.from_numpy(part).view_as(parameter))
    return network


def _tensors(examples: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.array(examples.inputs)), torch.from_numpy(np.array(examples.labels))


def _interpreted(federation: Federation, weights: torch.Tensor, batch: torch.Tensor) -> float:
    """The interpreter's loss of one batch at these weights."""
    data, rows = federation.dataset.train, batch.numpy()
    parameters = interpret.parameters(federation.contract, weights)
    inputs, labels = torch.from_numpy(batch_inputs(data.inputs[rows])), torch.from_numpy(data.labels[rows])
    with torch.inference_mode():
        return interpret.loss(federation.contract, parameters, inputs, labels).item()


def _tested(network: nn.Module, federation: Federation) -> dict[str, float]:
    images, labels = _tensors(federation.dataset.test)
    with torch.inference_mode():
        logits = torch.cat([network(part.float() / 255) for part in images.split(500)])
    loss = nn.functional.cross_entropy(logits, labels).item()
    return {"test_loss": loss, "test_accuracy": (logits.argmax(1) == labels).double().mean().item()}


if __name__ == "__main__":
    sys.exit(main())
