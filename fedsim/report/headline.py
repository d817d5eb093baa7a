"""The top of the page: what was run, how it came out in one sentence, its key figures, and what is wrong with it."""

from collections.abc import Iterator
from pathlib import PurePath

import numpy as np

from fedsim.report.folder import Record, RunFolder, column
from fedsim.report.numbers import Cell, count, data_size, decimal, duration, percent
from fedsim.report.privacy import privacy_notices, promise_sentence, spent

_PROPER_NAMES = {"lenet": "LeNet", "lenet5": "LeNet-5", "tanh_cnn": "tanh CNN", "mnist": "MNIST"}
_STOPPED = {"interrupted": "it was interrupted", "failed": "it failed"}


def page_title(run: RunFolder) -> str:
    """The title that the config gives, or model, data and number of clients."""
    given = run.config.report.title
    return given or f"{_model(run)} on {_source(run)}, {run.config.federation.clients:,} clients"


def last_measured(run: RunFolder) -> Record | None:
    """The record of the last round whose test accuracy was measured."""
    return next((record for record in reversed(run.rounds) if record.get("test_accuracy") is not None), None)


def best_measured(run: RunFolder) -> Record | None:
    """The record of the round with the highest test accuracy, the first of equals."""
    accuracy = column(run.rounds, "test_accuracy")
    return run.rounds[int(np.nanargmax(accuracy))] if np.isfinite(accuracy).any() else None


def client_accuracy(run: RunFolder) -> Record | None:
    """The spread of accuracy over clients at the end: the summary's, or that of the last round that measured it."""
    if spread := run.summary.get("client_accuracy"):
        return spread
    return next((record["client_accuracy"] for record in reversed(run.rounds) if record.get("client_accuracy")), None)


def alone_accuracy(run: RunFolder) -> float | None:
    """The mean test accuracy of the clients that trained alone, where there are any."""
    alone = run.baselines.get("local_only")
    return float(np.mean(alone["test_accuracy"])) if alone else None


def result_sentence(run: RunFolder) -> tuple[Cell, ...]:
    """How the run came out, in a sentence, with the baselines and the promise of privacy behind it."""
    federation, last = run.config.federation, last_measured(run)
    if last is None:
        return ("No test accuracy has been recorded.",)
    sentence: list[Cell] = ["After ", count(last["round"])]
    if last["round"] != federation.rounds:
        sentence += [" of ", count(federation.rounds)]
    rounds = "round" if last["round"] == 1 else "rounds"
    sentence += [f" {rounds} of {run.config.strategy.name} with ", count(federation.cohort), " of "]
    sentence += [count(federation.clients), f" simulated phones a round, {_model(run)} labels "]
    sentence += [percent(last["test_accuracy"]), f" of the {_source(run)} test set correctly."]
    central, alone = run.baselines.get("central"), alone_accuracy(run)
    if central:
        sentence += [" Central training reaches ", percent(central["curve"][-1]["test_accuracy"]), "."]
    if alone is not None:
        sentence += [" A phone that trains alone reaches ", percent(alone), " on average."]
    if promise := promise_sentence(run):
        sentence += [" ", *promise]
    return tuple(sentence)


def notices(run: RunFolder) -> tuple[str, ...]:
    """What a reader must know before trusting the page: an unfinished run, failed clients, missing files."""
    return tuple(_notices(run))


def key_figures(run: RunFolder) -> tuple[tuple[str, Cell], ...]:
    """The run's numbers in brief; what was not recorded is left out."""
    return tuple(_key_figures(run))


def _notices(run: RunFolder) -> Iterator[str]:
    planned = run.config.federation.rounds
    done = max((record["round"] for record in run.rounds), default=0)
    if run.status == "running":
        yield f"This run has not finished: it is still going, or was killed. Rounds recorded: {done} of {planned}."
    elif run.status != "finished":
        reason = run.summary.get("reason")
        because = f" ({reason})" if reason else ""
        yield f"This run did not finish: {_STOPPED[run.status]}{because}. Rounds recorded: {done} of {planned}."
    yield from privacy_notices(run)
    if failures := int(np.nansum(column(run.rounds, "failures"))):
        yield f"Phones that failed: {failures}; the table of rounds says when."
    if "population" in run.clients:
        shown, everybody = len(run.clients["label_counts"]), int(run.clients["population"])
        yield f"What is said of single clients is said of the first {shown:,} of {everybody:,}; all draw alike."
    if run.missing:
        yield f"Not in the run folder, so not on this page: {', '.join(run.missing)}."
    if run.config.baselines.central and not run.baselines.get("central"):
        yield "Central training was asked for as a baseline, and has not been recorded."
    if run.config.baselines.local_only and not run.baselines.get("local_only"):
        yield "Phones that train alone were asked for as a baseline, and have not been recorded."


def _key_figures(run: RunFolder) -> Iterator[tuple[str, Cell]]:
    if last := last_measured(run):
        yield "test accuracy", percent(last["test_accuracy"])
        yield "test loss", decimal(last.get("test_loss"))
    if run.privacy and (epsilon := spent(run)) is not None:
        yield f"epsilon at delta {run.privacy['delta']:g}", decimal(epsilon)
    if (spread := client_accuracy(run)) and "worst_decile_mean" in spread:
        yield "accuracy of the lowest tenth of clients", percent(spread["worst_decile_mean"])
    if reached := [(goal, rounds) for goal, rounds in run.summary.get("rounds_to", {}).items() if rounds is not None]:
        goal, rounds = max(reached, key=lambda pair: float(pair[0]))
        yield f"rounds to {100 * float(goal):.10g} %", count(rounds)
    if run.rounds:
        moved = sum(float(np.nansum(column(run.rounds, way))) for way in ("bytes_down", "bytes_up"))
        yield "sent down and up", data_size(moved)
    if seconds := run.summary.get("seconds"):
        yield "time in all", duration(seconds["total"])
    if model := run.summary.get("model"):
        yield "weights in the model", count(model["parameters"])
    if memory := run.summary.get("peak_memory_bytes"):
        yield "peak memory", data_size(memory)


def _model(run: RunFolder) -> str:
    model = run.config.model
    return PurePath(model.contract).name if model.contract else _PROPER_NAMES.get(model.name, model.name)


def _source(run: RunFolder) -> str:
    source = run.config.data.source
    return _PROPER_NAMES.get(source, PurePath(source).name)
