"""Attacks on run folders: what they write, that it can be had again, and what they refuse."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import results, run
from fedsim.attacking.attack import attack
from fedsim.attacking.finished import FinishedRun, expected_updates, first_round, read_finished
from fedsim.attacks.disclosure import disclosed
from fedsim.attacks.view import summed
from fedsim.config import ConfigError
from fedsim.data.dataset import Dataset, select
from fedsim.privacy.plan import draw
from fedsim.privacy.sampling import poisson
from fedsim.privacy_settings import Central
from tests.small import small_config, small_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clients of two shards each, of which some take part in none of two rounds."""
    folder = tmp_path_factory.mktemp("attacked") / "run"
    federation, data = {"clients": 24, "cohort": 4, "rounds": 2}, {"partition": "shards"}
    run(small_config(folder, federation=federation, data=data), dataset=small_dataset())
    return folder


PUBLIC = select(small_dataset().test, slice(10))
PRIVATE: dict[str, dict[str, Any]] = {
    "central": {"sampling": "cyclic"},
    "matrix": {"mechanism": "matrix"},
    "local": {"mechanism": "local"},
    "distributed": {"mechanism": "distributed", "sampling": "cyclic"},
    "dp_sgd": {"mechanism": "dp_sgd", "clip": 1.0},
}


def one_round(folder: Path, **tables: Any) -> FinishedRun:
    """A run of one round on a small LeNet-5, as its attackers find it."""
    tables = {"model": {"name": "lenet5"}, "federation": {"rounds": 1}, **tables}
    run(small_config(folder, **tables), dataset=small_dataset())
    return read_finished(folder, small_dataset())


@pytest.mark.parametrize("aggregation", ["stacked", "streamed"])
def test_the_first_round_is_had_again(tmp_path: Path, aggregation: str) -> None:
    """After one round of a plain mean, the last model is the first plus the mean of the updates."""
    found = one_round(tmp_path / "run", speed={"aggregation": aggregation})
    views = first_round(found, PUBLIC)
    assert list(views) == ["each", "sum"]
    each, total = views["each"].view, views["sum"].view
    np.testing.assert_allclose(total.updates, summed(each).updates, atol=1e-6)
    mean = each.weights + total.updates[0] / len(each.clients)
    np.testing.assert_allclose(mean, found.weights, atol=1e-6)
    able, expected = expected_updates(found, each.clients)
    assert able.tolist() == each.clients.tolist()
    assert not np.array_equal(expected, each.updates)
    assert np.abs(expected - each.updates).max() < 0.1


@pytest.mark.parametrize("name", PRIVATE)
def test_what_a_private_round_releases_is_the_runs_own(tmp_path: Path, name: str) -> None:
    found = one_round(tmp_path / "run", privacy={"noise_multiplier": 2.0, "clip": 0.1, **PRIVATE[name]})
    views = first_round(found, PUBLIC)
    plan, moved = found.federation.plan, found.weights - found.federation.initial
    assert plan is not None
    assert views["sum"].view.clients.tolist() == draw(plan, 1).tolist()
    each = views["each"].view.updates.astype(np.float64)
    if name in ("local", "dp_sgd"):
        assert list(views) == ["each", "sum"]
        np.testing.assert_allclose(views["sum"].view.updates[0] / 4, moved, atol=1e-6)
        np.testing.assert_allclose(views["sum"].view.updates[0], each.sum(axis=0), atol=1e-5)
        assert all(seen.held for seen in views.values())
    else:
        np.testing.assert_array_equal(views["noised sum"].view.updates[0], moved * 4)
        clipped = disclosed(each, "sum", clip=0.1)
        np.testing.assert_allclose(views["sum"].view.updates, clipped, atol=1e-6)
        assert [seen.held for seen in views.values()] == [False, False, True]
    if name == "local":
        assert np.std(each) == pytest.approx(0.2, rel=0.01)


def test_a_first_round_of_nobody_is_refused(tmp_path: Path) -> None:
    """Under Poisson sampling of an expected phone of 12 every third round is empty."""
    seed = next(seed for seed in range(99) if not len(poisson(seed, 1, 12, 1)))
    tables: dict[str, Any] = {"model": {"name": "lenet5"}, "federation": {"rounds": 1, "cohort": 1}}
    config = small_config(tmp_path / "run", privacy={"noise_multiplier": 2.0}, **tables)
    run(config.model_copy(update={"seed": seed}), dataset=small_dataset())
    with pytest.raises(ConfigError, match="nobody into round 1"):
        attack(tmp_path / "run", "inversion", dataset=small_dataset())


