"""Runs that did not finish, and folders that lack files, get pages that say so."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.report.reading import Page, assert_self_contained, report, text_of, values_of
from tests.report.synthetic import read_lines, write_json, write_lines, write_run

EXPECTED = ("environment.json", "rounds.jsonl", "timings.jsonl", "summary.json", "clients.npz")


def test_a_run_that_was_killed_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    write_json(folder / "summary.json", {"status": "running"})
    for name in ("baselines.json", "comparison.json", "model.safetensors", "model.mlmodel"):
        (folder / name).unlink()
    lines = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_text("".join(lines[:8]) + lines[8][:40])
    page = report(folder)
    assert page.notices() == [
        "This run has not finished: it is still going, or was killed. Rounds recorded: 7 of 20.",
        "Central training was asked for as a baseline, and has not been recorded.",
        "Phones that train alone were asked for as a baseline, and have not been recorded.",
    ]
    assert text_of(page.find(".//p[@class='lead']")).startswith("After 7 of 20 rounds of FedAvg")
    assert "No model has been written." in page.text
    assert len(page.table("Round by round")) == 8


@pytest.mark.parametrize(
    ("summary", "notice"),
    [
        (
            {"status": "interrupted", "reason": "KeyboardInterrupt"},
            "This run did not finish: it was interrupted (KeyboardInterrupt). Rounds recorded: 20 of 20.",
        ),
        (
            {"status": "failed", "reason": "client 7 has <no> examples"},
            "This run did not finish: it failed (client 7 has <no> examples). Rounds recorded: 20 of 20.",
        ),
        ({"status": "failed"}, "This run did not finish: it failed. Rounds recorded: 20 of 20."),
    ],
)
def test_a_run_that_stopped_says_why(tmp_path: Path, summary: dict[str, Any], notice: str) -> None:
    folder = write_run(tmp_path)
    write_json(folder / "summary.json", summary)
    assert report(folder).notices() == [notice]


def test_a_run_stopped_before_its_first_round_has_a_page(tmp_path: Path) -> None:
    full = write_run(tmp_path / "full")
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(full / "config.json", folder)
    page = report(folder)
    assert page.notices()[1] == (
        "Not in the run folder, so not on this page: environment.json, rounds.jsonl, timings.jsonl, summary.json, "
        "clients.npz."
    )
    assert text_of(page.find(".//p[@class='lead']")) == "No test accuracy has been recorded."
    assert not list(page.root.iter("figure"))
    for sentence in ("No round has been recorded.", "The partition has not been recorded.", "No time has been"):
        assert sentence in page.text
    assert_self_contained(page)


@pytest.mark.parametrize(
    "name",
    [*EXPECTED, "baselines.json", "comparison.json", "model.safetensors", "model.mlmodel"],
)
def test_any_file_but_the_config_may_be_missing(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path)
    (folder / name).unlink()
    page = report(folder)
    assert (f"Not in the run folder, so not on this page: {name}." in page.notices()) == (name in EXPECTED)


def test_a_run_with_label_counts_only_and_one_round(tmp_path: Path, page: Page) -> None:
    folder = write_run(tmp_path, clients=3, cohort=1, rounds=1)
    np.savez(folder / "clients.npz", label_counts=np.array([[5, 0], [0, 7], [0, 0]]))
    bare = report(folder)
    assert bare.sections() == page.sections()
    assert values_of(bare.table("Over all clients: 3")["training examples"]) == [0, 5, 4, 7]


def test_a_run_stopped_after_its_initial_model_shows_its_points(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    for name in ("rounds.jsonl", "timings.jsonl"):
        write_lines(folder / name, read_lines(folder / name)[:1])
    (folder / "baselines.json").unlink()
    page = report(folder)
    assert text_of(page.find(".//p[@class='lead']")).startswith("After 0 of 20 rounds of FedAvg")
    for name, curves in (("accuracy", 1), ("loss", 1), ("client-rounds", 3)):
        dots = [use for use in page.figure(name).iter("use") if "fill: var(--rule" not in use.attrib["style"]]
        assert len(dots) == curves


def test_failed_clients_are_counted(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    lines = read_lines(folder / "rounds.jsonl")
    lines[3]["failures"] = 2
    lines[9]["failures"] = 1
    write_lines(folder / "rounds.jsonl", lines)
    assert report(folder).notices() == ["Phones that failed: 3; the table of rounds says when."]


def test_figures_that_do_not_exist_are_not_made_up(tmp_path: Path) -> None:
    """A model that diverged: losses are null, nothing was learned, no client has test examples."""
    folder = write_run(tmp_path)
    lines = read_lines(folder / "rounds.jsonl")
    for line in lines:
        line |= {"test_loss": None, "train_loss": None, "test_accuracy": 0.0, "client_accuracy": None}
    write_lines(folder / "rounds.jsonl", lines)
    with np.load(folder / "clients.npz") as archive:
        clients = dict(archive)
    np.savez(folder / "clients.npz", **{**clients, "accuracy": np.full(100, np.nan)})
    write_json(folder / "summary.json", {"status": "finished"})
    page = report(folder)
    assert "No client's accuracy has been recorded." in page.text
    assert values_of(page.table("Round by round")["20"])[2:5] == ["–", "–", 0.0]
