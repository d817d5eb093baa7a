"""Gradient inversion: the training inputs a server can rebuild from the model it sent and the update that came back.

Zhu et al. 2019 (DLG), Zhao et al. 2020 (iDLG) and Geiping et al. 2020: look for inputs whose simulated update points
where the observed one does. All in float64: in float32 the line search dies long before the picture is there.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.attacks.label_recovery import recover_labels
from fedsim.attacks.reconstruction import Reconstruction
from fedsim.coreml import interpret
from fedsim.coreml.contract import Contract
from fedsim.updates import LocalTraining, Weights

Floats = NDArray[np.float64]
Objective = Callable[[Tensor], Tensor]
Start = tuple[NDArray[np.int64], Floats]


@dataclass(frozen=True, kw_only=True)
class Search:
    """How inputs are sought: in ``iterations`` steps from the best of ``restarts`` starts, tried for an eighth of them.

    ``lbfgs`` walks without bounds over angles ``a`` with inputs ``(1 + sin a) / 2``, all of [0, 1], up to 1.25 times
    evaluating the objective a step. ``signed_adam`` is Geiping et al. 2020, section 4: Adam fed the gradient's signs,
    its step of 0.1 cut to a tenth after 3/8, 5/8 and 7/8 of the way, inputs clamped to [0, 1]. The objective is
    ``1 - cosine`` of the two updates plus ``total_variation`` times the mean difference of neighbouring pixels.
    """

    method: Literal["lbfgs", "signed_adam"] = "lbfgs"
    iterations: int = 300
    restarts: int = 1
    total_variation: float = 0.0


IDLG = Search()
"""Zhao et al. 2020 with the cosine for a distance: one image or a few, without noise, and a smooth network."""

GEIPING = Search(method="signed_adam", iterations=1000, total_variation=1e-4)
"""The search of Geiping et al. 2020, for networks that L-BFGS stalls on, such as those with ReLUs."""


def invert(
    contract: Contract,
    weights: Weights,
    update: NDArray[np.floating],
    training: LocalTraining,
    count: int,
    generator: np.random.Generator,
    *,
    search: Search = IDLG,
    labels: NDArray[np.int64] | None = None,
) -> Reconstruction:
    """Rebuild the ``count`` training inputs behind ``update``, the trained model less ``weights`` (both ``[P]``).

    The update may be scaled, as clipping does: only its direction is matched. A sum over phones that took one step each
    is the update of one step over all their examples. To attack a gradient ``g``, give ``-learning_rate * g``. The
    attacker knows that inputs lie in [0, 1] and how phones train: SGD's rate, momentum and batch size, and that every
    epoch walks through the same batches, which for more than one epoch is so only without shuffling. The labels are
    recovered first (`recover_labels`) unless given in the order of training; where there are several batches, nobody
    knows whose batch a recovered label belongs to, so each restart deals them out anew, and few restarts find less.
    Equal generators, which draw that and the near-grey inputs to start from, give equal results, whatever number of
    threads torch is set to.

    Raises:
        ValueError: ``update`` is not of shape ``[P]``, phones do not train with SGD, or labels are not given and
            cannot be recovered.
    """
    if update.shape != (contract.parameters,):
        raise ValueError(f"expected an update of shape [{contract.parameters}], got {list(update.shape)}")
    if training.optimizer != "sgd":
        raise ValueError(f"phones train with {training.optimizer}; only updates of sgd can be inverted")
    if labels is None:
        recovered = recover_labels(contract, update, training, count)
        deals = [generator.permutation(recovered) for _ in range(search.restarts)]
    else:
        deals = [labels] * search.restarts
    shape = (count, *contract.input_shape)
    starts = [(deal, np.clip(0.5 + 0.01 * generator.standard_normal(shape), 0, 1)) for deal in deals]
    with _one_thread():
        distance = _distance_to(contract, weights, update, training)
        if len(starts) > 1:
            trial = replace(search, iterations=search.iterations // 8)
            starts.sort(key=lambda start: _search(distance, start, trial).distance)
        return _search(distance, starts[0], search)


def simulated_update(
    contract: Contract, parameters: interpret.Parameters, x: Tensor, y: Tensor, training: LocalTraining
) -> Tensor:
    """The update ``[P]`` of local SGD on ``x`` and ``y``, batch by batch in the order given, differentiable in ``x``.

    ``parameters`` are the weights to start from, with ``requires_grad``. As `fedsim.training.reference.train_client`
    without shuffling, in the precision of ``parameters`` and ``x``.
    """
    current = dict(parameters)
    velocity = {key: torch.zeros_like(tensor) for key, tensor in parameters.items()}
    for _ in range(training.epochs):
        for inputs, labels in zip(x.split(training.batch_size), y.split(training.batch_size), strict=True):
            loss = interpret.loss(contract, current, inputs, labels)
            gradients = torch.autograd.grad(loss, list(current.values()), create_graph=True)
            for key, gradient in zip(parameters, gradients, strict=True):
                pull = training.proximal_mu * (current[key] - parameters[key]) + training.weight_decay * current[key]
                velocity[key] = training.momentum * velocity[key] + gradient + pull
                current[key] = current[key] - training.learning_rate * velocity[key]
    return torch.cat([(current[key] - parameters[key]).flatten() for key in parameters])


def total_variation(images: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels, down plus across (anisotropic); ``[..., height, width]``."""
    return images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()


def _distance_to(
    contract: Contract, weights: Weights, update: NDArray[np.floating], training: LocalTraining
) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of inputs and labels: ``1 - cosine`` between their simulated update and this one."""
    parameters = interpret.parameters(contract, torch.from_numpy(weights.astype(np.float64)))
    for tensor in parameters.values():
        tensor.requires_grad_()
    observed = torch.from_numpy(update.astype(np.float64))

    def distance(x: Tensor, y: Tensor) -> Tensor:
        simulated = simulated_update(contract, parameters, x, y, training)
        return 1 - torch.cosine_similarity(simulated, observed, dim=0)

    return distance


def _search(distance: Callable[[Tensor, Tensor], Tensor], start: Start, search: Search) -> Reconstruction:
    labels, near_grey = start
    y = torch.from_numpy(labels)

    def objective(x: Tensor) -> Tensor:
        smoothness = search.total_variation * total_variation(x) if search.total_variation else 0.0
        return distance(x, y) + smoothness

    minimise = {"lbfgs": _lbfgs, "signed_adam": _signed_adam}[search.method]
    images = minimise(objective, torch.from_numpy(near_grey), search.iterations)
    return Reconstruction(images=images.numpy(), labels=labels, distance=float(distance(images, y).detach()))


def _lbfgs(objective: Objective, start: Tensor, iterations: int) -> Tensor:
    angles = torch.asin(2 * start - 1).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [angles],
        max_iter=iterations,
        history_size=100,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )

    def closure() -> float:
        value = objective((1 + torch.sin(angles)) / 2)
        (angles.grad,) = torch.autograd.grad(value, angles)
        return value.item()

    optimizer.step(closure)
    return (1 + torch.sin(angles.detach())) / 2


def _signed_adam(objective: Objective, start: Tensor, iterations: int) -> Tensor:
    images = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=0.1)
    cuts = [iterations * eighths // 8 for eighths in (3, 5, 7)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, cuts, 0.1)
    for _ in range(iterations):
        (gradient,) = torch.autograd.grad(objective(images), images)
        images.grad = gradient.sign()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return images.detach()


@contextmanager
def _one_thread() -> Generator[None]:
    """Torch on one thread, so that sums come out the same everywhere; afterwards as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
