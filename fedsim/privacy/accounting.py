"""How much privacy a run spends: what it releases, and the epsilon that this costs (dp-accounting does the sums)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.sampling import participations
from fedsim.privacy.skellam import ORDERS, IntegerVectors, poisson_sampled, skellam

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

FINEST, COARSE = 4, 3
"""Decimals of the steps that privacy losses under sampling are counted in: any give an upper bound, more a closer."""
RELATIVE = 1e-4
"""Steps of that many epsilons are fine enough."""
HOPELESS = 1e5
"""An epsilon that is not worth counting closely."""
SHOWN = 50
"""At how many rounds `epsilon_by_round` looks."""

Real = NDArray[np.float64]
Spent = Callable[[int], float]
"""The epsilon spent after so many rounds."""


@dataclass(frozen=True, kw_only=True)
class Releases:
    """What a run makes public: after each of ``rounds``, a cohort's sum of clipped updates plus noise.

    A unit is what is protected, a client or an example: nothing in the run but these sums depends on it, and none moves
    a sum by more than the clip. The noise is Gaussian, of standard deviation ``noise_multiplier`` times the clip, and
    does not depend on who takes part. There are ``population`` units, of which a round asks ``cohort``. ``sampling``
    says which, and what epsilon compares:

    - ``poisson``: each by its own secret coin, so ``cohort`` is what is expected; with and without the unit.
    - ``fixed``: secretly any ``cohort``, all alike; with the unit, and with another in its place, which moves a sum by
      twice the clip.
    - ``cyclic``: in turns that everybody may know, at most ``ceil(t * cohort / population)`` in the first ``t``
      rounds; with the unit, and with zeros in its place.

    Under ``cyclic``, ``sensitivity`` says that the noise is correlated over rounds (matrix factorisation): how far one
    unit moves all of them together once the noise is made independent, in clips; ``None`` is independent noise.
    ``integers`` says that the noise is Skellam's, of the same deviation, on such vectors.

    DP-SGD on one phone is ``poisson`` with its batches as rounds: ``cohort`` is the expected batch and ``population``
    the phone's examples.
    """

    noise_multiplier: float
    rounds: int
    cohort: float
    population: int
    sampling: Literal["poisson", "fixed", "cyclic"]
    sensitivity: float | None = None
    integers: IntegerVectors | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier must be a finite number from 0 up, got {self.noise_multiplier}")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")
        if not 0 < self.cohort <= self.population:
            raise ValueError(f"cohort must be above 0 and at most the population {self.population}, got {self.cohort}")
        if self.sampling != "poisson" and self.cohort != int(self.cohort):
            raise ValueError(f"cohort must be whole under {self.sampling} sampling, got {self.cohort}")
        if self.sensitivity is not None and (self.sampling != "cyclic" or self.integers or self.sensitivity <= 0):
            raise ValueError("sensitivity must be above 0, under cyclic sampling and Gaussian noise")
        if self.integers is not None and self.sampling == "fixed":
            raise ValueError("Skellam noise is accounted under poisson and cyclic sampling, got fixed")


def epsilon(releases: Releases, delta: float) -> float:
    """The least epsilon that is known for these releases at ``delta``: an upper bound; ``inf`` without noise.

    Gaussian noise without sampling is exact (Balle and Wang 2018, theorem 8), and under Poisson sampling too but for
    steps of 1e-4, or of up to a ten-thousandth of epsilon where that is more, in its privacy loss distribution
    (Doroshenko et al. 2022). Fixed cohorts take Wang, Balle and Kasiviswanathan's 2019 Renyi bound at half the noise,
    or no amplification where that is less; Skellam noise takes the bound of `skellam`. Renyi bounds are converted as in
    Canonne, Kamath and Steinke 2020, proposition 12.
    """
    return spending(releases, delta, grids(releases, delta, FINEST))(releases.rounds)


def rounds_within(epsilon: float, delta: float, releases: Releases) -> int:
    """How many of the releases' rounds may be held before more than ``epsilon`` is spent: 0 if not one."""
    coarse, fine = (spending(releases, delta, grids(releases, delta, finest)) for finest in (COARSE, FINEST))
    rounds = range(1, releases.rounds + 1)
    surely, step = bisect_right(rounds, epsilon, key=coarse), 1
    while surely + step <= releases.rounds and fine(surely + step) <= epsilon:
        surely, step = surely + step, 2 * step
    return bisect_right(rounds, epsilon, lo=surely, hi=min(surely + step - 1, releases.rounds), key=fine)


