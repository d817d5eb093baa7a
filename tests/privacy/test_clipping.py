"""Clipping to a norm, and the clip that follows a quantile: closed forms, edge cases, convergence under noise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsim.privacy.clipping import SHARE_OF_COHORT, clip, next_clip, noisy_fraction_unclipped, split_noise
from fedsim.privacy.sampling import poisson
from fedsim.seeds import generator

stacks = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda kind: hnp.arrays(
        kind,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6),
        elements=st.floats(allow_nan=True, allow_infinity=True, width=32),
    )
)


@settings(deadline=None)
@given(stacks, st.floats(1e-3, 1e3))
def test_rows_are_within_the_clip_keep_their_direction_and_short_ones_their_bits(stack, norm):
    clipped, norms = clip(stack, norm)
    for row, short, length in zip(stack.astype(np.float64), clipped, norms, strict=True):
        if not np.isfinite(row).all():
            assert math.isnan(length)
            assert not short.any()
            continue
        assert length == pytest.approx(math.hypot(*row))
        assert math.hypot(*short) <= norm * (1 + 1e-12)
        if length <= norm:
            np.testing.assert_array_equal(short, row)
        else:
            np.testing.assert_allclose(short, row * (norm / length), rtol=1e-12, atol=1e-300)


def test_a_row_too_long_for_a_float_counts_as_none():
    clipped, norms = clip(np.array([[1e200, 1e200], [1.0, 0.0]]), 1.0)
    assert math.isnan(norms[0])
    np.testing.assert_array_equal(clipped, [[0, 0], [1, 0]])


def test_the_stack_given_stays_as_it_was():
    stack = np.array([[3.0, 4.0]])
    clip(stack, 1.0)
    np.testing.assert_array_equal(stack, [[3.0, 4.0]])


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_that_is_none_is_refused(norm):
    with pytest.raises(ValueError, match="above 0, got"):
        clip(np.zeros((1, 2)), norm)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(0, 10) | st.just(math.nan)), st.floats(0.1, 9))
def test_one_phone_more_moves_the_count_by_a_half_or_if_it_is_lost_by_nothing(norms, bound):
    def count(of):
        return 10 * noisy_fraction_unclipped(of, bound, cohort=10, deviation=0.0, noise=generator(0, "bits"))

    whole = count(norms)
    for phone, norm in enumerate(norms):
        moved = abs(whole - count(np.delete(norms, phone)))
        assert moved == pytest.approx(0.0 if math.isnan(norm) else 0.5)


def test_the_fraction_is_the_share_within_the_clip_under_noise_of_the_given_deviation():
    norms = np.array([0.5, 1.0, 1.5, 2.0])
    assert noisy_fraction_unclipped(norms, 1.0, 4, 0.0, generator(0, "bits")) == 0.5
    noise = generator(1, "bits")
    draws = np.array([noisy_fraction_unclipped(norms, 1.6, 4, 3.0, noise) for _ in range(4000)])
    assert draws.mean() == pytest.approx(0.75, abs=5 * 0.75 / math.sqrt(4000))
    assert draws.std() == pytest.approx(0.75, rel=5 / math.sqrt(8000))


def fraction_unclipped_after(rounds, start, spread, learning_rate, seed):
    """The share of 2,000 clients within the clip that adaptive clipping under noise reaches; norms have median 1."""
    cohort = 100
    norms = np.exp(spread * generator(seed, "norms").standard_normal(2000))
    bound = start
    for number in range(1, rounds + 1):
        told = norms[poisson(seed, number, 2000, cohort)]
        noise = generator(seed, "clip noise", number)
        fraction = noisy_fraction_unclipped(told, bound, cohort, SHARE_OF_COHORT * cohort, noise)
        bound = next_clip(bound, fraction, 0.5, learning_rate)
    return (norms <= bound).mean()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.3, 1.0])
@pytest.mark.parametrize("start", [0.1, 10.0])
def test_the_clip_finds_the_median_within_forty_rounds_from_ten_times_off(start, spread, seed):
    assert fraction_unclipped_after(40, start, spread, 0.2, seed) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("start", [0.9, 1.1])
def test_with_the_sign_turned_it_runs_away_even_from_beside_the_median(start):
    assert abs(fraction_unclipped_after(40, start, 0.3, -0.2, 0) - 0.5) > 0.4


@given(st.floats(0.05, 5), st.floats(3, 100))
def test_split_noise_keeps_the_total(multiplier, deviation):
    """Two Gaussian releases together are one with the harmonic sum of squares; a bit's sensitivity is 1/2."""
    rest = split_noise(multiplier, deviation)
    assert rest > multiplier
    assert rest**-2 + (2 * deviation) ** -2 == pytest.approx(multiplier**-2)


def test_split_noise_at_its_ends():
    assert split_noise(0.0, 5.0) == 0
    assert split_noise(0.94, 5.0) == pytest.approx(0.9442, abs=1e-4)
    with pytest.raises(ValueError, match="must be below 10,"):
        split_noise(10.0, 5.0)
