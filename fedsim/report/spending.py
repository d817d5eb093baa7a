"""Pictures of a private run: epsilon, the clip and what it cuts, and noise, by round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy_settings import Central, DpSgd, Local
from fedsim.report.drawing import (
    BLUE,
    LINES,
    ORANGE,
    PURPLE,
    QUIET,
    LineStyle,
    Picture,
    label_ends,
    plot_area,
    plot_line,
    svg,
)
from fedsim.report.folder import Record, RunFolder, column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = NDArray[np.float64]
Line = tuple[str, Values, str, LineStyle]
"""A label, what is drawn, its hue and its dashes."""

_SIZE = (340, 220)


def private_rounds(run: RunFolder) -> list[Record]:
    """What each round of training adds to its row about privacy, with the round's number, oldest first."""
    return [{"round": row["round"], **row["privacy"]} for row in run.rounds if "privacy" in row]


def spending_pictures(run: RunFolder) -> tuple[Picture, ...]:
    """Those of epsilon, clip, share within it and noise that the run's mechanism has."""
    return tuple(_pictures(run)) if private_rounds(run) else ()


def _pictures(run: RunFolder) -> Iterator[Picture]:
    rounds = private_rounds(run)
    numbers, epsilon = column(rounds, "round"), column(rounds, "epsilon")
    norms, share, ratio = (column(rounds, name) for name in ("median_norm", "unclipped", "noise_to_signal"))
    if np.isfinite(epsilon).any():
        yield _epsilon(run, numbers, epsilon)
    if not isinstance(run.config.privacy, Local | DpSgd) and np.isfinite(norms).any():  # theirs have noise in them
        yield _clip(numbers, column(rounds, "clip"), norms)
        yield _share(run, numbers, share)
    if np.nanmax(ratio, initial=0) > 0:
        yield _noise(numbers, ratio)


def _epsilon(run: RunFolder, numbers: Values, epsilon: Values) -> Picture:
    planned, budget = run.config.federation.rounds, run.privacy.get("budget")

    def draw(figure: Figure) -> None:
        axes = plot_area(figure, unit="", x_label="round", ends=("budget",))
        axes.set_ylim(0, 1.08 * max(epsilon[-1], budget or 0))
        _draw(axes, np.append(0, numbers), [("spent", np.append(0, epsilon), BLUE, "-")], _level(budget, "budget"))
        axes.set_xlim(0, planned)

    return _picture(
        draw,
        name="epsilon",
        title="Epsilon spent",
        description=f"{epsilon[-1]:.4g} by round {numbers[-1]:.0f}{f' of a budget of {budget:g}' if budget else ''}.",
        caption=(
            "What all rounds so far cost together: an upper bound, at the run's delta, by the accountant named below. "
            "It follows from the noise and from who may take part, and tells nothing of the data."
        ),
    )


def _clip(numbers: Values, clip: Values, norms: Values) -> Picture:
    def draw(figure: Figure) -> None:
        axes = plot_area(figure, unit="", x_label="round", ends=("median",))
        _logarithmic(axes)
        _draw(axes, numbers, [("clip", clip, ORANGE, LINES[1]), ("median", norms, BLUE, "-")])

    return _picture(
        draw,
        name="clip",
        title="Clip and median norm",
        description=f"{_ends('clip', clip, '{:.4g}')} {_ends('median norm', norms, '{:.4g}')}",
        caption=(
            "How long an update may be (Euclidean norm), and the median of the cohort's norms before the longer ones "
            "are cut, on a logarithmic axis. The median is not covered by epsilon."
        ),
    )


def _share(run: RunFolder, numbers: Values, share: Values) -> Picture:
    settings = run.config.privacy
    aim = settings.clip_quantile if isinstance(settings, Central) else None

    def draw(figure: Figure) -> None:
        axes = plot_area(figure, unit="%", x_label="round", ends=("within",))
        axes.set_ylim(-2, 102)
        _draw(axes, numbers, [("within", 100 * share, BLUE, "-")], _level(aim and 100 * aim, "aim"))

    moves = "" if aim is None else " The clip moves so that the share nears its aim, by a count that has noise."
    return _picture(
        draw,
        name="within-clip",
        title="Updates within the clip",
        description=_ends("within the clip", share, "{:.2%}"),
        caption=f"The share of the cohort's updates that are not cut. Epsilon does not cover it.{moves}",
    )


def _noise(numbers: Values, ratio: Values) -> Picture:
    def draw(figure: Figure) -> None:
        axes = plot_area(figure, unit="", x_label="round", ends=("noise",))
        _logarithmic(axes)
        _draw(axes, numbers, [("noise", np.where(ratio > 0, ratio, np.nan), PURPLE, "-")], _level(1.0, "signal", QUIET))

    return _picture(
        draw,
        name="noise",
        title="Noise to signal",
        description=_ends("noise to signal", ratio, "{:.4g}"),
        caption=(
            "How long a round's noise is beside the sum of the clipped updates that it is added to, on a logarithmic "
            "axis. Over many rounds updates add up more than noise does. Not covered by epsilon."
        ),
    )


def _picture(draw: Callable[[Figure], None], *, name: str, title: str, description: str, caption: str) -> Picture:
    drawn = svg(draw, name=name, title=title, description=description, size=_SIZE)
    return Picture(title=title, svg=drawn, caption=caption)


def _level(height: float | None, label: str, hue: str = ORANGE) -> tuple[float, str, str] | None:
    return None if height is None else (height, label, hue)


def _draw(axes: Axes, numbers: Values, lines: Sequence[Line], level: tuple[float, str, str] | None = None) -> None:
    """Lines over rounds and a dashed level, each labelled at its right end."""
    ends: list[tuple[float, str, str]] = []
    for label, values, hue, line in lines:
        plot_line(axes, numbers, values, hue=hue, line=line)
        ends.append((float(values[np.isfinite(values)][-1]), label, hue))
    if level:
        axes.axhline(level[0], color=level[2], linestyle=LINES[2], linewidth=1.4)
        ends.append(level)
    axes.set_xlim(0, max(1, numbers.max()))
    axes.locator_params(axis="x", integer=True, nbins=5)
    label_ends(axes, ends)


def _logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _plain(value: float, _position: object) -> str:
    return f"{value:g}"


def _ends(label: str, values: Values, form: str) -> str:
    known = values[np.isfinite(values)]
    return f"{label}: from {form.format(known[0])} to {form.format(known[-1])}." if known.size else f"{label}: unknown."
