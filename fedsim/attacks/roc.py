"""How well scores tell members from others: the figures that a membership study is expected to show.

The area under the curve says little about privacy: an attack that is sure of a few people and guesses the others has
an area near 0.5 (Carlini et al. 2022). What counts is the true-positive rate at a low false-positive rate.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

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
    """The chance that a member scores above a non-member, ties half, and its interval (DeLong et al. 1988).

    Its variance is that of how many of the others each member is above and each non-member below.
    """
    above = _share_below(scores[members], scores[~members])
    below = 1 - _share_below(scores[~members], scores[members])
    area = float(above.mean())
    deviation = math.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * deviation
    return area, (max(0.0, area - reach), min(1.0, area + reach))


def _share_below(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """What share of ``others`` each value is above, where equal ones count half."""
    ordered = np.sort(others)
    places = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    return places / (2 * len(others))
