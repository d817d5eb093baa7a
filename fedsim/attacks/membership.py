"""Was this example trained on? Scores of the attacks that reviewers expect, from what models say of the examples.

Every function takes `confidence`s and returns scores ``float64[N]``, higher for a likelier member. A model that has
learnt little by heart gives nothing away: a LeNet with more than 99 % accuracy on MNIST is at chance under all of
them, because it generalises and not because anything protects it. Whether a defence works shows where the attack works
without it: few examples and many epochs.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Confidences = NDArray[np.float64]
Members = NDArray[np.bool_]
Scores = NDArray[np.float64]

OFFLINE_A = 0.3
"""How much surer models are of what they have seen: RMIA's ``a`` where it may not train on the examples."""
_SMALLEST_VARIANCE = 1e-12


def confidence(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Confidences:
    """``log(p / (1 - p))`` of each example's own class (Carlini et al. 2022): ``[..., N, classes]`` to ``[..., N]``.

    Computed from the logits, so that it is exact where ``p`` rounds to 1, which it does on most of a training set.

    >>> confidence(np.log(np.array([[0.8, 0.1, 0.1]], np.float32)), np.array([0])).round(4).tolist()
    [1.3863]
    """
    scores = logits.astype(np.float64)
    others = np.where(np.arange(scores.shape[-1]) == labels[:, np.newaxis], -np.inf, scores)
    largest = others.max(axis=-1)
    rest = np.log(np.exp(others - largest[..., np.newaxis]).sum(axis=-1))
    return scores[..., np.arange(len(labels)), labels] - largest - rest


def loss_threshold(target: Confidences) -> Scores:
    """Low loss, likely member (Yeom et al. 2018): minus the target's cross entropy."""
    return -np.logaddexp(0.0, -target)


def lira_online(target: Confidences, shadows: Confidences, members: Members, *, pooled: bool = True) -> Scores:
    """LiRA's log-likelihood ratio (Carlini et al. 2022, algorithm 1).

    ``shadows`` ``[K, N]`` are the examples' confidences under models of the attacker's own, of which ``members``
    ``[K, N]`` says who trained on what. Each example has a Gaussian of the models that saw it and one of those that did
    not, with variances of its own or, ``pooled``, the mean over all examples: better below some 64 shadows.

    Raises ``ValueError`` where an example has too few models on a side: one, or two where it is to have a variance.
    """
    seen, seen_variance = _gaussians(shadows, members, pooled)
    unseen, unseen_variance = _gaussians(shadows, ~members, pooled)
    return _log_density(target, seen, seen_variance) - _log_density(target, unseen, unseen_variance)


def lira_offline(target: Confidences, shadows: Confidences, members: Members, *, pooled: bool = True) -> Scores:
    """LiRA of models that have not seen the example alone (Carlini et al. 2022, algorithm 1, offline).

    The score is how many standard deviations the target is above them, of which the paper's one-sided probability is an
    increasing function. Models that have seen the example are passed over. Raises as `lira_online`.
    """
    unseen, variance = _gaussians(shadows, ~members, pooled)
    return (target - unseen) / np.sqrt(variance)


def rmia(
    target: Confidences,
    shadows: Confidences,
    members: Members,
    population: Confidences,
    population_shadows: Confidences,
    *,
    online: bool = True,
    gamma: float = 1.0,
) -> Scores:
    """RMIA: of how large a share of the population the example stands out (Zarifzadeh et al. 2024).

    ``population`` ``[Z]`` and ``population_shadows`` ``[K, Z]`` are confidences of examples in nobody's training set;
    an example beats one of them whose likelihood ratio is at most its own divided by ``gamma``. An example's mean
    likelihood is half from models that saw it and half from those that did not. What nobody saw, and every example
    where the attack is not ``online``, has the first half estimated (their offline attack, ``a`` being `OFFLINE_A`).

    Raises ``ValueError`` where an example lacks models on a side that counts.
    """
    likelihoods = _sigmoid(shadows)
    unseen = _means(likelihoods, ~members)
    mean = (unseen + _means(likelihoods, members)) / 2 if online else _offline_mean(unseen)
    ratios = _sigmoid(target) / mean
    beaten = np.sort(_sigmoid(population) / _offline_mean(_sigmoid(population_shadows).mean(axis=0)))
    return np.searchsorted(beaten, ratios / gamma, side="right") / len(beaten)


def turns(models: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each of ``models`` as the victim once, with the others as its shadows: how attacks are measured without waste."""
    for victim in range(models):
        yield victim, np.delete(np.arange(models), victim)


def _gaussians(values: Confidences, chosen: Members, pooled: bool) -> tuple[Confidences, Confidences]:
    """Mean and unbiased variance over the ``chosen`` models of each example, ``float64[N]``."""
    counts = chosen.sum(axis=0)
    mean = _means(values, chosen)
    squares = (np.square(values - mean) * chosen).sum(axis=0)
    freedom = (counts - 1).sum(keepdims=True) if pooled else counts - 1
    if freedom.min() < 1:
        raise ValueError("a variance needs two shadow models that saw an example and two that did not; train more")
    variance = (squares.sum(keepdims=True) if pooled else squares) / freedom
    return mean, np.broadcast_to(np.maximum(variance, _SMALLEST_VARIANCE), mean.shape)


def _means(values: Confidences, chosen: Members) -> Confidences:
    counts = chosen.sum(axis=0)
    if counts.min() < 1:
        raise ValueError("every example needs a shadow model that saw it and one that did not; train more")
    return (values * chosen).sum(axis=0) / counts


def _log_density(values: Confidences, mean: Confidences, variance: Confidences) -> Scores:
    """A Gaussian's, without the constant."""
    return -np.square(values - mean) / (2 * variance) - np.log(variance) / 2


def _offline_mean(unseen: Confidences) -> Confidences:
    return ((1 + OFFLINE_A) * unseen + 1 - OFFLINE_A) / 2


def _sigmoid(values: Confidences) -> Confidences:
    return np.exp(-np.logaddexp(0.0, -values))
