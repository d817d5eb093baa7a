"""Draws a study's figures: curves with 95 % intervals against numbers, tables of tints against words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedsim.report.drawing import BLUE, HUES, INK, LINES, QUIET, Picture, label_ends, plot_area, svg
from fedsim.study.figures import Panel, Point, Series, fronts, key_words, meaning_words, meanings
from fedsim.study.table import is_share, written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE, _WIDE = (340, 250), (704, 300)
_LONG_LABEL = 14
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LOG_FROM = 8
"""A range of this ratio or more is spaced by logarithm."""
_STRONGEST = 0.4
"""How opaque the strongest tint is: text must read on it."""
_LETTER, _ROW = 5.2, 30


def picture(panel: Panel, name: str) -> Picture:
    """One panel as a picture; ``name`` begins the ids in it."""
    return _table_of_tints(panel, name) if panel.columns else _curves(panel, name)


def _curves(panel: Panel, name: str) -> Picture:
    longest = max(len(series.label) for series in panel.series)
    wide = longest > _LONG_LABEL
    caption = "Mean over seeds; bars are 95 % intervals of the mean (Student's t)." if _repeated(panel) else "One seed."
    if meant := meaning_words(meanings(panel)):
        caption += f" {meant}"
    if fronts(panel):
        caption += (
            f" Filled marks are the Pareto front{'s' * (len(fronts(panel)) > 1)}: no other cell here reaches as high a "
            "mean with as small an epsilon of the same meaning."
        )
    if any(math.isinf(point.x) for series in panel.series for point in series.points):
        caption += " At the right is training without noise, whose epsilon is infinite."
    return Picture(
        title=panel.title,
        svg=svg(
            lambda figure: _draw_curves(figure, panel),
            name=name,
            title=panel.title,
            description=_description(panel),
            size=_WIDE if wide else _SIZE,
        ),
        caption=caption,
        wide=wide,
    )


def _table_of_tints(panel: Panel, name: str) -> Picture:
    headings = _headings(panel)
    above = 8 + 12 * max(heading.count("\n") + 1 for heading in headings)
    over = "Mean over seeds and, below it, the half width of its 95 % interval (Student's t)"
    return Picture(
        title=panel.title,
        svg=svg(
            lambda figure: _draw_tints(figure, panel, headings),
            name=name,
            title=panel.title,
            description=_description(panel),
            size=(_WIDE[0], above + _ROW * len(panel.series)),
        ),
        caption=f"{over if _repeated(panel) else 'One seed'}{', in per cent' if is_share(panel.figure.show) else ''}; "
        "the stronger the tint, the higher the number.",
        wide=True,
    )


def _draw_curves(figure: Figure, panel: Panel) -> None:
    axes = plot_area(
        figure,
        unit="%" if is_share(panel.figure.show) else "",
        x_label=key_words(panel.figure.against),
        ends=[series.label for series in panel.series],
    )
    beyond = _lay_out(axes, {point.x: point.at for series in panel.series for point in series.points})
    best = fronts(panel)
    on_front = {id(point) for front in best.values() for _, point in front} if best else None
    for i, series in enumerate(panel.series):
        aside = 0.012 * (i - (len(panel.series) - 1) / 2)
        _draw_series(axes, panel, series, i, aside, beyond, on_front)
    axes.margins(y=0.08)
    axes.locator_params(axis="y", nbins=6)
    axes.set_ylim(axes.get_ylim())
    label_ends(
        axes,
        [
            (_scale(panel) * series.points[-1].found.mean, series.label, HUES[i % len(HUES)])
            for i, series in enumerate(panel.series)
        ],
    )


def _lay_out(axes: Axes, words: Mapping[float, str]) -> float:
    """Limits of the x axis and ticks, in ``words``; returns where an infinite x is drawn."""
    finite, unbounded = sorted(filter(math.isfinite, words)), math.inf in words
    first, last = (finite[0], finite[-1]) if finite else (0.0, 1.0)
    if first > 0 and last >= _LOG_FROM * first:
        axes.set_xscale("log")
        step = (last / first) ** 0.3
        beyond, margin = last * step, (last / first) ** 0.07
        axes.set_xlim(first / margin, (beyond if unbounded else last) * margin)
    else:
        span = last - first or abs(last) or 1.0
        beyond, margin = last + 0.3 * span, 0.07 * span
        axes.set_xlim(first - margin, (beyond if unbounded else last) + margin)
    ticks = {min(x, beyond): words[x] for x in sorted(words)}
    shown = _apart(axes, ticks)
    axes.set_xticks(shown, [ticks[x] for x in shown])
    axes.set_xticks([], minor=True)
    return beyond


def _apart(axes: Axes, ticks: Mapping[float, str]) -> list[float]:
    """Those of the ascending ``ticks`` whose words do not touch the words of the one before."""
    width = axes.get_window_extent().width
    shown: list[float] = []
    for x, word in ticks.items():
        room = _LETTER * (len(word) + len(ticks[shown[-1]]) + 1) / 2 if shown else 0
        if not shown or (_along(axes, x) - _along(axes, shown[-1])) * width >= room:
            shown.append(x)
    return shown


def _draw_series(
    axes: Axes, panel: Panel, series: Series, i: int, aside: float, beyond: float, on_front: set[int] | None
) -> None:
    """One series a little ``aside`` of the others, so that their bars can be told apart."""
    hue, dashes, marker = HUES[i % len(HUES)], LINES[(i + i // len(HUES)) % len(LINES)], _MARKERS[i % len(_MARKERS)]
    scale = _scale(panel)
    x = [_moved(axes, point.x if math.isfinite(point.x) else beyond, aside) for point in series.points]
    y = [scale * point.found.mean for point in series.points]
    measured = sum(math.isfinite(point.x) for point in series.points)
    axes.plot(x[:measured], y[:measured], color=hue, linestyle=dashes, linewidth=1.6)
    axes.plot(x[max(measured - 1, 0) :], y[max(measured - 1, 0) :], color=hue, linestyle=LINES[2], linewidth=0.8)
    for across, up, point in zip(x, y, series.points, strict=True):
        filled = on_front is None or id(point) in on_front
        half = point.found.half_width
        axes.errorbar(
            across,
            up,
            yerr=None if half is None else scale * half,
            fmt=marker,
            color=hue,
            markerfacecolor=hue if filled else "none",
            markersize=5,
            capsize=2.5,
            elinewidth=1.0,
        )


def _moved(axes: Axes, x: float, aside: float) -> float:
    """``x`` moved by a share of the axes' width, on whichever scale."""
    return float(axes.transData.inverted().transform(axes.transAxes.transform((_along(axes, x) + aside, 0.5)))[0])


