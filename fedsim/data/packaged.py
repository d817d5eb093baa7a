"""The MNIST that comes with the package: checked, decompressed once, cached and memory-mapped."""

import gzip
import hashlib
import os
import sys
import zlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsim.data import idx
from fedsim.data.dataset import Dataset, from_arrays
from fedsim.files import write_atomically

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""The four files, in the order train images, train labels, test images, test labels; digests of the raw bytes."""


def mnist() -> Dataset:
    """MNIST (LeCun et al. 1998): uint8 ``[60000, 1, 28, 28]`` to train on, ``[10000, 1, 28, 28]`` to test on.

    The images are read-only maps of files in `cache_folder`, so that processes share one copy; the files are made on
    first use. Every load checks their MD5; a damaged one is made anew, and where none can be kept (a read-only home,
    a full disk) the images are held in memory instead. Any number of processes may do so at the same time.

    Raises ``ValueError`` if the package's own files are damaged.
    """
    arrays = [idx.decode(_raw(name)) for name in MD5]
    return from_arrays("mnist", *arrays)


def cache_folder(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where decompressed data is kept: ``FEDSIM_CACHE``, else ``fedsim`` in the user's cache folder.

    That is ``XDG_CACHE_HOME`` if set, else what the platform has for it: ``~/Library/Caches`` (macOS),
    ``LOCALAPPDATA`` (Windows), ``~/.cache``.
    """
    if environment.get("FEDSIM_CACHE"):
        return Path(environment["FEDSIM_CACHE"]).expanduser()
    if environment.get("XDG_CACHE_HOME"):
        return Path(environment["XDG_CACHE_HOME"], "fedsim")
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fedsim"
    if platform == "win32" and environment.get("LOCALAPPDATA"):
        return Path(environment["LOCALAPPDATA"], "fedsim")
    return Path.home() / ".cache" / "fedsim"


def _raw(name: str) -> bytes | NDArray[np.uint8]:
    """One decompressed file, mapped from the cache if it can be kept there."""
    if (cached := _cached(name)) is not None:
        return cached
    raw = _decompressed(name)
    try:
        write_atomically(cache_folder() / "mnist" / name, raw)
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return raw
    return raw if (cached := _cached(name)) is None else cached


def _cached(name: str) -> NDArray[np.uint8] | None:
    """The cached file, or ``None`` if it is missing, unreadable or not what it should be."""
    try:
        mapped = np.memmap(cache_folder() / "mnist" / name, np.uint8, "r")
    except (OSError, RuntimeError, ValueError):  # ValueError: an empty file
        return None
    return mapped if _md5(mapped.data) == MD5[name] else None


def _decompressed(name: str) -> bytes:
    packed = files("fedsim.data") / "mnist" / f"{name}.gz"
    try:
        raw = gzip.decompress(packed.read_bytes())
        if _md5(raw) != MD5[name]:
            raise ValueError(f"its content has MD5 {_md5(raw)}, not {MD5[name]}")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"fedsim/data/mnist/{name}.gz is damaged, install fedsim again: {error}") from error
    return raw


def _md5(data: bytes | memoryview) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
