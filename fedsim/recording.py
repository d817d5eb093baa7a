"""What a run writes down while Flower's loop turns: a row a round, its timings, and checkpoints."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray

from fedsim import results
from fedsim.data.partition import Shards, sizes
from fedsim.messages import EXAMPLES, METRICS, decoded, describe, read_weights
from fedsim.strategies import Strategy, exact_arrays, state
from fedsim.updates import ClippedSum, Failure, Mean, Orders, Updates, Weights

Row = dict[str, Any]
Seconds = dict[str, float]
Evaluate = Callable[[Weights], tuple[NDArray[np.float64], NDArray[np.bool_]]]

NOT_TESTED: Row = {"test_loss": None, "test_accuracy": None, "client_accuracy": None}

log = logging.getLogger("fedsim")


class RunError(RuntimeError):
    """A run that cannot go on for a reason that its user can mend; says it in one line."""


class RoundRecorder:
    """Sees every round of one run and writes its row, its timings and its checkpoint into the run folder.

    A round is evaluated and written down while the next one trains; `close` waits for the last. ``evaluate`` gives
    loss and correctness of every test example; one pass over them, every ``evaluate_every`` rounds, serves the central
    figures and, through ``test_partition``, every client's accuracy on the test examples dealt to it. ``client_of``
    says which client a node is. ``further`` gives a row's columns beside these, of a round with these clients and the
    model after it. ``resumed_after`` is the round whose checkpoint the run goes on from. ``listen`` gets every row as
    it is written, on a thread of its own.
    """

    def __init__(
        self,
        *,
        folder: Path,
        strategy: Strategy,
        evaluate: Evaluate,
        further: Callable[[list[int], Weights], Row],
        test_partition: Shards,
        client_of: Callable[[int], int],
        stop_on_failure: bool,
        evaluate_every: int,
        checkpoint_every: int,
        last_round: int,
        resumed_after: int | None,
        listen: Callable[[Row], None],
    ) -> None:
        self.folder = folder
        self.strategy = strategy
        self.evaluate = evaluate
        self.further = further
        self.test_partition = test_partition
        self.client_of = client_of
        self.stop_on_failure = stop_on_failure
        self.evaluate_every = evaluate_every
        self.checkpoint_every = checkpoint_every
        self.last_round = last_round
        self.resumed_after = resumed_after
        self.listen = listen
        self.accuracy = np.full(len(sizes(test_partition)), np.nan)
        self._failures: dict[int, Failure] = {}
        self._failed_before = False
        self._row: Row | None = None
        self._seconds: dict[str, float] = {}
        self._mark = self._began = time.perf_counter()
        self._writer = ThreadPoolExecutor(1, "fedsim-recorder")
        self._pending: Future[None] | None = None

    def note_updates(self, updates: Updates) -> Updates:
        """Remember the tracebacks of simulated phones, which a Flower error reply has no room for."""
        self._failures |= {failed.client: failed for failed in updates.failures}
        return updates

    def note_cohort(self, orders: Orders, found: Mean | ClippedSum, private: Row | None = None) -> None:
        """Remember what a cohort that answers as one phone did, which its one reply has no room for.

        ``private`` is what its answer cost and how it was made, where it is private.
        """
        self._failures = {failed.client: failed for failed in found.failures}
        size = 4 * len(orders.weights)
        self._row = _trained(
            clients=orders.clients.tolist(),
            examples=found.examples,
            losses=found.metrics.get("epoch_losses"),
            failures=len(found.failures),
            bytes_down=size * len(orders.clients),
            bytes_up=size * len(found.clients),
        )
        if private:
            self._row["privacy"] = private

    def on_replies(self, number: int, phase: str, messages: list[Message], replies: list[Message]) -> None:
        """`ResumableStrategy`'s view of a phase: what came back, and whether the run may go on."""
        if not messages:
            return
        self._lap("train" if phase == "train" else "evaluate clients")
        if phase == "train" and self._row is None:
            self._row = self._from_messages(messages, [reply for reply in replies if not reply.has_error()])
        simulated = next(iter(self._failures.values()), None)
        error = next((reply for reply in replies if reply.has_error()), None)
        if simulated:
            self._report_failure(describe(simulated), simulated.traceback)
        elif error:
            client = self.client_of(error.metadata.src_node_id)
            reason = error.error.reason or f"client {client} failed and did not say why"
            self._report_failure(reason, "not sent along")

    def on_model(self, number: int, record: ArrayRecord) -> None:
        """The model after round ``number`` (0: before the first): evaluate it and write it down beside the next."""
        self._lap("aggregate")
        record = decoded(record)
        weights = read_weights(record)
        if not np.isfinite(weights).all():
            raise RunError(
                f"round {number}: the model is no longer finite; lower the learning rate of phones or server"
            )
        checkpoint = None
        if number and self._is_due(number, self.checkpoint_every):
            arrays, scalars = state(self.strategy)
            copies = {name: array.copy() for name, array in arrays.items()}
            checkpoint = results.Checkpoint(round=number, model=exact_arrays(record), arrays=copies, scalars=scalars)
        self._settle()
        self._lap("wait")
        row = self._row or _trained([], np.zeros(0, np.int64), np.zeros((0, 0)), 0, 0, 0)
        self._pending = self._writer.submit(self._write, number, weights, row, checkpoint, self._seconds)
        self._row, self._seconds, self._failures = None, {}, {}
        if number == self.last_round:
            self._settle()

    def close(self) -> None:
        """Wait until what has been seen is written down."""
        self._writer.shutdown(wait=True)

    def _settle(self) -> None:
        """Wait for the round before to be written down; raises what stopped that."""
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def _write(
        self, number: int, weights: Weights, trained: Row, checkpoint: results.Checkpoint | None, seconds: Seconds
    ) -> None:
        """Evaluate one round's model; its row, its checkpoint, its timings."""
        mark = time.perf_counter()
        tested = self._test(weights) if self._is_due(number, self.evaluate_every) else NOT_TESTED
        if number == self.resumed_after:  # written before the cut
            self._began = time.perf_counter()
            return
        row: Row = {"round": number, **trained, **tested, **self.further(trained["clients"], weights)}
        seconds = {**seconds, "evaluate": time.perf_counter() - mark}
        mark = time.perf_counter()
        results.append(self.folder / results.ROUNDS, row)
        if checkpoint:
            results.write_checkpoint(self.folder, checkpoint)
        now = time.perf_counter()
        seconds["checkpoint"] = now - mark
        wall, self._began = now - self._began, now
        results.append(self.folder / results.TIMINGS, {"round": number, "wall": wall, "seconds": seconds})
        self.listen({**row, "seconds": wall})

    def _test(self, weights: Weights) -> Row:
        """The testing half of a row."""
        losses, correct = self.evaluate(weights)
        self.accuracy = client_accuracy(correct, self.test_partition)
        return {
            "test_loss": float(losses.mean()),
            "test_accuracy": float(correct.mean()),
            "client_accuracy": spread(self.accuracy),
        }

    def _is_due(self, number: int, every: int) -> bool:
        return number % every == 0 or number == self.last_round

    def _from_messages(self, messages: list[Message], replies: list[Message]) -> Row:
        """The training half of a row, read off a message and a reply a phone."""
        metrics = [cast(MetricRecord, reply.content[METRICS]) for reply in replies]
        return _trained(
            clients=[self.client_of(message.metadata.dst_node_id) for message in messages],
            examples=np.array([cast(int, record[EXAMPLES]) for record in metrics], np.int64),
            losses=np.array([cast(list[float], record["epoch_losses"]) for record in metrics], np.float64),
            failures=len(messages) - len(replies),
            bytes_down=sum(_payload(message) for message in messages),
            bytes_up=sum(_payload(reply) for reply in replies),
        )

    def _report_failure(self, reason: str, traceback: str) -> None:
        """Say the first failure in full; stop, or go on without that phone."""
        if not self._failed_before:
            log.warning("%s; its traceback, shown once:\n%s", reason, traceback)
        self._failed_before = True
        if self.stop_on_failure:
            raise RunError(f"{reason} (federation.on_client_failure = stop)")

    def _lap(self, part: str) -> None:
        now = time.perf_counter()
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._mark
        self._mark = now


