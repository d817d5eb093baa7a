"""A cohort under privacy as one phone: it answers with the round's model, moved by a clipped and noised mean.

The strategy behind it sees nothing else of the cohort, so any linear one works unmodified, and what it does is
post-processing. How long an update may be, who takes part and how much noise there is, the `Plan` says.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.federation import Federation
from fedsim.privacy import clipping, distributed, factorisation
from fedsim.privacy.distributed import Encoding
from fedsim.privacy.noise import gaussian
from fedsim.privacy.plan import Plan
from fedsim.privacy_settings import Central, Distributed, DpSgd, Local, MatrixFactorisation
from fedsim.seeds import generator
from fedsim.simulation.attempts import BLOCK, clipped_sum, train_blocks
from fedsim.simulation.engines import Engine
from fedsim.simulation.grid import Phones, one_phone
from fedsim.updates import ClippedSum, Orders, Updates

Draw = Callable[[int], NDArray[np.int64]]
Train = Callable[[Orders], Updates]
Clipped = Callable[[Orders, float], ClippedSum]
Vector = NDArray[np.float64]
About = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Who takes part in a round, by its number, and what they send.

    That is their models, of ``block`` phones at once, or only the sum of their updates, each within a clip.
    """

    draw: Draw
    train: Train
    clipped: Clipped
    block: int = BLOCK


@dataclass(frozen=True, kw_only=True)
class State:
    """What passes from round to round: the clip, and the noise that later rounds take back, ``float64[B, P]``."""

    clip: float
    past: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a round gives away: the noised sum ``total`` of updates, ``float64[P]``.

    ``found`` is what it was made of; ``deviation`` is the noise's standard deviation on each of its numbers, where
    that is known; ``about`` is what else there is to say.
    """

    total: Vector
    found: ClippedSum
    deviation: float | None
    state: State
    about: About


def first_state(plan: Plan, rows: Iterable[About]) -> State:
    """The state after the rounds that ``rows`` tell of."""
    played = [row["privacy"] for row in rows if "privacy" in row]
    rounds = len(played) if len(plan.bands) > 1 else 0  # independent noise leaves nothing behind
    return State(
        clip=played[-1]["next_clip"] if played else plan.settings.clip,
        past=factorisation.state_after(rounds, plan.bands, plan.parameters, partial(_fresh_noise, plan)),
    )


def private_phone(
    plan: Plan, cohort: Cohort, state: State, note: Callable[[Orders, ClippedSum, About], None]
) -> Phones:
    """One phone that, told to train, draws the round's ``cohort`` and answers with its private mean.

    ``note`` is told of every round what it was made of, which is not private, and what it cost.
    """

    def train(orders: Orders) -> Updates:
        nonlocal state
        asked = replace(orders, clients=cohort.draw(orders.round))
        release = _release(plan, cohort, state, asked)
        note(asked, release.found, _about(plan, orders.round, state, release))
        state = release.state
        moved = orders.weights + release.total / _divisor(plan, release.found)
        return Updates(
            clients=orders.clients,
            weights=moved.astype(np.float32)[np.newaxis],
            examples=np.ones(1, np.int64),  # how many took part, and on how much, stays here
            metrics={},
        )

    return one_phone(train)


def own_training(plan: Plan | None, engine: Engine) -> Train:
    """What a phone does by itself when it is told to train, and what it sends of it."""
    if plan and isinstance(plan.settings, DpSgd):
        clip, noise_multiplier = plan.settings.clip, plan.noise_multiplier
        return lambda orders: engine.private(orders, clip, noise_multiplier)
    if plan and isinstance(plan.settings, Local):
        return randomised(plan, engine.train)
    return engine.train


def randomised(plan: Plan, train: Train) -> Train:
    """Training after which each phone clips its update and adds noise of its own, before anyone else sees it.

    There are no metrics: a loss would tell of examples what the noise hides.
    """
    deviation = plan.noise_multiplier * plan.settings.clip

    def train_and_add(orders: Orders) -> Updates:
        updates = train(orders)
        rows, _ = clipping.clip(updates.weights.astype(np.float64) - orders.weights, plan.settings.clip)
        for row, client in zip(rows, updates.clients.tolist(), strict=True):
            row += gaussian(plan.seed, "local noise", orders.round, client, size=len(row), deviation=deviation)
        return replace(updates, weights=(orders.weights + rows).astype(np.float32), metrics={})

    return train_and_add


def cohort_of(federation: Federation, engine: Engine, draw: Draw, train: Train) -> Cohort:
    """Who is drawn, and what they send; the engine forms their clipped sum, unless all updates are to be stacked.

    Then they are asked all at once: real phones do not wait for one another, and those that collude know one another.
    """
    if federation.config.speed.aggregation == "streamed":
        return Cohort(draw=draw, train=train, clipped=engine.clipped)
    return Cohort(draw=draw, train=train, clipped=stacked(train), block=federation.config.federation.clients)


def stacked(train: Train) -> Clipped:
    """The clipped sum of a stack: the slow twin of an engine's own, and what real phones need."""

    def clipped(orders: Orders, clip: float) -> ClippedSum:
        updates = train(orders)
        total, norms = np.zeros(len(orders.weights)), np.empty(len(updates.clients))
        for row, model in enumerate(updates.weights):  # one by one, as a second stack would be three times the first
            (update,), (norms[row],) = clipping.clip(model[np.newaxis].astype(np.float64) - orders.weights, clip)
            total += update
        return clipped_sum(updates, total, norms, orders)

    return clipped


