"""The page of a study says and draws what its table holds."""

import json
import re
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from numpy.typing import NDArray

from fedsim.study.figures import Panel, Point, Series, front, panels
from fedsim.study.file import Figure
from fedsim.study.page import write_study_page
from fedsim.study.plan import read_study
from fedsim.study.table import Row, estimate
from tests.report.browser import open_page
from tests.report.reading import Page, assert_self_contained, read_page, text_of, values_of
from tests.report.test_browser import FAINT_WORDS, FIGURES, WORDS_OUTSIDE, WORDS_TOUCHING
from tests.report.test_figures import labels
from tests.study.test_plan import SHIPPED

MEANS = {1.0: 0.90, 2.0: 0.94, 4.0: 0.95, 8.0: 0.97, None: 0.98}
LOSS = {"central": 0.0, "local": 0.2, "distributed": 0.01, "none": 0.005}


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of the shipped privacy study with numbers made up."""
    study = read_study(SHIPPED / "privacy_accuracy.toml")
    rows: list[Row] = []
    for cell in study.cells:
        mean = MEANS[cell.value("privacy.epsilon")] - LOSS[cell.value("privacy.mechanism")]
        values = [mean - 0.01, mean, mean + 0.01]
        numbers = {"test_accuracy": values, "client_accuracy.worst_decile_mean": [value - 0.1 for value in values]}
        estimates = {path: estimate(several) for path, several in numbers.items()}
        rows.append(Row(cell=cell, runs=("one", "two", "three"), estimates=estimates))
    table = {"runs": 96, "runs_in_folder": 99, "failures": {}}
    return write_study_page(study, tmp_path_factory.mktemp("page"), rows, table, "fedsim study it.toml")


@pytest.fixture(scope="module")
def page(private: Path) -> Page:
    return read_page(private)


def test_the_page_is_one_valid_file_that_asks_for_nothing(page: Page, finished: Path) -> None:
    for shown in (page, read_page(finished / "study.html")):
        assert_self_contained(shown)
        ids = [element.attrib["id"] for element in shown.root.iter() if "id" in element.attrib]
        assert len(ids) == len(set(ids))


def lines(svg: Element, hue: str) -> list[NDArray[np.float64]]:
    """The vertices of every line of this colour, each ``float[points, 2]``."""
    paths = [path for path in svg.iter("path") if f"stroke: {hue}" in path.attrib.get("style", "")]
    return [np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.attrib["d"]), dtype=float) for path in paths]


def test_the_curves_are_the_means(page: Page) -> None:
    svg = page.figure("figure-0-0")
    drawn = max(lines(svg, "var(--blue"), key=len)
    assert len(drawn) == 4
    assert np.diff(drawn[:, 0]) == pytest.approx(np.diff(drawn[:, 0])[0])  # epsilon doubles from point to point
    slope = np.polyfit([100 * mean for mean in list(MEANS.values())[:4]], drawn[:, 1], 1, full=True)
    assert slope[1] == pytest.approx(0, abs=1e-3)
    words = [text for text, _, _ in labels(svg)]
    for expected in ("1", "2", "4", "8", "no noise", "central", "local", "distributed", "epsilon", "%"):
        assert expected in words


def test_those_who_cannot_see_the_picture_are_told_its_numbers(page: Page) -> None:
    told = text_of(page.figure("figure-0-0")[1])
    assert "central: 90.00 ± 2.48 % at 1, 94.00 ± 2.48 % at 2," in told
    assert "98.00 ± 2.48 % at no noise." in told


def test_the_pareto_front_is_marked_and_listed(page: Page) -> None:
    listed = page.table("Pareto front. Test accuracy against epsilon: iid")
    assert list(listed) == ["1", "2", "4", "8", "no noise"]
    assert {text_of(cells[0]) for cells in listed.values()} == {"central"}
    assert [values_of(cells)[1] for cells in listed.values()] == pytest.approx(list(MEANS.values()))


def test_the_page_says_how_much_was_run(page: Page) -> None:
    assert text_of(page.find(".//p[@class='lead']")).startswith("96 runs: 32 cells, 3 seeds each.")
    assert "99 runs are in this study's folder" in page.text
    assert "fedsim study it.toml" in page.text


def test_two_axes_of_words_are_a_table_of_tints(finished: Path) -> None:
    shown = read_page(finished / "study.html")
    svg = shown.figure("figure-0-0")
    table = json.loads((finished / "table.json").read_text())
    words = {text for text, _, _ in labels(svg)}
    for cell in table["cells"]:
        assert f"{100 * cell['numbers']['test_accuracy']['mean']:.2f}" in words
    styles = [path.attrib.get("style", "") for path in svg.iter("path")]
    tints = [float(found) for style in styles for found in re.findall(r"opacity: ([\d.]+)", style)]
    assert len(tints) == 9
    assert len(set(tints)) > 1
    assert max(tints) <= 0.4


def test_a_panel_for_every_value_and_nothing_for_numbers_that_no_run_holds() -> None:
    study = read_study(SHIPPED / "privacy_accuracy.toml", quick=True)
    rows = [Row(cell=cell, runs=("one",), estimates={"test_accuracy": estimate([0.5])}) for cell in study.cells]
    figure = study.file.figures[0]
    found = panels(figure, rows)
    assert [panel.label for panel in found] == ["iid", "shards"]
    spent = [[point.at for point in series.points] for series in found[0].series]
    assert spent == [["2", "8", "no noise"]] * 3 + [["no noise"]]
    assert panels(figure.model_copy(update={"show": "nothing"}), rows) == []


def test_a_multiplier_is_placed_at_the_epsilon_that_was_spent() -> None:
    study = read_study(SHIPPED / "privacy_accuracy.toml", quick=True)
    cell = next(cell for cell in study.cells if cell.value("privacy.epsilon") is None)
    spent = {"test_accuracy": estimate([0.5]), "privacy.epsilon": estimate([3.5])}
    (panel,) = panels(study.file.figures[0], [Row(cell=cell, runs=("one",), estimates=spent)])
    assert panel.series[0].points[0].x == 3.5


def test_the_front_is_what_nothing_beats() -> None:
    drawn = np.random.default_rng(3).integers(0, 8, (40, 2))
    points = tuple(Point(x=float(x), at=str(x), found=estimate([float(y)])) for x, y in drawn)
    panel = Panel(
        figure=Figure(against="privacy.epsilon"), label="", series=(Series(label="", points=points),), columns=()
    )
    best = {(point.x, point.found.mean) for _, point in front(panel)}
    unbeaten = {
        (x, y)
        for x, y in drawn.tolist()
        if not any((a <= x and b >= y) and (a, b) != (x, y) for a, b in drawn.tolist())
    }
    assert best == unbeaten


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_pages_show(private: Path, finished: Path, tmp_path: Path, scheme: str, width: int) -> None:
    for shown in (private, finished / "study.html"):
        with open_page(shown, tmp_path / shown.parent.name, width=width, scheme=scheme) as tab:
            assert tab.happened("Log.entryAdded") == []
            assert len(tab.evaluate(FIGURES)) == 4
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.evaluate(WORDS_OUTSIDE) == []
            assert tab.evaluate(WORDS_TOUCHING) == []
            assert [pair for pair in tab.evaluate(FAINT_WORDS) if pair[0] < 4.5] == []
