"""The audit of a config: it trains with canary clients among its phones, and what it releases tells who they were.

The phones train, Flower's loop aggregates; clipping, sum, noise and sampling are the code of any private run that
stacks its phones' models. Sums that an engine forms while phones train agree with that one, which is tested elsewhere.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim import messages, results
from fedsim.attacks.auditing import Audit
from fedsim.attacks.canaries import Canaries, Claim, attending, audit_releases, draw_canaries
from fedsim.config import ConfigError, RunConfig, command_line
from fedsim.data.dataset import Dataset
from fedsim.federation import Federation, set_up, with_plan
from fedsim.privacy import sampling
from fedsim.privacy.plan import Plan, draw, with_room
from fedsim.privacy_settings import DpSgd, Local, NoPrivacy, Privacy
from fedsim.recording import RunError
from fedsim.report.auditing import audit_section, verdict
from fedsim.report.layout import Section
from fedsim.report.page import write_page
from fedsim.run import REPLY_SECONDS, quieten_flower
from fedsim.simulation.audited import with_canaries
from fedsim.simulation.engines import Engine, open_engine
from fedsim.simulation.grid import FederationGrid
from fedsim.simulation.poisoned import poisoned
from fedsim.simulation.private import Clipped, Cohort, Train, first_state, private_phone, stacked
from fedsim.strategies import build_strategy
from fedsim.updates import ClippedSum, Orders, Updates

Ear = Callable[[], NDArray[np.float64]]
"""Gives the sum ``float64[P]`` of what the phones have sent, clipped, since it was last asked."""

FEWEST = 100
"""With fewer canaries even right guesses say little."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Audited:
    """A private ``federation`` with ``canaries`` beside its clients, and a ``plan`` that has room for them.

    ``attendance`` ``float64[m, rounds]`` is the chance that a canary that is in comes to a round: 0 or 1 where clients
    take turns.
    """

    federation: Federation
    plan: Plan
    canaries: Canaries
    attendance: NDArray[np.float64]


def audit(
    config: RunConfig, *, dataset: Dataset | None = None, canaries: int = 1000, claim: Claim | None = None
) -> Audit:
    """Play all rounds of a private config with ``canaries`` clients more, and bound its epsilon from what it releases.

    Each canary is in for the whole run with probability 1/2, and then takes part as a client does: by a coin of its
    own in each round, or at the turns of one of the clients. The auditor is the strongest that the promise covers: it
    sees every release, and knows all that the phones sent. ``claim`` is what is to be refuted, the accountant's epsilon
    if not given. Equal configs give equal audits; what is found varies with ``config.seed``.

    Raises `ConfigError` for a config that promises nothing, or releases no sum of clients that join by themselves.
    """
    _check(config.privacy, canaries, claim)
    audited = with_audit(with_plan(set_up(config, dataset)), canaries)
    with open_engine(audited.federation) as engine:
        releases = play(audited, *audited_cohort(audited, engine))
    return judge(audited, releases, claim or promise(audited.plan))


def with_audit(federation: Federation, count: int) -> Audited:
    """The ``count`` canaries of a private federation, when they come, and room for them."""
    plan = federation.plan
    assert plan  # `_check` has seen to it
    canaries = draw_canaries(plan.seed, count=count, dimension=plan.parameters, clip=plan.settings.clip)
    if plan.settings.sampling == "poisson":
        chance = plan.cohort / plan.clients
        attendance = np.full((count, plan.rounds), chance)
        most = sampling.largest_cohort(count, count * chance, plan.rounds)
    else:
        turns = [np.isin(np.arange(count) % plan.clients, draw(plan, number + 1)) for number in range(plan.rounds)]
        attendance = np.stack(turns, axis=1).astype(np.float64)
        most = int(attendance.sum(axis=0).max())
    try:
        plan = with_room(plan, most)
    except ValueError as error:
        raise ConfigError(f"canaries = {count}: come on top of a cohort of {plan.cohort}; {error}") from error
    return Audited(federation=federation, plan=plan, canaries=canaries, attendance=attendance)


def audited_cohort(
    audited: Audited, engine: Engine, summed: Callable[[Train], Clipped] = stacked
) -> tuple[Cohort, Ear]:
    """The cohort of a run with the canaries in it, ``summed`` as is to be audited, and an ear (`with_canaries`)."""
    plan, canaries = audited.plan, audited.canaries

    def attend(number: int) -> NDArray[np.int64]:
        return attending(canaries, number, audited.attendance[:, number - 1])

    train = poisoned(engine, audited.federation).train
    return with_canaries(partial(draw, plan), train, canaries, first=plan.clients, attend=attend, summed=summed)


