"""What a plan promises, in plain data for the run folder and in plain words for people."""

import importlib.metadata
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    "cyclic": "leave out what one client contributes",
}
OTHERWISE = {
    "poisson": "as if that client had not been there",
    "fixed": "as if another client had been in its place",
    "cyclic": "as if that client had contributed nothing in its turns",
}
"""What the world is compared with, in words, under each adjacency."""
MECHANISMS = {
    "central": "The server clips every update and adds Gaussian noise to their sum. It sees the updates themselves: "
    "it must be trusted with them.",
    "local": "Every phone clips its own update and adds Gaussian noise to it before it leaves the phone. Nobody else "
    "need be trusted.",
    "distributed": "Every phone clips its update, makes it whole numbers modulo a power of two and adds a share of the "
    "noise, Skellam's. The promise holds for the sum: the server must see nothing else, which takes secure "
    "aggregation, and no phone may tell it the noise that it added.",
    "matrix": "The server clips every update and adds Gaussian noise to their sum, part of which the noise of later "
    "rounds takes back. It sees the updates themselves: it must be trusted with them.",
    "dp_sgd": "Every phone trains by DP-SGD: it clips the gradient of every example and adds Gaussian noise to every "
    "step. Nobody else need be trusted. What is hidden is a single example, not that a phone took part, how many "
    "examples it holds or what they have in common.",
}


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A plan in words: the ``promise`` in a line, ``paragraphs`` on what it means and rests on, what it leaves out."""

    promise: str
    paragraphs: tuple[str, ...]
    not_covered: tuple[str, ...]


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


def promise(said: Mapping[str, Any]) -> str:
    """A `statement`'s epsilon in a line, with what it is of and how it came about."""
    if said["epsilon"] is None:
        return "none promised: no noise"
    return f"epsilon {said['epsilon']:.4g} at delta {said['delta']:g}; {said['adjacency']}; {said['sampling']}"


def projection(plan: Plan) -> dict[str, Any] | None:
    """Epsilon of a hypothetical deployment with as much noise in a round's mean, None where there is none to tell."""
    if isinstance(plan.settings, MatrixFactorisation | DpSgd | Local | Distributed) or not plan.noise_multiplier:
        return None
    size = {"population": PROJECTED_CLIENTS, "cohort": PROJECTED_COHORT}
    hypothetical = projected_epsilon(plan.releases, PROJECTED_DELTA, **size)
    return {"epsilon": hypothetical, "delta": PROJECTED_DELTA, "clients": PROJECTED_CLIENTS, "cohort": PROJECTED_COHORT}


def explain(plan: Plan) -> Explanation:
    """What is promised, under which conditions, and what is not."""
    said = statement(plan)
    if said["epsilon"] is None:
        nothing = "No privacy is promised: without noise epsilon is infinite, whatever is clipped."
        return Explanation(promise=nothing, paragraphs=(), not_covered=())
    line = f"Promised: epsilon {said['epsilon']:.4g} at delta {said['delta']:g} for {said['unit']}."
    return Explanation(promise=line, paragraphs=tuple(_paragraphs(plan, said)), not_covered=NOT_COVERED)


def _paragraphs(plan: Plan, said: Mapping[str, Any]) -> Iterator[str]:
    yield _meaning(plan, said)
    if plan.rounds < plan.asked:
        yield (
            f"The budget of epsilon {plan.settings.epsilon:g} is spent after {plan.rounds} of the {plan.asked} rounds "
            "asked for: the run stops there."
        )
    yield MECHANISMS[plan.settings.mechanism]
    yield f"Who takes part: {said['sampling']}. {_condition(plan)}"
    yield f"Counted over {_rounds(plan.rounds)} by {said['accountant']}."
    yield from _noise(plan)
    hypothetical = projection(plan)
    if plan.clients <= FEW_CLIENTS and not isinstance(plan.settings, DpSgd):
        yield (
            f"Few clients: what hides one of {plan.clients} mostly drowns what the others teach. Expect little of the "
            f"model{', and look at the hypothetical epsilon below' if hypothetical else ''}."
        )
    if hypothetical:
        yield (
            f"Hypothetical: with {PROJECTED_CLIENTS:,} clients, {PROJECTED_COHORT:,} a round and as much noise in the "
            f"mean, such a run would spend epsilon {hypothetical['epsilon']:.3g} at delta {PROJECTED_DELTA:g}. This "
            "says nothing of the clients that train here."
        )
    yield (
        "A simulation: noise is drawn from the seed, so that the run can be repeated, and whoever knows the seed can "
        "take it off again."
    )


