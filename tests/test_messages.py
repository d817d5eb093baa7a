"""Messages in and out: nothing copied inside a process, nothing but Flower's own bytes on the wire."""

import copy
import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedsim.messages import (
    ARRAYS,
    CLIENT_APP_RAISED,
    CONFIG,
    EXAMPLES,
    METRICS,
    WEIGHTS,
    SharedArray,
    model_record,
    phase,
    read_orders,
    read_training,
    read_weights,
    training_record,
    write_replies,
)
from fedsim.updates import Failure, LocalTraining, Updates

VECTORS = Path(__file__).parent / "vectors" / "flower"
TRAINING = LocalTraining(epochs=3, batch_size=8, optimizer="adam", learning_rate=0.01, shuffle=False)


def vector(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def instruction(content: RecordDict, *, node: int = 7, kind: str = "train") -> Message:
    """A message as a strategy makes it, without the process identity that Flower's constructor asks for."""
    metadata = Metadata(
        run_id=1,
        message_id=f"instruction for {node}",
        src_node_id=1,
        dst_node_id=node,
        reply_to_message_id="",
        group_id="",
        created_at=1.8e9,
        ttl=3600.0,
        message_type=kind,
    )
    return Message(content=content, metadata=metadata)


def order_content(weights: NDArray[Any], number: int = 4, training: LocalTraining = TRAINING) -> RecordDict:
    config = training_record(training)
    config["server-round"] = number
    return RecordDict({ARRAYS: model_record(weights), CONFIG: config})


def updates_of(clients: list[int], weights: NDArray[np.float32], **rest: Any) -> Updates:
    return Updates(
        clients=np.array(clients),
        weights=weights,
        examples=np.arange(len(clients)) + 5,
        metrics={"train_loss": np.linspace(0.5, 1.5, len(clients))},
        **rest,
    )


def test_the_record_the_message_and_the_orders_hold_one_memory() -> None:
    weights = np.arange(50, dtype=np.float32)
    content = order_content(weights)
    ((orders, _),) = read_orders([instruction(content)], np.array([0]))
    assert np.shares_memory(model_record(weights)[WEIGHTS].numpy(), weights)
    assert np.shares_memory(orders.weights, weights)


def test_every_reply_is_a_row_of_the_stack() -> None:
    stack = np.arange(12, dtype=np.float32).reshape(3, 4)
    messages = [instruction(RecordDict(), node=node) for node in range(3)]
    replies = write_replies(messages, [0, 1, 2], updates_of([0, 1, 2], stack))
    for row, reply in enumerate(replies):
        array = cast(ArrayRecord, reply.content[ARRAYS])[WEIGHTS].numpy()
        assert np.shares_memory(array, stack[row])
        np.testing.assert_array_equal(array, stack[row])


@pytest.mark.parametrize("case", vector("npy")["cases"], ids=lambda case: f"{case['dtype']}{case['shape']}")
def test_its_data_are_the_npy_bytes_of_flowers_array(case: dict[str, Any]) -> None:
    count = int(np.prod(case["shape"]))
    values = (np.arange(count) % 7).astype(case["dtype"]).reshape(case["shape"])
    if case.get("fortran_order"):
        values = np.asfortranarray(values)
    shared = SharedArray(values)
    assert shared.data == Array(values).data
    assert hashlib.sha256(shared.data).hexdigest() == case["sha256"]
    assert (shared.dtype, shared.shape, shared.stype) == (case["dtype"], tuple(case["shape"]), "numpy.ndarray")


@pytest.mark.parametrize("case", vector("chunking")["cases"], ids=lambda case: case["name"])
def test_it_is_cut_into_the_golden_chunks(case: dict[str, Any]) -> None:
    make = np.arange if case["name"].startswith("ramp") else np.zeros
    shared = SharedArray(make(case["elements"], dtype=np.float32))
    chunks = shared.slice_array()
    assert [identity for identity, _ in chunks] == case["chunk_ids_in_order"]
    assert [len(cast(Any, chunk).data) for _, chunk in chunks] == case["chunk_sizes"]
    assert shared.deflate().decode() == case["array_content"]
    assert shared.object_id == case["array_object_id"]


def test_an_instruction_of_shared_arrays_is_the_golden_one_object_by_object() -> None:
    golden = vector("train_message")
    content = RecordDict({ARRAYS: shared_record(golden), CONFIG: ConfigRecord(golden["decoded"]["config"])})
    message = Message(content=content, metadata=golden_metadata(golden))
    assert objects(message) == golden_objects(golden)
    assert tree(get_object_tree(message)) == golden["object_tree"]


def test_a_reply_of_shared_arrays_is_the_golden_one_object_by_object() -> None:
    golden = vector("train_reply")
    metrics = MetricRecord(golden["decoded"]["metrics"])
    content = RecordDict({ARRAYS: shared_record(golden), METRICS: metrics})
    reply = timed_as(golden, Message(content, reply_to=inflate(vector("train_message"))))
    assert objects(reply) == golden_objects(golden)
    assert tree(get_object_tree(reply)) == golden["object_tree"]


def test_an_error_reply_is_the_golden_one_but_for_its_reason() -> None:
    golden = vector("error_reply")
    failure = Failure(client=3, round=1, stage="train", reason="no data", traceback="")
    updates = updates_of([], np.empty((0, 2), np.float32), failures=(failure,))
    (reply,) = write_replies([inflate(vector("train_message"))], [3], updates)
    expected = inflate(golden)
    assert reply.error.code == expected.error.code == CLIENT_APP_RAISED
    expected.error = Error(CLIENT_APP_RAISED, reply.error.reason)
    assert timed_as(golden, reply).deflate() == expected.deflate()


def test_what_write_replies_makes_survives_the_wire() -> None:
    stack = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    messages = [instruction(RecordDict(), node=node) for node in (70, 71)]
    replies = write_replies(messages, [0, 1], updates_of([0, 1], stack))
    for row, reply in enumerate(replies):
        arrived = cast(Message, inflate_object_from_contents(reply.object_id, objects(reply)))
        np.testing.assert_array_equal(read_weights(cast(ArrayRecord, arrived.content[ARRAYS])), stack[row])
        assert arrived.content[METRICS] == reply.content[METRICS]
        assert arrived.metadata.reply_to_message_id == messages[row].metadata.message_id


def test_orders_read_off_the_wire_are_those_that_were_sent() -> None:
    sent = instruction(order_content(np.linspace(-1, 1, 5, dtype=np.float32)))
    arrived = cast(Message, inflate_object_from_contents(sent.object_id, objects(sent)))
    ((here, _),) = read_orders([sent], np.array([0]))
    ((there, _),) = read_orders([arrived], np.array([0]))
    np.testing.assert_array_equal(there.weights, here.weights)
    assert (there.round, there.training) == (here.round, here.training) == (4, TRAINING)


@pytest.mark.parametrize("case", [case for case in vector("records")["cases"] if case["type"] == "ConfigRecord"])
def test_a_golden_config_of_somebody_elses_keys_changes_no_setting(case: dict[str, Any]) -> None:
    theirs = ConfigRecord.inflate(bytes.fromhex(case["content_hex"]))
    config = ConfigRecord({**training_record(TRAINING), **{key: theirs[key] for key in theirs}})
    mu = cast(float, theirs.get("proximal-mu", TRAINING.proximal_mu))
    assert read_training(config) == replace(TRAINING, proximal_mu=mu)


def test_one_content_is_one_orders_and_each_other_content_its_own() -> None:
    shared, other = order_content(np.zeros(3, np.float32)), order_content(np.ones(3, np.float32), number=9)
    twin = order_content(np.zeros(3, np.float32))
    messages = [instruction(content) for content in (shared, other, shared, twin, shared)]
    found = read_orders(messages, np.array([50, 51, 52, 53, 54]))
    assert [rows.tolist() for _, rows in found] == [[0, 2, 4], [1], [3]]
    assert [orders.clients.tolist() for orders, _ in found] == [[50, 52, 54], [51], [53]]
    assert [orders.round for orders, _ in found] == [4, 9, 4]


def test_no_messages_are_no_orders() -> None:
    assert read_orders([], np.array([], np.int64)) == []


def test_an_evaluation_has_no_training() -> None:
    message = instruction(order_content(np.zeros(3, np.float32)), kind="evaluate")
    assert read_orders([message], np.array([0]))[0][0].training is None


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4"])
def test_every_float_arrives_as_native_float32(dtype: Any) -> None:
    values = np.array([0.1, -2.5, 3e-5])
    ((orders, _),) = read_orders([instruction(order_content(values.astype(dtype)))], np.array([0]))
    assert orders.weights.dtype == np.dtype(np.float32)
    np.testing.assert_array_equal(orders.weights, values.astype(dtype).astype(np.float32))


def test_contents_are_left_as_they_were() -> None:
    content = order_content(np.linspace(0, 1, 7))
    before, memory = copy.deepcopy(content).deflate(), content[ARRAYS][WEIGHTS].numpy()
    messages = [instruction(content, node=node) for node in (70, 71)]
    read_orders(messages, np.array([0, 1]))
    write_replies(messages, [0, 1], updates_of([0, 1], np.ones((2, 7), np.float32)))
    assert content.deflate() == before
    assert all(message.content is content for message in messages)
    assert content[ARRAYS][WEIGHTS].numpy() is memory


def test_the_weights_of_orders_cannot_be_written_to() -> None:
    weights = np.zeros(3, np.float32)
    ((orders, _),) = read_orders([instruction(order_content(weights))], np.array([0]))
    with pytest.raises(ValueError, match="read-only"):
        orders.weights[0] = 1
    assert weights.flags.writeable


@pytest.mark.parametrize("names", [[], ["w"], [WEIGHTS, "bias"], ["conv.weight", "conv.bias"]])
def test_a_record_that_is_not_the_one_array_is_refused_in_words(names: list[str]) -> None:
    record = ArrayRecord({name: Array(np.zeros(2, np.float32)) for name in names})
    with pytest.raises(ValueError, match="it must hold one, 'weights'") as refusal:
        read_weights(record)
    assert str(names) in str(refusal.value)


@pytest.mark.parametrize("shape", [(), (2, 3), (1, 6)])
def test_an_array_that_is_not_flat_is_refused_in_words(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="flat"):
        read_weights(model_record(np.zeros(shape, np.float32)))


@pytest.mark.parametrize("missing", [ARRAYS, CONFIG, "server-round"])
def test_an_instruction_without_a_part_is_refused_in_words(missing: str) -> None:
    content = order_content(np.zeros(3, np.float32))
    del (content[CONFIG] if missing == "server-round" else content)[missing]
    with pytest.raises(ValueError, match=missing):
        read_orders([instruction(content)], np.array([0]))


@given(
    st.builds(
        LocalTraining,
        epochs=st.integers(1, 100),
        batch_size=st.integers(1, 1000),
        optimizer=st.sampled_from(["sgd", "adam"]),
        epsilon_form=st.sampled_from(["torch", "mps"]),
        **{field.name: st.floats(0, 10) for field in fields(LocalTraining) if field.type in (float, "float")},
    )
)
def test_it_travels_unchanged(training: LocalTraining) -> None:
    record = ConfigRecord.inflate(training_record(training).deflate())
    assert read_training(record) == training


def test_a_missing_setting_takes_its_default_and_unknown_keys_are_left_alone() -> None:
    required = {"epochs": 1, "batch-size": 2, "optimizer": "sgd", "learning-rate": 0.5}
    config = ConfigRecord({**required, "server-round": 3, "learning_rate": 9.0, "somebody-elses": [1, 2]})
    assert read_training(config) == LocalTraining(epochs=1, batch_size=2, optimizer="sgd", learning_rate=0.5)


def test_a_missing_setting_without_a_default_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"batch-size.*learning-rate"):
        read_training(ConfigRecord({"epochs": 1, "optimizer": "sgd"}))


