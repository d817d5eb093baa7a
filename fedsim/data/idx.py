"""The idx file format of MNIST and its relatives: a typed array of big-endian numbers behind a small header."""

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def decode(data: bytes | NDArray[np.uint8]) -> NDArray[Any]:
    """The array in an idx file, as a read-only view of ``data`` (bytes, or a flat read-only uint8 array).

    The format: two zero bytes, a type code, the number of dimensions, each dimension as a big-endian uint32, then
    the values in C order (http://yann.lecun.com/exdb/mnist, "The IDX file format").

    Raises ``ValueError`` if ``data`` is not exactly that.

    >>> decode(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9])).tolist()
    [7, 8, 9]
    """
    head = bytes(data[:4])
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or head[3] == 0:
        raise ValueError(f"not an idx file: it starts with {head.hex(' ') or 'nothing'}")
    dtype, dimensions = np.dtype(TYPES[head[2]]), head[3]
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise ValueError(f"cut short: {len(data):,} bytes, an idx header of {dimensions} dimensions has {start:,}")
    shape = struct.unpack(f">{dimensions}I", bytes(data[4:start]))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ValueError(f"{len(data):,} bytes; its header {list(shape)} {dtype.name} calls for {expected:,}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape)
