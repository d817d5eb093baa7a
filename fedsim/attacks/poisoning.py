"""What malicious phones do to their data and their updates: pure functions on arrays."""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Examples, Inputs, select
from fedsim.poisoning_settings import (
    Backdoor,
    InnerProduct,
    LabelFlip,
    LittleIsEnough,
    Poisoning,
    Scaling,
    SignFlip,
)

Labels = NDArray[np.int64]
Rows = NDArray[np.float32]


def colluders(clients: int, fraction: float, random: np.random.Generator) -> NDArray[np.int64]:
    """``round(fraction * clients)`` of ``clients``, drawn without replacement, ascending: ``int64[colluders]``."""
    return np.sort(random.choice(clients, round(fraction * clients), replace=False))


def flipped(labels: Labels, classes: int, source: int | None, target: int | None) -> Labels:
    """``target`` for every ``source``; without the two ``classes - 1 - y`` for every label ``y``.

    >>> flipped(np.array([0, 1, 9]), 10, None, None).tolist()
    [9, 8, 0]
    """
    if source is None or target is None:
        return classes - 1 - labels
    return np.where(labels == source, target, labels)


def stamped(inputs: Inputs, size: int) -> Inputs:
    """Images ``[..., height, width]`` with the trigger: ``size`` by ``size`` of the last pixels at their brightest.

    That is 255 for uint8 and 1 for float32. Always a new array.

    >>> stamped(np.zeros((1, 2, 3), np.uint8), 1).tolist()
    [[[0, 0, 0], [0, 0, 255]]]
    """
    marked = inputs.copy()
    marked[..., -size:, -size:] = 255 if inputs.dtype == np.uint8 else 1
    return marked


def poisoned(attack: LabelFlip | Backdoor, examples: Examples, classes: int) -> Examples:
    """Every one of ``examples`` as the attack would have it."""
    if isinstance(attack, LabelFlip):
        labels = flipped(examples.labels, classes, attack.source, attack.target)
        return Examples(inputs=examples.inputs, labels=labels)
    return Examples(inputs=stamped(examples.inputs, attack.size), labels=np.full_like(examples.labels, attack.target))


def aim(attack: Poisoning, test: Examples, classes: int) -> Examples | None:
    """Test examples with the labels that the attack wants a model to give them; None where any harm will do.

    Only those whose own label is another: the share of them that a model labels so is the attack's success rate.
    """
    if not isinstance(attack, LabelFlip | Backdoor):
        return None
    wanted = poisoned(attack, test, classes)
    return select(wanted, np.flatnonzero(wanted.labels != test.labels))


def forged(attack: Poisoning, updates: Rows, cohort: int) -> Rows:
    """What the colluders of a ``cohort`` send, whose own training gave ``updates``, both ``float32[colluders, P]``.

    They know of one another, and of no other phone. An attack on data alone leaves the updates as they are.
    """
    if isinstance(attack, SignFlip):
        return np.float32(-attack.boost) * updates
    if isinstance(attack, Scaling | Backdoor):
        return np.float32(attack.boost) * updates
    if isinstance(attack, InnerProduct):
        return np.broadcast_to(np.float32(-attack.boost) * updates.mean(axis=0), updates.shape)
    if isinstance(attack, LittleIsEnough):
        z = np.float32(deviations(attack, cohort, len(updates)))
        return np.broadcast_to(updates.mean(axis=0) - z * updates.std(axis=0), updates.shape)
    return updates


def deviations(attack: LittleIsEnough, cohort: int, colluders: int) -> float:
    """How many standard deviations the ``colluders`` of a ``cohort`` go off their mean: the attack's z.

    0 is an idle attack, as of one colluder alone, who has no deviation to go by.
    """
    if colluders < 2:
        return 0.0
    return unnoticed(cohort, colluders) if attack.z is None else attack.z


def unnoticed(cohort: int, colluders: int) -> float:
    """How many standard deviations off the mean colluders may stay and be a majority with the phones further off.

    Baruch et al. 2019, algorithm 3: honest updates being normal, ``cohort // 2 + 1 - colluders`` of the honest phones
    lie beyond, and at least one. 0 where the colluders are so few that it would be on the mean's other side.

    >>> round(unnoticed(50, 24), 2)
    1.43
    """
    honest = max(1, cohort - colluders)
    supporters = max(1, cohort // 2 + 1 - colluders)
    within = (honest - supporters) / honest
    return NormalDist().inv_cdf(within) if within > 0.5 else 0.0
