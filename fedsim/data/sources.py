"""Where data comes from: the MNIST in the package, an ``.npz`` file, or a folder of idx files."""

import gzip
import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedsim.data import idx, packaged
from fedsim.data.dataset import Dataset, from_arrays
from fedsim.files import read_archive

KEYS = ("x_train", "y_train", "x_test", "y_test")
IDX_FILES = tuple(packaged.MD5)


def load(source: str) -> Dataset:
    """The data set that ``data.source`` names.

    ``"mnist"`` is the package's own (`packaged.mnist`); a path ending in ``.npz`` is an archive of `KEYS`; a folder
    holds `IDX_FILES`, each as it is or with ``.gz`` behind. What the arrays must be like says
    `dataset.from_arrays`. A folder that happens to be called mnist is ``"./mnist"``.

    Raises ``ValueError`` with one line that names the source, what was found in it and what is allowed.
    """
    if source == "mnist":
        return packaged.mnist()
    try:
        return _read(Path(source).expanduser())
    except OSError as error:
        raise ValueError(f"data.source = {source}: cannot be read: {error.strerror or error}") from error
    except (RuntimeError, ValueError) as error:  # RuntimeError: no home folder
        raise ValueError(f"data.source = {source}: {error}") from error


def _read(path: Path) -> Dataset:
    if path.is_dir():
        return from_arrays(path.name, *(_read_idx(path, name) for name in IDX_FILES), called=IDX_FILES)
    if path.suffix != ".npz":
        raise ValueError('allowed are "mnist", an .npz file and a folder of idx files')
    return from_arrays(path.stem, *read_archive(path, KEYS), called=KEYS)


def _read_idx(folder: Path, name: str) -> NDArray[Any]:
    plain, packed = folder / name, folder / f"{name}.gz"
    if not plain.exists() and not packed.exists():
        raise ValueError(f"lacks {name} (or {packed.name})")
    try:
        return idx.decode(plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes()))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{packed.name}: damaged gzip file: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
