"""Robust aggregators written out from their papers, a number at a time: the slow twins of Flower's and of ours."""

import math

import numpy as np
from numpy.typing import NDArray

Stack = NDArray[np.float64]


def median(stack: Stack) -> Stack:
    """Yin et al. 2018, definition 1: of every coordinate the middle value, or the mean of the two."""
    return np.array([_middle(sorted(column)) for column in stack.T.tolist()])


def trimmed_mean(stack: Stack, beta: float) -> Stack:
    """Yin et al. 2018, definition 2: of every coordinate the mean without the ``beta`` lowest and highest."""
    cut = math.floor(beta * len(stack))
    return np.array([np.mean(sorted(column)[cut : len(stack) - cut]) for column in stack.T.tolist()])


def krum_scores(stack: Stack, malicious: int) -> list[float]:
    """Blanchard et al. 2017, section 4: each row's squared distances to its nearest ``C - malicious - 2`` others."""
    scores: list[float] = []
    for i, row in enumerate(stack):
        apart = sorted(sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) for other in np.delete(stack, i, 0))
        scores.append(sum(apart[: max(1, len(stack) - malicious - 2)]))
    return scores


def multi_krum(stack: Stack, malicious: int, chosen: int, examples: NDArray[np.int64]) -> Stack:
    """The mean of the ``chosen`` best rows, weighted by ``examples`` as Flower does; Krum where it is one."""
    best = np.argsort(krum_scores(stack, malicious))[:chosen]
    return np.average(stack[best], axis=0, weights=examples[best])


def bulyan(stack: Stack, malicious: int) -> Stack:
    """El Mhamdi et al. 2018, section 4, on the ``C - 2 f`` rows that multi-Krum scores best, as Flower chooses them.

    The paper chooses them one by one, scoring the rest anew each time.
    """
    kept = stack[np.argsort(krum_scores(stack, malicious))[: len(stack) - 2 * malicious]]
    nearest = len(kept) - 2 * malicious
    middle = median(kept)
    return np.array(
        [
            np.mean(sorted(column, key=lambda value: abs(value - centre))[:nearest])
            for column, centre in zip(kept.T.tolist(), middle.tolist(), strict=True)
        ]
    )


def clipped_mean(stack: Stack, centre: Stack, radius: float) -> Stack:
    """Karimireddy et al. 2021, equation CCLIP: ``v + mean((x - v) * min(1, radius / |x - v|))``."""
    total = np.zeros(len(centre))
    for row in stack:
        length = math.sqrt(sum((a - b) ** 2 for a, b in zip(row, centre, strict=True)))
        total += (row - centre) * (1.0 if length == 0 else min(1.0, radius / length))
    return centre + total / len(stack)


def sum_of_distances(point: Stack, stack: Stack) -> float:
    """What the geometric median makes least."""
    return float(sum(math.dist(point, row) for row in stack))


def _middle(ascending: list[float]) -> float:
    half = len(ascending) // 2
    return ascending[half] if len(ascending) % 2 else (ascending[half - 1] + ascending[half]) / 2
