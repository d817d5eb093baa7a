"""What this machine has for fedsim, what is missing, and what that costs."""

import importlib.metadata
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from fedsim.results import processor
from fedsim.training.native import library

VECTOR_SETS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("asimd", "NEON"))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at: ``good`` or not, what was ``found``, and what ``follows`` from it."""

    what: str
    good: bool
    found: str
    follows: str = ""


def examine() -> list[Finding]:
    """Look at the interpreter, the processor, memory, the packages and the data; changes nothing."""
    return [_python(), _cores(), _vectors(), _memory(), _engine(), *_packages(), _ray(), _data()]


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    return Finding(
        what="Python", good=good, found=platform.python_version(), follows="" if good else "fedsim needs 3.11 or later"
    )


def _cores() -> Finding:
    cores = os.cpu_count() or 1
    return Finding(what="cores", good=True, found=f"{cores} ({processor()})", follows=f"speed.workers is {cores}")


def _vectors() -> Finding:
    """The widest vectors the processor has; torch picks its kernels by itself."""
    try:
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text(encoding="utf-8")))
    except OSError:
        neon = platform.machine() in ("arm64", "aarch64")
        return Finding(what="SIMD", good=True, found="NEON" if neon else "not said by this system")
    found = next((name for flag, name in VECTOR_SETS if flag in flags), None)
    follows = "" if found else "training takes several times as long as with AVX2"
    return Finding(what="SIMD", good=found is not None, found=found or "none known", follows=follows)


def _engine() -> Finding:
    """Which variant of the native engine runs here."""
    try:
        return Finding(what="engine", good=True, found=f"native, {library.available()}")
    except RuntimeError as reason:
        return Finding(what="engine", good=False, found=str(reason), follows="torch trains, several times slower")


def _memory() -> Finding:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, AttributeError):
        return Finding(what="memory", good=True, found="not said by this system")
    good = size > 2e9
    follows = "" if good else "the main job needs about 1 GB of its own"
    return Finding(what="memory", good=good, found=f"{size / 2**30:.1f} GiB", follows=follows)


def _packages() -> list[Finding]:
    """Every package that fedsim depends on: its version, held against the range that was tested."""
    wanted = [Requirement(text) for text in importlib.metadata.requires("fedsim") or ()]
    return [_package(requirement) for requirement in wanted if requirement.marker is None]


def _package(requirement: Requirement) -> Finding:
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(what=requirement.name, good=False, found="missing", follows="install fedsim again")
    good = requirement.specifier.contains(found, prereleases=True)
    follows = "" if good else f"fedsim was tested with {requirement.specifier}; install fedsim again"
    return Finding(what=requirement.name, good=good, found=found, follows=follows)


def _ray() -> Finding:
    """Whether this machine can be one of several."""
    try:
        return Finding(what="Ray", good=True, found=importlib.metadata.version("ray"))
    except importlib.metadata.PackageNotFoundError:
        follows = "only --cluster needs it: pip install 'fedsim[ray]'"
        return Finding(what="Ray", good=True, found="not installed", follows=follows)


def _data() -> Finding:
    """Whether MNIST is whole, by the checks that a run makes."""
    from fedsim.data.sources import load

    try:
        examples = len(load("mnist").train.labels)
    except (OSError, ValueError) as error:
        return Finding(what="MNIST", good=False, found=str(error), follows="install fedsim again")
    return Finding(what="MNIST", good=True, found=f"{examples:,} training images")
