"""Membership attacks on a finished run: which examples its model was trained on, and which phones took part.

``attacks/membership.json`` has for studies ``auc`` and ``tpr_at_1_percent`` of online LiRA on single examples, chosen
before anything was seen so that 0.5 is guessing, beside ``control_auc``, what it has on shadow models, where chance
alone decides who is a member; and areas of attacks on whole clients:
``client_auc`` from the models, ``client_auc_each``, ``client_auc_sum`` and ``client_auc_released`` from round 1. What
there were too few to tell of is null.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.attacking.finished import FinishedRun, examples_processed, participants
from fedsim.attacking.first_round import (
    MOST_REPLAYED,
    NAMES,
    Collection,
    Views,
    by_view,
    expected_updates,
    first_round,
)
from fedsim.attacks import roc
from fedsim.attacks.membership import (
    Confidences,
    Members,
    Scores,
    confidence,
    lira_offline,
    lira_online,
    loss_threshold,
    rmia,
    turns,
)
from fedsim.attacks.participation import alignment, loss_falls
from fedsim.attacks.shadows import logits, random_halves, shadow_models
from fedsim.data.dataset import Examples, select
from fedsim.data.partition import sizes
from fedsim.federation import PANEL, training_examples, training_shards
from fedsim.privacy import clipping
from fedsim.report.attacks import figures_table, roc_picture
from fedsim.report.layout import Section
from fedsim.seeds import generator

Scored = dict[str, tuple[Scores, Members]]

SHADOWS = 16
"""Models that the attacker trains, together on about as many examples as the run: an attack costs what a run does."""
LEAST_PROCESSED = 500_000
"""Examples that the attacker affords where a run was short: half a minute."""
CHOSEN = "LiRA online"
"""What is quoted: the best of several attacks, picked by the truth, would look better than guessing where all guess."""
IN_FEDERATION = "in the federation: loss"
MOST_AUDITED = 10_000
"""Of members; so many keep a shadow model small."""
MOST_POPULATION = 1_000
ASSUMED = (
    "The attacker holds the last model, the network, the initial weights and the training settings. It holds a pool of "
    "examples, {members} that chosen phones hold and {others} that none does, without knowing which is which, and "
    "trains {shadows} models on random halves of it: centrally, from the run's initial weights, with the "
    "run's optimizer and batch size, for {epochs} epochs of {half} examples. This is the standard assumption of LiRA. "
    "One shadow model sees at most as many examples as the run processed, and all together at most as many or "
    "{least}: an attacker who affords more may find more. Members are examples of phones that were chosen in any "
    "round; non-members are {source} examples. {population} other test examples, in nobody's training set, are RMIA's "
    "population. The offline attacks use only shadow models that have not seen the example."
)
CONTROL = (
    "The same attacks on the shadow models, each the victim of the others: here chance alone decided who is a member. "
    "Where non-members are test examples, they may differ from members in more than that; what an attack achieves "
    "above and not here may be that."
)
_CLIENTS = (
    "The attacker holds candidates' data and asks who took part: in the federation, from how far their loss fell "
    "between the first model and the last; in round 1, from how well the update that they would send, in another "
    "order of examples and clipped where the run clips, fits what is seen."
)


def attack(run: FinishedRun) -> tuple[dict[str, Any], tuple[Section, ...]]:
    """Examples and clients: figures of every attack, and the sections that show them."""
    examples, control, about = _example_scores(run)
    views = first_round(run, run.federation.dataset.test)
    clients = client_scores(run, views)
    found = {name: _figures(scored) for name, scored in (("examples", examples), ("control", control))}
    told = {attack: one for attack, one in clients.items() if min(one[1].sum(), (~one[1]).sum()) >= 2}
    found["clients"] = _figures(told)
    chosen, chance = found["examples"][CHOSEN], found["control"][CHOSEN]
    areas = {attack: one.area for attack, one in found["clients"].items()}
    result = {
        "sentence": f"{CHOSEN} tells examples that were trained on from others with an area of {chosen.area:.3f} under "
        f"the ROC curve; 0.5 is guessing, and on the shadow models it has {chance.area:.3f}.",
        "auc": chosen.area,
        "tpr_at_1_percent": next(quoted.rate for quoted in chosen.quoted if quoted.level == 0.01),
        "control_auc": chance.area,
        "client_auc": areas.get(IN_FEDERATION),
        **by_view("client_auc", {view: areas.get(_in_round(view)) for view in views}),
        **about,
        **{name: {attack: asdict(one) for attack, one in figures.items()} for name, figures in found.items()},
    }
    sections = [
        _section("examples", "Single examples", about["assumed"], examples, found["examples"]),
        _section("control", "Control: the shadow models themselves", CONTROL, control, found["control"]),
    ]
    if told:
        who = "; ".join(f"{NAMES[view]}: {seen.who}" for view, seen in views.items())
        sections.append(_section("clients", "Whole clients", f"{_CLIENTS} Seen by: {who}.", told, found["clients"]))
    else:
        why = "Nothing can be said of whole clients: it takes two that took part and two that did not."
        sections.append(Section(name="clients", heading="Whole clients", text=(why,)))
    return result, tuple(sections)


def example_attacks(
    target: Confidences,
    shadows: Confidences,
    members: Members,
    population: Confidences,
    population_shadows: Confidences,
) -> dict[str, Scores]:
    """Every attack's scores of the same examples."""
    drawn = (population, population_shadows)
    return {
        CHOSEN: lira_online(target, shadows, members),
        "LiRA offline": lira_offline(target, shadows, members),
        "RMIA online": rmia(target, shadows, members, *drawn),
        "RMIA offline": rmia(target, shadows, members, *drawn, online=False),
        "loss threshold": loss_threshold(target),
    }


