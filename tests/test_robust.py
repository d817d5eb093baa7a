"""Robust means: closed forms, slow twins, an optimizer's answer, and what a minority of rows cannot do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from fedsim.robust import centred_clipping, clipped_mean, geometric_median
from fedsim.seeds import generator
from tests import slow_aggregators as slow

ROWS, SIZE = 7, 3
NUMBERS = st.floats(-1e6, 1e6)
STACKS = arrays(np.float64, (ROWS, SIZE), elements=NUMBERS)
HONEST = arrays(np.float64, (ROWS, SIZE), elements=st.floats(-1, 1))
POINTS = arrays(np.float64, SIZE, elements=NUMBERS)
RADII = st.floats(1e-3, 1e3)
MINORITIES = st.integers(0, (ROWS - 1) // 2)


def drawn(rows: int, size: int, *key: int) -> np.ndarray:
    return generator(0, "stack", rows, size, *key).standard_normal((rows, size))


@given(STACKS, POINTS, RADII)
def test_a_clipped_mean_is_its_slow_twins_and_stays_within_the_radius(
    stack: np.ndarray, centre: np.ndarray, radius: float
) -> None:
    mean = clipped_mean(stack, centre, radius)
    np.testing.assert_allclose(mean, slow.clipped_mean(stack, centre, radius), rtol=1e-9, atol=1e-9)
    assert np.linalg.norm(mean - centre) <= radius * (1 + 1e-9) + 1e-9


def test_what_lies_within_the_radius_is_averaged_as_it_is() -> None:
    stack = drawn(6, 4)
    np.testing.assert_allclose(clipped_mean(stack, np.zeros(4), 100.0), stack.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(centred_clipping(stack, stack[0], 100.0, 3), stack.mean(axis=0), rtol=1e-12)


@given(STACKS, STACKS, POINTS, RADII, MINORITIES)
def test_rows_move_a_clipped_mean_by_no_more_than_their_share(
    stack: np.ndarray, other: np.ndarray, centre: np.ndarray, radius: float, count: int
) -> None:
    changed = np.concatenate([other[:count], stack[count:]])
    moved = clipped_mean(changed, centre, radius) - clipped_mean(stack, centre, radius)
    assert np.linalg.norm(moved) <= 2 * radius * count / ROWS * (1 + 1e-9) + 1e-8


def test_centred_clipping_finds_the_honest_rows_from_afar() -> None:
    """A step is at most a radius long; among the honest rows, two of eight far off pull by a quarter of a radius."""
    honest = 50 + 0.01 * drawn(6, 4)
    stack = np.concatenate([honest, np.full((2, 4), -1e9)])
    steps = [np.linalg.norm(centred_clipping(stack, np.zeros(4), 1.0, count) - 50) for count in (10, 100, 300)]
    assert steps[0] > steps[1] > steps[2]
    # where honest rows are no longer clipped, their pull 6/8 * distance balances the others' 2/8
    assert steps[2] == pytest.approx(1 / 3, abs=0.02)
    once = centred_clipping(stack, np.zeros(4), 1.0, 1)
    np.testing.assert_array_equal(once, clipped_mean(stack, np.zeros(4), 1.0))


@pytest.mark.parametrize(("rows", "size"), [(5, 2), (8, 3), (11, 6), (20, 10)])
def test_the_geometric_median_is_what_an_optimizer_finds(rows: int, size: int) -> None:
    """The first is one of its rows, which Weiszfeld's algorithm approaches like one over the iterations."""
    stack = drawn(rows, size, 1)
    ours = geometric_median(stack, 1e-9, 500)
    found = minimize(slow.sum_of_distances, stack.mean(axis=0), args=(stack,), tol=1e-12)
    assert slow.sum_of_distances(ours, stack) <= found.fun * (1 + 1e-6)
    np.testing.assert_allclose(ours, found.x, atol=1e-4)


def test_closed_forms_of_the_geometric_median() -> None:
    triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    np.testing.assert_allclose(geometric_median(triangle, 1e-9, 100), triangle.mean(axis=0), atol=1e-9)
    line = np.array([[0.0], [1.0], [10.0], [11.0], [1000.0]])
    np.testing.assert_allclose(geometric_median(line, 1e-9, 500), [10.0], atol=1e-3)
    same = np.ones((4, 3))
    np.testing.assert_allclose(geometric_median(same, 1e-6, 5), same[0], rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(HONEST, STACKS, MINORITIES)
def test_a_minority_cannot_carry_the_geometric_median_away(honest: np.ndarray, wild: np.ndarray, count: int) -> None:
    """Minsker 2015, lemma 2.1: within ``2 (1 - a) / (1 - 2 a)`` times the honest rows' radius for a share ``a``."""
    stack = np.concatenate([wild[:count], honest[count:]])
    share, centre = count / ROWS, honest[count:].mean(axis=0)
    radius = np.linalg.norm(honest[count:] - centre, axis=1).max()
    bound = 2 * (1 - share) / (1 - 2 * share) * radius
    assert np.linalg.norm(geometric_median(stack, 1e-6, 300) - centre) <= bound * (1 + 1e-3) + 1e-3


@pytest.mark.parametrize("far", [1e6, 1e38])
def test_ten_iterations_are_enough_however_far_off_a_minority_is(far: float) -> None:
    stack = drawn(10, 20).astype(np.float32)
    stack[:4] *= np.float32(far)
    assert np.abs(geometric_median(stack, 1e-6, 10)).max() < np.abs(stack[4:]).max()
    assert np.linalg.norm(clipped_mean(stack, np.zeros(20), 1.0)) <= 1 + 1e-12


def test_float32_stacks_are_averaged_in_float64() -> None:
    stack = drawn(9, 5).astype(np.float32)
    for one, other in (
        (clipped_mean(stack, np.zeros(5), 0.5), clipped_mean(stack.astype(np.float64), np.zeros(5), 0.5)),
        (geometric_median(stack, 1e-6, 20), geometric_median(stack.astype(np.float64), 1e-6, 20)),
    ):
        assert one.dtype == np.float64
        np.testing.assert_allclose(one, other, rtol=1e-12)
