"""Curves of learning: accuracy and loss by round, with the baselines beside, and what a comparison measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedsim.report.drawing import (
    BLUE,
    GREEN,
    HUES,
    LINES,
    ORANGE,
    PURPLE,
    LineStyle,
    Picture,
    label_ends,
    plot_area,
    plot_line,
    svg,
)
from fedsim.report.folder import Record, RunFolder, column
from fedsim.report.headline import alone_accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (340, 240)
_NAME = 24
_BEST = 0.9999
_ACCURACIES = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, _BEST)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A labelled line: ``x`` in training examples processed, ``y`` finite; both ``float64[points]``."""

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    hue: str
    line: LineStyle = "-"


def examples_processed(run: RunFolder) -> NDArray[np.float64]:
    """Training examples processed by the end of each round, ``float64[rounds]``: cohort's examples x local epochs.

    Raises ``ValueError`` where ``config.json`` leaves ``training.epochs`` open.
    """
    epochs = run.config.training.epochs
    if epochs is None:
        raise ValueError("config.json: training.epochs is null; a run writes the number it used")
    return np.cumsum(np.nan_to_num(column(run.rounds, "examples"))) * epochs


def accuracy_picture(run: RunFolder) -> Picture:
    """Test accuracy of the federated model, of central training and of clients training alone."""
    curves = [_federated(run, "test_accuracy", "federated", BLUE), *_central(run, "test_accuracy")]
    alone = alone_accuracy(run)
    caption = (
        "Share of the test set that the global model labels correctly after each round; the axis is spaced by the "
        f"logarithm of the error and ends at {100 * _BEST:.2f} %. Rounds stand below, and above them the training "
        "examples processed so far (the cohort's examples times local epochs), by which all curves compare."
    )
    if len(curves) > 1:
        caption += " Central: the same model trained on all examples in one place."
    if alone is not None:
        caption += (
            " Alone: the mean of phones that each train on their own examples only, for as many as a phone of the "
            "federation trained on, on average."
        )
    title = "Test accuracy"
    return Picture(
        title=title,
        svg=svg(
            lambda figure: _draw_accuracy(figure, run, curves, alone),
            name="accuracy",
            title=title,
            description=" ".join(_ends(curve, "{:.2%}") for curve in curves),
            size=_SIZE,
        ),
        caption=caption,
    )


def loss_picture(run: RunFolder) -> Picture:
    """Training and test loss of the federated model, and test loss of central training."""
    curves = [
        _federated(run, "test_loss", "federated, test", BLUE),
        _federated(run, "train_loss", "federated, training", PURPLE, LINES[2]),
        *_central(run, "test_loss", ", test"),
    ]
    title = "Loss"
    return Picture(
        title=title,
        svg=svg(
            lambda figure: _draw_loss(figure, run, curves),
            name="loss",
            title=title,
            description=" ".join(_ends(curve, "{:.4g}") for curve in curves),
            size=_SIZE,
        ),
        caption=(
            "The contract's loss, mean over examples, on a logarithmic axis. Test: the global model on the test set "
            "after each round. Training: what the cohort's phones report of their own examples while they train."
        ),
    )


def epoch_losses_picture(curves: Sequence[Record]) -> Picture:
    """The training losses, epoch by epoch, of what a comparison puts side by side."""
    title = "Training loss by epoch"
    drawn = [
        Curve(
            label=_shortened(curve["name"]),
            x=np.arange(1, len(curve["epoch_losses"]) + 1, dtype=np.float64),
            y=column([{"loss": loss} for loss in curve["epoch_losses"]], "loss"),
            hue=HUES[i % len(HUES)],
            line=LINES[i % len(LINES)],
        )
        for i, curve in enumerate(curves)
    ]
    return Picture(
        title=title,
        svg=svg(
            lambda figure: _draw_epochs(figure, drawn),
            name="epochs",
            title=title,
            description=" ".join(_ends(curve, "{:.4g}") for curve in drawn),
            size=_SIZE,
        ),
        caption="Mean loss over the training examples of each epoch, on a logarithmic axis (comparison.json). Curves "
        "that agree lie on one another: the first is drawn widest.",
    )


def accuracy_axis(axes: Axes, accuracies: NDArray[np.float64]) -> None:
    """Lay the y axis out for `error_of` what is drawn: spaced by log error, labelled in accuracy."""
    finite = accuracies[np.isfinite(accuracies)]
    lowest, highest = (finite.min(), min(finite.max(), _BEST)) if finite.size else (0.0, 0.99)
    start = max(value for value in _ACCURACIES[:-1] if value <= max(lowest, 0))
    end = min(value for value in _ACCURACIES if value >= highest and value > start)
    ticks = [value for value in _ACCURACIES if start <= value <= end]
    axes.set_yscale("log")
    axes.set_ylim(1 - start, 1 - end)
    axes.set_yticks([1 - value for value in ticks], [f"{100 * value:.10g}" for value in ticks])
    axes.set_yticks([], minor=True)


