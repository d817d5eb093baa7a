"""The whole engine under the address and undefined-behaviour sanitizers: no stray access, no undefined step."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.training.native import library

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "fedsim/training/native").glob("*.cpp"))
FLAGS = ("-std=c++17", "-O0", "-g", "-fPIC", "-shared", "-pthread", "-Wno-psabi")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None or not sys.platform.startswith("linux"), reason="needs g++ on Linux")
def test_every_path(tmp_path: Path) -> None:
    built = tmp_path / "checked.so"
    objects = [tmp_path / f"{source.stem}.o" for source in SOURCES]
    compile_one = ["g++", *FLAGS, *SANITIZERS]
    running = [
        subprocess.Popen([*compile_one, "-c", str(source), "-o", str(target)])
        for source, target in zip(SOURCES, objects, strict=True)
    ]
    assert [process.wait() for process in running] == [0] * len(running)
    subprocess.run([*compile_one, *map(str, objects), "-o", str(built)], check=True)
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {
        **os.environ,
        library.LIBRARY_VARIABLE: str(built),
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "PYTHONPATH": str(ROOT),
    }
    script = [sys.executable, "-m", "tests.training.native.exercise"]
    finished = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.stdout == "done\n", finished.stderr[-4000:]
