"""Means, intervals and files of a study's table."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsim import results
from fedsim.study.plan import read_study
from fedsim.study.running import run_folder
from fedsim.study.table import estimate, read_rows, write_table, written


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12))
def test_the_interval_is_students(values: list[float]) -> None:
    found = estimate(values)
    assert found.half_width is not None
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.median == pytest.approx(np.median(values), abs=1e-9)
    scale = stats.sem(values)
    if scale > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=scale)
        assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), rel=1e-9)


def test_one_seed_has_no_interval_and_equal_seeds_none_to_speak_of() -> None:
    assert estimate([0.5]).half_width is None
    assert estimate([0.1, 0.1, 0.1]).half_width == 0
    assert written("test_accuracy", estimate([0.5])) == "50.00"
    assert written("privacy.epsilon", estimate([1.0, 2.0])) == "1.5 ± 6.353"
    assert written("test_loss", None) == "–"


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(5).normal(3.0, 2.0, (2000, 4))
    found = [estimate(row.tolist()) for row in drawn]
    held = np.mean([abs(one.mean - 3.0) <= (one.half_width or 0) for one in found])
    assert 0.935 < held < 0.965
    assert np.mean([abs(one.mean - 3.0) <= (one.half_width or 0) / 1.5 for one in found]) < 0.935


def test_the_table_holds_what_finished_runs_do(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        'title = "?"\nseeds = [0, 1, 2]\nnumbers = ["deep.number", "attacks.membership.quoted.1.rate"]\n'
        "[grid]\nfederation.cohort = [2, 4]\n"
    )
    study = read_study(path)
    for seed, accuracy in enumerate((0.5, 0.7)):
        folder = run_folder(tmp_path, study.cells[0], seed)
        summary = {"status": "finished", "test_accuracy": accuracy, "deep": {"number": seed}}
        results.write_json(folder / results.SUMMARY, summary)
        results.write_json(folder / results.CONFIG, {})
        results.write_json(folder / "attacks" / "membership.json", {"quoted": [{}, {"rate": 0.25}]})
    results.write_json(run_folder(tmp_path, study.cells[1], 0) / results.SUMMARY, {"status": "interrupted"})
    rows = read_rows(study, tmp_path)
    assert rows[0].estimates["test_accuracy"] == estimate([0.5, 0.7])
    assert rows[0].estimates["deep.number"] == estimate([0, 1])
    assert rows[0].estimates["attacks.membership.quoted.1.rate"].mean == 0.25
    assert rows[1].estimates == {}
    table = write_table(study, tmp_path, rows, {"abc": "no"})
    assert table["runs"] == 6
    assert table["runs_in_folder"] == 2
    read = json.loads((tmp_path / "table.json").read_text())
    assert read["cells"][0]["numbers"]["test_accuracy"]["n"] == 2
    with (tmp_path / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["federation.cohort"] for line in lines] == ["2", "4"]
    assert float(lines[0]["test_accuracy mean"]) == pytest.approx(0.6)
    assert lines[1]["test_accuracy n"] == "0"
