"""The page of a study says and draws what its table holds."""

import dataclasses
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from numpy.typing import NDArray

from fedsim.config import ConfigError
from fedsim.results import SUMMARY, write_json
from fedsim.study.figures import Panel, Point, Series, fronts, panels
from fedsim.study.file import Figure
from fedsim.study.page import write_study_page
from fedsim.study.pictures import picture
from fedsim.study.plan import read_study
from fedsim.study.running import run_folder
from fedsim.study.table import Row, estimate, read_rows
from tests.report.browser import open_page
from tests.report.reading import Page, assert_self_contained, read_page, text_of, values_of
from tests.report.test_browser import FAINT_WORDS, FIGURES, WORDS_OUTSIDE, WORDS_TOUCHING
from tests.report.test_figures import labels
from tests.study.test_plan import SHIPPED

MEANS = {1.0: 0.90, 2.0: 0.94, 4.0: 0.95, 8.0: 0.97, None: 0.98}
CLIENT = "add or remove one client, delta 1e-05"
ANY = "replace one client's updates by any others, delta 1e-05"
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
        meaning = ANY if cell.value("privacy.mechanism") == "local" else CLIENT
        runs, private = ("one", "two", "three"), cell.value("privacy.epsilon") is not None
        rows.append(Row(cell=cell, runs=runs, estimates=estimates, meaning=meaning if private else ""))
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
    for meaning, series in ((CLIENT, "central"), (ANY, "local")):
        listed = page.table(f"Pareto front. Test accuracy against epsilon: iid ({meaning})")
        assert list(listed) == ["1", "2", "4", "8", "no noise"]
        assert [text_of(cells[0]) for cells in listed.values()] == [series] * 4 + ["central"]
        lost = np.array([LOSS[series]] * 4 + [0])
        assert [values_of(cells)[1] for cells in listed.values()] == pytest.approx(
            np.array(list(MEANS.values())) - lost
        )


def test_epsilons_of_different_meanings_are_told_apart(page: Page) -> None:
    captions = [text_of(caption) for caption in page.root.iter("figcaption")]
    assert (
        sum(f"cannot be compared across: {CLIENT} (central, distributed); {ANY} (local)." in c for c in captions) == 4
    )
    central, distributed, local = (
        f"{mechanism} with {sampling} sampling"
        for mechanism, sampling in (("central", "poisson"), ("distributed", "poisson"), ("local", "cyclic"))
    )
    assert f"cannot be compared across: {CLIENT} ({central}, {distributed}); {ANY} ({local})." in page.text


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
    rows = [
        Row(cell=cell, runs=("one",), estimates={"test_accuracy": estimate([0.5])}, meaning="") for cell in study.cells
    ]
    figure = study.file.figures[0]
    found = panels(figure, rows)
    assert [panel.label for panel in found] == ["iid", "shards"]
    spent = [[point.at for point in series.points] for series in found[0].series]
    assert spent == [["2", "8", "no noise"]] * 3 + [["no noise"]]
    assert panels(figure.model_copy(update={"show": "nothing"}), rows) == []


def test_a_multiplier_is_placed_at_the_epsilon_that_its_runs_tell(tmp_path: Path) -> None:
    """And one whose runs tell none is left out: only training without noise is at the right."""
    path = tmp_path / "study.toml"
    path.write_text("""
        title = "No number but accuracy is asked for"
        [grid]
        privacy = [
            { epsilon = 8 }, { noise_multiplier = 1 }, { noise_multiplier = 2 }, { epsilon = 6, noise_multiplier = 3 },
            { noise_multiplier = 1e-6 }, { noise_multiplier = 0 },
        ]
        [[figures]]
        against = "privacy.epsilon"
    """)
    study = read_study(path)
    for cell, spent in zip(study.cells, (7.999, 3.4567891, 1.25, 0.9, None, None), strict=True):
        told = {"epsilon": spent, "adjacency": "add or remove one client", "delta": 1e-5}
        summary = {"status": "finished", "test_accuracy": 0.5, "privacy": told}
        write_json(run_folder(tmp_path, cell, 0) / SUMMARY, summary)
    (panel,) = panels(study.file.figures[0], read_rows(study, tmp_path))
    (series,) = panel.series
    assert [point.x for point in series.points] == [0.9, 1.25, 3.4567891, 8, math.inf]
    assert [point.at for point in series.points] == ["0.9", "1.25", "3.457", "8", "no noise"]
    assert [point.meaning for point in series.points] == [CLIENT] * 4 + [""]


def test_words_under_the_axis_do_not_touch() -> None:
    places = (1.0, 1.01, 1.02, 2.0, 7.6, 8.0, math.inf)
    points = tuple(Point(x=x, at=f"{x:.4g}", found=estimate([0.5]), meaning=CLIENT) for x in places)
    series = (Series(label="", points=points),)
    drawn = picture(Panel(figure=Figure(against="privacy.epsilon"), label="", series=series, columns=()), "f").svg
    words = {
        text for text, _, _ in labels(ElementTree.fromstring(drawn.replace('xmlns="http://www.w3.org/2000/svg"', "")))
    }
    assert words & {point.at for point in points} == {"1", "2", "7.6", "inf"}


def test_multipliers_alone_can_be_drawn_and_cells_without_noise_are_not_drawn_on_one_another(tmp_path: Path) -> None:
    path, against = tmp_path / "study.toml", '[[figures]]\nagainst = "privacy.epsilon"'
    grid = 'title = "?"\n[grid]\nfederation.cohort = [4, 8]\nprivacy = [{{ noise_multiplier = {} }}]\n' + against
    path.write_text(grid.format(1))
    assert read_study(path).numbers == ("test_accuracy", "privacy.epsilon")
    path.write_text(grid.format(0))
    with pytest.raises(ConfigError, match="draws two cells at one place"):
        read_study(path)


def test_a_front_is_what_nothing_of_its_meaning_beats() -> None:
    random = np.random.default_rng(3)
    drawn = [(float(x), float(y), "ab"[z]) for x, y, z in random.integers(0, (8, 8, 2), (60, 3))]
    drawn += [(math.inf, float(y), "") for y in random.integers(0, 10, 4)]
    points = tuple(Point(x=x, at=str(x), found=estimate([y]), meaning=meaning) for x, y, meaning in drawn)
    series = (Series(label="", points=points[::2]), Series(label="more", points=points[1::2]))
    panel = Panel(figure=Figure(against="privacy.epsilon"), label="", series=series, columns=())
    found = {meaning: {(p.x, p.found.mean) for _, p in front} for meaning, front in fronts(panel).items()}
    assert set(found) == {"a", "b"}
    for meaning, best in found.items():
        rivals = [(x, y) for x, y, its in drawn if its in (meaning, "")]
        beaten = {(x, y) for x, y in rivals for a, b in rivals if a <= x and b >= y and (a, b) != (x, y)}
        assert best == set(rivals) - beaten
    assert fronts(dataclasses.replace(panel, figure=Figure(against="federation.cohort"))) == {}


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
