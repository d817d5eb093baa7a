"""Noise that takes back, in each round, part of the rounds' before: for phones that take turns and are not sampled.

What training sees of round t is ``x_t + w_t`` with ``w = C^-1 z``, where C is a lower triangular matrix with equal
entries along each of a few diagonals, the bands, and z is independent Gaussian noise. As ``x + C^-1 z`` follows from
``C x + z``, the whole run is *one* Gaussian release of C x, and its noise counts against how far one client can move
that: `sensitivity`. Choquette-Choo et al. 2023, "(Amplified) banded matrix factorization". What it buys is that the
*sums* over rounds, which are what a model has become, carry less noise.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]


def square_root(bands: int) -> Real:
    """The first ``bands`` entries of the square root of the matrix of ones: binomial(2i, i) / 4^i.

    Fichtenberger, Henzinger & Upadhyay 2023, equation 2; near the best for any number of rounds.

    >>> square_root(4).tolist()
    [1.0, 0.5, 0.375, 0.3125]
    """
    steps = np.arange(1, bands)
    return np.concatenate(([1.0], np.cumprod((2 * steps - 1) / (2 * steps))))


def optimised(bands: int, rounds: int, participations: int, separation: int) -> Real:
    """The ``bands`` entries, from 1 on, with the least noise in sums of the first rounds, at one `sensitivity`.

    That is in quadratic mean over all such sums; found from `square_root` on. All are from 0 to 1. Raises
    ``ValueError`` where `sensitivity` does.
    """
    from scipy.optimize import minimize  # one second, for those who need it

    first = square_root(bands)
    columns = _column_lengths(bands, rounds, participations, separation)
    if bands == 1:
        return first

    def loss(free: Real) -> tuple[float, Real]:
        entries = np.concatenate(([1.0], free))
        error, error_slope = _mean_square(entries, rounds)
        square = np.square(entries)
        moved = sum(square[:length].sum() for length in columns)
        moved_slope = 2 * entries * (columns[:, np.newaxis] > np.arange(bands)).sum(axis=0)
        slope = error_slope / error + moved_slope / moved
        return float(np.log(error) + np.log(moved)), slope[1:]

    found = minimize(loss, first[1:], jac=True, method="L-BFGS-B", bounds=[(0, 1)] * (bands - 1))
    return np.concatenate(([1.0], found.x))


def sensitivity(entries: Real, rounds: int, participations: int, separation: int) -> float:
    """How far one client of clip 1 can move C x, in Euclidean norm: the noise z needs ``multiplier * clip`` times this.

    The client takes part at most ``participations`` times, at least ``separation`` rounds apart, with any updates
    within the clip. As there are no more bands than that, its columns of C share no row: the square is the sum of
    theirs. A later column is cut shorter by the end of the run, so early turns move most: exact, not a bound.

    Raises ``ValueError`` for more bands than the separation.
    """
    columns = _column_lengths(len(entries), rounds, participations, separation)
    return float(np.sqrt(sum(np.square(entries[:length]).sum() for length in columns)))


def row_lengths(entries: Real, rounds: int) -> Real:
    """The lengths of the rows of C^-1, ``float64[rounds]``: the deviations of a round's noise, for z of deviation 1."""
    return np.sqrt(np.cumsum(np.square(_solve(entries, np.eye(1, rounds)[0]))))


def initial_state(bands: int, size: int) -> Real:
    """The last rounds' noise before round 1: ``float64[bands - 1, size]`` of zeros, what a checkpoint has to keep."""
    return np.zeros((bands - 1, size))


def step(entries: Real, state: Real, z: Real) -> tuple[Real, Real]:
    """One round's noise w_t from its fresh z_t, and the state after it; ``state [bands - 1, P]`` stays as it is.

    ``entries[0] w_t = z_t - sum over i of entries[i] w_(t-i)``: work and memory are those of the bands, whatever t.
    """
    noise = (z - entries[1:] @ state) / entries[0]
    return noise, np.concatenate((noise[np.newaxis], state))[: len(state)]


def state_after(rounds: int, entries: Real, size: int, z: Callable[[int], Real]) -> Real:
    """The state after ``rounds`` rounds, from ``z(round)`` alone: for those who resume without a checkpoint of it."""
    state = initial_state(len(entries), size)
    for number in range(1, rounds + 1):
        _, state = step(entries, state, z(number))
    return state


def _column_lengths(bands: int, rounds: int, participations: int, separation: int) -> NDArray[np.int64]:
    """How many entries the columns of the earliest turns have before the run ends."""
    if bands > separation:
        raise ValueError(f"{bands} bands need turns at least as many rounds apart, got {separation}")
    turns = np.arange(participations) * separation
    return np.minimum(bands, rounds - turns[turns < rounds])


def _mean_square(entries: Real, rounds: int) -> tuple[float, Real]:
    """The mean square, over the rounds t, of the noise in the sum of the first t, and its slope in each entry.

    With A the triangle of ones, A C^-1 has e = C^-1 1 along its diagonals: the sum of t rounds has the noise
    e_0^2 + ... + e_(t-1)^2. The slope is by the adjoint: C^T a = 2 w e, then -sum over i of a_i e_(i-j).
    """
    e = _solve(entries, np.ones(rounds))
    weights = np.arange(rounds, 0, -1) / rounds
    adjoint = _solve(entries, (2 * weights * e)[::-1])[::-1]
    slope = [-(adjoint[lag:] @ e[: rounds - lag]) for lag in range(len(entries))]
    return float(weights @ np.square(e)), np.array(slope)


def _solve(entries: Real, right: Real) -> Real:
    """``C^-1 right``."""
    from scipy.linalg import solve_banded

    return solve_banded((len(entries) - 1, 0), np.repeat(entries[:, np.newaxis], len(right), axis=1), right)
