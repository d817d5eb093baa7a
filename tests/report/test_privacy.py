"""A private run's page: the promise with all it means nothing without, what is spent of it, and what it leaves out."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from fedsim.report.folder import read_run_folder
from fedsim.report.headline import key_figures, notices, result_sentence
from fedsim.report.layout import Section
from fedsim.report.numbers import Number
from fedsim.report.privacy import privacy, uncovered
from tests.report.reading import Page, assert_self_contained, number_in, report, text_of, value_of, values_of
from tests.report.synthetic import make_private, read_json, read_lines, write_json, write_lines, write_run
from tests.report.test_figures import BLUE, ORANGE, PURPLE, grid_lines, labels, line

PICTURES = ["epsilon", "clip", "within-clip", "noise"]


def private_run(folder: Path, **settings: Any) -> Path:
    return make_private(write_run(folder, cohort=40), **settings)


def section_of(folder: Path) -> Section:
    section = privacy(read_run_folder(folder))
    assert section is not None
    return section


def drawn(folder: Path) -> dict[str, ElementTree.Element]:
    """The section's figures by name, without the rest of the page."""
    texts = [picture.svg.replace(' xmlns="http://www.w3.org/2000/svg"', "") for picture in section_of(folder).pictures]
    figures = map(ElementTree.fromstring, texts)
    return {svg.attrib["aria-labelledby"].partition("-title")[0]: svg for svg in figures}


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return private_run(tmp_path_factory.mktemp("private"))


@pytest.fixture(scope="module")
def private_page(private: Path) -> Page:
    return report(private)


def figures_of(page: Page) -> list[str]:
    figures = page.find(".//section[@id='privacy']").iter("svg")
    return [svg[0].attrib["id"].removesuffix("-title") for svg in figures]


def column_of(folder: Path, field: str) -> np.ndarray:
    return np.array([row["privacy"][field] for row in read_lines(folder / "rounds.jsonl")[1:]])


def heights(page: Page, figure: str, hue: str, *, log: bool) -> np.ndarray:
    """What the line of this hue says, by the ticks and grid lines beside it."""
    svg = page.figure(figure)
    ticks = np.array([float(text) for text, _, _ in labels(svg, column=True)])
    slope, start = np.polyfit(grid_lines(svg)[: len(ticks)], np.log(ticks) if log else ticks, 1)
    drawn = slope * line(svg, hue)[:, 1] + start
    return np.exp(drawn) if log else drawn


def test_an_epsilon_stands_beside_what_it_means_nothing_without(private_page: Page) -> None:
    lead = text_of(private_page.find(".//p[@class='lead']"))
    assert lead.endswith(
        "Epsilon is 7.9 by round 20 at delta 1e-05 for one client, with all its examples: add or remove one client; "
        "every client by its own coin, q = 0.1, secretly; counted by privacy loss distributions (dp-accounting 0.6.0)."
    )
    figures = {text_of(pair[0]): value_of(pair[1]) for pair in private_page.root.findall(".//dl/div")}
    assert figures["epsilon at delta 1e-05"] == 7.9


def test_the_statement_is_the_folders(private: Path, private_page: Page) -> None:
    said = read_json(private / "privacy.json")
    table = private_page.table("The promise, and what it rests on")
    found = {name: value_of(cells[0]) for name, cells in table.items()}
    chosen = [client for row in read_lines(private / "rounds.jsonl") for client in row["clients"]]
    assert found == {
        "mechanism": "central",
        "epsilon": 7.9,
        "epsilon, budget": 8.0,
        "delta": 1e-5,
        "protected": said["unit"],
        "adjacency": said["adjacency"],
        "sampling": said["sampling"],
        "accountant": said["accountant"],
        "noise multiplier": 1.25,
        "clip, at first": 2.0,
        "noise in a round's mean, in clips": 3.5,
        "rounds allowed": 20,
        "rounds asked for": 20,
        "rounds of the client that took part most": np.bincount(chosen).max(),
        "rounds of a client, at most": 20,
        "noise": said["noise"],
    }


def test_what_is_not_covered_is_listed_and_its_sections_are_named(private_page: Page) -> None:
    points = private_page.root.findall(".//section[@id='not-covered']/ul/li")
    assert [text_of(point) for point in points] == ["training losses", "single <phones>"]
    [notice] = private_page.notices()
    assert notice.startswith("Epsilon covers the models of all rounds and what follows from them")
    for section in ("Learning", "Clients", "Data", "Traffic", "Privacy", "Configuration"):
        assert section in notice
        assert section in private_page.sections()


def test_the_curves_are_the_folders(private: Path, private_page: Page) -> None:
    assert figures_of(private_page) == PICTURES
    spent = heights(private_page, "epsilon", BLUE, log=False)
    assert spent == pytest.approx(np.append(0, column_of(private, "epsilon")), abs=0.01)
    assert heights(private_page, "epsilon", ORANGE, log=False) == pytest.approx([8, 8], abs=0.01)
    for hue, field in ((ORANGE, "clip"), (BLUE, "median_norm")):
        assert heights(private_page, "clip", hue, log=True) == pytest.approx(column_of(private, field), rel=1e-3)
    share = heights(private_page, "within-clip", BLUE, log=False)
    assert share == pytest.approx(100 * column_of(private, "unclipped"), abs=0.1)
    assert heights(private_page, "within-clip", ORANGE, log=False) == pytest.approx([50, 50], abs=0.1)
    noise = heights(private_page, "noise", PURPLE, log=True)
    assert noise == pytest.approx(column_of(private, "noise_to_signal"), rel=1e-3)