def epsilon_by_round(releases: Releases, delta: float, after: NDArray[np.int64] | None = None) -> Real:
    """What is spent ``after`` so many rounds (all counts if not given): bounds that never fall, `epsilon` at the end.

    ``after`` rises to the releases' rounds. Fifty of its numbers are looked at, and those between count as the next of
    them. Under Poisson sampling these are counted in steps that may add about a hundredth of the whole. With
    ``sensitivity``, which is of all rounds together, each counts as the whole run.
    """
    after = np.arange(1, releases.rounds + 1) if after is None else after
    total = epsilon(releases, delta)
    if total == math.inf:
        return np.full(len(after), total)
    spent = spending(releases, delta, [min(1.0, math.sqrt(max(total, 0.01) / 100 / releases.rounds))])
    counts = np.unique(after)
    shown = counts[np.unique(np.ceil(np.linspace(len(counts) / SHOWN, len(counts), SHOWN)).astype(np.int64)) - 1]
    reached = np.minimum([*(spent(int(rounds)) for rounds in shown[:-1]), total], total)
    return np.maximum.accumulate(reached)[np.searchsorted(shown, after)]


def projected_epsilon(releases: Releases, delta: float, *, population: int, cohort: float) -> float:
    """What the same training would spend in a ``population`` that can afford such a ``cohort``: hypothetical.

    The mean of a cohort would get the noise that it gets here, ``noise_multiplier / cohort`` clips: a larger cohort
    has more noise in its sum for the same in its mean. Clip, rounds and kind of sampling stay. Assumed and not shown:
    that the larger population could be sampled so, that its updates are like these, and that their mean trains the
    model no worse. It says nothing of the units that trained here, whose `epsilon` stays what it is.

    Raises ``ValueError`` with ``sensitivity``, which another population would change.
    """
    if releases.sensitivity is not None:
        raise ValueError("a projected epsilon needs independent noise, got a sensitivity of correlated noise")
    noise_multiplier = releases.noise_multiplier * cohort / releases.cohort
    return epsilon(replace(releases, noise_multiplier=noise_multiplier, cohort=cohort, population=population), delta)


def turns(releases: Releases, rounds: int) -> int:
    """In how many of the first ``rounds`` a unit may take part."""
    if releases.sampling != "cyclic":
        return rounds
    return participations(releases.population, int(releases.cohort), rounds)


def grids(releases: Releases, delta: float, finest: int) -> list[float]:
    """Steps to count privacy losses in, each a tenth of the one before, down to ``finest`` decimals.

    The first are wide enough to hold what the run would cost without sampling, but never above 1.

    Raises ``ValueError`` for a ``delta`` that is no chance.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1, got {delta}")
    if releases.noise_multiplier == 0:
        return []
    coarsest = math.ceil(-math.log10(RELATIVE * _unsampled(releases, delta, releases.rounds)))
    return [10.0**-decimals for decimals in range(max(0, min(finest, coarsest)), finest + 1)]


def spending(releases: Releases, delta: float, grids: Sequence[float]) -> Spent:
    """The epsilon spent after so many rounds, on the first of ``grids`` that is fine enough for it, or on the last."""
    if releases.noise_multiplier == 0:
        return lambda rounds: math.inf
    if releases.integers is not None:
        return _skellam(releases, releases.integers, delta)
    if releases.sampling == "poisson" and releases.cohort < releases.population:
        return _sampled_gaussian(releases, delta, grids)
    plain = _gaussian(releases, delta)
    if releases.sampling == "fixed":
        amplified = _fixed_gaussian(releases, delta)
        return lambda rounds: min(amplified(rounds), plain(rounds))
    return plain


def _gaussian(releases: Releases, delta: float) -> Spent:
    """Any number of Gaussian releases is as good as one that a unit moves by the root of its squared moves' sum."""
    from dp_accounting import get_epsilon_gaussian

    return lambda rounds: get_epsilon_gaussian(releases.noise_multiplier / _shift(releases, rounds), delta)


