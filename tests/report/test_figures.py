"""What the figures show is what the folder holds: lines and pixels are read back out of the SVG."""

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedsim.report import label_distribution_svg
from tests.report.reading import Page
from tests.report.synthetic import read_json, read_lines

BLUE, ORANGE, GREEN, PURPLE = "var(--blue", "var(--orange", "var(--green", "var(--purple"


def test_the_accuracy_curves_are_the_folders(finished: Path, page: Page) -> None:
    svg = page.figure("accuracy")
    rounds = read_lines(finished / "rounds.jsonl")
    errors = [1 - float(text) / 100 for text, _, _ in labels(svg, column=True)]
    slope, start = np.polyfit(np.log(errors), grid_lines(svg), 1)
    processed = np.cumsum([record["examples"] for record in rounds])
    scale = processed[-1] / (line(svg, BLUE)[-1, 0] - line(svg, BLUE)[0, 0])
    curve = read_json(finished / "baselines.json")["central"]["curve"]
    for drawn, examples, accuracy in (
        (line(svg, BLUE), processed, [record["test_accuracy"] for record in rounds]),
        (line(svg, ORANGE), [p["examples"] for p in curve], [p["test_accuracy"] for p in curve]),
    ):
        assert (drawn[:, 0] - drawn[0, 0]) * scale == pytest.approx(np.array(examples), abs=1)
        assert np.exp((drawn[:, 1] - start) / slope) == pytest.approx(1 - np.array(accuracy), rel=1e-3)


def test_the_loss_curves_are_the_folders(finished: Path, page: Page) -> None:
    svg = page.figure("loss")
    rounds, baselines = read_lines(finished / "rounds.jsonl"), read_json(finished / "baselines.json")
    ticks = [float(text) for text, _, _ in labels(svg, column=True)]
    slope, start = np.polyfit(np.log(ticks), grid_lines(svg), 1)
    for hue, losses in (
        (BLUE, [record["test_loss"] for record in rounds]),
        (PURPLE, [record["train_loss"] for record in rounds[1:]]),
        (ORANGE, [point["test_loss"] for point in baselines["central"]["curve"]]),
    ):
        assert np.exp((line(svg, hue)[:, 1] - start) / slope) == pytest.approx(np.array(losses), rel=1e-3)


def test_the_curves_over_clients_are_the_folders(finished: Path, page: Page) -> None:
    svg = page.figure("client-rounds")
    errors = [1 - float(text) / 100 for text, _, _ in labels(svg, column=True)]
    slope, start = np.polyfit(np.log(errors), grid_lines(svg), 1)
    for hue, field in ((BLUE, "mean"), (PURPLE, "p10"), (ORANGE, "min")):
        accuracy = np.array([record["client_accuracy"][field] for record in read_lines(finished / "rounds.jsonl")])
        assert np.exp((line(svg, hue)[:, 1] - start) / slope) == pytest.approx(1 - accuracy, rel=1e-3)


def test_the_traffic_areas_are_the_folders(finished: Path, page: Page) -> None:
    svg = page.figure("traffic")
    total = read_json(finished / "summary.json")["bytes"]
    drawn = [np.ptp(right_edge(svg, area(svg, hue))) for hue in (BLUE, ORANGE)]
    assert drawn == pytest.approx([total["down"] / 1e6, total["up"] / 1e6], rel=1e-3)


def test_the_time_areas_are_the_folders(finished: Path, page: Page) -> None:
    svg = page.figure("time")
    last = read_lines(finished / "timings.jsonl")[-1]["seconds"]
    hues = dict(zip(("train", "evaluate", "aggregate", "checkpoint"), (BLUE, ORANGE, GREEN, PURPLE), strict=True))
    drawn = {part: np.ptp(right_edge(svg, area(svg, hue))) for part, hue in hues.items()}
    assert drawn == pytest.approx(last, abs=2e-4)


def test_the_round_axis_stands_where_rounds_ended(finished: Path, page: Page) -> None:
    svg = page.figure("accuracy")
    curve, bottom = line(svg, BLUE), max(y for _, _, y in labels(svg))
    ticks = {int(text): x for text, x, y in labels(svg) if text.isdigit() and 5 < bottom - y < 20}
    assert set(ticks) == {0, 4, 8, 12, 16, 20}
    assert list(ticks.values()) == pytest.approx(curve[list(ticks), 0], abs=0.01)


