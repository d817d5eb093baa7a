"""Reading a run folder."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedsim.report.folder import column, read_run_folder
from fedsim.report.spread import worst_tenth
from tests.report.synthetic import read_lines, write_run


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path, rounds=3)
    path = folder / "rounds.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]), 7):
        path.write_bytes(whole[: -1 - cut])
        assert [record["round"] for record in read_run_folder(folder).rounds] == [0, 1, 2]


def test_reads_what_was_written(finished: Path) -> None:
    run = read_run_folder(finished)
    assert run.rounds == read_lines(finished / "rounds.jsonl")
    assert run.status == "finished"
    assert run.missing == []
    assert run.models == {"model.safetensors": 2_344_200, "model.mlmodel": 2_345_678}
    assert set(run.clients) == {"label_counts", "examples", "test_examples", "accuracy", "times_chosen"}


def test_column_marks_what_is_absent() -> None:
    records = [{"a": {"b": 1}}, {"a": {"b": None}}, {"a": None}, {}, {"a": {"b": 0.5}}]
    assert column(records, "a", "b") == pytest.approx([1, np.nan, np.nan, np.nan, 0.5], nan_ok=True)
    assert column([], "a").shape == (0,)


@given(arrays.arrays(np.float64, st.integers(0, 45), elements=st.sampled_from([np.nan, 0.0, 0.25, 0.5, 1.0])))
def test_the_lowest_tenth_is_the_lowest(accuracy: np.ndarray) -> None:
    worst = worst_tenth(accuracy)
    measured = [(value, client) for client, value in enumerate(accuracy.tolist()) if value == value]
    size = max(1, len(measured) // 10) if measured else 0
    assert worst.tolist() == [client for _, client in sorted(measured)[:size]]