def _sampled_gaussian(releases: Releases, delta: float, grids: Sequence[float]) -> Spent:
    if _unsampled(releases, delta, 1) > HOPELESS:
        return lambda rounds: _unsampled(releases, delta, rounds)
    noise_multiplier, rate = releases.noise_multiplier, releases.cohort / releases.population

    def spent(rounds: int) -> float:
        reached = math.inf
        for step in grids:
            reached = _epsilon_by_losses(noise_multiplier, rate, step, rounds, delta)
            if step <= RELATIVE * reached:
                break
        return reached

    return spent


@lru_cache(maxsize=64)  # what calibration ends with, `epsilon` asks for again
def _epsilon_by_losses(noise_multiplier: float, rate: float, step: float, rounds: int, delta: float) -> float:
    return _losses(noise_multiplier, rate, step).self_compose(rounds).get_epsilon_for_delta(delta)


@lru_cache(maxsize=4)  # megabytes each on the finest grid
def _losses(noise_multiplier: float, rate: float, step: float) -> PrivacyLossDistribution:
    """The privacy losses of one round under Poisson sampling."""
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    return from_gaussian_mechanism(noise_multiplier, sampling_prob=rate, value_discretization_interval=step)


def _fixed_gaussian(releases: Releases, delta: float) -> Spent:
    from dp_accounting.rdp import compute_epsilon

    orders, divergences = _fixed_divergences(releases.noise_multiplier, int(releases.cohort), releases.population)
    return lambda rounds: float(compute_epsilon(orders.tolist(), (rounds * divergences).tolist(), delta)[0])


@lru_cache(maxsize=64)  # a third of a second each, and calibration asks for some again
def _fixed_divergences(noise_multiplier: float, cohort: int, population: int) -> tuple[Real, Real]:
    """Orders, and a round's Renyi divergences at them; of half the noise, as another unit in a place makes two moves.

    dp-accounting counts in moves of one clip.
    """
    from dp_accounting import GaussianDpEvent, NeighboringRelation, SampledWithoutReplacementDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    accountant.compose(SampledWithoutReplacementDpEvent(population, cohort, GaussianDpEvent(noise_multiplier / 2)))
    return accountant.orders, accountant.rdp


def _skellam(releases: Releases, integers: IntegerVectors, delta: float) -> Spent:
    from dp_accounting.rdp import compute_epsilon

    divergences = skellam(integers, (releases.noise_multiplier * integers.l2) ** 2)
    if releases.sampling == "poisson":
        divergences = poisson_sampled(divergences, releases.cohort / releases.population)
    return lambda rounds: float(
        compute_epsilon(ORDERS.tolist(), (turns(releases, rounds) * divergences).tolist(), delta)[0]
    )


def _shift(releases: Releases, rounds: int) -> float:
    """How far one unit moves the sums of the first ``rounds`` together, in clips."""
    if releases.sensitivity is not None:
        return releases.sensitivity
    each = 2 if releases.sampling == "fixed" else 1
    return each * math.sqrt(turns(releases, rounds))


def _unsampled(releases: Releases, delta: float, rounds: int) -> float:
    """A bound in closed form for Gaussian noise, whatever the sampling (Bun and Steinke 2016, proposition 1.3)."""
    shift = _shift(releases, rounds) / releases.noise_multiplier
    return shift**2 / 2 + shift * math.sqrt(2 * math.log(1 / delta))
