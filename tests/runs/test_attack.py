"""Attacks on run folders: what they write, that it can be had again, and what they refuse."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import results, run
from fedsim.attacking.attack import attack
from fedsim.attacking.finished import FinishedRun, read_finished
from fedsim.attacking.first_round import expected_updates, first_round
from fedsim.attacking.membership import _pool, client_scores
from fedsim.attacks.roc import figures
from fedsim.config import ConfigError
from fedsim.data.dataset import Dataset, select
from fedsim.privacy import clipping
from fedsim.privacy.plan import draw
from fedsim.privacy.sampling import poisson
from fedsim.privacy_settings import Central
from fedsim.seeds import generator
from tests.small import small_config, small_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clients of two shards each, of which some take part in none of two rounds."""
    folder = tmp_path_factory.mktemp("attacked") / "run"
    federation, data = {"clients": 24, "cohort": 4, "rounds": 2}, {"partition": "shards"}
    run(small_config(folder, federation=federation, data=data), dataset=small_dataset())
    return folder


PUBLIC = select(small_dataset().test, slice(10))
STRONG = {"name": "FedProx", "proximal_mu": 10.0}
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
    """After one round of a mean weighted by examples, the model has moved by that mean of the updates."""
    unequal = {"partition": "quantity", "alpha": 0.5, "min_examples": 2}
    training = {"epochs": 3, "weight_decay": 0.01}
    found = one_round(
        tmp_path / "run", speed={"aggregation": aggregation}, strategy=STRONG, data=unequal, training=training
    )
    views = first_round(found, PUBLIC)
    assert list(views) == ["each", "sum", "model"]
    each, total = views["each"].view, views["sum"].view
    assert (each.training.proximal_mu, each.training.weight_decay) == (10, 0.01)
    np.testing.assert_allclose(total.updates[0], each.updates.mean(axis=0), atol=1e-6)
    weighted = np.average(each.updates, axis=0, weights=each.examples)
    np.testing.assert_allclose(weighted, views["model"].view.updates[0], atol=1e-6)
    np.testing.assert_array_equal(views["model"].view.updates[0], found.weights - each.weights)
    clients = views["each"].clients
    able, expected = expected_updates(found, each.training, clients)
    assert able.tolist() == clients.tolist()
    assert not np.array_equal(expected, each.updates)
    assert np.linalg.norm(expected - each.updates) < np.linalg.norm(each.updates)


@pytest.mark.parametrize("name", ["FedAdam", "Krum"])
def test_an_open_round_releases_what_its_strategy_made(tmp_path: Path, name: str) -> None:
    found = one_round(tmp_path / "run", strategy={"name": name})
    views = first_round(found, PUBLIC)
    np.testing.assert_array_equal(views["model"].view.updates[0], found.weights - found.federation.initial)
    assert [seen.held for seen in views.values()] == [True, False, True]


@pytest.mark.parametrize("name", PRIVATE)
def test_what_a_private_round_releases_is_the_runs_own(tmp_path: Path, name: str) -> None:
    privacy = {"noise_multiplier": 2.0, "clip": 0.1, **PRIVATE[name]}
    found = one_round(tmp_path / "run", privacy=privacy, strategy=STRONG)
    views = first_round(found, PUBLIC)
    plan, moved = found.federation.plan, found.weights - found.federation.initial
    assert plan is not None
    assert views["sum"].clients.tolist() == draw(plan, 1).tolist()
    each = views["each"].view.updates.astype(np.float64)
    if name in ("local", "dp_sgd"):
        assert list(views) == ["each", "sum", "model"]
        np.testing.assert_array_equal(views["model"].view.updates[0], moved)
        np.testing.assert_allclose(views["sum"].view.updates[0], each.mean(axis=0), atol=1e-6)
        assert [seen.held for seen in views.values()] == [True, False, True]
    else:
        np.testing.assert_array_equal(views["noised sum"].view.updates[0], moved)
        clipped, _ = clipping.clip(each, 0.1)
        np.testing.assert_allclose(views["sum"].view.updates[0], clipped.mean(axis=0), atol=1e-6)
        assert [seen.held for seen in views.values()] == [False, False, True]
    if name == "local":
        assert np.std(each) == pytest.approx(0.2, rel=0.01)