def play(audited: Audited, cohort: Cohort, hear: Ear) -> NDArray[np.float32]:
    """All rounds by Flower's own loop: each round's noised sum less what phones were heard to send, ``[rounds, P]``.

    The sum is what the strategy could work out from the answer that it gets: how far the model moved, times the
    expected cohort. Where the clip changes from round to round, sums are brought to the canaries' clip.
    """
    federation, plan, canaries = audited.federation, audited.plan, audited.canaries
    releases = np.empty((plan.rounds, plan.parameters), np.float32)
    scale = 1.0

    def note(asked: Orders, found: ClippedSum, about: dict[str, Any]) -> None:
        nonlocal scale
        if found.failures and federation.config.federation.on_client_failure == "stop":
            raise RunError(f"{messages.describe(found.failures[0])} (federation.on_client_failure = stop)")
        scale = canaries.clip / about["clip"]

    phone = private_phone(plan, cohort, first_state(plan, ()), note)

    def train(orders: Orders) -> Updates:
        answer = phone.train(orders)
        moved = answer.weights[0].astype(np.float64) - orders.weights
        releases[orders.round - 1] = scale * (plan.cohort * moved - hear())
        return answer

    quieten_flower()
    config, training = federation.config, federation.contract.training
    build_strategy(config, training.learning_rate).start(
        FederationGrid(replace(phone, train=train)),
        messages.model_record(federation.initial),
        num_rounds=plan.rounds,
        timeout=REPLY_SECONDS,
        train_config=messages.training_record(training),
    )
    return releases


def judge(audited: Audited, releases: NDArray[np.float32], claim: Claim) -> Audit:
    """The audit of ``releases`` ``float32[rounds, P]`` under a ``claim``.

    Noise that a factorisation with the bands c correlates over rounds is made independent first, by C, and then the
    rounds into which one update has so been spread are gathered again, by C's transpose: the sums of a matched filter,
    in which an update counts |c|^2 and the noise |c| times its deviation; both over |c|^2, as scores are in clips.
    """
    bands = audited.plan.bands
    return audit_releases(
        audited.canaries,
        gathered(bands, releases),
        attendance=audited.attendance,
        claim=replace(claim, noise_multiplier=claim.noise_multiplier / float(np.linalg.norm(bands))),
    )


def promise(plan: Plan) -> Claim:
    """What the accountant says of a whole run."""
    spent = float(plan.epsilon_by_round[-1])
    return Claim(epsilon=spent, delta=plan.settings.delta, noise_multiplier=plan.noise_multiplier)


def write_audit(folder: Path, found: Audit, config: RunConfig) -> dict[str, Any]:
    """Write ``audit.json`` and ``audit.html`` to ``folder``; returns what the former holds.

    Raises `ConfigError` where ``folder`` cannot be written.
    """
    command = command_line(config).replace("fedsim run", "fedsim audit", 1) + f" --canaries {found.canaries}"
    result = {**asdict(found), "refuted": found.refuted, "sentence": verdict(found), "command": command}
    again = Section(name="command", heading="Reproduce", command=command)
    try:
        results.write_json(folder / "audit.json", result)
        write_page(folder / "audit.html", title="Audit", sections=(audit_section(found), again))
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from None
    return result


def new_folder() -> Path:
    """Where an audit goes that is not told: ``audits/<time>``."""
    return results.new_folder("audits", datetime.now(UTC))


def _check(privacy: Privacy, canaries: int, claim: Claim | None) -> None:
    """Whether there is a sum to audit and a promise about it; raises `ConfigError` in a line."""
    if canaries < FEWEST:
        raise ConfigError(f"canaries = {canaries}: allowed are {FEWEST} or more, as fewer show next to nothing")
    if isinstance(privacy, NoPrivacy):
        raise ConfigError("privacy.mechanism = none: promises nothing to audit; give privacy.epsilon to begin with")
    if isinstance(privacy, Local | DpSgd):
        raise ConfigError(
            f"privacy.mechanism = {privacy.mechanism}: each phone adds its noise by itself, and what is audited is a "
            "sum that a server releases; allowed here: central, distributed or matrix"
        )
    if privacy.sampling == "fixed":
        raise ConfigError(
            "privacy.sampling = fixed: a canary more in a cohort of a fixed size would be a phone less, and what is "
            "audited is a client that joins by itself; allowed here: poisson or cyclic"
        )
    if privacy.noise_multiplier == 0 and claim is None:
        raise ConfigError("privacy.noise_multiplier = 0: promises nothing to audit; allowed here: more than 0")


def gathered(bands: NDArray[np.float64], releases: NDArray[np.float32]) -> Iterator[NDArray[np.float64]]:
    """The rows of ``C^T C releases / |c|^2``, where C has the ``bands`` c along its diagonals: the same for one."""
    rounds, reach = len(releases), len(bands)
    spread = np.sum([entry * np.eye(rounds, k=-lag) for lag, entry in enumerate(bands)], axis=0)
    weights = spread.T @ spread / np.square(bands).sum()
    for number in range(rounds):
        near = slice(max(0, number - reach + 1), number + reach)
        yield weights[number, near] @ releases[near].astype(np.float64)
