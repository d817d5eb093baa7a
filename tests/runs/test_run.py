"""Whole runs: what they write, that workers cannot change it, and how they end when they cannot go on."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedsim import ConfigError, RunError, resume, run
from fedsim.coreml.contract import read_contract, weights_id
from fedsim.coreml.weights import read_weights
from fedsim.data.dataset import Dataset, Examples
from fedsim.simulation.grid import FederationGrid
from tests.simulation import arithmetic_phones
from tests.small import TEST, TRAIN, small_config, small_dataset, write_small_dataset

EVERY_FILE = {
    "config.json",
    "environment.json",
    "inputs.json",
    "partition.npz",
    "partition.html",
    "clients.npz",
    "rounds.jsonl",
    "timings.jsonl",
    "checkpoint.safetensors",
    "baselines.json",
    "model.safetensors",
    "model.mlmodel",
    "summary.json",
    "report.html",
}


def test_a_run_leaves_a_whole_folder(tmp_path: Path) -> None:
    seen: list[int] = []
    config = small_config(tmp_path / "run", baselines={"central": True, "local_only": 2})
    record = run(config, dataset=small_dataset(), listen=lambda row: seen.append(row["round"]))
    assert {path.name for path in record.folder.iterdir()} == EVERY_FILE
    assert seen == [0, 1, 2, 3]
    assert record.summary["status"] == "finished"
    assert [row["round"] for row in record.rounds] == [0, 1, 2, 3]
    assert record.rounds[3]["examples"] == 4 * TRAIN // 12
    assert record.rounds[3]["bytes_down"] == record.rounds[3]["bytes_up"] == 4 * 4 * 585_958
    assert record.rounds[3]["test_loss"] < record.rounds[0]["test_loss"]
    baselines = json.loads((record.folder / "baselines.json").read_text())
    assert baselines["central"]["curve"][-1]["examples"] >= baselines["examples"] == 3 * TRAIN // 3
    assert len(baselines["local_only"]["clients"]) == 2


def test_a_native_run_does_without_torch_and_ray(tmp_path: Path) -> None:
    write_small_dataset(tmp_path / "small.npz")
    config = small_config(
        tmp_path / "run",
        data={"source": str(tmp_path / "small.npz")},
        baselines={"central": True, "local_only": 1},
        speed={"engine": "native"},
    )
    program = (
        "import sys; from fedsim import RunConfig, run; run(RunConfig.model_validate_json(sys.argv[1])); "
        "print([name for name in ('torch', 'ray', 'coremltools') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, config.model_dump_json()]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "[]"


def test_the_two_model_files_hold_the_same_trained_weights(tmp_path: Path) -> None:
    record = run(small_config(tmp_path / "run"), dataset=small_dataset())
    contract = read_contract((record.folder / "model.mlmodel").read_bytes())
    weights = read_weights(contract.file, contract.slots)
    tensors = load_file(record.folder / "model.safetensors")
    named = [tensors[f"{slot.layer}.{slot.parameter}"] for slot in contract.slots]
    assert [part.shape for part in named] == [slot.shape for slot in contract.slots]
    np.testing.assert_array_equal(np.concatenate([part.ravel() for part in named]), weights)
    np.testing.assert_array_equal(record.weights, weights)
    assert record.summary["model"]["weights_id"] == weights_id(weights)


@pytest.mark.parametrize(
    "data", [{"partition": "iid"}, {"partition": "dirichlet", "alpha": 0.3}], ids=["iid", "skewed"]
)
@pytest.mark.parametrize("engine", ["native", "torch"])
def test_results_are_the_same_bits_for_any_number_of_workers(
    tmp_path: Path, engine: str, data: dict[str, object]
) -> None:
    folders: list[Path] = []
    for workers in (1, 2, 4):
        config = small_config(tmp_path / str(workers), data=data, speed={"workers": workers, "engine": engine})
        folders.append(run(config, dataset=small_dataset()).folder)
    for name in ("rounds.jsonl", "model.safetensors", "model.mlmodel"):
        contents = {(folder / name).read_bytes() for folder in folders}
        assert len(contents) == 1, name


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    first, second = (
        run(small_config(tmp_path / str(seed)).model_copy(update={"seed": seed}), dataset=small_dataset())
        for seed in (0, 1)
    )
    assert first.rounds[1]["clients"] != second.rounds[1]["clients"]
    assert not np.array_equal(first.weights, second.weights)


def test_per_client_accuracy_adds_up_to_the_central_one(tmp_path: Path) -> None:
    record = run(small_config(tmp_path / "run"), dataset=small_dataset())
    with np.load(record.folder / "clients.npz") as clients:
        accuracy, held = clients["accuracy"], clients["test_examples"]
        assert held.sum() == TEST
        assert clients["times_chosen"].sum() == 3 * 4
        assert clients["examples"].sum() == clients["label_counts"].sum() == TRAIN
    np.testing.assert_allclose(accuracy @ held / TEST, record.summary["test_accuracy"])


@pytest.fixture
def spoilt() -> Dataset:
    """One label that the model has no output for: whichever phone holds it fails in its own training code."""
    good = small_dataset()
    labels = good.train.labels.copy()
    labels[7] = 12
    return replace(good, train=Examples(inputs=good.train.inputs, labels=labels))


def test_a_failing_phone_stops_the_run_with_its_traceback(
    tmp_path: Path, spoilt: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_config(tmp_path / "run", federation={"cohort": 12})
    with pytest.raises(RunError, match=r"client \d+, round 1, train: "):
        run(config, dataset=spoilt)
    assert caplog.text.count("Traceback") == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "round 1, train: " in summary["reason"]


def test_a_failing_phone_can_be_gone_without(tmp_path: Path, spoilt: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    config = small_config(tmp_path / "run", federation={"cohort": 12, "on_client_failure": "continue"})
    record = run(config, dataset=spoilt)
    assert [row["failures"] for row in record.rounds] == [0, 1, 1, 1]
    assert record.rounds[1]["bytes_up"] == 11 * 4 * 585_958
    assert record.summary["failures"] == 3
    assert caplog.text.count("Traceback") == 1


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # Flower's own arithmetic
def test_a_model_that_is_no_longer_finite_stops_the_run(tmp_path: Path) -> None:
    strategy = {"name": "FedAvgM", "server_learning_rate": 1e39, "server_momentum": 0.0}
    config = small_config(tmp_path / "run", strategy=strategy)
    with pytest.raises(RunError, match=r"round 1: the model is no longer finite; lower the learning rate"):
        run(config, dataset=small_dataset())


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path: Path) -> None:
    record = run(small_config(tmp_path / "run"), dataset=small_dataset())
    before = (record.folder / "summary.json").read_bytes()
    with pytest.raises(ConfigError, match="holds a run already; choose another folder, or fedsim resume"):
        run(small_config(tmp_path / "run"), dataset=small_dataset())
    assert (record.folder / "summary.json").read_bytes() == before


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    record = run(small_config(tmp_path / "run"), dataset=small_dataset())
    with pytest.raises(ConfigError, match="this run has finished; there is nothing to resume"):
        resume(record.folder)


def test_a_folder_without_a_run_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run \(no config.json\)"):
        resume(tmp_path)


@pytest.mark.parametrize(
    ("speed", "line"),
    [
        (
            {"aggregation": "streamed"},
            "speed.aggregation = streamed: all phones must be simulated; allowed here: stacked",
        ),
        ({"cluster": "auto"}, "speed.cluster = auto: all phones must be simulated; leave it empty here"),
    ],
)
def test_real_phones_send_models_of_their_own(tmp_path: Path, speed: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        run(small_config(tmp_path / "run", speed=speed), inner=FederationGrid(arithmetic_phones(2)))
    assert not (tmp_path / "run").exists()
