"""A run that was cut off anywhere goes on to the same bits as one that was not."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedsim import ConfigError, resume, run
from fedsim.config import command_line
from fedsim.recording import Row
from tests.small import small_config, small_dataset, write_small_dataset

RESULTS = ("rounds.jsonl", "model.safetensors", "model.mlmodel")
STRATEGIES = [
    pytest.param({"name": "FedAvg"}, id="FedAvg", marks=pytest.mark.slow),
    pytest.param({"name": "FedAvgM", "server_momentum": 0.9}, id="FedAvgM", marks=pytest.mark.slow),
    pytest.param({"name": "FedAdam", "eta": 0.01}, id="FedAdam"),
]


class PulledPlug(Exception):
    """Stands for whatever ended a run in the middle."""


def assert_same_results(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resuming_after_any_round_equals_running_through(tmp_path: Path, strategy: dict[str, object]) -> None:
    whole = run(small_config(tmp_path / "whole", strategy=strategy), dataset=small_dataset())
    for cut in (0, 1, 3):

        def stop(row: Row, cut: int = cut) -> None:
            if row["round"] == cut:
                raise PulledPlug

        folder = tmp_path / f"cut after {cut}"
        with pytest.raises(PulledPlug):
            run(small_config(folder, strategy=strategy), dataset=small_dataset(), listen=stop)
        record = resume(folder, dataset=small_dataset())
        assert record.summary["status"] == "finished"
        assert_same_results(whole.folder, folder)


def test_rounds_after_the_last_checkpoint_are_run_again(tmp_path: Path) -> None:
    def stop(row: Row) -> None:
        if row["round"] == 3:
            raise PulledPlug

    whole = run(small_config(tmp_path / "whole", federation={"rounds": 4}), dataset=small_dataset())
    config = small_config(tmp_path / "cut", federation={"rounds": 4}, output={"checkpoint_every": 2})
    with pytest.raises(PulledPlug):
        run(config, dataset=small_dataset(), listen=stop)
    assert len((tmp_path / "cut" / "rounds.jsonl").read_text().splitlines()) == 4
    seen: list[int] = []
    resume(tmp_path / "cut", dataset=small_dataset(), listen=lambda row: seen.append(row["round"]))
    assert seen == [3, 4]
    assert_same_results(whole.folder, tmp_path / "cut")


def test_other_data_are_refused(tmp_path: Path) -> None:
    def stop(row: Row) -> None:
        raise PulledPlug

    with pytest.raises(PulledPlug):
        run(small_config(tmp_path / "run"), dataset=small_dataset(), listen=stop)
    other = small_dataset()
    inverted = replace(other, train=replace(other.train, inputs=255 - other.train.inputs))
    with pytest.raises(ConfigError, match="the data are not those this run began with"):
        resume(tmp_path / "run", dataset=inverted)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    def stop(row: Row) -> None:
        if row["round"] == 2:
            raise PulledPlug

    with pytest.raises(PulledPlug):
        run(small_config(tmp_path / "run"), dataset=small_dataset(), listen=stop)
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"checkpoint.safetensors: is damaged .*; delete it to run from the first"):
        resume(tmp_path / "run", dataset=small_dataset())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "small.npz"
    write_small_dataset(path)
    return path


def start(folder: Path, source: Path) -> "subprocess.Popen[str]":
    config = small_config(folder, data={"source": str(source)}, federation={"rounds": 6})
    settings = command_line(config).split()[2:]
    command = [sys.executable, "-m", "fedsim", "run", "--json", *settings, "--set", f"output.folder={folder}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen_to_interrupts
    )


def listen_to_interrupts() -> None:
    """As in a terminal: what is started in the background may have inherited a deaf ear."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("sent", "exit_code", "status"),
    [pytest.param(signal.SIGKILL, -9, "running", marks=pytest.mark.slow), (signal.SIGINT, 130, "interrupted")],
)
def test_a_killed_process_leaves_a_run_that_resumes(
    tmp_path: Path, source: Path, sent: signal.Signals, exit_code: int, status: str
) -> None:
    with start(tmp_path / "whole", source) as whole:
        whole.communicate(timeout=120)
    assert whole.returncode == 0
    with start(tmp_path / "cut", source) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["round"] == 2:
                break
        os.kill(process.pid, sent)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code, errors
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "cut" / "summary.json").read_text())["status"] == status
    resumed = [sys.executable, "-m", "fedsim", "resume", str(tmp_path / "cut"), "--json"]
    lines = subprocess.run(resumed, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert json.loads(lines[-1])["status"] == "finished"
    assert_same_results(tmp_path / "whole", tmp_path / "cut")
    np.testing.assert_array_equal(
        [json.loads(line)["round"] for line in (tmp_path / "cut" / "rounds.jsonl").read_text().splitlines()], range(7)
    )
