"""Attacks on run folders: what they write, that it can be had again, and what they refuse."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fedsim import run
from fedsim.attacking.attack import attack
from fedsim.attacking.finished import expected_updates, first_round, read_finished
from fedsim.attacks.view import summed
from fedsim.config import ConfigError
from fedsim.data.dataset import select
from tests.small import small_config, small_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clients of two shards each, of which some take part in none of two rounds."""
    folder = tmp_path_factory.mktemp("attacked") / "run"
    federation, data = {"clients": 24, "cohort": 4, "rounds": 2}, {"partition": "shards"}
    run(small_config(folder, federation=federation, data=data), dataset=small_dataset())
    return folder


def test_the_first_round_is_had_again_bit_for_bit(tmp_path: Path) -> None:
    """After one round of a plain mean, the last model is the first plus the mean of the updates."""
    config = small_config(tmp_path / "run", federation={"rounds": 1}, speed={"aggregation": "stacked"})
    run(config, dataset=small_dataset())
    found = read_finished(tmp_path / "run", small_dataset())
    view = first_round(found, select(small_dataset().test, slice(10)))
    mean = (view.weights + summed(view).updates[0] / len(view.clients)).astype(np.float32)
    np.testing.assert_allclose(mean, found.weights, atol=1e-6)
    able, expected = expected_updates(found, view.clients)
    assert able.tolist() == view.clients.tolist()
    assert not np.array_equal(expected, view.updates)
    assert np.abs(expected - view.updates).max() < 0.1


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
    assert found["clients"]["in round 1: each"]["area"] == 1.0
    page = (folder / "attacks" / "membership.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r'(?:src|href)="(?!#)', page)


def test_labels_are_told_from_each_update_and_not_from_the_sum(folder: Path) -> None:
    found = attack(folder, "properties", dataset=small_dataset())
    each, total, guessing = found["views"]["each update"], found["views"]["the sum"], found["guessing"]["cohort"]
    assert each["error"] < guessing / 2
    assert total["error"] > 0.9 * guessing
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
