"""What Skellam noise promises, in Renyi differential privacy of integer orders, with and without Poisson sampling."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Orders = NDArray[np.float64]
Divergences = NDArray[np.float64]

ORDERS: Orders = np.arange(2.0, 513.0)
"""The bounds below hold at integer orders; sampling needs all of them from 2 up."""


@dataclass(frozen=True, kw_only=True)
class IntegerVectors:
    """What a unit's clipped update can be once it is rounded to integers.

    ``l2`` and ``l1`` are the most that a rounded vector measures in Euclidean norm and in sum of magnitudes: of ``d``
    integers at most ``min(sqrt(d) * l2, l2**2)``. Noise multipliers are of ``l2``, which rounding may raise above the
    clip.
    """

    l2: float
    l1: float

    def __post_init__(self) -> None:
        if min(self.l2, self.l1) <= 0:
            raise ValueError(f"l2 and l1 must be above 0, got {self.l2:g} and {self.l1:g}")


def skellam(vectors: IntegerVectors, variance: float, orders: Orders = ORDERS) -> Divergences:
    """An upper bound of the Renyi divergences, one an order, between sums with and without one of ``vectors``.

    Every coordinate of the sum has its own Skellam noise of ``variance``: the difference of two Poisson counts of mean
    ``variance / 2``. The bound for several dimensions of Agarwal, Kairouz and Liu 2021; ``orders`` are integers
    above 1. The first term is what Gaussian noise of the same variance costs.
    """
    squared = vectors.l2**2
    near = ((2 * orders - 1) * squared + 6 * vectors.l1) / (4 * variance**2)
    return orders * squared / (2 * variance) + np.minimum(near, 3 * vectors.l1 / (2 * variance))


def poisson_sampled(divergences: Divergences, rate: float) -> Divergences:
    """The divergences of a release that each unit joins with chance ``rate``, from those without sampling.

    Both are of the orders 2, 3, .. and for adding or removing one unit. With P the release with the unit and Q without
    it, P's share in ``(1 - rate) Q + rate P`` gives, by the binomial theorem, at order ``a``

        log(sum over k of binomial(a, k) (1 - rate)**(a - k) rate**k exp((k - 1) D_k(P || Q))) / (a - 1)

    and the reverse is no larger where a map that is its own inverse takes P to Q, as ``x -> shift - x`` does for
    symmetric noise (Mironov, Talwar and Zhang 2019, of Gaussian noise). Zhu and Wang 2019, for any noise, have the
    terms from the third on three times over. Sampling never costs: nothing is above what it was.
    """
    from scipy.special import gammaln, logsumexp

    if rate == 1:
        return divergences
    orders = np.arange(2.0, len(divergences) + 2)[:, np.newaxis]
    taken = np.arange(0.0, len(divergences) + 2)
    exponents = np.concatenate(([0.0, 0.0], (taken[2:] - 1) * divergences))
    left = orders - taken
    with np.errstate(invalid="ignore"):
        choices = gammaln(orders + 1) - gammaln(taken + 1) - gammaln(np.maximum(left, 0) + 1)
        terms = choices + left * np.log1p(-rate) + taken * np.log(rate) + exponents
    sums = logsumexp(np.where(left >= 0, terms, -np.inf), axis=1)
    return np.minimum(np.maximum(sums, 0.0) / (orders[:, 0] - 1), divergences)
