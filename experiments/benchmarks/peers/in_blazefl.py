"""The job in BlazeFL: two threads where Python has no global lock, as its authors advise, else two processes."""

# BlazeFL is not in the environment that checks this.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false, reportUnknownParameterType=false

import multiprocessing
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from blazefl.contrib import (
    FedAvgBaseServerHandler,
    FedAvgPartitionType,
    FedAvgProcessPoolClientTrainer,
    FedAvgThreadPoolClientTrainer,
)
from blazefl.core import ModelSelector, PartitionedDataset
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from experiments.benchmarks.peers.job import Job, given_job, report
from experiments.benchmarks.peers.lenet import LeNet, first_model, set_weights, shard, weights

PARALLEL = 2


class Name(StrEnum):
    LENET = "lenet"


class Models(ModelSelector[Name]):
    """The one network; BlazeFL flattens weights in a way that does not allow channels last."""

    def select_model(self, model_name: Name) -> nn.Module:
        return LeNet(torch.contiguous_format)


class Shards(PartitionedDataset[FedAvgPartitionType]):
    """Every client's images; light to send to a process, which reads them itself."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def get_dataset(self, type_: FedAvgPartitionType, cid: int | None) -> TensorDataset:
        assert cid is not None
        return TensorDataset(*shard(self.job, cid))

    def set_dataset(self, type_: FedAvgPartitionType, cid: int | None, dataset: object) -> None:
        """Nothing changes them."""

    def get_dataloader(
        self, type_: FedAvgPartitionType, cid: int | None, batch_size: int | None, generator: torch.Generator | None
    ) -> DataLoader[Any]:
        """Whole batches by one index each, much faster than an image at a time."""
        dataset = self.get_dataset(type_, cid)
        order = RandomSampler(dataset, generator=generator)
        return DataLoader(dataset, batch_size=None, sampler=BatchSampler(order, batch_size or len(dataset), False))


def main() -> None:
    job = given_job()
    torch.manual_seed(job.seed)
    shared = {"model_selector": Models(), "model_name": Name.LENET, "dataset": Shards(job), "device": "cpu"}
    shared |= {"num_clients": job.clients, "batch_size": job.batch_size, "seed": job.seed}
    handler = FedAvgBaseServerHandler(global_round=job.rounds, sample_ratio=job.cohort / job.clients, **shared)
    set_weights(handler.model, weights(first_model(job)))
    training = {"epochs": 1, "lr": job.learning_rate, "num_parallels": PARALLEL}
    if free_threaded():
        trainer = FedAvgThreadPoolClientTrainer(**shared, **training)
    else:
        multiprocessing.set_start_method("fork")  # a pool a round: any other method would import torch every time
        trainer = FedAvgProcessPoolClientTrainer(state_dir=Path(job.folder) / "state", **shared, **training)
    marks = [time.monotonic()]
    while not handler.is_stopped():
        clients = handler.sample_clients()
        trainer.local_process(handler.downlink_package(), clients)
        for package in trainer.uplink_package():
            handler.load(package)
        marks.append(time.monotonic())
    report(job, marks, weights(handler.model), ["blazefl", "torch", "numpy"])


def free_threaded() -> bool:
    """Whether threads run Python at the same time."""
    locked = getattr(sys, "_is_gil_enabled", None)
    return locked is not None and not locked()


if __name__ == "__main__":
    main()
