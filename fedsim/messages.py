"""Flower messages in and out: instructions become `Orders`, `Updates` become replies; no copies inside a process."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from io import BytesIO
from typing import Any, Literal, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedsim.updates import Failure, LocalTraining, Orders, Updates, Weights

ARRAYS = "arrays"
"""The record that holds the model, as the stock strategies expect it."""
WEIGHTS = "weights"
"""The one array in it: the flat vector, because each object on the wire costs a request."""
METRICS = "metrics"
CONFIG = "config"
EXAMPLES = "num-examples"
ROUND = "server-round"

CLIENT_APP_RAISED = 2
"""Flower's error code for a client whose own code failed."""


class SharedArray(Array):
    """An `Array` over memory that is already there: ``numpy()`` hands out that memory, not a decoded copy.

    The npy bytes that Flower's own `Array` carries are made only if somebody asks for ``data``, as the wire does.
    """

    def __init__(self, ndarray: NDArray[Any]) -> None:
        self.__dict__["_ndarray"] = ndarray
        self.dtype, self.shape, self.stype = str(ndarray.dtype), tuple(ndarray.shape), "numpy.ndarray"

    def numpy(self) -> NDArray[Any]:
        return self.__dict__["_ndarray"]

    @property
    def data(self) -> bytes:  # pyright: ignore[reportIncompatibleVariableOverride]
        buffer = BytesIO()
        np.save(buffer, self.numpy(), allow_pickle=False)
        return buffer.getvalue()

    def deflate(self) -> bytes:
        """What goes over the wire: an `Array` like any other, for the wire knows its types by name."""
        return Array(self.numpy()).deflate()


def model_record(weights: NDArray[Any]) -> ArrayRecord:
    """The flat vector as the record that strategies send and aggregate, sharing its memory."""
    record = ArrayRecord()
    record[WEIGHTS] = SharedArray(weights)
    return record


def decoded(record: ArrayRecord) -> ArrayRecord:
    """The same arrays in memory: Flower's own are npy bytes, which every look at them would decode anew."""
    return ArrayRecord({key: SharedArray(array.numpy()) for key, array in record.items()})


def read_weights(record: ArrayRecord) -> Weights:
    """The model in a record as ``float32[P]``; FedAdam, FedYogi, FedAdagrad and QFedAvg hand out ``float64``.

    Raises ValueError where the record does not hold exactly the one flat array.
    """
    if list(record) != [WEIGHTS]:
        raise ValueError(f"the record holds the arrays {list(record)}; it must hold one, {WEIGHTS!r}")
    weights = record[WEIGHTS].numpy()
    if weights.ndim != 1:
        raise ValueError(f"the array {WEIGHTS!r} has the shape {weights.shape}; it must be flat")
    return np.ascontiguousarray(weights, dtype=np.float32)


def training_record(training: LocalTraining) -> ConfigRecord:
    """The settings of local training as they travel; a strategy may overrule one, as FedProx does ``proximal-mu``."""
    return ConfigRecord({_key(field.name): getattr(training, field.name) for field in fields(training)})


def read_training(config: ConfigRecord) -> LocalTraining:
    """The inverse of `training_record`; keys of others are left alone, a missing one takes its default.

    Raises ValueError where one is missing that has none.
    """
    given = {field.name: config[_key(field.name)] for field in fields(LocalTraining) if _key(field.name) in config}
    required = [field.name for field in fields(LocalTraining) if field.default is MISSING]
    if missing := [_key(name) for name in required if name not in given]:
        raise ValueError(
            f"the training config lacks {', '.join(missing)}; start the strategy with training_record(...)"
        )
    return LocalTraining(**cast(dict[str, Any], given))


def _key(field: str) -> str:
    return field.replace("_", "-")


def read_orders(messages: Sequence[Message], clients: NDArray[np.int64]) -> list[tuple[Orders, NDArray[np.int64]]]:
    """What ``messages``, addressed to ``clients`` one each, ask for.

    A phase of a stock strategy shares one content, and so becomes one `Orders`; each distinct content becomes its
    own. With every `Orders` come the positions of its messages. Contents are only read, never kept or changed.
    """
    groups: dict[int, list[int]] = {}
    for position, message in enumerate(messages):
        groups.setdefault(id(message.content), []).append(position)
    return [_orders(messages[rows[0]], clients, np.array(rows)) for rows in groups.values()]


