"""How fast this machine trains and evaluates: the native engine, torch, and what the processor can do at most."""

import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from fedsim.coreml.contract import Contract, read_contract
from fedsim.coreml.layers import Convolution, InnerProduct, Pair
from fedsim.coreml.shapes import blob_shapes
from fedsim.data.dataset import Dataset, Examples, batch_inputs, select
from fedsim.data.sources import load
from fedsim.models.initial import initial_weights
from fedsim.models.lenet import lenet_contract
from fedsim.results import processor
from fedsim.seeds import generator, key
from fedsim.training.native import library
from fedsim.training.native.engine import Cohort, Engine, evaluate, multiply_adds, sum_clients
from fedsim.updates import LocalTraining, Weights

if TYPE_CHECKING:
    import torch

SGD = LocalTraining(epochs=1, batch_size=20, optimizer="sgd", learning_rate=0.05, shuffle=False)
PACKAGES = ("fedsim", "numpy", "torch")
CLIENT_SIZES = (600, 60)
IMAGES_A_WORKER = 600
TORCH_EVALUATES = 2000
PEAK_ROUNDS = 2_000_000

Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is timed: ``run`` does a ``task``, "train" or "evaluate", on so many ``samples`` with so many ``workers``.

    ``images`` is how many each client trains on; an evaluation has no clients.
    """

    task: str
    engine: str
    workers: int
    images: int | None
    samples: int
    run: Run


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How fast a `Work` went at its best, by the clock on the wall.

    ``peak_gflops`` is the best that as many threads reached with multiply-adds on registers alone, and ``of_peak`` the
    share of it that the work's nominal operations are. ``over_torch``, for one worker of the native engine, is its rate
    over that of the fastest torch loop at the same task.
    """

    task: str
    engine: str
    workers: int
    images: int | None
    clients_per_second: float | None
    samples_per_second: float
    peak_gflops: float | None
    of_peak: float | None
    over_torch: float | None


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What was measured, and where.

    ``load`` is the machine's before, ``missing`` says why there is no native ``variant``, where there is none, and
    ``mflop`` is each task's nominal work a sample, in millions of floating-point operations.
    """

    cpu: str
    cores: int
    load: float
    platform: str
    versions: dict[str, str]
    variant: str | None
    missing: str
    mflop: dict[str, float]
    rates: list[Rate]


def bench(budget: float) -> Bench:
    """Measure the seed's network on MNIST for ``budget`` seconds, and to the end of the turn that is then under way."""
    from fedsim.simulation.workers import worker_threads  # torch takes seconds that only a measurement should pay

    load_before, cores = os.getloadavg()[0], os.cpu_count() or 1
    contract, mnist = read_contract(lenet_contract(SGD)), load("mnist")
    flops = {"train": training_flops(contract), "evaluate": forward_flops(contract)}
    variant, missing = _variant()
    with worker_threads(1) as thread:
        works = list(_torch_works(contract, mnist, thread))
        if variant is not None:
            works = [*_native_works(contract, mnist, sorted({1, cores})), *works]
        rates = measure(works, flops, variant, budget)
    return Bench(
        cpu=processor(),
        cores=cores,
        load=load_before,
        platform=platform.platform(),
        versions={"Python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}},
        variant=variant,
        missing=missing,
        mflop={task: operations / 1e6 for task, operations in flops.items()},
        rates=rates,
    )


def measure(works: Sequence[Work], flops: Mapping[str, float], variant: str | None, budget: float) -> list[Rate]:
    """Time all works, each after the peak on its number of threads, turn by turn until the budget is used up.

    Taking turns, a disturbance of seconds meets all of them alike. The best of each counts: other programs can only
    make it worse, as does the first turn, which warms up.
    """
    fastest, peaks = [math.inf] * len(works), dict[int, float]()
    deadline = time.perf_counter() + budget
    while math.inf in fastest or time.perf_counter() < deadline:
        for place, work in enumerate(works):
            if variant is not None:
                peaks[work.workers] = max(peaks.get(work.workers, 0.0), peak(variant, work.workers))
            fastest[place] = min(fastest[place], seconds(work.run))
    rates = [work.samples / took for work, took in zip(works, fastest, strict=True)]
    slowest_first = sorted(zip(works, rates, strict=True), key=lambda pair: pair[1])
    torch_rates = {(work.task, work.images): rate for work, rate in slowest_first if work.engine != "native"}
    return [
        _rate(work, rate, flops[work.task], peaks.get(work.workers), torch_rates.get((work.task, work.images)))
        for work, rate in zip(works, rates, strict=True)
    ]


def _rate(work: Work, rate: float, flops: float, highest: float | None, torch_rate: float | None) -> Rate:
    alike = work.engine == "native" and work.workers == 1
    return Rate(
        task=work.task,
        engine=work.engine,
        workers=work.workers,
        images=work.images,
        clients_per_second=rate / work.images if work.images else None,
        samples_per_second=rate,
        peak_gflops=highest / 1e9 if highest else None,
        of_peak=rate * flops / highest if highest else None,
        over_torch=rate / torch_rate if torch_rate and alike else None,
    )


def seconds(run: Run, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long it takes, by the wall or by another clock."""
    begun = clock()
    run()
    return clock() - begun


def peak(variant: str, workers: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Floating-point operations a second that so many threads reach at the moment; one is the thread that calls."""
    with ThreadPoolExecutor(workers) as pool:
        spread = pool.map if workers > 1 else map
        begun = clock()
        operations = sum(spread(multiply_adds, [PEAK_ROUNDS] * workers, [variant] * workers))
        return operations / (clock() - begun)


def training_flops(contract: Contract) -> float:
    """Floating-point operations of training on one example, nominal: as if no gradient were zero.

    Forward, the gradient of the weights where they train, and the gradient of the input where a layer before trains:
    as many operations each. Convolutions and dense layers count, and nothing else.
    """
    return sum(forward * (1 + trains + before) for forward, trains, before in _layers(contract))


def forward_flops(contract: Contract) -> float:
    """Floating-point operations of a prediction for one example, counted in the same way."""
    return sum(forward for forward, _, _ in _layers(contract))


def _layers(contract: Contract) -> Iterator[tuple[float, bool, bool]]:
    """Of every convolution and dense layer: operations forward, whether it trains, whether one before it does."""
    shapes = blob_shapes(contract.graph, contract.input_name, contract.input_shape)
    before = False
    for layer in contract.graph:
        if isinstance(layer, Convolution | InnerProduct):
            window = math.prod(layer.kernel) / layer.groups if isinstance(layer, Convolution) else 1
            yield 2 * math.prod(shapes[layer.outputs[0]]) * window * layer.input_channels, layer.updatable, before
            before = before or layer.updatable


def engine_trainer(
    contract: Contract, data: Examples, clients: Cohort, training: LocalTraining, variant: str = "", threads: int = 1
) -> Run:
    """Trains the clients in the native engine and adds up their weights, as a run with a linear strategy does."""
    engine, weights = Engine(contract, variant), initial_weights(contract, generator(0, "weights"))
    each = clients.counts / clients.counts.sum()
    return lambda: sum_clients(engine, weights, data, clients, each, training, threads=threads)


def shares(clients: int, size: int, data: Examples) -> Cohort:
    """Clients of this size: the data's first examples, the next ones, and so on, over and over."""
    return Cohort(counts=np.full(clients, size), orders=np.arange(clients * size) % len(data.labels))


def reference_trainer(contract: Contract, data: Examples) -> Run:
    """Trains a client with these examples in the loop that fedsim falls back on."""
    from fedsim.training import reference

    weights = initial_weights(contract, generator(0, "weights"))
    return lambda: reference.train_client(contract, weights.copy(), data, SGD, key(0, "shuffle"))


def torch_trainer(
    module: "torch.nn.Module", inputs: "torch.Tensor", labels: "torch.Tensor", fused: bool = False
) -> Run:
    """Trains a client in torch as anyone would write it: from the module's weights, eagerly, batch by batch."""
    import torch

    start = {name: value.clone() for name, value in module.state_dict().items()}

    def train() -> None:
        module.load_state_dict(start)
        optimizer = torch.optim.SGD(module.parameters(), SGD.learning_rate, fused=fused)
        for first in range(0, len(labels), SGD.batch_size):
            batch = slice(first, first + SGD.batch_size)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(inputs[batch]), labels[batch]).backward()
            optimizer.step()

    return train


def plain_module(
    weights: Weights, channels: Pair = (32, 32), kernels: Pair = (3, 2), dense: Pair = (1152, 500)
) -> "torch.nn.Module":
    """The seed's network, or one of other sizes, as anyone would write it, with weights in the contract's order."""
    import torch
    from torch import nn

    module = nn.Sequential(
        *(nn.Conv2d(1, channels[0], kernels[0]), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels[0], channels[1], kernels[1]), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(*dense), nn.ReLU(), nn.Linear(dense[1], 10)),
    )
    nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), module.parameters())
    return module


