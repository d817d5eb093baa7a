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
    example only for its own. For more, a class is taken as often as its negative gradient proves, then by what is left
    where c's mean probability is guessed as one in classes: right for a fresh model and a guess for a trained one, as
    in Wainakh et al. 2021. An update of several SGD steps counts as the mean of its gradients. Of an update that was
    scaled down by clipping the classes are recovered, but less surely how often each occurs.

    Raises:
        ValueError: the loss is not cross entropy, or the last trained parameter is no bias of as many classes.
    """
    last = contract.slots[-1]
    if contract.loss != "cross_entropy" or last.parameter != "bias" or last.count != contract.classes:
        raise ValueError(
            f"labels are read off the bias of a classifier under cross entropy; this model ends in {last.layer}."
            f"{last.parameter} of {last.count} values under {contract.loss}"
        )
    shares = update[-last.count :].astype(np.float64) / _rate(training, count)
    labels = np.empty(count, np.int64)
    for i in range(count):
        expected = shares if (shares > 0).any() else shares + 1 / last.count
        labels[i] = np.argmax(expected)
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


def _rate(training: LocalTraining, count: int) -> float:
    """What multiplies the mean gradient in an update: the learning rate, summed over steps and their echoes."""
    steps = training.epochs * -(-count // training.batch_size)
    echoes = np.cumsum(training.momentum ** np.arange(steps))
    return training.learning_rate * float(echoes.sum())
