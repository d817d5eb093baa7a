"""Which labels each client holds, as one picture; it needs the partition only, so it can be had before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedsim.report.drawing import INK, QUIET, Picture, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 500
_SIZE = (704, 250)
_TINT = (0.16, 0.50, 0.76)
"""The heat map's one colour, between the light and the dark page; its opacity is the share."""


def label_distribution_svg(label_counts: NDArray[np.int64]) -> str:
    """Draw ``label_counts`` (``int64[clients, labels]``, examples of each label) as one ``<svg>`` element.

    Below, a heat map: clients across in the order of their ids, labels up, and a cell as strong as the label's
    share of the client's examples; above it, how many examples each client holds. More than 500 clients are drawn in
    columns of equally many neighbours, whose counts are added.

    Raises ``ValueError`` where ``label_counts`` is not a table of at least one client and one label.
    """
    if label_counts.ndim != 2 or 0 in label_counts.shape:
        raise ValueError(f"label_counts must be [clients, labels] with at least one of each, got {label_counts.shape}")
    clients, labels = label_counts.shape
    return svg(
        lambda figure: _draw(figure, label_counts),
        name="labels",
        title="Labels each client holds",
        description=f"Heat map of {clients:,} clients by {labels:,} labels. " + describe(label_counts),
        size=_SIZE,
    )


def label_picture(label_counts: NDArray[np.int64]) -> Picture:
    """`label_distribution_svg` with its caption."""
    joined = _clients_a_column(len(label_counts))
    caption = (
        "A column is a client, in the order of ids; a cell is as strong as the label's share of that client's training "
        "examples (label count / client's examples, clients.npz). The bars above count the client's examples."
    )
    if joined > 1:
        caption += f" Each column adds up {joined} neighbouring clients, the bars are their mean."
    return Picture(
        title="Labels each client holds", svg=label_distribution_svg(label_counts), caption=caption, wide=True
    )


def describe(label_counts: NDArray[np.int64]) -> str:
    """The distribution in a sentence, for those who cannot see the picture."""
    examples, held = label_counts.sum(axis=1), (label_counts > 0).sum(axis=1)
    return (
        f"A client holds {examples.min():,} to {examples.max():,} examples of {held.min()} to {held.max()} labels; "
        f"one label makes up at most {100 * _shares(label_counts).max():.0f} % of a client's examples."
    )


def _draw(figure: Figure, label_counts: NDArray[np.int64]) -> None:
    clients, labels = label_counts.shape
    joined = _clients_a_column(clients)
    columns = np.add.reduceat(label_counts, np.arange(0, clients, joined))
    edges = np.append(np.arange(0, clients, joined), clients) - 0.5
    shares = _shares(columns)

    bars = figure.add_axes((0.07, 0.76, 0.78, 0.16), facecolor="none")
    bars.stairs(columns.sum(axis=1) / np.diff(edges), edges, fill=True, color=QUIET)
    bars.set(xlim=(-0.5, clients - 0.5), xticks=[], ylim=(0, None))
    bars.locator_params(axis="y", nbins=2)
    figure.text(0.0, 0.96, "examples", color=QUIET)

    heat = figure.add_axes((0.07, 0.15, 0.78, 0.50), facecolor="none")
    heat.grid(visible=False)
    # A ragged last column is drawn as wide as it is, so the picture is cut where the clients end.
    extent = (-0.5, len(columns) * joined - 0.5, -0.5, labels - 0.5)
    _image(heat, shares.T / max(shares.max(), 1e-12), extent)
    heat.set(xlim=(-0.5, clients - 0.5), xlabel="client")
    heat.locator_params(axis="x", integer=True)
    heat.locator_params(axis="y", integer=True, nbins=10)
    figure.text(0.0, 0.69, "label", color=QUIET)
    _key(figure, top=shares.max())


def _key(figure: Figure, *, top: float) -> None:
    """The strip that says which share is how strong."""
    key = figure.add_axes((0.89, 0.15, 0.018, 0.50), facecolor="none")
    key.grid(visible=False)
    _image(key, np.linspace(0, 1, 32)[:, None], (0, 1, 0, 1))
    key.set(xticks=[], yticks=[])
    key.text(1.4, 1, f"{100 * top:.0f} %", color=INK, va="top")
    key.text(1.4, 0, "0 %", color=INK, va="bottom")
    figure.text(0.89, 0.69, "share", color=QUIET)


def _image(axes: Axes, opacity: NDArray[np.float64], extent: tuple[float, float, float, float]) -> None:
    """One pixel an entry, left to the reader's browser to enlarge."""
    pixels = np.concatenate([np.broadcast_to(_TINT, (*opacity.shape, 3)), opacity[:, :, None]], axis=2)
    axes.imshow(pixels, extent=extent, origin="lower", aspect="auto", interpolation="none")


def _shares(label_counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each row over its sum, ``float64[clients, labels]``; a client without examples has shares of zero."""
    return label_counts / np.maximum(label_counts.sum(axis=1, keepdims=True), 1)


def _clients_a_column(clients: int) -> int:
    return -(-clients // _COLUMNS)
