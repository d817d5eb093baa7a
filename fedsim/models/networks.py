"""The networks that a config can name: how each becomes a model file, and how phones train it unless told otherwise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from fedsim.models.lenet import lenet_contract
from fedsim.models.lenet5 import lenet5_contract
from fedsim.models.tanh_cnn import tanh_cnn_contract
from fedsim.updates import LocalTraining


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network's ``contract`` with given training settings, and those that it has by default for each optimizer."""

    contract: Callable[[LocalTraining], bytes]
    training: Mapping[Literal["sgd", "adam"], LocalTraining]


_TRAINING: Mapping[Literal["sgd", "adam"], LocalTraining] = {
    "sgd": LocalTraining(epochs=2, batch_size=20, optimizer="sgd", learning_rate=0.05, momentum=0.9),
    "adam": LocalTraining(epochs=2, batch_size=20, optimizer="adam", learning_rate=0.001),
}

NETWORKS: Mapping[str, Network] = {
    "lenet": Network(contract=lenet_contract, training=_TRAINING),
    "lenet5": Network(contract=lenet5_contract, training=_TRAINING),
    "tanh_cnn": Network(contract=tanh_cnn_contract, training=_TRAINING),
}
"""By the names in ``fedsim.settings.Model``."""
