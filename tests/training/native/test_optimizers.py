"""The engine's optimizers against torch's, over several steps, with every term that pulls on the weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.coreml import interpret
from fedsim.coreml.contract import Contract
from fedsim.data.dataset import Examples
from fedsim.seeds import key
from fedsim.training import reference
from fedsim.training.native import library
from fedsim.training.native.engine import Cohort, Engine, train_client, train_clients
from fedsim.updates import LocalTraining, Weights
from tests.training.native.networks import Chain, examples, start

PLAIN = LocalTraining(epochs=2, batch_size=5, optimizer="sgd", learning_rate=0.05)
ADAM = replace(PLAIN, optimizer="adam", learning_rate=0.01)
TRAININGS = {
    "sgd": PLAIN,
    "momentum": replace(PLAIN, momentum=0.9),
    "adam": ADAM,
    "adam, other betas": replace(ADAM, beta1=0.8, beta2=0.95, epsilon=1e-4),
    "adam, epsilon first": replace(ADAM, epsilon_form="mps", epsilon=1e-4),
    "proximal": replace(PLAIN, proximal_mu=0.5),
    "proximal momentum": replace(PLAIN, momentum=0.5, proximal_mu=0.5),
    "proximal adam": replace(ADAM, proximal_mu=0.5, epsilon=1e-4),
    "decayed momentum": replace(PLAIN, momentum=0.5, weight_decay=0.1),
    "decayed adam, epsilon first": replace(ADAM, epsilon_form="mps", epsilon=1e-4, weight_decay=0.1),
    "in order": replace(PLAIN, shuffle=False),
}


def network() -> Contract:
    """A convolution and two dense layers without kinks, on which rounding stays rounding."""
    chain = Chain((2, 6, 6)).convolve(5, (3, 3)).activate("tanh").flatten("channel_first")
    return chain.dense(13).activate("sigmoid").dense(4).contract()


@pytest.mark.parametrize("variant", library.VARIANTS)
@pytest.mark.parametrize("name", TRAININGS)
def test_as_the_reference(name: str, variant: str) -> None:
    if not library.variant(variant):
        pytest.skip(f"this processor has no {variant}")
    contract, training = network(), TRAININGS[name]
    data = examples(contract, 23)
    ours, theirs = start(contract), start(contract)
    our_losses = train_client(Engine(contract, variant), ours, data, training, key(1, "shuffle"))
    their_losses = reference.train_client(contract, theirs, data, training, key(1, "shuffle"))
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-5)
    assert np.linalg.norm(ours - theirs) <= 2e-5 * np.linalg.norm(theirs - start(contract))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_weight_decay_as_torch(optimizer: str) -> None:
    contract = network()
    training = replace(TRAININGS[optimizer], epochs=1, weight_decay=0.1)
    data = examples(contract, 23)
    order = np.random.default_rng(1).permutation(23)
    alone = Cohort(counts=np.array([23]), orders=order)
    stack, _ = train_clients(Engine(contract), start(contract), data, alone, training)
    theirs = decayed(contract, data, order, optimizer, training)
    assert np.linalg.norm(stack[0] - theirs) <= 2e-5 * np.linalg.norm(theirs - start(contract))


def decayed(contract: Contract, data: Examples, order: np.ndarray, optimizer: str, training: LocalTraining) -> Weights:
    """The same training by torch's own optimizers with their own weight decay."""
    weights = start(contract)
    parameters = interpret.parameters(contract, torch.from_numpy(weights))
    tensors = [tensor.requires_grad_() for tensor in parameters.values()]
    if optimizer == "adam":
        stepper: torch.optim.Optimizer = torch.optim.Adam(tensors, training.learning_rate, weight_decay=0.1)
    else:
        stepper = torch.optim.SGD(tensors, training.learning_rate, training.momentum, weight_decay=0.1)
    for batch in np.split(order, range(5, 23, 5)):
        stepper.zero_grad()
        inputs, labels = torch.from_numpy(data.inputs[batch]), torch.from_numpy(data.labels[batch])
        interpret.loss(contract, parameters, inputs, labels).backward()
        stepper.step()
    return weights


def test_adam_without_epsilon_leaves_what_has_no_gradient() -> None:
    """0 / 0 is no step: weights behind inputs that are always zero, and the padding of the layout, stay finite."""
    contract = network()
    data = examples(contract, 5)
    silent = Examples(inputs=np.zeros_like(data.inputs), labels=data.labels)
    weights = start(contract)
    before = weights.copy()
    train_client(Engine(contract), weights, silent, replace(ADAM, epsilon=0.0), key(1, "shuffle"))
    convolution = contract.slots[0].count
    np.testing.assert_array_equal(weights[:convolution], before[:convolution])
    assert np.isfinite(weights).all()
    assert (weights[convolution:] != before[convolution:]).any()


def test_a_diverged_model_shows() -> None:
    contract = network()
    weights = start(contract)
    weights[0] = np.nan
    losses = train_client(Engine(contract), weights, examples(contract, 5), PLAIN, key(1, "shuffle"))
    assert np.isnan(losses).all()
    assert np.isnan(weights).all()
