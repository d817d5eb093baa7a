"""Flower's `Grid` as `FederationGrid` keeps it, alone and round a grid of real nodes that are late, silent or gone."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedsim.messages import model_record, read_weights, training_record
from fedsim.seeds import generator
from fedsim.simulation.grid import FIRST_SIMULATED_NODE, NODE_UNAVAILABLE, FederationGrid, Phones, ask_clients
from fedsim.updates import LocalTraining, Orders, Updates
from tests.simulation import Kind, answer, arithmetic_phones

WEIGHTS = generator(0, "initial").standard_normal(5, np.float32)
TRAINING = LocalTraining(epochs=1, batch_size=10, optimizer="sgd", learning_rate=0.5)
REAL = {77: 1, 2**63 + 5: 3}
"""Node ids of the real phones, and which clients they are."""


@pytest.fixture(scope="module", autouse=True)
def identified_process() -> None:
    """Outside Flower's runtime a process may make messages once it has a `FederationGrid`."""
    FederationGrid(arithmetic_phones(1))


def content(number: int) -> RecordDict:
    config = training_record(TRAINING)
    config["server-round"] = number
    return RecordDict({"arrays": model_record(WEIGHTS), "config": config})


def instructions(grid: FederationGrid, clients: Iterable[int], kind: Kind = "train", number: int = 1) -> list[Message]:
    """A phase as a strategy makes it: one content for all."""
    shared, nodes = content(number), list(grid.get_node_ids())
    return [Message(shared, nodes[client], kind) for client in clients]


def weights_in(reply: Message) -> list[float]:
    return read_weights(reply.content.array_records["arrays"]).tolist()


def simulated(client: int, number: int = 1) -> list[float]:
    """What simulated phone ``client`` makes of `WEIGHTS`."""
    return answer("train", number, client, WEIGHTS, 0.0).weights.tolist()


def nobody(orders: Orders) -> Updates:
    raise AssertionError("no simulated phone was asked")


class RealNodes(Grid):
    """Each node answers by ``app`` some seconds after it was asked, never for None; the newest reply comes first.

    A node that ``gone`` names is refused, as a SuperLink refuses one that is no longer registered.
    """

    def __init__(
        self, seconds: dict[int, float | None], app: Callable[[Message], Message], gone: Iterable[int] = ()
    ) -> None:
        self.seconds, self.app, self.gone = seconds, app, set(gone)
        self.sent: list[Message] = []
        self._due: dict[str, tuple[float, Message]] = {}
        self._run = Run.create_empty(1)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self.seconds)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        node, identity = message.metadata.dst_node_id, f"real {len(self.sent)}"
        self.sent.append(message)
        if node in self.gone:
            return ""
        message.metadata.__dict__["_message_id"] = identity
        if (seconds := self.seconds[node]) is not None:
            self._due[identity] = (time.monotonic() + seconds, self.app(message))
        return identity

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        now = time.monotonic()
        ready = [key for key in message_ids if key in self._due and self._due[key][0] <= now]
        return [self._due.pop(key)[1] for key in reversed(ready)]

    def hurry(self) -> None:
        """Have everybody who was asked answer now."""
        self._due = {key: (0.0, reply) for key, (_, reply) in self._due.items()}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        ids = self.push_messages(messages)
        time.sleep(timeout or 0)
        return self.pull_messages(ids)


def real_phone(message: Message) -> Message:
    """Trains every weight to minus its client number."""
    trained = np.full(len(WEIGHTS), -REAL[message.metadata.dst_node_id], np.float32)
    metrics = MetricRecord({"num-examples": 1, "train_loss": 0.0})
    return Message(
        RecordDict({"arrays": ArrayRecord({"weights": Array(trained)}), "metrics": metrics}), reply_to=message
    )


def federation(
    seconds: dict[int, float | None], clients: int = 5, gone: Iterable[int] = ()
) -> tuple[FederationGrid, RealNodes]:
    inner = RealNodes(seconds, real_phone, gone)
    return FederationGrid(arithmetic_phones(clients), inner=inner, remote=REAL), inner


# Nodes


