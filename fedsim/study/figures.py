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
    """An estimate at ``x``, which is infinite for a cell without noise; in a table of words ``x`` counts columns."""

    x: float
    at: str
    found: Estimate


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


def front(panel: Panel) -> list[tuple[Series, Point]]:
    """The Pareto front, by epsilon: the points that none beats in the mean at an epsilon as small or smaller.

    >>> means = {2: 0.9, 1: 0.8, 4: 0.85}
    >>> found = {x: Estimate(mean=y, half_width=None, median=y, n=1) for x, y in means.items()}
    >>> several = Series(label="", points=tuple(Point(x=x, at=str(x), found=found[x]) for x in means))
    >>> panel = Panel(figure=Figure(against=EPSILON), label="", series=(several,), columns=())
    >>> [point.x for _, point in front(panel)]
    [1, 2]
    """
    every = [(series, point) for series in panel.series for point in series.points]
    best: list[tuple[Series, Point]] = []
    for series, point in sorted(every, key=lambda pair: (pair[1].x, -pair[1].found.mean)):
        if not best or point.found.mean > best[-1][1].found.mean:
            best.append((series, point))
    return best


def traded(figure: Figure) -> bool:
    """Whether epsilon buys what a figure shows: accuracy, of which more is better; what an attack finds is not."""
    return figure.against == EPSILON and "accuracy" in figure.show


def place(figure: Figure, row: Row) -> float | None:
    """Where a cell stands on the axis; None where that is words. Without noise, epsilon is infinite."""
    value = row.cell.value(figure.against)
    if figure.against == EPSILON and value is None:
        spent = row.estimates.get(EPSILON)
        return spent.mean if spent else math.inf
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def row_at(figure: Figure, row: Row) -> str:
    """The same in words."""
    x = place(figure, row)
    if x is None:
        return worded(row.cell.value(figure.against))
    return "no noise" if math.isinf(x) else f"{x:g}"


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


def _points(figure: Figure, rows: Sequence[Row], columns: Sequence[str]) -> tuple[Point, ...]:
    return tuple(sorted(_placed(figure, rows, columns), key=lambda point: point.x))


def _placed(figure: Figure, rows: Sequence[Row], columns: Sequence[str]) -> Iterator[Point]:
    for row in rows:
        at, x = row_at(figure, row), place(figure, row)
        yield Point(x=columns.index(at) if columns or x is None else x, at=at, found=row.estimates[figure.show])


def _labels(key: str | None, rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(_label(row.cell, key) for row in rows))


def _label(cell: Cell, key: str | None) -> str:
    if key is None:
        return ""
    value = cell.value(key)
    return worded(value if isinstance(value, Mapping) else {key_words(key): value})
