"""The only place randomness is born: every draw is keyed by the seed, its purpose and what it is for."""

import hashlib
import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A generator of its own for one draw, such as ``generator(seed, "shuffle", round, client)``.

    Equal arguments give equal streams, whatever was drawn before, in whichever process or order; different
    arguments give independent ones (NumPy's ``SeedSequence`` spreads the SHA-256 of the whole key).

    >>> int(generator(0, "cohort", 3).integers(100)) == int(generator(0, "cohort", 3).integers(100))
    True
    """
    return np.random.Generator(np.random.PCG64(_digest(seed, purpose, *key)))


def words(key: np.uint64 | Words, positions: NDArray[np.int64]) -> Words:
    """The 64-bit words at ``positions`` of the stream that ``key`` starts, or of each key's own: a shape for both.

    For draws by the million, where a generator each would cost more than what it draws. A word is SplitMix64's
    (Steele, Lea and Flood 2014, figure 15) and may be a key in turn: ``words(key(seed, purpose), clients)`` are
    clients' keys.

    >>> words(np.uint64(0), np.arange(2)).tolist()
    [16294208416658607535, 7960286522194355700]
    """
    mixed = key + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def key(seed: int, purpose: str, *parts: int) -> np.uint64:
    """Where `words` begin for one purpose, such as ``key(seed, "shuffle", round)``."""
    return np.uint64(_digest(seed, purpose, *parts) % 2**64)


@contextmanager
def flower_sampling(seed: int, purpose: str, *key: int) -> Generator[None]:
    """Within it, Flower's ``sample_nodes``, which draws from the global ``random``, draws from this key.

    The global state is put back afterwards, so that nobody else's randomness is touched.
    """
    state = random.getstate()
    random.seed(_digest(seed, purpose, *key))
    try:
        yield
    finally:
        random.setstate(state)


def _digest(seed: int, purpose: str, *key: int) -> int:
    return int.from_bytes(hashlib.sha256(repr((int(seed), purpose, *map(int, key))).encode()).digest(), "little")
