"""A population too large to deal examples to: each phone draws its own, and only when it is asked."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.data.partition import Shards
from fedsim.seeds import words

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """Phones that each hold ``examples`` draws, with replacement, from the data: any number of them costs nothing.

    Group ``g`` of the examples is ``order[starts[g]:starts[g + 1]]``. A phone first draws ``groups`` of them, without
    replacement, and every example it holds evenly from one of these. What phone ``c`` draws follows from ``key`` and
    ``c`` alone (`seeds.words`), so phones are alike: the first thousand are as good a sample of them as any.
    """

    key: np.uint64
    order: Rows
    starts: Rows
    groups: int
    examples: int


def population(key: np.uint64, labels: Rows, examples: int, classes_per_client: int | None) -> Population:
    """Phones that draw ``examples`` each from those with these ``labels``: from all, or from so many classes.

    Raises ``ValueError`` where there are not so many classes, in one line that names the configuration key.
    """
    if classes_per_client is None:
        return Population(
            key=key, order=np.arange(len(labels)), starts=np.array([0, len(labels)]), groups=1, examples=examples
        )
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    if classes_per_client > len(counts):
        raise ValueError(f"data.classes_per_client = {classes_per_client}: allowed are 1 to {len(counts)}, the classes")
    starts = np.concatenate(([0], np.cumsum(counts)))
    order = np.argsort(labels, kind="stable")
    return Population(key=key, order=order, starts=starts, groups=classes_per_client, examples=examples)


def shards_in(drawn: Population, clients: Rows) -> Shards:
    """What ``clients`` hold, one after another in their order: the same whoever is asked with them."""
    keys = words(drawn.key, clients)[:, np.newaxis]
    groups = len(drawn.starts) - 1
    ranked = np.argsort(words(keys, np.arange(groups)), axis=1, kind="stable")[:, : drawn.groups]
    first = groups + np.arange(0, 2 * drawn.examples, 2)
    group = np.take_along_axis(ranked, _below(words(keys, first), drawn.groups), axis=1)
    place = _below(words(keys, first + 1), np.diff(drawn.starts)[group])
    rows = drawn.order[drawn.starts[group] + place]
    return Shards(order=rows.ravel(), offsets=np.arange(len(clients) + 1) * drawn.examples)


def _below(word: NDArray[np.uint64], bound: Rows | int) -> Rows:
    """Whole numbers below ``bound`` < 2**32, even to one part in 2**32: the word's upper half as a fraction of it."""
    return ((word >> np.uint64(32)) * np.asarray(bound, np.uint64) >> np.uint64(32)).astype(np.int64)
