"""What a run's server could tell of its phones' labels, by what it sees of a round: each update, or only their sum."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.attacking.finished import FinishedRun, first_round
from fedsim.attacks.properties import histogram_error, label_shares
from fedsim.attacks.roc import curve, figures
from fedsim.attacks.view import ServerView, summed
from fedsim.config import ConfigError
from fedsim.data.dataset import Examples, select
from fedsim.data.partition import label_counts
from fedsim.federation import training_shards
from fedsim.report.attacks import roc_picture
from fedsim.report.layout import Section, Table
from fedsim.report.numbers import count, decimal
from fedsim.seeds import generator

PUBLIC = 300
ASSUMED = (
    "The server of round 1 holds the weights that it sent, the training settings, how many examples each phone "
    "reports, and {public} test examples with their labels. From the last bias of an update it infers which share of "
    "the phone's examples has which label. The error is the sum of the differences between inferred and true shares: 0 "
    "is exact, 2 is all wrong. A server that knows what all phones of the round hold together, and nothing else, has "
    "the error that stands beside as guessing."
)

Shares = NDArray[np.float64]


def attack(run: FinishedRun) -> tuple[dict[str, Any], tuple[Section, ...]]:
    """Label histograms of round 1's phones under each view; raises `ConfigError` where updates do not tell them."""
    view = first_round(run, _public(run))
    truth = _true_shares(run, view.clients)
    views = {"each update": view, "the sum": summed(view)}
    inferred = {name: np.broadcast_to(_infer(run, seen), truth.shape) for name, seen in views.items()}
    found = {name: _found(shares, truth) for name, shares in inferred.items()}
    guess = np.broadcast_to(truth.mean(axis=0), truth.shape)
    guessing = {"cohort": float(histogram_error(guess, truth).mean()), "uniform": _uniform_error(truth)}
    result = {
        "sentence": f"From each update the labels of a phone are told with an error of "
        f"{found['each update']['error']:.2f}, from the sum with {found['the sum']['error']:.2f}; guessing has "
        f"{guessing['cohort']:.2f}.",
        "assumed": ASSUMED.format(public=PUBLIC),
        "clients": view.clients.tolist(),
        "views": found,
        "guessing": guessing,
        "inferred": {name: shares.tolist() for name, shares in inferred.items()},
        "true": truth.tolist(),
    }
    return result, (_section(result, inferred, truth),)


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
    dataset = run.federation.dataset
    counts = label_counts(training_shards(run.federation, clients), dataset.train.labels, dataset.classes)
    return counts / counts.sum(axis=1, keepdims=True)


def _found(shares: Shares, truth: Shares) -> dict[str, Any]:
    """The mean error, and the area under the curve of telling the labels that a phone holds from those it lacks."""
    errors, held = histogram_error(shares, truth), truth.ravel() > 0
    told = min(held.sum(), (~held).sum()) >= 2
    presence = figures(np.ascontiguousarray(shares).ravel(), held).area if told else None
    return {"error": float(errors.mean()), "median_error": float(np.median(errors)), "presence_area": presence}


def _uniform_error(truth: Shares) -> float:
    return float(histogram_error(np.full_like(truth, 1 / truth.shape[1]), truth).mean())


def _section(result: dict[str, Any], inferred: dict[str, Shares], truth: Shares) -> Section:
    rows = [
        (name, decimal(found["error"]), decimal(found["median_error"]), decimal(found["presence_area"]))
        for name, found in result["views"].items()
    ]
    guessing = result["guessing"]
    table = Table(
        caption="Error of the inferred shares of labels",
        columns=("the server sees", "mean error", "median error", "area: is a label held?"),
        rows=(
            *rows,
            ("nothing, and guesses the round's own mix", decimal(guessing["cohort"]), "–", "–"),
            ("nothing, and guesses all labels alike", decimal(guessing["uniform"]), "–", "–"),
        ),
        wide=True,
    )
    held = truth.ravel() > 0
    pictures = ()
    if all(found["presence_area"] is not None for found in result["views"].values()):
        flat = {name: np.ascontiguousarray(shares).ravel() for name, shares in inferred.items()}
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
