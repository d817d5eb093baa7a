"""What gradient inversion rebuilt, beside the originals: a grid of images, a row for each of the server's views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.report.drawing import QUIET, Picture, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL, _GAP, _NAMES, _NOTE = 56, 8, 120, 14
"""Points: an image's side, the space around it, the column of names on the left, a line of text."""


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """A row of the grid: its ``name``, ``images [n, channels, height, width]`` in [0, 1], and a note under each.

    One channel is shown in grey, three in colour. ``notes`` are n short texts, or none.
    """

    name: str
    images: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def reconstruction_picture(rows: Sequence[ImageRow], *, caption: str) -> Picture:
    """The grid of ``rows``, one under the other; a column is one original and what each view made of it.

    Raises:
        ValueError: the rows differ in how many images they hold, or an image has neither one nor three channels.
    """
    counts = {len(row.images) for row in rows}
    if len(counts) != 1 or any(row.notes and len(row.notes) != len(row.images) for row in rows):
        raise ValueError(f"rows must hold equally many images, with a note for each or none, got {sorted(counts)}")
    for row in rows:
        if row.images.ndim != 4 or row.images.shape[1] not in (1, 3):
            raise ValueError(f"images must be [n, 1 or 3, height, width], got {list(row.images.shape)}")
    (columns,) = counts
    title = "Images rebuilt from updates"
    notes = "; ".join(f"{row.name}: {', '.join(row.notes)}" for row in rows if row.notes)
    size = (_NAMES + columns * (_CELL + _GAP), sum(map(_height, rows)))
    picture = svg(
        lambda figure: _draw(figure, rows),
        name="reconstructions",
        title=title,
        description=f"A grid of {len(rows)} rows of {columns} images. {notes}",
        size=size,
    )
    return Picture(title=title, svg=picture, caption=caption, wide=True)


def _height(row: ImageRow) -> int:
    return _CELL + _GAP + (_NOTE if row.notes else 0)


def _draw(figure: Figure, rows: Sequence[ImageRow]) -> None:
    width, height = (float(inches) * 72 for inches in figure.get_size_inches())
    top = height
    for row in rows:
        middle = (top - _CELL / 2) / height
        figure.text(0, middle, row.name, va="center")
        for i, image in enumerate(row.images):
            left = _NAMES + i * (_CELL + _GAP)
            axes = figure.add_axes((left / width, (top - _CELL) / height, _CELL / width, _CELL / height))
            axes.set_axis_off()
            axes.imshow(_pixels(image), interpolation="none")
            if row.notes:
                centre = (left + _CELL / 2) / width
                figure.text(centre, (top - _CELL - 10) / height, row.notes[i], ha="center", color=QUIET)
        top -= _height(row)


def _pixels(image: NDArray[np.float64]) -> NDArray[Any]:
    """``[height, width, 3]`` bytes."""
    eight = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return np.broadcast_to(eight.transpose(1, 2, 0), (*image.shape[1:], 3))
