"""More machines: the mean of a cohort trained on every node of a Ray cluster, the same bits as on one machine.

A slot is a share of the cohort whose partial sum one thread forms (`native.sum_slots`), on whatever machine; the head,
where the command runs, deals the slots out and adds their sums up in order. A cohort keeps `SLOTS` cores busy at most.

The federation, data and all, goes to every node once. In a round a node is sent the weights, ``4 P`` bytes, and 16
bytes for each of its phones; it answers with ``4 P`` bytes for each of its slots, and 8 for each phone and epoch.
All nodes together send at most ``SLOTS`` models, 75 MB for LeNet's 585,958 weights, however large the cohort is.

Nodes have the same fedsim and Ray as the head. Evaluation and baselines stay on the head.
"""

import logging
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedsim.config import ConfigError
from fedsim.coreml.contract import weights_id
from fedsim.data.dataset import Examples
from fedsim.data.partition import sizes
from fedsim.federation import Federation, training_examples, training_shards
from fedsim.simulation.native_phones import as_mean
from fedsim.training.batches import shuffle_keys
from fedsim.training.native import engine as native
from fedsim.training.native.engine import SLOTS
from fedsim.updates import LocalTraining, Mean, Orders, Weights

log = logging.getLogger("fedsim")

Places = NDArray[np.int64]

ANSWERS_SECONDS = 5.0
STARTS_SECONDS = 60.0
PROOF_EXAMPLES = 64


class Node:
    """What one machine holds from round to round: the federation, and an engine of ``variant``. Ray's actor."""

    def __init__(self, federation: Federation, threads: int, variant: str) -> None:
        self.federation, self.threads = federation, threads
        self.engine = native.Engine(federation.contract, variant)
        self.examples = training_examples(federation)

    def proof(self) -> str:
        """A digest of a little training: the same on machines that compute the same bits."""
        inputs, weights = self.federation.dataset.train.inputs[:PROOF_EXAMPLES], self.federation.initial.copy()
        examples = Examples(inputs=inputs, labels=np.zeros(len(inputs), np.int64))
        native.train_client(self.engine, weights, examples, self.federation.contract.training, np.uint64(0))
        return weights_id(weights)

    def sums(
        self,
        weights: Weights,
        number: int,
        clients: NDArray[np.int64],
        shares: NDArray[np.float64],
        slots: int,
        training: LocalTraining,
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """`native.sum_slots` of the phones ``clients`` in round ``number``."""
        keys = shuffle_keys(self.federation.config.seed, number, clients)
        cohort = native.cohort(training_shards(self.federation, clients), keys, training)
        return native.sum_slots(
            self.engine, weights, self.examples, cohort, shares, training, slots, threads=self.threads
        )


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A `Node` at work on the machine ``name``: Ray's handles for it, and for its proof."""

    name: str
    threads: int
    actor: Any
    proof: ray.ObjectRef[str]


class Crew:
    """The nodes that train a federation, as they come and go; one that failed is not asked again."""

    def __init__(self, federation: Federation) -> None:
        own = Node(federation, 1, "")
        self._variant, self._proof = own.engine.variant, own.proof()
        self._most = federation.config.speed.workers
        self._federation = ray.put(federation)
        self._workers: dict[str, Worker | None] = {}

    def ready(self, seconds: float = 0.0) -> list[Worker]:
        """Those that can train now, after waiting so long for all to start.

        A node is refused, with a warning, where its engine does not run or computes other bits than the head's.
        """
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1}
        for key in alive.keys() - self._workers.keys():
            self._workers[key] = self._start(alive[key])
        for worker in [worker for key, worker in self._workers.items() if worker and key not in alive]:
            self.lose(worker, "it has left the cluster")
        workers = [worker for worker in self._workers.values() if worker]
        proofs = [worker.proof for worker in workers]
        done = ray.wait(proofs, num_returns=len(proofs), timeout=seconds)[0] if proofs else []
        return [worker for worker in workers if worker.proof in done and self._is_sound(worker)]

    def lose(self, worker: Worker, reason: str) -> None:
        """Ask ``worker`` no more, and say so."""
        self._workers = {key: None if known is worker else known for key, known in self._workers.items()}
        left = sum(known is not None for known in self._workers.values())
        others = f"{left} left" if left else "this machine is left alone"
        log.warning("cluster: lost %s, %s: %s", worker.name, others, reason)

    def _start(self, node: dict[str, Any]) -> Worker:
        cores = int(node["Resources"]["CPU"])
        threads = min(cores, self._most or cores)
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        start: Any = ray.remote(Node).options(num_cpus=threads, scheduling_strategy=there)
        actor = start.remote(self._federation, threads, self._variant)
        return Worker(name=node["NodeManagerAddress"], threads=threads, actor=actor, proof=actor.proof.remote())

    def _is_sound(self, worker: Worker) -> bool:
        try:
            if ray.get(worker.proof) == self._proof:
                return True
        except RayError as error:
            self.lose(worker, str(error).strip().splitlines()[-1])  # a traceback's
        else:
            self.lose(worker, "its engine computes other bits than the one here; install the same build of fedsim")
        return False


