"""Robust means of stacks ``[C, P]``, one vector a phone: what a minority of rows, any finite ones, cannot carry away.

Rows are of finite float32 numbers; a phone that sends others has failed before it comes to this.
Coordinate median, trimmed mean, Krum, multi-Krum and Bulyan are Flower's own. Here all rows count alike: the number of
its examples is one more thing that a phone can lie about, and in Flower's multi-Krum, which weighs by it, does.
"""

import numpy as np
from numpy.typing import NDArray

Stack = NDArray[np.float32] | NDArray[np.float64]
Vector = NDArray[np.float64]


def clipped_mean(stack: Stack, centre: Vector, radius: float) -> Vector:
    """The mean of the rows ``[C, P]``, each first pulled to within ``radius`` of ``centre``, ``float64[P]``.

    It lies within ``radius`` of ``centre``, and a row can move it by at most ``2 * radius / C``. With the centre at
    zero it is norm clipping (Sun et al. 2019).

    >>> clipped_mean(np.array([[3.0, 4.0], [0.0, 1.0]]), np.zeros(2), 2.5).tolist()
    [0.75, 1.5]
    """
    away = distances(stack, centre)
    scales = radius / np.maximum(away, radius)
    return centre + weighted_sum(scales / len(stack), stack, centre)


def centred_clipping(stack: Stack, centre: Vector, radius: float, iterations: int) -> Vector:
    """`clipped_mean` ``iterations`` times, each about the last (Karimireddy et al. 2021, algorithm 2).

    The nearer ``centre`` is to the honest rows to begin with, the less of them is lost; the paper begins with the last
    round's result.
    """
    for _ in range(iterations):
        centre = clipped_mean(stack, centre, radius)
    return centre


def geometric_median(stack: Stack, smoothing: float, iterations: int) -> Vector:
    """The point with the least sum of distances to the rows ``[C, P]``, ``float64[P]``; RFA's aggregate.

    By ``iterations`` of the smoothed Weiszfeld algorithm (Pillutla et al. 2022, algorithm 2): the rows' mean weighted
    by the inverse of their distances, which count as at least ``smoothing``. It begins at the coordinate median, which
    a minority cannot carry away; from the mean an iteration comes back only by a factor of honest rows to others.
    """
    zero = np.zeros(stack.shape[1])
    point = np.median(stack, axis=0).astype(np.float64)
    for _ in range(iterations):
        nearness = 1 / np.maximum(distances(stack, point), smoothing)
        point = weighted_sum(nearness / nearness.sum(), stack, zero)
    return point


def distances(stack: Stack, centre: Vector) -> Vector:
    """Every row's Euclidean distance from ``centre``, ``float64[C]``."""
    return np.sqrt([np.square(row - centre).sum() for row in stack])


def weighted_sum(weights: Vector, stack: Stack, centre: Vector) -> Vector:
    """``weights @ (stack - centre)``, a row at a time: no second stack, and the same bits on any number of threads."""
    total = np.zeros(stack.shape[1])
    for weight, row in zip(weights, stack, strict=True):
        total += weight * (row - centre)
    return total
