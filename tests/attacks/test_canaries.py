"""Canaries against their own plain sums and densities, and audits of mechanisms: sound ones, and ones with a fault."""

import tracemalloc
from collections.abc import Callable

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from fedsim.attacks.auditing import Audit, ceiling
from fedsim.attacks.canaries import (
    Canaries,
    Claim,
    agreement,
    attending,
    audit_releases,
    directions,
    draw_canaries,
    evidence,
)
from fedsim.seeds import generator

DELTA = 1e-5
LENET = 61_706
NOISE = {epsilon: dp_accounting.get_sigma_gaussian(epsilon, DELTA) for epsilon in (1.0, 2.0, 4.0, 8.0)}
"""Noise multipliers of one Gaussian release, by its epsilon."""


def everyone(canaries: Canaries) -> NDArray[np.int64]:
    return np.arange(len(canaries))


def contribution(canaries: Canaries, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """What the canaries ``chosen`` add to a sum of clipped updates, ``float64[P]``, with few of them in memory."""
    total = np.zeros(canaries.dimension)
    for canary in chosen:
        total += canaries.clip * directions(canaries, np.array([canary]))[0]
    return total


def audit_mechanism(
    release: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    canaries: Canaries,
    *,
    claim: Claim,
    rounds: int = 1,
    attendance: float | NDArray[np.float64] = 1.0,
) -> Audit:
    """The audit of what ``release`` makes of sums that hold the canaries attending each round, and nobody else."""
    chances = np.broadcast_to(attendance, (len(canaries), rounds))
    totals = (contribution(canaries, attending(canaries, number, chances[:, number])) for number in range(rounds))
    return audit_releases(canaries, map(release, totals), attendance=attendance, claim=claim)


def gaussian(seed: int, deviation: float, dimension: int) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    rng = generator(seed, "noise of an audited mechanism")
    return lambda total: total + deviation * rng.standard_normal(dimension)


def audit_gaussian(seed: int, epsilon: float, *, noise: float, dimension: int = 8192, count: int = 1000) -> Audit:
    """An audit of one Gaussian release that is claimed to have ``epsilon``, with this noise in truth."""
    canaries = draw_canaries(seed, count=count, dimension=dimension, clip=0.2)
    claim = Claim(epsilon=epsilon, delta=DELTA, noise_multiplier=NOISE[epsilon])
    return audit_mechanism(gaussian(seed, 0.2 * noise, dimension), canaries, claim=claim)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 70), st.floats(0.01, 10))
def test_agreements_are_plain_sums(seed: int, count: int, dimension: int, clip: float) -> None:
    canaries = draw_canaries(seed, count=count, dimension=dimension, clip=clip)
    stack = directions(canaries, everyone(canaries))
    assert np.allclose(np.linalg.norm(stack, axis=1), 1)
    present = np.flatnonzero(canaries.included)
    releases = generator(seed, "releases").standard_normal((3, dimension))
    assert np.allclose(agreement(canaries, releases), np.einsum("mp,tp->mt", stack, releases) / clip)
    assert np.array_equal(directions(canaries, present), stack[present])


def test_half_of_the_canaries_are_in_and_their_directions_nearly_orthogonal() -> None:
    canaries = draw_canaries(1, dimension=8192, clip=1.0)
    assert abs(canaries.included.sum() - 500) < 4 * np.sqrt(250)
    inner = directions(canaries, everyone(canaries)) @ directions(canaries, np.array([0])).T
    assert inner[0, 0] == pytest.approx(1)
    assert inner[1:].std() == pytest.approx(1 / np.sqrt(8192), rel=0.1)
    assert not np.array_equal(canaries.included, draw_canaries(2, dimension=8192, clip=1.0).included)


def test_canaries_attend_as_they_are_told() -> None:
    canaries = draw_canaries(3, count=4000, dimension=1, clip=1.0)
    members = np.flatnonzero(canaries.included)
    assert np.array_equal(attending(canaries, 1, 1.0), members)
    turns = (np.arange(4000) % 4 == 1).astype(float)
    assert np.array_equal(attending(canaries, 1, turns), members[members % 4 == 1])
    sampled = [attending(canaries, round, 0.1) for round in (1, 2)]
    for cohort in sampled:
        assert canaries.included[cohort].all()
        assert abs(len(cohort) - 0.1 * len(members)) < 4 * np.sqrt(0.09 * len(members))
    assert len(np.intersect1d(*sampled)) < 0.5 * len(sampled[0])


def test_evidence_is_the_ratio_of_densities() -> None:
    rng = generator(4, "agreements")
    seen = rng.standard_normal((5, 7))
    attendance = rng.random((5, 7))
    attendance[0], attendance[1] = 0.0, 1.0
    out = stats.norm.pdf(seen, 0, 0.7)
    ratio = (attendance * stats.norm.pdf(seen, 1, 0.7) + (1 - attendance) * out) / out
    found = evidence(seen, attendance=attendance, noise_multiplier=0.7)
    assert found == pytest.approx(np.log(ratio).sum(axis=1))
    assert found[0] == 0
    assert evidence(seen, attendance=0.1, noise_multiplier=0.7).shape == (5,)


