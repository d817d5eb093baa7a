"""How fast the native engine trains, against the processor's own limit and against torch, in one run.

python -m experiments.benchmarks.native_kernel --out experiments/benchmarks/results

Rates are examples a second of processor time, so that other work on the machine costs little; yet it shares caches,
memory and turbo, so the best of the repeats comes closest to a quiet machine, and the median says how noisy it was.
The peak, multiply-adds on registers alone, is measured right before and after every repeat, on the same thread.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from fedsim.coreml.build import Input, build_model
from fedsim.coreml.contract import Contract, read_contract
from fedsim.coreml.layers import Activation, Convolution, Flatten, InnerProduct, Layer, Pooling, Softmax
from fedsim.data.dataset import Examples, batch_inputs, select
from fedsim.data.sources import load
from fedsim.models.initial import initial_weights
from fedsim.models.lenet import lenet_contract
from fedsim.results import processor
from fedsim.seeds import generator, key
from fedsim.training import reference
from fedsim.training.native.engine import Cohort, Engine, evaluate, multiply_adds, train_clients
from fedsim.training.native.lower import DENSE, STEP_FIELDS
from fedsim.updates import LocalTraining

SGD = LocalTraining(epochs=1, batch_size=20, optimizer="sgd", learning_rate=0.05, shuffle=False)
ADAM = replace(SGD, optimizer="adam", learning_rate=1e-3)
PEAK_ROUNDS = 500_000
Loop = Literal["reference", "plain", "channels last"]
LOOPS: tuple[Loop, ...] = ("reference", "plain", "channels last")
"""Torch: the loop of `training.reference`; a module of one's own; the same in the other layout with fused SGD."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Examples a second of processor time, and the share of the peak that their multiply-adds are."""

    rates: list[float]
    shares: list[float]


def main() -> None:
    options = _options()
    if options.peer:
        print(json.dumps(peer_rate(options.peer, options.larger, options.repeats)))
        return
    started = datetime.now(UTC)
    text = page(options.repeats, started)
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"native_kernel_{started:%Y-%m-%d}.md").write_text(text)


def page(repeats: int, started: datetime) -> str:
    """The whole result file."""
    lenet, larger = read_contract(lenet_contract(SGD)), larger_contract()
    engine = Engine(lenet)
    lines = [
        f"# Native kernel, {started:%Y-%m-%d}",
        "",
        *(line for line in (__doc__ or "").splitlines()[4:]),
        "",
        f"Command: `python -m experiments.benchmarks.native_kernel --repeats {repeats}`",
        f"Machine: {processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} when it began",
        f"Versions: Python {platform.python_version()}, NumPy {np.__version__}, torch {torch.__version__}; "
        f"variant {engine.variant}",
        "",
        "## One core",
        "",
        f"Nominal work an example, as if every gradient were dense: {training_flops(engine) / 1e6:.2f} MFLOP for the "
        f"seed LeNet, {training_flops(Engine(larger)) / 1e6:.1f} MFLOP for the larger network.",
        "",
        "| work | examples/s, best | median | of the peak, best | median |",
        "| --- | ---: | ---: | ---: | ---: |",
        *one_core_rows(engine, lenet, larger, repeats),
        "",
        *peer_lines(lenet, larger, repeats),
        "",
        *two_core_lines(engine, lenet, repeats),
        "",
    ]
    return "\n".join(lines)


def one_core_rows(engine: Engine, lenet: Contract, larger: Contract, repeats: int) -> list[str]:
    """One row a kind of work; the peak itself last."""
    mnist = load("mnist").train
    test = select(mnist, slice(0, 2000))
    weights = initial_weights(lenet, generator(0, "weights"))
    train = training_flops(engine)
    work: dict[str, tuple[Callable[[], object], int, float, str]] = {}
    for name, training in {"SGD": SGD, "momentum 0.9": replace(SGD, momentum=0.9), "Adam": ADAM}.items():
        run = trainer(lenet, mnist, shares(3, 600), training, engine.variant)
        work[f"seed LeNet, batch 20, {name}, 600 images a client"] = (run, 1800, train, engine.variant)
    run = trainer(lenet, mnist, shares(30, 60), SGD, engine.variant)
    work["seed LeNet, batch 20, SGD, 60 images a client"] = (run, 1800, train, engine.variant)
    work["seed LeNet, evaluation"] = (
        lambda: evaluate(engine, weights, test),
        2000,
        forward_flops(engine),
        engine.variant,
    )
    run = trainer(larger, mnist, shares(1, 600), SGD, engine.variant)
    work["larger CNN, batch 20, SGD"] = (run, 600, training_flops(Engine(larger)), engine.variant)
    if engine.variant == "avx512":
        run = trainer(lenet, mnist, shares(3, 600), SGD, "avx2")
        work["seed LeNet, batch 20, SGD, the AVX2 variant, of its own peak"] = (run, 1800, train, "avx2")
    rows: list[str] = []
    for name, (run, count, flops, variant) in work.items():
        measured = measure(run, count, flops, variant, repeats)
        rates, parts = measured.rates, measured.shares
        rows.append(
            f"| {name} | {max(rates):,.0f} | {statistics.median(rates):,.0f} "
            f"| {max(parts):.0%} | {statistics.median(parts):.0%} |"
        )
    peaks = [peak(engine.variant) / 1e9 for _ in range(repeats)]
    return [*rows, f"| the peak itself, GFLOP/s | {max(peaks):.1f} | {statistics.median(peaks):.1f} | | |"]


