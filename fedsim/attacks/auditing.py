"""How much privacy a mechanism loses at least, read off how well canaries' memberships can be guessed from its output.

A canary is a client of the auditor's making that takes part with probability 1/2; its score says how much the output
looks as if it did. One run with many canaries gives a lower bound on epsilon that holds with a stated confidence.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_THRESHOLDS = 30

InverseBlowUp = Callable[[float], float]
"""Of a trade-off curve f: the least false positive rate at which a test may have a power of ``y``, the root x of
1 - f(x) = y. For mu-GDP it is ``Phi(Phi^-1(y) - mu)``."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Lower bounds on epsilon at one delta, each of which alone holds with the confidence it was asked for.

    ``one_run`` holds for every (epsilon, delta)-DP mechanism. ``one_run_fdp`` refutes every Gaussian trade-off curve
    with less epsilon: read it beside mechanisms that claim one (`one_run_fdp_bound` says which). ``clopper_pearson``
    needs canaries whose scores do not depend on each other's.
    """

    one_run: float
    one_run_fdp: float
    clopper_pearson: float


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit found: ``bounds`` on epsilon at ``delta``, beside the ``claimed_epsilon``.

    Of ``canaries`` memberships the ``guesses`` surest were guessed and ``correct`` were right; ``auc`` is the
    probability that a canary that took part has the higher score than one that did not.
    """

    claimed_epsilon: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int
    auc: float
    bounds: Bounds

    @property
    def refuted(self) -> bool:
        """Whether the claim is false, with the audit's confidence: by ``one_run_fdp``, the only bound that decides.

        If any of three could, each would have to hold with more confidence, and could then show less.
        """
        return self.bounds.one_run_fdp > self.claimed_epsilon


def audit_scores(
    scores: Floats,
    included: NDArray[np.bool_],
    *,
    claimed_epsilon: float,
    delta: float,
    confidence: float = 0.95,
    guesses: int | None = None,
) -> Audit:
    """Bound epsilon from ``scores`` ``float64[m]`` of m canaries, of which ``included`` ``bool[m]`` took part.

    ``guesses`` is how many memberships are guessed, half of them in for the highest scores and half out for the
    lowest; it must be chosen without having seen the scores, and is a third of the canaries where it is not given:
    near the best for epsilons of 1 to 8, and enough to see noise forgotten at 8 (`ceiling`). No Bonferroni correction
    is owed for a number fixed beforehand.

    Raises ``ValueError`` where the arrays do not go together or a number is out of range.
    """
    scores, guesses = _checked(scores, included, guesses)
    _check_level(delta, confidence)
    correct = correct_guesses(scores, included, guesses)
    counts = {"canaries": len(scores), "guesses": guesses, "correct": correct}
    return Audit(
        claimed_epsilon=claimed_epsilon,
        delta=delta,
        confidence=confidence,
        **counts,
        auc=_auc(scores, included),
        bounds=Bounds(
            one_run=one_run_bound(**counts, delta=delta, confidence=confidence),
            one_run_fdp=one_run_fdp_bound(**counts, delta=delta, confidence=confidence),
            clopper_pearson=clopper_pearson_bound(scores, included, delta=delta, confidence=confidence),
        ),
    )


