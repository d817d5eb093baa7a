"""Private runs from end to end: what is released, what it costs, and that nothing else changes it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from numpy.typing import NDArray

from fedsim import ConfigError, RunConfig, RunRecord, resume, run
from fedsim.data.dataset import Dataset
from fedsim.data.partition import indices
from fedsim.federation import set_up
from fedsim.recording import Row
from fedsim.strategy_settings import LINEAR
from tests.small import small_config, small_dataset

MECHANISMS: dict[str, dict[str, Any]] = {
    "central": {"noise_multiplier": 0.5},
    "central, fixed": {"noise_multiplier": 0.5, "sampling": "fixed"},
    "central, cyclic": {"noise_multiplier": 0.5, "sampling": "cyclic"},
    "local": {"mechanism": "local", "noise_multiplier": 0.5},
    "distributed": {"mechanism": "distributed", "noise_multiplier": 0.5, "sampling": "cyclic"},
    "matrix": {"mechanism": "matrix", "noise_multiplier": 0.5},
    "dp_sgd": {"mechanism": "dp_sgd", "noise_multiplier": 0.5, "clip": 1.0},
}


class PulledPlug(Exception):
    """Stands for whatever ended a run in the middle."""


def private_config(folder: Path, privacy: dict[str, Any], **tables: Any) -> RunConfig:
    return small_config(folder, model={"name": "lenet5"}, privacy=privacy, **tables)


def private_run(folder: Path, privacy: dict[str, Any], **tables: Any) -> RunRecord:
    return run(private_config(folder, privacy, **tables), dataset=small_dataset())


def same_rounds(one: Path, other: Path) -> bool:
    return (one / "rounds.jsonl").read_bytes() == (other / "rounds.jsonl").read_bytes()


OFTEN = ("central", "distributed", "dp_sgd")
"""Mechanisms whose runs are cut in every test run; the others, in the slow ones."""


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in MECHANISMS]
)
def test_a_private_run_depends_on_neither_workers_nor_cuts(tmp_path: Path, name: str) -> None:
    one = private_run(tmp_path / "one", MECHANISMS[name], speed={"workers": 1})
    two = private_run(tmp_path / "two", MECHANISMS[name], speed={"workers": 2})
    assert same_rounds(one.folder, two.folder)
    assert one.summary["model"] == two.summary["model"]

    def stop(row: Row) -> None:
        if row["round"] == 2:
            raise PulledPlug

    with pytest.raises(PulledPlug):
        run(private_config(tmp_path / "cut", MECHANISMS[name]), dataset=small_dataset(), listen=stop)
    record = resume(tmp_path / "cut", dataset=small_dataset())
    assert same_rounds(one.folder, record.folder)
    assert record.summary["model"] == one.summary["model"]


def test_an_adaptive_clip_survives_a_cut(tmp_path: Path) -> None:
    settings = {"noise_multiplier": 0.5, "clip_quantile": 0.5, "clip": 3.0}
    tables: dict[str, Any] = {"federation": {"clients": 100, "cohort": 50, "rounds": 4}}
    whole = private_run(tmp_path / "whole", settings, **tables)

    def stop(row: Row) -> None:
        if row["round"] == 2:
            raise PulledPlug

    with pytest.raises(PulledPlug):
        run(private_config(tmp_path / "cut", settings, **tables), dataset=small_dataset(), listen=stop)
    assert same_rounds(whole.folder, resume(tmp_path / "cut", dataset=small_dataset()).folder)
    clips = [row["privacy"]["clip"] for row in whole.rounds[1:]]
    assert len(set(clips)) == len(clips)


@pytest.mark.parametrize("name", ["central", "central, cyclic", "matrix"])
def test_streamed_and_stacked_release_the_same(tmp_path: Path, name: str) -> None:
    streamed, stacked = (
        private_run(tmp_path / way, MECHANISMS[name], speed={"aggregation": way}) for way in ("streamed", "stacked")
    )
    np.testing.assert_allclose(streamed.weights, stacked.weights, rtol=0, atol=2e-6)
    assert [row["clients"] for row in streamed.rounds] == [row["clients"] for row in stacked.rounds]


@pytest.mark.parametrize("name", LINEAR)
def test_every_linear_strategy_runs_privately(tmp_path: Path, name: str) -> None:
    record = private_run(tmp_path / "run", MECHANISMS["central"], strategy={"name": name})
    assert record.summary["status"] == "finished"
    assert np.isfinite(record.weights).all()
    assert record.summary["privacy"]["epsilon"] > 0


def still(folder: Path, privacy: dict[str, Any], rounds: int = 1) -> NDArray[np.float64]:
    """How far the model moves in a run whose phones do not learn: by noise alone."""
    config = private_config(folder, privacy, training={"learning_rate": 1e-30}, federation={"rounds": rounds})
    moved = run(config, dataset=small_dataset()).weights.astype(np.float64)
    return moved - set_up(config, small_dataset()).initial


@pytest.mark.parametrize(
    ("privacy", "deviation"),
    [
        ({"noise_multiplier": 2.0, "clip": 0.5}, 2.0 * 0.5 / 4),
        ({"noise_multiplier": 2.0, "clip": 0.5, "sampling": "cyclic"}, 2.0 * 0.5 / 4),
        ({"mechanism": "local", "noise_multiplier": 2.0, "clip": 0.5}, 2.0 * 0.5 / 2),  # four noises, over four phones
        ({"mechanism": "distributed", "noise_multiplier": 2.0, "clip": 0.5, "sampling": "cyclic"}, 2.0 * 0.5 / 4),
    ],
    ids=["central", "cyclic", "local", "distributed"],
)
def test_the_model_gets_the_noise_that_is_accounted(tmp_path: Path, privacy: dict[str, Any], deviation: float) -> None:
    move = still(tmp_path / "run", privacy)
    # 61,706 draws: a standard error of 0.3 %; rounding to whole numbers adds less than a per cent
    assert np.std(move) == pytest.approx(deviation, rel=0.015)
    assert abs(np.mean(move)) < 5 * deviation / np.sqrt(len(move))


def test_noise_adds_up_over_rounds_and_is_partly_taken_back_under_factorisation(tmp_path: Path) -> None:
    settings = {"noise_multiplier": 2.0, "clip": 0.5}
    independent = still(tmp_path / "independent", {**settings, "sampling": "cyclic"}, rounds=3)
    correlated = still(tmp_path / "correlated", {"mechanism": "matrix", **settings}, rounds=3)
    assert np.std(independent) == pytest.approx(np.sqrt(3) * 2.0 * 0.5 / 4, rel=0.015)
    assert np.std(correlated) < 0.9 * np.std(independent)


def test_an_empty_round_releases_noise_and_counts(tmp_path: Path) -> None:
    record = private_run(
        tmp_path / "run",
        {"noise_multiplier": 1.0, "delta": 1e-3},
        federation={"clients": 12, "cohort": 1, "rounds": 8},
    )
    empty = [row for row in record.rounds[1:] if not row["clients"]]
    assert empty
    assert all(row["privacy"]["epsilon"] > 0 and row["train_loss"] is None for row in empty)
    sizes = {len(row["clients"]) for row in record.rounds[1:]}
    assert len(sizes) > 1


def test_epsilon_is_that_of_dp_accounting(tmp_path: Path) -> None:
    record = private_run(tmp_path / "run", {"noise_multiplier": 0.9, "delta": 1e-4})
    for row in record.rounds[1:]:
        accountant = PLDAccountant()
        event = PoissonSampledDpEvent(4 / 12, GaussianDpEvent(0.9))
        exact = accountant.compose(SelfComposedDpEvent(event, row["round"])).get_epsilon(1e-4)
        assert exact - 1e-6 <= row["privacy"]["epsilon"] <= exact + 0.01
    assert record.summary["privacy"]["epsilon"] == pytest.approx(exact, abs=1e-6)


def test_a_budget_is_met_and_never_exceeded(tmp_path: Path) -> None:
    calibrated = private_run(tmp_path / "calibrated", {"epsilon": 5.0})
    assert calibrated.summary["privacy"]["epsilon"] == pytest.approx(5.0, rel=0.01)
    assert calibrated.summary["privacy"]["epsilon"] <= 5.0
    noise = calibrated.summary["privacy"]["noise_multiplier"]
    stopped = private_run(tmp_path / "stopped", {"epsilon": 5.0, "noise_multiplier": noise}, federation={"rounds": 30})
    assert stopped.summary["rounds"] == 3
    assert stopped.summary["privacy"]["rounds_asked"] == 30
    (tmp_path / "stopped" / "summary.json").write_text('{"status": "interrupted"}')
    assert resume(tmp_path / "stopped", dataset=small_dataset()).summary["privacy"] == stopped.summary["privacy"]
    with pytest.raises(ConfigError, match=r"does not allow one round"):
        private_run(tmp_path / "none", {"epsilon": 0.01, "noise_multiplier": 0.5})


def test_noise_that_would_be_another_is_not_resumed_with(tmp_path: Path) -> None:
    private_run(tmp_path / "run", {"noise_multiplier": 0.5})
    (tmp_path / "run" / "summary.json").write_text('{"status": "interrupted"}')
    inputs = json.loads((tmp_path / "run" / "inputs.json").read_text())
    (tmp_path / "run" / "inputs.json").write_text(json.dumps(inputs | {"noise": "another"}))
    with pytest.raises(ConfigError, match="the noise are not those this run began with"):
        resume(tmp_path / "run", dataset=small_dataset())


@pytest.mark.parametrize("name", ["local", "dp_sgd"])
def test_phones_that_add_noise_themselves_send_no_losses(tmp_path: Path, name: str) -> None:
    assert {row["train_loss"] for row in private_run(tmp_path / "run", MECHANISMS[name]).rounds} == {None}


def with_a_bad_phone(dataset: Dataset, config: RunConfig) -> Dataset:
    """The same data, but that one example of one phone is not a number: its training diverges."""
    inputs = dataset.train.inputs.astype(np.float32) / 255
    inputs[indices(set_up(config, dataset).partition, 3)[0]] = np.nan
    test = replace(dataset.test, inputs=dataset.test.inputs.astype(np.float32) / 255)
    return replace(dataset, train=replace(dataset.train, inputs=inputs), test=test)


@pytest.mark.parametrize("mechanism", ["central", "local", "distributed", "matrix"])
def test_a_phone_that_diverges_counts_as_zero(tmp_path: Path, mechanism: str) -> None:
    config = private_config(
        tmp_path / "run",
        {"mechanism": mechanism, "noise_multiplier": 0.5, **({"sampling": "cyclic"} if mechanism != "matrix" else {})},
        federation={"cohort": 12, "on_client_failure": "continue"},
    )
    record = run(config, dataset=with_a_bad_phone(small_dataset(), config))
    assert np.isfinite(record.weights).all()
    told = 0 if mechanism == "local" else 1  # what a phone sends by itself hides that it diverged
    assert [row["failures"] for row in record.rounds[1:]] == [told] * 3
    assert all(row["privacy"].get("opened", True) for row in record.rounds[1:])


def test_the_folder_states_what_an_epsilon_means(tmp_path: Path) -> None:
    record = private_run(tmp_path / "run", {"epsilon": 8.0})
    said = json.loads((record.folder / "privacy.json").read_text())
    assert said.items() <= record.summary["privacy"].items()
    assert said["unit"].startswith("one client")
    assert said["adjacency"] == "add or remove one client"
    assert said["sampling"].startswith("every client by its own coin, q = 0.3333")
    assert "dp-accounting" in said["accountant"]
    assert said["delta"] == 1e-5
    assert any("losses" in item for item in said["not_covered"])


def test_without_noise_nothing_is_promised(tmp_path: Path) -> None:
    record = private_run(tmp_path / "run", {"noise_multiplier": 0})
    assert record.summary["privacy"]["epsilon"] is None
