"""The first round of a finished run over again, in each way that somebody may see it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedsim import messages
from fedsim.attacking.finished import FinishedRun
from fedsim.attacks.view import ServerView
from fedsim.config import ConfigError
from fedsim.data.dataset import Examples
from fedsim.data.partition import sizes
from fedsim.federation import Federation
from fedsim.privacy.plan import Plan
from fedsim.privacy_settings import DpSgd, Local
from fedsim.run import REPLY_SECONDS, quieten_flower
from fedsim.simulation.engines import Engine, open_engine
from fedsim.simulation.grid import FederationGrid
from fedsim.simulation.poisoned import poisoned
from fedsim.simulation.private import Cohort, cohort_of, first_state, own_training, private_phone
from fedsim.simulation.streamed import open_phones
from fedsim.strategies import ResumableStrategy, build_strategy
from fedsim.updates import ClippedSum, LocalTraining, Orders, Updates, Weights

Collection = Literal["each", "sum", "noised sum", "model"]
"""Every phone's own update; their sum; that sum with the mechanism's noise; how far the round moved the model."""

MOST_REPLAYED = 100
"""How many phones of a round are shown one by one at most: each needs the memory of a model."""
NAMES: dict[Collection, str] = {
    "each": "each update",
    "sum": "the sum",
    "noised sum": "the noised sum",
    "model": "the next model",
}
_OTHER_SHUFFLE = 0
"""Of a round that never was: an attacker does not know in which order a phone shuffles."""
_UNCLIPPED = float(np.finfo(np.float32).max)
_SUM: tuple[str, bool] = ("what secure aggregation would show the server, which sees more here", False)
_MODEL: tuple[str, bool] = ("everyone who gets the round's model", True)
_PROMISED: tuple[str, bool] = ("everyone, as the run's promise counts: the round's model is made of nothing else", True)
_TRUSTED: dict[Collection, tuple[str, bool]] = {
    "each": ("only the server, which the run trusts: before it clips and adds noise", False),
    "sum": ("only the server, which the run trusts: before it adds noise", False),
    "noised sum": _PROMISED,
}
_WHO: dict[str, dict[Collection, tuple[str, bool]]] = {
    "none": {"each": ("the server", True), "sum": _SUM, "model": _MODEL},
    "local": {"each": ("the server: phones have clipped it and added noise", True), "sum": _SUM, "model": _MODEL},
    "dp_sgd": {"each": ("the server: phones have trained by DP-SGD", True), "sum": _SUM, "model": _MODEL},
    "central": _TRUSTED,
    "matrix": _TRUSTED,
    "distributed": {
        "each": ("nobody: secure aggregation opens sums only", False),
        "sum": ("nobody: phones add noise before their sum is opened", False),
        "noised sum": _PROMISED,
    },
}
"""Who has each view of a round under each mechanism, and whether that is an attacker whom the run reckons with."""

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """One look at a round: the ``view``, ``who`` has it, and in truth the ``clients`` ``int64[C]`` that are behind it.

    It is ``held`` where that is an attacker whom the run reckons with; elsewhere the view is hypothetical. ``clip`` is
    the norm to which updates in it were scaled down, infinite where they were not.
    """

    view: ServerView
    clients: NDArray[np.int64]
    who: str
    held: bool
    clip: float


Views = dict[Collection, Seen]
"""Looks at one round. The last of them is what it releases: the noised sum, or else nothing but the next model."""


def first_round(run: FinishedRun, public: Examples) -> Views:
    """Round 1 as it was, in each way that somebody may see it.

    It starts from the initial weights, which follow from the config, so it can be had again from any folder: the
    strategy gives the orders that it gave, the phones train as they did, and under privacy the same noise is added, so
    that what the round releases is the run's own, bit for bit. "each" shows the first `MOST_REPLAYED` phones; sums are
    of all. Who sees only what is released is told neither how many came nor how much they hold: that is taken to be
    the expected cohort, and what phones hold on average.

    Raises `ConfigError` where nobody took part in round 1, as chance may have it.
    """
    federation, plan = run.federation, run.federation.plan
    drawn = np.array(run.rounds[1]["clients"], np.int64)
    with open_engine(federation) as opened:
        engine = poisoned(opened, federation)
        own = own_training(plan, engine)
        cohort = cohort_of(federation, engine, lambda _: drawn, own)
        played = _play(federation, engine, cohort)
        orders = replace(played.orders, clients=drawn)
        each = own(replace(orders, clients=drawn[:MOST_REPLAYED]))
        found = played.found or cohort.clipped(orders, _UNCLIPPED)
    if not len(each.clients):
        raise ConfigError(f"{run.folder}: nobody took part in round 1, so there is nothing to attack in it")
    noise_is_apart = plan is not None and not isinstance(plan.settings, Local | DpSgd)
    released: Collection = "noised sum" if noise_is_apart else "model"
    moved = (played.answer.weights[0] if noise_is_apart else played.model) - orders.weights
    mechanism = federation.config.privacy.mechanism

    def seen(
        name: Collection, updates: NDArray[np.floating], examples: NDArray[Any], clients: NDArray[np.int64]
    ) -> Seen:
        view = ServerView(
            contract=federation.contract,
            training=_training(orders),
            weights=orders.weights,
            updates=updates.astype(np.float32),
            examples=examples.astype(np.float64),
            public=public,
            classes=federation.dataset.classes,
        )
        who, held = _WHO[mechanism][name]
        return Seen(view=view, clients=clients, who=who, held=held, clip=_clip(plan, name))

    mean = found.total[np.newaxis] / len(found.clients)
    held = sizes(federation.partition).mean(keepdims=True)
    return {
        "each": seen("each", each.weights - orders.weights, each.examples, each.clients),
        "sum": seen("sum", mean, found.examples.mean(keepdims=True), found.clients),
        released: seen(released, moved[np.newaxis], held, found.clients),
    }


def by_view(name: str, values: Mapping[Collection, Value]) -> dict[str, Value]:
    """``values`` of `Views` as a study asks for them.

    >>> by_view("auc", {"each": 0.9, "sum": 0.6, "model": 0.5})
    {'auc_each': 0.9, 'auc_sum': 0.6, 'auc_released': 0.5}
    """
    return {
        f"{name}_each": values["each"],
        f"{name}_sum": values["sum"],
        f"{name}_released": list(values.values())[-1],
    }


def expected_updates(
    run: FinishedRun, training: LocalTraining, clients: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What clients would send in round 1, found out by whoever has their data but not their shuffling.

    The clients that can do the ``training``, and their updates ``float32[C, P]``.
    """
    federation = run.federation
    orders = Orders(round=_OTHER_SHUFFLE, clients=clients, weights=federation.initial, training=training)
    with open_engine(federation) as engine:
        found = engine.train(orders)
    return found.clients, found.weights - federation.initial