def test_the_numbers_behind_the_curves_are_there_and_read_as_they_are(private: Path, private_page: Page) -> None:
    table = private_page.table("Privacy, round by round")
    fields = ("epsilon", "clip", "median_norm", "unclipped", "noise_to_signal")
    assert values_of(table["7"]) == [column_of(private, field)[6] for field in fields]
    for number in private_page.root.iter("data"):
        if "e-" not in text_of(number):  # delta
            said, slack = number_in(text_of(number))
            assert said == pytest.approx(float(number.attrib["value"]), abs=slack * 1.001, rel=1e-12)
    assert_self_contained(private_page)


def test_a_run_that_has_not_ended_says_what_is_spent(tmp_path: Path) -> None:
    folder = private_run(tmp_path)
    write_lines(folder / "rounds.jsonl", read_lines(folder / "rounds.jsonl")[:8])
    write_json(folder / "summary.json", {"status": "running"})
    page = report(folder)
    spent = column_of(folder, "epsilon")[-1]
    assert f"Epsilon is {spent:.4g} by round 7, and would be 7.9 by round 20 at delta" in page.text
    figures = {text_of(pair[0]): value_of(pair[1]) for pair in page.root.findall(".//dl/div")}
    assert figures["epsilon at delta 1e-05"] == spent
    assert figures_of(page) == PICTURES


@pytest.mark.parametrize("lines", [0, 1])
def test_before_the_first_round_there_is_the_promise_alone(tmp_path: Path, lines: int) -> None:
    folder = private_run(tmp_path)
    write_lines(folder / "rounds.jsonl", read_lines(folder / "rounds.jsonl")[:lines])
    section = section_of(folder)
    assert section.pictures == ()
    assert [table.caption for table in section.tables] == ["The promise, and what it rests on"]
    assert not any(name.startswith("epsilon") for name, _ in key_figures(read_run_folder(folder)))


def test_one_round_is_drawn(tmp_path: Path) -> None:
    assert list(drawn(make_private(write_run(tmp_path, clients=50, cohort=40, rounds=1)))) == PICTURES


def test_a_budget_that_ended_the_run_is_told(tmp_path: Path) -> None:
    folder = private_run(tmp_path)
    write_json(folder / "privacy.json", read_json(folder / "privacy.json") | {"rounds_asked": 300})
    assert notices(read_run_folder(folder))[0] == (
        "The budget of epsilon 8 allows 20 of the 300 rounds asked for: the run ends there."
    )


def test_without_noise_the_page_promises_nothing(tmp_path: Path) -> None:
    page = report(private_run(tmp_path, noise_multiplier=0.0, clip=2.0))
    assert "Updates are clipped but get no noise: no privacy is promised." in page.text
    assert page.notices() == []
    assert "Not covered by epsilon" not in page.sections()
    assert "epsilon" not in figures_of(page)


@pytest.mark.parametrize("mechanism", ["local", "dp_sgd"])
def test_norms_that_have_noise_in_them_are_not_held_against_the_clip(tmp_path: Path, mechanism: str) -> None:
    assert list(drawn(private_run(tmp_path, mechanism=mechanism, epsilon=8.0, clip=2.0))) == ["epsilon", "noise"]


def test_rounds_in_which_nobody_came_leave_gaps(tmp_path: Path) -> None:
    folder = private_run(tmp_path)
    records = read_lines(folder / "rounds.jsonl")
    nothing: dict[str, Any] = {"unclipped": None, "median_norm": None, "noise_to_signal": None}
    for record in records[1:]:
        record["privacy"] |= nothing if record["round"] in (4, 20) else {}
    write_lines(folder / "rounds.jsonl", records)
    assert len(line(drawn(folder)["noise"], PURPLE)) == 18
    for record in records[1:]:
        record["privacy"] |= nothing
    write_lines(folder / "rounds.jsonl", records)
    assert list(drawn(folder)) == ["epsilon"]


def test_sums_that_were_not_opened_are_counted(tmp_path: Path) -> None:
    folder = private_run(tmp_path, mechanism="distributed", epsilon=8.0, clip=2.0)
    records = read_lines(folder / "rounds.jsonl")
    for record in records[1:]:
        record["privacy"]["opened"] = record["round"] > 3
    write_lines(folder / "rounds.jsonl", records)
    *_, words, number, _ = section_of(folder).text
    assert words == " Rounds whose sum was not opened, so that nothing was learned: "
    assert isinstance(number, Number)
    assert number.value == 3


def test_a_promise_that_was_not_recorded_is_missed(tmp_path: Path) -> None:
    folder = private_run(tmp_path)
    (folder / "privacy.json").unlink()
    run = read_run_folder(folder)
    assert run.missing == ["privacy.json"]
    assert result_sentence(run)[-1] == "What is promised has not been recorded."
    assert uncovered(run) is None
    assert list(drawn(folder)) == PICTURES


def test_nothing_is_said_where_nothing_is_promised(page: Page) -> None:
    assert not {"Privacy", "Not covered by epsilon"} & set(page.sections())
    assert "psilon" not in text_of(page.find(".//header"))
