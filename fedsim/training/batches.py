"""In which order a phone walks through its examples: drawn here for every engine, so that all see the same batches."""

import numpy as np
from numpy.typing import NDArray

from fedsim.updates import LocalTraining


def epoch_order(count: int, training: LocalTraining, shuffle: np.random.Generator) -> NDArray[np.int64]:
    """Positions of ``count`` examples in the order of one epoch; cut into batches from the front, the last one short.

    Where ``training.shuffle`` is false nothing is drawn.
    """
    return shuffle.permutation(count) if training.shuffle else np.arange(count)
