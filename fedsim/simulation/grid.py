"""Flower's `Grid` over simulated phones, alone or together with the real ones behind another grid."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
from flwr.app import Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsim.messages import phase, read_orders, without_diverged, write_replies
from fedsim.updates import Orders, Updates

FIRST_SIMULATED_NODE = 2**32
"""Simulated client ``c`` is node ``2**32 + c``: Flower's own node ids are random 64-bit numbers."""
POLL_SECONDS = 0.1
NODE_UNAVAILABLE = 5


@dataclass(frozen=True, kw_only=True)
class Phones:
    """The simulated phones: how many there are, and what the whole cohort does when it is told to."""

    clients: int
    train: Callable[[Orders], Updates]
    evaluate: Callable[[Orders], Updates]


def one_phone(train: Callable[[Orders], Updates]) -> Phones:
    """A whole cohort that answers as one phone."""

    def evaluate(orders: Orders) -> Updates:
        raise ValueError("a cohort that is one phone is only ever told to train")

    return Phones(clients=1, train=train, evaluate=evaluate)


class FederationGrid(Grid):
    """Runs instructions on simulated ``phones`` and, where there is an ``inner`` grid, on the real nodes behind it.

    With ``inner=None`` it is the whole simulation, inside the process. Otherwise ``remote`` says which client each
    node of the inner grid is; those clients are not simulated. Node ids come out in client order, so that a draw
    from them picks the same clients wherever these run. Replies come back in the order of their instructions.

    A phone that fails is an error reply, never an exception; an exception out of this class is a fault in fedsim.
    """

    def __init__(self, phones: Phones, *, inner: Grid | None = None, remote: dict[int, int] | None = None) -> None:
        self.phones = phones
        self.inner = inner
        node_of = {client: node for node, client in (remote or {}).items()}
        self.node_ids = [node_of.get(client, FIRST_SIMULATED_NODE + client) for client in range(phones.clients)]
        self._remote = dict(remote or {})
        self._run = _identify_process()
        self._waiting: dict[str, Message] = {}
        self._handed_on: set[str] = set()

    def client_of(self, node_id: int) -> int:
        """The client that a node is."""
        return self._remote[node_id] if node_id in self._remote else node_id - FIRST_SIMULATED_NODE

    def set_run(self, run: Run) -> None:
        """Kept for Flower's runtime; nothing here depends on it."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that Flower's runtime set."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message; Flower has deprecated this in favour of the constructor."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Every phone, in client order: the same list at every call."""
        return list(self.node_ids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand on what is for real nodes, run the rest at once; an id a message in their order, empty if refused."""
        batch = list(messages)
        ids_from_inner = self._hand_on([message for message in batch if self._is_real(message)])
        self._handed_on |= set(ids_from_inner) - {""}
        for message in batch:
            if not self._is_real(message):  # a reply names the id of its instruction, which Flower leaves to the grid
                message.metadata.__dict__["_message_id"] = uuid4().hex
        replies = self._simulate(batch)
        self._waiting |= {reply.metadata.reply_to_message_id: reply for reply in replies if reply is not None}
        real = iter(ids_from_inner)
        return [next(real) if self._is_real(message) else message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there by now, each once."""
        wanted = list(message_ids)
        ready = [self._waiting.pop(message_id) for message_id in wanted if message_id in self._waiting]
        remaining = [message_id for message_id in wanted if message_id in self._handed_on]
        replies = list(self.inner.pull_messages(remaining)) if self.inner and remaining else []
        self._handed_on -= {reply.metadata.reply_to_message_id for reply in replies}
        return [*ready, *replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """A reply or an error for every message, in their order.

        Real nodes train while the simulated ones do; one that has not replied ``timeout`` seconds after that is
        answered for with an error, as is one whose model is not finite (`without_diverged`).
        """
        batch = list(messages)
        real = [message for message in batch if self._is_real(message)]
        ids = self._hand_on(real)
        replies = self._simulate(batch)
        from_inner = iter(self._collect(real, ids, timeout))
        clients = [self.client_of(message.metadata.dst_node_id) for message in batch]
        return without_diverged(batch, clients, [next(from_inner) if reply is None else reply for reply in replies])

    def _simulate(self, messages: list[Message]) -> list[Message | None]:
        """The simulated phones' replies, None in the place of every message that is not for one."""
        replies: list[Message | None] = [None] * len(messages)
        for kind, work in (("train", self.phones.train), ("evaluate", self.phones.evaluate)):
            mine = [
                place
                for place, message in enumerate(messages)
                if message.metadata.dst_node_id not in self._remote and phase(message) == kind
            ]
            batch = [messages[place] for place in mine]
            clients = np.array([self.client_of(message.metadata.dst_node_id) for message in batch], dtype=np.int64)
            for orders, rows in read_orders(batch, clients):
                for row, reply in zip(
                    rows, write_replies([batch[row] for row in rows], orders.clients, work(orders)), strict=True
                ):
                    replies[mine[row]] = reply
        return replies

    def _is_real(self, message: Message) -> bool:
        return message.metadata.dst_node_id in self._remote

    def _hand_on(self, messages: list[Message]) -> list[str]:
        """The inner grid's id for each message, empty for one that it refuses: its node is no longer registered.

        Flower's grids write the id into the message; what they return leaves refused ones out, or empty.
        """
        accepted = set(self.inner.push_messages(messages)) if self.inner and messages else set[str]()
        return [key if (key := message.metadata.message_id) in accepted else "" for message in messages]

    def _collect(self, messages: list[Message], ids: list[str], timeout: float | None) -> list[Message]:
        """The inner grid's replies in the order sent, an error for each node that is gone or silent for too long."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        missing, replies = set(ids) - {""}, dict[str, Message]()
        while missing:
            assert self.inner is not None
            replies |= {reply.metadata.reply_to_message_id: reply for reply in self.inner.pull_messages(list(missing))}
            missing -= replies.keys()
            left = deadline - time.monotonic()
            if not missing or left <= 0:
                break
            time.sleep(min(POLL_SECONDS, left))
        silent = Error(NODE_UNAVAILABLE, f"no reply within {timeout} s")
        gone = Error(NODE_UNAVAILABLE, "the SuperLink refused the instruction: it no longer knows this node")
        return [
            replies.get(key) or Message(silent if key else gone, reply_to=message)
            for key, message in zip(ids, messages, strict=True)
        ]


def ask_clients(grid: Grid, timeout: float) -> dict[int, int]:
    """Which client each node behind ``grid`` is, asked of the nodes themselves: node id -> client.

    Raises RuntimeError where a node does not answer within ``timeout`` seconds, or two say they are the same client.
    """
    nodes = list(grid.get_node_ids())
    questions = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
    answers = list(grid.send_and_receive(questions, timeout=timeout)) if nodes else []
    clients: dict[int, int] = {}
    for answer in answers:
        clients[answer.metadata.src_node_id] = _client_in(answer)
    if missing := set(nodes) - set(clients):
        raise RuntimeError(f"{len(missing)} of {len(nodes)} nodes did not say within {timeout} s which client they are")
    if len(set(clients.values())) < len(clients):
        raise RuntimeError(f"two nodes say they are the same client: {sorted(clients.values())}")
    return clients


def _client_in(answer: Message) -> int:
    """The client that a node says it is; raises RuntimeError where it says anything else."""
    records = [] if answer.has_error() else list(answer.content.config_records.values())
    told = [record["client"] for record in records if "client" in record]
    if len(told) == 1 and isinstance(told[0], int):
        return told[0]
    why = answer.error.reason if answer.has_error() else "its answer holds no whole number 'client'"
    raise RuntimeError(f"node {answer.metadata.src_node_id} did not say which client it is: {why}")


def _identify_process() -> Run:
    """Give the process the identity without which Flower's ``Message`` cannot be made, unless Flower has.

    Beside a message's id, this is the one private piece of Flower touched here: `TaskIdentity` is process-global and
    set by Flower's own runtime; an in-process simulation has no runtime, and no strategy depends on the values.
    """
    try:
        return Run.create_empty(TaskIdentity.run_id)
    except RuntimeError:  # Flower's way of saying that nobody has set it
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        return Run.create_empty(1)
