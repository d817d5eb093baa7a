"""How well scores tell members from others: the figures that a membership study is expected to show.

The area under the curve says little about privacy: an attack that is sure of a few people and guesses the others has
an area near 0.5 (Carlini et al. 2022). What counts is the true-positive rate at a low false-positive rate.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = (0.001, 0.01, 0.1)
CONFIDENCE = 0.95
RESOLVING = 10
"""A false-positive rate is resolved where so many non-members make it up."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """The rates at every threshold that tells scores apart, from (0, 0) to (1, 1), both ``float64[thresholds]``."""

    false_positives: NDArray[np.float64]
    true_positives: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Quoted:
    """The true-positive rate where the false-positive rate is at most ``level``, with its Clopper-Pearson interval.

    Both are None where there are fewer than ``1 / level`` non-members, as the rate then is nothing but that of no
    false positive at all; below `RESOLVING` times as many it is not ``resolved``, and moves with single examples.
    """

    level: float
    rate: float | None
    interval: tuple[float, float] | None
    resolved: bool


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a membership attack achieved; intervals are at `CONFIDENCE`, and hold for independent scores.

    ``resolution`` is the smallest false-positive rate above 0 that so many ``non_members`` can show.
    """

    members: int
    non_members: int
    resolution: float
    area: float
    area_interval: tuple[float, float]
    quoted: tuple[Quoted, ...]


def curve(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> Curve:
    """The ROC curve of ``scores`` ``[N]``, higher for a likelier member; equal scores fall on one side together."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits, misses = (np.append(0, np.cumsum(chosen[order])[ends]) for chosen in (members, ~members))
    return Curve(false_positives=misses / misses[-1], true_positives=hits / hits[-1])


def figures(scores: NDArray[np.float64], members: NDArray[np.bool_], levels: tuple[float, ...] = LEVELS) -> Figures:
    """Area, rates and their intervals; raises ``ValueError`` without two members and two non-members."""
    count, others = int(members.sum()), int((~members).sum())
    if min(count, others) < 2:
        raise ValueError(f"{count} members and {others} non-members: telling them apart needs two of each")
    area, interval = _area(scores, members)
    found = curve(scores, members)
    return Figures(
        members=count,
        non_members=others,
        resolution=1 / others,
        area=area,
        area_interval=interval,
        quoted=tuple(_quote(found, level, count, others) for level in levels),
    )


def clopper_pearson(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact two-sided interval of a binomial share (Clopper and Pearson 1934).

    >>> [round(end, 4) for end in clopper_pearson(0, 10)]
    [0.0, 0.3085]
    """
    from scipy.special import betaincinv  # here, as importing it takes longer than most commands do

    tail = (1 - confidence) / 2
    low = betaincinv(successes, trials - successes + 1, tail) if successes else 0.0
    high = betaincinv(successes + 1, trials - successes, 1 - tail) if successes < trials else 1.0
    return float(low), float(high)


def _quote(found: Curve, level: float, members: int, non_members: int) -> Quoted:
    if level * non_members < 1:
        return Quoted(level=level, rate=None, interval=None, resolved=False)
    rate = float(found.true_positives[found.false_positives <= level][-1])
    return Quoted(
        level=level,
        rate=rate,
        interval=clopper_pearson(round(rate * members), members),
        resolved=level * non_members >= RESOLVING,
    )


def _area(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> tuple[float, tuple[float, float]]:
    """The chance that a member scores above a non-member, ties half, and its interval.

    The variance is that of how many of the others each member is above and each non-member below (DeLong et al. 1988).
    The interval is Student's on the logit scale (Pepe 2003, section 5.2), where ends near 1 do not pass it, with the
    degrees of freedom of Brunner and Munzel 2000, section 3, for groups of a few. Without any variance all scores are
    tied, or all members on one side: so it was with each of ``min(members, non-members)`` pairs that have nobody in
    common, and how many pairs may do otherwise is bounded by `clopper_pearson`.
    """
    from scipy.special import expit, logit, stdtrit  # here, as importing it takes longer than most commands do

    above = _share_below(scores[members], scores[~members])
    below = 1 - _share_below(scores[~members], scores[members])
    area = float(above.mean())
    parts = np.array([side.var(ddof=1) / len(side) for side in (above, below)])
    variance = parts.sum()
    if not variance:
        others = clopper_pearson(0, min(len(above), len(below)))[1]
        return area, (area * (1 - others), area + (1 - area) * others)
    freedom = variance**2 / (parts**2 / (len(above) - 1, len(below) - 1)).sum()
    reach = stdtrit(freedom, (1 + CONFIDENCE) / 2) * math.sqrt(variance) / (area * (1 - area))
    return area, (float(expit(logit(area) - reach)), float(expit(logit(area) + reach)))


def _share_below(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """What share of ``others`` each value is above, where equal ones count half."""
    ordered = np.sort(others)
    places = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    return places / (2 * len(others))
