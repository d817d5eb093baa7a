"""What an attacker on one round holds: the model sent, the orders given, and what came back, one by one or together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.coreml.contract import Contract
from fedsim.data.dataset import Examples
from fedsim.updates import LocalTraining, Weights


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerView:
    """Everything that an attacker on one round may look at; an attack reads nothing else.

    Phones were sent ``weights`` and told ``training``. An update is the trained model less ``weights``; ``updates``
    are ``float32[rows, P]``: one of each phone, or a single row, their mean. ``examples`` ``float64[rows]`` says how
    many examples the phone has, or phones have on average. ``public`` are examples of the same kind as the phones', but
    nobody's: what everyone has, with labels in ``range(classes)``.

    Raises ``ValueError`` for updates of another shape.
    """

    contract: Contract
    training: LocalTraining
    weights: Weights
    updates: NDArray[np.float32]
    examples: NDArray[np.float64]
    public: Examples
    classes: int

    def __post_init__(self) -> None:
        rows = len(self.examples)
        if self.updates.shape != (rows, len(self.weights)):
            raise ValueError(f"updates are {list(self.updates.shape)}; they must be [{rows}, {len(self.weights)}]")
