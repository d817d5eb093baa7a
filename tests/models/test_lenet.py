"""The LeNet contract, field by field against the model that the seed app writes with SwiftCoreMLTools."""

from dataclasses import replace
from typing import Any

import pytest

from fedsim.coreml.contract import read_contract
from fedsim.coreml.lint import device_trainable, lint
from fedsim.coreml.schema import parse_model
from fedsim.coreml.settings import OneOf
from fedsim.coreml.weights import read_weights
from fedsim.models.lenet import layers, lenet_contract
from fedsim.updates import LocalTraining

ADAM = LocalTraining(epochs=5, batch_size=128, optimizer="adam", learning_rate=1e-4)
NO_PADDING = {"paddingAmounts": {"borderAmounts": [{}, {}]}}
MARKED = {"weights": {"isUpdatable": True}, "bias": {"isUpdatable": True}}
ONE_BY_ONE = {"nGroups": 1, "stride": [1, 1], "dilationFactor": [1, 1], "valid": NO_PADDING, "hasBias": True}
HALVING = {"kernelSize": [2, 2], "stride": [2, 2], "valid": NO_PADDING, "avgPoolExcludePadding": True}
IMAGE = {"name": "image", "type": {"multiArrayType": {"shape": [1, 28, 28], "dataType": 65568}}}

LAYERS = [
    ("conv1", "image", "outConv1", "convolution", MARKED | ONE_BY_ONE | {"kernelSize": [3, 3]}, (32, 1)),
    ("relu1", "outConv1", "outRelu1", "activation", {"ReLU": {}}, None),
    ("pooling1", "outRelu1", "outPooling1", "pooling", HALVING, None),
    ("conv2", "outPooling1", "outConv2", "convolution", MARKED | ONE_BY_ONE | {"kernelSize": [2, 2]}, (32, 32)),
    ("relu2", "outConv2", "outRelu2", "activation", {"ReLU": {}}, None),
    ("pooling2", "outRelu2", "outPooling2", "pooling", HALVING, None),
    ("flatten1", "outPooling2", "outFlatten1", "flatten", {"mode": 1}, None),
    ("hidden1", "outFlatten1", "outHidden1", "innerProduct", MARKED | {"hasBias": True}, (500, 1152)),
    ("relu3", "outHidden1", "outRelu3", "activation", {"ReLU": {}}, None),
    ("hidden2", "outRelu3", "outHidden2", "innerProduct", MARKED | {"hasBias": True}, (10, 500)),
    ("softmax", "outHidden2", "output", "softmax", {}, None),
]
"""Name, input, output, kind, settings, channels (out, in) of each layer; fields at their default of 0 are not set."""

SEED_APP = {
    "specificationVersion": 4,
    "isUpdatable": True,
    "description": {
        "input": [IMAGE],
        "output": [{"name": "output", "type": {"multiArrayType": {"shape": [10], "dataType": 65568}}}],
        "trainingInput": [
            IMAGE,
            {"name": "output_true", "type": {"multiArrayType": {"shape": [1], "dataType": 131104}}},
        ],
        "metadata": {
            "shortDescription": "MNIST-Trainable",
            "author": "Jacopo Mangiavacchi",
            "license": "MIT",
            "userDefined": {"SwiftCoremltoolsVersion": "0.0.12"},
        },
    },
    "neuralNetwork": {
        "updateParams": {
            "lossLayers": [
                {
                    "name": "lossLayer",
                    "categoricalCrossEntropyLossLayer": {"input": "output", "target": "output_true"},
                }
            ],
            "optimizer": {
                "adamOptimizer": {
                    "learningRate": {"defaultValue": 1e-4, "range": {"maxValue": 0.3}},
                    "miniBatchSize": {"defaultValue": 128, "set": {"values": [128]}},
                    "beta1": {"defaultValue": 0.9, "range": {"maxValue": 1.0}},
                    "beta2": {"defaultValue": 0.999, "range": {"maxValue": 1.0}},
                    "eps": {"defaultValue": 1e-8, "range": {"maxValue": 1e-8}},
                }
            },
            "epochs": {"defaultValue": 5, "set": {"values": [5]}},
            "shuffle": {"defaultValue": True},
        },
    },
}
"""All else that the seed app's model says."""