def test_fedprox_overrules_the_proximal_term() -> None:
    content = order_content(np.zeros(3, np.float32))
    cast(ConfigRecord, content[CONFIG])["proximal-mu"] = 0.25  # as flwr.serverapp.strategy.FedProx does
    ((orders, _),) = read_orders([instruction(content)], np.array([0]))
    assert orders.training == replace(TRAINING, proximal_mu=0.25)


def test_replies_follow_the_messages_not_the_stack() -> None:
    clients = [4, 2, 9]
    messages = [instruction(RecordDict(), node=70 + client) for client in clients]
    failure = Failure(client=2, round=6, stage="train", reason="ValueError: no examples", traceback="a\nb")
    updates = updates_of([9, 4], np.array([[9], [4]], np.float32), failures=(failure,))
    first, second, third = write_replies(messages, clients, updates)
    assert read_weights(cast(ArrayRecord, first.content[ARRAYS])).tolist() == [4]
    assert first.content[METRICS] == {EXAMPLES: 6, "train_loss": 1.5}
    assert second.error.code == CLIENT_APP_RAISED
    assert second.error.reason == "client 2, round 6, train: ValueError: no examples"
    assert third.content[METRICS] == {EXAMPLES: 5, "train_loss": 0.5}
    assert [reply.metadata.src_node_id for reply in (first, second, third)] == [74, 72, 79]
    assert [reply.metadata.reply_to_message_id for reply in (first, second, third)] == [
        message.metadata.message_id for message in messages
    ]


