"""Which client holds which examples: shards as two arrays, and a partition with its digest and its file."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.files import read_archive, write_atomically


@dataclass(frozen=True, kw_only=True, eq=False)
class Shards:
    """What some clients hold: the ``c``-th of them the examples ``order[offsets[c]:offsets[c + 1]]``.

    ``order`` is ``int64[N]``; ``offsets`` is ``int64[C + 1]`` and rises from 0 to N, so a client may be empty. Both
    become read-only. Two clients may hold the same example.

    Raises ``ValueError`` for arrays that are not so.
    """

    order: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        for array in (self.order, self.offsets):
            if array.dtype != np.int64 or array.ndim != 1:
                raise ValueError(f"order and offsets must be int64[...], got {array.dtype}{list(array.shape)}")
            array.flags.writeable = False
        if len(self.offsets) < 1 or self.offsets[0] != 0 or self.offsets[-1] != len(self.order):
            raise ValueError(f"offsets must run from 0 to the number of examples, {len(self.order)}")
        if (np.diff(self.offsets) < 0).any():
            raise ValueError("offsets must not fall")


Held = Callable[[NDArray[np.int64]], Shards]
"""What these clients hold, one after another."""


class Partition(Shards):
    """Shards of all clients of a federation that hold every example, ``0 .. N - 1``, exactly once.

    Two partitions are the same if their `digest` is. Raises ``ValueError`` for arrays that are not so.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.offsets) < 2:
            raise ValueError("a partition must have a client")
        if not np.array_equal(np.sort(self.order), np.arange(len(self.order))):
            raise ValueError("order must hold every example exactly once")


def from_owners(examples: NDArray[np.int64], owners: NDArray[np.int64], clients: int) -> Partition:
    """Gives ``examples[i]`` to client ``owners[i]``; a client's examples keep the order they are given in.

    >>> from_owners(np.array([3, 0, 2, 1]), np.array([1, 0, 1, 0]), 2).order.tolist()
    [0, 1, 3, 2]
    """
    held = np.bincount(owners, minlength=clients)
    offsets = np.concatenate(([0], np.cumsum(held))).astype(np.int64)
    return Partition(order=examples[np.argsort(owners, kind="stable")], offsets=offsets)


def indices(shards: Shards, client: int) -> NDArray[np.int64]:
    """The examples of one client, as a read-only view."""
    return shards.order[shards.offsets[client] : shards.offsets[client + 1]]


def sizes(shards: Shards) -> NDArray[np.int64]:
    """How many examples each client holds, ``int64[C]``."""
    return np.diff(shards.offsets)


def shards_of(partition: Shards, clients: NDArray[np.int64]) -> Shards:
    """What ``clients`` hold, one after another in their order.

    >>> held = from_owners(np.array([3, 0, 2, 1]), np.array([1, 0, 1, 0]), 2)
    >>> shards_of(held, np.array([1, 0, 1])).order.tolist()
    [3, 2, 0, 1, 3, 2]
    """
    counts = sizes(partition)[clients]
    offsets = np.concatenate(([0], np.cumsum(counts)))
    places = np.arange(offsets[-1]) + np.repeat(partition.offsets[clients] - offsets[:-1], counts)
    return Shards(order=partition.order[places], offsets=offsets)


def label_counts(partition: Shards, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """How many examples of each class each client holds, ``int64[C, classes]``."""
    clients = len(partition.offsets) - 1
    owners = np.repeat(np.arange(clients), sizes(partition))
    cells = owners * classes + labels[partition.order]
    return np.bincount(cells, minlength=clients * classes).reshape(clients, classes)


def digest(partition: Shards) -> str:
    """SHA-256, in hex, of ``"partition N C\\n"``, then ``order``, then ``offsets``, as little-endian int64."""
    head = f"partition {len(partition.order)} {len(partition.offsets) - 1}\n"
    body: list[NDArray[Any]] = [partition.order.astype("<i8"), partition.offsets.astype("<i8")]
    return hashlib.sha256(head.encode() + b"".join(array.tobytes() for array in body)).hexdigest()


def save(partition: Partition, path: Path) -> None:
    """Writes ``order``, ``offsets`` and ``digest`` as an ``.npz`` file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, order=partition.order, offsets=partition.offsets, digest=np.array(digest(partition)))
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> Partition:
    """What `save` wrote, bit for bit.

    Raises ``ValueError`` if the file is damaged or not a partition, ``OSError`` if it cannot be read.
    """
    try:
        order, offsets, recorded = read_archive(path, ("order", "offsets", "digest"))
        partition = Partition(order=order, offsets=offsets)
        if digest(partition) != str(recorded):
            raise ValueError("its content does not have the digest recorded in it")
    except ValueError as error:
        raise ValueError(f"{path}: not a partition saved by fedsim: {error}") from error
    return partition
