"""What attacks achieved, on a page: ROC curves where they matter, and the figures with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedsim.attacks.roc import Curve, Figures
from fedsim.report.drawing import HUES, LINES, QUIET, Picture, label_ends, plot_area, plot_line, svg
from fedsim.report.layout import Table
from fedsim.report.numbers import GAP, NOTHING, Cell, count, decimal, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (340, 300)
_POINTS = 200


def roc_picture(
    curves: Mapping[str, Curve], found: Mapping[str, Figures], *, name: str, title: str, about: str
) -> Picture:
    """ROC curves on logarithmic axes, from the smallest false-positive rate that the non-members can show.

    ``found`` has the figures of each of ``curves``; ``about`` begins the caption.
    """
    return Picture(
        title=title,
        svg=svg(
            lambda figure: _draw(figure, curves, found),
            name=name,
            title=title,
            description=" ".join(f"{attack}: area {figures.area:.3f}." for attack, figures in found.items()),
            size=_SIZE,
        ),
        caption=(
            f"{about} True positives against false positives, both on logarithmic axes: what counts is the left, where "
            "an attack is sure. The dotted line is guessing. Names stand in the order of the area under the curve."
        ),
    )


def figures_table(found: Mapping[str, Figures], caption: str) -> Table:
    """How many there were to tell apart, area and true-positive rates with their 95 % intervals, a row an attack."""
    levels = [quoted.level for quoted in next(iter(found.values())).quoted]
    heads = [f"TPR at {100 * level:g}{GAP}% FPR" for level in levels]
    return Table(
        caption=f"{caption} ({NOTHING}: too few non-members to say; ≈: of fewer than ten false positives)",
        columns=(
            "",
            "members",
            "non-members",
            "area",
            "95 % interval",
            *(head for pair in heads for head in (pair, "95 % interval")),
        ),
        rows=tuple((attack, *_row(figures)) for attack, figures in found.items()),
        wide=True,
    )


def _row(figures: Figures) -> tuple[Cell, ...]:
    low, high = figures.area_interval
    cells: list[Cell] = [
        count(figures.members),
        count(figures.non_members),
        decimal(figures.area),
        f"{low:.3f} to {high:.3f}",
    ]
    for quoted in figures.quoted:
        if quoted.interval is None:
            cells += [NOTHING, NOTHING]
        else:
            cells += [percent(quoted.rate), f"{'' if quoted.resolved else '≈ '}{_range(quoted.interval)}"]
    return tuple(cells)


def _range(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}{GAP}%"


def _draw(figure: Figure, curves: Mapping[str, Curve], found: Mapping[str, Figures]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    floor = min(0.1, *(figures.resolution for figures in found.values()))
    axes = plot_area(figure, unit="true positives, %", x_label="false positives, %", ends=list(curves))
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_percent))
        axis.set_minor_formatter(NullFormatter())
    levels = np.geomspace(floor, 1, _POINTS)
    axes.plot(levels, levels, color=QUIET, linestyle=LINES[2], linewidth=1.0)
    ends: list[tuple[float, str, str]] = []
    for i, (attack, curve) in enumerate(curves.items()):
        reached = np.searchsorted(curve.false_positives, levels, side="right") - 1
        rates = curve.true_positives[reached]
        hue, line = HUES[i % len(HUES)], LINES[i % len(LINES)]
        plot_line(axes, levels, np.where(rates > 0, rates, np.nan), hue=hue, line=line)
        ends.append((found[attack].area, attack, hue))
    axes.set_xlim(floor, 1)
    axes.set_ylim(floor, 1)
    label_ends(axes, ends)


def _percent(rate: float, _position: object) -> str:
    return f"{100 * rate:g}"
