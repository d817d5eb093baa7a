"""The picture and the table of an attack say what its figures say."""

import re

import numpy as np
import pytest

from fedsim.attacks.roc import Figures, curve, figures
from fedsim.report.attacks import figures_table, roc_picture
from fedsim.report.numbers import NOTHING, Number


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    members = np.arange(1000) < 500
    return np.random.default_rng(0).normal(members, 1), members


def test_the_curve_is_drawn_on_decades_of_per_cent(scored: tuple[np.ndarray, np.ndarray]) -> None:
    found: dict[str, Figures] = {"attack <1>": figures(*scored), "attack 2": figures(-scored[0], scored[1])}
    curves = {"attack <1>": curve(*scored), "attack 2": curve(-scored[0], scored[1])}
    picture = roc_picture(curves, found, name="roc", title="ROC", about="Who.")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture.svg)
    assert {"1", "10", "100", "attack &lt;1&gt;", "attack 2", "true positives, %", "false positives, %"} <= set(texts)
    assert not any("$" in text for text in texts)
    assert f"attack 2: area {found['attack 2'].area:.3f}" in picture.svg
    assert picture.caption.startswith("Who. ")


def test_a_rate_that_cannot_be_told_is_left_out(scored: tuple[np.ndarray, np.ndarray]) -> None:
    found = figures(*scored)
    table = figures_table({"attack": found}, "Figures")
    assert len(table.columns) == len(table.rows[0]) == 11
    assert table.rows[0][5:7] == (NOTHING, NOTHING)
    values = [cell.value for cell in table.rows[0][1:4] if isinstance(cell, Number)]
    assert values == [500, 500, found.area]
    assert str(table.rows[0][8]).startswith("≈ ")
    assert not str(table.rows[0][10]).startswith("≈ ")
