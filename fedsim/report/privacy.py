"""What a private run promises, on which terms, what it has spent of it, and what the promise leaves out."""

from collections.abc import Iterator

import numpy as np

from fedsim.privacy_settings import Central, NoPrivacy
from fedsim.report.folder import RunFolder
from fedsim.report.layout import Section, Table
from fedsim.report.numbers import Cell, count, decimal, percent
from fedsim.report.spending import private_rounds, spending_pictures

_ROWS = 200
_ROUND_FIELDS = {
    "epsilon": ("epsilon", decimal),
    "clip": ("clip", decimal),
    "median_norm": ("median norm", decimal),
    "unclipped": ("within the clip", percent),
    "noise_to_signal": ("noise to signal", decimal),
}


def privacy(run: RunFolder) -> Section | None:
    """The promise, and what has been spent of it by round; None where none was asked for."""
    if isinstance(run.config.privacy, NoPrivacy):
        return None
    return Section(
        name="privacy",
        heading="Privacy",
        text=(*_participation(run), *_unopened(run)),
        pictures=spending_pictures(run),
        tables=(*_statement(run), *_round_by_round(run)),
    )


def uncovered(run: RunFolder) -> Section | None:
    """What epsilon says nothing about, as the run itself states it; None where there is no epsilon."""
    if run.privacy.get("epsilon") is None:
        return None
    return Section(
        name="not-covered",
        heading="Not covered by epsilon",
        points=tuple(run.privacy["not_covered"]),
    )


def spent(run: RunFolder) -> float | None:
    """The epsilon of the rounds that were recorded; None where there is none, or no noise."""
    rounds = private_rounds(run)
    return rounds[-1]["epsilon"] if rounds else None


def promise_sentence(run: RunFolder) -> tuple[Cell, ...]:
    """Epsilon with everything that it means nothing without, in a sentence; empty where nothing is promised."""
    settings, said = run.config.privacy, run.privacy
    if isinstance(settings, NoPrivacy):
        return ()
    if settings.noise_multiplier == 0:
        return ("Updates are clipped but get no noise: no privacy is promised.",)
    if not said:
        return ("What is promised has not been recorded.",)
    so_far, rounds = spent(run), len(private_rounds(run))
    sentence: list[Cell] = ["Epsilon is "]
    if so_far is not None and rounds < said["rounds"]:
        sentence += [decimal(so_far), " by round ", count(rounds), ", and would be "]
    sentence += [decimal(said["epsilon"]), " by round ", count(said["rounds"])]
    sentence += [" at delta ", decimal(said["delta"]), f" for {said['unit']}: {said['adjacency']}; "]
    return (*sentence, f"{said['sampling']}; counted by {said['accountant']}.")


def privacy_notices(run: RunFolder) -> Iterator[str]:
    """What a reader of a private run's page must know: an early stop, and which figures are not private."""
    settings, said = run.config.privacy, run.privacy
    if isinstance(settings, NoPrivacy) or settings.noise_multiplier == 0:
        return
    if said and said["rounds"] < said["rounds_asked"]:
        yield (
            f"The budget of epsilon {said['budget']:g} allows {said['rounds']} of the {said['rounds_asked']} rounds "
            "asked for: the run ends there."
        )
    yield (
        "Epsilon covers the models of all rounds and what follows from them, such as the test accuracy. Much else on "
        "this page it does not cover: training losses, baselines and who took part (Learning), what is said of clients "
        "(Clients, Data), bytes (Traffic) and norms (Privacy). With the seed (Configuration) the noise can be taken "
        "off. A simulation may look at these; a deployment must not show them."
    )


def _participation(run: RunFolder) -> tuple[Cell, ...]:
    if not run.privacy:
        return ("What is promised has not been recorded.",)
    most, allowed = count(_most_rounds(run)), count(run.privacy["participations"])
    return "The client that took part most often did so in ", most, " of the rounds; at most it may in ", allowed, "."


def _most_rounds(run: RunFolder) -> int:
    """In how many rounds the client that took part most often did."""
    clients = [client for row in run.rounds for client in row["clients"]]
    return int(np.unique(clients, return_counts=True)[1].max(initial=0))


def _unopened(run: RunFolder) -> tuple[Cell, ...]:
    closed = sum(not row.get("opened", True) for row in private_rounds(run))
    return (" Rounds whose sum was not opened, so that nothing was learned: ", count(closed), ".") if closed else ()


def _statement(run: RunFolder) -> tuple[Table, ...]:
    """What an epsilon means nothing without, a fact a row."""
    said = run.privacy
    if not said:
        return ()
    settings = run.config.privacy
    adapts = isinstance(settings, Central) and settings.clip_quantile is not None
    rows: tuple[tuple[Cell, ...], ...] = (
        ("mechanism", said["mechanism"]),
        ("epsilon", decimal(said["epsilon"])),
        ("epsilon, budget", decimal(said["budget"])),
        ("delta", decimal(said["delta"])),
        ("protected", said["unit"]),
        ("adjacency", said["adjacency"]),
        ("sampling", said["sampling"]),
        ("accountant", said["accountant"]),
        ("noise multiplier", decimal(said["noise_multiplier"])),
        ("clip, at first" if adapts else "clip", decimal(said["clip"])),
        ("noise in a round's mean, in clips", decimal(said["noise_to_clip"])),
        ("rounds allowed", count(said["rounds"])),
        ("rounds asked for", count(said["rounds_asked"])),
        ("rounds of the client that took part most", count(_most_rounds(run))),
        ("rounds of a client, at most", count(said["participations"])),
        ("noise", said["noise"]),
    )
    return (Table(caption="The promise, and what it rests on", rows=rows, wide=True),)


def _round_by_round(run: RunFolder) -> tuple[Table, ...]:
    rounds = private_rounds(run)
    if not rounds:
        return ()
    every = -(-len(rounds) // _ROWS)
    shown = [row for i, row in enumerate(rounds) if i % every == 0 or i == len(rounds) - 1]
    table = Table(
        caption="Privacy, round by round" + (f", one in {every} and the last" if every > 1 else ""),
        columns=("round", *(heading for heading, _ in _ROUND_FIELDS.values())),
        rows=tuple(
            (str(row["round"]), *(write(row.get(field)) for field, (_, write) in _ROUND_FIELDS.items()))
            for row in shown
        ),
        folded=True,
    )
    return (table,)
