"""Streamed aggregation against the stack: what a linear strategy makes of a cohort's mean it makes of its replies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import RunConfig, run
from fedsim.config import from_mapping
from fedsim.data.dataset import Dataset, Examples
from fedsim.messages import model_record, read_weights, training_record
from fedsim.run import RunRecord
from fedsim.seeds import flower_sampling, generator
from fedsim.simulation.grid import FederationGrid
from fedsim.simulation.streamed import cohort_phone
from fedsim.strategies import ResumableStrategy, build_strategy, draw_cohort
from fedsim.strategy_settings import LINEAR
from fedsim.updates import LocalTraining, Mean, Orders, Weights
from tests.simulation import Kind, arithmetic_phones
from tests.small import small_config, small_dataset

CLIENTS, COHORT, ROUNDS = 12, 8, 4
TRAINING = LocalTraining(epochs=2, batch_size=10, optimizer="sgd", learning_rate=0.25)
SETTINGS: dict[str, dict[str, Any]] = {
    "FedAvgM": {"server_learning_rate": 0.9, "server_momentum": 0.8},
    "FedProx": {"proximal_mu": 0.3},
    "FedAdam": {"eta": 0.2, "tau": 0.1},
    "FedYogi": {"eta": 0.2, "tau": 0.1},
    "FedAdagrad": {"eta": 0.2, "tau": 0.1},
}


def config_of(name: str, aggregation: str) -> RunConfig:
    return from_mapping(
        {
            "federation": {"clients": CLIENTS, "cohort": COHORT},
            "strategy": {"name": name, **SETTINGS.get(name, {})},
            "speed": {"aggregation": aggregation},
        }
    )


def fails(kind: Kind, number: int, client: int) -> bool:
    """In round 2 some phones, in round 3 all of them."""
    return (number == 2 and client % 6 == 1) or number == 3


def play(name: str, aggregation: str) -> list[Weights]:
    """The models after every round, by Flower's own loop and the stock strategy."""
    phones = arithmetic_phones(CLIENTS, fails)

    def mean(orders: Orders) -> Mean:
        """The slow and obviously right mean: of the stack, in float64."""
        found = phones.train(orders)
        weights = (
            np.average(found.weights.astype(np.float64), axis=0, weights=found.examples)
            if len(found.clients)
            else np.empty(0)
        )
        return Mean(
            clients=found.clients,
            weights=weights.astype(np.float32),
            examples=found.examples,
            metrics=found.metrics,
            failures=found.failures,
        )

    one = cohort_phone(CLIENTS, COHORT, 3, mean)
    grid = FederationGrid(one if aggregation == "streamed" else phones)
    strategy = build_strategy(config_of(name, aggregation), TRAINING.learning_rate)
    models: list[Weights] = []
    ResumableStrategy(strategy, seed=3, on_replies=lambda *seen: None).start(
        grid,
        model_record(generator(0, "initial").standard_normal(50, np.float32)),
        num_rounds=ROUNDS,
        train_config=training_record(TRAINING),
        evaluate_fn=lambda number, record: models.append(read_weights(record)),
    )
    return models


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_strategy_makes_of_the_mean_what_it_makes_of_the_stack(name: str) -> None:
    for streamed, stacked in zip(play(name, "streamed"), play(name, "stacked"), strict=True):
        np.testing.assert_allclose(streamed, stacked, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("clients", "cohort"), [(12, 8), (1, 1), (10_000, 100)])
def test_the_cohort_is_the_one_a_stock_strategy_samples(clients: int, cohort: int) -> None:
    config = from_mapping({"federation": {"clients": clients, "cohort": cohort}, "speed": {"aggregation": "stacked"}})
    grid, strategy = FederationGrid(arithmetic_phones(clients)), build_strategy(config, 0.1)
    with flower_sampling(5, "cohort train", 7):
        messages = strategy.configure_train(7, model_record(np.zeros(1, np.float32)), training_record(TRAINING), grid)
    sampled = [grid.client_of(message.metadata.dst_node_id) for message in messages]
    assert draw_cohort(5, 7, clients, cohort).tolist() == sampled


def whole_run(folder: Path, dataset: Dataset, engine: str, aggregation: str, **tables: Any) -> RunRecord:
    speed = {"engine": engine, "aggregation": aggregation, "workers": 2}
    data = {"partition": "dirichlet", "alpha": 0.5}
    return run(small_config(folder / aggregation, speed=speed, data=data, **tables), dataset=dataset)


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("strategy", [{"name": "FedAvg"}, {"name": "FedAdam", "eta": 0.01}], ids=lambda s: s["name"])
def test_a_whole_run_comes_out_alike(tmp_path: Path, engine: str, strategy: dict[str, Any]) -> None:
    streamed, stacked = (
        whole_run(tmp_path, small_dataset(), engine, aggregation, strategy=strategy)
        for aggregation in ("streamed", "stacked")
    )
    for row, other in zip(streamed.rounds, stacked.rounds, strict=True):
        for name in ("clients", "examples", "failures", "bytes_down", "bytes_up"):
            assert row[name] == other[name], name
        np.testing.assert_allclose(row["test_loss"], other["test_loss"], rtol=0.01)
    first = (streamed.rounds[1], stacked.rounds[1])
    assert first[0]["epoch_losses"] == first[1]["epoch_losses"]
    np.testing.assert_allclose(first[0]["test_loss"], first[1]["test_loss"], rtol=1e-4)


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_failing_phone_can_be_gone_without(tmp_path: Path, engine: str) -> None:
    good = small_dataset()
    labels = good.train.labels.copy()
    labels[7] = 12  # the model has no such output
    spoilt = Dataset(
        name="spoilt", train=Examples(inputs=good.train.inputs, labels=labels), test=good.test, classes=good.classes
    )
    federation = {"cohort": 12, "on_client_failure": "continue", "rounds": 1}
    streamed, stacked = (
        whole_run(tmp_path, spoilt, engine, aggregation, federation=federation)
        for aggregation in ("streamed", "stacked")
    )
    assert [row["failures"] for row in streamed.rounds] == [row["failures"] for row in stacked.rounds] == [0, 1]
    assert streamed.rounds[1]["examples"] == stacked.rounds[1]["examples"]
    np.testing.assert_allclose(streamed.weights, stacked.weights, atol=1e-6)
