"""A small federation for tests: a slice of MNIST, few phones, the real LeNet."""

from pathlib import Path
from typing import Any

import numpy as np

from fedsim.config import RunConfig, from_mapping
from fedsim.data.dataset import Dataset, Examples
from fedsim.data.sources import load

TRAIN, TEST = 480, 200


def small_dataset() -> Dataset:
    """The first few hundred digits of MNIST."""
    mnist = load("mnist")
    return Dataset(
        name="small",
        train=Examples(inputs=mnist.train.inputs[:TRAIN], labels=mnist.train.labels[:TRAIN]),
        test=Examples(inputs=mnist.test.inputs[:TEST], labels=mnist.test.labels[:TEST]),
        classes=mnist.classes,
    )


def write_small_dataset(path: Path) -> None:
    """The same as an ``.npz`` file."""
    small = small_dataset()
    np.savez(
        path, x_train=small.train.inputs, y_train=small.train.labels, x_test=small.test.inputs, y_test=small.test.labels
    )


def small_config(folder: Path, **tables: Any) -> RunConfig:
    """12 phones, 4 a round, 3 rounds, no baselines; ``tables`` add to that."""
    base: dict[str, Any] = {
        "federation": {"clients": 12, "cohort": 4, "rounds": 3},
        "training": {"epochs": 1},
        "baselines": {"central": False, "local_only": 0},
        "output": {"folder": str(folder)},
    }
    return from_mapping({key: {**base.get(key, {}), **tables.get(key, {})} for key in base | tables})
