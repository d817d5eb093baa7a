"""Files on disk: written whole or not at all, and archives of arrays read with errors in words."""

import os
import struct
import uuid
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
)
"""What the standard library and NumPy raise on archives with wrong bytes in them."""


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that every reader, at any time, sees the old one or the new one, never a part.

    The folder is made if it is missing. Several processes may write at once: the last one wins. A writer that is
    killed leaves ``path`` as it was, and beside it a hidden ``.part`` file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_archive(path: Path, keys: Sequence[str]) -> list[NDArray[Any]]:
    """The arrays named ``keys`` of an ``.npz`` file, in that order; pickled objects are refused, never loaded.

    Raises ``ValueError`` if the file is no such archive, is damaged or lacks a key, and ``OSError`` if it cannot be
    opened.
    """
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except DAMAGE as error:
            raise ValueError(f"not an .npz archive: {_reason(error)}") from error
        with archive:
            found = [name.removesuffix(".npy") for name in archive.namelist()]
            missing = [key for key in keys if key not in found]
            if missing:
                raise ValueError(f"lacks {', '.join(missing)}; it holds {', '.join(found) or 'nothing'}")
            return [_read_array(archive, key) for key in keys]


def _read_array(archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    try:
        with archive.open(f"{key}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except DAMAGE as error:
        raise ValueError(f"{key} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