def test_an_evaluation_carries_metrics_alone() -> None:
    message = instruction(RecordDict(), kind="evaluate")
    (reply,) = write_replies([message], [0], updates_of([0], np.empty((1, 0), np.float32)))
    assert list(reply.content) == [METRICS]
    assert reply.metadata.message_type == "evaluate"


def test_a_series_of_figures_travels_as_a_list() -> None:
    updates = updates_of([0, 1], np.ones((2, 3), np.float32))
    updates.metrics["epoch_losses"] = np.array([[2.0, 1.0], [4.0, 3.0]])
    replies = write_replies([instruction(RecordDict()) for _ in range(2)], [1, 0], updates)
    assert [reply.content.metric_records[METRICS]["epoch_losses"] for reply in replies] == [[4.0, 3.0], [2.0, 1.0]]


def test_a_client_that_neither_replied_nor_failed_is_a_fault() -> None:
    messages = [instruction(RecordDict(), node=node) for node in (70, 71)]
    with pytest.raises(ValueError, match="client 8 neither replied nor failed"):
        write_replies(messages, [5, 8], updates_of([5], np.zeros((1, 2), np.float32)))


def test_as_many_clients_as_messages() -> None:
    with pytest.raises(ValueError, match="zip"):
        write_replies([instruction(RecordDict())], [0, 1], updates_of([0, 1], np.zeros((2, 2), np.float32)))


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_phones_know_two_phases(kind: str) -> None:
    assert phase(instruction(RecordDict(), kind=kind)) == kind


