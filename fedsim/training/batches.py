"""In which order phones walk through their examples: drawn here for every engine, so that all see the same batches."""

import numpy as np
from numpy.typing import NDArray

from fedsim.seeds import Words, key, words

Rows = NDArray[np.int64]


def shuffle_keys(seed: int, number: int, clients: Rows) -> Words:
    """Under which key each of ``clients`` shuffles in round ``number``, ``uint64[C]``."""
    return words(key(seed, "shuffle", number), clients)


def epoch_orders(counts: Rows, keys: Words, epochs: int, *, shuffle: bool) -> Rows:
    """Every phone's epochs one after another, then the next phone's: ``int64[sum(counts) * epochs]``.

    Phone ``i`` holds ``counts[i]`` examples; an entry is the position of one among its own. Each epoch is cut into
    batches from the front, the last one short. Shuffled, epoch ``e`` is in the order of the `seeds.words`
    ``e * counts[i]`` and following of ``keys[i]``: a permutation drawn evenly, whatever company the phone is in.
    """
    lengths = counts * epochs
    steps = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    held = np.repeat(counts, lengths)
    if not shuffle:
        return steps % held
    sections = np.repeat(np.arange(len(counts) * epochs), np.repeat(counts, epochs))
    order = np.lexsort((words(np.repeat(keys, lengths), steps), sections))
    return steps[order] % held


def epoch_order(count: int, key: np.uint64, epoch: int, *, shuffle: bool) -> Rows:
    """One phone's epoch ``epoch`` (from 0): the row of `epoch_orders`, for whoever trains on without an end."""
    positions = np.arange(count)
    return np.argsort(words(key, epoch * count + positions), kind="stable") if shuffle else positions
