"""Our grid against Flower's in-memory grid: every stock strategy gives the same bits on either, and on both as one."""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, cast
from uuid import uuid4

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import HEARTBEAT_INTERVAL_INF, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

from fedsim import robust_strategies
from fedsim.messages import WEIGHTS, model_record, training_record
from fedsim.seeds import flower_sampling, generator
from fedsim.simulation.grid import FederationGrid
from fedsim.strategy_settings import STRATEGY_NAMES
from fedsim.updates import LocalTraining
from tests.simulation import Kind, answer, arithmetic_phones

CLIENTS, COHORT, PARAMETERS, ROUNDS = 12, 9, 50, 5
INITIAL = generator(0, "initial").standard_normal(PARAMETERS, np.float32)
TRAINING = LocalTraining(epochs=1, batch_size=10, optimizer="sgd", learning_rate=0.5)

SETTINGS: dict[str, dict[str, Any]] = {
    "FedAvgM": {"server_learning_rate": 0.9, "server_momentum": 0.8},
    "FedProx": {"proximal_mu": 0.3},
    "FedAdam": {"eta": 0.2},
    "FedYogi": {"eta": 0.2},
    "FedAdagrad": {"eta": 0.2},
    "QFedAvg": {"q": 0.3, "client_learning_rate": 0.5},
    "FedTrimmedAvg": {"beta": 0.2},
    "NormClip": {"clip": 2.0},
    "GeometricMedian": {"smoothing": 1e-4, "iterations": 5},
    "CentredClipping": {"radius": 2.0, "iterations": 2},
    "Krum": {"num_malicious_nodes": 2},
    "MultiKrum": {"num_malicious_nodes": 2, "num_nodes_to_select": 4},
    "Bulyan": {"num_malicious_nodes": 1},
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run says: the model before and after every round, in bytes, and Flower's metrics by round."""

    models: list[bytes]
    train_metrics: dict[int, MetricRecord]
    evaluate_metrics: dict[int, MetricRecord]


def fails(kind: Kind, number: int, client: int) -> bool:
    """In round 2 every sixth phone, in round 3 all of them when training, in round 4 all when evaluating."""
    return (number == 2 and client % 6 == 1) or (kind, number) in (("train", 3), ("evaluate", 4))


def play(name: str, grid: Grid, model: ArrayRecord) -> Outcome:
    """All rounds of the unmodified strategy ``name``: three phones of four train, all of them evaluate."""
    strategy = getattr(flower if hasattr(flower, name) else robust_strategies, name)(
        fraction_train=COHORT / CLIENTS, min_available_nodes=CLIENTS, **SETTINGS.get(name, {})
    )
    models: list[bytes] = []

    def keep(number: int, arrays: ArrayRecord) -> None:
        models.append(arrays[WEIGHTS].data)

    with flower_sampling(0, "agreement"):
        result = strategy.start(
            grid, model, num_rounds=ROUNDS, timeout=30, train_config=training_record(TRAINING), evaluate_fn=keep
        )
    return Outcome(
        models=models,
        train_metrics=result.train_metrics_clientapp,
        evaluate_metrics=result.evaluate_metrics_clientapp,
    )


@pytest.fixture(scope="module", autouse=True)
def short_collections() -> Iterator[None]:
    """QFedAvg and Bulyan have Flower collect garbage once a reply: without the whole test run's heap, that is quick."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_every_stock_strategy_gives_the_same_bits_on_both_grids(name: str) -> None:
    shared = INITIAL.copy()
    ours = play(name, FederationGrid(arithmetic_phones(CLIENTS, fails)), model_record(shared))
    np.testing.assert_array_equal(shared, INITIAL)
    with flower_grid(range(CLIENTS)) as grid:
        flowers = play(name, grid, ArrayRecord({WEIGHTS: Array(INITIAL)}))
    assert ours == flowers
    assert [number for number in range(1, ROUNDS + 1) if ours.models[number] == ours.models[number - 1]] == [3]
    assert (list(ours.train_metrics), list(ours.evaluate_metrics)) == ([1, 2, 4, 5], [1, 2, 3, 5])


@pytest.mark.parametrize("name", ["FedAvg", "FedAdam"])
def test_a_federation_of_real_and_simulated_phones_gives_the_bits_of_a_simulated_one(name: str) -> None:
    phones = arithmetic_phones(CLIENTS, fails)
    simulated = play(name, FederationGrid(phones), model_record(INITIAL.copy()))
    with flower_grid(range(0, CLIENTS, 3)) as inner:
        federation = FederationGrid(phones, inner=inner, remote=inner.clients)
        assert play(name, federation, model_record(INITIAL.copy())) == simulated


class OrderedInMemoryGrid(InMemoryGrid):
    """Flower's grid, but nodes come out in client order and replies in the order of their instructions.

    Flower hands out both in the order of a set of random ids, and aggregation adds in the order of the replies: only
    in one order can two grids agree to the last bit.
    """

    def __init__(self, factory: LinkStateFactory, clients: dict[int, int]) -> None:
        super().__init__(factory, pull_interval=0.001)
        self.clients = clients

    def get_node_ids(self) -> Iterable[int]:
        return sorted(super().get_node_ids(), key=lambda node: self.clients[node])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        batch = list(messages)
        replies = super().send_and_receive(batch, timeout=timeout)
        place = {message.metadata.message_id: number for number, message in enumerate(batch)}
        return sorted(replies, key=lambda reply: place[reply.metadata.reply_to_message_id])


@contextmanager
def flower_grid(clients: Iterable[int]) -> Iterator[OrderedInMemoryGrid]:
    """Flower's grid over an in-memory SuperLink with a node a client, and a thread that is all of these nodes.

    Set up as Flower's own simulation does (``flwr.server.superlink.fleet.vce``), without Ray.
    """
    factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
    state = factory.state()
    run_id = state.create_run(None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP)
    (run,) = state.get_run_info(run_ids=[run_id])
    grid = OrderedInMemoryGrid(factory, {register_node(state): client for client in clients})
    grid.set_run(run)
    stop = Event()
    thread = Thread(target=serve, args=(state, grid.clients, stop))
    with task_identity(run_id, grid.node.node_id, cast(int, run.primary_task_id)):
        thread.start()
        try:
            yield grid
        finally:
            stop.set()
            thread.join()


def register_node(state: LinkState) -> int:
    key = uuid4().bytes
    node = state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, heartbeat_interval=HEARTBEAT_INTERVAL_INF)
    state.acknowledge_node_heartbeat(node, HEARTBEAT_INTERVAL_INF)
    return node


@contextmanager
def task_identity(run_id: int, node_id: int, task_id: int) -> Iterator[None]:
    """What Flower's runtime does for a ServerApp's process; the identity the process had before is put back."""
    before = TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, task_id
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def serve(state: LinkState, clients: dict[int, int], stop: Event) -> None:
    """Fetch, answer and return the messages of all nodes until told to stop."""
    while not stop.wait(0.001):
        for node, client in clients.items():
            for message in state.get_message_ins(node, limit=None):
                reply = client_app(message, client)
                reply.metadata.__dict__["_message_id"] = str(uuid4())
                assert state.store_message_res(reply)


def client_app(message: Message, client: int) -> Message:
    """The arithmetic phone as a Flower user would write it: Flower's own arrays, nothing of `fedsim.messages`."""
    kind = cast(Kind, message.metadata.message_type)
    config = cast(ConfigRecord, message.content["config"])
    number, mu = cast(int, config["server-round"]), cast(float, config.get("proximal-mu", 0.0))
    if fails(kind, number, client):
        return Message(Error(2, "its battery is flat"), reply_to=message)
    weights = cast(ArrayRecord, message.content["arrays"])["weights"].numpy().astype(np.float32)
    one = answer(kind, number, client, weights, mu)
    content = RecordDict({"metrics": MetricRecord({"num-examples": one.examples, **one.metrics})})
    if kind == "train":
        content["arrays"] = ArrayRecord({"weights": Array(one.weights)})
    return Message(content, reply_to=message)
