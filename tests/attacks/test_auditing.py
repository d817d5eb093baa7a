"""Lower bounds on epsilon: each against an independent calculation, and against mechanisms whose epsilon is known."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from numpy.typing import NDArray
from scipy import optimize, special, stats

from fedsim.attacks.auditing import (
    InverseBlowUp,
    audit_scores,
    ceiling,
    clopper_pearson_bound,
    correct_guesses,
    fdp_refuted,
    gaussian_epsilon,
    one_run_bound,
    one_run_fdp_bound,
    one_run_p_value,
)
from fedsim.seeds import generator

REPEATS = 300
TOO_MANY = stats.binom(REPEATS, 0.05).isf(1e-4)
"""More false alarms than tests at 95 % raise in REPEATS, but once in 10,000."""


def gaussian_curve(mu: float) -> InverseBlowUp:
    return lambda power: float(stats.norm.cdf(stats.norm.ppf(power) - mu))


def noisy(rng: np.random.Generator, canaries: int, noise: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    included = rng.random(canaries) < 0.5
    return included + noise * rng.standard_normal(canaries), included


@pytest.mark.parametrize(("guesses", "correct", "epsilon"), [(40, 31, 0.3), (40, 40, 2.0), (7, 0, 1.0), (60, 45, 1.5)])
def test_the_p_value_is_the_theorems(guesses: int, correct: int, epsilon: float) -> None:
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    exactly = [math.comb(guesses, k) * right**k * (1 - right) ** (guesses - k) for k in range(guesses + 1)]
    tail = sum(exactly[correct:])
    excess = max((sum(exactly[max(0, correct - i) : correct]) / i for i in range(1, 101)), default=0.0)
    expected = min(1.0, tail + 2 * 100 * 0.003 * excess)
    found = one_run_p_value(epsilon, canaries=100, guesses=guesses, correct=correct, delta=0.003)
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_one_run_bound_holds_for_randomized_response() -> None:
    rng = generator(1, "response")
    alarms = 0
    for _ in range(REPEATS):
        included = rng.random(100) < 0.5
        answers = np.where(rng.random(100) < special.expit(1.0), included, ~included)
        correct = correct_guesses(answers.astype(float), included, 100)
        alarms += one_run_p_value(1.0, canaries=100, guesses=100, correct=correct, delta=0.0) < 0.05
    assert alarms <= TOO_MANY


def test_delta_pays_for_the_run_that_tells_everything() -> None:
    rng = generator(2, "betrayal")
    alarms, without_delta = 0, 0
    for _ in range(REPEATS):
        kept = rng.random(40) < special.expit(1.0)
        correct = 40 if rng.random() < 0.2 else int(kept.sum())
        claim = {"canaries": 40, "guesses": 40, "correct": correct}
        alarms += one_run_p_value(1.0, **claim, delta=0.2) < 0.05
        without_delta += one_run_p_value(1.0, **claim, delta=0.0) < 0.05
    assert alarms <= TOO_MANY < without_delta


def most_probable(mu: float, *, canaries: int, guesses: int, correct: int) -> float:
    """The largest probability of ``correct`` or more that theorem 9 of Mahloujifar et al. 2024 leaves, over its tails.

    A linear programme over p_0..p_guesses: for each i the sum over j >= i of j/m p_j is at most
    Phi(Phi^-1(h) + mu), h the sum over j >= i - 1 of (guesses - j)/m p_j; a concave curve is the least of its tangents.
    """
    number = np.arange(guesses + 1)
    quantiles = np.linspace(-6, 6, 1201)
    slopes = np.exp(-mu * quantiles - mu**2 / 2)
    intercepts = stats.norm.cdf(quantiles + mu) - slopes * stats.norm.cdf(quantiles)
    rows, limits = [], []
    for i in range(1, guesses + 1):
        right = np.where(number >= i, number, 0) / canaries
        wrong = np.where(number >= i - 1, guesses - number, 0) / canaries
        rows.append(right[None, :] - slopes[:, None] * wrong[None, :])
        limits.append(intercepts)
    best = optimize.linprog(
        -(number >= correct).astype(float),
        A_ub=np.concatenate(rows),
        b_ub=np.concatenate(limits),
        A_eq=np.ones((1, guesses + 1)),
        b_eq=[1.0],
    )
    return -float(best.fun)


@pytest.mark.parametrize(
    ("mu", "canaries", "guesses", "correct"), [(0.5, 8, 8, 7), (1.0, 12, 6, 5), (1.0, 10, 10, 8), (0.3, 20, 10, 9)]
)
def test_the_fdp_recursion_refutes_what_the_theorem_excludes(
    mu: float, canaries: int, guesses: int, correct: int
) -> None:
    counts = {"canaries": canaries, "guesses": guesses, "correct": correct}
    most = most_probable(mu, **counts)
    assert not fdp_refuted(gaussian_curve(mu), **counts, significance=0.995 * most)
    assert fdp_refuted(gaussian_curve(mu), **counts, significance=min(1.0, 1.2 * most))


@pytest.mark.parametrize("noise", [0.6, 1.1, 3.7])
def test_the_fdp_bound_holds_for_gaussian_noise(noise: float) -> None:
    rng = generator(3, "gaussian")
    alarms = 0
    for _ in range(REPEATS):
        scores, included = noisy(rng, 200, noise)
        counts = {"canaries": 200, "guesses": 50, "correct": correct_guesses(scores, included, 50)}
        alarms += fdp_refuted(gaussian_curve(1 / noise), **counts, significance=0.05)
    assert alarms <= TOO_MANY


@pytest.mark.parametrize("canaries", [2, 5, 12])
def test_the_fdp_bound_holds_where_all_canaries_share_their_noise(canaries: int) -> None:
    rng = generator(4, "shared")
    alarms = 0
    for _ in range(REPEATS):
        present = int((rng.random(canaries) < 0.5).sum())
        all_in = present + 0.5 * rng.standard_normal() > canaries / 2
        counts = {"canaries": canaries, "guesses": canaries, "correct": present if all_in else canaries - present}
        alarms += fdp_refuted(gaussian_curve(2.0), **counts, significance=0.05)
    assert alarms <= TOO_MANY


def test_the_fdp_bound_is_none_for_randomized_response() -> None:
    correct = round(250 * special.expit(2.0))
    assert one_run_bound(canaries=1000, guesses=250, correct=correct, delta=1e-5) < 2
    assert one_run_fdp_bound(canaries=1000, guesses=250, correct=correct, delta=1e-5) > 2


def test_the_clopper_pearson_bound_is_the_best_of_its_thresholds() -> None:
    scores, included = noisy(generator(5, "rates"), 400, 0.5)
    best = 0.0
    for threshold in range(30):
        others = np.arange(400) != threshold
        above = scores > scores[threshold]
        rates = []
        for group, hit in ((included & others, above), (~included & others, ~above)):
            interval = stats.binomtest(int((group & hit).sum()), int(group.sum()), alternative="greater")
            rates.append(interval.proportion_ci(1 - 0.05 / 60).low)
        for hit, kept in (rates, rates[::-1]):
            best = max(best, math.log(max(hit - 1e-5, 1e-300) / (1 - kept)))
    assert clopper_pearson_bound(scores, included, delta=1e-5) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("noise", [0.6, 3.7])
def test_the_clopper_pearson_bound_holds_for_gaussian_noise(noise: float) -> None:
    rng, epsilon = generator(6, "gaussian"), gaussian_epsilon(1 / noise, 0.05)
    found = [clopper_pearson_bound(*noisy(rng, 200, noise), delta=0.05) for _ in range(REPEATS)]
    assert sum(bound > epsilon for bound in found) <= TOO_MANY


@pytest.mark.parametrize("mu", [0.05, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("delta", [1e-7, 1e-5, 1e-2])
def test_epsilon_of_gaussian_noise_is_dp_accountings(mu: float, delta: float) -> None:
    assert gaussian_epsilon(mu, delta) == pytest.approx(dp_accounting.get_epsilon_gaussian(1 / mu, delta), abs=2e-6)


@pytest.mark.parametrize(
    ("rate", "noise", "rounds"),
    [
        (0.1, 0.936, 100),
        pytest.param(0.01, 1.0, 1000, marks=pytest.mark.slow),
        pytest.param(0.0355, 1.109, 100, marks=pytest.mark.slow),
        pytest.param(0.1, 2.248, 100, marks=pytest.mark.slow),
        pytest.param(0.01, 0.4, 20, marks=pytest.mark.slow),
    ],
)
def test_under_poisson_sampling_a_gaussian_curve_of_equal_epsilon_is_the_weaker_claim(
    rate: float, noise: float, rounds: int
) -> None:
    """So refuting it refutes the run's: at every power that the test asks about its tests have fewer false positives.

    With D the run's hockey-stick divergences, power y needs a rate of at least max over e of (y - D(e)) exp(-e).
    """
    delta, significance, canaries, guesses = 1e-5, 0.05, 1000, 333
    run = privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=1e-3
    ).self_compose(rounds)
    epsilon = run.get_epsilon_for_delta(delta)
    mu = optimize.brentq(lambda mu: gaussian_epsilon(mu, delta) - epsilon, 0.01, 20)
    epsilons = np.linspace(0, 30, 3001)
    divergences = np.array(run.get_delta_for_epsilon(epsilons.tolist()))
    least = significance * (guesses / 2) / canaries
    for power in np.geomspace(least, 0.9999, 60):
        lines = (power - divergences) * np.exp(-epsilons)
        mirrored = 1 - divergences - (1 - power) * np.exp(epsilons)
        assert max(lines.max(), mirrored.max()) >= gaussian_curve(mu)(power)


def test_an_audit_says_what_it_did() -> None:
    scores, included = noisy(generator(7, "audit"), 1000, 1.0816)
    audit = audit_scores(scores, included, claimed_epsilon=4.0, delta=1e-5)
    beaten = scores[included][:, None] > scores[~included][None, :]
    assert (audit.canaries, audit.guesses, audit.confidence) == (1000, 333, 0.95)
    lowest, highest = np.sort(scores)[166], np.sort(scores)[-168]
    assert audit.correct == (included & (scores > highest)).sum() + (~included & (scores < lowest)).sum()
    assert audit.auc == pytest.approx(beaten.mean())
    assert audit.bounds.clopper_pearson < audit.bounds.one_run < audit.bounds.one_run_fdp < 4
    assert not audit.refuted
    assert audit_scores(scores, included, claimed_epsilon=1.0, delta=1e-5).refuted


def test_more_confidence_bounds_less() -> None:
    scores, included = noisy(generator(8, "audit"), 1000, 0.6)
    found = [
        audit_scores(scores, included, claimed_epsilon=8.0, delta=1e-5, confidence=confidence).bounds.one_run_fdp
        for confidence in (0.8, 0.95, 0.999)
    ]
    assert found == sorted(found, reverse=True)


def test_scores_that_say_nothing_bound_nothing() -> None:
    _, included = noisy(generator(9, "audit"), 1000, 1.0)
    audit = audit_scores(np.zeros(1000), included, claimed_epsilon=1.0, delta=1e-5)
    assert (audit.auc, audit.bounds.clopper_pearson) == (0.5, 0.0)


def test_the_ceiling_is_low() -> None:
    every, third = ceiling(1000, delta=1e-5), ceiling(1000, delta=1e-5, guesses=333)
    assert every.one_run == pytest.approx(5.78, abs=0.01)
    assert (third.one_run, third.one_run_fdp) == (pytest.approx(4.69, abs=0.02), pytest.approx(8.68, abs=0.01))
    perfect = (np.arange(1000) % 2).astype(bool)
    best = audit_scores(perfect.astype(float), perfect, claimed_epsilon=1.0, delta=1e-5, guesses=1000)
    assert (best.bounds.one_run, best.bounds.one_run_fdp) == (every.one_run, every.one_run_fdp)
    assert best.bounds.clopper_pearson <= every.clopper_pearson


def test_noise_halved_at_epsilon_8_is_beyond_the_one_run_bound() -> None:
    rng = generator(10, "halved")
    assert gaussian_epsilon(2 / 0.6, 1e-5) > 16
    scores, included = noisy(rng, 1000, 0.6 / 2)
    for guesses in (333, 1000):
        audit = audit_scores(scores, included, claimed_epsilon=8.0, delta=1e-5, guesses=guesses)
        assert audit.bounds.one_run < ceiling(1000, delta=1e-5).one_run + 1e-9 < 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": np.zeros(9)}, "as long"),
        ({"scores": np.full(10, np.nan)}, "finite"),
        ({"included": np.zeros(10, dtype=bool)}, "0 of 10 in"),
        ({"guesses": 11}, r"guesses must be in 1..10, got 11"),
        ({"delta": 0.0}, "delta must be"),
        ({"confidence": 1.0}, "confidence must be"),
    ],
)
def test_what_cannot_be_audited_is_named(change: dict[str, object], words: str) -> None:
    given: dict[str, object] = {
        "scores": np.arange(10.0),
        "included": np.arange(10) > 4,
        "claimed_epsilon": 1.0,
        "delta": 1e-5,
        **change,
    }
    with pytest.raises(ValueError, match=words):
        audit_scores(**given)  # pyright: ignore[reportArgumentType]
