"""The seed app's network, its images and one local epoch in torch, the same for every contestant that trains in torch.

Tuned as far as plain eager torch goes: channels last, fused SGD, images in memory, batches by slicing.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.benchmarks.peers.job import INITIAL, Job


class LeNet(nn.Sequential):
    """The network of ``fedsim.models.lenet`` before its softmax: 585,958 weights."""

    def __init__(self, layout: torch.memory_format = torch.channels_last) -> None:
        super().__init__(
            *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 32, 2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(1152, 500), nn.ReLU(), nn.Linear(500, 10)),
        )
        self.to(memory_format=layout)  # pyright: ignore[reportCallIssue]


def first_model(job: Job) -> LeNet:
    """The network that everybody starts from."""
    model = LeNet()
    set_weights(model, _data(job.data)[2])
    return model


@cache
def own_model() -> LeNet:
    """The one network of this process, for whoever sets its weights anyway."""
    return LeNet()


def sgd(model: nn.Module, job: Job) -> torch.optim.SGD:
    """A client's optimiser."""
    return torch.optim.SGD(model.parameters(), job.learning_rate, fused=True)


def shard(job: Job, client: int) -> tuple[Tensor, Tensor]:
    """A client's images, float32 from 0 to 1 in the layout of `LeNet`, and labels."""
    images, labels, _ = _data(job.data)
    rows = slice(client * job.images, (client + 1) * job.images)
    return network_input(images[rows]), torch.from_numpy(labels[rows])


def network_input(images: NDArray[np.uint8]) -> Tensor:
    """Grey levels 0 to 255 as the network reads them."""
    return torch.from_numpy(images).float().div_(255).contiguous(memory_format=torch.channels_last)


def shuffled(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same examples in a random order."""
    order = torch.randperm(len(labels))
    return images[order], labels[order]


def train_epoch(model: LeNet, images: Tensor, labels: Tensor, job: Job) -> None:
    """One local epoch, in place, in a random order."""
    optimizer = sgd(model, job)
    images, labels = shuffled(images, labels)
    for start in range(0, len(labels), job.batch_size):
        batch = slice(start, start + job.batch_size)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()


def weights(model: nn.Module) -> list[NDArray[np.float32]]:
    """The parameters as arrays of their own."""
    return [parameter.detach().numpy().copy() for parameter in model.parameters()]


@torch.no_grad()
def set_weights(model: nn.Module, given: Sequence[NDArray[np.float32]]) -> None:
    """The reverse of `weights`; the parameters keep their layout."""
    for parameter, array in zip(model.parameters(), given, strict=True):
        parameter.copy_(torch.from_numpy(array))


@torch.no_grad()
def accuracy(trained: Sequence[NDArray[np.float32]], images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """The share of images that a network with these weights tells right."""
    model = LeNet()
    set_weights(model, trained)
    predicted = [model(network_input(images[start : start + 1000])).argmax(1) for start in range(0, len(images), 1000)]
    return float((torch.cat(predicted).numpy() == labels).mean())


@cache
def _data(path: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[NDArray[np.float32]]]:
    """Everybody's images and labels and the first weights, read once a process."""
    with np.load(path) as arrays:
        return arrays["images"], arrays["labels"], [arrays[name] for name in INITIAL]