def test_every_client_is_a_dot(finished: Path, page: Page) -> None:
    svg = page.figure("clients")
    with np.load(finished / "clients.npz") as clients:
        accuracy = np.sort(clients["accuracy"])
    dots = {hue: np.array(marks(svg, hue)) for hue in (BLUE, ORANGE)}
    assert {hue: len(found) for hue, found in dots.items()} == {BLUE: 90, ORANGE: 10}
    drawn = np.concatenate([dots[ORANGE], dots[BLUE]])[:, 1]
    slope, start = np.polyfit(drawn, 100 * accuracy, 1)
    assert slope * drawn + start == pytest.approx(100 * accuracy, abs=1e-3)
    ticks = [float(text) for text, _, _ in labels(svg, column=True)]
    assert slope * grid_lines(svg) + start == pytest.approx(ticks, abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(
    arrays.arrays(
        np.int64,
        st.tuples(st.integers(1, 40), st.integers(1, 12)),
        elements=st.integers(0, 1000),
    )
)
def test_heat_map_pixels_are_the_shares(counts: np.ndarray) -> None:
    heat = opacity(label_distribution_svg(counts))
    shares = np.array([row / max(1, row.sum()) for row in counts])
    assert heat * max(shares.max(), 1e-12) == pytest.approx(shares, abs=shares.max() / 255 + 1e-9)


def test_many_clients_share_columns() -> None:
    counts = np.zeros((1203, 2), np.int64)
    counts[:, 0] = 1
    counts[1200:] = (0, 9)  # the last column holds these three alone
    heat = opacity(label_distribution_svg(counts))
    assert heat.shape == (401, 2)
    assert heat[:-1].tolist() == [[1, 0]] * 400
    assert heat[-1].tolist() == [0, 1]


def test_label_distribution_stands_alone() -> None:
    svg = ElementTree.fromstring(label_distribution_svg(np.array([[3, 1], [0, 4]])))
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    description = svg.find("{http://www.w3.org/2000/svg}desc")
    assert description is not None
    assert description.text == (
        "Heat map of 2 clients by 2 labels. A client holds 4 to 4 examples of 1 to 2 labels; "
        "one label makes up at most 100 % of a client's examples."
    )


@pytest.mark.parametrize("shape", [(0, 10), (3, 0), (3,), (2, 2, 2)])
def test_label_counts_must_be_a_table(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"got {shape}")):
        label_distribution_svg(np.zeros(shape, np.int64))


def labels(svg: Element, *, column: bool = False) -> list[tuple[str, float, float]]:
    """Every text with its position; of a ``column``, the numbers on the left only."""
    found = [("".join(t.itertext()), float(t.attrib["x"]), float(t.attrib["y"])) for t in svg.iter("text")]
    left = [item for item in found if item[1] < 38 and item[0].replace(".", "").isdigit()]
    return left if column else found


def line(svg: Element, hue: str) -> np.ndarray:
    """The vertices of the only line of this colour, ``float[points, 2]``."""
    paths = [p for p in svg.iter("path") if f"stroke: {hue}" in p.attrib["style"] and "fill: none" in p.attrib["style"]]
    assert len(paths) == 1
    return np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", paths[0].attrib["d"]), dtype=float)


def area(svg: Element, hue: str) -> np.ndarray:
    """The corners of the only filled area of this colour, ``float[corners, 2]``."""
    shapes = {path.attrib.get("id"): path for path in svg.iter("path")}
    found = [(path, 0.0) for path in svg.iter("path") if f"fill: {hue}" in path.attrib.get("style", "")]
    uses = [use for use in svg.iter("use") if f"fill: {hue}" in use.attrib["style"]]
    found += [(shapes[use.attrib["href"][1:]], float(use.attrib["y"])) for use in uses]
    [(path, offset)] = found
    corners = np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.attrib["d"]), dtype=float)
    corners[:, 1] += offset
    return corners


def right_edge(svg: Element, corners: np.ndarray) -> np.ndarray:
    """What the heights of the corners at the right edge mean on the linear y axis."""
    ticks = [float(text) for text, _, _ in labels(svg, column=True)]
    slope, start = np.polyfit(grid_lines(svg), ticks, 1)
    edge = corners[:, 0] >= corners[:, 0].max() - 0.01
    return slope * corners[edge, 1] + start


def marks(svg: Element, hue: str) -> list[tuple[float, float]]:
    uses = [use for use in svg.iter("use") if f"fill: {hue}" in use.attrib["style"]]
    return [(float(use.attrib["x"]), float(use.attrib["y"])) for use in uses]


def grid_lines(svg: Element) -> np.ndarray:
    """The y of every horizontal grid line, in the order they are drawn: that of the ticks."""
    paths = [p for p in svg.iter("path") if re.search(r"var\(--rule.*width: 0\.6", p.attrib.get("style", ""))]
    return np.array([re.match(r"M [-\d.]+ ([-\d.]+)", path.attrib["d"])[1] for path in paths], dtype=float)


def opacity(svg: str) -> np.ndarray:
    """How opaque each cell of the heat map is, ``float[clients, labels]``, clients from the left, labels from below."""
    images = [image for image in ElementTree.fromstring(svg).iter() if image.tag.endswith("}image")]
    encoded = images[0].attrib["href"].removeprefix("data:image/png;base64,")
    across, _, _, up, *_ = (float(number) for number in re.findall(r"[-\d.]+", images[0].attrib["transform"]))
    assert across > 0 > up  # so that the first row of pixels is the lowest
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(encoded)))[:, :, 3].T
