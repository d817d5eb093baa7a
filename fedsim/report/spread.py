"""How unequal clients fare: the final accuracy of each, and how the spread moved by round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedsim.report.drawing import BLUE, LINES, ORANGE, PURPLE, QUIET, Picture, label_ends, plot_area, plot_line, svg
from fedsim.report.folder import RunFolder, column
from fedsim.report.learning import accuracy_axis, error_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (340, 220)
_DOTS = 400


def worst_tenth(accuracy: NDArray[np.float64]) -> NDArray[np.int64]:
    """The ids of the tenth of clients with the lowest accuracy, lowest first, ties by id.

    ``accuracy`` is ``float64[clients]``, nan where a client has no test examples: those do not count. The tenth is
    rounded down, but it is at least one client where there is any.

    >>> worst_tenth(np.array([0.9, np.nan, 0.5, 0.7]))
    array([2])
    """
    ascending = np.argsort(accuracy, kind="stable")  # nan last
    return ascending[: tenth(int(np.isfinite(accuracy).sum()))]


def tenth(clients: int) -> int:
    """How many of ``clients`` the lowest tenth is."""
    return min(clients, max(1, clients // 10))


def client_accuracy_picture(accuracy: NDArray[np.float64]) -> Picture:
    """Every client's accuracy, ascending; ``accuracy`` as `worst_tenth` takes it."""
    values = np.sort(accuracy[np.isfinite(accuracy)])
    every = max(1, -(-len(values) // _DOTS))
    title = "Accuracy of each client"
    caption = (
        "Share of each client's own part of the test set that the last global model labels correctly, clients in "
        "ascending order; in orange the lowest tenth. Clients without test examples are left out."
    )
    if every > 1:
        caption += f" One client in {every} is drawn."
    return Picture(
        title=title,
        svg=svg(
            lambda figure: _draw_clients(figure, values, every),
            name="clients",
            title=title,
            description=f"{len(values):,} clients, from {values[0]:.2%} over a median of {np.median(values):.2%} "
            f"to {values[-1]:.2%}.",
            size=_SIZE,
        ),
        caption=caption,
    )


def client_rounds_picture(run: RunFolder) -> Picture:
    """Mean, 10th percentile and minimum over clients of the accuracy after each round, as far as they were measured."""
    title = "Accuracy over clients, by round"
    fields = (("mean", "mean"), ("10th percentile", "p10"), ("lowest", "min"))
    curves = {name: column(run.rounds, "client_accuracy", field) for name, field in fields}
    curves = {name: accuracy for name, accuracy in curves.items() if np.isfinite(accuracy).any()}
    return Picture(
        title=title,
        svg=svg(
            lambda figure: _draw_rounds(figure, column(run.rounds, "round"), curves),
            name="client-rounds",
            title=title,
            description=" ".join(
                f"{name}: {values[np.isfinite(values)][-1]:.2%} at the end." for name, values in curves.items()
            ),
            size=_SIZE,
        ),
        caption=(
            "The global model after each round on every client's own part of the test set: the mean over clients, the "
            "accuracy that nine in ten clients reach, and the lowest. The axis is spaced by the logarithm of the error."
        ),
    )


def _draw_clients(figure: Figure, values: NDArray[np.float64], every: int) -> None:
    axes = plot_area(figure, unit="%", x_label="clients, lowest first", ends=("mean",))
    rank = np.arange(1, len(values) + 1)
    worst = rank <= tenth(len(values))
    for chosen, hue in ((~worst, BLUE), (worst, ORANGE)):
        axes.plot(rank[chosen][::every], 100 * values[chosen][::every], ".", color=hue, markersize=4)
    axes.axhline(100 * values.mean(), color=QUIET, linestyle=LINES[2], linewidth=1.0)
    axes.set_xlim(0, len(values) + 1)
    axes.locator_params(axis="x", integer=True, nbins=5)
    axes.locator_params(axis="y", nbins=5)
    lowest, highest = axes.get_ylim()
    axes.set_ylim(lowest, min(highest, 100.5))
    axes.annotate(
        "lowest tenth",
        (worst.sum(), 100 * values[worst].mean()),
        xytext=(8, 0),
        textcoords="offset points",
        color=ORANGE,
        va="center",
    )
    label_ends(axes, [(100 * values.mean(), "mean", QUIET)])


def _draw_rounds(figure: Figure, rounds: NDArray[np.float64], curves: dict[str, NDArray[np.float64]]) -> None:
    axes = plot_area(figure, unit="%", x_label="round", ends=list(curves))
    accuracy_axis(axes, np.concatenate(list(curves.values())))
    ends: list[tuple[float, str, str]] = []
    for (name, values), hue, line in zip(curves.items(), (BLUE, PURPLE, ORANGE), LINES, strict=False):
        measured = np.isfinite(values)
        plot_line(axes, rounds, error_of(values), hue=hue, line=line)
        ends.append((float(error_of(values[measured])[-1]), name, hue))
    axes.set_xlim(0, max(1, rounds.max()))
    axes.locator_params(axis="x", integer=True, nbins=5)
    label_ends(axes, ends)
