"""Finds and loads the engine's compiled library; its C interface (``api.cpp``) in ctypes."""

import ctypes
import importlib.machinery
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.training.native.lower import BLOCK, PLACEMENT, STEP_FIELDS, TILE, WIDE

LIBRARY_VARIABLE = "FEDSIM_NATIVE_LIBRARY"
"""Names another library file to load: a debug build, or one that a developer has just compiled."""

VARIANTS = ("avx512", "avx2", "baseline")
"""Best first. The last one is for whatever processor the compiler takes for granted: NEON on arm64."""

_STATUS = {1: "an example, or the class of one, does not exist", 2: "there is not enough memory"}


class Examples(ctypes.Structure):
    """``Examples`` of program.hpp."""

    _fields_ = (
        ("inputs", ctypes.c_void_p),
        ("inputs_are_bytes", ctypes.c_int64),
        ("classes", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
    )


class Training(ctypes.Structure):
    """``Training`` of program.hpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("epochs", "batch_size", "adam", "epsilon_first")),
        *((name, ctypes.c_double) for name in ("learning_rate", "momentum", "beta1", "beta2", "epsilon")),
        *((name, ctypes.c_double) for name in ("proximal_mu", "weight_decay")),
    )


class TrainJob(ctypes.Structure):
    """``TrainJob`` of program.hpp."""

    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("examples", Examples),
        ("training", Training),
        ("clients", ctypes.c_int64),
        ("counts", ctypes.c_void_p),
        ("orders", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
        ("stack", ctypes.c_void_p),
        ("shares", ctypes.c_void_p),
        ("slots", ctypes.c_int64),
        ("sums", ctypes.c_void_p),
        ("sum", ctypes.c_void_p),
        ("clip", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("norms", "clipped", "losses", "state", "state_steps")),
    )


class EvaluateJob(ctypes.Structure):
    """``EvaluateJob`` of program.hpp."""

    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("examples", Examples),
        ("count", ctypes.c_int64),
        ("order", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("losses", "correct", "outputs")),
    )


def library_path() -> Path | None:
    """The compiled library, or None where none was built: installing without a C++ compiler leaves it out."""
    if named := os.environ.get(LIBRARY_VARIABLE):
        return Path(named)
    folder = Path(__file__).parent
    candidates = (folder / f"_engine{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((path for path in candidates if path.exists()), None)


@lru_cache(maxsize=1)
def library() -> Any:
    """The loaded library.

    Raises:
        RuntimeError: there is none, or it does not load or does not belong to this version of fedsim; says why.
    """
    path = library_path()
    if path is None:
        raise RuntimeError("the native engine is not built; install a C++ compiler and reinstall fedsim")
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeError(f"the native engine does not load: {error}") from None
    _declare(loaded)
    sizes = np.zeros(7, np.int64)
    loaded.fedsim_sizes(sizes.ctypes.data)
    own = [
        8 * len(STEP_FIELDS),
        PLACEMENT.itemsize,
        ctypes.sizeof(TrainJob),
        ctypes.sizeof(EvaluateJob),
        BLOCK,
        WIDE,
        TILE,
    ]
    if sizes.tolist() != own:
        raise RuntimeError("the native engine belongs to another version of fedsim; reinstall fedsim")
    return loaded


def variant(name: str = "") -> str | None:
    """The variant of this name, or the best one, if it runs on this processor."""
    found = library().fedsim_variant(name.encode())
    return found.decode() if found else None


def available() -> str:
    """Which variant runs here: ``avx512``, ``avx2`` or ``baseline``.

    Raises:
        RuntimeError: none does; says why, and what to do.
    """
    found = variant()
    if found is None:
        raise RuntimeError("the native engine has no variant for this processor")
    return found


def check(status: int) -> None:
    """Turns a status of the C interface into an exception."""
    if status == 2:
        raise MemoryError(_STATUS[status])
    if status:
        raise ValueError(_STATUS[status])


def address(array: Any) -> int | None:
    """Where a NumPy array's numbers lie; None stays None."""
    return None if array is None else array.ctypes.data


def _declare(loaded: Any) -> None:
    pointer, number, text = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p
    for name, result, arguments in (
        ("sizes", None, (pointer,)),
        ("variant", text, (text,)),
        ("open", pointer, (text, pointer, number, pointer, number, pointer, number, pointer, number, number)),
        ("close", None, (pointer,)),
        ("train", ctypes.c_int, (pointer, ctypes.POINTER(TrainJob))),
        ("evaluate", ctypes.c_int, (pointer, ctypes.POINTER(EvaluateJob))),
        ("multiply_adds", ctypes.c_double, (text, number)),
    ):
        function = getattr(loaded, f"fedsim_{name}")
        function.restype, function.argtypes = result, arguments