def _orders(message: Message, clients: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[Orders, NDArray[np.int64]]:
    config = cast(ConfigRecord, _part(message.content, CONFIG))
    weights = read_weights(cast(ArrayRecord, _part(message.content, ARRAYS))).view()
    weights.flags.writeable = False  # it is the server's own model, and every phone's
    orders = Orders(
        round=int(_part(config, ROUND)),
        clients=clients[rows],
        weights=weights,
        training=read_training(config) if message.metadata.message_type == MessageType.TRAIN else None,
    )
    return orders, rows


def _part(whole: Mapping[str, Any], key: str) -> Any:
    """``whole[key]``; raises ValueError in words where there is none."""
    if key not in whole:
        raise ValueError(f"the instruction holds {', '.join(whole) or 'nothing'}; it must hold {key}")
    return whole[key]


def write_replies(messages: Iterable[Message], clients: Iterable[int], updates: Updates) -> list[Message]:
    """One reply a message, in their order: the client's row of ``updates``, or an error that names its failure.

    Raises ValueError if a client is in neither, for a client that says nothing would be lost unseen.
    """
    row_of = {int(client): row for row, client in enumerate(updates.clients)}
    failure_of = {failure.client: failure for failure in updates.failures}
    replies: list[Message] = []
    for message, client in zip(messages, clients, strict=True):
        if client in row_of:
            replies.append(Message(_content(updates, row_of[client]), reply_to=message))
        elif client in failure_of:
            replies.append(Message(Error(CLIENT_APP_RAISED, describe(failure_of[client])), reply_to=message))
        else:
            raise ValueError(f"client {client} neither replied nor failed")
    return replies


def write_orders(orders: Orders, nodes: Iterable[int]) -> list[Message]:
    """What a strategy would send to tell ``nodes``, a client of ``orders`` each, to train."""
    if orders.training is None:
        raise ValueError("these orders are for evaluation")
    config = training_record(orders.training)
    config[ROUND] = orders.round
    content = RecordDict({ARRAYS: model_record(orders.weights), CONFIG: config})
    return [Message(content, node, MessageType.TRAIN, group_id=str(orders.round)) for node in nodes]


def read_replies(replies: Iterable[Message], orders: Orders) -> Updates:
    """The inverse of `write_replies`, for replies in the orders' order; an error is a `Failure` with its reason."""
    rows: list[tuple[int, Weights, MetricRecord]] = []
    failures: list[Failure] = []
    for client, reply in zip(orders.clients.tolist(), replies, strict=True):
        if reply.has_error():
            reason = reply.error.reason or "it did not say why"
            failures.append(
                Failure(client=client, round=orders.round, stage="train", reason=reason, traceback="not sent along")
            )
        else:
            record = cast(MetricRecord, _part(reply.content, METRICS))
            rows.append((client, read_weights(cast(ArrayRecord, _part(reply.content, ARRAYS))), record))
    names = [name for name in rows[0][2] if name != EXAMPLES] if rows else []
    return Updates(
        clients=np.array([client for client, _, _ in rows], np.int64),
        weights=np.array([weights for _, weights, _ in rows], np.float32).reshape(len(rows), len(orders.weights)),
        examples=np.array([record[EXAMPLES] for _, _, record in rows], np.int64),
        metrics={name: np.array([record[name] for _, _, record in rows], np.float64) for name in names},
        failures=tuple(failures),
    )


def without_diverged(messages: Sequence[Message], clients: Sequence[int], replies: Sequence[Message]) -> list[Message]:
    """``replies``, with an error in the place of each whose model is not made of finite float32 numbers.

    One phone that diverged, or lies, so takes nobody else with it. Where all have diverged, their replies stay as they
    are: there is nobody to go on with, and what they come to says why.
    """
    answered = [not reply.has_error() for reply in replies]
    diverged = [good and not _is_finite(reply.content) for good, reply in zip(answered, replies, strict=True)]
    if diverged == answered:
        return list(replies)
    return [
        Message(Error(CLIENT_APP_RAISED, describe(_not_finite(message, client))), reply_to=message) if lost else reply
        for message, client, reply, lost in zip(messages, clients, replies, diverged, strict=True)
    ]


def _not_finite(message: Message, client: int) -> Failure:
    number = int(_part(cast(ConfigRecord, _part(message.content, CONFIG)), ROUND))
    reason = "its model is not finite; a lower learning rate may help"
    return Failure(client=client, round=number, stage=phase(message), reason=reason, traceback="")


def _is_finite(content: RecordDict) -> bool:
    arrays = [array.numpy() for record in content.array_records.values() for array in record.values()]
    with np.errstate(over="ignore"):
        return all(bool(np.isfinite(array.astype(np.float32, copy=False)).all()) for array in arrays)


def describe(failed: Failure) -> str:
    """A failure in one line: which client, when, doing what, why."""
    return f"client {failed.client}, round {failed.round}, {failed.stage}: {failed.reason}"


def _content(updates: Updates, row: int) -> RecordDict:
    metrics: dict[str, int | float | list[float]] = {EXAMPLES: int(updates.examples[row])}
    metrics.update({name: values[row].tolist() for name, values in updates.metrics.items()})
    content = RecordDict({METRICS: MetricRecord(cast(Any, metrics))})
    if updates.weights.shape[1]:
        content[ARRAYS] = model_record(updates.weights[row])
    return content


def phase(message: Message) -> Literal["train", "evaluate"]:
    """Which of the two kinds of instruction this is; raises ValueError for any other."""
    kind = message.metadata.message_type
    if kind not in (MessageType.TRAIN, MessageType.EVALUATE):
        raise ValueError(f"message type {kind!r}: phones know {MessageType.TRAIN!r} and {MessageType.EVALUATE!r}")
    return kind
