"""What an attacker holds: the server of one round, honest in its work and curious about what comes back."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.coreml.contract import Contract
from fedsim.data.dataset import Examples
from fedsim.updates import LocalTraining, Weights


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerView:
    """Everything the server of one round may look at; an attack reads nothing else.

    It sent ``weights`` and ordered ``training`` of ``clients`` ``int64[C]``. An update is the trained model less
    ``weights``; ``updates`` are ``float32[C, P]``, where it ``sees`` each of them, or one row ``float32[1, P]``: their
    plain sum. ``examples`` says of how many examples each row was made, ``int64[rows]``, as phones report it.
    ``public`` are examples of the same kind as the phones', but nobody's: what everyone has, with labels in
    ``range(classes)``.

    Raises ``ValueError`` for updates of another shape.
    """

    contract: Contract
    training: LocalTraining
    weights: Weights
    clients: NDArray[np.int64]
    updates: NDArray[np.float32]
    examples: NDArray[np.int64]
    sees: Literal["each", "sum"]
    public: Examples
    classes: int

    def __post_init__(self) -> None:
        rows = len(self.clients) if self.sees == "each" else 1
        if self.updates.shape != (rows, len(self.weights)) or self.examples.shape != (rows,):
            raise ValueError(
                f"updates and examples are {list(self.updates.shape)} and {list(self.examples.shape)}; "
                f"a server that sees {self.sees} has [{rows}, {len(self.weights)}] and [{rows}]"
            )


def summed(view: ServerView) -> ServerView:
    """The same round seen by a server that learns nothing but the sum, as under secure aggregation."""
    total = view.updates.sum(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    return replace(view, updates=total, examples=view.examples.sum(keepdims=True), sees="sum")


def noised(view: ServerView, deviation: float, generator: np.random.Generator) -> ServerView:
    """The same round with Gaussian noise of standard ``deviation`` in every number of ``updates``."""
    noise = deviation * generator.standard_normal(view.updates.shape)
    return replace(view, updates=(view.updates + noise).astype(np.float32))
