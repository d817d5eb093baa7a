"""PSNR and SSIM against closed forms and a direct loop over windows; the assignment against all permutations."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.attacks.image_quality import assign, psnr, ssim


def loop_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, equations 14 to 16 and 13, window by window."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            likeness = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
            values.append(likeness / ((mean_a**2 + mean_b**2 + 1e-4) * (variance_a + variance_b + 9e-4)))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(3))
def test_ssim_is_what_a_loop_over_windows_gives(seed: int) -> None:
    draw = np.random.default_rng(seed)
    x = draw.random((14, 17))
    y = np.clip(x + 0.2 * draw.standard_normal(x.shape), 0, 1)
    assert ssim(x, y) == pytest.approx(loop_ssim(x, y), rel=1e-10)
    assert ssim(np.stack([x, y]), np.stack([y, y])) == pytest.approx((loop_ssim(x, y) + 1) / 2, rel=1e-10)


@given(st.floats(0, 1), st.floats(0, 1))
def test_ssim_of_even_images_is_the_likeness_of_their_brightness(a: float, b: float) -> None:
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert ssim(np.full((12, 12), a), np.full((12, 12), b)) == pytest.approx(expected, rel=1e-9)


def test_ssim_of_an_image_and_its_negative_is_below_zero() -> None:
    x = np.random.default_rng(0).random((28, 28))
    assert ssim(x, x) == pytest.approx(1)
    assert ssim(x, 1 - x) < -0.8


def test_ssim_refuses_images_smaller_than_a_window() -> None:
    with pytest.raises(ValueError, match=r"11 by 11 pixels; the images are \[10, 28\]"):
        ssim(np.zeros((10, 28)), np.zeros((10, 28)))


@given(st.floats(1e-4, 1))
def test_psnr_of_an_even_error(error: float) -> None:
    assert psnr(np.zeros((3, 3)), np.full((3, 3), error)) == pytest.approx(-20 * math.log10(error), abs=1e-9)


def test_psnr_ends_at_100_decibels() -> None:
    assert psnr(np.ones((2, 2)), np.ones((2, 2))) == 100
    assert psnr(np.ones((2, 2)), np.ones((2, 2)) - 1e-9) == 100


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_assignment_is_the_best_of_all(originals: int, more: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    wanted, images = draw.random((originals, 1, 3, 3)), draw.random((originals + more, 1, 3, 3))
    chosen = assign(images, wanted)
    costs = [
        float(np.square(images[list(rows)] - wanted).sum())
        for rows in itertools.permutations(range(originals + more), originals)
    ]
    assert np.square(images[chosen] - wanted).sum() == pytest.approx(min(costs))
