"""What can be told of the labels that phones hold, by what is seen of a round: each update, a sum, what is released.

``attacks/properties.json`` has for studies the mean errors ``l1_each``, ``l1_sum`` and ``l1_released``, beside
``l1_chance``, that of a guess with the round's own mix.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.attacking.finished import FinishedRun
from fedsim.attacking.first_round import NAMES, Collection, Views, by_view, first_round
from fedsim.attacks.properties import histogram_error, label_shares
from fedsim.attacks.roc import curve, figures
from fedsim.attacks.view import ServerView
from fedsim.config import ConfigError
from fedsim.data.dataset import Examples, select
from fedsim.data.partition import label_counts
from fedsim.federation import training_examples, training_shards
from fedsim.report.attacks import roc_picture
from fedsim.report.layout import Section, Table
from fedsim.report.numbers import count, decimal
from fedsim.seeds import generator

PUBLIC = 300
ASSUMED = (
    "The attacker sees round 1. It holds the weights that the server sent, the training settings, how many examples "
    "each phone reports, or where it sees them together has on average, and {public} test examples with their labels. "
    "From the last bias of an update it infers which share of the phone's examples has which label. The error is the "
    "sum of the differences between inferred and true shares: 0 is exact, 2 is all wrong. Who knows what all phones of "
    "the round hold together, and nothing else, has the error that stands beside as guessing."
)

Shares = NDArray[np.float64]


def attack(run: FinishedRun) -> tuple[dict[str, Any], tuple[Section, ...]]:
    """Label histograms of round 1's phones under each view; raises `ConfigError` where updates do not tell them."""
    views = first_round(run, _public(run))
    clients = views["each"].clients
    truth = _true_shares(run, clients)
    inferred: dict[Collection, Shares] = {
        name: np.broadcast_to(_infer(run, seen.view), truth.shape) for name, seen in views.items()
    }
    found: dict[Collection, dict[str, Any]] = {name: _found(shares, truth) for name, shares in inferred.items()}
    guess = np.broadcast_to(truth.mean(axis=0), truth.shape)
    guessing = {"cohort": float(histogram_error(guess, truth).mean()), "uniform": _uniform_error(truth)}
    errors: dict[Collection, float] = {name: one["error"] for name, one in found.items()}
    told = ", ".join(f"from {NAMES[name]} with an error of {error:.2f}" for name, error in errors.items())
    result = {
        "sentence": f"The labels of a phone are told {told}; guessing has {guessing['cohort']:.2f}.",
        "assumed": ASSUMED.format(public=PUBLIC),
        **by_view("l1", errors),
        "l1_chance": guessing["cohort"],
        "clients": clients.tolist(),
        "views": {name: {"who": seen.who, "held": seen.held, **found[name]} for name, seen in views.items()},
        "guessing": guessing,
        "inferred": {name: shares.tolist() for name, shares in inferred.items()},
        "true": truth.tolist(),
    }
    return result, (_section(result, views, inferred, truth),)


def _public(run: FinishedRun) -> Examples:
    """Test examples, as many of each class as of another where there are that many."""
    test, classes = run.federation.dataset.test, run.federation.dataset.classes
    shuffled = generator(run.federation.config.seed, "public examples").permutation(len(test.labels))
    each = -(-PUBLIC // classes)
    return select(
        test, np.sort(np.concatenate([shuffled[test.labels[shuffled] == label][:each] for label in range(classes)]))
    )


def _infer(run: FinishedRun, view: ServerView) -> Shares:
    try:
        return label_shares(view, engine=run.engine)
    except ValueError as error:
        raise ConfigError(f"{run.folder}: {error}") from None


def _true_shares(run: FinishedRun, clients: NDArray[np.int64]) -> Shares:
    labels, classes = training_examples(run.federation).labels, run.federation.dataset.classes
    counts = label_counts(training_shards(run.federation, clients), labels, classes)
    return counts / counts.sum(axis=1, keepdims=True)


def _found(shares: Shares, truth: Shares) -> dict[str, Any]:
    """The mean error, and the area under the curve of telling the labels that a phone holds from those it lacks."""
    errors, held = histogram_error(shares, truth), truth.ravel() > 0
    told = min(held.sum(), (~held).sum()) >= 2
    presence = figures(np.ascontiguousarray(shares).ravel(), held).area if told else None
    return {"error": float(errors.mean()), "median_error": float(np.median(errors)), "presence_area": presence}


def _uniform_error(truth: Shares) -> float:
    return float(histogram_error(np.full_like(truth, 1 / truth.shape[1]), truth).mean())


def _section(result: dict[str, Any], views: Views, inferred: dict[Collection, Shares], truth: Shares) -> Section:
    found = result["views"]
    rows = [
        (
            NAMES[name],
            seen.who,
            decimal(found[name]["error"]),
            decimal(found[name]["median_error"]),
            decimal(found[name]["presence_area"]),
        )
        for name, seen in views.items()
    ]
    guessing = result["guessing"]
    table = Table(
        caption="Error of the inferred shares of labels",
        columns=("what is seen", "by whom", "mean error", "median error", "area: is a label held?"),
        rows=(
            *rows,
            ("nothing: the round's own mix is guessed", "–", decimal(guessing["cohort"]), "–", "–"),
            ("nothing: all labels alike are guessed", "–", decimal(guessing["uniform"]), "–", "–"),
        ),
        wide=True,
    )
    held = truth.ravel() > 0
    pictures = ()
    if all(one["presence_area"] is not None for one in found.values()):
        flat = {NAMES[name]: np.ascontiguousarray(shares).ravel() for name, shares in inferred.items()}
        pictures = (
            roc_picture(
                {name: curve(scores, held) for name, scores in flat.items()},
                {name: figures(scores, held) for name, scores in flat.items()},
                name="roc-labels",
                title="Does a phone hold a label?",
                about="Each phone and label is one question, and the inferred share the score.",
            ),
        )
    text = (result["assumed"], " Phones of round 1: ", count(len(truth)), ".")
    return Section(name="labels", heading="Labels of the phones", text=text, pictures=pictures, tables=(table,))
