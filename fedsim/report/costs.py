"""What a run cost: bytes that travelled, and seconds by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedsim.report.drawing import BLUE, HUES, ORANGE, Picture, label_ends, plot_area, svg
from fedsim.report.folder import RunFolder, column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (340, 220)
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


def traffic(run: RunFolder) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bytes down to the clients and up from them in each round, each ``float64[rounds]``."""
    return np.nan_to_num(column(run.rounds, "bytes_down")), np.nan_to_num(column(run.rounds, "bytes_up"))


def part_seconds(run: RunFolder) -> dict[str, NDArray[np.float64]]:
    """Seconds of each part in each record of ``timings.jsonl``, the longest part first.

    ``float64[records]``, nan where a round had no such part, as round 0 has no training.
    """
    names = dict.fromkeys(name for record in run.timings for name in record["seconds"])
    parts = {name: column(run.timings, "seconds", name) for name in names}
    return dict(sorted(parts.items(), key=lambda part: -np.nansum(part[1])))


def traffic_picture(run: RunFolder) -> Picture:
    """Cumulative bytes down and up."""
    down, up = (np.cumsum(part) for part in traffic(run))
    title = "Bytes down and up, added up"
    return Picture(
        title=title,
        svg=svg(
            lambda figure: _draw_traffic(figure, column(run.rounds, "round"), down, up),
            name="traffic",
            title=title,
            description=f"{down[-1]:,.0f} bytes down and {up[-1]:,.0f} bytes up by the last round.",
            size=_SIZE,
        ),
        caption=(
            "Sum over rounds of bytes_down and bytes_up (rounds.jsonl), all clients of a cohort together, one stacked "
            "on the other. Down is what the server sends to phones, up what they send back. 1 MB = 1,000,000 bytes."
        ),
    )


def time_picture(run: RunFolder) -> Picture:
    """Seconds of every round, by part."""
    parts = part_seconds(run)
    title = "Time of each round, by part"
    return Picture(
        title=title,
        svg=svg(
            lambda figure: _draw_time(figure, column(run.timings, "round"), parts),
            name="time",
            title=title,
            description=" ".join(f"{name}: {np.nansum(seconds):.2f} s in all." for name, seconds in parts.items()),
            size=_SIZE,
        ),
        caption=(
            "Wall-clock seconds of the parts of each round on the machine named below (timings.jsonl), stacked. "
            "A round is evaluated and kept while the next one trains, so the stack is more than the time that passed. "
            "They are what the simulation took, not what phones would take."
        ),
    )


def _draw_traffic(
    figure: Figure, rounds: NDArray[np.float64], down: NDArray[np.float64], up: NDArray[np.float64]
) -> None:
    size, unit = next((size, unit) for size, unit in _UNITS if (down + up)[-1] >= size or size == 1)
    axes = plot_area(figure, unit=unit, x_label="round", ends=("down", "up"))
    axes.fill_between(rounds, down / size, color=BLUE, alpha=0.75, linewidth=0)
    axes.fill_between(rounds, down / size, (down + up) / size, color=ORANGE, alpha=0.75, linewidth=0)
    axes.set(xlim=(0, max(1, rounds.max())), ylim=(0, max(1e-9, 1.04 * (down + up)[-1] / size)))
    axes.locator_params(axis="x", integer=True, nbins=5)
    axes.locator_params(axis="y", nbins=5)
    label_ends(axes, [(down[-1] / size / 2, "down", BLUE), ((down[-1] + up[-1] / 2) / size, "up", ORANGE)])


def _draw_time(figure: Figure, rounds: NDArray[np.float64], parts: dict[str, NDArray[np.float64]]) -> None:
    axes = plot_area(figure, unit="seconds", x_label="round", ends=list(parts))
    numbers = np.arange(rounds.min(), rounds.max() + 1)
    edges = np.append(numbers, numbers[-1] + 1) - 0.5
    floor = np.zeros(len(numbers))
    ends: list[tuple[float, str, str]] = []
    for i, (name, seconds) in enumerate(parts.items()):
        roof = floor.copy()
        np.add.at(roof, (rounds - numbers[0]).astype(int), np.nan_to_num(seconds))
        axes.stairs(roof, edges, baseline=floor, fill=True, color=HUES[i % len(HUES)], alpha=0.75)
        ends.append(((floor[-1] + roof[-1]) / 2, name, HUES[i % len(HUES)]))
        floor = roof
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, max(1e-9, 1.04 * floor.max())))
    axes.locator_params(axis="x", integer=True, nbins=5)
    axes.locator_params(axis="y", nbins=5)
    label_ends(axes, ends)
