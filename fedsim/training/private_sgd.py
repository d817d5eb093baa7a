"""DP-SGD: one phone's training that protects each of its examples (Abadi et al. 2016, algorithm 1).

Whose arithmetic it is that measures and clips the examples' gradients is another's affair: see `GradientSum`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.updates import LocalTraining, Weights

Rows = NDArray[np.int64]

GradientSum = Callable[[Weights, Rows, float], NDArray[np.float64]]
"""The sum ``float64[P]`` over rows of the data set of their loss's gradient by the weights, each scaled down to a
Euclidean norm of the last argument where it is longer; one that is not finite counts as zero."""


@dataclass(frozen=True, kw_only=True)
class PrivateSteps:
    """What one phone's round of DP-SGD releases: ``steps`` Gaussian releases, each of a Poisson sample at ``rate``."""

    steps: int
    rate: float


def private_steps(examples: int, training: LocalTraining) -> PrivateSteps:
    """How a phone with so many examples trains: as many steps as without privacy, of batches as large on average."""
    if not examples:
        return PrivateSteps(steps=0, rate=0.0)
    steps = training.epochs * math.ceil(examples / training.batch_size)
    return PrivateSteps(steps=steps, rate=min(1.0, training.batch_size / examples))


def train_privately(
    weights: Weights,
    rows: Rows,
    gradient_sum: GradientSum,
    training: LocalTraining,
    clip: float,
    noise_multiplier: float,
    generator: np.random.Generator,
) -> None:
    """Train ``weights`` in place on ``rows``, a phone's own, by noisy steps that `private_steps` counts.

    In each step every row takes part with the rate's probability, by itself; the sum of the clipped gradients gets
    Gaussian noise of ``noise_multiplier * clip`` and is divided by the expected batch, never by the drawn one. An empty
    batch is a step like any other. The rest is SGD with momentum; the pulls of weight decay and FedProx do not depend
    on data and are added after the noise. Adding or removing a row moves a sum by ``clip`` at most.

    Raises:
        ValueError: the optimizer is not SGD.
    """
    if training.optimizer != "sgd":
        raise ValueError(f"training.optimizer = {training.optimizer}: DP-SGD trains by sgd")
    plan, start, velocity = private_steps(len(rows), training), weights.copy(), np.zeros(len(weights))
    for _ in range(plan.steps):
        batch = rows[generator.random(len(rows)) < plan.rate]
        noise = generator.standard_normal(len(weights)) * (noise_multiplier * clip)
        gradient = (gradient_sum(weights, batch, clip) + noise) / (plan.rate * len(rows))
        gradient += training.weight_decay * weights + training.proximal_mu * (weights - start)
        velocity = training.momentum * velocity + gradient
        weights -= (training.learning_rate * velocity).astype(np.float32)
