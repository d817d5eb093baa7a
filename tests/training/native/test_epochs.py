"""Whole epochs of the real LeNet: no further from eager torch than eager torch is from itself in another layout.

Rounding differs from implementation to implementation, and now and then it decides which of two almost equal inputs
wins a pooling; so single runs may differ more, and the bar is a median over seeds.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedsim.coreml.contract import Contract, read_contract
from fedsim.data.dataset import Examples, batch_inputs, select
from fedsim.data.sources import load
from fedsim.models.initial import initial_weights
from fedsim.models.lenet import lenet_contract
from fedsim.seeds import generator
from fedsim.training.native.engine import Cohort, Engine, train_clients
from fedsim.updates import LocalTraining, Weights

SEEDS, EXAMPLES = range(5), 150
SGD = LocalTraining(epochs=1, batch_size=20, optimizer="sgd", learning_rate=0.05)
TRAININGS = {
    "batches of 20": SGD,
    "batches of 1": replace(SGD, batch_size=1, learning_rate=0.005),
    "batches of 128": replace(SGD, batch_size=128),
    "momentum": replace(SGD, momentum=0.9, learning_rate=0.02),
    "adam": replace(SGD, optimizer="adam", learning_rate=1e-3),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small batches are trained faster by one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", TRAININGS)
def test_no_further_than_another_layout(name: str) -> None:
    training = TRAININGS[name]
    contract = read_contract(lenet_contract(training))
    engine = Engine(contract)
    count = min(EXAMPLES, 40 * training.batch_size)
    ours, theirs = [], []
    for seed in SEEDS:
        data = select(load("mnist").train, generator(seed, "rows").integers(0, 60_000, count))
        start = initial_weights(contract, generator(seed, "weights"))
        order = generator(seed, "shuffle").permutation(count)
        eager = trained_eagerly(contract, start, data, order, training, torch.contiguous_format)
        other = trained_eagerly(contract, start, data, order, training, torch.channels_last)
        stack, _ = train_clients(engine, start, data, Cohort(counts=np.array([count]), orders=order), training)
        ours.append(np.linalg.norm(stack[0] - eager) / np.linalg.norm(eager - start))
        theirs.append(np.linalg.norm(other - eager) / np.linalg.norm(eager - start))
    assert np.median(ours) <= 2 * np.median(theirs) + 2e-6
    assert np.median(ours) < 1e-3


def trained_eagerly(
    contract: Contract,
    start: Weights,
    data: Examples,
    order: NDArray[np.int64],
    training: LocalTraining,
    layout: torch.memory_format,
) -> Weights:
    """The same training by a module written in plain torch, without the interpreter's help."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(32, 32, 2), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(1152, 500), torch.nn.ReLU(), torch.nn.Linear(500, 10),
    )  # fmt: skip
    with torch.no_grad():
        for tensor, slot in zip(model.parameters(), np.split(start, ends(contract)), strict=True):
            tensor.copy_(torch.from_numpy(slot).view(tensor.shape))
    model = model.to(memory_format=layout)
    rate = training.learning_rate
    if training.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), rate)
    else:
        optimizer = torch.optim.SGD(model.parameters(), rate, training.momentum)
    for batch in np.split(order, range(training.batch_size, len(order), training.batch_size)):
        optimizer.zero_grad()
        inputs = torch.from_numpy(batch_inputs(data.inputs[batch])).contiguous(memory_format=layout)
        torch.nn.functional.cross_entropy(model(inputs), torch.from_numpy(data.labels[batch])).backward()
        optimizer.step()
    return np.concatenate([tensor.detach().contiguous().numpy().ravel() for tensor in model.parameters()])


def ends(contract: Contract) -> NDArray[np.int64]:
    """Where in the flat vector each slot but the first begins."""
    return np.cumsum([slot.count for slot in contract.slots])[:-1]
