"""What gradient inversion came up with, and its figures beside the originals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.attacks.image_quality import Floats, assign, psnr, ssim
from fedsim.attacks.label_recovery import label_recovery_rate


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """What an attack came up with: ``images`` ``float64[count, *input_shape]`` in [0, 1] and ``labels`` int64 [count].

    ``distance`` is ``1 - cosine`` between the update they would cause and the observed one, from 0 (alike) to 2.
    """

    images: Floats
    labels: NDArray[np.int64]
    distance: float


def compare(
    reconstruction: Reconstruction, originals: Floats, labels: NDArray[np.int64]
) -> dict[str, float | list[float]]:
    """An attack's figures: of each original, by its best assignment, and their median and best.

    ``originals`` are the ``[n, *input_shape]`` inputs in [0, 1] that the network was trained on, ``labels`` int64 [n].
    ``psnr`` and ``ssim`` are lists of n; ``blank_psnr`` is the median PSNR of an even image of each original's own mean
    brightness, near which an attack has found out nothing. Images smaller than an SSIM window have no ``ssim``.
    """
    images = reconstruction.images[assign(reconstruction.images, originals)]
    pairs = list(zip(images, originals, strict=True))
    figures: dict[str, float | list[float]] = {
        "label_recovery_rate": label_recovery_rate(reconstruction.labels, labels),
        "distance": reconstruction.distance,
        "blank_psnr": float(
            np.median([psnr(np.full_like(original, original.mean()), original) for original in originals])
        ),
    }
    measured = {"psnr": [psnr(*pair) for pair in pairs]}
    if originals.ndim > 3 and min(originals.shape[-2:]) >= 11:
        measured["ssim"] = [ssim(*pair) for pair in pairs]
    for name, values in measured.items():
        figures |= {name: values, f"{name}_median": float(np.median(values)), f"{name}_best": max(values)}
    return figures
