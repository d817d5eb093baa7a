"""What travels between server and phones, as stacks with the client axis first."""

import traceback
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]
"""One model as a flat ``float32[P]`` in the contract's slot order."""


NO_TEST_EXAMPLES = "this phone holds no test examples"


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """How a phone trains in one round; optimizer state starts at zero every round.

    ``epsilon_form`` says where Adam adds epsilon (Kingma & Ba 2015, section 2): ``"torch"`` after the
    bias correction, ``m_hat / (sqrt(v_hat) + eps)``; ``"mps"`` before it, ``lr_t * m / (sqrt(v) + eps)``
    with ``lr_t = lr * sqrt(1 - beta2^t) / (1 - beta1^t)``, as Apple's Metal Performance Shaders document.
    ``proximal_mu`` is FedProx's (Li et al. 2020, equation 2): the loss gains ``mu/2 * |w - w_global|^2``;
    with ``weight_decay`` it gains ``weight_decay/2 * |w|^2``. Neither has a place in a model file: only simulated
    phones know them.
    """

    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adam"]
    learning_rate: float
    momentum: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_form: Literal["torch", "mps"] = "torch"
    shuffle: bool = True
    proximal_mu: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What the server asks of a cohort: train or evaluate ``weights``, one entry of ``clients`` a phone.

    ``clients`` holds client ids ``int64[C]``; ``weights`` is read-only ``float32[P]``, the same for all.
    """

    round: int
    clients: NDArray[np.int64]
    weights: Weights
    training: LocalTraining | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A phone that could not do its work. ``reason`` is one line, ``traceback`` is for whoever mends it."""

    client: int
    round: int
    stage: Literal["train", "evaluate"]
    reason: str
    traceback: str


def failure(orders: Orders, client: int, stage: Literal["train", "evaluate"], error: Exception) -> Failure:
    """What ``error`` says about a client that could not do what ``orders`` asked."""
    return Failure(
        client=client,
        round=orders.round,
        stage=stage,
        reason=f"{type(error).__name__}: {error}",
        traceback="".join(traceback.format_exception(error)),
    )


@dataclass(frozen=True, kw_only=True)
class Mean:
    """What a cohort sends back, averaged: as `Updates`, but for the stack, whose memory is never needed.

    ``weights`` is ``float32[P]``, the trained models' mean weighted by ``examples``; empty where nobody succeeded.
    """

    clients: NDArray[np.int64]
    weights: Weights
    examples: NDArray[np.int64]
    metrics: dict[str, NDArray[np.float64]]
    failures: tuple[Failure, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Updates:
    """What a cohort sends back: one row a phone that succeeded, in the orders' order.

    ``weights`` is the stack ``float32[C, P]`` of trained models (empty ``[C, 0]`` after an evaluation);
    ``examples`` is ``int64[C]``; every entry of ``metrics`` is ``float64[C]``, or ``float64[C, n]`` for a series.
    """

    clients: NDArray[np.int64]
    weights: NDArray[np.float32]
    examples: NDArray[np.int64]
    metrics: dict[str, NDArray[np.float64]]
    failures: tuple[Failure, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class ClippedSum:
    """What a cohort sends back under clipping: the sum of its updates, each scaled down to the clip where it is longer.

    An update is the trained model less the round's. ``total`` is ``float64[P]``, zeros where nobody succeeded;
    ``norms`` are the updates' Euclidean norms before clipping, ``float64[C]``. The rest is as in `Updates`.
    """

    clients: NDArray[np.int64]
    total: NDArray[np.float64]
    norms: NDArray[np.float64]
    examples: NDArray[np.int64]
    metrics: dict[str, NDArray[np.float64]]
    failures: tuple[Failure, ...] = field(default=())
