"""Thousands of damaged model files: each is read as some model or refused with a ValueError, never read beyond."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
import torch

from fedsim.coreml import interpret
from fedsim.coreml.build import build_model
from fedsim.coreml.contract import read_contract
from fedsim.coreml.layers import Activation, BatchNorm, Convolution, Flatten, InnerProduct, Layer, Pooling, Softmax
from fedsim.coreml.lint import device_trainable, lint
from fedsim.coreml.schema import parse_model, serialize
from fedsim.coreml.weights import read_weights, scan, write_weights
from fedsim.models.digits import IMAGE
from fedsim.updates import LocalTraining
from tests.coreml.networks import with_weights

T = TypeVar("T")
FILES = 6000
SGD = LocalTraining(epochs=1, batch_size=4, optimizer="sgd", learning_rate=0.1)


def network() -> tuple[Layer, ...]:
    """A little of everything, in few bytes."""
    first = {"input_channels": 1, "output_channels": 2, "kernel": (3, 3), "stride": (5, 5), "updatable": True}
    return (
        Convolution(name="conv", inputs=("image",), outputs=("a",), **first),
        BatchNorm(name="norm", inputs=("a",), outputs=("b",), channels=2, epsilon=0.5),
        Activation(name="relu", inputs=("b",), outputs=("c",), function="relu"),
        Pooling(name="pool", inputs=("c",), outputs=("d",), function="max", kernel=(3, 3), stride=(3, 3)),
        Flatten(name="flat", inputs=("d",), outputs=("e",)),
        InnerProduct(name="fc", inputs=("e",), outputs=("f",), input_channels=8, output_channels=3, updatable=True),
        Softmax(name="softmax", inputs=("f",), outputs=("g",)),
    )


@pytest.fixture(scope="module")
def whole() -> bytes:
    weights = with_weights(network(), IMAGE, seed=0).weights
    return build_model(layers=network(), input=IMAGE, loss="cross_entropy", training=SGD, weights=weights)


def flip(data: bytes, generator: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for position in generator.integers(len(data), size=generator.integers(1, 4)):
        damaged[position] ^= 1 << generator.integers(8)
    return bytes(damaged)


def overwrite(data: bytes, generator: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    damaged[generator.integers(len(data))] = generator.choice([0, 1, 2, 8, 10, 127, 128, 255])
    return bytes(damaged)


def cut(data: bytes, generator: np.random.Generator) -> bytes:
    return data[: generator.integers(len(data))]


def drop(data: bytes, generator: np.random.Generator) -> bytes:
    start = generator.integers(len(data))
    return data[:start] + data[start + generator.integers(1, 9) :]


def repeat(data: bytes, generator: np.random.Generator) -> bytes:
    start, end = np.sort(generator.integers(len(data), size=2))
    return data[:end] + data[start:end][:64] + data[end:]


def insert(data: bytes, generator: np.random.Generator) -> bytes:
    at = generator.integers(len(data))
    return data[:at] + generator.bytes(int(generator.integers(1, 9))) + data[at:]


def change_a_field(data: bytes, generator: np.random.Generator) -> bytes:
    """A well-formed file in which one field somewhere is gone, doubled or has another value."""
    model = parse_model(data)
    message, fields = model, model.ListFields()
    while True:
        field, value = fields[generator.integers(len(fields))]
        inner = value[generator.integers(len(value))] if field.is_repeated else value
        fields = inner.ListFields() if field.message_type else []
        if not fields or generator.random() < 0.1:
            break
        message = inner
    if generator.random() < 0.3:
        message.ClearField(field.name)
    elif field.is_repeated:
        value.extend([inner])
    elif field.message_type:
        value.Clear()
    else:
        setattr(message, field.name, another(inner, generator))
    return serialize(model)


def another(value: object, generator: np.random.Generator) -> object:
    match value:
        case bool():
            return not value
        case int():
            return int(generator.choice([0, 1, 2, 3, 5, 2**31 - 1]))
        case float():
            return float(generator.choice([0, -1, np.nan, np.inf]))
        case str():
            return str(generator.choice(["", "conv", "image", "a", "g", "g_true"]))
        case _:
            return b"\x00\x01"


@pytest.mark.parametrize("damage", [flip, overwrite, cut, drop, repeat, insert, change_a_field])
def test_a_damaged_file_is_read_as_some_model_or_refused(damage, whole):
    generator = np.random.default_rng(sum(map(ord, damage.__name__)))
    read = sum(survives(damage(whole, generator)) for _ in range(FILES // 7))
    assert read < FILES // 7


def test_whatever_is_read_can_be_run(whole):
    generator, ran = np.random.default_rng(2), 0
    for _ in range(300):
        contract = attempted(read_contract, change_a_field(whole, generator))
        if contract is not None:
            parameters = interpret.parameters(contract, torch.zeros(contract.parameters))
            scores = interpret.logits(contract, parameters, torch.zeros(2, *contract.input_shape))
            assert scores.shape == (2, contract.classes)
            ran += 1
    assert ran > 30


def survives(data: bytes) -> bool:
    """Whether the file is read as a contract, after every check on whatever could be read."""
    slots = attempted(scan, data)
    if slots is not None:
        vector = read_weights(data, slots)
        assert all(0 < slot.offset <= len(data) - 4 * slot.count for slot in slots)
        assert write_weights(data, slots, vector) == data
    attempted(lint, data)
    attempted(device_trainable, data)
    contract = attempted(read_contract, data)
    if contract is None:
        return False
    assert contract.file == serialize(parse_model(data))
    layers = {layer.name: layer for layer in parse_model(contract.file).neuralNetwork.layers}
    vector = read_weights(contract.file, contract.slots)
    start = 0
    for slot in contract.slots:
        body = getattr(layers[slot.layer], layers[slot.layer].WhichOneof("layer"))
        values = np.array(getattr(body, slot.parameter).floatValue, np.float32)
        np.testing.assert_array_equal(vector[start : start + slot.count], values)
        start += slot.count
    return True


def attempted(read: Callable[[bytes], T], data: bytes) -> T | None:
    """What ``read`` makes of the file, None if it refuses; any other error than a plain ValueError is a failure."""
    try:
        return read(data)
    except ValueError as error:
        refusal = error
    assert type(refusal) is ValueError
    assert str(refusal)
    return None
