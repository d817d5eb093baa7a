"""One of the processes of the job in pfl; the cohort is dealt between them, and the first of them reports."""

# pfl is not in the environment that checks this.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false, reportUnknownParameterType=false
# pyright: reportUnknownLambdaType=false

import os
import time

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from experiments.benchmarks.peers.job import given_job, report
from experiments.benchmarks.peers.lenet import LeNet, first_model, set_weights, sgd, shard, shuffled, weights


class Network(LeNet):
    """The network with the two methods that pfl asks for."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self(images), labels)

    @torch.no_grad()
    def metrics(self, images: Tensor, labels: Tensor) -> dict[str, Weighted]:
        return {"loss": Weighted(self.loss(images, labels).item() * len(labels), len(labels))}


class Clock(TrainingProcessCallback):
    """Marks the time before the first round and after each."""

    def __init__(self) -> None:
        self.marks = list[float]()

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self.marks.append(time.monotonic())
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.marks.append(time.monotonic())
        return False, Metrics()


def main() -> None:
    job, clock = given_job(), Clock()
    np.random.seed(job.seed)  # noqa: NPY002, for pfl draws its users from it, alike in both processes
    torch.manual_seed(job.seed)
    network = Network()
    set_weights(network, weights(first_model(job)))
    model = PyTorchModel(
        network,
        local_optimizer_create=lambda parameters, lr: sgd(network, job),
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    users = FederatedDataset(
        lambda client: Dataset(shuffled(*shard(job, client))), get_user_sampler("minimize_reuse", range(job.clients))
    )
    FederatedAveraging().run(
        backend=SimulatedBackend(training_data=users, val_data=users),
        model=model,
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=job.rounds,
            evaluation_frequency=job.rounds,
            train_cohort_size=job.cohort,
            val_cohort_size=0,
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=job.learning_rate, local_batch_size=job.batch_size
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=job.images),
        callbacks=[clock],
    )
    if os.environ["PFL_WORKER_RANK"] == "0":
        report(job, clock.marks, weights(network), ["pfl", "torch", "numpy"])


if __name__ == "__main__":
    main()
