"""Our builder against coremltools' builder, byte for byte, and against our own reader."""

import numpy as np
import pytest
from hypothesis import assume, given, settings

from fedsim.coreml import layers as L
from fedsim.coreml.build import ALLOWED, Input, build_model
from fedsim.coreml.contract import read_contract
from fedsim.coreml.settings import Between, OneOf
from fedsim.models.digits import IMAGE
from fedsim.models.lenet import layers as lenet_layers
from fedsim.updates import LocalTraining
from tests.coreml.coremltools_twin import built_by_coremltools
from tests.coreml.networks import Network, networks, with_weights

SGD = LocalTraining(epochs=2, batch_size=20, optimizer="sgd", learning_rate=0.05, momentum=0.9)
ADAM = LocalTraining(epochs=10, batch_size=128, optimizer="adam", learning_rate=1e-3, beta1=0.8, epsilon=1e-7)


def both(
    network: Network, output_shape: tuple[int, ...], training: LocalTraining = SGD, **options
) -> tuple[bytes, bytes]:
    """The network as our builder and as coremltools' writes it."""
    given = {"layers": network.layers, "input": network.input, "weights": network.weights, "training": training}
    given |= {"loss": "cross_entropy", "shuffle_seed": None, "description": "a test"} | options
    epochs, batches = ALLOWED["epochs"].values, ALLOWED["batch_size"].values
    theirs = built_by_coremltools(**given, output_shape=output_shape, epochs=epochs, batches=batches)
    return build_model(**given), theirs.SerializeToString()


