"""Building the engine, and doing without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.training.native import library
from fedsim.training.native.engine import Engine
from tests.training.native.networks import lenet

ROOT = Path(__file__).parents[3]


def test_without_a_compiler_the_build_succeeds_and_builds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={tmp_path}", f"--build-temp={tmp_path}/temp"]
    nobody = {**os.environ, "CC": "/nobody/cc", "CXX": "/nobody/c++"}
    finished = subprocess.run(command, cwd=ROOT, env=nobody, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert not list(tmp_path.rglob("_engine*.so"))


def test_one_variant_runs_here() -> None:
    assert library.available() in library.VARIANTS
    assert library.variant("baseline") == "baseline"
    assert library.variant("of another planet") is None


def test_a_variant_that_does_not_run_is_refused() -> None:
    with pytest.raises(RuntimeError, match="does not run on this processor"):
        Engine(lenet(), "of another planet")


def test_without_an_engine_the_reason_is_said(tmp_path: Path) -> None:
    """In a process of its own, for the library is loaded once."""
    (tmp_path / "broken.so").write_bytes(b"not a library")
    script = "from fedsim.training.native import library; library.available()"
    environment = {**os.environ, library.LIBRARY_VARIABLE: str(tmp_path / "broken.so"), "PYTHONPATH": str(ROOT)}
    finished = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "RuntimeError: the native engine does not load" in finished.stderr
