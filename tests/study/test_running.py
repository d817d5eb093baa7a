"""Studies run what is missing and nothing else, whatever ended them before."""

import fcntl
import json
import os
import signal
import subprocess
import time
from multiprocessing import active_children
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from fedsim import ConfigError, run
from fedsim.config import from_mapping
from fedsim.coreml.contract import read_contract
from fedsim.coreml.weights import write_weights
from fedsim.models.networks import NETWORKS
from fedsim.results import SUMMARY, read_config, status, write_json
from fedsim.study.plan import config_hash, named_files, read_study
from fedsim.study.running import LOCK, jobs, run_study
from fedsim.study.table import read_rows
from tests.report.reading import assert_self_contained, read_page
from tests.runs.test_resume import listen_to_interrupts
from tests.small import write_small_dataset
from tests.study.conftest import fedsim_study
from tests.study.test_plan import SHIPPED, STUDIES

TINY = """
title = "Tiny"
[base]
data.source = {source!r}
federation = {{ clients = 12, cohort = 4, rounds = {rounds} }}
training.epochs = 1
[grid]
training.learning_rate = [0.05, 0.1]
"""


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file of every run."""
    files = (path for path in (folder / "runs").rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def write_tiny(path: Path, source: Path, rounds: int) -> Path:
    path.write_text(TINY.format(source=str(source), rounds=rounds))
    return path


def test_a_shipped_study_runs_from_end_to_end(first: "subprocess.CompletedProcess[str]", finished: Path) -> None:
    lines = first.stdout.splitlines()
    assert lines[0] == "9 cells x 1 seeds: 9 runs, 9 to do"
    assert lines[1].lstrip().startswith("1/9  data = ")
    assert "ETA" in lines[1]
    assert lines[-1].replace("\n", "") == f"{finished}/study.html"
    assert first.stderr == ""
    table = json.loads((finished / "table.json").read_text())
    assert table["runs"] == table["runs_in_folder"] == 9
    for cell in table["cells"]:
        (name,) = cell["runs"]
        folder = finished / "runs" / name
        config = read_config(folder)
        assert config_hash(config, named_files(config.data.source, config.model.contract)) == name
        summary = json.loads((folder / "summary.json").read_text())
        assert cell["numbers"]["test_accuracy"]["mean"] == summary["test_accuracy"]
        worst = summary["client_accuracy"]["worst_decile_mean"]
        assert cell["numbers"]["client_accuracy.worst_decile_mean"]["mean"] == worst


def test_what_has_finished_is_never_run_again(finished: Path, command: list[str]) -> None:
    before = everything(finished)
    assert len({Path(name).parent for name in before}) == 9
    (finished / "study.html").unlink()
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[0] == "9 cells x 1 seeds: 9 runs, 0 to do"
    assert (finished / "study.html").exists()
    assert everything(finished) == before


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "exit_code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_study_that_is_cut_off_goes_on_where_it_was(
    tmp_path: Path, source: Path, sent: signal.Signals, exit_code: int
) -> None:
    path, folder = write_tiny(tmp_path / "tiny.toml", source, rounds=25), tmp_path / "out"
    words = fedsim_study(str(path), "--folder", str(folder), "--workers", "1")
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen_to_interrupts
    ) as process:
        second = wait_for_rounds(folder, runs=2, rounds=3)
        os.kill(process.pid, sent)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code, errors
    assert "Traceback" not in errors
    study = read_study(path)
    assert sorted(status(job.folder) for job in jobs(study, folder)) == ["finished", "running"]
    cut = (second / "rounds.jsonl").read_bytes()
    done = {name: held for name, held in everything(folder).items() if not name.startswith(str(second))}
    assert run_study(study, folder, workers=1) == {}
    now = everything(folder)
    assert {name: now[name] for name in done} == done
    (job,) = (job for job in jobs(study, folder) if job.folder == second)
    tables = job.config.model_dump(mode="json")
    alone = run(from_mapping({**tables, "output": {"folder": str(tmp_path / "alone")}}))
    for name in ("rounds.jsonl", "model.safetensors"):
        assert (second / name).read_bytes() == (alone.folder / name).read_bytes()
    assert (second / "rounds.jsonl").read_bytes().startswith(cut[: cut.rindex(b"\n") + 1])


def wait_for_rounds(folder: Path, *, runs: int, rounds: int) -> Path:
    """Waits until so many runs have begun and the youngest has so many rounds; returns its folder."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        begun = sorted(folder.glob("runs/*/rounds.jsonl"), key=lambda path: path.stat().st_ctime_ns)
        unfinished = [path for path in begun if status(path.parent) == "running"]
        if len(begun) == runs and unfinished and unfinished[-1].read_bytes().count(b"\n") >= rounds:
            return unfinished[-1].parent
        time.sleep(0.02)
    raise AssertionError(f"no {runs} runs with {rounds} rounds in {folder}")


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path: Path, source: Path) -> None:
    path = write_tiny(tmp_path / "tiny.toml", source, rounds=1)
    path.write_text(path.read_text().replace("training.learning_rate = [0.05, 0.1]", "data.min_examples = [1, 1000]"))
    words = fedsim_study(str(path), "--folder", str(tmp_path / "out"))
    shown = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert shown.returncode == 1
    (failed,) = shown.stderr.splitlines()
    assert "failed: data.min_examples = 1000: " in failed
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert len(table["failures"]) == 1
    assert [bool(cell["numbers"]) for cell in table["cells"]] == [True, False]
    assert "Not all runs have finished: 1 of 2" in (tmp_path / "out" / "study.html").read_text()


@pytest.mark.slow
def test_a_process_that_dies_takes_only_its_run_along(tmp_path: Path, source: Path) -> None:
    study, folder = read_study(write_tiny(tmp_path / "tiny.toml", source, rounds=25)), tmp_path / "out"

    def strike() -> None:
        wait_for_rounds(folder, runs=1, rounds=2)
        (victim,) = active_children()
        assert victim.pid
        os.kill(victim.pid, signal.SIGKILL)

    killer = Thread(target=strike)
    killer.start()
    failures = run_study(study, folder, workers=1)
    killer.join()
    assert list(failures.values()) == ["its process ended with exit code -9"]
    assert sorted(job.done() for job in jobs(study, folder)) == [False, True]


def test_two_processes_do_not_run_one_folder(tmp_path: Path, source: Path) -> None:
    study = read_study(write_tiny(tmp_path / "tiny.toml", source, rounds=1))
    with (tmp_path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process is running a study here"):
            run_study(study, tmp_path)


@pytest.mark.slow
def test_attacks_are_measured_once_on_every_finished_run(tmp_path: Path, source: Path) -> None:
    path, folder = write_tiny(tmp_path / "tiny.toml", source, rounds=1), tmp_path / "out"
    text = path.read_text().replace("[0.05, 0.1]", "[0.05]")
    path.write_text(text)
    assert run_study(read_study(path), folder, workers=1) == {}
    path.write_text(f'measure = ["membership"]\nnumbers = ["attacks.membership.auc"]\n{text}')
    study = read_study(path)
    (job,) = jobs(study, folder)
    before = (job.folder / "rounds.jsonl").stat().st_mtime_ns
    assert not job.done()
    assert run_study(study, folder, workers=1) == {}
    assert job.done()
    assert (job.folder / "rounds.jsonl").stat().st_mtime_ns == before
    found = json.loads((job.folder / "attacks" / "membership.json").read_text())
    (row,) = read_rows(study, folder)
    assert 0 < row.estimates["attacks.membership.auc"].mean == found["auc"] < 1


def test_runs_are_to_do_again_where_their_data_or_their_model_has_changed(tmp_path: Path) -> None:
    """A path says nothing of what it leads to; and what was made of files that came back still holds."""
    data, model, path = tmp_path / "digits.npz", tmp_path / "own.mlmodel", tmp_path / "tiny.toml"
    write_small_dataset(data)
    contract = NETWORKS["lenet5"].contract(NETWORKS["lenet5"].training["sgd"])
    model.write_bytes(contract)
    path.write_text(
        TINY.format(source=str(data), rounds=1).replace("[grid]", f"model.contract = {str(model)!r}\n[grid]")
    )

    def left() -> list[bool]:
        return [not job.done() for job in jobs(read_study(path), tmp_path)]

    assert left() == [True, True]
    for job in jobs(read_study(path), tmp_path):
        write_json(job.folder / SUMMARY, {"status": "finished"})
    assert left() == [False, False]
    held = data.read_bytes()
    with np.load(data) as arrays:
        np.savez(data, **{**arrays, "y_test": arrays["y_test"][::-1]})
    assert left() == [True, True]
    data.write_bytes(held)
    assert left() == [False, False]
    read = read_contract(contract)
    model.write_bytes(write_weights(read.file, read.slots, np.ones(read.parameters, np.float32)))
    assert left() == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_the_quick_variant_of_every_shipped_study_runs(tmp_path: Path, name: str) -> None:
    words = fedsim_study(str(SHIPPED / f"{name}.toml"), "--quick", "--folder", str(tmp_path))
    shown = subprocess.run(words, capture_output=True, text=True, check=False, timeout=1200)
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    table = json.loads((tmp_path / "table.json").read_text())
    study = read_study(SHIPPED / f"{name}.toml", quick=True)
    assert len(table["cells"]) == len(study.cells)
    held = set().union(*(cell["numbers"] for cell in table["cells"]))
    assert held == set(study.numbers)
    page = read_page(tmp_path / "study.html")
    assert_self_contained(page)
    assert page.notices() == []


def test_equal_cells_of_two_studies_share_a_run(tmp_path: Path, source: Path) -> None:
    one = read_study(write_tiny(tmp_path / "one.toml", source, rounds=1))
    other = read_study(write_tiny(tmp_path / "other.toml", source, rounds=1), ["speed.workers=2"])
    narrow = read_study(write_tiny(tmp_path / "narrow.toml", source, rounds=2))
    folders = [{job.folder for job in jobs(study, tmp_path)} for study in (one, other, narrow)]
    assert folders[0] == folders[1]
    assert not folders[0] & folders[2]
