"""What labels does a phone hold? Read off the last layer's bias, whose gradient is a count of labels in disguise."""

import numpy as np
from numpy.typing import NDArray

from fedsim.attacks.label_recovery import reach
from fedsim.attacks.shadows import logits
from fedsim.attacks.view import ServerView
from fedsim.coreml.contract import Contract
from fedsim.coreml.layers import InnerProduct
from fedsim.training.native.engine import Engine

Shares = NDArray[np.float64]

PATH = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where between the model sent and the one sent back predictions are looked at."""
_SUM_TO_ONE = 10.0
"""How much heavier it weighs that shares sum to 1 than that one class's gradient is met."""


def label_shares(view: ServerView, *, engine: Engine | None) -> Shares:
    """Which share of each row's examples has which label, ``float64[rows, classes]``: rows sum to 1, none is below 0.

    The gradient of the last bias is the mean of predictions less the labels' shares (Zhao et al. 2020, iDLG, section 3,
    for one example), so SGD moves it by ``reach`` times (shares - predictions), `reach` being the steps' joint size.
    Predictions on the phone's data nobody sees; but for examples of one class they are about those on ``public`` ones
    of that class, on average over the `PATH` that the model took. That makes them linear in the shares, and the shares
    a least-squares problem. The ``engine`` predicts; without one, torch does. The mean of updates tells what their
    phones hold together.

    Raises ``ValueError`` for another optimizer than SGD, a contract whose last layer is not a dense one that updates a
    bias of one number a class, and public examples that lack a class.
    """
    bias = _last_bias(view.contract)
    missing = set(range(view.classes)) - set(view.public.labels.tolist())
    if missing:
        raise ValueError(f"the public examples lack class {min(missing)}; they must hold some of each")
    if view.training.optimizer != "sgd":
        raise ValueError(f"training.optimizer = {view.training.optimizer}: labels are read off SGD's updates only")
    reaches = [reach(view.training, max(1, round(count))) for count in view.examples.tolist()]
    moved = view.updates[:, bias] / np.array(reaches)[:, np.newaxis]
    return np.stack(
        [_solve(_predictions(view, update, engine), found) for update, found in zip(view.updates, moved, strict=True)]
    )


def histogram_error(shares: Shares, truth: Shares) -> NDArray[np.float64]:
    """The L1 distance of each row, ``float64[rows]``: 0 where they agree, 2 where they have no label in common."""
    return np.abs(shares - truth).sum(axis=1)


def _last_bias(contract: Contract) -> slice:
    """Where the weights hold the bias that the softmax's inputs end in."""
    dense = [layer for layer in contract.graph if isinstance(layer, InnerProduct)]
    last = contract.slots[-1]
    if not dense or (last.layer, last.parameter, last.count) != (dense[-1].name, "bias", contract.classes):
        raise ValueError("labels are read off the bias of a last dense layer; this contract trains none")
    return slice(contract.parameters - last.count, contract.parameters)


def _predictions(view: ServerView, update: NDArray[np.float32], engine: Engine | None) -> Shares:
    """Mean prediction for public examples of each class, averaged over the path: ``[classes, outputs]``."""
    path = (view.weights + np.outer(PATH, update)).astype(np.float32)
    scores = logits(view.contract, path, view.public, engine=engine).astype(np.float64)
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    found = (exponentials / exponentials.sum(axis=-1, keepdims=True)).mean(axis=0)
    return np.stack([found[view.public.labels == label].mean(axis=0) for label in range(view.classes)])


def _solve(predictions: Shares, moved: NDArray[np.float64]) -> Shares:
    """Shares ``s >= 0`` that sum to 1 and for which ``s - predictions.T @ s`` comes nearest to ``moved``."""
    from scipy.optimize import nnls  # here, as importing it takes longer than most commands do

    classes, outputs = predictions.shape
    balance = np.eye(outputs, classes) - predictions.T
    equations = np.vstack([balance, np.full((1, classes), _SUM_TO_ONE)])
    shares, _ = nnls(equations, np.append(moved, _SUM_TO_ONE))
    return shares / max(shares.sum(), np.finfo(np.float64).tiny)