def _adjacency(plan: Plan) -> str:
    if isinstance(plan.settings, DpSgd):
        return "replace one example's gradients by zeros"
    if isinstance(plan.settings, Local):
        return "replace one client's updates by any others"
    return ADJACENT[plan.settings.sampling]


def _meaning(plan: Plan, said: Mapping[str, Any]) -> str:
    otherwise = OTHERWISE[plan.settings.sampling]
    if isinstance(plan.settings, DpSgd):
        otherwise = "as if that example's gradients had been zeros"
    if isinstance(plan.settings, Local):
        otherwise = "as if that client had sent any other updates"
    return (
        f"It means: whatever the models of all rounds show is at most {_factor(said['epsilon'])} times as likely, "
        f"or as unlikely, {otherwise}, but for a chance of {said['delta']:g} ({said['adjacency']})."
    )


def _factor(epsilon: float) -> str:
    """e to the epsilon, for reading."""
    if epsilon > 20:
        return f"e^{epsilon:.4g}"
    factor = math.exp(epsilon)
    return f"{factor:.3g}" if factor < 100 else f"{factor:,.0f}"


def _condition(plan: Plan) -> str:
    """What the epsilon takes for granted of who takes part."""
    if plan.settings.sampling != "cyclic":
        return "Epsilon counts on that: it holds only against those who do not learn which clients were drawn."
    turns = participations(plan)
    apart = f", at least {_rounds(separation(plan.clients, plan.cohort))} apart" if turns > 1 else ""
    return f"No client takes part in more than {_rounds(turns)}{apart}; who does, and when, everybody may know."


def _noise(plan: Plan) -> Iterator[str]:
    settings, ratio = plan.settings, noise_to_clip(plan)
    if isinstance(settings, Central) and settings.clip_quantile is not None:
        yield (
            f"The clip begins at {settings.clip:g} and follows the updates until {settings.clip_quantile:.0%} of them "
            "are within it; the noised count that this takes is part of the epsilon."
        )
    if ratio is None:
        yield (
            f"In every step, each of {plan.parameters:,} weights gets noise of {plan.noise_multiplier:.4g} times the "
            "clip, divided by the batch."
        )
        return
    verdict = (
        "mostly noise; more clients a round, or a model of fewer weights, would help" if ratio > 1 else "mostly signal"
    )
    yield (
        f"Each round's mean carries noise {ratio:.3g} times as long as the clip (noise multiplier "
        f"{plan.noise_multiplier:.4g}, {plan.parameters:,} weights, {plan.cohort} clients expected). Even where all "
        f"updates agree, a round is {verdict}."
    )


def _sampling(plan: Plan) -> str:
    chance = plan.cohort / plan.clients
    if isinstance(plan.settings, DpSgd):
        return (
            f"clients in turns, {plan.cohort} of {plan.clients} a round; every step draws each of a client's examples "
            f"by its own coin, secretly, q = 1/{plan.releases.population} on the client whose examples pay most"
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
    sampled = plan.releases.cohort < plan.releases.population
    if plan.releases.sampling == "fixed" and sampled:
        return f"Renyi divergences, or the exact curve without amplification, whichever is less ({library})"
    if plan.releases.sampling == "poisson" and sampled:
        return f"privacy loss distributions ({library})"
    return f"the exact curve of Gaussian noise ({library})"


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count:,} rounds"
