"""A model file's training settings: the defaults it holds, and the values a phone accepts in their place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedsim.updates import LocalTraining

Optimizer = Literal["sgd", "adam"]


@dataclass(frozen=True, kw_only=True)
class OneOf:
    """Any of these values."""

    values: tuple[int, ...]

    def __contains__(self, value: float) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.values)


@dataclass(frozen=True, kw_only=True)
class Between:
    """Any value from ``low`` to ``high``, both included."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


Allowed = OneOf | Between

_WHOLE = ("epochs", "batch_size")
_FIELDS: dict[Optimizer, dict[str, str]] = {
    "sgd": {"learning_rate": "learningRate", "batch_size": "miniBatchSize", "momentum": "momentum"},
    "adam": {
        "learning_rate": "learningRate",
        "batch_size": "miniBatchSize",
        "beta1": "beta1",
        "beta2": "beta2",
        "epsilon": "eps",
    },
}
"""Key of LocalTraining -> field of SGDOptimizer or AdamOptimizer."""


def read_settings(update: Any) -> tuple[LocalTraining, dict[str, Allowed]]:
    """The defaults of a ``NetworkUpdateParameters`` message, and by key of LocalTraining what may be set instead.

    A key without an entry is free. An SGD optimizer without a momentum field has momentum 0 and allows nothing else.

    Raises:
        ValueError: there is no optimizer, a setting is missing, or a default breaks its own constraint.
    """
    optimizer = _optimizer(update)
    fields = _present_fields(update, optimizer)
    allowed: dict[str, Allowed] = {}
    if optimizer == "sgd" and "momentum" not in fields:
        allowed["momentum"] = Between(low=0, high=0)
    for key, field in fields.items():
        match field.WhichOneof("AllowedValues"):
            case "set":
                allowed[key] = OneOf(values=tuple(field.set.values))
            case "range":
                allowed[key] = Between(low=field.range.minValue, high=field.range.maxValue)
            case _:
                pass
    values = {key: field.defaultValue for key, field in fields.items()}
    training = LocalTraining(optimizer=optimizer, shuffle=update.shuffle.defaultValue, **values)
    check_settings(training, optimizer, allowed)
    return training, allowed


def write_settings(update: Any, training: LocalTraining) -> None:
    """Makes ``training`` the defaults of a ``NetworkUpdateParameters`` message that has its optimizer's fields.

    ``epsilon_form``, ``proximal_mu`` and ``weight_decay`` have no place in the format and stay out.
    """
    for key, field in _present_fields(update, training.optimizer).items():
        field.defaultValue = getattr(training, key)
    update.shuffle.defaultValue = training.shuffle


def write_allowed(update: Any, optimizer: Optimizer, allowed: Mapping[str, Allowed]) -> None:
    """Gives a ``NetworkUpdateParameters`` message the fields of ``optimizer`` under these constraints.

    Raises:
        ValueError: a set for a key that is not a whole number, which the format cannot hold.
    """
    message = getattr(update.optimizer, f"{optimizer}Optimizer")
    fields = {"epochs": update.epochs, **{key: getattr(message, name) for key, name in _FIELDS[optimizer].items()}}
    for key, field in fields.items():
        field.SetInParent()
        match allowed.get(key):
            case OneOf(values=values) if key in _WHOLE:
                field.set.values.extend(values)
            case Between(low=low, high=high):
                number = int if key in _WHOLE else float
                field.range.minValue, field.range.maxValue = number(low), number(high)
            case None:
                pass
            case OneOf() as values:
                raise ValueError(f"{key} cannot be restricted to {values}; Core ML knows only ranges for it")


def check_settings(training: LocalTraining, optimizer: Optimizer, allowed: Mapping[str, Allowed]) -> None:
    """Refuses settings that a phone would refuse, and settings that ``optimizer`` does not have.

    >>> training = LocalTraining(epochs=3, batch_size=20, optimizer="sgd", learning_rate=0.1)
    >>> check_settings(training, "sgd", {"epochs": OneOf(values=(1, 2, 5))})
    Traceback (most recent call last):
    ValueError: epochs = 3 is not allowed by the model; allowed: 1, 2, 5

    Raises:
        ValueError: names the key, the value given and what is allowed.
    """
    if training.optimizer != optimizer:
        raise ValueError(f"optimizer = {training.optimizer} is not allowed by the model; allowed: {optimizer}")
    for key in ("epochs", *_FIELDS[optimizer]):
        value, least = getattr(training, key), 1 if key in _WHOLE else 0
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f"{key} = {value} is not possible; allowed: {least} or more")
        if key in allowed and value not in allowed[key]:
            raise ValueError(f"{key} = {value} is not allowed by the model; allowed: {allowed[key]}")
    for key, default in (("momentum", 0.0), ("beta1", 0.9), ("beta2", 0.999), ("epsilon", 1e-8)):
        if key not in _FIELDS[optimizer] and getattr(training, key) != default:
            raise ValueError(f"{key} = {getattr(training, key)} has no effect with {optimizer}; leave it at {default}")


def _optimizer(update: Any) -> Optimizer:
    match update.optimizer.WhichOneof("OptimizerType"):
        case "sgdOptimizer":
            return "sgd"
        case "adamOptimizer":
            return "adam"
        case _:
            raise ValueError("the model has no optimizer; expected SGD or Adam")


def _present_fields(update: Any, optimizer: Optimizer) -> dict[str, Any]:
    """The settings that the message holds by key of LocalTraining; only SGD's momentum may be missing."""
    message = getattr(update.optimizer, f"{optimizer}Optimizer")
    places = {"epochs": (update, "epochs"), **{key: (message, name) for key, name in _FIELDS[optimizer].items()}}
    missing = [name for place, name in places.values() if not place.HasField(name) and name != "momentum"]
    if missing:
        raise ValueError(f"the model's training settings lack {missing[0]}")
    return {key: getattr(place, name) for key, (place, name) in places.items() if place.HasField(name)}
