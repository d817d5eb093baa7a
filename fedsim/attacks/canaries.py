"""Canary clients for an audit: random directions as long as the clip allows, and how much a release agrees with them.

Andrew et al. 2024, "One-shot empirical privacy estimation for federated learning". No canary needs data or training,
and a direction is drawn again wherever it is needed, so that a thousand of them never lie in memory at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.attacks.auditing import Audit, audit_scores
from fedsim.seeds import generator

Vector = NDArray[np.float64]

_CANARIES = 16
_ROUNDS = 64
"""How many directions, and how many releases, are in memory at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Canaries:
    """Clients whose update, once clipped, is ``clip`` times a random unit direction of their own, whenever they attend.

    ``included`` ``bool[m]`` says which of them exist for the whole run, each with probability 1/2: that is what an
    auditor guesses, and what neighbouring runs differ in. A direction is a vertex of the cube, ``+-1/sqrt(dimension)``
    everywhere: of all updates of its length the one with the largest sum of magnitudes, which is the worst case of
    noise on integers; two of them have an inner product of 0 on average, and of 1/sqrt(dimension) in quadratic mean.
    """

    seed: int
    dimension: int
    clip: float
    included: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.included)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is audited: (``epsilon``, ``delta``)-DP by noise of deviation ``noise_multiplier`` clips in a round."""

    epsilon: float
    delta: float
    noise_multiplier: float


def draw_canaries(seed: int, *, count: int = 1000, dimension: int, clip: float) -> Canaries:
    """``count`` canaries for updates of ``dimension`` numbers; equal arguments give the same ones.

    Raises ``ValueError`` where a number is not positive.
    """
    for name, value in (("count", count), ("dimension", dimension), ("clip", clip)):
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    included = generator(seed, "canary membership").random(count) < 0.5
    return Canaries(seed=seed, dimension=dimension, clip=clip, included=included)


def directions(canaries: Canaries, chosen: NDArray[np.int64]) -> Vector:
    """The unit directions of the canaries ``chosen`` ``int64[n]``, as ``float64[n, P]``."""
    size = -(-canaries.dimension // 8)
    drawn = [generator(canaries.seed, "canary direction", canary).bytes(size) for canary in chosen.tolist()]
    bits = np.frombuffer(b"".join(drawn), np.uint8).reshape(len(chosen), size)
    vectors = np.unpackbits(bits, axis=1, count=canaries.dimension).astype(np.float64)
    vectors -= 0.5
    vectors *= 2 / np.sqrt(canaries.dimension)
    return vectors


def attending(canaries: Canaries, round: int, attendance: float | Vector) -> NDArray[np.int64]:
    """The canaries that exist and attend ``round``, ascending: each with its probability ``attendance``, a number or
    ``float64[m]``, independently. 1 is for everybody, a cohort's share of all clients for Poisson sampling, and
    0 or 1 for turns that are known."""
    present = generator(canaries.seed, "canary attendance", round).random(len(canaries)) < attendance
    return np.flatnonzero(canaries.included & present)


def agreement(canaries: Canaries, releases: Vector) -> Vector:
    """How far each of ``releases`` ``float64[T, P]`` points along each canary, in clips: ``float64[m, T]``.

    It is 1 on average where the canary is in a released sum, and 0 where it is not.
    """
    everyone = np.arange(len(canaries))
    blocks = [everyone[first : first + _CANARIES] for first in range(0, len(canaries), _CANARIES)]
    seen = [directions(canaries, block) @ releases.T for block in blocks]
    return np.concatenate(seen) / canaries.clip


def evidence(agreements: Vector, *, attendance: float | Vector, noise_multiplier: float) -> Vector:
    """The log-likelihood ratio of in to out for each canary, ``float64[m]``, the strongest test by Neyman and Pearson.

    ``agreements`` ``float64[m, T]`` are x = N(1, z^2) with probability ``attendance`` a, a number or ``float64[m, T]``,
    and else N(0, z^2) if the canary is in, and N(0, z^2) if it is out, z being the ``noise_multiplier``: the sum over
    rounds of log(1 - a + a exp((x - 1/2) / z^2)). It grows with x where a mechanism's noise is not as said, so a wrong
    z costs the audit strength, never soundness.
    """
    if noise_multiplier <= 0:
        raise ValueError(f"an audit needs a claim with noise, got a noise multiplier of {noise_multiplier}")
    with np.errstate(divide="ignore"):  # an attendance of 0 or 1 has a logarithm of -inf, which logaddexp takes
        here, away = np.log(attendance), np.log1p(-np.asarray(attendance, dtype=np.float64))
    return np.logaddexp(away, here + (agreements - 0.5) / noise_multiplier**2).sum(axis=1)


def audit_releases(
    canaries: Canaries,
    releases: Iterable[Vector],
    *,
    attendance: float | Vector,
    claim: Claim,
    confidence: float = 0.95,
    guesses: int | None = None,
) -> Audit:
    """Audit the ``releases`` of a run, one noised sum of clipped updates ``float64[P]`` a round, with canaries in it.

    What the auditor knows of a release, such as the other clients' sum, may have been taken off it; a divisor must
    have been multiplied back. ``attendance`` is a number or ``float64[m, T]``, as the canaries were sampled. The rest
    is as in `audit_scores`. Releases are read once and only a few of them are in memory at a time.
    """
    scores, round = np.zeros(len(canaries)), 0
    for block in _stacks(releases):
        part = attendance if isinstance(attendance, float | int) else attendance[:, round : round + len(block)]
        scores += evidence(agreement(canaries, block), attendance=part, noise_multiplier=claim.noise_multiplier)
        round += len(block)
    return audit_scores(
        scores,
        canaries.included,
        claimed_epsilon=claim.epsilon,
        delta=claim.delta,
        confidence=confidence,
        guesses=guesses,
    )


def _stacks(releases: Iterable[Vector]) -> Iterator[Vector]:
    """``releases`` in stacks of a few, ``float64[T, P]``."""
    stack: list[Vector] = []
    for release in releases:
        stack.append(release)
        if len(stack) == _ROUNDS:
            yield np.stack(stack)
            stack = []
    if stack:
        yield np.stack(stack)
