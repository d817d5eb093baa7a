"""Matrix-factorisation noise: the recursion against dense matrices, exact sensitivity, and less error than others."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import toeplitz
from scipy.optimize import approx_fprime

from fedsim.privacy.factorisation import (
    _mean_square,
    initial_state,
    optimised,
    row_lengths,
    sensitivity,
    square_root,
    state_after,
    step,
)
from fedsim.privacy.noise import gaussian


def dense(entries, rounds):
    """C as the matrix it stands for, ``[rounds, rounds]``."""
    return toeplitz(np.pad(entries, (0, rounds))[:rounds], np.zeros(rounds))


def run(entries, z):
    """The noise of all rounds ``[T, P]``, step by step."""
    state, noise = initial_state(len(entries), z.shape[1]), []
    for row in z:
        drawn, state = step(entries, state, row)
        noise.append(drawn)
    return np.array(noise)


@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_the_noise_is_that_of_the_dense_inverse(bands, rounds, seed):
    z = np.random.default_rng(seed).standard_normal((rounds, 3))
    entries = square_root(bands)
    np.testing.assert_allclose(run(entries, z), np.linalg.inv(dense(entries, rounds)) @ z, atol=1e-12)


def test_its_covariance_is_that_of_the_inverse_and_not_of_independent_noise():
    rounds, size, entries = 8, 40_000, square_root(4)
    noise = run(entries, np.stack([gaussian(0, "noise", t, size=size, deviation=1.0) for t in range(rounds)]))
    inverse = np.linalg.inv(dense(entries, rounds))
    expected = inverse @ inverse.T
    error = np.abs(noise @ noise.T / size - expected).max()
    assert error < 6 * expected.max() / math.sqrt(size)
    assert np.abs(noise @ noise.T / size - np.eye(rounds)).max() > 10 * error


def patterns(rounds, participations, separation):
    """All sets of rounds in which one client may take part."""
    for count in range(1, participations + 1):
        for turns in itertools.combinations(range(rounds), count):
            if all(later - earlier >= separation for earlier, later in itertools.pairwise(turns)):
                yield list(turns)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 4), st.data())
def test_sensitivity_is_the_worst_pattern_of_all(rounds, participations, data):
    """By trying every pattern, with the sum of |C^T C| over its pairs: the most that updates of any sign can do."""
    separation = data.draw(st.integers(1, rounds))
    bands = data.draw(st.integers(1, separation))
    entries = np.concatenate(([1.0], data.draw(st.lists(st.floats(-1, 1), min_size=bands - 1, max_size=bands - 1))))
    gram = np.abs(dense(entries, rounds).T @ dense(entries, rounds))
    worst = max(gram[np.ix_(turns, turns)].sum() for turns in patterns(rounds, participations, separation))
    assert sensitivity(entries, rounds, participations, separation) == pytest.approx(math.sqrt(worst))


def test_more_bands_than_the_separation_are_refused():
    with pytest.raises(ValueError, match="4 bands need turns at least as many rounds apart, got 3"):
        sensitivity(square_root(4), 10, 2, 3)
    with pytest.raises(ValueError, match="4 bands"):
        optimised(4, 10, 2, 3)


@pytest.mark.parametrize("bands", [1, 3, 12])
def test_the_noise_in_rounds_and_in_their_sums_is_that_of_dense_matrices(bands):
    entries = square_root(bands)
    inverse = np.linalg.inv(dense(entries, 12))
    np.testing.assert_allclose(row_lengths(entries, 12), np.linalg.norm(inverse, axis=1))
    assert _mean_square(entries, 12)[0] == pytest.approx(np.square(np.tri(12) @ inverse).sum() / 12)


def test_all_bands_of_the_square_root_multiply_to_ones():
    np.testing.assert_allclose(dense(square_root(20), 20) @ dense(square_root(20), 20), np.tri(20), atol=1e-12)


def test_the_slope_is_that_of_finite_differences():
    entries = square_root(5)
    numeric = approx_fprime(entries, lambda moved: _mean_square(moved, 15)[0], 1e-7)
    np.testing.assert_allclose(_mean_square(entries, 15)[1], numeric, rtol=1e-4)


def tree(rounds):
    """Sums over rounds by a binary tree (Dwork et al. 2010): a row for each of its nodes, 1 over the node's rounds."""
    height = math.ceil(math.log2(rounds))
    nodes = [
        np.arange(rounds) // 2**level == node for level in range(height + 1) for node in range(2 ** (height - level))
    ]
    return np.array([row for row in nodes if row.any()], float)


def total_error(entries, rounds, participations, separation):
    """The root mean square of the noise in the sums of the first rounds, at one privacy."""
    return math.sqrt(_mean_square(entries, rounds)[0]) * sensitivity(entries, rounds, participations, separation)


@pytest.mark.parametrize(("rounds", "participations", "separation"), [(100, 10, 10), (100, 1, 100), (128, 4, 32)])
def test_sums_carry_less_noise_than_independent_noise_and_the_tree_at_the_same_privacy(
    rounds, participations, separation
):
    """The tree decoded as well as can be (least squares), with one pattern's sensitivity, which is at most its own."""
    entries = optimised(separation, rounds, participations, separation)
    ours = total_error(entries, rounds, participations, separation)
    independent = total_error(np.ones(1), rounds, participations, separation)
    assert independent == pytest.approx(math.sqrt(participations * (rounds + 1) / 2))
    assert ours < 0.45 * independent
    nodes = tree(rounds)
    turns = np.arange(participations) * separation
    moved = np.linalg.norm(nodes[:, turns].sum(axis=1))
    decoder = np.tri(rounds) @ np.linalg.pinv(nodes)
    assert ours < 0.9 * moved * math.sqrt(np.square(decoder).sum() / rounds)


@pytest.mark.parametrize(("bands", "rounds"), [(1, 50), (2, 100), (10, 100), (10, 1000)])
def test_optimised_entries_are_no_worse_than_the_square_root_and_a_local_best(bands, rounds):
    entries = optimised(bands, rounds, rounds // 10, 10)
    best = total_error(entries, rounds, rounds // 10, 10)
    assert best <= total_error(square_root(bands), rounds, rounds // 10, 10)
    assert entries[0] == 1
    for place in range(1, bands):
        for moved in (-0.02, 0.02):
            beside = np.clip(entries + moved * np.eye(1, bands, place)[0], 0, 1)
            assert total_error(beside, rounds, rounds // 10, 10) >= best * (1 - 1e-9)


def test_resuming_from_the_state_or_from_nothing_is_running_through():
    def z(number):
        return gaussian(3, "noise", number, size=5, deviation=1.0)

    entries = square_root(4)
    through = run(entries, np.stack([z(number) for number in range(1, 11)]))
    state = state_after(6, entries, 5, z)
    kept = state.copy()
    noise, _ = step(entries, state, z(7))
    np.testing.assert_array_equal(noise, through[6])
    np.testing.assert_array_equal(state, kept)
    np.testing.assert_array_equal(state, through[5:2:-1])
    assert initial_state(1, 5).shape == step(np.ones(1), initial_state(1, 5), z(1))[1].shape == (0, 5)
