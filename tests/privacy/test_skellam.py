"""The Skellam bounds against the divergences of shifted Skellam noise themselves, and against the Gaussian limit."""

from math import comb, exp, log

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import skellam as skellam_law

from fedsim.privacy.skellam import ORDERS, IntegerVectors, poisson_sampled, skellam

Logs = NDArray[np.float64]


def divergence(p: Logs, q: Logs, order: float) -> float:
    """Renyi's, of two laws given by their logarithms."""
    return float(logsumexp(order * p + (1 - order) * q)) / (order - 1)


def logarithms(variance: float, shift: int) -> tuple[Logs, Logs]:
    """The law of Skellam noise with and without a shift, where both can be told from 0."""
    reach = int(30 * variance**0.5 + 3 * shift + 30)
    places = np.arange(-reach, reach + shift + 1)
    law = skellam_law(variance / 2, variance / 2)
    with np.errstate(divide="ignore"):
        p, q = np.log(law.pmf(places - shift)), np.log(law.pmf(places))
    seen = np.isfinite(p) & np.isfinite(q)
    return p[seen], q[seen]


def gaussian(noise_multiplier: float) -> NDArray[np.float64]:
    return ORDERS / (2 * noise_multiplier**2)


@pytest.mark.parametrize("shift", [1, 3, 10])
@pytest.mark.parametrize("variance", [4.0, 25.0, 400.0, 10_000.0])
def test_the_bound_is_above_the_divergence_itself_and_near_where_noise_is_ample(variance: float, shift: int) -> None:
    p, q = logarithms(variance, shift)
    bound = skellam(IntegerVectors(l2=shift, l1=shift), variance)
    exact = np.array([divergence(p, q, order) for order in ORDERS[:15]])
    assert (bound[:15] >= exact).all()
    ample = (ORDERS[:15] * shift <= variance / 10) & (variance >= 400)
    assert (bound[:15] <= 1.01 * exact)[ample].all()


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("variance", [4.0, 100.0])
def test_the_sampled_bound_is_above_both_directions_themselves(variance: float, rate: float) -> None:
    p, q = logarithms(variance, 2)
    mixture = np.logaddexp(np.log(rate) + p, np.log1p(-rate) + q)
    bound = poisson_sampled(skellam(IntegerVectors(l2=2, l1=2), variance), rate)
    for order, most in zip(ORDERS[:12], bound, strict=False):
        assert most >= divergence(mixture, q, order) - 1e-12
        assert most >= divergence(q, mixture, order) - 1e-12


@pytest.mark.parametrize(("noise_multiplier", "rate"), [(1.0, 0.01), (4.0, 0.01), (0.7, 0.3), (2.0, 1.0)])
def test_sampling_gives_what_dp_accounting_gives_for_gaussian_noise(noise_multiplier: float, rate: float) -> None:
    theirs = RdpAccountant(orders=ORDERS.tolist())
    theirs.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise_multiplier)))
    np.testing.assert_allclose(
        poisson_sampled(gaussian(noise_multiplier), rate)[:60], theirs.rdp[:60], rtol=1e-6, atol=1e-12
    )


def test_sampling_costs_less_than_zhu_and_wangs_bound_for_any_mechanism() -> None:
    """Their theorem 5 has the terms from the third on three times: at order 2 there are none."""
    ours, rate = poisson_sampled(gaussian(1.0), 0.05), 0.05
    for order in (2, 3, 8):
        terms = [comb(order, k) * (1 - rate) ** (order - k) * rate**k * exp((k - 1) * k / 2) for k in range(order + 1)]
        theirs = log(sum(terms[:3]) + 3 * sum(terms[3:])) / (order - 1)
        assert ours[order - 2] == pytest.approx(theirs) if order == 2 else ours[order - 2] < theirs


def test_sampling_never_costs() -> None:
    plain = skellam(IntegerVectors(l2=11, l1=121), 25.0)
    for rate in (1e-6, 0.5, 0.999, 1.0):
        sampled = poisson_sampled(plain, rate)
        assert ((sampled >= 0) & (sampled <= plain)).all()


def test_fine_integers_cost_what_gaussian_noise_does() -> None:
    fine = skellam(IntegerVectors(l2=1e4, l1=2.5e6), (2 * 1e4) ** 2)
    np.testing.assert_allclose(fine[:30], gaussian(2.0)[:30], rtol=1e-4)


def test_vectors_measure_something() -> None:
    with pytest.raises(ValueError, match=r"l2 and l1 must be above 0, got 0 and 1"):
        IntegerVectors(l2=0.0, l1=1.0)
