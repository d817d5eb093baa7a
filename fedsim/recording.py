"""What a run writes down while Flower's loop turns: a row a round, its timings, and checkpoints."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray

from fedsim import results
from fedsim.data.partition import Partition, sizes
from fedsim.messages import EXAMPLES, METRICS, read_weights
from fedsim.strategies import Strategy, exact_arrays, state
from fedsim.updates import Updates, Weights

Row = dict[str, Any]
Evaluate = Callable[[Weights], tuple[NDArray[np.float64], NDArray[np.bool_]]]

log = logging.getLogger("fedsim")


class RunError(RuntimeError):
    """A run that cannot go on for a reason that its user can mend; says it in one line."""


class RoundRecorder:
    """Sees every round of one run and writes its row, its timings and its checkpoint into the run folder.

    ``evaluate`` gives loss and correctness of every test example; one pass over them a round serves the central
    figures and, through ``test_partition``, every client's accuracy on the test examples dealt to it. ``client_of``
    says which client a node is. ``resumed_after`` is the round whose checkpoint the run goes on from. ``listen`` gets
    every row as it is written.
    """

    def __init__(
        self,
        *,
        folder: Path,
        strategy: Strategy,
        evaluate: Evaluate,
        test_partition: Partition,
        client_of: Callable[[int], int],
        stop_on_failure: bool,
        checkpoint_every: int,
        last_round: int,
        resumed_after: int | None,
        listen: Callable[[Row], None],
    ) -> None:
        self.folder = folder
        self.strategy = strategy
        self.evaluate = evaluate
        self.test_partition = test_partition
        self.client_of = client_of
        self.stop_on_failure = stop_on_failure
        self.checkpoint_every = checkpoint_every
        self.last_round = last_round
        self.resumed_after = resumed_after
        self.listen = listen
        self.accuracy = np.full(len(sizes(test_partition)), np.nan)
        self._tracebacks: dict[int, str] = {}
        self._failed_before = False
        self._row: Row = {}
        self._seconds: dict[str, float] = {}
        self._mark = time.perf_counter()

    def note_failures(self, updates: Updates) -> Updates:
        """Remember the tracebacks of simulated phones, which a Flower error reply has no room for."""
        self._tracebacks |= {failure.client: failure.traceback for failure in updates.failures}
        return updates

    def on_replies(self, number: int, phase: str, messages: list[Message], replies: list[Message]) -> None:
        """`ResumableStrategy`'s view of a phase: what came back, and whether the run may go on."""
        if not messages:
            return
        self._lap("train" if phase == "train" else "evaluate clients")
        errors = [reply for reply in replies if reply.has_error()]
        if phase == "train":
            self._row = self._trained(messages, [reply for reply in replies if not reply.has_error()], len(errors))
        if errors:
            self._report_failure(errors[0])

    def on_model(self, number: int, record: ArrayRecord) -> MetricRecord | None:
        """The model after round ``number`` (0: before the first): evaluate it, write the row, keep a checkpoint."""
        self._lap("aggregate")
        weights = read_weights(record)
        if not np.isfinite(weights).all():
            raise RunError(
                f"round {number}: the model is no longer finite; lower the learning rate of phones or server"
            )
        losses, correct = self.evaluate(weights)
        self.accuracy = client_accuracy(correct, self.test_partition)
        if number == self.resumed_after:
            return None  # written before the cut
        row: Row = {
            "round": number,
            **(self._row or self._trained([], [], 0)),
            "test_loss": float(losses.mean()),
            "test_accuracy": float(correct.mean()),
            "client_accuracy": spread(self.accuracy),
        }
        self._lap("evaluate")
        results.append(self.folder / results.ROUNDS, row)
        if number and (number % self.checkpoint_every == 0 or number == self.last_round):
            arrays, scalars = state(self.strategy)
            results.write_checkpoint(
                self.folder,
                results.Checkpoint(round=number, model=exact_arrays(record), arrays=arrays, scalars=scalars),
            )
        self._lap("checkpoint")
        results.append(self.folder / results.TIMINGS, {"round": number, "seconds": self._seconds})
        self.listen({**row, "seconds": sum(self._seconds.values())})
        self._row, self._seconds = {}, {}
        return MetricRecord({"loss": row["test_loss"], "accuracy": row["test_accuracy"]})

    def _trained(self, messages: list[Message], replies: list[Message], failures: int) -> Row:
        """The training half of a row: who trained, on how much, how well, and what it cost to carry."""
        metrics = [cast(MetricRecord, reply.content[METRICS]) for reply in replies]
        examples = np.array([cast(int, record[EXAMPLES]) for record in metrics], np.int64)
        losses = np.array([cast(list[float], record["epoch_losses"]) for record in metrics], np.float64)
        epochs = (examples @ losses / examples.sum()).tolist() if len(metrics) else None
        return {
            "clients": [self.client_of(message.metadata.dst_node_id) for message in messages],
            "examples": int(examples.sum()),
            "train_loss": epochs[-1] if epochs else None,
            "epoch_losses": epochs,
            "failures": failures,
            "bytes_down": sum(_payload(message) for message in messages),
            "bytes_up": sum(_payload(reply) for reply in replies),
        }

    def _report_failure(self, error: Message) -> None:
        """Say the first failure in full; stop, or go on without that phone."""
        client = self.client_of(error.metadata.src_node_id)
        reason = error.error.reason or f"client {client} failed and did not say why"
        if not self._failed_before:
            log.warning("%s; its traceback, shown once:\n%s", reason, self._tracebacks.get(client, "not sent along"))
        self._failed_before = True
        if self.stop_on_failure:
            raise RunError(f"{reason} (federation.on_client_failure = stop)")

    def _lap(self, part: str) -> None:
        now = time.perf_counter()
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._mark
        self._mark = now


def client_accuracy(correct: NDArray[np.bool_], test_partition: Partition) -> NDArray[np.float64]:
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