@pytest.mark.parametrize("training", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("flatten", ["channel_first", "channel_last"])
@pytest.mark.parametrize("shuffle_seed", [None, 0, 1234])
def test_the_seed_network_is_what_coremltools_builds(training, flatten, shuffle_seed):
    network = with_weights(lenet_layers(flatten), IMAGE, seed=1)
    ours, theirs = both(network, (10,), training, shuffle_seed=shuffle_seed)
    assert ours == theirs


def mobile_net_like() -> Network:
    """Strided, padded and depthwise convolutions with batch norm folded in, global pooling, as MobileNetV1 has them."""
    graph: list[L.Layer] = []
    source, channels = "image", 3
    for index, (outputs, stride, groups) in enumerate([(8, 2, 1), (8, 1, 8), (16, 1, 1), (16, 2, 16), (24, 1, 1)]):
        kernel = 1 if groups == 1 and index else 3
        convolution = L.Convolution(
            name=f"conv{index}",
            inputs=(source,),
            outputs=(f"c{index}",),
            input_channels=channels,
            output_channels=outputs,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            groups=groups,
            padding=L.Same(asymmetry=("bottom_right_heavy", "top_left_heavy")[index % 2]),
            updatable=True,
        )
        relu = L.Activation(name=f"relu{index}", inputs=(f"c{index}",), outputs=(f"r{index}",), function="relu")
        graph, source, channels = [*graph, convolution, relu], f"r{index}", outputs
    graph += [
        L.Pooling(name="pool", inputs=(source,), outputs=("p",), function="average", is_global=True),
        L.Flatten(name="flat", inputs=("p",), outputs=("f",)),
        L.InnerProduct(
            name="fc", inputs=("f",), outputs=("z",), input_channels=channels, output_channels=5, updatable=True
        ),
        L.Softmax(name="softmax", inputs=("z",), outputs=("prob",)),
    ]
    return with_weights(graph, Input(name="image", shape=(3, 16, 16)), seed=2)


def regression() -> Network:
    """A dense network of sigmoid and tanh on a vector."""
    dense = {"inputs": ("x",), "outputs": ("a",), "input_channels": 6, "output_channels": 4, "updatable": True}
    graph = [
        L.InnerProduct(name="first", **dense, has_bias=False),
        L.Activation(name="sigmoid", inputs=("a",), outputs=("b",), function="sigmoid"),
        L.Activation(name="tanh", inputs=("b",), outputs=("c",), function="tanh"),
        L.InnerProduct(name="last", **dense | {"inputs": ("c",), "outputs": ("y",), "input_channels": 4}),
    ]
    return with_weights(graph, Input(name="x", shape=(6,)), seed=3)


@pytest.mark.parametrize("training", [SGD, ADAM], ids=["sgd", "adam"])
def test_a_mobile_network_is_what_coremltools_builds(training):
    ours, theirs = both(mobile_net_like(), (5,), training)
    assert ours == theirs


@pytest.mark.parametrize("training", [SGD, ADAM], ids=["sgd", "adam"])
def test_a_regression_is_what_coremltools_builds(training):
    ours, theirs = both(regression(), (4,), training, loss="mean_squared_error")
    assert ours == theirs


def test_unshuffled_data_is_what_coremltools_builds():
    ours, theirs = both(regression(), (4,), LocalTraining(**vars(SGD) | {"shuffle": False}), loss="mean_squared_error")
    assert ours == theirs


@settings(max_examples=100, deadline=None)
@given(networks())
def test_any_network_is_what_coremltools_builds_and_reads_back_as_itself(network):
    assume(not isinstance(network.layers[0], L.Scale))  # on which coremltools 9.0 stumbles in make_updatable
    ours, theirs = both(network, (3,))
    assert ours == theirs
    contract = read_contract(ours)
    assert contract.file == ours
    assert contract.graph == network.layers
    assert contract.training == SGD
    assert contract.allowed == {key: ALLOWED[key] for key in ("epochs", "batch_size", "learning_rate", "momentum")}
    names = {(slot.layer, slot.parameter) for slot in contract.slots}
    assert contract.frozen.keys() | names == network.weights.keys()
    for key, constant in contract.frozen.items():
        np.testing.assert_array_equal(constant, network.weights[key], strict=True)


def test_constraints_may_be_ranges_or_missing():
    network = regression()
    allowed = {"batch_size": Between(low=1, high=64), "learning_rate": Between(low=0.0, high=0.5)}
    data = build_model(
        layers=network.layers, input=network.input, loss="mean_squared_error", training=SGD, allowed=allowed
    )
    assert read_contract(data).allowed == allowed


def test_weights_that_are_not_given_are_zero():
    network = regression()
    data = build_model(layers=network.layers, input=network.input, loss="mean_squared_error", training=SGD)
    assert read_contract(data).parameters == 6 * 4 + 4 * 4 + 4
    assert read_contract(data).file.count(bytes(4 * 24)) == 1


MISTAKES = [
    (
        {"training": LocalTraining(**vars(SGD) | {"batch_size": 7})},
        r"batch_size = 7 is not allowed.*1, 2, 4, 8, 16, 20",
    ),
    ({"weights": {("last", "bias"): np.zeros(3, np.float32)}}, r"last.bias of shape \(3,\).*\(4,\)"),
    ({"weights": {("last", "bias"): np.array([0, 0, np.inf, 0], np.float32)}}, "last.bias.*finite"),
    ({"weights": {("last", "bias"): np.array([0, 0, 1e39, 0])}}, "last.bias.*finite"),
    ({"weights": {("none", "bias"): np.zeros(4, np.float32)}}, "none.bias.*no such parameter"),
    ({"allowed": {"learning_rate": OneOf(values=(1,))}}, "learning_rate cannot be restricted"),
    ({"input": Input(name="x", shape=(7,))}, "layer first expects 6 channels, its input has 7"),
    ({"input": Input(name="x", shape=(1, 6))}, r"input's shape is \[1, 6\]"),
]


@pytest.mark.parametrize(("change", "words"), MISTAKES)
def test_mistakes_are_refused_in_words(change, words):
    network = regression()
    training = LocalTraining(epochs=1, batch_size=1, optimizer="sgd", learning_rate=1.0)
    given = {"layers": network.layers, "input": network.input, "loss": "mean_squared_error", "training": training}
    with pytest.raises(ValueError, match=words):
        build_model(**given | change)