@contextmanager
def joined(federation: Federation, alone: Callable[[Orders], Mean]) -> Generator[Callable[[Orders], Mean]]:
    """The twin of ``alone``, this machine's `mean_cohort`, on the nodes of the cluster ``speed.cluster``.

    Nodes that join are used from the next round on. What a lost node was to do is done again by the others, and by
    ``alone`` where there are none.

    Raises `ConfigError` where the cluster cannot be reached, or none of its nodes can train.
    """
    address = federation.config.speed.cluster
    with connected(address):
        crew = Crew(federation)
        if not crew.ready(STARTS_SECONDS):
            raise ConfigError(f"speed.cluster = {address}: has no node that can train with all its cores now")
        yield partial(_mean, crew, federation, alone)


def _mean(crew: Crew, federation: Federation, alone: Callable[[Orders], Mean], orders: Orders) -> Mean:
    """As ``alone``, which is left to find out which phones fail where one does."""
    training = orders.training
    if training is None:
        raise ValueError("these orders are for evaluation")
    counts = sizes(training_shards(federation, orders.clients))
    shares = counts / max(1, counts.sum())
    slots = min(len(counts), SLOTS)
    rows = np.empty((slots, len(orders.weights)), np.float32)
    losses = np.empty((len(counts), training.epochs))
    weights = ray.put(orders.weights)

    def ask(worker: Worker, part: Places) -> tuple[Worker, Places, Places, Any]:
        places = np.flatnonzero(np.isin(np.arange(len(counts)) % slots, part))
        theirs = orders.clients[places], shares[places]
        return worker, part, places, worker.actor.sums.remote(weights, orders.round, *theirs, len(part), training)

    left = np.arange(slots)
    while len(left):
        workers = crew.ready()
        if not workers:
            return alone(orders)
        parts = zip(workers, _deal(left, [worker.threads for worker in workers]), strict=True)
        for worker, part, places, reply in [ask(worker, part) for worker, part in parts if len(part)]:
            try:
                rows[part], losses[places] = ray.get(reply)
            except (ValueError, MemoryError):
                return alone(orders)
            except RayTaskError:
                raise
            except RayError as error:
                crew.lose(worker, _first_line(error))
            else:
                left = np.setdiff1d(left, part)
    return as_mean(orders.clients, counts, _in_order(rows), losses)


def _deal(slots: Places, cores: list[int]) -> list[Places]:
    """Every node's slots, in proportion to its cores.

    >>> [part.tolist() for part in _deal(np.arange(7), [2, 4, 1])]
    [[0, 1], [2, 3, 4, 5], [6]]
    """
    ends = np.rint(np.cumsum(cores) / sum(cores) * len(slots)).astype(np.int64)
    return np.split(slots, ends[:-1])


def _in_order(rows: NDArray[np.float32]) -> Weights:
    """The rows added up one after another, as the engine adds up its slots."""
    total = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total


@contextmanager
def connected(address: str) -> Generator[None]:
    """A connection to the cluster at ``address``, which is left running; raises `ConfigError` where there is none."""
    try:
        if ":" in address:  # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), ANSWERS_SECONDS).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"speed.cluster = {address}: cannot be joined ({_first_line(error)})") from None
    try:
        yield
    finally:
        ray.shutdown()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