def peer_lines(lenet: Contract, larger: Contract, repeats: int) -> list[str]:
    """The engine's rate over torch's, one thread each, measured in turns."""
    mnist = load("mnist").train
    lines = [
        "## Against torch, one thread, in turns",
        "",
        "| network | torch loop | torch examples/s, best | engine examples/s, best | engine over torch |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name, contract in (("seed LeNet", lenet), ("larger CNN", larger)):
        run = trainer(contract, mnist, shares(1, 600), SGD, "")
        for loop in LOOPS:
            torch_run = torch_trainer(loop, larger=contract is larger)
            theirs, ours = [], []
            for _ in range(max(3, repeats // 3)):
                theirs.append(600 / seconds(torch_run))
                ours.append(600 / min(seconds(run) for _ in range(3)))
            ratio = max(ours) / max(theirs)
            lines.append(f"| {name} | {loop} | {max(theirs):,.0f} | {max(ours):,.0f} | {ratio:.1f} |")
    return lines


def two_core_lines(engine: Engine, lenet: Contract, repeats: int) -> list[str]:
    """Two threads of the engine, then two processes of torch, by the wall's clock and by the processor's."""
    mnist = load("mnist").train
    run = trainer(lenet, mnist, shares(10, 600), SGD, engine.variant, threads=2)
    wall, cpu = [], []
    for _ in range(repeats):
        begun, used = time.perf_counter(), time.process_time()
        run()
        wall.append(6000 / (time.perf_counter() - begun))
        cpu.append(2 * 6000 / (time.process_time() - used))
    lines = [
        "## Two cores, seed LeNet, batch 20, SGD, 10 clients of 600",
        "",
        "| what | examples/s by the clock, best | median | twice the rate a processor second, best |",
        "| --- | ---: | ---: | ---: |",
        f"| engine, 2 threads | {max(wall):,.0f} | {statistics.median(wall):,.0f} | {max(cpu):,.0f} |",
    ]
    for loop in LOOPS:
        command = [sys.executable, "-m", "experiments.benchmarks.native_kernel", "--peer", loop]
        command += ["--repeats", str(max(3, repeats // 3))]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        parts = [json.loads(process.communicate()[0]) for process in running]
        clocks = [sum(rates) for rates in zip(*(part["wall"] for part in parts), strict=True)]
        busy = sum(max(part["cpu"]) for part in parts)
        lines.append(
            f"| torch, {loop}, 2 processes | {max(clocks):,.0f} | {statistics.median(clocks):,.0f} | {busy:,.0f} |"
        )
    return lines


def peer_rate(loop: Loop, larger: bool, repeats: int) -> dict[str, list[float]]:
    """Examples a second of one torch process, by both clocks."""
    run = torch_trainer(loop, larger=larger)
    run()
    wall, cpu = [], []
    for _ in range(repeats):
        begun, used = time.perf_counter(), time.thread_time()
        run()
        wall.append(600 / (time.perf_counter() - begun))
        cpu.append(600 / (time.thread_time() - used))
    return {"wall": wall, "cpu": cpu}


def measure(run: Callable[[], object], count: int, flops: float, variant: str, repeats: int) -> Measured:
    """``run`` works through ``count`` examples of so many ``flops`` each."""
    run()
    rates, parts = [], []
    for _ in range(repeats):
        before = peak(variant)
        rate = count / seconds(run)
        rates.append(rate)
        parts.append(rate * flops / max(before, peak(variant)))
    return Measured(rates=rates, shares=parts)


def peak(variant: str) -> float:
    """Floating-point operations a second that this thread reaches at the moment."""
    begun = time.thread_time()
    operations = multiply_adds(PEAK_ROUNDS, variant)
    return operations / (time.thread_time() - begun)


def seconds(run: Callable[[], object]) -> float:
    """Processor seconds of this thread."""
    begun = time.thread_time()
    run()
    return time.thread_time() - begun


def trainer(
    contract: Contract, data: Examples, clients: Cohort, training: LocalTraining, variant: str, threads: int = 1
) -> Callable[[], object]:
    """Trains the clients, weights in and out of the contract's order included."""
    engine, weights = Engine(contract, variant), initial_weights(contract, generator(0, "weights"))
    stack = np.empty((len(clients.counts), contract.parameters), np.float32)
    return lambda: train_clients(engine, weights, data, clients, training, threads=threads, out=stack)


def shares(clients: int, size: int) -> Cohort:
    """Clients with the first examples of the data, one after another."""
    return Cohort(counts=np.full(clients, size), orders=np.arange(clients * size))


def torch_trainer(loop: Loop, *, larger: bool) -> Callable[[], object]:
    """One client of 600 images in torch, on one thread."""
    torch.set_num_threads(1)
    contract = larger_contract() if larger else read_contract(lenet_contract(SGD))
    data = select(load("mnist").train, slice(0, 600))
    weights = initial_weights(contract, generator(0, "weights"))
    if loop == "reference":
        return lambda: reference.train_client(contract, weights.copy(), data, SGD, key(0, "shuffle"))
    layout = torch.channels_last if loop == "channels last" else torch.contiguous_format
    model = torch_module(larger=larger).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    inputs, labels = torch.from_numpy(batch_inputs(data.inputs)), torch.from_numpy(data.labels)

    def epoch() -> None:
        optimizer = torch.optim.SGD(model.parameters(), SGD.learning_rate, fused=loop == "channels last")
        for start in range(0, 600, SGD.batch_size):
            batch = slice(start, start + SGD.batch_size)
            optimizer.zero_grad()
            outputs = model(inputs[batch].contiguous(memory_format=layout))
            torch.nn.functional.cross_entropy(outputs, labels[batch]).backward()
            optimizer.step()

    return epoch


def torch_module(*, larger: bool) -> torch.nn.Module:
    """The two networks as anyone would write them."""
    channels, kernels, dense = ((32, 64), (5, 5), (1024, 512)) if larger else ((32, 32), (3, 2), (1152, 500))
    return torch.nn.Sequential(
        *(torch.nn.Conv2d(1, channels[0], kernels[0]), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Conv2d(channels[0], channels[1], kernels[1]), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Flatten(), torch.nn.Linear(*dense), torch.nn.ReLU(), torch.nn.Linear(dense[1], 10)),
    )


def larger_contract() -> Contract:
    """5 x 5 x 32, 5 x 5 x 64, both with ReLU and 2 x 2 max pooling, dense 1024-512-10: the CNN of McMahan et al. 2017
    without its padding."""
    layers: list[Layer] = []

    def add(kind: type[Layer], **settings: object) -> None:
        source = layers[-1].outputs if layers else ("image",)
        names = {"name": f"layer{len(layers)}", "inputs": source, "outputs": (f"blob{len(layers)}",)}
        layers.append(kind(**names, **settings))  # pyright: ignore[reportCallIssue, reportArgumentType]

    for inputs, outputs in ((1, 32), (32, 64)):
        add(Convolution, input_channels=inputs, output_channels=outputs, kernel=(5, 5), updatable=True)
        add(Activation, function="relu")
        add(Pooling, function="max", kernel=(2, 2), stride=(2, 2))
    add(Flatten)
    add(InnerProduct, input_channels=1024, output_channels=512, updatable=True)
    add(Activation, function="relu")
    add(InnerProduct, input_channels=512, output_channels=10, updatable=True)
    add(Softmax)
    image = Input(name="image", shape=(1, 28, 28))
    return read_contract(build_model(layers=layers, input=image, loss="cross_entropy", training=SGD))


def training_flops(engine: Engine) -> float:
    """Forward, gradient of the weights, and gradient of the input where it is wanted: as many operations each."""
    return sum(flops * (3 if wanted else 2) for flops, wanted in _steps(engine))


def forward_flops(engine: Engine) -> float:
    """Operations of a prediction."""
    return sum(flops for flops, _ in _steps(engine))


def _steps(engine: Engine) -> list[tuple[float, bool]]:
    """Operations forward, and whether the input's gradient is wanted, of every convolution and dense layer."""
    steps: list[tuple[float, bool]] = []
    for row in engine.program.steps.tolist():
        step = dict(zip(STEP_FIELDS, row, strict=True))
        area = step["out_height"] * step["out_width"] * (4 if step["pooled"] else 1)
        taps = step["kernel_height"] * step["kernel_width"] * step["in_channels"] // step["groups"]
        if step["kind"] == DENSE:
            area, taps = 1, step["in_channels"] * step["in_height"] * step["in_width"]
        steps.append((2.0 * area * taps * step["out_channels"], bool(step["input_gradient"])))
    return steps


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="folder to put the result file in")
    parser.add_argument("--peer", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--larger", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
