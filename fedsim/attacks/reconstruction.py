"""What gradient inversion came up with, and its figures beside the originals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.attacks.image_quality import Floats, assign, psnr, ssim

Likeness = dict[str, float | list[float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """What an attack came up with: ``images`` ``float64[count, *input_shape]`` in [0, 1] and ``labels`` int64 [count].

    ``distance`` is ``1 - cosine`` between the update they would cause and the observed one, from 0 (alike) to 2.
    """

    images: Floats
    labels: NDArray[np.int64]
    distance: float


def matched(reconstruction: Reconstruction, originals: Floats) -> Floats:
    """Of the rebuilt images those that stand for ``originals``, in their order: the best assignment there is."""
    return reconstruction.images[assign(reconstruction.images, originals)]


def blank(originals: Floats) -> Floats:
    """An even image for each, of its own mean brightness."""
    brightness = originals.reshape(len(originals), -1).mean(axis=1)
    return np.broadcast_to(brightness.reshape(-1, *[1] * (originals.ndim - 1)), originals.shape)


def likeness(images: Floats, originals: Floats) -> Likeness:
    """``psnr`` and ``ssim`` of each pair as lists, with their median and best.

    Images smaller than an SSIM window have no ``ssim``.
    """
    pairs = list(zip(images, originals, strict=True))
    measured = {"psnr": [psnr(*pair) for pair in pairs]}
    if originals.ndim > 3 and min(originals.shape[-2:]) >= 11:
        measured["ssim"] = [ssim(*pair) for pair in pairs]
    figures: Likeness = {}
    for name, values in measured.items():
        figures |= {name: values, f"{name}_median": float(np.median(values)), f"{name}_best": max(values)}
    return figures
