"""The job in Flower's own simulation: Ray, with an actor a core."""

import time

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from experiments.benchmarks.peers.job import given_job, report
from experiments.benchmarks.peers.lenet import first_model, own_model, shard, train_epoch, weights

ACTORS = 2

job = given_job()
client_app, server_app = ClientApp(), ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    model = own_model()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    images, labels = shard(job, int(context.node_config["partition-id"]))
    train_epoch(model, images, labels, job)
    metrics = MetricRecord({"num-examples": len(labels)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    marks = list[float]()

    def mark(number: int, arrays: ArrayRecord) -> None:
        marks.append(time.monotonic())

    strategy = FedAvg(
        fraction_train=job.cohort / job.clients,
        fraction_evaluate=0.0,
        min_train_nodes=job.cohort,
        min_available_nodes=job.clients,
    )
    model = first_model(job)
    result = strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=job.rounds, evaluate_fn=mark)
    model.load_state_dict(result.arrays.to_torch_state_dict())
    report(job, marks, weights(model), ["flwr", "ray", "torch", "numpy"])


if __name__ == "__main__":
    run_simulation(
        server_app,
        client_app,
        num_supernodes=job.clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"address": "local", "num_cpus": ACTORS},  # "local": never a cluster that runs here already
        },
    )
