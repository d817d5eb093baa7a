"""Malicious phones in whole runs: attacks that succeed where nothing stops them, defences that do, and controls."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import ConfigError, resume, run
from fedsim.data.partition import indices
from fedsim.federation import Federation, set_up, training_examples, training_shards
from fedsim.poisoning_settings import FLOAT32_MAX
from fedsim.recording import Row, RunError
from fedsim.simulation.engines import open_engine
from fedsim.simulation.grid import FederationGrid
from fedsim.simulation.poisoned import poisoned
from fedsim.updates import Orders
from tests.simulation import arithmetic_phones
from tests.tiny import CLIENTS, play, tiny_config, tiny_dataset

BACKDOOR: dict[str, Any] = {"attack": "backdoor", "fraction": 0.3}
REPLACEMENT: dict[str, Any] = {"attack": "backdoor", "fraction": 0.1, "boost": 10.0}
PAIR: dict[str, Any] = {"attack": "label_flip", "fraction": 0.4, "source": 1, "target": 2}
MEDIAN = {"name": "FedMedian"}
MULTI_KRUM = {"name": "MultiKrum", "num_malicious_nodes": 3, "num_nodes_to_select": 5}
GEOMETRIC = {"name": "GeometricMedian"}
CENTRED = {"name": "CentredClipping", "radius": 0.1, "iterations": 3}
CLIP = {"name": "NormClip", "clip": 0.2}


@pytest.mark.parametrize(
    ("attack", "defences"),
    [
        ({"attack": "sign_flip", "fraction": 0.3, "boost": 4.0}, [MEDIAN, MULTI_KRUM, GEOMETRIC]),
        ({"attack": "scaling", "fraction": 0.3, "boost": 100.0}, [MEDIAN, CLIP, CENTRED]),
        ({"attack": "little_is_enough", "fraction": 0.3, "z": 40.0}, [MEDIAN, CLIP, GEOMETRIC]),
        ({"attack": "inner_product", "fraction": 0.3, "boost": 4.0}, [MEDIAN, MULTI_KRUM]),
    ],
    ids=lambda value: value["attack"] if isinstance(value, dict) else "",
)
def test_what_ruins_the_mean_does_not_ruin_robust_ones(
    tmp_path: Path, attack: dict[str, Any], defences: list[dict[str, Any]]
) -> None:
    ruined, _ = play(tiny_config(tmp_path / "run", poisoning=attack))
    harmless, _ = play(tiny_config(tmp_path / "run", poisoning={**attack, "fraction": 0.0}))
    assert ruined < 0.6 < 0.98 < harmless
    for strategy in defences:
        defended, _ = play(tiny_config(tmp_path / "run", poisoning=attack, strategy=strategy))
        assert defended > 0.97, strategy


@pytest.mark.parametrize("strategy", [MEDIAN, CLIP, CENTRED, GEOMETRIC], ids=lambda value: value["name"])
def test_no_boost_is_too_much(tmp_path: Path, strategy: dict[str, Any]) -> None:
    """The largest there is leaves updates finite, or phones failed."""
    attack = {"attack": "scaling", "fraction": 0.3, "boost": FLOAT32_MAX}
    accuracy, _ = play(tiny_config(tmp_path / "run", poisoning=attack, strategy=strategy))
    assert accuracy > 0.97
    with pytest.raises(ConfigError, match=r"poisoning\.boost = 1e\+39"):
        tiny_config(tmp_path / "run", poisoning={**attack, "boost": 1e39})


def test_a_phone_that_sends_what_is_no_number_is_gone_without_or_named(tmp_path: Path) -> None:
    given, dataset = federation(tmp_path), tiny_dataset()
    inputs = dataset.train.inputs.astype(np.float32)
    inputs[indices(given.partition, 3)[0]] = np.nan
    broken = replace(dataset, train=replace(dataset.train, inputs=inputs))
    rounds = {"rounds": 2, "on_client_failure": "continue"}
    record = run(tiny_config(tmp_path / "goes on", strategy=GEOMETRIC, federation=rounds), dataset=broken)
    assert [row["failures"] for row in record.rounds] == [0, 1, 1]
    assert np.isfinite(record.weights).all()
    with pytest.raises(RunError, match="client 3, round 1, train: its model is not finite; a lower learning rate"):
        run(tiny_config(tmp_path / "stops", strategy=GEOMETRIC), dataset=broken)


@pytest.mark.parametrize(
    ("attack", "least", "defences"),
    [
        (BACKDOOR, 0.9, [MEDIAN, MULTI_KRUM]),
        (REPLACEMENT, 0.9, [MEDIAN, MULTI_KRUM, GEOMETRIC]),
        (PAIR, 0.5, [MEDIAN, GEOMETRIC]),
    ],
    ids=["backdoor", "model replacement", "label flip"],
)
def test_what_the_mean_is_taught_robust_ones_do_not_learn(
    tmp_path: Path, attack: dict[str, Any], least: float, defences: list[dict[str, Any]]
) -> None:
    _, success = play(tiny_config(tmp_path / "run", poisoning=attack))
    accuracy, chance = play(tiny_config(tmp_path / "run", poisoning={**attack, "fraction": 0.0}))
    assert chance < 0.02 < least < success
    assert accuracy > 0.98
    for strategy in defences:
        defended, learned = play(tiny_config(tmp_path / "run", poisoning=attack, strategy=strategy))
        assert learned < 0.06, strategy
        assert defended > 0.97, strategy


def federation(folder: Path, **tables: Any) -> Federation:
    return set_up(tiny_config(folder / "run", **tables), tiny_dataset())


@pytest.mark.parametrize("data", [{}, {"partition": "sampled", "examples_per_client": 60}], ids=["dealt", "drawn"])
def test_malicious_phones_hold_their_own_examples_changed_and_honest_ones_theirs(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    clean = federation(tmp_path, data=data)
    attacked = federation(tmp_path, data=data, poisoning={**BACKDOOR, "share": 0.6, "target": 3})
    clients, count = np.arange(CLIENTS), len(clean.dataset.train.labels)
    before, after = training_shards(clean, clients), training_shards(attacked, clients)
    np.testing.assert_array_equal(after.offsets, before.offsets)
    np.testing.assert_array_equal(after.order % count, before.order)
    examples = training_examples(attacked)
    assert len(attacked.malicious) == 3
    marked = 0.0
    for client in clients:
        mine, changed = indices(after, client), indices(after, client) >= count
        assert changed.any() == (client in attacked.malicious)
        assert (examples.labels[mine[changed]] == 3).all()
        assert (examples.inputs[mine[changed], :, -3:, -3:] == 255).all()
        np.testing.assert_array_equal(examples.labels[mine[~changed]], clean.dataset.train.labels[mine[~changed]])
        marked += changed.mean() / 3
    assert 0.45 < marked < 0.75
    np.testing.assert_array_equal(attacked.initial, clean.initial)


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_only_malicious_rows_are_forged(tmp_path: Path, engine: str) -> None:
    attack, speed = {"attack": "sign_flip", "fraction": 0.3, "boost": 2.0}, {"engine": engine, "workers": 1}
    given = federation(tmp_path, poisoning=attack, speed=speed)
    orders = Orders(round=1, clients=np.arange(CLIENTS), weights=given.initial, training=given.contract.training)
    with open_engine(given) as honest:
        trained, sent = honest.train(orders), poisoned(honest, given).train(orders)
    rows = np.isin(orders.clients, given.malicious)
    np.testing.assert_array_equal(sent.weights[~rows], trained.weights[~rows])
    for one, other in zip(sent.weights[rows], trained.weights[rows], strict=True):
        np.testing.assert_array_equal(one, orders.weights + np.float32(-2) * (other - orders.weights))


def test_an_attack_by_nobody_changes_no_bit(tmp_path: Path) -> None:
    rows: list[list[Row]] = []
    for name, tables in (("plain", {}), ("nobody", {"poisoning": {**BACKDOOR, "fraction": 0.0}})):
        record = run(tiny_config(tmp_path / name, **tables), dataset=tiny_dataset())
        rows.append(record.rounds)
    plain, nobody = rows
    assert all({key: row[key] for key in plain[0]} == first for first, row in zip(plain, nobody, strict=True))
    assert set(nobody[0]) - set(plain[0]) == {"malicious", "attack_success"}
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "nobody")]
    assert weights[0] == weights[1]
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("plain", "nobody")]
    assert "poisoning" not in summaries[0]
    assert summaries[1]["poisoning"] == {"malicious": 0, "attack_success": nobody[-1]["attack_success"]}


def test_a_run_says_how_far_its_colluders_go(tmp_path: Path) -> None:
    for fraction, z in ((0.2, 0.0), (0.4, 0.43)):
        attack = {"attack": "little_is_enough", "fraction": fraction}
        config = tiny_config(tmp_path / f"{fraction}", poisoning=attack, federation={"rounds": 2})
        rows = run(config, dataset=tiny_dataset()).rounds
        assert [row["z"] for row in rows] == [None, *[pytest.approx(z, abs=0.001)] * 2]


def test_an_attack_that_forges_is_aggregated_from_the_stack(tmp_path: Path) -> None:
    assert federation(tmp_path, poisoning={"attack": "scaling"}).config.speed.aggregation == "stacked"
    assert federation(tmp_path, poisoning={"attack": "label_flip"}).config.speed.aggregation == "streamed"


def test_a_poisoned_run_says_how_far_it_came_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """With centred clipping, whose centre is carried over the cut."""

    class PulledPlug(Exception):
        pass

    def stop(row: Row) -> None:
        if row["round"] == 3:
            raise PulledPlug

    tables = {"poisoning": REPLACEMENT, "strategy": {"name": "CentredClipping", "radius": 0.2}}
    whole = run(tiny_config(tmp_path / "whole", **tables), dataset=tiny_dataset())
    with pytest.raises(PulledPlug):
        run(tiny_config(tmp_path / "cut", **tables), dataset=tiny_dataset(), listen=stop)
    resumed = resume(tmp_path / "cut", dataset=tiny_dataset())
    for name in ("rounds.jsonl", "model.safetensors"):
        assert (whole.folder / name).read_bytes() == (resumed.folder / name).read_bytes()
    assert [row["malicious"] for row in whole.rounds] == [0, *[1] * 8]
    assert all(0 <= row["attack_success"] <= 1 for row in whole.rounds)
    assert whole.summary["poisoning"] == {"malicious": 1, "attack_success": whole.rounds[-1]["attack_success"]}
    assert 'id="poisoning"' in (whole.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("attack", "line"),
    [
        ({"attack": "backdoor", "target": 4}, "poisoning.target = 4: no test example of tiny has this label"),
        (
            {"attack": "label_flip", "source": 11, "target": 1},
            "poisoning.source = 11: no test example of tiny has this label",
        ),
        (
            {"attack": "backdoor", "size": 9},
            "poisoning.size = 9: the trigger must fit into an example, and these are [1, 8, 8]",
        ),
    ],
)
def test_an_attack_on_what_is_not_there_is_refused(tmp_path: Path, attack: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        federation(tmp_path, poisoning=attack)


def test_real_phones_are_not_poisoned(tmp_path: Path) -> None:
    line = "poisoning.attack = backdoor: all phones must be simulated; leave it out here"
    with pytest.raises(ConfigError, match=re.escape(line)):
        run(tiny_config(tmp_path / "run", poisoning=BACKDOOR), inner=FederationGrid(arithmetic_phones(2)))
