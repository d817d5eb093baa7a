"""The interpreter against layers and a LeNet written again in NumPy, and its optimizers against their formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from fedsim.coreml import interpret
from fedsim.coreml import layers as L
from fedsim.coreml.build import Input, build_model
from fedsim.coreml.contract import Contract, read_contract
from fedsim.coreml.weights import named_weights, read_weights, write_weights
from fedsim.models.initial import initial_weights
from fedsim.models.lenet import lenet_contract
from fedsim.updates import LocalTraining
from tests.coreml import plain, plain_lenet
from tests.coreml.networks import Network, classifier, networks
from tests.coreml.networks import with_weights as network_with_weights

SGD = LocalTraining(epochs=1, batch_size=4, optimizer="sgd", learning_rate=0.05, momentum=0.9)
ADAM = LocalTraining(epochs=1, batch_size=4, optimizer="adam", learning_rate=0.01)


def contract_of(network: Network, loss: str = "cross_entropy") -> Contract:
    return read_contract(
        build_model(layers=network.layers, input=network.input, loss=loss, training=SGD, weights=network.weights)
    )


def parameters_of(contract: Contract, dtype: torch.dtype = torch.float64) -> dict[tuple[str, str], torch.Tensor]:
    flat = torch.from_numpy(read_weights(contract.file, contract.slots)).to(dtype)
    parameters = interpret.parameters(contract, flat)
    for parameter in parameters.values():
        parameter.requires_grad_()
    return parameters


@pytest.fixture(params=["channel_first", "channel_last"])
def lenet(request) -> Contract:
    contract = read_contract(lenet_contract(SGD, flatten=request.param))
    generator = np.random.default_rng(5)
    noise = generator.normal(0, 0.01, contract.parameters).astype(np.float32)
    weights = initial_weights(contract, generator) + noise
    return replace(contract, file=write_weights(contract.file, contract.slots, weights))


def images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.random((count, 1, 28, 28), dtype=np.float32) * (generator.random((count, 1, 28, 28)) < 0.3)
    return x.astype(np.float32), generator.integers(0, 10, count)


def doubled(contract: Contract) -> dict[str, np.ndarray]:
    named = named_weights(contract.slots, read_weights(contract.file, contract.slots))
    return {name: values.astype(np.float64) for name, values in named.items()}


@settings(max_examples=150, deadline=None)
@given(networks())
def test_every_blob_of_any_network_is_what_plain_loops_give(network):
    contract = contract_of(network)
    x = network.generator.standard_normal((2, *network.input.shape))
    ours = interpret.forward(contract, parameters_of(contract), torch.from_numpy(x))
    theirs = plain.run(network.layers, network.weights, network.input.name, x)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name].detach().numpy(), expected, rtol=1e-9, atol=1e-9, err_msg=name)


@settings(max_examples=100, deadline=None)
@given(networks())
def test_the_fast_order_gives_the_same_bits_and_gradients(network):
    contract = contract_of(network)
    x = torch.from_numpy(network.generator.standard_normal((3, *network.input.shape), dtype=np.float32))
    fast, slow = parameters_of(contract, torch.float32), parameters_of(contract, torch.float32)
    y = torch.tensor([0, 2, 1])
    interpret.loss(contract, fast, x, y).backward()
    scores = interpret.forward(contract, slow, x)["scores"].flatten(1)
    torch.nn.functional.cross_entropy(scores, y).backward()
    assert torch.equal(interpret.logits(contract, fast, x), scores)
    for key in fast:
        # A layer whose output the loss does not depend on gets no gradient at all.
        assert (fast[key].grad is None) == (slow[key].grad is None)
        assert fast[key].grad is None or torch.equal(fast[key].grad, slow[key].grad)


def test_the_fast_order_of_the_seed_network_gives_the_same_bits_and_gradients(lenet):
    x, y = map(torch.from_numpy, images(6))
    fast, slow = parameters_of(lenet, torch.float32), parameters_of(lenet, torch.float32)
    interpret.loss(lenet, fast, x, y).backward()
    torch.nn.functional.cross_entropy(interpret.forward(lenet, slow, x)["outHidden2"].flatten(1), y).backward()
    assert all(torch.equal(fast[key].grad, slow[key].grad) for key in fast)


def test_a_relu_that_feeds_only_a_max_pooling_runs_after_it():
    graph = read_contract(lenet_contract(SGD)).graph
    names = [layer.name for layer in interpret.fast_order(graph, "outHidden2")]
    assert names[:6] == ["conv1", "pooling1", "relu1", "conv2", "pooling2", "relu2"]
    assert names[6:] == ["flatten1", "hidden1", "relu3", "hidden2"]


def test_a_relu_that_something_else_reads_too_stays_where_it_is():
    one = {"inputs": ("x",), "outputs": ("r",)}
    pooling = {"inputs": ("r",), "function": "max", "kernel": (2, 2), "stride": (2, 2)}
    graph = (
        L.Activation(name="relu", **one, function="relu"),
        L.Pooling(name="pool", **pooling, outputs=("p",)),
        L.Pooling(name="other", **pooling, outputs=("q",)),
        L.Concat(name="both", inputs=("p", "q"), outputs=("z",)),
    )
    assert interpret.fast_order(graph, "z") == graph


def test_a_relu_before_a_padded_max_pooling_stays_where_it_is():
    graph = (
        L.Activation(name="relu", inputs=("x",), outputs=("r",), function="relu"),
        L.Pooling(name="pool", inputs=("r",), outputs=("z",), function="max", kernel=(2, 2), padding=L.Same()),
    )
    assert interpret.fast_order(graph, "z") == graph


def test_the_seed_networks_scores_are_those_of_plain_numpy(lenet):
    x, _ = images(40)
    scores = interpret.logits(lenet, parameters_of(lenet, torch.float32), torch.from_numpy(x)).detach().numpy()
    channel_last = lenet.graph[6].order == "channel_last"
    expected = plain_lenet.scores(doubled(lenet), x.astype(np.float64), channel_last=channel_last)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_seed_networks_loss_and_gradient_are_those_of_plain_numpy(lenet, dtype, tolerance):
    x, y = images(8)
    parameters = parameters_of(lenet, dtype)
    loss = interpret.loss(lenet, parameters, torch.from_numpy(x).to(dtype), torch.from_numpy(y))
    loss.backward()
    channel_last = lenet.graph[6].order == "channel_last"
    expected_loss, expected = plain_lenet.loss_and_gradient(
        doubled(lenet), x.astype(np.float64), y, channel_last=channel_last
    )
    assert loss.item() == pytest.approx(expected_loss, rel=tolerance)
    for (layer, parameter), tensor in parameters.items():
        gradient = expected[f"{layer}.{parameter}"]
        worst = abs(tensor.grad.numpy() - gradient).max()
        assert worst <= tolerance * abs(gradient).max(), (layer, parameter)


def test_channel_last_is_the_same_network_with_hidden1s_inputs_in_another_order():
    first, last = (read_contract(lenet_contract(SGD, flatten=order)) for order in ("channel_first", "channel_last"))
    weights = initial_weights(first, np.random.default_rng(1))
    moved = named_weights(last.slots, weights.copy())
    hidden = moved["hidden1.weights"]
    hidden[:] = hidden.reshape(500, 32, 6, 6).transpose(0, 2, 3, 1).reshape(500, 1152)
    x = torch.from_numpy(images(5)[0])
    scores = [
        interpret.logits(contract, interpret.parameters(contract, torch.from_numpy(flat)), x)
        for contract, flat in ((first, weights), (last, np.concatenate([part.ravel() for part in moved.values()])))
    ]
    torch.testing.assert_close(*scores, rtol=0, atol=1e-5)


def test_cross_entropy_survives_certainty():
    """A softmax in float32 would round these probabilities to 0 and their logarithm to infinity."""
    network = network_with_weights(classifier("x", 2), Input(name="x", shape=(2,)), seed=0)
    weights = {("dense", "weights"): np.array([[200, 0], [0, 0], [0, 0]], np.float32), ("dense", "bias"): np.zeros(3)}
    contract = contract_of(replace(network, weights=weights))
    loss = interpret.loss(contract, parameters_of(contract, torch.float32), torch.ones(1, 2), torch.tensor([1]))
    assert loss.item() == 200


def test_mean_squared_error_is_the_mean_over_all_values():
    dense = L.InnerProduct(
        name="dense", inputs=("x",), outputs=("y",), input_channels=2, output_channels=3, updatable=True
    )
    network = network_with_weights([dense], Input(name="x", shape=(2,)), seed=7)
    contract = contract_of(network, loss="mean_squared_error")
    x, y = network.generator.standard_normal((4, 2)), network.generator.standard_normal((4, 3))
    loss = interpret.loss(contract, parameters_of(contract), torch.from_numpy(x), torch.from_numpy(y))
    predicted = x @ network.weights["dense", "weights"].T.astype(np.float64) + network.weights["dense", "bias"]
    assert loss.item() == pytest.approx(np.square(predicted - y).mean(), rel=1e-12)


def test_parameters_are_views_of_the_flat_vector(lenet):
    flat = torch.zeros(lenet.parameters)
    parameters = interpret.parameters(lenet, flat)
    assert list(parameters) == [(slot.layer, slot.parameter) for slot in lenet.slots]
    for value, tensor in enumerate(parameters.values()):
        tensor.fill_(value)
    assert flat.tolist() == [float(i) for i, slot in enumerate(lenet.slots) for _ in range(slot.count)]
    with pytest.raises(ValueError, match=r"expected weights of shape \[585958\], got \[3\]"):
        interpret.parameters(lenet, torch.zeros(3))


def gradients(steps: int) -> np.ndarray:
    """Some as large as usual, some as small as epsilon, where its place makes a difference."""
    generator = np.random.default_rng(11)
    return generator.standard_normal((steps, 12)) * np.repeat([1.0, 1e-7, 1e-9], 4)


def trained(training: LocalTraining, start: np.ndarray, steps: np.ndarray) -> np.ndarray:
    tensor = torch.tensor(start, requires_grad=True)
    optimizer = interpret.make_optimizer(training, {("layer", "weights"): tensor})
    for gradient in steps:
        tensor.grad = torch.tensor(gradient)
        optimizer.step()
    return tensor.detach().numpy()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_follows_its_formula(momentum):
    start, steps = np.linspace(-1, 1, 12), gradients(4)
    training = replace(SGD, momentum=momentum)
    w, v = start.copy(), np.zeros(12)
    for g in steps:
        v = momentum * v + g
        w -= training.learning_rate * v
    np.testing.assert_allclose(trained(training, start, steps), w, rtol=1e-14)


@pytest.mark.parametrize("form", ["torch", "mps"])
def test_adam_follows_its_formula(form):
    start, steps = np.linspace(-1, 1, 12), gradients(5)
    training = replace(ADAM, epsilon_form=form, beta1=0.8, beta2=0.99, epsilon=1e-8)
    w, m, v = start.copy(), np.zeros(12), np.zeros(12)
    for t, g in enumerate(steps, 1):
        m = 0.8 * m + 0.2 * g
        v = 0.99 * v + 0.01 * g**2
        m_hat, v_hat = m / (1 - 0.8**t), v / (1 - 0.99**t)
        if form == "torch":
            w -= 0.01 * m_hat / (np.sqrt(v_hat) + 1e-8)
        else:
            w -= 0.01 * np.sqrt(1 - 0.99**t) / (1 - 0.8**t) * m / (np.sqrt(v) + 1e-8)
    np.testing.assert_allclose(trained(training, start, steps), w, rtol=1e-12)


@pytest.mark.parametrize("form", ["torch", "mps"])
def test_adams_first_step_is_almost_the_learning_rate_until_epsilon_counts(form):
    """Closed form: ``lr * g / (|g| + eps)``, with ``eps / sqrt(1 - beta2)`` in the place of eps for Apple's form."""
    g = np.array([1.0, -1e-3, 1e-7, -1e-9])
    epsilon = 1e-8 if form == "torch" else 1e-8 / np.sqrt(1 - 0.999)
    moved = trained(replace(ADAM, epsilon_form=form), np.zeros(4), g[None])
    np.testing.assert_allclose(moved, -0.01 * g / (abs(g) + epsilon), rtol=1e-9)


def test_tensors_without_a_gradient_stay_as_they_are():
    tensor = torch.ones(3, requires_grad=True)
    interpret.make_optimizer(replace(ADAM, epsilon_form="mps"), {("layer", "weights"): tensor}).step()
    assert tensor.tolist() == [1, 1, 1]


@pytest.mark.parametrize("training", [SGD, ADAM, replace(ADAM, epsilon_form="mps")], ids=["sgd", "adam", "mps"])
def test_trained_weights_survive_the_file_bit_for_bit(lenet, training):
    flat = torch.from_numpy(read_weights(lenet.file, lenet.slots))
    parameters = interpret.parameters(lenet, flat)
    for parameter in parameters.values():
        parameter.requires_grad_()
    optimizer = interpret.make_optimizer(training, parameters)
    x, y = map(torch.from_numpy, images(16))
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = interpret.loss(lenet, parameters, x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    reloaded = read_contract(write_weights(lenet.file, lenet.slots, flat.numpy()))
    assert read_weights(reloaded.file, reloaded.slots).tobytes() == flat.numpy().tobytes()
    again = interpret.logits(reloaded, parameters_of(reloaded, torch.float32), x)
    assert torch.equal(again, interpret.logits(lenet, parameters, x))