def test_node_ids_are_the_clients_in_order_at_every_call() -> None:
    grid = FederationGrid(arithmetic_phones(4))
    first = list(grid.get_node_ids())
    assert first == [2**32, 2**32 + 1, 2**32 + 2, 2**32 + 3]
    list(grid.get_node_ids()).reverse()
    assert list(grid.get_node_ids()) == first == [info.node_id for info in grid.get_nodes()]
    assert [grid.client_of(node) for node in first] == [0, 1, 2, 3]


def test_real_nodes_stand_where_their_clients_do() -> None:
    grid, _ = federation({})
    nodes = list(grid.get_node_ids())
    assert nodes == [2**32, 77, 2**32 + 2, 2**63 + 5, 2**32 + 4]
    assert [grid.client_of(node) for node in nodes] == [0, 1, 2, 3, 4]


def test_the_node_list_given_out_is_the_callers_own() -> None:
    grid = FederationGrid(arithmetic_phones(3))
    given = grid.get_node_ids()
    assert isinstance(given, list)
    given.clear()
    assert len(list(grid.get_node_ids())) == 3


# The pure simulation


def test_replies_come_in_the_order_of_their_instructions() -> None:
    grid = FederationGrid(arithmetic_phones(8))
    clients = [5, 0, 7, 2, 1]
    messages = instructions(grid, clients)
    replies = list(grid.send_and_receive(iter(messages)))
    assert [weights_in(reply) for reply in replies] == [simulated(client) for client in clients]
    assert [reply.metadata.src_node_id for reply in replies] == [message.metadata.dst_node_id for message in messages]
    assert [reply.content.metric_records["metrics"]["num-examples"] for reply in replies] == [15, 10, 17, 12, 11]


def test_one_batch_may_mix_phases_and_contents() -> None:
    grid = FederationGrid(arithmetic_phones(6))
    early, late = instructions(grid, [4, 1], number=1), instructions(grid, [3, 0], number=2)
    asked = instructions(grid, [4, 2], "evaluate", number=2)
    batch = [late[0], asked[0], early[0], late[1], early[1], asked[1]]
    replies = list(grid.send_and_receive(batch))
    trained = [weights_in(replies[place]) for place in (0, 2, 3, 4)]
    assert trained == [simulated(3, 2), simulated(4, 1), simulated(0, 2), simulated(1, 1)]
    for place, client in ((1, 4), (5, 2)):
        expected = answer("evaluate", 2, client, WEIGHTS, 0.0)
        assert replies[place].content["metrics"] == {"num-examples": expected.examples, **expected.metrics}
        assert not replies[place].content.array_records


def test_a_phase_of_one_content_is_one_order() -> None:
    seen: list[tuple[int, list[int]]] = []
    phones = arithmetic_phones(5)

    def train(orders: Orders) -> Updates:
        seen.append((orders.round, orders.clients.tolist()))
        return phones.train(orders)

    grid = FederationGrid(Phones(clients=5, train=train, evaluate=nobody))
    grid.send_and_receive(instructions(grid, [3, 1, 4], number=9))
    assert seen == [(9, [3, 1, 4])]


def test_no_messages_are_no_replies_and_no_work() -> None:
    grid = FederationGrid(Phones(clients=3, train=nobody, evaluate=nobody))
    assert list(grid.send_and_receive([], timeout=5)) == []
    assert list(grid.push_messages(iter([]))) == list(grid.pull_messages([])) == []


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_failed_phone_is_an_error_that_names_client_and_round(kind: Kind) -> None:
    grid = FederationGrid(arithmetic_phones(4, lambda kind, number, client: client == 2))
    first, second, third = grid.send_and_receive(instructions(grid, [1, 2, 3], kind, number=6))
    assert (second.error.code, second.error.reason) == (2, f"client 2, round 6, {kind}: its battery is flat")
    assert second.metadata.src_node_id == 2**32 + 2
    assert first.has_content()
    assert third.has_content()


def test_a_round_in_which_everybody_fails_is_all_errors() -> None:
    grid = FederationGrid(arithmetic_phones(3, lambda *asked: True))
    assert [reply.has_error() for reply in grid.send_and_receive(instructions(grid, [0, 1, 2]))] == [True] * 3


def test_the_shared_content_is_left_as_it_was() -> None:
    grid = FederationGrid(arithmetic_phones(4))
    messages = instructions(grid, [0, 3])
    before = messages[0].content.deflate()
    grid.send_and_receive(messages)
    assert messages[0].content is messages[1].content
    assert messages[0].content.deflate() == before