def test_what_is_released_does_not_tell_how_many_came(tmp_path: Path) -> None:
    """Under Poisson sampling that is the run's secret, and so is how much they hold."""
    seed = next(seed for seed in range(99) if len(poisson(seed, 1, 12, 4)) == 6)
    unequal = {"partition": "quantity", "alpha": 0.5, "min_examples": 2}
    config = small_config(
        tmp_path / "run",
        model={"name": "lenet5"},
        federation={"rounds": 1},
        data=unequal,
        privacy={"noise_multiplier": 0.0},
    )
    run(config.model_copy(update={"seed": seed}), dataset=small_dataset())
    views = first_round(read_finished(tmp_path / "run", small_dataset()), PUBLIC)
    assert len(views["sum"].clients) == 6
    total, released = views["sum"].view, views["noised sum"].view
    np.testing.assert_allclose(released.updates, total.updates * 6 / 4, atol=1e-6)
    assert released.examples.tolist() == [480 / 12] != total.examples.tolist()


def test_a_first_round_of_nobody_is_refused(tmp_path: Path) -> None:
    """Under Poisson sampling of an expected phone of 12 every third round is empty."""
    seed = next(seed for seed in range(99) if not len(poisson(seed, 1, 12, 1)))
    tables: dict[str, Any] = {"model": {"name": "lenet5"}, "federation": {"rounds": 1, "cohort": 1}}
    config = small_config(tmp_path / "run", privacy={"noise_multiplier": 2.0}, **tables)
    run(config.model_copy(update={"seed": seed}), dataset=small_dataset())
    with pytest.raises(ConfigError, match="nobody took part in round 1"):
        attack(tmp_path / "run", "inversion", dataset=small_dataset())


def inverted(folder: Path, cohort: int, **tables: Any) -> dict[str, Any]:
    """Inversion of a round in which each phone trains on one image."""
    mnist = small_dataset()
    dataset = Dataset(name="tiny", train=select(mnist.train, slice(12)), test=mnist.test, classes=10)
    tables = {"model": {"name": "lenet5"}, "federation": {"rounds": 1, "cohort": cohort}, **tables}
    run(small_config(folder, **tables), dataset=dataset)
    found = attack(folder, "inversion", dataset=dataset)
    assert found["psnr_each"] >= 25
    assert found["psnr_control"] >= 25
    assert found["labels_control"] == 1
    return found


@pytest.mark.slow
def test_inversion_of_what_a_private_round_releases_finds_nothing(tmp_path: Path) -> None:
    """And what the server has of it that the run trusts is found, though a phone takes five steps."""
    private = {"noise_multiplier": 1.0, "sampling": "fixed"}
    found = inverted(tmp_path / "run", 1, privacy=private, training={"epochs": 5})
    assert found["psnr_released"] < found["psnr_blank"]
    assert found["ssim_released"] < 0.2
    assert [seen["held"] for seen in found["views"].values()] == [False, False, True]
    page = (tmp_path / "run" / "attacks" / "inversion.html").read_text()
    assert page.count("<image") == 5
    assert not re.search(r'(?:src|href)="(?!#|data:image/png;base64,)', page)


@pytest.mark.slow
def test_inversion_of_an_open_round_finds_its_images(tmp_path: Path) -> None:
    """One step each, so what the strategy makes of two phones is one step on both of their images."""
    found = inverted(tmp_path / "run", 2)
    assert found["psnr_sum"] >= 20
    assert found["psnr_released"] >= 20
    assert [seen["held"] for seen in found["views"].values()] == [True, False, True]


@pytest.mark.slow
def test_inversion_undoes_the_open_cells_of_the_study(tmp_path: Path) -> None:
    """Phones of four digits, of which some are of one label, train for five epochs in one batch."""
    federation = {"clients": 500, "cohort": 4, "rounds": 1}
    training = {"epochs": 5, "batch_size": 4, "learning_rate": 0.1, "momentum": 0.0}
    data = {"partition": "sampled", "examples_per_client": 4}
    tables = {"model": {"name": "lenet5"}, "federation": federation, "data": data, "training": training}
    run(small_config(tmp_path / "run", **tables), dataset=small_dataset())
    found = attack(tmp_path / "run", "inversion", dataset=small_dataset())
    assert found["psnr_each"] >= 30
    assert found["labels_each"] == 1
    assert found["psnr_released"] < found["psnr_blank"] + 3