def _example_scores(run: FinishedRun) -> tuple[Scored, Scored, dict[str, Any]]:
    """Scores against the run's model, the same against the shadow models, and what the attacker was given."""
    federation, draw = run.federation, generator(run.federation.config.seed, "membership attack")
    contract, dataset, threads = federation.contract, federation.dataset, run.threads
    pool, truth, population, source = _pool(run, draw)
    halves = random_halves(SHADOWS, len(truth), draw)
    half = len(truth) // 2
    epochs = _epochs(examples_processed(run), half)
    stack = shadow_models(
        contract,
        federation.initial,
        pool,
        halves,
        replace(contract.training, epochs=epochs),
        seed=federation.config.seed,
        engine=run.engine,
        threads=threads,
    )

    def say(models: NDArray[np.float32], examples: Examples) -> Confidences:
        found = logits(contract, models, examples, engine=run.engine, threads=threads)
        return confidence(found, examples.labels)

    models = np.concatenate([run.weights[np.newaxis], stack])
    asked, drawn = say(models, pool), say(models, select(dataset.test, population))
    scored = example_attacks(asked[0], asked[1:], halves, drawn[0], drawn[1:])
    about = {
        "assumed": ASSUMED.format(
            members=truth.sum(),
            others=(~truth).sum(),
            source=source,
            shadows=SHADOWS,
            epochs=epochs,
            half=half,
            least=LEAST_PROCESSED,
            population=len(population),
        ),
        "shadow_models": SHADOWS,
        "shadow_epochs": epochs,
        "pool": len(truth),
    }
    control = _in_turn(asked[1:], halves, drawn[1:])
    return {attack: (scores, truth) for attack, scores in scored.items()}, control, about


def _epochs(processed: int, half: int) -> int:
    """How often a shadow model walks through its ``half`` of the pool: for what one may see, and all together may."""
    affordable = max(processed, LEAST_PROCESSED) / SHADOWS
    return max(1, round(min(processed, affordable) / half))


def _in_turn(asked: Confidences, seen: Members, drawn: Confidences) -> Scored:
    """The attacks on each shadow model by means of the others, all scores one after another."""
    found = [
        example_attacks(asked[victim], asked[others], seen[others], drawn[victim], drawn[others])
        for victim, others in turns(len(asked))
    ]
    return {attack: (np.concatenate([scores[attack] for scores in found]), seen.ravel()) for attack in found[0]}