OURS = {
    "description.metadata.shortDescription": "LeNet for MNIST digits, trainable on the device",
    "description.metadata.author": "fedsim",
    "description.metadata.license": None,
    "description.metadata.userDefined.SwiftCoremltoolsVersion": None,
    "neuralNetwork.updateParams.optimizer.adamOptimizer.learningRate.range.maxValue": 1.0,
    "neuralNetwork.updateParams.optimizer.adamOptimizer.miniBatchSize.set.values": [1, 2, 4, 8, 16, 20, 32, 64, 128],
    "neuralNetwork.updateParams.optimizer.adamOptimizer.eps.range.maxValue": 1.0,
    "neuralNetwork.updateParams.epochs.set.values": list(range(1, 21)),
}
"""Where our model differs, and how: wider constraints, other words about itself."""


def told(message: Any) -> dict[str, Any]:
    """The fields that are set in a message, without the weights' numbers."""
    fields = {}
    for field, value in message.ListFields():
        if field.message_type and field.message_type.GetOptions().map_entry:
            fields[field.name] = dict(value)
        elif field.name != "floatValue":
            inner = told if field.message_type else lambda plain: plain
            fields[field.name] = [inner(each) for each in value] if field.is_repeated else inner(value)
    return fields


def flat(fields: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Nested fields by their dotted names."""
    names: dict[str, Any] = {}
    for name, value in fields.items():
        names |= flat(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return names


def listed(name: str, source: str, to: str, kind: str, settings: dict, channels: tuple[int, int] | None) -> dict:
    """A layer of the table as its message's fields."""
    body = dict(settings)
    if channels:
        body |= {"outputChannels": channels[0]}
        body |= {"kernelChannels" if kind == "convolution" else "inputChannels": channels[1]}
    return {"name": name, "input": [source], "output": [to], kind: body} | ({"isUpdatable": True} if channels else {})


def test_every_layer_is_the_seed_apps():
    model = parse_model(lenet_contract(ADAM, flatten="channel_last"))
    assert [told(layer) for layer in model.neuralNetwork.layers] == [listed(*row) for row in LAYERS]


def test_all_else_is_the_seed_apps_but_for_what_is_listed():
    model = parse_model(lenet_contract(ADAM, flatten="channel_last"))
    del model.neuralNetwork.layers[:]
    expected = flat(SEED_APP) | OURS
    assert flat(told(model)) == {name: value for name, value in expected.items() if value is not None}


def test_channel_first_differs_in_the_flatten_layer_alone():
    first, last = (parse_model(lenet_contract(ADAM, flatten=order)) for order in ("channel_first", "channel_last"))
    assert told(first.neuralNetwork.layers[6]) == {
        "name": "flatten1",
        "input": ["outPooling2"],
        "output": ["outFlatten1"],
        "flatten": {},
    }
    first.neuralNetwork.layers[6].flatten.mode = 1
    assert first == last


@pytest.mark.parametrize("flatten", ["channel_first", "channel_last"])
def test_the_file_has_the_seed_networks_size_and_zero_weights(flatten):
    data = lenet_contract(ADAM, flatten=flatten)
    contract = read_contract(data)
    assert contract.file == data
    assert contract.graph == layers(flatten)
    assert contract.parameters == 585_958
    assert not read_weights(data, contract.slots).any()
    assert len(data) < 4 * 585_958 + 1000


@pytest.mark.parametrize("flatten", ["channel_first", "channel_last"])
def test_a_phone_can_train_all_of_it(flatten):
    data = lenet_contract(ADAM, flatten=flatten)
    assert lint(data) == []
    assert device_trainable(data) == "all"


def test_a_phone_may_also_set_the_epochs_and_batch_size_that_the_file_is_built_with():
    contract = read_contract(lenet_contract(replace(ADAM, epochs=30, batch_size=7)))
    assert contract.allowed["epochs"] == OneOf(values=(*range(1, 21), 30))
    assert contract.allowed["batch_size"] == OneOf(values=(1, 2, 4, 7, 8, 16, 20, 32, 64, 128))
    assert read_contract(lenet_contract(ADAM)).allowed["epochs"] == OneOf(values=tuple(range(1, 21)))


def test_other_settings_outside_the_constraints_are_refused():
    with pytest.raises(ValueError, match=r"learning_rate = 1.5 is not allowed by the model; allowed: 0 to 1"):
        lenet_contract(replace(ADAM, learning_rate=1.5))