def ceiling(canaries: int, *, delta: float, confidence: float = 0.95, guesses: int | None = None) -> Bounds:
    """The bounds of an audit whose guesses are all right: what no one run with so many canaries can exceed.

    ``guesses`` is all of them where it is not given. An audit cannot tell a privacy loss beyond its ceiling from no
    privacy at all, and needs a loss well beyond a claim to refute it: with 1,000 canaries no one-run bound refutes a
    claim of 6, and noise halved at epsilon 8 is not sure to be seen by any.

    >>> round(ceiling(1000, delta=1e-5).one_run, 2)
    5.78
    """
    guesses = canaries if guesses is None else guesses
    counts = {"canaries": canaries, "guesses": guesses, "correct": guesses}
    half = np.array([canaries // 2])
    rate = _lowest_rate(half, half, (1 - confidence) / (2 * min(_THRESHOLDS, canaries)))
    return Bounds(
        one_run=one_run_bound(**counts, delta=delta, confidence=confidence),
        one_run_fdp=one_run_fdp_bound(**counts, delta=delta, confidence=confidence),
        clopper_pearson=_implied_epsilon(rate, rate, delta),
    )


def correct_guesses(scores: Floats, included: NDArray[np.bool_], guesses: int) -> int:
    """How many of ``guesses`` are right: in for the ``guesses / 2`` highest scores, rounded up, out for the lowest."""
    order = np.argsort(scores, kind="stable")
    low = guesses // 2
    return int((~included[order[:low]]).sum() + included[order[len(order) - (guesses - low) :]].sum())


def one_run_bound(*, canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    """The least epsilon that ``correct`` of ``guesses`` leave possible (Steinke, Nasr & Jagielski 2023, theorem 5.2).

    Holds with ``confidence`` for every (epsilon, delta)-DP mechanism under add-or-remove of a canary, whatever the
    canaries do to each other, if the number of guesses did not depend on the memberships.

    >>> round(one_run_bound(canaries=1000, guesses=100, correct=75, delta=1e-4), 3)  # the paper's, appendix D
    0.673
    """
    significance = 1 - confidence
    return _last(
        lambda epsilon: (
            one_run_p_value(epsilon, canaries=canaries, guesses=guesses, correct=correct, delta=delta) < significance
        )
    )


def one_run_p_value(epsilon: float, *, canaries: int, guesses: int, correct: int, delta: float) -> float:
    """The most probable that an (epsilon, delta)-DP mechanism lets this many guesses be right, or more.

    With W ~ Binomial(guesses, e^epsilon / (1 + e^epsilon)) it is P[W >= v] plus 2 m delta times the maximum over
    i in 1..m of P[v - i <= W < v] / i (Steinke, Nasr & Jagielski 2023, theorem 5.2).
    """
    from scipy import special

    fewer = np.arange(correct + 1)
    at_least = special.bdtrc(correct - 1 - fewer, guesses, special.expit(epsilon))  # P[W >= correct - fewer]
    excess = np.max((at_least[1:] - at_least[0]) / fewer[1:], initial=0.0)
    return float(min(1.0, at_least[0] + 2 * canaries * delta * excess))


def one_run_fdp_bound(*, canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    """The least epsilon at ``delta`` of a Gaussian trade-off curve that ``correct`` of ``guesses`` leave possible.

    Mahloujifar, Melis & Chaudhuri 2024, algorithm 3, over mu-GDP curves. It holds with ``confidence``, for canaries
    that may depend on each other, where the mechanism's trade-off curve is Gaussian, as of composed Gaussian noise
    without sampling. It is safe, too, where the mechanism's curve lies above the Gaussian curve of the same (epsilon,
    delta) at every power that the test asks about, all of them above ``(1 - confidence) * correct / canaries``: so
    does Gaussian noise under Poisson sampling, whose curve is below the other's only at powers of a few delta. It is
    no bound for other mechanisms: randomized response has more advantage than Gaussian noise of its epsilon.
    """
    significance = 1 - confidence
    mu = _last(
        lambda mu: fdp_refuted(
            _gaussian(mu), canaries=canaries, guesses=guesses, correct=correct, significance=significance
        )
    )
    return gaussian_epsilon(mu, delta)


def fdp_refuted(
    inverse_blow_up: InverseBlowUp, *, canaries: int, guesses: int, correct: int, significance: float
) -> bool:
    """Whether a mechanism with this trade-off curve has ``correct`` or more right with less than ``significance``.

    Mahloujifar, Melis & Chaudhuri 2024, algorithm 3, for two-sided memberships: with p_j the probability of j right
    guesses, ``right`` is a lower bound on the sum of j/m * p_j, ``wrong`` of (guesses - j)/m * p_j, over j >= i, as
    i falls from ``correct`` to 0. Probabilities that sum to more than 1 refute the curve.
    """
    right = significance * correct / canaries
    wrong = significance * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        least = max(wrong, inverse_blow_up(right))
        if least == wrong:  # then nothing moves any more
            break
        right = min(1.0, right + i / (guesses - i) * (least - wrong))
        wrong = least
    return right + wrong > guesses / canaries


def clopper_pearson_bound(
    scores: Floats, included: NDArray[np.bool_], *, delta: float, confidence: float = 0.95
) -> float:
    """The largest epsilon that error rates at a threshold imply (Nasr et al. 2021, section 4).

    The scores of the first 30 canaries are thresholds for the others, chosen without looking; at each of them
    Clopper-Pearson limits for both error rates share the significance equally (Bonferroni). Holds with ``confidence``
    where canaries' scores are independent of each other, as along directions that are nearly orthogonal.
    """
    thresholds, inside = scores[:_THRESHOLDS], included[:_THRESHOLDS]
    true_positives, positives = _above(thresholds, scores[included]), included.sum() - inside
    true_negatives, negatives = _above(-thresholds, -scores[~included]), (~included).sum() - ~inside
    level = (1 - confidence) / (2 * len(thresholds))
    return _implied_epsilon(
        _lowest_rate(true_positives, positives, level), _lowest_rate(true_negatives, negatives, level), delta
    )


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon at a positive ``delta`` of Gaussian noise of 1/mu clips (Balle & Wang 2018, theorem 8)."""
    return _last(lambda epsilon: _gaussian_delta(epsilon, mu) > delta) if mu > 0 else 0.0


def _gaussian_delta(epsilon: float, mu: float) -> float:
    from scipy import special

    spent = special.ndtr(mu / 2 - epsilon / mu)
    return float(spent - np.exp(epsilon + special.log_ndtr(-mu / 2 - epsilon / mu)))


def _gaussian(mu: float) -> InverseBlowUp:
    from scipy import special

    return lambda power: float(special.ndtr(special.ndtri(power) - mu))


def _last(holds: Callable[[float], bool]) -> float:
    """The end of the interval from 0 on which ``holds``, from below and to 1e-6; 0 where there is none."""
    if not holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while holds(high):
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _above(thresholds: Floats, scores: Floats) -> NDArray[np.int64]:
    """How many ``scores`` are greater than each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="right")


def _implied_epsilon(sensitivity: Floats, specificity: Floats, delta: float) -> float:
    """The largest epsilon that tests with these rates, or better, refute: those of (epsilon, delta)-DP have
    ``sensitivity <= e^epsilon (1 - specificity) + delta``, and so the other way about (Kairouz et al. 2015)."""
    with np.errstate(divide="ignore"):  # rates of delta or less refute nothing
        as_in = np.log(np.maximum(sensitivity - delta, 0)) - np.log1p(-specificity)
        as_out = np.log(np.maximum(specificity - delta, 0)) - np.log1p(-sensitivity)
    return float(np.max([as_in, as_out], initial=0.0))


def _lowest_rate(successes: NDArray[np.int64], trials: NDArray[np.int64], level: float) -> Floats:
    """Clopper & Pearson's lower limits for rates, each wrong with probability ``level`` at most."""
    from scipy import special

    limits = special.betaincinv(np.maximum(successes, 1), trials - successes + 1, level)
    return np.where(successes > 0, limits, 0.0)


def _auc(scores: Floats, included: NDArray[np.bool_]) -> float:
    """The area under the ROC curve, ties counted half (Mann & Whitney's U over its maximum)."""
    from scipy import stats

    inside = int(included.sum())
    ranks = stats.rankdata(scores)[included].sum() - inside * (inside + 1) / 2
    return float(ranks / (inside * (len(scores) - inside)))


def _checked(scores: Floats, included: NDArray[np.bool_], guesses: int | None) -> tuple[Floats, int]:
    if scores.ndim != 1 or scores.shape != included.shape:
        raise ValueError(f"scores and included must be one row each, as long, got {scores.shape}, {included.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if not 0 < included.sum() < len(included):
        raise ValueError(f"some canaries must be in and some out, got {included.sum()} of {len(included)} in")
    guesses = max(1, len(scores) // 3) if guesses is None else guesses
    if not 1 <= guesses <= len(scores):
        raise ValueError(f"guesses must be in 1..{len(scores)}, got {guesses}")
    return scores, guesses


def _check_level(delta: float, confidence: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