def error_of(accuracy: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """1 - accuracy, at least what the axis can show."""
    return np.maximum(1 - np.asarray(accuracy, dtype=np.float64), 1 - _BEST)


def _federated(run: RunFolder, field: str, label: str, hue: str, line: LineStyle = "-") -> Curve:
    y = column(run.rounds, field)
    measured = np.isfinite(y)
    return Curve(label=label, x=examples_processed(run)[measured], y=y[measured], hue=hue, line=line)


def _central(run: RunFolder, field: str, suffix: str = "") -> list[Curve]:
    if not run.baselines.get("central"):
        return []
    points = run.baselines["central"]["curve"]
    y = column(points, field)
    measured = np.isfinite(y)
    x = column(points, "examples")[measured]
    return [Curve(label=f"central{suffix}", x=x, y=y[measured], hue=ORANGE, line=LINES[1])]


def _draw_accuracy(figure: Figure, run: RunFolder, curves: Sequence[Curve], alone: float | None) -> None:
    axes = plot_area(figure, unit="%", x_label="round", ends=("alone, mean",), above=38)
    shown = np.concatenate([curve.y for curve in curves] + [np.array([] if alone is None else [alone])])
    accuracy_axis(axes, shown)
    ends: list[tuple[float, str, str]] = []
    for curve in curves:
        plot_line(axes, curve.x, error_of(curve.y), hue=curve.hue, line=curve.line)
        ends += [(float(error_of(curve.y)[-1]), curve.label, curve.hue)] if curve.y.size else []
    if alone is not None:
        axes.axhline(float(error_of(alone)), color=GREEN, linestyle=LINES[2], linewidth=1.4)
        ends.append((float(error_of(alone)), "alone, mean", GREEN))
    _progress_axes(axes, run, curves)
    label_ends(axes, ends)


def _draw_loss(figure: Figure, run: RunFolder, curves: Sequence[Curve]) -> None:
    axes = plot_area(figure, unit="", x_label="round", ends=[curve.label for curve in curves], above=38)
    _plot_losses(axes, curves)
    _progress_axes(axes, run, curves)
    label_ends(axes, [(curve.y[-1], curve.label, curve.hue) for curve in curves if curve.y.size])


def _draw_epochs(figure: Figure, curves: Sequence[Curve]) -> None:
    axes = plot_area(figure, unit="", x_label="epoch", ends=[curve.label for curve in curves])
    _plot_losses(axes, curves)
    axes.locator_params(axis="x", integer=True)
    label_ends(axes, [(curve.y[-1], curve.label, curve.hue) for curve in curves if curve.y.size])


def _plot_losses(axes: Axes, curves: Sequence[Curve]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    for i, curve in enumerate(curves):
        drawable = np.where(curve.y > 0, curve.y, np.nan)
        plot_line(axes, curve.x, drawable, hue=curve.hue, line=curve.line, width=max(1.2, 3.0 - 0.9 * i))
    lowest, highest = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest < 300 * lowest else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _progress_axes(axes: Axes, run: RunFolder, curves: Sequence[Curve]) -> None:
    """Rounds below, where each ended on the axis of training examples processed, which stands above."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ends = dict(zip(column(run.rounds, "round").astype(int), examples_processed(run), strict=True))
    wanted = MaxNLocator(nbins=5, integer=True).tick_values(0, max(ends, default=1))
    shown = [int(number) for number in wanted if number in ends]
    axes.set_xlim(0, max([1.0, *(float(curve.x.max()) for curve in curves if curve.x.size)]))
    axes.set_xticks([ends[number] for number in shown], [str(number) for number in shown])
    above = axes.secondary_xaxis("top")
    above.xaxis.set_major_locator(MaxNLocator(nbins=3))
    above.xaxis.set_major_formatter(FuncFormatter(_thousands))
    above.spines["top"].set_visible(False)
    above.tick_params(length=0, pad=1)
    above.set_xlabel("training examples processed", labelpad=4)


def _plain(value: float, _position: object) -> str:
    return f"{value:g}"


def _thousands(value: float, _position: object) -> str:
    return f"{value / 1000:,g}k" if value else "0"


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _ends(curve: Curve, form: str) -> str:
    """The curve in a sentence."""
    if not curve.y.size:
        return f"{curve.label}: nothing recorded."
    return f"{curve.label}: from {form.format(curve.y[0])} to {form.format(curve.y[-1])}."