@pytest.mark.parametrize("kind", ["query", "train.twice"])
def test_any_other_instruction_is_refused_in_words(kind: str) -> None:
    with pytest.raises(ValueError, match=f"message type '{kind}': phones know 'train' and 'evaluate'"):
        phase(instruction(RecordDict(), kind=kind))


def shared_record(golden: Any) -> ArrayRecord:
    """The vector's arrays as `SharedArray`."""
    record = ArrayRecord()
    for name, array in golden["decoded"]["arrays"].items():
        record[name] = SharedArray(np.array(array["values"], array["dtype"]).reshape(array["shape"]))
    return record


def golden_metadata(golden: Any) -> Metadata:
    """The vector's metadata; integers of 64 bits are texts in JSON."""
    numbers = ("run_id", "src_node_id", "dst_node_id", "src_task_id", "dst_task_id")
    return Metadata(
        **{key: int(value) if key in numbers and value else value for key, value in golden["metadata"].items()}
    )


def golden_objects(golden: Any) -> dict[str, bytes]:
    return {part["object_id"]: bytes.fromhex(part["content_hex"]) for part in golden["objects"]}


def objects(message: Message) -> dict[str, bytes]:
    """Everything that goes over the wire for a message, children before parents."""
    return {identity: part.deflate() for identity, part in get_all_nested_objects(message).items()}


def inflate(golden: Any) -> Message:
    """The vector's message as Flower reads it, with the id that the wire carries beside it."""
    identity = golden["metadata"]["message_id"]
    message = cast(Message, inflate_object_from_contents(identity, golden_objects(golden)))
    message.metadata.__dict__["_message_id"] = identity
    return message


def timed_as(golden: Any, reply: Message) -> Message:
    """The reply with the vector's clock: a fresh one says when it was made."""
    reply.metadata.created_at, reply.metadata.ttl = golden["metadata"]["created_at"], golden["metadata"]["ttl"]
    return reply


def tree(node: Any) -> dict[str, Any]:
    return {"object_id": node.object_id, "children": [tree(child) for child in node.children]}
