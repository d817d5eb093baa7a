"""How figures look: quiet axes, labels at the ends of lines, and SVG that takes its colours from the page.

Matplotlib is imported when something is drawn: it costs most of a second, which a command that draws nothing
should not pay.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
LineStyle = str | tuple[float, tuple[float, ...]]

INK, QUIET, RULE = "#1d232b", "#59626e", "#d5dae0"
BLUE, ORANGE, GREEN, PURPLE, BROWN = "#00639c", "#b24a00", "#00734f", "#8d4479", "#6b5600"
HUES = (BLUE, ORANGE, GREEN, PURPLE, BROWN)
"""Darkened from Okabe & Ito's colour-blind-safe palette until text in them reads on white (contrast 4.5 : 1)."""

LINES: tuple[LineStyle, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 3)))
"""A dash pattern for each hue, so that no line is told apart by colour alone."""

VARIABLES = {
    INK: "ink",
    QUIET: "quiet",
    RULE: "rule",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    PURPLE: "purple",
    BROWN: "brown",
}
"""The page's CSS variable for each colour. A figure on its own keeps the colour itself."""

_LETTER = 5.2
"""Points to leave for a letter of a label: what a wide system font takes at this size."""

_STYLE: dict[str, Any] = {
    "figure.dpi": 72,  # so that Matplotlib's pixels are points
    "svg.fonttype": "none",
    "svg.hashsalt": "fedsim",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.grid.which": "major",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.size": 3,
    "xtick.minor.size": 0,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of the page: ``svg`` to inline, its ``title``, and a ``caption`` saying how it was computed.

    ``wide`` asks for the page's whole width.
    """

    title: str
    svg: str
    caption: str
    wide: bool = False


def svg(draw: Callable[[Figure], None], *, name: str, title: str, description: str, size: tuple[int, int]) -> str:
    """Draw a figure of ``size`` (width, height in points) and return it as one ``<svg>`` element.

    The element carries ``title`` and ``description`` for those who cannot see it, refers to nothing outside
    itself, takes text fonts and colours from the page it is put into, and starts every id with ``name``. The same
    drawing gives the same text.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {**matplotlib.rcParamsDefault, **_STYLE}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Matplotlib's own font need not have every glyph: the reader's browser writes the text.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), facecolor="none")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_page(file.getvalue(), name=name, title=title, description=description)


def plot_area(figure: Figure, *, unit: str, x_label: str, ends: Sequence[str] = (), above: float = 22) -> Axes:
    """Axes with room on the right for the line labels ``ends`` and ``above`` points on top, where ``unit`` stands."""
    width, height = (float(inches) * 72 for inches in figure.get_size_inches())
    left, bottom, right = 38, 32, 14 + _LETTER * max(map(len, ends), default=0)
    area = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + above) / height)
    axes = figure.add_axes(area, facecolor="none")
    axes.set_xlabel(x_label)
    figure.text(0, 1 - (above - 10) / height, unit, color=QUIET)
    return axes


def plot_line(axes: Axes, x: Array, y: Array, *, hue: str, line: LineStyle = "-", width: float = 1.8) -> None:
    """Draw the measured points of a curve: those whose ``y`` is finite. One alone is drawn as a dot."""
    measured = np.isfinite(y)
    marker = "o" if measured.sum() == 1 else ""
    axes.plot(x[measured], y[measured], color=hue, linestyle=line, linewidth=width, marker=marker, markersize=4)


def label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write each ``(y, text, colour)`` at the right of the axes, at its y, moved apart where two would touch.

    Axis limits must be final.
    """
    placed = sorted((_height(axes, y), text, colour) for y, text, colour in labels)
    apart = _apart(np.array([y for y, _, _ in placed]), 1.35 * _STYLE["font.size"] / axes.get_window_extent().height)
    for y, (_, text, colour) in zip(apart, placed, strict=True):
        axes.text(1.02, y, text, color=colour, transform=axes.transAxes, va="center_baseline")


def _height(axes: Axes, y: float) -> float:
    """Where ``y`` stands between the bottom (0) and the top (1) of the axes, whichever way they run."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((1, y)))[1])


def _apart(heights: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Ascending ``heights`` in [0, 1] moved as little as keeps neighbours ``gap`` apart and the last at most at 1."""
    placed = np.clip(heights, 0, 1)
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def _for_page(text: str, *, name: str, title: str, description: str) -> str:
    """Matplotlib's SVG file as an element that an HTML page can hold beside others of its kind."""
    root = ElementTree.fromstring(text)
    referenced = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', text))
    for element in root.iter():
        for child in [child for child in element if _local(child.tag) in {"metadata", "style"}]:
            element.remove(child)
        element.tag = _local(element.tag)
        element.attrib = {
            _local(key): _attribute(_local(key), value, name)
            for key, value in element.attrib.items()
            if key != "id" or value in referenced
        }
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-description",
        "stroke-linejoin": "round",
    }
    for tag, suffix, words in (("desc", "description", description), ("title", "title", title)):
        element = ElementTree.Element(tag, {"id": f"{name}-{suffix}"})
        element.text = words
        root.insert(0, element)
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """A tag or attribute without its namespace."""
    return name.rpartition("}")[2]


def _attribute(key: str, value: str, name: str) -> str:
    """An attribute's value with ids, and references to them, made the figure's own, and colours the page's."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if key == "style":
        for colour, variable in VARIABLES.items():
            value = value.replace(colour, f"var(--{variable}, {colour})")
        value = value.replace("'DejaVu Sans'", "system-ui, sans-serif")
    return value.replace("url(#", f"url(#{name}-")
