"""The command as its users meet it: in a process of its own, with what it prints and how it exits."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.cli import main
from fedsim.config import command_line
from fedsim.coreml.contract import read_contract
from tests.small import small_config, write_small_dataset


def fedsim(*words: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "fedsim", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("data") / "small.npz"
    write_small_dataset(path)
    return command_line(small_config(Path(), data={"source": str(path)}, federation={"rounds": 1})).split()[2:]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("run",),
        ("resume",),
        ("partition",),
        ("doctor",),
        ("bench",),
        ("attack",),
        ("audit",),
        ("study",),
        ("privacy",),
        ("privacy", "explain"),
        ("model",),
        *(("model", verb) for verb in ("build", "describe", "check")),
    ],
)
def test_every_verb_explains_itself_with_an_example(words: tuple[str, ...]) -> None:
    shown = fedsim(*words, "--help")
    assert shown.returncode == 0
    if words and words != ("model",):
        assert f"fedsim {' '.join(words)}" in shown.stdout.split("Example", 1)[1]


def test_without_a_terminal_a_run_prints_a_line_a_round(tmp_path: Path, settings: list[str]) -> None:
    shown = fedsim("run", *settings, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("round 0/1  accuracy ")
    assert "train loss" in lines[1]
    assert "test accuracy" in shown.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert lines[-1] == f"runs/{folder.name}/report.html"
    assert (folder / "report.html").exists()
    assert shown.stderr == ""


def test_for_machines_a_run_prints_json_and_nothing_else(tmp_path: Path, settings: list[str]) -> None:
    shown = fedsim("run", "--json", *settings, cwd=tmp_path)
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [row["round"] for row in rows[:-1]] == [0, 1]
    assert rows[-1]["status"] == "finished"
    written = (tmp_path / rows[-1]["folder"] / "rounds.jsonl").read_text().splitlines()
    assert [{**row, "seconds": None} for row in rows[:-1]] == [
        {**json.loads(line), "seconds": None} for line in written
    ]


def test_the_command_in_the_folder_reproduces_the_run(tmp_path: Path, settings: list[str]) -> None:
    first = json.loads(fedsim("run", "--json", *settings, cwd=tmp_path).stdout.splitlines()[-1])
    command = json.loads((tmp_path / first["folder"] / "environment.json").read_text())["command"]
    words = [*command.split()[1:], "--json", "--set", "output.folder=again"]
    second = json.loads(fedsim(*words, cwd=tmp_path).stdout.splitlines()[-1])
    assert second["model"]["weights_id"] == first["model"]["weights_id"]


def test_a_mistake_in_the_request_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, where each would take seconds to start; the first is a command of its own below."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk.mlmodel").write_bytes(b"not a model")
    for words, line in [
        (["run", "--set", "data.alhpa=1"], "data.alhpa: unknown key; did you mean alpha?"),
        (["run", "missing.toml"], "missing.toml: cannot be read (No such file or directory)"),
        (["run", "--set", "data.source=nowhere"], "data.source"),
        (["run", "--set", "data.min_examples=1000"], "data.min_examples = 1000: "),
        (["run", "--set", "model.contract=none.mlmodel"], "model.contract = none.mlmodel: cannot be read"),
        (["run", "--set", "training.learning_rate=3"], "training.learning_rate = 3.0 is not allowed by the model"),
        (["privacy", "explain"], "privacy.mechanism = none: promises nothing; give privacy.epsilon to begin with"),
        (["privacy", "explain", "--set", "privacy.clip=1"], "privacy.mechanism = central: needs privacy.epsilon, "),
        (
            ["privacy", "explain", "--set", "privacy.epsilon=0.01", "--set", "privacy.noise_multiplier=0.5"],
            "privacy.epsilon = 0.01: does not allow one round at privacy.noise_multiplier = 0.5",
        ),
        (["run", "--cluster", "somewhere"], "speed.cluster = somewhere: must be host:port"),
        (["resume", "nowhere"], "nowhere: holds no run"),
        (["attack", "nowhere", "membership"], "nowhere: holds no run"),
        (["attack", "nowhere", "telepathy"], "attack = telepathy: allowed are membership, "),
        (
            ["audit", "--set", "privacy.epsilon=8", "--output", "junk.mlmodel"],
            "--output junk.mlmodel: is a file; allowed are folders",
        ),
        (["model", "describe", "none.mlmodel"], "none.mlmodel: cannot be read"),
        (["model", "check", "junk.mlmodel"], "junk.mlmodel: "),
        (["model", "describe", "junk.mlmodel"], "junk.mlmodel: "),
    ]:
        monkeypatch.setattr("sys.argv", ["fedsim", *words])
        with pytest.raises(SystemExit) as left:
            main()
        shown = capsys.readouterr()
        assert left.value.code == 2, (words, shown.err)
        assert shown.err.startswith(line), (words, shown.err)
        assert len(shown.err.splitlines()) == 1, (words, shown.err)
        assert not shown.out
    assert not (tmp_path / "runs").exists()
    shown = fedsim("run", "--set", "data.alhpa=1", cwd=tmp_path)
    assert (shown.returncode, shown.stdout, len(shown.stderr.splitlines())) == (2, "", 1)


def test_a_model_is_built_described_checked_and_trained(tmp_path: Path, settings: list[str]) -> None:
    built = fedsim("model", "build", "own.mlmodel", "--set", "training.optimizer=adam", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert read_contract((tmp_path / "own.mlmodel").read_bytes()).training.optimizer == "adam"
    described = fedsim("model", "describe", "own.mlmodel", cwd=tmp_path).stdout
    assert "585,958 weights" in described
    assert "optimizer = adam" in described
    checked = fedsim("model", "check", "own.mlmodel", cwd=tmp_path)
    assert checked.returncode == 0
    assert "a phone can train this file (trainable layers: all)" in checked.stdout
    words = [*settings, "--set", "model.contract=own.mlmodel", "--json"]
    summary = json.loads(fedsim("run", *words, cwd=tmp_path).stdout.splitlines()[-1])
    assert summary["status"] == "finished"


def test_a_partition_is_shown_before_training(tmp_path: Path, settings: list[str]) -> None:
    shown = fedsim("partition", "dealt", *settings, "--set", "data.partition=shards", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert {path.name for path in (tmp_path / "dealt").iterdir()} == {"partition.npz", "clients.npz", "partition.html"}


def test_what_a_private_run_promises_is_explained(settings: list[str]) -> None:
    words = ["privacy", "explain", *settings, "--set", "privacy.noise_multiplier=2", "--set", "privacy.sampling=cyclic"]
    said = json.loads(fedsim(*words, "--json").stdout)
    assert said["adjacency"] == "leave out what one client contributes"
    assert said["epsilon"] > said["projected"]["epsilon"] > 0
    shown = fedsim(*words)
    assert shown.returncode == 0, shown.stderr
    promise, *paragraphs = shown.stdout.split("\n\n")
    assert promise == f"Promised: epsilon {said['epsilon']:.4g} at delta 1e-05 for one client, with all its examples."
    assert paragraphs[-1].startswith("Not covered:\n- ")
    assert paragraphs[-1].count("\n- ") == len(said["not_covered"])
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_the_doctor_finds_this_machine_well() -> None:
    shown = fedsim("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(shown.stdout)}
    assert shown.returncode == 0
    assert findings["MNIST"]["found"] == "60,000 training images"
    assert findings["flwr"]["found"] == "1.41.0"
    assert findings["Ray"]["found"] == importlib.metadata.version("ray")
    assert fedsim("doctor").returncode == 0