def _along(axes: Axes, x: float) -> float:
    """Where ``x`` stands between the left (0) and the right (1) of the axes."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((x, 1.0)))[0])


def _draw_tints(figure: Figure, panel: Panel, headings: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    width, height = (float(inches) * 72 for inches in figure.get_size_inches())
    left = _left(panel)
    axes = figure.add_axes((left / width, 0, 1 - left / width, _ROW * len(panel.series) / height))
    axes.set(xlim=(0, len(panel.columns)), ylim=(len(panel.series), 0), xticks=[], yticks=[], facecolor="none")
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    means = [point.found.mean for series in panel.series for point in series.points]
    lowest, span = min(means), max(means) - min(means)
    for row, series in enumerate(panel.series):
        figure.text(0, (len(panel.series) - row - 0.5) * _ROW / height, series.label, color=INK, va="center_baseline")
        for point in series.points:
            tint = 0.04 + (_STRONGEST - 0.04) * ((point.found.mean - lowest) / span if span else 0.5)
            axes.add_patch(Rectangle((point.x + 0.02, row + 0.04), 0.96, 0.92, facecolor=BLUE, alpha=tint, linewidth=0))
            mean, _, half = written(panel.figure.show, point.found).partition(" ± ")
            axes.text(point.x + 0.5, row + (0.36 if half else 0.5), mean, color=INK, ha="center", va="center_baseline")
            if half:
                axes.text(
                    point.x + 0.5, row + 0.74, f"± {half}", color=INK, ha="center", va="center_baseline", size=7.5
                )
    for column, heading in enumerate(headings):
        axes.text(column + 0.5, -0.12, heading, color=QUIET, ha="center", va="bottom", linespacing=1.1)


def _headings(panel: Panel) -> list[str]:
    """The columns' words, in lines as wide as a column."""
    letters = max(6, int((_WIDE[0] - _left(panel)) / len(panel.columns) / _LETTER))
    return ["\n".join(textwrap.wrap(column, letters, break_long_words=False)) for column in panel.columns]


def _left(panel: Panel) -> float:
    """Points to leave for the names of the rows."""
    return 10 + 1.15 * _LETTER * max(len(series.label) for series in panel.series)


def _repeated(panel: Panel) -> bool:
    """Whether there are seeds enough for intervals."""
    return any(point.found.half_width is not None for series in panel.series for point in series.points)


def _scale(panel: Panel) -> float:
    return 100.0 if is_share(panel.figure.show) else 1.0


def _description(panel: Panel) -> str:
    """Every number of the picture in sentences, for those who cannot see it."""
    unit = " %" if is_share(panel.figure.show) else ""
    return " ".join(
        f"{series.label or key_words(panel.figure.show)}: {_spoken(panel, series.points, unit)}."
        for series in panel.series
    )


def _spoken(panel: Panel, points: Sequence[Point], unit: str) -> str:
    return ", ".join(f"{written(panel.figure.show, point.found)}{unit} at {point.at}" for point in points)
