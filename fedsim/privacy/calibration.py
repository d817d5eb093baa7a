"""The noise that a privacy budget asks for: the inverse of accounting."""

import math
from dataclasses import replace

from fedsim.privacy.accounting import COARSE, FINEST, Releases, grids, spending

PRECISION = 1e-4
"""How far below its budget a calibrated run may stay, as a share of it."""
STEEPNESS = 1.5
"""By how many percent epsilon falls when the noise rises by one, where nothing is known: seldom less, at most 2."""


def calibrate(epsilon: float, delta: float, releases: Releases) -> float:
    """The least ``noise_multiplier`` with which ``releases`` cost no more than ``epsilon`` at ``delta``.

    Their own ``noise_multiplier`` is where the search begins, or 1 where it is 0. What is returned never costs more,
    and not more than `PRECISION` less, save where no multiplier does. Found on a coarse grid of privacy losses first.

    Raises ``ValueError`` for an ``epsilon`` that is not above 0.
    """
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be a finite number above 0, got {epsilon}")
    least, steepness = releases.noise_multiplier or 1.0, STEEPNESS
    for finest in (COARSE - 1, COARSE, FINEST):
        begun = replace(releases, noise_multiplier=least)
        least, steepness = _least(epsilon, delta, begun, finest, max(STEEPNESS, steepness))
    return least


def _least(epsilon: float, delta: float, releases: Releases, finest: int, steepness: float) -> tuple[float, float]:
    """`calibrate` on one grid: by secants of the logarithms, which are near a line, and by halves where these fail.

    ``steepness`` is that of the line at first; that at the end is returned beside the noise, for the next grid.
    """
    too_little, enough = 0.0, math.inf
    noise, before = releases.noise_multiplier, (math.nan, math.nan)
    while True:
        tried = replace(releases, noise_multiplier=noise)
        reached = spending(tried, delta, grids(tried, delta, finest))(releases.rounds)
        if reached > epsilon:
            too_little = noise
        else:
            enough = noise
        if epsilon * (1 - PRECISION) <= reached <= epsilon or enough <= too_little * (1 + PRECISION):
            return enough, steepness
        steepness = _steepness(before, (noise, reached), steepness)
        before = noise, reached
        noise *= (reached / (epsilon * (1 - PRECISION / 2))) ** (1 / steepness)
        if not too_little < noise < enough:
            noise = _between(too_little, enough)


def _steepness(before: tuple[float, float], now: tuple[float, float], otherwise: float) -> float:
    """The line's through two points; at least a half, so that no step is wild."""
    if not (0 < before[1] < math.inf and 0 < now[1] < math.inf):
        return otherwise
    return max(0.5, math.log(before[1] / now[1]) / math.log(now[0] / before[0]))


def _between(too_little: float, enough: float) -> float:
    if enough == math.inf:
        return 2 * too_little
    return math.sqrt(too_little * enough) if too_little > 0 else enough / 2
