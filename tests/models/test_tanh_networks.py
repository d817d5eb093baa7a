"""LeNet-5 and the tanh CNN: layer by layer, and against the same networks written independently in torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim import model_files
from fedsim.config import ConfigError, from_mapping
from fedsim.coreml import interpret
from fedsim.coreml.contract import Contract, read_contract
from fedsim.coreml.lint import device_trainable, lint
from fedsim.coreml.shapes import blob_shapes
from fedsim.coreml.weights import named_weights, read_weights
from fedsim.data.dataset import Examples, batch_inputs
from fedsim.federation import read_model
from fedsim.models.initial import initial_weights
from fedsim.models.networks import NETWORKS
from fedsim.training.native import library
from fedsim.training.native.engine import Engine, evaluate, predict
from fedsim.training.reference import train_client
from fedsim.updates import LocalTraining, Weights
from tests.training.native.test_gradients import assert_alike

SGD = LocalTraining(epochs=1, batch_size=20, optimizer="sgd", learning_rate=0.1)

SHAPES = {
    "lenet5": [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (400, 1, 1), (120, 1, 1), (84, 1, 1), (10, 1, 1)],
    "tanh_cnn": [(16, 13, 13), (16, 12, 12), (32, 5, 5), (32, 4, 4), (512, 1, 1), (32, 1, 1), (10, 1, 1)],
}
"""Every blob's, but for those that a tanh or the softmax repeats."""
COUNTS = {"lenet5": 61_706, "tanh_cnn": 26_010}


def lenet5_in_torch() -> nn.Sequential:
    convolutions = (nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh())
    dense = (nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10))
    return nn.Sequential(*convolutions, nn.AvgPool2d(2), nn.Flatten(), *dense)


def tanh_cnn_in_torch() -> nn.Sequential:
    first = (nn.Conv2d(1, 16, 8, stride=2, padding=2), nn.Tanh(), nn.MaxPool2d(2, 1))
    second = (nn.Conv2d(16, 32, 4, stride=2), nn.Tanh(), nn.MaxPool2d(2, 1))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(512, 32), nn.Tanh(), nn.Linear(32, 10))


TWINS: dict[str, Callable[[], nn.Sequential]] = {"lenet5": lenet5_in_torch, "tanh_cnn": tanh_cnn_in_torch}


@pytest.fixture(params=TWINS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def contract_of(name: str) -> Contract:
    return read_contract(NETWORKS[name].contract(SGD))


def some_digits(count: int) -> Examples:
    draw = np.random.default_rng(5)
    inputs = draw.integers(0, 256, (count, 1, 28, 28)).astype(np.uint8)
    return Examples(inputs=inputs, labels=draw.integers(0, 10, count))


def twin_with(name: str, contract: Contract, weights: Weights) -> nn.Sequential:
    """The torch module with the contract's weights, layer after layer."""
    module = TWINS[name]()
    tensors = [torch.from_numpy(values) for values in named_weights(contract.slots, weights).values()]
    with torch.no_grad():
        for parameter, tensor in zip(module.parameters(), tensors, strict=True):
            parameter.copy_(tensor)
    return module


def test_every_layer_has_the_published_size(name: str) -> None:
    contract = contract_of(name)
    shapes = [tuple(shape) for shape in blob_shapes(contract.graph, "image", (1, 28, 28)).values()]
    assert [shape for shape, before in zip(shapes[1:], shapes, strict=False) if shape != before] == SHAPES[name]
    assert contract.parameters == COUNTS[name]
    assert not read_weights(contract.file, contract.slots).any()


def test_a_phone_can_train_all_of_it(name: str) -> None:
    for training in NETWORKS[name].training.values():
        data = NETWORKS[name].contract(training)
        assert lint(data) == []
        assert device_trainable(data) == "all"
        assert read_contract(data).training == training


def test_the_logits_are_those_of_an_independent_network(name: str) -> None:
    contract, data = contract_of(name), some_digits(12)
    weights = initial_weights(contract, np.random.default_rng(2))
    inputs = torch.from_numpy(batch_inputs(data.inputs))
    parameters = interpret.parameters(contract, torch.from_numpy(weights))
    with torch.no_grad():
        theirs = twin_with(name, contract, weights)(inputs)
        torch.testing.assert_close(interpret.logits(contract, parameters, inputs), theirs, rtol=1e-5, atol=1e-5)


def test_a_step_is_that_of_an_independent_network(name: str) -> None:
    contract, data = contract_of(name), some_digits(20)
    start = initial_weights(contract, np.random.default_rng(3))
    module, trained = twin_with(name, contract, start), start.copy()
    train_client(contract, trained, data, SGD, np.uint64(1))  # one batch: its order does not matter
    logits: Tensor = module(torch.from_numpy(batch_inputs(data.inputs)))
    nn.functional.cross_entropy(logits, torch.from_numpy(data.labels)).backward()
    torch.optim.SGD(module.parameters(), lr=SGD.learning_rate).step()
    expected = torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).numpy()
    assert np.linalg.norm(trained - expected) < 1e-5 * np.linalg.norm(expected - start)


@pytest.mark.parametrize("count", [1, 20])
def test_the_native_engine_trains_it_as_torch_does(name: str, count: int) -> None:
    assert_alike(contract_of(name), some_digits(count), SGD)


@pytest.mark.parametrize("variant", library.VARIANTS)
def test_the_native_engine_evaluates_it_as_torch_does(name: str, variant: str) -> None:
    if not library.variant(variant):
        pytest.skip(f"this processor has no {variant}")
    contract, data = contract_of(name), some_digits(50)
    weights = initial_weights(contract, np.random.default_rng(4))
    engine = Engine(contract, variant)
    with torch.no_grad():
        theirs = twin_with(name, contract, weights)(torch.from_numpy(batch_inputs(data.inputs)))
    losses = nn.functional.cross_entropy(theirs, torch.from_numpy(data.labels), reduction="none")
    np.testing.assert_allclose(predict(engine, weights, data), theirs.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(evaluate(engine, weights, data)[0], losses.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_config_names_it(name: str, optimizer: str, tmp_path: Path) -> None:
    config = from_mapping({"model": {"name": name}, "training": {"optimizer": optimizer}})
    assert read_model(config).training == NETWORKS[name].training[optimizer]  # type: ignore[index]
    path = tmp_path / f"{name}.mlmodel"
    assert f"{COUNTS[name]:,} weights" in model_files.build(path, config)
    assert model_files.check(path)[1]


def test_other_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.name"):
        from_mapping({"model": {"name": "lenet6"}})