def test_a_fault_of_the_engine_is_no_phones_failure() -> None:
    grid = FederationGrid(Phones(clients=2, train=nobody, evaluate=nobody))
    with pytest.raises(AssertionError, match="no simulated phone was asked"):
        grid.send_and_receive(instructions(grid, [0]))


def test_simulated_phones_answer_no_query() -> None:
    grid = FederationGrid(arithmetic_phones(2))
    with pytest.raises(ValueError, match="message type 'query'"):
        grid.send_and_receive([Message(RecordDict(), 2**32, "query")])


def test_the_run_and_its_messages_are_the_runtimes() -> None:
    grid = FederationGrid(arithmetic_phones(1))
    run = Run.create_empty(42)
    grid.set_run(run)
    assert grid.run is run
    message = grid.create_message(RecordDict(), "train", 9, "group", ttl=5.0)
    found = message.metadata
    assert (found.message_type, found.dst_node_id, found.group_id, found.ttl) == ("train", 9, "group", 5.0)


# Pushing and pulling


def test_every_reply_is_pulled_once_by_its_own_id() -> None:
    grid = FederationGrid(arithmetic_phones(6))
    ids = list(grid.push_messages(iter(instructions(grid, [4, 0, 2]))))
    assert len(set(ids)) == 3
    (last,) = grid.pull_messages([ids[2]])
    assert weights_in(last) == simulated(2)
    rest = list(grid.pull_messages(ids))
    assert [weights_in(reply) for reply in rest] == [simulated(4), simulated(0)]
    assert list(grid.pull_messages(ids)) == list(grid.pull_messages(["never pushed"])) == []


def test_a_pulled_reply_names_the_instruction_it_answers() -> None:
    """As with Flower's own grids: whoever pulls several ids at once can tell the replies apart by nothing else."""
    grid = FederationGrid(arithmetic_phones(6))
    ids = list(grid.push_messages(instructions(grid, [4, 0, 2])))
    assert [reply.metadata.reply_to_message_id for reply in grid.pull_messages(ids)] == ids


def test_an_id_is_never_given_out_twice() -> None:
    grid = FederationGrid(arithmetic_phones(3))
    given: list[str] = []
    for _ in range(20):
        ids = list(grid.push_messages(instructions(grid, [0, 1, 2])))
        grid.pull_messages(ids[1:])
        given += ids
    assert len(set(given)) == 60


def test_failures_are_pulled_like_replies() -> None:
    grid = FederationGrid(arithmetic_phones(2, lambda kind, number, client: client == 1))
    ids = list(grid.push_messages(instructions(grid, [0, 1])))
    assert [reply.has_error() for reply in grid.pull_messages(ids)] == [False, True]


def test_real_and_simulated_phones_are_pushed_and_pulled_together() -> None:
    grid, inner = federation(dict.fromkeys(REAL, 0.0))
    ids = list(grid.push_messages(instructions(grid, [3, 0, 1])))
    assert len(set(ids)) == 3
    assert [message.metadata.dst_node_id for message in inner.sent] == [2**63 + 5, 77]
    found = {tuple(weights_in(reply)) for reply in grid.pull_messages(ids)}
    assert found == {tuple(simulated(0)), (-1.0,) * 5, (-3.0,) * 5}
    assert list(grid.pull_messages(ids)) == []


# Round a grid of real nodes


def test_real_phones_reply_in_the_places_of_their_instructions() -> None:
    grid, inner = federation(dict.fromkeys(REAL, 0.0))
    replies = list(grid.send_and_receive(instructions(grid, [3, 0, 1, 4]), timeout=10))
    assert [weights_in(reply) for reply in replies] == [[-3.0] * 5, simulated(0), [-1.0] * 5, simulated(4)]
    assert [message.metadata.dst_node_id for message in inner.sent] == [2**63 + 5, 77]


