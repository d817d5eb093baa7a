"""Finding, reading and replacing weights in a model file, held to coremltools and to protobuf."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedsim.coreml import layers as L
from fedsim.coreml.build import ALLOWED, Input, build_model
from fedsim.coreml.contract import read_contract
from fedsim.coreml.schema import parse_model, serialize
from fedsim.coreml.weights import Slot, named_weights, parameter_count, read_weights, scan, write_weights
from fedsim.models.digits import IMAGE
from fedsim.models.lenet import layers as lenet_layers
from fedsim.updates import LocalTraining
from tests.coreml.coremltools_twin import built_by_coremltools
from tests.coreml.networks import networks, with_weights

SGD = LocalTraining(epochs=1, batch_size=1, optimizer="sgd", learning_rate=0.1)
TINY = (
    L.Convolution(
        name="conv",
        inputs=("x",),
        outputs=("a",),
        input_channels=1,
        output_channels=2,
        kernel=(2, 2),
        updatable=True,
    ),
    L.InnerProduct(name="frozen", inputs=("a",), outputs=("b",), input_channels=8, output_channels=3),
    L.InnerProduct(name="dense", inputs=("b",), outputs=("y",), input_channels=3, output_channels=2, updatable=True),
)


def tiny() -> bytes:
    network = with_weights(TINY, Input(name="x", shape=(1, 3, 3)), seed=0)
    return build_model(
        layers=TINY, input=network.input, loss="mean_squared_error", training=SGD, weights=network.weights
    )


def seed_network(optimizer: str) -> object:
    """The seed network as coremltools builds it, with random weights."""
    network = with_weights(lenet_layers(), IMAGE, seed=3)
    return built_by_coremltools(
        layers=network.layers,
        input=network.input,
        output_shape=(10,),
        loss="cross_entropy",
        training=replace(SGD, optimizer=optimizer),
        weights=network.weights,
        epochs=ALLOWED["epochs"].values,
        batches=ALLOWED["batch_size"].values,
        shuffle_seed=1,
        description="",
    )


def test_the_slots_of_the_seed_network_lie_where_they_do_that_was_measured_before():
    spec = seed_network("adam")
    spec.description.metadata.author = "probe"
    slots = scan(spec.SerializeToString())
    assert [slot.offset for slot in slots] == [188, 1350, 1657, 18051, 18382, 2322392, 2324489, 2344497]
    assert [(slot.layer, slot.parameter, slot.shape) for slot in slots] == [
        ("conv1", "weights", (32, 1, 3, 3)),
        ("conv1", "bias", (32,)),
        ("conv2", "weights", (32, 32, 2, 2)),
        ("conv2", "bias", (32,)),
        ("hidden1", "weights", (500, 1152)),
        ("hidden1", "bias", (500,)),
        ("hidden2", "weights", (10, 500)),
        ("hidden2", "bias", (10,)),
    ]
    assert parameter_count(slots) == 585_958


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_patch_is_what_coremltools_writes_for_the_same_floats(optimizer):
    spec = seed_network(optimizer)
    data = spec.SerializeToString()
    generator = np.random.default_rng(8)
    vector = generator.standard_normal(585_958).astype(np.float32)
    vector[generator.random(len(vector)) < 0.01] = -0.0
    vector[generator.random(len(vector)) < 0.01] = 0.0
    vector[:2] = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    slots = scan(data)
    patched = write_weights(data, slots, vector)
    layers = {layer.name: layer for layer in spec.neuralNetwork.layers}
    for name, values in named_weights(slots, vector).items():
        layer, parameter = name.split(".")
        kind = layers[layer].WhichOneof("layer")
        getattr(getattr(layers[layer], kind), parameter).floatValue[:] = values.ravel().tolist()
    assert np.signbit(vector[vector == 0]).any()
    assert patched == spec.SerializeToString()
    assert read_weights(patched, slots).tobytes() == vector.tobytes()


@settings(max_examples=60, deadline=None)
@given(networks())
def test_the_scanner_finds_what_protobuf_finds(network):
    """For any network: the same layers, the same values, frozen ones passed over."""
    data = build_model(
        layers=network.layers, input=network.input, loss="cross_entropy", training=SGD, weights=network.weights
    )
    found = named_weights(scan(data), read_weights(data, scan(data)))
    expected = [
        (layer.name, parameter)
        for layer in network.layers
        if L.is_updatable(layer)
        for parameter in L.parameter_shapes(layer)
    ]
    assert list(found) == [f"{layer}.{parameter}" for layer, parameter in expected]
    for (layer, parameter), values in zip(expected, found.values(), strict=True):
        np.testing.assert_array_equal(values, network.weights[layer, parameter], strict=True)


@given(arrays.arrays(np.float32, 18, elements=st.floats(width=32)))
def test_any_weights_survive_the_file_and_nothing_else_changes(vector):
    data = tiny()
    slots = scan(data)
    patched = write_weights(data, slots, vector)
    assert read_weights(patched, slots).tobytes() == vector.tobytes()
    assert len(patched) == len(data)
    assert write_weights(patched, slots, read_weights(data, slots)) == data
    inside = {byte for slot in slots for byte in range(slot.offset, slot.offset + 4 * slot.count)}
    assert all(patched[i] == data[i] for i in range(len(data)) if i not in inside)


def test_named_weights_are_views_in_slot_order():
    slots, vector = scan(tiny()), np.zeros(18, np.float32)
    named = named_weights(slots, vector)
    assert {name: array.shape for name, array in named.items()} == {
        "conv.weights": (2, 1, 2, 2),
        "conv.bias": (2,),
        "dense.weights": (2, 3),
        "dense.bias": (2,),
    }
    for value, array in enumerate(named.values()):
        array[...] = value
    assert vector.tolist() == [0] * 8 + [1] * 2 + [2] * 6 + [3] * 2


@pytest.mark.parametrize("vector", [np.zeros(17, np.float32), np.zeros(18), np.zeros((1, 18), np.float32)])
def test_a_vector_of_another_shape_or_type_is_refused(vector):
    with pytest.raises(ValueError, match=r"expected weights float32\[18\], got "):
        write_weights(tiny(), scan(tiny()), vector)


@pytest.mark.parametrize("offset", [-1, 10_000])
def test_slots_of_another_file_are_refused(offset):
    slots = (Slot(layer="conv", parameter="bias", shape=(2,), offset=offset),)
    with pytest.raises(ValueError, match=r"conv.bias lies outside the file"):
        read_weights(tiny(), slots)
    with pytest.raises(ValueError, match=r"conv.bias lies outside the file"):
        write_weights(tiny(), slots, np.zeros(2, np.float32))


def edited(edit) -> bytes:
    model = parse_model(tiny())
    edit(model.neuralNetwork.layers[0].convolution, model)
    return serialize(model)


def store_as_half(array) -> None:
    array.float16Value = np.array(array.floatValue, np.float16).tobytes()
    array.ClearField("floatValue")


REFUSED = [
    (lambda c, m: c.weights.floatValue.append(0), r"conv.weights holds 9 numbers, its shape \(2, 1, 2, 2\) needs 8"),
    (lambda c, m: c.weights.ClearField("floatValue"), r"conv.weights holds 0 numbers"),
    (lambda c, m: c.bias.ClearField("floatValue"), r"conv.bias holds 0 numbers"),
    (lambda c, m: c.ClearField("bias"), "conv.bias is missing"),
    (lambda c, m: setattr(c.bias, "isUpdatable", False), "conv.bias is not marked updatable although conv is"),
    (lambda c, m: store_as_half(c.weights), "conv.weights is updatable but not float32"),
    (lambda c, m: c.weights.quantization.SetInParent(), "conv.weights is updatable but not float32"),
    (lambda c, m: c.kernelSize.append(2), "kernel of layer conv is not two numbers"),
    (lambda c, m: setattr(m.neuralNetwork.layers[2], "name", "conv"), "two updatable layers share a name"),
    (lambda c, m: m.neuralNetwork.layers[0].softmax.SetInParent(), "conv is updatable but neither"),
    (lambda c, m: m.identity.SetInParent(), "expected one neural network in the model file, found 0"),
]


@pytest.mark.parametrize(("edit", "words"), REFUSED)
def test_the_scanner_refuses_in_words(edit, words):
    with pytest.raises(ValueError, match=words):
        scan(edited(edit))


def test_numbers_without_a_bias_flag_are_not_a_slot():
    data = edited(lambda c, m: setattr(c, "hasBias", False))
    assert [slot.layer + "." + slot.parameter for slot in scan(data)][:2] == ["conv.weights", "dense.weights"]


def test_an_unset_kernel_means_three_by_three():
    graph = (replace(TINY[0], kernel=(3, 3)), replace(TINY[1], input_channels=2), TINY[2])
    data = build_model(layers=graph, input=Input(name="x", shape=(1, 3, 3)), loss="mean_squared_error", training=SGD)
    model = parse_model(data)
    model.neuralNetwork.layers[0].convolution.ClearField("kernelSize")
    assert scan(serialize(model))[0].shape == (2, 1, 3, 3)
    assert read_contract(serialize(model)).graph == graph


def test_floats_in_two_runs_are_refused_by_the_scanner_and_made_one_by_the_reader():
    """Legal protobuf: a packed field may come in pieces, or unpacked, number by number."""
    original = tiny()
    model = parse_model(original)
    values = list(model.neuralNetwork.layers[0].convolution.weights.floatValue)
    halves = b"".join(b"\x0a\x10" + struct.pack("<4f", *half) for half in (values[:4], values[4:]))
    single = b"".join(b"\x0d" + struct.pack("<f", value) for value in values)
    for runs in (halves, single):
        data = with_conv_weights(original, runs + b"\x90\x03\x01")
        assert parse_model(data) == model
        with pytest.raises(ValueError, match="malformed model: field 1"):
            scan(data)
        assert read_contract(data).file == original


def with_conv_weights(data: bytes, body: bytes) -> bytes:
    """The file with other bytes for conv's WeightParams, every length around it put right."""
    model = parse_model(data)
    layer = model.neuralNetwork.layers[0]
    rest = parse_model(data).neuralNetwork.layers[0].convolution
    rest.ClearField("weights")
    convolution = serialize(rest) + field(90, body)
    layer.ClearField("convolution")
    layer_bytes = serialize(layer) + field(100, convolution)
    others = b"".join(field(1, serialize(other)) for other in list(model.neuralNetwork.layers)[1:])
    del model.neuralNetwork.layers[:]
    network = field(1, layer_bytes) + others + serialize(model.neuralNetwork)
    model.ClearField("neuralNetwork")
    return serialize(model) + field(500, network)


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)
