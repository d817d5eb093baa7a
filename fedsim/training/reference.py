"""The plain training loop in torch: one phone, batch by batch, obviously right. Every faster engine is held to it."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.coreml import interpret
from fedsim.coreml.contract import Contract
from fedsim.data.dataset import Examples, batch_inputs
from fedsim.training.batches import epoch_orders
from fedsim.updates import LocalTraining, Weights

EVALUATION_BATCH = 100
"""Small enough for the activations to stay in cache; the results do not depend on it beyond rounding."""


def train_client(
    contract: Contract,
    weights: Weights,
    examples: Examples,
    training: LocalTraining,
    key: np.uint64,
) -> list[float]:
    """Train ``weights`` in place on one phone's examples; the mean loss of every epoch.

    Batches follow the device: where ``training.shuffle`` says so, the examples are shuffled anew each epoch under
    ``key`` (`batches.epoch_orders`); the last batch of an epoch is used at its own size; optimizer state starts at
    zero. The reported loss leaves FedProx's term and the weights' decay out.
    """
    train = trainer(contract, weights, examples, training)
    orders = epoch_orders(np.array([len(examples.labels)]), np.array([key]), training.epochs, shuffle=training.shuffle)
    return [train(order) for order in np.split(orders, training.epochs)]


def trainer(
    contract: Contract, weights: Weights, examples: Examples, training: LocalTraining
) -> Callable[[NDArray[np.int64]], float]:
    """A function that trains ``weights`` in place on rows of ``examples``, batch by batch; it returns their mean loss.

    From call to call it keeps its optimizer's state, so between calls ``weights`` may be read but not changed.
    FedProx's term pulls towards what ``weights`` were at first.
    """
    parameters = interpret.parameters(contract, torch.from_numpy(weights))
    for parameter in parameters.values():
        parameter.requires_grad_()
    start = {key: parameter.detach().clone() for key, parameter in parameters.items()} if training.proximal_mu else {}
    optimizer = interpret.make_optimizer(training, parameters)

    def step(batch: NDArray[np.int64]) -> float:
        inputs = torch.from_numpy(batch_inputs(examples.inputs[batch]))
        loss = interpret.loss(contract, parameters, inputs, torch.from_numpy(examples.labels[batch]))
        objective = loss
        for key, origin in start.items():
            objective = objective + training.proximal_mu / 2 * (parameters[key] - origin).square().sum()
        if training.weight_decay:
            squares = [parameter.square().sum() for parameter in parameters.values()]
            objective = objective + training.weight_decay / 2 * torch.stack(squares).sum()
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        return loss.item()

    def train(rows: NDArray[np.int64]) -> float:
        batches = np.split(rows, range(training.batch_size, len(rows), training.batch_size))
        return sum(step(batch) * len(batch) for batch in batches) / len(rows)

    return train


def gradient_sum(
    contract: Contract, examples: Examples, weights: Weights, rows: NDArray[np.int64], clip: float
) -> NDArray[np.float64]:
    """The sum ``float64[P]`` over ``rows`` of the loss's gradients, each scaled down to ``clip`` where it is longer.

    One example after another; a gradient that is not finite counts as zero (`private_sgd.GradientSum`).
    """
    parameters = interpret.parameters(contract, torch.tensor(weights))
    for parameter in parameters.values():
        parameter.requires_grad_()
    total = np.zeros(len(weights), np.float64)
    for row in rows.tolist():
        inputs = torch.from_numpy(batch_inputs(examples.inputs[row : row + 1]))
        loss = interpret.loss(contract, parameters, inputs, torch.from_numpy(examples.labels[row : row + 1]))
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        gradient = torch.cat([part.flatten() for part in gradients]).double().numpy()
        norm = float(np.linalg.norm(gradient))
        if math.isfinite(norm):
            total += gradient if norm <= clip else gradient * (clip / norm)
    return total


def evaluate(contract: Contract, weights: Weights, examples: Examples) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cross entropy ``float64[N]`` and correctness ``bool[N]`` of every example, by forward prediction alone."""
    parameters = interpret.parameters(contract, torch.tensor(weights))
    losses = np.empty(len(examples.labels), np.float64)
    correct = np.empty(len(examples.labels), np.bool_)
    with torch.inference_mode():
        for start in range(0, len(losses), EVALUATION_BATCH):
            rows = slice(start, start + EVALUATION_BATCH)
            logits = interpret.logits(contract, parameters, torch.from_numpy(batch_inputs(examples.inputs[rows])))
            labels = torch.from_numpy(examples.labels[rows])
            losses[rows] = torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
            correct[rows] = (logits.argmax(dim=1) == labels).numpy()
    return losses, correct
