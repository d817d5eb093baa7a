"""The engine that these tests run: the one that is installed, or else one compiled here for this session."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsim.training.native import library

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session", autouse=True)
def native_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Sees to it that there is an engine; skips these tests where there can be none."""
    if library.library_path() is not None:
        yield
        return
    if shutil.which("c++") is None and shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("the native engine is not installed, and there is no C++ compiler to build it")
    folder = tmp_path_factory.mktemp("engine")
    command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={folder}", f"--build-temp={folder}/temp"]
    subprocess.run(command, cwd=ROOT, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(library.LIBRARY_VARIABLE, str(next(folder.rglob("_engine*"))))
        yield
