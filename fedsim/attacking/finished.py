"""A finished run as its attackers need it: what its folder says, and its first round over again."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedsim import results
from fedsim.attacks.disclosure import Collection
from fedsim.attacks.view import ServerView
from fedsim.config import ConfigError
from fedsim.coreml.contract import read_contract
from fedsim.coreml.weights import read_weights
from fedsim.data.dataset import Dataset, Examples, digest
from fedsim.federation import Federation, set_up, with_plan
from fedsim.privacy.plan import Plan
from fedsim.privacy_settings import DpSgd, Local
from fedsim.simulation.engines import open_engine
from fedsim.simulation.poisoned import poisoned
from fedsim.simulation.private import Cohort, cohort_of, first_state, own_training, private_phone
from fedsim.training.native import engine as native
from fedsim.updates import ClippedSum, Orders, Weights

MOST_REPLAYED = 100
"""How many phones of a round are shown one by one at most: each needs the memory of a model."""
NAMES: dict[Collection, str] = {"each": "each update", "sum": "the sum", "noised sum": "the noised sum"}
_OTHER_SHUFFLE = 0
"""Of a round that never was: an attacker does not know in which order a phone shuffles."""
_UNCLIPPED = float(np.finfo(np.float32).max)
_MODEL = "everyone who gets the round's model"
_OPEN: dict[Collection, tuple[str, bool]] = {"each": ("the server", True), "sum": (_MODEL, True)}
_TRUSTED: dict[Collection, tuple[str, bool]] = {
    "each": ("only the server, which the run trusts: before it clips and adds noise", False),
    "sum": ("only the server, which the run trusts: before it adds noise", False),
    "noised sum": (_MODEL, True),
}
_WHO: dict[str, dict[Collection, tuple[str, bool]]] = {
    "none": _OPEN,
    "local": {**_OPEN, "each": ("the server: phones have clipped it and added noise", True)},
    "dp_sgd": {**_OPEN, "each": ("the server: phones have trained by DP-SGD", True)},
    "central": _TRUSTED,
    "matrix": _TRUSTED,
    "distributed": {
        "each": ("nobody: secure aggregation opens sums only", False),
        "sum": ("nobody: phones add noise before their sum is opened", False),
        "noised sum": (f"the server, and {_MODEL}", True),
    },
}
"""Who has each view of a round under each mechanism, and whether that is an attacker whom the run reckons with."""

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedRun:
    """What a run left: its ``federation``, a row a round, and the ``weights`` of its last model.

    ``engine`` is the native one, None where the run trained in torch.
    """

    folder: Path
    federation: Federation
    rounds: list[dict[str, Any]]
    weights: Weights
    engine: native.Engine | None
    threads: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """One look at a round: the ``view``, and ``who`` has it.

    It is ``held`` where that is an attacker whom the run reckons with; elsewhere the view is hypothetical. ``clip`` is
    the norm to which updates in it were scaled down, infinite where they were not.
    """

    view: ServerView
    who: str
    held: bool
    clip: float


Views = dict[Collection, Seen]
"""Looks at one round. The last of them is what the round releases: the sum, or the noised sum where that differs."""


def read_finished(folder: Path, dataset: Dataset | None = None) -> FinishedRun:
    """The run in ``folder``; ``dataset`` is given again where the run was given one.

    Raises `ConfigError` where there is none, it has not finished, or its data are not those that it trained on.
    """
    config = results.read_config(folder)
    if (status := results.status(folder)) != "finished":
        raise ConfigError(f"{folder}: this run is {status}; only a finished one can be attacked")
    federation = with_plan(set_up(config, dataset))
    begun = results.read_json(folder / results.INPUTS)
    if begun and begun["data"] != digest(federation.dataset):
        raise ConfigError(f"{folder}: data.source = {config.data.source}: not the data that this run trained on")
    contract = read_contract((folder / results.MODEL_FILE).read_bytes())
    return FinishedRun(
        folder=folder,
        federation=federation,
        rounds=results.read_rounds(folder / results.ROUNDS),
        weights=read_weights(contract.file, contract.slots),
        engine=native.Engine(federation.contract) if federation.config.speed.engine == "native" else None,
        threads=federation.config.speed.workers or os.cpu_count() or 1,
    )


def participants(run: FinishedRun) -> NDArray[np.int64]:
    """The clients that took part in any round, in rising order."""
    return np.unique(np.concatenate([np.array(row["clients"], np.int64) for row in run.rounds]))


def examples_processed(run: FinishedRun) -> int:
    """How many examples the run trained on, one counted each time."""
    return sum(row["examples"] or 0 for row in run.rounds) * run.federation.contract.training.epochs


def first_round(run: FinishedRun, public: Examples) -> Views:
    """Round 1 as it was, in each way that somebody may see it.

    It starts from the initial weights, which follow from the config, so it can be had again from any folder: the phones
    train as they did, and under privacy the same noise is added, so that what the round releases is the run's own, bit
    for bit. "each" shows the first `MOST_REPLAYED` phones; sums are of all.

    Raises `ConfigError` where nobody took part in round 1, as chance may have it.
    """
    federation, plan = run.federation, run.federation.plan
    drawn = np.array(next(row["clients"] for row in run.rounds if row["round"] == 1), np.int64)
    if not len(drawn):
        raise ConfigError(f"{run.folder}: chance sent nobody into round 1, so there is nothing to attack in it")
    training = federation.contract.training
    orders = Orders(round=1, clients=drawn, weights=federation.initial, training=training)
    with open_engine(federation) as opened:
        engine = poisoned(opened, federation)
        own = own_training(plan, engine)
        cohort = cohort_of(federation, engine, lambda _: drawn, own)
        each = own(replace(orders, clients=drawn[:MOST_REPLAYED]))
        found, noised = _released(plan, cohort, orders) if plan else (cohort.clipped(orders, _UNCLIPPED), None)
    view = ServerView(
        contract=federation.contract,
        training=training,
        weights=federation.initial,
        clients=each.clients,
        updates=each.weights - federation.initial,
        examples=each.examples,
        sees="each",
        public=public,
        classes=federation.dataset.classes,
    )

    def total(updates: NDArray[np.floating]) -> ServerView:
        row, examples = updates.astype(np.float32)[np.newaxis], found.examples.sum(keepdims=True)
        return replace(view, clients=found.clients, updates=row, examples=examples, sees="sum")

    views: dict[Collection, ServerView] = {"each": view, "sum": total(found.total)}
    if noised is not None:
        views["noised sum"] = total(noised)
    mechanism = federation.config.privacy.mechanism
    return {
        name: Seen(view=view, who=who, held=held, clip=_clip(plan, name))
        for name, view in views.items()
        for who, held in [_WHO[mechanism][name]]
    }


def by_view(name: str, values: Mapping[Collection, Value]) -> dict[str, Value]:
    """``values`` of `Views` as a study asks for them.

    >>> by_view("auc", {"each": 0.9, "sum": 0.6})
    {'auc_each': 0.9, 'auc_sum': 0.6, 'auc_released': 0.6}
    """
    return {
        f"{name}_each": values["each"],
        f"{name}_sum": values["sum"],
        f"{name}_released": list(values.values())[-1],
    }


def expected_updates(run: FinishedRun, clients: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What clients would send in round 1, found out by whoever has their data but not their shuffling.

    The clients that can train, and their updates ``float32[C, P]``.
    """
    federation = run.federation
    training = federation.contract.training
    orders = Orders(round=_OTHER_SHUFFLE, clients=clients, weights=federation.initial, training=training)
    with open_engine(federation) as engine:
        found = engine.train(orders)
    return found.clients, found.weights - federation.initial


def _released(plan: Plan, cohort: Cohort, orders: Orders) -> tuple[ClippedSum, NDArray[np.floating] | None]:
    """What the run's own private phone makes of round 1: the sum, and with the server's or a shared noise, if any."""
    noted: list[ClippedSum] = []
    phone = private_phone(plan, cohort, first_state(plan, ()), lambda _, found, __: noted.append(found))
    moved = phone.train(orders).weights[0]
    noise_is_within = isinstance(plan.settings, Local | DpSgd)
    return noted[0], None if noise_is_within else (moved - orders.weights) * plan.cohort


def _clip(plan: Plan | None, view: Collection) -> float:
    """To which norm the updates in a view were scaled down; phones that add noise do so before anyone sees them."""
    if plan is None or isinstance(plan.settings, DpSgd):
        return math.inf
    return math.inf if view == "each" and not isinstance(plan.settings, Local) else plan.settings.clip
