"""Distributed noise: updates as whole numbers modulo a power of two, of which only the sum is ever opened.

A phone clips its update to ``clip`` in Euclidean norm, rotates it, rounds it at random to whole numbers, adds its share
of the cohort's Skellam noise, and sends the remainder modulo ``2 ** bits``. Rotation and rounding are those of Kairouz,
Liu & Steinke 2021 (the distributed discrete Gaussian, section 4), the noise is that of Agarwal, Kairouz & Liu 2021.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Whole = NDArray[np.int64]

HADAMARD = np.array([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
BETA = math.exp(-0.5)
"""How often a rounding may exceed its norm and be drawn again, at most: the authors' choice."""
CHANCE = 1e-9
"""Of any noise that leaves its range, and of any coordinate that is cut, in a whole run; each at most."""
COARSEST = 2.0
"""How much longer rounding may make an update, at most: noise grows with it."""
FINEST = 2.0**20
"""The most steps in the noise's standard deviation: beyond some 2**21, NumPy's Poisson draws lose their law."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How one run's updates become whole numbers, and what an accountant must know of them.

    A rotated vector has ``padded`` coordinates, of which each is cut to ``bound`` and multiplied by ``scale``; a cohort
    has at most ``cohort`` phones. One phone moves a sum of whole numbers by at most ``l2`` in Euclidean norm and ``l1``
    in the sum of magnitudes, whatever it sends; the cohort's noise has ``variance`` on each number, which is
    ``(noise_multiplier * l2) ** 2``.
    """

    clip: float
    dimension: int
    padded: int
    bits: int
    cohort: int
    bound: float
    scale: float
    l2: float
    l1: float
    variance: float

    @property
    def deviation(self) -> float:
        """The noise's standard deviation on each coordinate of a decoded sum: the multiplier times clip, and a bit."""
        return math.sqrt(self.variance) / self.scale


def encoding(*, clip: float, dimension: int, bits: int, cohort: int, rounds: int, noise_multiplier: float) -> Encoding:
    """The finest encoding of ``bits``-bit numbers in which a sum over ``cohort`` phones cannot wrap around.

    What the phones send can by no means: every number is at most ``bound * scale + 1``, and so many of them fit. Nor
    can their noise, but for a chance of 1e-9 over all numbers of all ``rounds``: it is at most
    ``L/3 + sqrt(L^2/9 + 2 L variance)`` with ``L = ln(2 * rounds * padded / 1e-9)`` (Bernstein's bound, which Skellam
    noise keeps since cosh(t) - 1 <= t^2 / (2 - 2t/3)). ``bound`` cuts an honest coordinate as rarely: signs make each
    subgaussian with variance ``clip^2 / padded`` (Hoeffding).

    Raises ``ValueError`` where the bits leave steps so coarse that rounding makes an update more than twice as long.
    """
    padded = 1 << (dimension - 1).bit_length()
    limit = 2 ** (bits - 1) - 1
    rare = math.log(2 * padded * rounds / CHANCE)
    bound = clip * min(1.0, math.sqrt(2 * (rare + math.log(cohort)) / padded))

    def fits(scale: float) -> bool:
        deviation = noise_multiplier * _rounded_norm(clip * scale, padded)
        largest_noise = rare / 3 + math.sqrt(rare**2 / 9 + 2 * rare * deviation**2)
        return deviation <= FINEST and cohort * (bound * scale + 1) + largest_noise <= limit

    scale = _largest(fits, limit / (cohort * bound))
    l2 = _rounded_norm(clip * scale, padded)
    if l2 > COARSEST * clip * scale:
        raise ValueError(
            f"{bits} bits are too few for {dimension} weights, cohorts of {cohort} and a noise multiplier of "
            f"{noise_multiplier:g}; allowed are more bits, smaller cohorts or less noise"
        )
    return Encoding(
        clip=clip,
        dimension=dimension,
        padded=padded,
        bits=bits,
        cohort=cohort,
        bound=bound,
        scale=scale,
        l2=l2,
        l1=min(math.sqrt(padded) * l2, l2**2),
        variance=(noise_multiplier * l2) ** 2,
    )


def signs(encoding: Encoding, draw: np.random.Generator) -> Real:
    """The signs of a round's rotation, ``float64[padded]`` of 1 and -1: public, and the same for all its phones."""
    return 2 * draw.integers(2, size=encoding.padded).astype(np.float64) - 1


