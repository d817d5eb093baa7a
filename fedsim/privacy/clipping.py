"""Clipping updates to a Euclidean norm, and a clip that follows a quantile of the norms under the same budget."""

import math

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy_settings import NARROWEST, WIDEST

Vector = NDArray[np.float64]

SHARE_OF_COHORT = 1 / 20
"""The noise on the count of unclipped phones, in expected cohorts (Andrew et al. 2021, section 3.1)."""


def clip(stack: NDArray[np.float32] | Vector, norm: float) -> tuple[Vector, Vector]:
    """The rows of ``stack [C, P]``, each scaled down to ``norm`` where it is longer, and their norms before.

    Returns ``float64[C, P]`` and ``float64[C]``. A row within ``norm``, of zeros or not, stays as it is. A row whose
    norm is no finite number counts as a phone that did not answer: zeros, with the norm ``nan``.

    >>> clip(np.array([[6.0, 8.0], [3.0, 4.0], [np.inf, 0.0]]), 5.0)[0].tolist()
    [[3.0, 4.0], [3.0, 4.0], [0.0, 0.0]]
    """
    if not 0 < norm < math.inf:
        raise ValueError(f"a clip must be a finite number above 0, got {norm}")
    rows = stack.astype(np.float64)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(rows, axis=1)
    lost = ~np.isfinite(norms)
    norms[lost], rows[lost] = np.nan, 0
    rows *= (norm / np.fmax(norms, norm))[:, np.newaxis]
    return rows, norms


def noisy_fraction_unclipped(
    norms: Vector, clip: float, cohort: float, deviation: float, noise: np.random.Generator
) -> float:
    """The share of an expected ``cohort`` whose norms are within ``clip``, under noise of ``deviation`` phones.

    Bits are centred: a phone counts 1/2 or -1/2, and one that is missing or whose norm is ``nan`` 0, so that one phone
    more or less moves the sum by 1/2 (Andrew et al. 2021, section 3.1). The result may lie outside 0 to 1.
    """
    told = norms[~np.isnan(norms)]
    centred = np.where(told <= clip, 0.5, -0.5).sum()
    return float(0.5 + (centred + deviation * noise.standard_normal()) / cohort)


def next_clip(clip: float, noisy_fraction_unclipped: float, quantile: float, learning_rate: float) -> float:
    """The next round's clip: smaller where more phones than ``quantile`` were within this one (ibid., algorithm 1).

    It stays within `NARROWEST` and `WIDEST`, so that rounds of noise alone cannot carry it to 0 or infinity.

    >>> round(next_clip(1.0, 0.75, 0.5, 0.2), 4)
    0.9512
    """
    moved = clip * math.exp(-learning_rate * (noisy_fraction_unclipped - quantile))
    return min(max(moved, NARROWEST), WIDEST)


def split_noise(noise_multiplier: float, deviation: float) -> float:
    """The multiplier left for the updates, where the fraction's noise has ``deviation`` phones (ibid., theorem 1).

    A round that adds noise of this times the clip *it clipped at* to its sum, and tells the fraction as well, costs
    what ``noise_multiplier`` alone would.

    Raises ``ValueError`` where the fraction alone would cost more than that.
    """
    if noise_multiplier >= 2 * deviation:
        raise ValueError(
            f"a noise multiplier of {noise_multiplier:.4g} leaves nothing for the updates beside the count of those "
            f"within the clip: it must be below {2 * deviation:g}, a tenth of the cohort; allowed are larger cohorts, "
            "a larger privacy.epsilon, or no privacy.clip_quantile"
        )
    if noise_multiplier == 0:
        return 0.0
    return (noise_multiplier**-2 - (2 * deviation) ** -2) ** -0.5