def test_releases_may_come_one_by_one() -> None:
    canaries = draw_canaries(5, count=60, dimension=256, clip=1.0)
    chances = generator(5, "turns").random((60, 130))
    releases = generator(5, "releases").standard_normal((130, 256))
    claim = Claim(epsilon=2.0, delta=DELTA, noise_multiplier=1.0)
    once = audit_releases(canaries, iter(releases), attendance=chances, claim=claim)
    scores = evidence(agreement(canaries, releases), attendance=chances, noise_multiplier=1.0)
    inside, outside = scores[canaries.included], scores[~canaries.included]
    assert once.auc == pytest.approx((inside[:, None] > outside[None, :]).mean())


def test_audits_of_what_is_claimed_find_no_more_than_is_claimed() -> None:
    audits = [
        audit_gaussian(seed, epsilon, noise=NOISE[epsilon], count=500)
        for seed in range(5)
        for epsilon in (1.0, 2.0, 4.0, 8.0)
    ]
    assert sum(audit.bounds.one_run_fdp > audit.claimed_epsilon for audit in audits) <= 2
    assert sum(audit.bounds.one_run > audit.claimed_epsilon for audit in audits) <= 2
    assert sum(audit.bounds.clopper_pearson > audit.claimed_epsilon for audit in audits) <= 2


@pytest.mark.parametrize("epsilon", [4.0, 8.0])
def test_an_audit_certifies_a_good_part_of_the_claim(epsilon: float) -> None:
    found = [audit_gaussian(seed, epsilon, noise=NOISE[epsilon]) for seed in range(5)]
    assert np.median([audit.bounds.one_run_fdp for audit in found]) >= 0.45 * epsilon
    # One canary's score is N(1, z^2) or N(0, z^2).
    expected = stats.norm.cdf(1 / (np.sqrt(2) * NOISE[epsilon]))
    assert np.mean([audit.auc for audit in found]) == pytest.approx(expected, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [4.0, 8.0])
def test_an_audit_at_lenets_size_certifies_a_good_part_of_the_claim(epsilon: float) -> None:
    found = [audit_gaussian(seed, epsilon, noise=NOISE[epsilon], dimension=LENET) for seed in range(5)]
    assert np.median([audit.bounds.one_run_fdp for audit in found]) >= 0.45 * epsilon


@pytest.mark.parametrize("epsilon", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("share", [0.0, 1e-3])
def test_forgotten_noise_is_caught(epsilon: float, share: float) -> None:
    audit = audit_gaussian(7, epsilon, noise=share * NOISE[epsilon], dimension=16_384)
    assert audit.refuted
    assert audit.bounds.one_run_fdp <= ceiling(1000, delta=DELTA, guesses=333).one_run_fdp


@pytest.mark.parametrize("epsilon", [2.0, 4.0])
def test_noise_for_equal_weights_is_caught_where_a_client_weighs_more(epsilon: float) -> None:
    """A mean by examples of 100 clients with noise for C/100, where one of them, the round's canary, weighs 0.4."""
    rounds, weight = 300, 600 / (600 + 99 * 9)
    canaries = draw_canaries(8, count=rounds, dimension=512, clip=0.2)
    rng = generator(8, "noise of an audited mechanism")

    def release(total: NDArray[np.float64]) -> NDArray[np.float64]:
        mean = weight * total  # the 99 others send nothing
        return 100 * (mean + NOISE[epsilon] * 0.2 / 100 * rng.standard_normal(512))

    audit = audit_mechanism(
        release,
        canaries,
        rounds=rounds,
        attendance=np.eye(rounds),
        claim=Claim(epsilon=epsilon, delta=DELTA, noise_multiplier=NOISE[epsilon]),
    )
    assert audit.refuted


@pytest.mark.parametrize(("dimension", "rounds"), [(2048, 30), pytest.param(LENET, 100, marks=pytest.mark.slow)])
def test_a_run_with_sampled_cohorts_is_audited_below_its_claim(dimension: int, rounds: int) -> None:
    """Noise 0.936, a cohort of one client in ten, 100 rounds: epsilon 8 at 1e-5. Fewer rounds have less."""
    canaries = draw_canaries(9, count=1000, dimension=dimension, clip=0.2)
    audit = audit_mechanism(
        gaussian(9, 0.2 * 0.936, dimension),
        canaries,
        rounds=rounds,
        attendance=0.1,
        claim=Claim(epsilon=8.0, delta=DELTA, noise_multiplier=0.936),
    )
    assert 0.5 < audit.bounds.one_run_fdp < 8
    assert not audit.refuted


def test_known_turns_tell_more_than_sampled_ones() -> None:
    canaries = draw_canaries(10, count=1000, dimension=4096, clip=1.0)
    turns = (np.arange(1000)[:, None] % 10 == np.arange(20)[None, :] % 10).astype(float)
    claim = Claim(epsilon=8.0, delta=DELTA, noise_multiplier=1.0)
    known, sampled = (
        audit_mechanism(gaussian(10, 1.0, 4096), canaries, rounds=20, attendance=attendance, claim=claim)
        for attendance in (turns, 0.1)
    )
    assert known.bounds.one_run_fdp > sampled.bounds.one_run_fdp


def test_canaries_of_lenets_size_stay_out_of_memory() -> None:
    canaries = draw_canaries(11, count=300, dimension=LENET, clip=1.0)
    tracemalloc.start()
    agreement(canaries, directions(canaries, np.array([0])))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * LENET * 8


def test_what_cannot_be_audited_is_named() -> None:
    with pytest.raises(ValueError, match="clip must be positive, got 0"):
        draw_canaries(0, dimension=10, clip=0)
    with pytest.raises(ValueError, match="claim with noise"):
        evidence(np.zeros((2, 2)), attendance=1.0, noise_multiplier=0.0)