def encode(encoding: Encoding, stack: Real, signs: Real, draws: list[np.random.Generator]) -> Whole:
    """The whole numbers ``int64[C, padded]`` of clipped updates ``[C, dimension]``, before noise and modulus.

    Each phone rounds by its own generator of ``draws``, so that its numbers do not depend on who is encoded with it.
    Each row is within ``encoding.l2``: a rounding that is not is drawn again (conditional rounding).

    Raises ``ValueError`` for updates longer than the clip.
    """
    longest = np.linalg.norm(stack, axis=1).max(initial=0)
    if not longest <= encoding.clip * (1 + 1e-6):
        raise ValueError(f"updates must be clipped to {encoding.clip:g}, got a norm of {longest:g}")
    turned = np.zeros((len(stack), encoding.padded), np.float32)
    np.multiply(stack, signs[: encoding.dimension], out=turned[:, : encoding.dimension], casting="same_kind")
    rotated = _hadamard(turned)
    numbers = np.empty(rotated.shape, np.int64)
    for phone, draw in enumerate(draws):
        cut = np.clip(rotated[phone].astype(np.float64), -encoding.bound, encoding.bound)
        numbers[phone] = _rounded(encoding.scale * cut, encoding.l2, draw)
    return numbers


def share(encoding: Encoding, cohort: int, draw: np.random.Generator) -> Whole:
    """One phone's noise ``int64[padded]`` in a round of ``cohort`` phones: the shares' sum is `noise`, in law exactly.

    A phone that drops out takes its share of the noise with it.
    """
    return _skellam(encoding.variance / cohort, encoding.padded, draw)


def noise(encoding: Encoding, draw: np.random.Generator) -> Whole:
    """All the noise of one round's sum, ``int64[padded]``: Skellam with mean 0 and ``encoding.variance``."""
    return _skellam(encoding.variance, encoding.padded, draw)


def modular(encoding: Encoding, numbers: Whole) -> Whole:
    """What is sent or summed of ``numbers``: their remainders modulo ``2 ** bits``, from 0 up."""
    return numbers & (2**encoding.bits - 1)


def decode(encoding: Encoding, total: Whole, signs: Real) -> Real:
    """The sum of updates ``float64[dimension]`` that a modular sum ``int64[padded]`` stands for."""
    half = 2 ** (encoding.bits - 1)
    centred = modular(encoding, total + half) - half
    rotated = _hadamard(centred[np.newaxis] / encoding.scale)[0]
    return (rotated * signs)[: encoding.dimension]


def _rounded_norm(norm: float, padded: int) -> float:
    """How long a vector of ``norm`` may be after rounding to whole numbers (Kairouz et al. 2021, theorem 1).

    The square grows by at most padded / 4 in the mean, and exceeds that by Hoeffding's bound as rarely as ``BETA``.
    """
    likely = norm**2 + padded / 4 + math.sqrt(2 * math.log(1 / BETA)) * (norm + math.sqrt(padded) / 2)
    return min(math.sqrt(likely), norm + math.sqrt(padded))


def _largest(fits: Callable[[float], bool], top: float) -> float:
    """The largest number below ``top`` that fits, where all below one that fits do; 0 where none does."""
    low, high = 0.0, top
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _rounded(row: Real, longest: float, draw: np.random.Generator) -> Whole:
    """Up or down to whole numbers with the row as the mean, again and again until they are within ``longest``."""
    while True:
        numbers = np.floor(row + draw.random(len(row)))
        if numbers @ numbers <= longest**2:
            return numbers.astype(np.int64)


def _skellam(variance: float, size: int, draw: np.random.Generator) -> Whole:
    return draw.poisson(variance / 2, size) - draw.poisson(variance / 2, size)


def _hadamard(rows: NDArray[Any]) -> NDArray[Any]:
    """The orthonormal Walsh-Hadamard transform of each row, whose length is a power of two: its own inverse.

    Sixteen neighbours at a time are one matrix product, which is where its speed comes from.
    """
    count, size = rows.shape
    left = size.bit_length() - 1
    while left:
        bits = min(4, left)
        left -= bits
        matrix = reduce(np.kron, [HADAMARD] * bits).astype(rows.dtype)
        rows = np.matmul(matrix, rows.reshape(-1, 2**bits, 2**left))
    return rows.reshape(count, size)
