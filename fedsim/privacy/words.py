"""What a plan promises, in plain data for the run folder and in plain words for people."""

import importlib.metadata
import math
from collections.abc import Iterator
from typing import Any

from fedsim.privacy.accounting import projected_epsilon
from fedsim.privacy.plan import Plan, noise_to_clip, participations
from fedsim.privacy.sampling import separation
from fedsim.privacy_settings import Central, Distributed, DpSgd, Local, MatrixFactorisation

PROJECTED_CLIENTS, PROJECTED_COHORT, PROJECTED_DELTA = 1_000_000, 10_000, 1e-7
"""The deployment that a projected epsilon is of."""
FEW_CLIENTS = 20

NOT_COVERED = (
    "which phones take part in a round, and when, and whether their training fails",
    "the phones' training losses, and how many examples they hold",
    "the figures of single phones: label counts, their accuracy, the norms of their updates",
    "the baselines: central training and phones that train alone use the same data without noise",
    "other runs on the same data, such as those that chose the settings",
)
"""What a run folder shows, or a server sees, beyond the model; a simulation may look, a deployment must not."""

UNITS = {
    "client": "one client, with all its examples",
    "example": "one example of one phone",
}
ADJACENT = {
    "poisson": "add or remove one client",
    "fixed": "replace one client by another",
    "cyclic": "replace one client's updates by zeros",
}
MECHANISMS = {
    "central": "The server clips updates and adds Gaussian noise to their sum; it must be trusted with each of them.",
    "local": "Each phone clips its update and adds Gaussian noise to it; nobody need be trusted.",
    "distributed": "Each phone adds its share of Skellam noise to whole numbers modulo a power of two; the server must "
    "see their sum only, which takes secure aggregation, and phones must not collude with it.",
    "matrix": "The server adds noise that takes back part of the rounds' before; it must be trusted with each update.",
    "dp_sgd": "Each phone clips the gradients of single examples and adds Gaussian noise to every step; nobody need be "
    "trusted, and what is hidden is an example, not a phone.",
}


def statement(plan: Plan) -> dict[str, Any]:
    """Everything without which an epsilon means nothing, as JSON would have it."""
    settings = plan.settings
    spent = float(plan.epsilon_by_round[-1])
    return {
        "mechanism": settings.mechanism,
        "epsilon": spent if math.isfinite(spent) else None,
        "delta": settings.delta,
        "budget": settings.epsilon,
        "unit": UNITS["example" if isinstance(settings, DpSgd) else "client"],
        "adjacency": _adjacency(plan),
        "sampling": _sampling(plan),
        "accountant": _accountant(plan),
        "noise_multiplier": plan.noise_multiplier,
        "clip": settings.clip,
        "noise_to_clip": noise_to_clip(plan),
        "rounds": plan.rounds,
        "rounds_asked": plan.asked,
        "participations": participations(plan),
        "noise": "pseudo-random, from the seed: a simulation, and no protection for real data",
        "not_covered": list(NOT_COVERED),
    }


def projected(plan: Plan) -> float | None:
    """Epsilon of a hypothetical deployment with as much noise in a round's mean, None where there is none to tell."""
    if isinstance(plan.settings, MatrixFactorisation | DpSgd | Local | Distributed) or not plan.noise_multiplier:
        return None
    return projected_epsilon(plan.releases, PROJECTED_DELTA, population=PROJECTED_CLIENTS, cohort=PROJECTED_COHORT)


def explain(plan: Plan) -> Iterator[str]:
    """What is promised, under which conditions, and what is not, a paragraph an item."""
    said, settings = statement(plan), plan.settings
    yield MECHANISMS[settings.mechanism]
    yield from _promise(plan, said)
    yield from _noise(plan)
    yield "Not covered: " + "; ".join(NOT_COVERED) + "."
    if settings.epsilon and plan.rounds < plan.asked:
        yield (
            f"The budget of epsilon {settings.epsilon:g} is spent after {plan.rounds} of the {plan.asked} rounds asked "
            "for; the run stops there."
        )
    if plan.clients <= FEW_CLIENTS and not isinstance(settings, DpSgd):
        yield (
            f"With {plan.clients} clients nobody can hide in a crowd: noise that protects a whole phone drowns what so "
            "few can teach. Expect a useless model, and look at the projected epsilon instead."
        )
    if (hypothetical := projected(plan)) is not None:
        yield (
            f"Hypothetical: with {PROJECTED_CLIENTS:,} clients, {PROJECTED_COHORT:,} a round and as much noise in the "
            f"mean, the same training would spend epsilon {hypothetical:.3g} at delta {PROJECTED_DELTA:g}. This says "
            "nothing of the clients that train here."
        )
    yield "Noise here comes from the seed, so that a run can be repeated: this is a simulation of the protection."


def _adjacency(plan: Plan) -> str:
    if isinstance(plan.settings, DpSgd):
        return "add or remove one example"
    if isinstance(plan.settings, Local):
        return "replace one client's updates by any others"
    return ADJACENT[plan.settings.sampling]


def _promise(plan: Plan, said: dict[str, Any]) -> Iterator[str]:
    if said["epsilon"] is None:
        yield "No privacy is promised: without noise epsilon is infinite, whatever is clipped."
        return
    yield (
        f"Promised: epsilon {said['epsilon']:.4g} at delta {said['delta']:g} for {said['unit']}, after "
        f"{plan.rounds} rounds, counted by {said['accountant']}. Two federations are compared that differ by: "
        f"{said['adjacency']}."
    )
    yield f"Who takes part: {said['sampling']}."
    if plan.settings.sampling == "cyclic":
        yield (
            f"No phone takes part in more than {said['participations']} rounds, at least "
            f"{separation(plan.clients, plan.cohort)} apart. That is the cap; nothing is claimed for not being drawn."
        )


def _noise(plan: Plan) -> Iterator[str]:
    ratio = noise_to_clip(plan)
    if not ratio:
        return
    verdict = "mostly noise; more phones a round, or fewer weights, would help" if ratio > 1 else "mostly signal"
    yield (
        f"Each round's mean carries noise of {ratio:.3g} times the clip in length (z = {plan.noise_multiplier:.4g}, "
        f"{plan.parameters:,} weights, {plan.cohort} phones expected): a round in which all updates agree is {verdict}."
    )


def _sampling(plan: Plan) -> str:
    chance = plan.cohort / plan.clients
    if isinstance(plan.settings, DpSgd):
        return (
            "phones in turns; of each phone's examples every step draws each by its own coin, on the phone whose "
            f"examples pay most with q = 1/{plan.releases.population}"
        )
    return {
        "poisson": f"every client by its own coin, q = {chance:.4g}, secretly",
        "fixed": f"secretly any {plan.cohort} of {plan.clients} clients, without replacement",
        "cyclic": f"clients in turns, {plan.cohort} of {plan.clients} a round; no amplification is claimed",
    }[plan.settings.sampling]


def _accountant(plan: Plan) -> str:
    library = f"dp-accounting {importlib.metadata.version('dp-accounting')}"
    if isinstance(plan.settings, Distributed):
        return f"Renyi divergences of Skellam noise, converted by {library}"
    if isinstance(plan.settings, Central) and plan.settings.sampling == "fixed":
        return f"Renyi divergences or privacy loss distributions, whichever is less ({library})"
    return f"privacy loss distributions ({library})"
