"""The only place randomness is born: every draw is keyed by the seed, its purpose and what it is for."""

import hashlib
import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A generator of its own for one draw, such as ``generator(seed, "shuffle", round, client)``.

    Equal arguments give equal streams, whatever was drawn before, in whichever process or order; different
    arguments give independent ones (NumPy's ``SeedSequence`` spreads the SHA-256 of the whole key).

    >>> int(generator(0, "cohort", 3).integers(100)) == int(generator(0, "cohort", 3).integers(100))
    True
    """
    return np.random.Generator(np.random.PCG64(_digest(seed, purpose, *key)))


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