def test_real_phones_have_their_instructions_before_the_simulated_ones_train() -> None:
    inner = RealNodes(dict.fromkeys(REAL, 0.0), real_phone)
    phones, sent = arithmetic_phones(5), []

    def train(orders: Orders) -> Updates:
        sent.append((len(inner.sent), orders.clients.tolist()))
        return phones.train(orders)

    grid = FederationGrid(Phones(clients=5, train=train, evaluate=nobody), inner=inner, remote=REAL)
    grid.send_and_receive(instructions(grid, [0, 1, 2, 3]), timeout=10)
    assert sent == [(2, [0, 2])]


def test_a_late_phone_is_waited_for() -> None:
    grid, _ = federation({77: 0.25, 2**63 + 5: 0.0})
    replies = list(grid.send_and_receive(instructions(grid, [1, 2, 3]), timeout=10))
    assert [weights_in(reply) for reply in replies] == [[-1.0] * 5, simulated(2), [-3.0] * 5]


def test_without_a_timeout_a_late_phone_is_waited_for_too() -> None:
    grid, _ = federation({77: 0.15, 2**63 + 5: 0.0})
    (reply,) = grid.send_and_receive(instructions(grid, [1]))
    assert weights_in(reply) == [-1.0] * 5


def test_a_silent_phone_is_answered_for_at_the_deadline() -> None:
    grid, _ = federation({77: None, 2**63 + 5: 0.0})
    began = time.monotonic()
    silent, here, prompt = grid.send_and_receive(instructions(grid, [1, 2, 3]), timeout=0.3)
    assert 0.3 <= time.monotonic() - began < 5
    assert (silent.error.code, silent.error.reason) == (NODE_UNAVAILABLE, "no reply within 0.3 s")
    assert silent.metadata.src_node_id == 77
    assert (weights_in(here), weights_in(prompt)) == (simulated(2), [-3.0] * 5)


def test_a_reply_that_comes_before_the_deadline_counts() -> None:
    """The deadline falls into a pause between two polls: what arrived in that pause is still collected."""
    grid, _ = federation({77: 0.02, 2**63 + 5: 0.02})
    replies = list(grid.send_and_receive(instructions(grid, [1, 3]), timeout=0.06))
    assert [reply.has_error() for reply in replies] == [False, False]


def test_a_reply_after_the_deadline_is_not_the_next_rounds() -> None:
    grid, inner = federation({77: math.inf})
    (missed,) = grid.send_and_receive(instructions(grid, [1], number=1), timeout=0.05)
    assert missed.has_error()
    inner.hurry()
    inner.seconds[77] = None
    (reply,) = grid.send_and_receive(instructions(grid, [1], number=2), timeout=0.05)
    assert reply.has_error()


def test_the_error_of_a_real_phone_is_passed_on() -> None:
    def broken(message: Message) -> Message:
        return Message(Error(2, "it was dropped"), reply_to=message)

    inner = RealNodes(dict.fromkeys(REAL, 0.0), broken)
    grid = FederationGrid(arithmetic_phones(5), inner=inner, remote=REAL)
    replies = list(grid.send_and_receive(instructions(grid, [3, 2]), timeout=10))
    assert (replies[0].error.code, replies[0].error.reason) == (2, "it was dropped")
    assert weights_in(replies[1]) == simulated(2)


@pytest.mark.parametrize("gone", [[77], [77, 2**63 + 5]])
def test_a_phone_that_has_left_for_good_is_answered_for(gone: list[int]) -> None:
    """Flower gives no id for an instruction that the SuperLink refuses, as for a node unregistered since."""
    grid, _ = federation(dict.fromkeys(REAL, 0.0), gone=gone)
    replies = list(grid.send_and_receive(instructions(grid, [1, 0, 3]), timeout=0.3))
    assert [reply.has_error() for reply in replies] == [True, False, 2**63 + 5 in gone]
    assert replies[0].error.code == NODE_UNAVAILABLE


def test_a_round_without_real_phones_leaves_the_inner_grid_alone() -> None:
    grid, inner = federation({})
    (reply,) = grid.send_and_receive(instructions(grid, [2]), timeout=10)
    assert weights_in(reply) == simulated(2)
    assert inner.sent == []