def _trained(
    clients: list[int],
    examples: NDArray[np.int64],
    losses: NDArray[np.float64] | None,
    failures: int,
    bytes_down: int,
    bytes_up: int,
) -> Row:
    """The training half of a row: who trained, on how much, how well, and what it cost to carry."""
    epochs = None if losses is None or not examples.any() else (examples @ losses / examples.sum()).tolist()
    return {
        "clients": clients,
        "examples": int(examples.sum()),
        "train_loss": epochs[-1] if epochs else None,
        "epoch_losses": epochs,
        "failures": failures,
        "bytes_down": bytes_down,
        "bytes_up": bytes_up,
    }


def client_accuracy(correct: NDArray[np.bool_], test_partition: Shards) -> NDArray[np.float64]:
    """Every client's accuracy on the test examples dealt to it, ``float64[C]``; NaN for a client that has none."""
    held = sizes(test_partition)
    owners = np.repeat(np.arange(len(held)), held)
    right = np.bincount(owners, weights=correct[test_partition.order], minlength=len(held))
    return np.divide(right, held, out=np.full(len(held), np.nan), where=held > 0)


def spread(accuracy: NDArray[np.float64]) -> Mapping[str, float]:
    """How evenly the model serves its clients: mean, 10th percentile, worst, best, and mean of the worst tenth."""
    known = np.sort(accuracy[~np.isnan(accuracy)])
    return {
        "mean": float(known.mean()),
        "p10": float(np.percentile(known, 10)),
        "min": float(known[0]),
        "max": float(known[-1]),
        "worst_decile_mean": float(known[: max(1, len(known) // 10)].mean()),
    }


def _payload(message: Message) -> int:
    """The bytes of the model a message carries, as the flat float32 vector it is on the wire."""
    arrays = [array for record in message.content.array_records.values() for array in record.values()]
    return sum(4 * math.prod(array.shape) for array in arrays)
