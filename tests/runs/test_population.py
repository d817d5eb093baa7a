"""A million phones: a run of a population too large to deal to, and what it leaves behind."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import ConfigError, resume, run
from fedsim.config import from_mapping
from fedsim.federation import PANEL
from fedsim.recording import Row
from tests.small import TEST, small_config, small_dataset

MILLION: dict[str, Any] = {
    "federation": {"clients": 1_000_000, "cohort": 40, "rounds": 2},
    "data": {"partition": "sampled", "examples_per_client": 5, "classes_per_client": 2},
}


def test_a_million_phones(tmp_path: Path) -> None:
    config = small_config(tmp_path / "run", **MILLION, baselines={"central": True, "local_only": 2})
    record = run(config, dataset=small_dataset())
    for row in record.rounds[1:]:
        assert len(set(row["clients"])) == 40
        assert max(row["clients"]) > 100_000
        assert row["examples"] == 200
    with np.load(record.folder / "clients.npz") as clients:
        assert clients["population"] == 1_000_000
        assert clients["label_counts"].shape == (PANEL, 10)
        assert ((clients["label_counts"] > 0).sum(axis=1) <= 2).all()
        assert clients["test_examples"].sum() == TEST
    page = re.sub(r"\s+", " ", (record.folder / "report.html").read_text())
    assert "of the first 1,000 of 1,000,000; all draw alike" in page
    assert "Over the first of 1,000,000 clients: 1,000" in page
    assert not (record.folder / "partition.npz").exists()


def test_workers_and_a_cut_change_nothing(tmp_path: Path) -> None:
    def stop(row: Row) -> None:
        if row["round"] == 1:
            raise KeyError

    whole = run(small_config(tmp_path / "whole", **MILLION, speed={"workers": 1}), dataset=small_dataset())
    with pytest.raises(KeyError):
        run(small_config(tmp_path / "cut", **MILLION, speed={"workers": 3}), dataset=small_dataset(), listen=stop)
    resume(tmp_path / "cut", dataset=small_dataset())
    for name in ("rounds.jsonl", "model.safetensors"):
        assert (whole.folder / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_both_engines_give_phones_the_same_examples(tmp_path: Path) -> None:
    losses: list[list[float]] = []
    for engine in ("native", "torch"):
        record = run(small_config(tmp_path / engine, **MILLION, speed={"engine": engine}), dataset=small_dataset())
        losses.append([row["test_loss"] for row in record.rounds])
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.01)


def test_settings_are_resolved_and_belong_to_this_scheme(tmp_path: Path) -> None:
    config = small_config(tmp_path / "run", data={"partition": "sampled"}, federation={"rounds": 1})
    record = run(config, dataset=small_dataset())
    assert json.loads((record.folder / "config.json").read_text())["data"]["examples_per_client"] == 60
    with pytest.raises(ConfigError, match=r"data.examples_per_client = 9: belongs to data.partition = sampled"):
        from_mapping({"data": {"examples_per_client": 9}})
    with pytest.raises(ConfigError, match=r"data.classes_per_client = 11: allowed are 1 to 10, the classes"):
        run(
            small_config(tmp_path / "x", data={"partition": "sampled", "classes_per_client": 11}),
            dataset=small_dataset(),
        )
