"""Labelled examples as plain arrays, checked once, where they enter."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Inputs = NDArray[np.uint8] | NDArray[np.float32]

LARGEST_LABEL = 65_535


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """``inputs`` are ``[N, *shape]``, uint8 or float32; ``labels`` are ``int64[N]``, counted from 0."""

    inputs: Inputs
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """What clients learn from and are tested on. Labels of both parts lie in ``range(classes)``."""

    name: str
    train: Examples
    test: Examples
    classes: int


def digest(dataset: Dataset) -> str:
    """SHA-256, in hex, of every array with its type and shape: training inputs and labels, then those of the test."""
    whole = hashlib.sha256()
    for array in (dataset.train.inputs, dataset.train.labels, dataset.test.inputs, dataset.test.labels):
        whole.update(f"{array.dtype.str} {array.shape}\n".encode())
        whole.update(np.ascontiguousarray(array).data)
    return whole.hexdigest()


def select(examples: Examples, rows: slice | NDArray[np.int64]) -> Examples:
    """Some of the examples: a slice gives views, an array of indices gives copies in its order."""
    return Examples(inputs=examples.inputs[rows], labels=examples.labels[rows])


def batch_inputs(inputs: Inputs) -> NDArray[np.float32]:
    """What the network sees, in the shape given: uint8 is divided by 255, float32 stays as it is. Always a new array.

    >>> batch_inputs(np.array([[0, 51, 255]], np.uint8)).tolist()
    [[0.0, 0.20000000298023224, 1.0]]
    """
    if inputs.dtype == np.uint8:
        return np.divide(inputs, 255, dtype=np.float32)
    return inputs.astype(np.float32)


def from_arrays(
    name: str,
    x_train: NDArray[Any],
    y_train: NDArray[Any],
    x_test: NDArray[Any],
    y_test: NDArray[Any],
    *,
    called: Sequence[str] = ("x_train", "y_train", "x_test", "y_test"),
) -> Dataset:
    """A checked data set of one's own arrays; ``called`` is what errors call them.

    Inputs ``[N, ...]`` are uint8 or finite float32, of one type and shape in both parts; ``[N, height, width]`` is
    read as grey images and becomes ``[N, 1, height, width]``. Labels ``[N]`` are of any integer type, from 0 to at
    most 65,535; the largest label in ``y_train`` says how many classes there are. In the result inputs are read-only,
    views of the given ones where their layout allows, and labels are copies.

    Raises ``ValueError`` with one line for arrays that are not so.
    """
    train = _examples(x_train, y_train, called[0], called[1])
    test = _examples(x_test, y_test, called[2], called[3])
    if _kind(train.inputs) != _kind(test.inputs):
        raise ValueError(
            f"{called[0]} holds {_kind(train.inputs)}, {called[2]} holds {_kind(test.inputs)}: they must be alike"
        )
    classes = int(train.labels.max()) + 1
    if test.labels.max() >= classes:
        raise ValueError(f"{called[3]} holds label {test.labels.max()}; the largest in {called[1]} is {classes - 1}")
    return Dataset(name=name, train=train, test=test, classes=classes)


def _examples(inputs: NDArray[Any], labels: NDArray[Any], inputs_called: str, labels_called: str) -> Examples:
    examples = Examples(inputs=_inputs(inputs, inputs_called), labels=_labels(labels, labels_called))
    if len(examples.inputs) != len(examples.labels):
        raise ValueError(
            f"{inputs_called} has {len(inputs):,} examples, {labels_called} has {len(labels):,} labels: "
            "they must be as many"
        )
    return examples


def _inputs(array: NDArray[Any], called: str) -> Inputs:
    if array.ndim < 2:
        raise ValueError(f"{called} has shape {list(array.shape)}; allowed is [examples, ...], an array an example")
    if array.size == 0:
        raise ValueError(f"{called} has shape {list(array.shape)}: it must not be empty")
    if array.dtype.newbyteorder("=").name not in ("uint8", "float32"):
        raise ValueError(
            f"{called} is {array.dtype}; allowed are uint8 (0 to 255, divided by 255) and float32 (used as it is)"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
        raise ValueError(f"{called} holds NaN or infinity, first in example {first}: every value must be finite")
    images = array[:, np.newaxis] if array.ndim == 3 else array
    view = np.ascontiguousarray(images, dtype=array.dtype.newbyteorder("=")).view()
    view.flags.writeable = False
    return view


def _labels(array: NDArray[Any], called: str) -> NDArray[np.int64]:
    if array.dtype.kind not in "iu":
        raise ValueError(f"{called} is {array.dtype}; allowed are integers")
    if array.ndim != 1:
        raise ValueError(f"{called} has shape {list(array.shape)}; allowed is [examples], a label an example")
    if array.size == 0:
        raise ValueError(f"{called} has shape [0]: it must not be empty")
    smallest, largest = int(array.min()), int(array.max())
    if smallest < 0 or largest > LARGEST_LABEL:
        wrong = smallest if smallest < 0 else largest
        raise ValueError(f"{called} holds label {wrong}; allowed are 0 to {LARGEST_LABEL:,}")
    return array.astype(np.int64)


def _kind(inputs: Inputs) -> str:
    return f"{inputs.dtype} {list(inputs.shape[1:])}"
