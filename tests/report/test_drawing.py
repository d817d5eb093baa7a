"""Figures as elements of a page: their own ids, the page's colours, labels that do not touch."""

from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from fedsim.report.drawing import BLUE, HUES, VARIABLES, label_ends, plot_area, svg


def draw(figure: Figure) -> None:
    axes = plot_area(figure, unit="%", x_label="round", ends=("a line",))
    axes.plot([0, 1], [2, 3], color=BLUE, label="#d5dae0")
    label_ends(axes, [(3, "a line", BLUE)])


def drawing(name: str) -> str:
    return svg(draw, name=name, title="Up & away <1>", description="It rises.", size=(200, 100))


def test_the_same_drawing_gives_the_same_text_and_another_name_no_common_id() -> None:
    assert drawing("one") == drawing("one")
    ids = [
        {element.attrib["id"] for element in ElementTree.fromstring(drawing(name)).iter() if "id" in element.attrib}
        for name in ("one", "two")
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_every_reference_has_its_target() -> None:
    text = drawing("one")
    ids = {element.attrib["id"] for element in ElementTree.fromstring(text).iter() if "id" in element.attrib}
    for element in ElementTree.fromstring(text).iter():
        for key, value in element.attrib.items():
            if key == "href":
                assert value[1:] in ids
            if value.startswith("url("):
                assert value[5:-1] in ids


def test_colours_are_variables_with_themselves_as_the_fallback() -> None:
    text = drawing("one")
    assert f"var(--blue, {BLUE})" in text
    for colour, variable in VARIABLES.items():
        assert text.count(colour) == text.count(f"var(--{variable}, {colour})")


def test_title_is_escaped_and_size_is_the_view_box() -> None:
    root = ElementTree.fromstring(drawing("one"))
    assert root[0].text == "Up & away <1>"
    assert root[1].text == "It rises."
    assert root.attrib["viewBox"] == "0 0 200 100"


def test_hues_read_on_white() -> None:
    """WCAG 2 contrast of at least 4.5 : 1, as small text needs."""
    for colour in (*HUES, "#59626e"):
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05) >= 4.5


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-50, 150), min_size=1, max_size=6), st.booleans())
def test_labels_keep_their_order_and_their_distance(per_cent: list[int], downwards: bool) -> None:
    heights = [height / 100 for height in per_cent]

    def draw_labels(figure: Figure) -> None:
        axes = plot_area(figure, unit="", x_label="")
        axes.set_ylim((1, 0) if downwards else (0, 1))
        label_ends(axes, [(height, str(i), BLUE) for i, height in enumerate(heights)])
        placed = {int(text.get_text()): text.get_position()[1] for text in axes.texts}
        assert sorted(placed) == list(range(len(heights)))
        seen = sorted(placed.values())
        points = np.diff(seen) * axes.get_window_extent().height
        assert (points >= 9).all()
        assert seen[0] >= 0
        assert seen[-1] <= 1
        ups = [(1 - height if downwards else height) for height in heights]
        for i, up in enumerate(ups):
            for j, other in enumerate(ups):
                if np.clip(up, 0, 1) < np.clip(other, 0, 1):
                    assert placed[i] < placed[j]
        if len(heights) == 1:
            assert placed[0] == pytest.approx(np.clip(ups[0], 0, 1))

    svg(draw_labels, name="labels", title="t", description="d", size=(200, 200))
