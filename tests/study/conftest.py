"""The quick variant of a shipped study on a few hundred digits, run once by the command for all tests that read it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.small import write_small_dataset
from tests.study.test_plan import SHIPPED


def fedsim_study(*words: str) -> list[str]:
    return [sys.executable, "-m", "fedsim", "study", *words]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "small.npz"
    write_small_dataset(path)
    return path


@pytest.fixture(scope="session")
def command(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`fedsim study` on the quick variant of the shipped ``non_iid``, small; its last word is the folder."""
    small = (f"data.source={source}", "federation.clients=12", "federation.cohort=4")
    settings = [word for setting in (*small, "federation.rounds=1") for word in ("--set", setting)]
    folder = tmp_path_factory.mktemp("study") / "non_iid"
    return fedsim_study(str(SHIPPED / "non_iid.toml"), "--quick", *settings, "--folder", str(folder))


@pytest.fixture(scope="session")
def first(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="session")
def finished(command: list[str], first: "subprocess.CompletedProcess[str]") -> Path:
    assert first.returncode == 0, first.stderr
    return Path(command[-1])