def _pool(run: FinishedRun, draw: np.random.Generator) -> tuple[Examples, Members, NDArray[np.int64], str]:
    """What the attacker trains on, who of it is a member, the test rows that it keeps as a population, and whence.

    There are as many others as members where there can be, so that a half is of the run's own size. They come from the
    training set if enough of it is in no chosen phone: nothing then tells members from others but that they are.
    """
    dataset, train = run.federation.dataset, training_examples(run.federation)
    held = np.unique(training_shards(run.federation, participants(run)).order)
    rows = np.sort(draw.choice(held, min(MOST_AUDITED, len(held)), replace=False))
    shuffled = draw.permutation(len(dataset.test.labels))
    population = np.sort(shuffled[: min(MOST_POPULATION, -(-len(shuffled) // 10))])
    free = np.setdiff1d(np.arange(len(dataset.train.labels)), held % len(dataset.train.labels))
    source, side, drawn = "test", dataset.test, shuffled[len(population) :]
    if len(free) >= len(rows):
        source, side, drawn = "training", train, draw.permutation(free)
    others = np.sort(drawn[: len(rows)])
    inputs: Any = np.concatenate([train.inputs[rows], side.inputs[others]])
    labels = np.concatenate([train.labels[rows], side.labels[others]])
    return Examples(inputs=inputs, labels=labels), np.arange(len(labels)) < len(rows), population, source


def client_scores(run: FinishedRun, views: Views) -> Scored:
    """Scores of clients that took part and as many that did not, by each way of asking."""
    draw = generator(run.federation.config.seed, "client membership attack")
    took_part = participants(run)
    everyone = np.arange(min(run.federation.config.federation.clients, PANEL + len(took_part)))
    candidates = _candidates(took_part, everyone, draw)
    falls = loss_falls(np.stack([_client_losses(run, weights, candidates) for weights in _first_and_last(run)]))
    shown, drawn = views["each"].clients, np.array(run.rounds[1]["clients"], np.int64)
    others = np.setdiff1d(everyone, drawn)  # who was drawn and is not shown is neither in "each" nor out of the round
    training = views["each"].view.training
    asked, expected = expected_updates(run, training, _candidates(shown, np.union1d(shown, others), draw))
    chosen = np.isin(asked, shown)
    return {IN_FEDERATION: (falls.sum(axis=0), np.isin(candidates, took_part))} | {
        _in_round(name): (alignment(seen.view, _clipped(expected, seen.clip)), chosen) for name, seen in views.items()
    }


def _in_round(view: Collection) -> str:
    return f"in round 1: {NAMES[view]}"


def _clipped(updates: NDArray[np.float32], clip: float) -> NDArray[np.float32]:
    return clipping.clip(updates, clip)[0].astype(np.float32) if math.isfinite(clip) else updates


def _candidates(
    members: NDArray[np.int64], everyone: NDArray[np.int64], draw: np.random.Generator
) -> NDArray[np.int64]:
    """Some of those who took part and some of the others, at most `MOST_REPLAYED` of each."""
    sides = (members, np.setdiff1d(everyone, members))
    return np.sort(np.concatenate([draw.choice(side, min(MOST_REPLAYED, len(side)), replace=False) for side in sides]))


def _client_losses(run: FinishedRun, weights: NDArray[np.float32], clients: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean loss of each client's own training examples."""
    held, federation = training_shards(run.federation, clients), run.federation
    examples = select(training_examples(federation), held.order)
    scores = logits(federation.contract, weights[np.newaxis], examples, engine=run.engine, threads=run.threads)[0]
    losses = -loss_threshold(confidence(scores, examples.labels))
    return np.add.reduceat(losses, held.offsets[:-1]) / sizes(held)


def _first_and_last(run: FinishedRun) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return run.federation.initial, run.weights


def _figures(scored: Scored) -> dict[str, roc.Figures]:
    return {attack: roc.figures(scores, truth) for attack, (scores, truth) in scored.items()}


def _section(name: str, heading: str, about: str, scored: Scored, found: Mapping[str, roc.Figures]) -> Section:
    curves = {attack: roc.curve(scores, truth) for attack, (scores, truth) in scored.items()}
    return Section(
        name=name,
        heading=heading,
        text=(about,),
        pictures=(roc_picture(curves, found, name=f"roc-{name}", title="ROC", about="Who was found."),),
        tables=(figures_table(found, "Figures of each attack"),),
    )