def inverted(folder: Path, cohort: int, **tables: Any) -> dict[str, Any]:
    """Inversion of a round in which phones take one step on one image: the attack's best case is the run's own."""
    mnist = small_dataset()
    dataset = Dataset(name="tiny", train=select(mnist.train, slice(12)), test=mnist.test, classes=10)
    tables = {"model": {"name": "lenet5"}, "federation": {"rounds": 1, "cohort": cohort}, **tables}
    run(small_config(folder, **tables), dataset=dataset)
    found = attack(folder, "inversion", dataset=dataset)
    assert found["psnr_each"] >= 25
    assert found["psnr_control"] >= 25
    assert found["psnr_sum"] >= 20
    assert found["labels_control"] == 1
    return found


def test_inversion_of_what_a_private_round_releases_finds_nothing(tmp_path: Path) -> None:
    found = inverted(tmp_path / "run", 1, privacy={"noise_multiplier": 1.0, "sampling": "fixed"})
    assert found["psnr_released"] < found["psnr_blank"]
    assert found["ssim_released"] < 0.2
    assert [seen["held"] for seen in found["views"].values()] == [False, False, True]
    page = (tmp_path / "run" / "attacks" / "inversion.html").read_text()
    assert page.count("<image") == 5
    assert not re.search(r'(?:src|href)="(?!#|data:image/png;base64,)', page)


@pytest.mark.slow
def test_inversion_of_an_open_round_finds_its_images(tmp_path: Path) -> None:
    found = inverted(tmp_path / "run", 2)
    assert found["psnr_released"] == found["psnr_sum"]
    assert [seen["held"] for seen in found["views"].values()] == [True, True]


def test_strong_noise_leaves_nothing_in_what_is_released(folder: Path, tmp_path: Path) -> None:
    config = results.read_config(folder)
    noisy = {"privacy": Central(noise_multiplier=5.0, sampling="fixed")}
    output = config.output.model_copy(update={"folder": str(tmp_path / "run")})
    run(config.model_copy(update={**noisy, "output": output}), dataset=small_dataset())
    members, labels = (attack(tmp_path / "run", kind, dataset=small_dataset()) for kind in ("membership", "properties"))
    assert members["client_auc_each"] == 1.0
    assert abs(members["client_auc_released"] - 0.5) < 0.35  # of 4 clients and 20 others: two standard errors
    assert labels["l1_each"] < labels["l1_chance"] / 2
    assert labels["l1_released"] > 0.9 * labels["l1_chance"]


def test_membership_is_asked_of_examples_and_of_clients(folder: Path) -> None:
    found = attack(folder, "membership", dataset=small_dataset())
    written = json.loads((folder / "attacks" / "membership.json").read_text())
    assert written["examples"] == json.loads(json.dumps(found["examples"]))
    assert set(found["examples"]) == set(found["control"])
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    chosen = {client for row in rows for client in row["clients"]}
    for figures in found["examples"].values():
        assert figures["members"] == 20 * len(chosen)
        assert figures["non_members"] == 180
        assert [quoted["rate"] is None for quoted in figures["quoted"]] == [True, False, False]
    assert found["clients"]["in the federation: loss"]["members"] == len(chosen)
    assert found["client_auc_each"] == found["clients"]["in round 1: each update"]["area"] == 1.0
    assert found["client_auc_released"] == found["client_auc_sum"]
    assert found["auc"] == max(figures["area"] for figures in found["examples"].values())
    assert found["tpr_at_1_percent"] in [figures["quoted"][1]["rate"] for figures in found["examples"].values()]
    page = (folder / "attacks" / "membership.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r'(?:src|href)="(?!#)', page)


def test_labels_are_told_from_each_update_and_not_from_the_sum(folder: Path) -> None:
    found = attack(folder, "properties", dataset=small_dataset())
    assert found["l1_each"] < found["l1_chance"] / 2
    assert found["l1_sum"] > 0.9 * found["l1_chance"]
    assert found["l1_released"] == found["l1_sum"]
    assert (folder / "attacks" / "properties.html").read_text().count("<svg") == 1
    again = attack(folder, "properties", dataset=small_dataset())
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_what_cannot_be_attacked_is_refused(folder: Path, tmp_path: Path) -> None:
    for where, kind, line in [
        (folder, "telepathy", "attack = telepathy: allowed are membership, "),
        (tmp_path, "membership", f"{tmp_path}: holds no run"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(line)):
            attack(where, kind, dataset=small_dataset())
    other = small_dataset()
    swapped = type(other)(name=other.name, train=other.test, test=other.train, classes=other.classes)
    with pytest.raises(ConfigError, match="not the data that this run trained on"):
        attack(folder, "membership", dataset=swapped)
    adam = small_config(tmp_path / "adam", federation={"rounds": 1}, training={"optimizer": "adam"})
    run(adam, dataset=small_dataset())
    with pytest.raises(ConfigError, match="labels are read off SGD's updates only"):
        attack(tmp_path / "adam", "properties", dataset=small_dataset())
    (tmp_path / "adam" / "summary.json").write_text('{"status": "interrupted"}')
    with pytest.raises(ConfigError, match="this run is interrupted; only a finished one"):
        attack(tmp_path / "adam", "properties", dataset=small_dataset())
