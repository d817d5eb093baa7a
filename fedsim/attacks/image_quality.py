"""How close rebuilt images are to the originals: PSNR, SSIM, and which is which where there are several."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment

Floats = NDArray[np.float64]

HIGHEST_PSNR = 100.0
"""In dB; a larger one is counted as this, so that a perfect image does not make a mean infinite."""


def psnr(image: Floats, original: Floats) -> float:
    """The peak signal-to-noise ratio ``-10 log10(mean squared error)`` in dB, for values in [0, 1]; at most 100.

    >>> round(psnr(np.full((4, 4), 0.5), np.full((4, 4), 0.6)), 6)
    20.0
    """
    error = np.mean(np.square(image - original))
    return min(HIGHEST_PSNR, float(-10 * np.log10(max(error, np.finfo(np.float64).tiny))))


def ssim(image: Floats, original: Floats) -> float:
    """The mean structural similarity of two images ``[..., height, width]`` in [0, 1], from -1 to 1 (alike).

    Wang et al. 2004, equation 13, with their constants: Gaussian windows of 11 by 11 pixels and deviation 1.5,
    ``K1 = 0.01``, ``K2 = 0.03``; only windows that lie within the image count. Channels are averaged.

    Raises:
        ValueError: the images are smaller than a window.
    """
    if image.ndim < 2 or min(image.shape[-2:]) < 11:
        raise ValueError(f"SSIM looks at windows of 11 by 11 pixels; the images are {list(image.shape)}")
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = _windowed(image), _windowed(original)
    variance_x = _windowed(image * image) - mean_x**2
    variance_y = _windowed(original * original) - mean_y**2
    covariance = _windowed(image * original) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float(np.mean(likeness / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))))


def assign(images: Floats, originals: Floats) -> NDArray[np.int64]:
    """Which of ``images [n, ...]`` stands for each of ``originals [m, ...]``, ``int64[m]``, m at most n.

    The assignment with the least squared error in all; an update does not say in which order its images were.
    """
    flat, wanted = images.reshape(len(images), -1), originals.reshape(len(originals), -1)
    errors = np.square(wanted[:, None] - flat[None]).sum(axis=2)
    return linear_sum_assignment(errors)[1]


def _windowed(image: Floats) -> Floats:
    """The Gaussian mean of each 11 by 11 window within the image, along the last two axes."""
    smooth = gaussian_filter(image, 1.5, radius=5, axes=(-2, -1))
    return smooth[..., 5:-5, 5:-5]
