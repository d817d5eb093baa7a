"""DP-SGD: one phone's training that protects each of its examples (Abadi et al. 2016, algorithm 1).

Whose arithmetic it is that measures and clips the examples' gradients is another's affair: see `GradientSum`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.sampling import batches
from fedsim.updates import LocalTraining, Weights

Rows = NDArray[np.int64]

GradientSum = Callable[[Weights, Rows, float], NDArray[np.float64]]
"""The sum ``float64[P]`` over rows of the data set of their loss's gradient by the weights, each scaled down to a
Euclidean norm of the last argument where it is longer; one that is not finite counts as zero."""


def train_privately(
    weights: Weights,
    rows: Rows,
    gradient_sum: GradientSum,
    training: LocalTraining,
    clip: float,
    noise_multiplier: float,
    generator: np.random.Generator,
) -> None:
    """Train ``weights`` in place on ``rows``, a phone's own, by noisy steps on as many `batches` as without privacy.

    In each step every row takes part by itself, with chance 1 / batches; the sum of the clipped gradients gets
    Gaussian noise of ``noise_multiplier * clip`` and is divided by the expected batch, never by the drawn one. An empty
    batch is a step like any other. The rest is SGD with momentum; the pulls of weight decay and FedProx do not depend
    on data and are added after the noise. Adding or removing a row moves a sum by ``clip`` at most.

    Raises:
        ValueError: the optimizer is not SGD.
    """
    if training.optimizer != "sgd":
        raise ValueError(f"training.optimizer = {training.optimizer}: DP-SGD trains by sgd")
    an_epoch = batches(len(rows), training.batch_size)
    start, velocity = weights.copy(), np.zeros(len(weights))
    for _ in range(training.epochs * an_epoch):
        batch = rows[generator.random(len(rows)) < 1 / an_epoch]
        noise = generator.standard_normal(len(weights)) * (noise_multiplier * clip)
        gradient = (gradient_sum(weights, batch, clip) + noise) * (an_epoch / len(rows))
        gradient += training.weight_decay * weights + training.proximal_mu * (weights - start)
        velocity = training.momentum * velocity + gradient
        weights -= (training.learning_rate * velocity).astype(np.float32)
