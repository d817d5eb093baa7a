"""How fast the native engine trains, against the processor's own limit and against torch, in one run.

python -m experiments.benchmarks.native_kernel --out experiments/benchmarks/results

Rates are examples a second of processor time, so that other work on the machine costs little; yet it shares caches,
memory and turbo, so the best of the repeats comes closest to a quiet machine, and the median says how noisy it was.
The peak, multiply-adds on registers alone, is measured right before and after every repeat, on the same thread. The
works of one core take turns.
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
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from fedsim import bench
from fedsim.bench import SGD, engine_trainer, forward_flops, plain_module, reference_trainer, shares, training_flops
from fedsim.coreml.build import Input, build_model
from fedsim.coreml.contract import Contract, read_contract
from fedsim.coreml.layers import Activation, Convolution, Flatten, InnerProduct, Layer, Pooling, Softmax
from fedsim.data.dataset import batch_inputs, select
from fedsim.data.sources import load
from fedsim.models.initial import initial_weights
from fedsim.models.lenet import lenet_contract
from fedsim.results import processor
from fedsim.seeds import generator
from fedsim.training.native.engine import Engine, evaluate
from fedsim.updates import LocalTraining

seconds, peak = partial(bench.seconds, clock=time.thread_time), partial(bench.peak, clock=time.thread_time)
"""By the time that this thread has the processor."""

ADAM = replace(SGD, optimizer="adam", learning_rate=1e-3)
Loop = Literal["reference", "plain", "channels last"]
LOOPS: tuple[Loop, ...] = ("reference", "plain", "channels last")
"""Torch: the loop of `training.reference`; a module of one's own; the same in the other layout with fused SGD."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is timed: ``run`` works through ``samples`` examples of so many ``flops`` each, by this ``variant``."""

    run: Callable[[], object]
    samples: int
    flops: float
    variant: str


def main() -> None:
    options = _options()
    if options.peer:
        print(json.dumps(peer_rate(options.peer, options.repeats)))
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
        f"Nominal work an example, as if every gradient were dense: {training_flops(lenet) / 1e6:.2f} MFLOP for the "
        f"seed LeNet, {training_flops(larger) / 1e6:.1f} MFLOP for the larger network.",
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

    def training(contract: Contract, clients: int, size: int, settings: LocalTraining, variant: str) -> Work:
        run = engine_trainer(contract, mnist, shares(clients, size, mnist), settings, variant)
        return Work(run=run, samples=clients * size, flops=training_flops(contract), variant=variant)

    best, momentum = engine.variant, replace(SGD, momentum=0.9)
    works = {
        "seed LeNet, batch 20, SGD, 600 images a client": training(lenet, 3, 600, SGD, best),
        "seed LeNet, batch 20, momentum 0.9, 600 images a client": training(lenet, 3, 600, momentum, best),
        "seed LeNet, batch 20, Adam, 600 images a client": training(lenet, 3, 600, ADAM, best),
        "seed LeNet, batch 20, SGD, 60 images a client": training(lenet, 30, 60, SGD, best),
        "seed LeNet, evaluation": Work(
            run=lambda: evaluate(engine, weights, test), samples=2000, flops=forward_flops(lenet), variant=best
        ),
        "larger CNN, batch 20, SGD": training(larger, 1, 600, SGD, best),
    }
    if best == "avx512":
        works["seed LeNet, batch 20, SGD, the AVX2 variant, of its own peak"] = training(lenet, 3, 600, SGD, "avx2")
    rates, parts, peaks = take_turns(list(works.values()), repeats)
    return [
        *(
            f"| {name} | {max(rates[i]):,.0f} | {statistics.median(rates[i]):,.0f} "
            f"| {max(parts[i]):.0%} | {statistics.median(parts[i]):.0%} |"
            for i, name in enumerate(works)
        ),
        f"| the peak itself, GFLOP/s | {max(peaks) / 1e9:.1f} | {statistics.median(peaks) / 1e9:.1f} | | |",
    ]


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
        run = engine_trainer(contract, mnist, shares(1, 600, mnist), SGD, "")
        for loop in LOOPS:
            torch_run = torch_loop(loop, larger=contract is larger)
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
    run = engine_trainer(lenet, mnist, shares(10, 600, mnist), SGD, engine.variant, threads=2)
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


def peer_rate(loop: Loop, repeats: int) -> dict[str, list[float]]:
    """Examples a second of one torch process, by both clocks."""
    run = torch_loop(loop, larger=False)
    run()
    wall, cpu = [], []
    for _ in range(repeats):
        begun, used = time.perf_counter(), time.thread_time()
        run()
        wall.append(600 / (time.perf_counter() - begun))
        cpu.append(600 / (time.thread_time() - used))
    return {"wall": wall, "cpu": cpu}


def take_turns(works: list[Work], repeats: int) -> tuple[list[list[float]], list[list[float]], list[float]]:
    """Every work's examples a second and shares of the peak, one a turn, and the peaks of the first one's variant.

    In turns, because the machine's own pace changes for seconds at a time: so a change meets all of them alike.
    """
    rates: list[list[float]] = [[] for _ in works]
    parts: list[list[float]] = [[] for _ in works]
    peaks: list[float] = []
    for turn in range(repeats + 1):
        for i, work in enumerate(works):
            before = peak(work.variant)
            rate = work.samples / seconds(work.run)
            highest = max(before, peak(work.variant))
            if turn:  # the first warms up
                rates[i].append(rate)
                parts[i].append(rate * work.flops / highest)
                peaks += [highest] if work.variant == works[0].variant else []
    return rates, parts, peaks


def torch_loop(loop: Loop, *, larger: bool) -> Callable[[], object]:
    """One client of 600 images in torch, on one thread."""
    torch.set_num_threads(1)
    contract = larger_contract() if larger else read_contract(lenet_contract(SGD))
    data = select(load("mnist").train, slice(0, 600))
    if loop == "reference":
        return reference_trainer(contract, data)
    layout = torch.channels_last if loop == "channels last" else torch.contiguous_format
    weights = initial_weights(contract, generator(0, "weights"))
    module = plain_module(weights, (32, 64), (5, 5), (1024, 512)) if larger else plain_module(weights)
    module = module.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    inputs = torch.from_numpy(batch_inputs(data.inputs)).contiguous(memory_format=layout)
    return bench.torch_trainer(module, inputs, torch.from_numpy(data.labels), fused=loop == "channels last")


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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="folder to put the result file in")
    parser.add_argument("--peer", choices=LOOPS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
