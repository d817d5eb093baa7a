"""What of a round's updates reaches a curious server under each way of collecting them."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Collection = Literal["each", "sum", "noised sum"]
"""Every phone's own update; their sum, as secure aggregation reveals; that sum with the mechanism's noise."""


def disclosed(
    updates: NDArray[np.floating],
    collection: Collection,
    *,
    clip: float = math.inf,
    deviation: float = 0.0,
    generator: np.random.Generator | None = None,
) -> NDArray[np.float64]:
    """What the server holds of ``updates [C, P]``: ``[C, P]`` of each, ``[1, P]`` of a sum.

    First every update longer than ``clip`` is scaled down to that length. Noise, normal with ``deviation`` in every
    coordinate, comes from ``generator``.

    Raises:
        ValueError: noise is asked for without a generator.
    """
    norms = np.linalg.norm(updates.astype(np.float64), axis=1, keepdims=True)
    clipped = updates * np.minimum(1, clip / np.maximum(norms, np.finfo(np.float64).tiny))
    if collection == "each":
        return clipped
    total = clipped.sum(axis=0, keepdims=True)
    if collection == "sum":
        return total
    if generator is None:
        raise ValueError("noise needs a generator")
    return total + deviation * generator.standard_normal(total.shape)
