"""Who trains in a round: by independent coin flips, in cohorts of a fixed size, or in turns."""

import math

import numpy as np
from numpy.typing import NDArray

from fedsim.seeds import generator, key, words

Clients = NDArray[np.int64]

FEISTEL_ROUNDS = 8


def poisson(seed: int, round: int, clients: int, cohort: float) -> Clients:
    """The clients of a round which each joins by a coin flip of its own, with chance ``cohort / clients``; ascending.

    There may be none. A binomial number of clients, and then any so many of them alike, is the same law without a flip
    for each.
    """
    _check(clients, cohort)
    draw = generator(seed, "poisson cohort", round)
    return _any(draw, clients, int(draw.binomial(clients, cohort / clients)))


def fixed(seed: int, round: int, clients: int, cohort: int) -> Clients:
    """The clients of a round that takes exactly ``cohort``, any so many of them alike; ascending."""
    _check(clients, cohort)
    return _any(generator(seed, "fixed cohort", round), clients, cohort)


def cyclic(seed: int, round: int, clients: int, cohort: int) -> Clients:
    """The clients whose turn it is in ``round``, counted from 1; ascending.

    The seed puts all clients in an order, in which they take turns, ``cohort`` a round: where the order ends it begins
    again, in the middle of a round if need be. The client in place p has turns p, p + clients, p + 2 clients, ..., and
    turn i is in round 1 + floor(i / cohort), so its rounds are at least `separation` apart, and within the first R
    rounds it has at most `participations` of them. Time and memory are those of a cohort, however many clients.
    """
    _check(clients, cohort)
    places = ((round - 1) * cohort + np.arange(cohort)) % clients
    return np.sort(_shuffled(key(seed, "turns"), places, clients))


def separation(clients: int, cohort: int) -> int:
    """How many rounds a client's turns are apart under `cyclic`, at the least."""
    return clients // cohort


def participations(clients: int, cohort: int, rounds: int) -> int:
    """In how many of the first ``rounds`` a client takes part under `cyclic`, at the most."""
    return -(-rounds * cohort // clients)


def batches(examples: int, batch_size: int) -> int:
    """How many steps of DP-SGD are an epoch of so many examples, each of which joins one with the chance 1 / steps."""
    return -(-examples // batch_size)


def largest_cohort(clients: int, cohort: float, rounds: int, chance: float = 1e-9) -> int:
    """What no cohort of `poisson` in the whole run exceeds, but for a chance of at most ``chance``."""
    from scipy.stats import binom  # two seconds, for those who need it

    _check(clients, cohort)
    return int(binom.isf(chance / rounds, clients, cohort / clients))


def _any(draw: np.random.Generator, clients: int, size: int) -> Clients:
    return np.sort(draw.choice(clients, size, replace=False, shuffle=False))


def _shuffled(start: np.uint64, places: Clients, size: int) -> Clients:
    """Where a permutation of ``range(size)`` that ``start`` chooses puts ``places``.

    A Feistel network permutes the numbers of an even count of bits; what it puts outside the range is sent through
    again until it is inside, four times in the mean at most (cycle walking, Black and Rogaway 2002). Everyone is as
    likely in every place; of few clients not every order is as likely as every other, on which nothing rests.
    """
    half = np.int64(math.ceil((size - 1).bit_length() / 2))
    mask = np.int64(2**half - 1)
    keys = words(start, np.arange(FEISTEL_ROUNDS))
    shuffled, walking = places.copy(), np.arange(len(places))
    while len(walking):
        left, right = shuffled[walking] >> half, shuffled[walking] & mask
        for own in keys:
            left, right = right, left ^ (words(own, right).astype(np.int64) & mask)
        shuffled[walking] = left << half | right
        walking = walking[shuffled[walking] >= size]
    return shuffled


def _check(clients: int, cohort: float) -> None:
    if not 0 < cohort <= clients:
        raise ValueError(f"a cohort must be above 0 and at most the {clients} clients, got {cohort:g}")