def test_a_federation_of_federations_is_the_federation() -> None:
    inner = FederationGrid(arithmetic_phones(6))
    remote = {FIRST_SIMULATED_NODE + client: client for client in (1, 4)}
    grid = FederationGrid(arithmetic_phones(6), inner=inner, remote=remote)
    clients = [4, 0, 1, 5]
    replies = list(grid.send_and_receive(instructions(grid, clients), timeout=0.3))
    assert [reply.has_error() for reply in replies] == [False] * 4
    assert [weights_in(reply) for reply in replies] == [simulated(client) for client in clients]
    ids = list(grid.push_messages(instructions(grid, clients)))
    pulled = list(grid.pull_messages(ids))
    assert sorted(grid.client_of(reply.metadata.src_node_id) for reply in pulled) == sorted(clients)


# Who the real nodes are


def says(**told: int | str) -> Callable[[Message], Message]:
    return lambda message: Message(RecordDict({"config": ConfigRecord(dict(told))}), reply_to=message)


def test_nodes_say_which_clients_they_are() -> None:
    clients = {70: 4, 71: 0, 72: 9}

    def app(message: Message) -> Message:
        assert message.metadata.message_type == "query"
        return says(client=clients[message.metadata.dst_node_id])(message)

    assert ask_clients(RealNodes(dict.fromkeys(clients, 0.0), app), timeout=0.01) == clients


def test_no_nodes_are_no_clients() -> None:
    assert ask_clients(RealNodes({}, says(client=1)), timeout=0.01) == {}


def test_a_node_that_does_not_answer_is_named_missing() -> None:
    with pytest.raises(RuntimeError, match=r"1 of 2 nodes did not say within 0\.01 s which client they are"):
        ask_clients(RealNodes({70: 0.0, 71: None}, says(client=1)), timeout=0.01)


def test_a_node_that_fails_to_answer_is_named() -> None:
    def broken(message: Message) -> Message:
        return Message(Error(2, "no partition-id"), reply_to=message)

    with pytest.raises(RuntimeError, match=r"node 70 did not say which client it is: .*no partition-id"):
        ask_clients(RealNodes({70: 0.0}, broken), timeout=0.01)


def test_two_nodes_cannot_be_one_client() -> None:
    with pytest.raises(RuntimeError, match=r"two nodes say they are the same client: \[5, 5\]"):
        ask_clients(RealNodes({70: 0.0, 71: 0.0}, says(client=5)), timeout=0.01)


@pytest.mark.parametrize("told", [{"name": "anna"}, {"client": "five"}, None])
def test_a_node_of_another_app_is_refused_in_words(told: dict[str, str] | None) -> None:
    app = says(**told) if told else lambda message: Message(RecordDict(), reply_to=message)
    with pytest.raises(RuntimeError, match="node 70 did not say which client it is"):
        ask_clients(RealNodes({70: 0.0}, app), timeout=0.01)


# The process


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("", "1 1 1"),
        ("TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 8, 9", "7 8 9"),
    ],
)
def test_a_process_gets_an_identity_unless_flower_gave_it_one(before: str, expected: str) -> None:
    script = f"""
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from fedsim.simulation.grid import FederationGrid, Phones
{before or "pass"}
grid = FederationGrid(Phones(clients=2, train=print, evaluate=print))
found = Message(RecordDict(), 5, "train").metadata
assert grid.run.run_id == found.run_id == TaskIdentity.run_id
print(found.run_id, found.src_node_id, found.src_task_id)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_real_phones_models_that_are_not_finite_are_errors() -> None:
    """A number that float32 cannot hold is none; where nobody's is finite, all stay as they are."""
    for sent, lost in (([1e200, 0.0], [True, False]), ([math.nan, 0.0], [True, False]), ([1e200, math.nan], [])):

        def app(message: Message, sent: list[float] = sent) -> Message:
            row = list(REAL).index(message.metadata.dst_node_id)
            record = ArrayRecord({"weights": Array(np.full(len(WEIGHTS), sent[row]))})
            return Message(RecordDict({"arrays": record}), reply_to=message)

        grid = FederationGrid(
            Phones(clients=4, train=nobody, evaluate=nobody),
            inner=RealNodes(dict.fromkeys(REAL, 0.0), app),
            remote=REAL,
        )
        replies = list(grid.send_and_receive(instructions(grid, REAL.values(), number=7), timeout=5))
        assert [reply.has_error() for reply in replies] == (lost or [False, False])
        if lost:
            said = "client 1, round 7, train: its model is not finite; a lower learning rate may help"
            assert replies[0].error.reason == said
