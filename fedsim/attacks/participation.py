"""Was this client in the round, or in the federation at all? Scores for whole clients, from models or from updates.

The attacker knows a candidate's data and asks whether they were used. Scores are higher for a likelier participant. As
for single examples (`membership`), a federation that only generalises gives little away: few examples a client do.
"""

import numpy as np
from numpy.typing import NDArray

from fedsim.attacks.view import ServerView

Scores = NDArray[np.float64]


def loss_falls(losses: NDArray[np.float64]) -> Scores:
    """How far each round's model took each candidate's loss down: ``float64[R, M]``.

    ``losses`` ``[R + 1, M]`` are the mean losses of ``M`` candidates' data under the successive global models, the
    initial one first, all above 0. A score is the fall of the loss's logarithm less the median candidate's in that
    round, so that rounds compare; their sum over the rounds tells who was in the federation.

    >>> loss_falls(np.array([[2.0, 2.0, 2.0], [1.0, 2.0, 2.0]])).round(4).tolist()
    [[0.6931, 0.0, 0.0]]
    """
    falls = np.log(losses[:-1]) - np.log(losses[1:])
    return falls - np.median(falls, axis=1, keepdims=True)


def alignment(view: ServerView, expected: NDArray[np.float32]) -> Scores:
    """How far the round's updates point where each candidate's own would: cosines ``float64[M]``.

    ``expected`` ``[M, P]`` are the updates that the candidates would send, which the attacker finds out by training as
    the server ordered; in which order a phone shuffles it need not know. What candidates have in common, which is most
    of an update, is taken out of both sides: their mean. A server that sees each update takes a candidate's best cosine
    over them.
    """
    common = expected.mean(axis=0, dtype=np.float64)
    sent = _directions(view.updates - common)
    return (_directions(expected - common) @ sent.T).max(axis=1)


def _directions(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1; one of zeros stays so."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)
