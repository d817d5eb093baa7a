"""What a study's figures show, before anything is drawn: which cells, in which series, at which x, and the front."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedsim.study.file import Figure
from fedsim.study.nested import worded
from fedsim.study.plan import EPSILON, Cell
from fedsim.study.table import Estimate, Row

_WRITTEN = {"auc": "AUC", "psnr": "PSNR", "ssim": "SSIM", "tpr": "TPR", "l1": "L1 error"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """An estimate at ``x``, which is infinite for a cell without noise; in a table of words ``x`` counts columns.

    ``at`` is x in words, and ``meaning`` what the cell's epsilon means, as in `Row`.
    """

    x: float
    at: str
    found: Estimate
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """The points of one kind of cell, in the order of x; without a series of its own, the ``label`` is empty."""

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """All that stands in one picture. ``columns`` are the words it is drawn against, none for numbers."""

    figure: Figure
    label: str
    series: tuple[Series, ...]
    columns: tuple[str, ...]

    @property
    def title(self) -> str:
        """What the picture shows."""
        against = "by" if self.columns else "against"
        words = f"{key_words(self.figure.show)} {against} {key_words(self.figure.against)}"
        return f"{words[0].upper()}{words[1:]}" + (f": {self.label}" if self.label else "")


def panels(figure: Figure, rows: Sequence[Row]) -> list[Panel]:
    """The pictures of one figure; empty where no run holds the number that it shows."""
    shown = [row for row in rows if figure.show in row.estimates and row_at(figure, row) != "–"]
    words = any(place(figure, row) is None for row in shown)
    columns = tuple(dict.fromkeys(row_at(figure, row) for row in shown)) if words else ()
    found: list[Panel] = []
    for label in _labels(figure.panels, shown):
        here = [row for row in shown if _label(row.cell, figure.panels) == label]
        series = tuple(
            Series(
                label=name,
                points=_points(figure, [row for row in here if _label(row.cell, figure.series) == name], columns),
            )
            for name in _labels(figure.series, here)
        )
        found.append(Panel(figure=figure, label=label, series=series, columns=columns))
    return found


Front = list[tuple[Series, Point]]


def fronts(panel: Panel) -> dict[str, Front]:
    """The Pareto front of every meaning that epsilon has here, for accuracy, which is what epsilon buys.

    A front holds the points that none of its meaning beats in the mean at an epsilon as small or smaller. Training
    without noise, whose epsilon is infinite whatever it means, may stand in each.
    """
    if panel.figure.against != EPSILON or "accuracy" not in panel.figure.show:
        return {}
    every = [(series, point) for series in panel.series for point in series.points]
    return {
        meaning: _unbeaten([pair for pair in every if pair[1].meaning == meaning or math.isinf(pair[1].x)])
        for meaning in meanings(panel)
    }


def meanings(panel: Panel) -> dict[str, list[str]]:
    """What epsilon means here, each with the labels of the series that it is so in."""
    found: dict[str, list[str]] = {}
    if panel.figure.against == EPSILON:
        for series in panel.series:
            for meaning in dict.fromkeys(point.meaning for point in series.points if math.isfinite(point.x)):
                found.setdefault(meaning, []).append(series.label)
    return found


def meaning_words(found: Mapping[str, Sequence[str]]) -> str:
    """What epsilon means, and of which cells where that differs: without it, an epsilon says nothing.

    >>> meaning_words({"add or remove one client, delta 1e-05": ["central"]})
    'Epsilon means: add or remove one client, delta 1e-05.'
    """
    if len(found) < 2:
        return "".join(f"Epsilon means: {meaning}." for meaning in found)
    named = [f"{meaning} ({', '.join(labels)})" if any(labels) else meaning for meaning, labels in found.items()]
    return f"Epsilon does not mean the same everywhere, and cannot be compared across: {'; '.join(named)}."


def place(figure: Figure, row: Row) -> float | None:
    """Where a cell stands on the axis; None where that is words, or an epsilon that no run has told.

    Epsilon is the budget that noise was calibrated for, what was spent where the noise was given, and infinite without.
    """
    if figure.against == EPSILON:
        spent = row.estimates.get(EPSILON)
        return row.cell.epsilon or (spent.mean if spent else None)
    value = row.cell.value(figure.against)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def row_at(figure: Figure, row: Row) -> str:
    """The same in words."""
    x = place(figure, row)
    if x is None:
        return worded(None if figure.against == EPSILON else row.cell.value(figure.against))
    if figure.against == EPSILON:
        return "no noise" if math.isinf(x) else f"{x:.4g}"
    return f"{x:g}"


def key_words(key: str) -> str:
    """A dotted key for people.

    >>> [key_words(key) for key in ("privacy.epsilon", "strategy.name", "client_accuracy.worst_decile_mean")]
    ['epsilon', 'strategy', 'client accuracy, worst decile mean']
    >>> key_words("attacks.inversion.psnr_each")
    'inversion, PSNR each'
    """
    *above, last = key.split(".")
    if above[:1] == ["attacks"]:
        above = above[1:]
    elif above[:1] not in (["client_accuracy"], ["baselines"]):
        above, last = [], above[-1] if above and last == "name" else last
    return " ".join(_WRITTEN.get(word, word) for word in ", ".join([*above, last]).replace("_", " ").split(" "))


def _unbeaten(every: Front) -> Front:
    best: Front = []
    for series, point in sorted(every, key=lambda pair: (pair[1].x, -pair[1].found.mean)):
        if not best or point.found.mean > best[-1][1].found.mean:
            best.append((series, point))
    return best


def _points(figure: Figure, rows: Sequence[Row], columns: Sequence[str]) -> tuple[Point, ...]:
    return tuple(sorted(_placed(figure, rows, columns), key=lambda point: point.x))


def _placed(figure: Figure, rows: Sequence[Row], columns: Sequence[str]) -> Iterator[Point]:
    for row in rows:
        at, x = row_at(figure, row), place(figure, row)
        along = columns.index(at) if columns or x is None else x
        yield Point(x=along, at=at, found=row.estimates[figure.show], meaning=row.meaning)


def _labels(key: str | None, rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(_label(row.cell, key) for row in rows))


def _label(cell: Cell, key: str | None) -> str:
    if key is None:
        return ""
    value = cell.value(key)
    return worded(value if isinstance(value, Mapping) else {key_words(key): value})