def _variant() -> tuple[str | None, str]:
    """The native engine's variant, or none and why."""
    try:
        return library.available(), ""
    except RuntimeError as reason:
        return None, str(reason)


def _native_works(contract: Contract, mnist: Dataset, workers: Sequence[int]) -> Iterator[Work]:
    """Training clients of both sizes, then evaluation, on each of these numbers of workers."""
    engine, weights = Engine(contract), initial_weights(contract, generator(0, "weights"))
    for size, count in product(CLIENT_SIZES, workers):
        samples = count * IMAGES_A_WORKER
        run = engine_trainer(contract, mnist.train, shares(samples // size, size, mnist.train), SGD, threads=count)
        yield Work(task="train", engine="native", workers=count, images=size, samples=samples, run=run)
    samples = len(mnist.test.labels)
    for count in workers:
        run = partial(evaluate, engine, weights, mnist.test, threads=count)
        yield Work(task="evaluate", engine="native", workers=count, images=None, samples=samples, run=run)


def _torch_works(contract: Contract, mnist: Dataset, thread: Executor) -> Iterator[Work]:
    """The same in torch, on one thread: a module of one's own, and the loop that fedsim falls back on."""
    import torch

    from fedsim.training import reference

    weights = initial_weights(contract, generator(0, "weights"))
    for size in CLIENT_SIZES:
        own = select(mnist.train, slice(0, size))
        inputs, labels = torch.from_numpy(batch_inputs(own.inputs)), torch.from_numpy(own.labels)
        module, loop = torch_trainer(plain_module(weights), inputs, labels), reference_trainer(contract, own)
        for engine, run in (("torch module", _on(thread, module)), ("torch fallback", _on(thread, loop))):
            yield Work(task="train", engine=engine, workers=1, images=size, samples=size, run=run)
    test = select(mnist.test, slice(0, TORCH_EVALUATES))
    run = _on(thread, partial(reference.evaluate, contract, weights, test))
    yield Work(task="evaluate", engine="torch fallback", workers=1, images=None, samples=TORCH_EVALUATES, run=run)


def _on(thread: Executor, run: Run) -> Run:
    return lambda: thread.submit(run).result()
