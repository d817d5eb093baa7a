"""Gaussian noise for simulations: pseudo-random, so that a run can be repeated, and no protection for real data."""

import numpy as np
from numpy.typing import NDArray

from fedsim.seeds import generator

Noise = NDArray[np.float64]


def gaussian(seed: int, purpose: str, *key: int, size: int, deviation: float) -> Noise:
    """Noise ``float64[size]`` of standard ``deviation``, for one purpose and what it is for.

    Such as ``gaussian(seed, "noise", round, ...)``, or ``gaussian(seed, "local noise", round, client, ...)`` for a
    phone's own. Whoever knows the seed can take it off again: real releases draw from the system's generator.

    >>> [round(value, 3) for value in gaussian(0, "noise", 1, size=2, deviation=1.0).tolist()]
    [-1.307, -0.992]
    """
    noise = generator(seed, purpose, *key).standard_normal(size)
    noise *= deviation
    return noise
