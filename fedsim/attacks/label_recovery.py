"""Label recovery: which labels a phone trained on, read off what its update did to the classifier's bias."""

import numpy as np
from numpy.typing import NDArray

from fedsim.coreml.contract import Contract
from fedsim.updates import LocalTraining


def recover_labels(
    contract: Contract, update: NDArray[np.floating], training: LocalTraining, count: int
) -> NDArray[np.int64]:
    """The labels ``int64[count]``, ascending, of the examples behind ``update``, the trained model less ``weights``.

    Under cross entropy the gradient of class c's bias is the mean probability that the model gives c, less the share
    of examples labelled c. So it is negative only for labels that are there (Zhao et al. 2020, section 3), and for one
    example only for its own. For more, each label found takes its share off, and the class is next of which most is
    left, where the mean probability of all classes is guessed alike: right for a fresh model and a guess for a trained
    one, as in Wainakh et al. 2021. Of fewer examples than classes some class is surely absent: how far its bias moved
    says how far that probability alone goes, whatever the number of steps and however an update was scaled; of more,
    that is worked out from the steps (`reach`).

    Raises:
        ValueError: the loss is not cross entropy, or the last trained parameter is no bias of as many classes.
    """
    last = contract.slots[-1]
    if contract.loss != "cross_entropy" or last.parameter != "bias" or last.count != contract.classes:
        raise ValueError(
            f"labels are read off the bias of a classifier under cross entropy; this model ends in {last.layer}."
            f"{last.parameter} of {last.count} values under {contract.loss}"
        )
    moved = update[-last.count :].astype(np.float64)
    if count < last.count:
        moved -= np.sort(moved)[: last.count - count].mean()
        shares = moved / max(moved.sum(), np.finfo(np.float64).tiny)
    else:
        shares = moved / reach(training, count) + 1 / last.count
    labels = np.empty(count, np.int64)
    for i in range(count):
        labels[i] = np.argmax(shares)
        shares[labels[i]] -= 1 / count
    return np.sort(labels)


def label_recovery_rate(recovered: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """The share of ``labels`` that were recovered, as multisets: ``|recovered & labels| / |labels|``.

    >>> label_recovery_rate(np.array([1, 1, 2]), np.array([1, 2, 2]))
    0.6666666666666666
    """
    classes = int(max(recovered.max(), labels.max())) + 1
    counts = (np.bincount(values, minlength=classes) for values in (recovered, labels))
    return float(np.minimum(*counts).sum() / len(labels))


def reach(training: LocalTraining, examples: int) -> float:
    """How far a gradient that never changes moves a weight in one round of SGD, as a multiple of it.

    A gradient that comes ``n`` steps before the end moves it by ``rate * (1 - momentum ** n) / (1 - momentum)``.
    """
    steps = training.epochs * -(-examples // training.batch_size)
    left = np.arange(1, steps + 1)
    return float(training.learning_rate * ((1 - training.momentum**left) / (1 - training.momentum)).sum())