@dataclass(frozen=True, kw_only=True, eq=False)
class _Played:
    """Round 1: what the strategy ordered, what it was answered, and the ``model`` that it made of that.

    ``found`` is what a private answer was made of.
    """

    orders: Orders
    answer: Updates
    found: ClippedSum | None
    model: Weights


def _play(federation: Federation, engine: Engine, cohort: Cohort) -> _Played:
    """Round 1 by Flower's own loop and the run's own strategy, which meets what it met in the run."""
    config, plan, training = federation.config, federation.plan, federation.contract.training
    heard: list[tuple[Orders, Updates]] = []
    noted: list[ClippedSum] = []
    if plan:
        phones = private_phone(plan, cohort, first_state(plan, ()), lambda _, found, __: noted.append(found))
    else:
        phones = open_phones(federation, engine)

    def train(orders: Orders) -> Updates:
        answer = phones.train(orders)
        heard.append((orders, answer))
        return answer

    quieten_flower()
    strategy = build_strategy(config, training.learning_rate)
    found = ResumableStrategy(strategy, seed=config.seed, on_replies=_unrecorded).start(
        FederationGrid(replace(phones, train=train)),
        messages.model_record(federation.initial),
        num_rounds=1,
        timeout=REPLY_SECONDS,
        train_config=messages.training_record(training),
    )
    (orders, answer), *_ = heard
    model = messages.read_weights(found.arrays) if found.arrays else federation.initial
    return _Played(orders=orders, answer=answer, found=noted[0] if noted else None, model=model)


def _unrecorded(*_: object) -> None:
    """What came back in this round stands in the run's own rows."""


def _training(orders: Orders) -> LocalTraining:
    assert orders.training  # these are a training round's
    return orders.training


def _clip(plan: Plan | None, view: Collection) -> float:
    """To which norm the updates in a view were scaled down; phones that add noise do so before anyone sees them."""
    if plan is None or isinstance(plan.settings, DpSgd):
        return math.inf
    return math.inf if view == "each" and not isinstance(plan.settings, Local) else plan.settings.clip
