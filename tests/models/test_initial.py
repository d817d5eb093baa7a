"""Initial weights: their distribution, layer by layer, and that they depend on the generator alone."""

import math

import numpy as np
import pytest

from fedsim.coreml import layers as L
from fedsim.coreml.build import Input, build_model
from fedsim.coreml.contract import Contract, read_contract
from fedsim.coreml.weights import named_weights
from fedsim.models.initial import initial_weights
from fedsim.models.lenet import lenet_contract
from fedsim.models.tanh_cnn import tanh_cnn_contract
from fedsim.updates import LocalTraining

SGD = LocalTraining(epochs=1, batch_size=1, optimizer="sgd", learning_rate=0.1)


def grouped() -> Contract:
    """A grouped convolution, a grouped transposed one, a frozen layer and a dense one."""
    graph = (
        L.Convolution(
            name="conv",
            inputs=("x",),
            outputs=("a",),
            input_channels=64,
            output_channels=128,
            kernel=(3, 5),
            groups=4,
            padding=L.Same(),
            updatable=True,
        ),
        L.TransposedConvolution(
            name="up",
            inputs=("a",),
            outputs=("b",),
            input_channels=128,
            output_channels=64,
            kernel=(2, 3),
            groups=8,
            updatable=True,
        ),
        L.BatchNorm(name="norm", inputs=("b",), outputs=("c",), channels=64, epsilon=0.5),
        L.Pooling(name="pool", inputs=("c",), outputs=("d",), function="average", is_global=True),
        L.InnerProduct(
            name="dense", inputs=("d",), outputs=("y",), input_channels=64, output_channels=100, updatable=True
        ),
    )
    return read_contract(
        build_model(layers=graph, input=Input(name="x", shape=(64, 6, 6)), loss="mean_squared_error", training=SGD)
    )


@pytest.mark.parametrize(
    ("contract", "gain", "fan_in"),
    [
        (read_contract(lenet_contract(SGD)), 2, {"conv1": 9, "conv2": 32 * 4, "hidden1": 1152, "hidden2": 500}),
        (grouped(), 2, {"conv": 64 // 4 * 15, "up": 128 // 8 * 6, "dense": 64}),
        (read_contract(tanh_cnn_contract(SGD)), 1, {"conv1": 64, "conv2": 16 * 16, "hidden1": 512, "hidden2": 32}),
    ],
    ids=["lenet", "grouped", "tanh_cnn"],
)
def test_weights_are_normal_with_the_activations_deviation_and_biases_zero(contract, gain, fan_in):
    weights = initial_weights(contract, np.random.default_rng(4))
    assert weights.dtype == np.float32
    assert weights.shape == (contract.parameters,)
    for name, values in named_weights(contract.slots, weights).items():
        layer, parameter = name.split(".")
        if parameter == "bias":
            assert not values.any()
            continue
        unit = values.ravel().astype(np.float64) / math.sqrt(gain / fan_in[layer])
        # Mean and variance of n standard normal numbers are within five standard errors of 0 and 1.
        assert abs(unit.mean()) < 5 / math.sqrt(unit.size)
        assert abs(unit.var() - 1) < 5 * math.sqrt(2 / unit.size)
        assert abs((unit**4).mean() - 3) < 5 * math.sqrt(96 / unit.size)


def test_equal_generators_give_equal_weights_and_others_do_not():
    contract = grouped()
    one, same, other = (initial_weights(contract, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