def _release(plan: Plan, cohort: Cohort, state: State, orders: Orders) -> Release:
    match plan.settings:
        case Central():
            return _central(plan, plan.settings, cohort, state, orders)
        case MatrixFactorisation():
            return _matrix(plan, cohort, state, orders)
        case Distributed() if plan.encoding:
            return _distributed(plan, plan.encoding, cohort, state, orders)
        case _:
            return _randomised_by_phones(plan, cohort, state, orders)


def _central(plan: Plan, settings: Central, cohort: Cohort, state: State, orders: Orders) -> Release:
    """Gaussian noise on the sum; under an adaptive clip a little of the budget tells how many updates it cut."""
    found = cohort.clipped(orders, state.clip)
    after, about = state, {}
    if settings.clip_quantile is not None:
        counted, draw = clipping.SHARE_OF_COHORT * plan.cohort, generator(plan.seed, "count noise", orders.round)
        fraction = clipping.noisy_fraction_unclipped(found.norms, state.clip, plan.cohort, counted, draw)
        clip = clipping.next_clip(state.clip, fraction, settings.clip_quantile, settings.clip_learning_rate)
        after, about = replace(state, clip=clip), {"released_unclipped": fraction}
    deviation = float(plan.deviations[orders.round - 1]) * state.clip
    noise = gaussian(plan.seed, "noise", orders.round, size=plan.parameters, deviation=deviation)
    return Release(total=found.total + noise, found=found, deviation=deviation, state=after, about=about)


def _matrix(plan: Plan, cohort: Cohort, state: State, orders: Orders) -> Release:
    found = cohort.clipped(orders, state.clip)
    noise, past = factorisation.step(plan.bands, state.past, _fresh_noise(plan, orders.round))
    deviation, after = float(plan.deviations[orders.round - 1]) * state.clip, replace(state, past=past)
    return Release(total=found.total + noise, found=found, deviation=deviation, state=after, about={})


def _fresh_noise(plan: Plan, number: int) -> Vector:
    """What a factorisation makes round ``number``'s noise of, and that of the rounds behind it."""
    deviation = plan.noise_multiplier * plan.settings.clip
    return gaussian(plan.seed, "noise", number, size=plan.parameters, deviation=deviation)


def _randomised_by_phones(plan: Plan, cohort: Cohort, state: State, orders: Orders) -> Release:
    """The sum of what phones send that need trust nobody: each has added its own noise."""
    total = np.zeros(plan.parameters)
    norms: list[float] = []

    def add(block: Updates) -> None:
        rows = block.weights.astype(np.float64) - orders.weights
        total[:] += rows.sum(axis=0)
        norms.extend(np.linalg.norm(rows, axis=1))

    found = clipped_sum(
        train_blocks(cohort.train, orders, add, cohort.block), total, np.array(norms, np.float64), orders
    )
    deviation = None
    if isinstance(plan.settings, Local):
        deviation = plan.noise_multiplier * state.clip * math.sqrt(len(found.clients))
    return Release(total=found.total, found=found, deviation=deviation, state=state, about={})


def _distributed(plan: Plan, encoding: Encoding, cohort: Cohort, state: State, orders: Orders) -> Release:
    """Whole numbers modulo a power of two, opened only as the sum of all phones that the round announced.

    The phones' shares of the noise are drawn as their sum, whose law they have (`distributed.share`). Where one does
    not answer its share is missing, so nothing is opened; nor is it where more have come than there is room for. One
    whose training diverged sends zeros, and its share: that it has is as secret as anything.
    """
    signs = distributed.signs(encoding, generator(plan.seed, "rotation", orders.round))
    encoded = distributed.noise(encoding, generator(plan.seed, "noise", orders.round))
    total = np.zeros(plan.parameters)
    norms: list[float] = []

    def add(block: Updates) -> None:
        rows, lengths = clipping.clip(block.weights.astype(np.float64) - orders.weights, state.clip)
        draws = [generator(plan.seed, "rounding", orders.round, client) for client in block.clients.tolist()]
        sent = distributed.encode(encoding, rows, signs, draws)
        encoded[:] = distributed.modular(encoding, encoded + sent.sum(axis=0))
        total[:] += rows.sum(axis=0)
        norms.extend(lengths)

    answers = train_blocks(cohort.train, orders, add, cohort.block)
    opened = not answers.failures and len(orders.clients) <= encoding.cohort
    return Release(
        total=distributed.decode(encoding, encoded, signs) if opened else np.zeros(plan.parameters),
        found=clipped_sum(answers, total, np.array(norms, np.float64), orders),
        deviation=encoding.deviation,
        state=state,
        about={"opened": opened},
    )


def _about(plan: Plan, number: int, state: State, release: Release) -> About:
    """A round's row: what is spent by now, and figures of the phones' own that only a simulation can show."""
    found = release.found
    told, signal = found.norms, float(np.linalg.norm(found.total))
    clips = not isinstance(plan.settings, Local | DpSgd)  # of whom nobody sees an update before its noise
    length = None if release.deviation is None else release.deviation * math.sqrt(plan.parameters)
    return {
        "epsilon": float(plan.epsilon_by_round[number - 1]),
        "clip": state.clip,
        "next_clip": release.state.clip,
        "unclipped": float(np.mean(told <= state.clip)) if len(told) and clips else None,
        "median_norm": float(np.median(told)) if len(told) and clips else None,
        "noise_to_signal": length / signal if length is not None and signal else None,
        **release.about,
    }


def _divisor(plan: Plan, found: ClippedSum) -> int:
    """Whom a sum is divided among: those expected, as who came is not to be told; by DP-SGD those who came."""
    return max(1, len(found.clients)) if isinstance(plan.settings, DpSgd) else plan.cohort