@pytest.mark.slow
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
    for one in found["examples"].values():
        assert one["members"] == 20 * len(chosen)
        assert one["non_members"] == one["members"]
        assert [quoted["rate"] is None for quoted in one["quoted"]] == [True, False, False]
    assert found["clients"]["in the federation: loss"]["members"] == len(chosen)
    assert found["client_auc_each"] == found["clients"]["in round 1: each update"]["area"] == 1.0
    assert found["client_auc_released"] == found["clients"]["in round 1: the next model"]["area"]
    assert found["auc"] == found["examples"]["LiRA online"]["area"]
    assert found["control_auc"] == found["control"]["LiRA online"]["area"]
    assert found["tpr_at_1_percent"] == found["examples"]["LiRA online"]["quoted"][1]["rate"]
    assert "non-members are training examples" in found["assumed"]
    page = (folder / "attacks" / "membership.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r'(?:src|href)="(?!#)', page)


def test_non_members_are_test_examples_where_phones_hold_most_of_the_training_set(tmp_path: Path) -> None:
    found = one_round(tmp_path / "run", federation={"clients": 24, "cohort": 20, "rounds": 1})
    pool, members, population, source = _pool(found, generator(0, "attack"))
    assert source == "test"
    assert (members.sum(), (~members).sum(), len(population)) == (400, 180, 20)
    rest = [image.tobytes() for image in small_dataset().test.inputs]
    own = sorted(rest.index(image.tobytes()) for image in pool.inputs[~members])
    assert sorted([*own, *population.tolist()]) == list(range(200))


def test_clients_of_a_round_larger_than_is_shown_are_told(tmp_path: Path) -> None:
    """Who was drawn but is not among the first hundred is asked about in no view."""
    data = {"partition": "sampled", "examples_per_client": 4}
    found = one_round(tmp_path / "run", federation={"clients": 300, "cohort": 150, "rounds": 1}, data=data)
    asked = client_scores(found, first_round(found, PUBLIC))
    each = figures(*asked["in round 1: each update"])
    assert (each.members, each.non_members) == (100, 100)
    assert each.area > 0.99


def test_labels_are_told_from_each_update_and_not_from_the_sum(folder: Path) -> None:
    found = attack(folder, "properties", dataset=small_dataset())
    assert found["l1_each"] < found["l1_chance"] / 2
    assert found["l1_sum"] > 0.9 * found["l1_chance"]
    assert found["l1_released"] > 0.9 * found["l1_chance"]
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


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def listed(path: Path) -> None:
    path.write_text("[1]")


DAMAGED: list[tuple[str, Callable[[Path], None], str]] = [
    ("config.json", listed, "is damaged"),
    ("summary.json", cut, "is damaged"),
    ("summary.json", listed, "is damaged"),
    ("inputs.json", cut, "is damaged"),
    ("rounds.jsonl", Path.unlink, "cannot be read (No such file or directory)"),
    ("rounds.jsonl", cut, "is damaged (not one row for each round from 0 to 2)"),
    ("model.mlmodel", Path.unlink, "cannot be read (No such file or directory)"),
    ("model.mlmodel", cut, "is damaged"),
    ("attacks", Path.touch, "cannot be written (File exists)"),
]


@pytest.mark.parametrize(("name", "damage", "line"), DAMAGED)
def test_a_damaged_folder_is_refused_in_a_line(
    folder: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], line: str
) -> None:
    damaged = tmp_path / "run"
    shutil.copytree(folder, damaged, ignore=shutil.ignore_patterns("attacks"))
    damage(damaged / name)
    with pytest.raises(ConfigError, match=re.escape(f"{damaged / name}: {line}")) as refused:
        attack(damaged, "properties", dataset=small_dataset())
    assert "\n" not in str(refused.value)
