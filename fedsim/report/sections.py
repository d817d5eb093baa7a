"""The sections that show what a run did, each with its pictures and the numbers behind them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.report.costs import part_seconds, time_picture, traffic, traffic_picture
from fedsim.report.folder import Arrays, Record, RunFolder, column
from fedsim.report.headline import alone_accuracy, best_measured, client_accuracy, last_measured
from fedsim.report.labels import describe, label_picture
from fedsim.report.layout import Section, Table
from fedsim.report.learning import accuracy_picture, epoch_losses_picture, examples_processed, loss_picture
from fedsim.report.numbers import NOTHING, Cell, count, data_size, decimal, duration, mean_count, percent
from fedsim.report.spread import client_accuracy_picture, client_rounds_picture, worst_tenth

_ROWS = 200
_WORST = 10
_ROUND_FIELDS = {
    "examples": ("examples", count),
    "train_loss": ("training loss", decimal),
    "test_loss": ("test loss", decimal),
    "test_accuracy": ("test accuracy", percent),
    "failures": ("failures", count),
    "bytes_down": ("down", data_size),
    "bytes_up": ("up", data_size),
}
_SPREAD_FIELDS = {
    "mean": "mean",
    "p10": "10th percentile",
    "worst_decile_mean": "mean of the lowest tenth",
    "min": "lowest",
    "max": "highest",
}
_CLIENT_FIELDS = {
    "examples": "examples",
    "test_examples": "test examples",
    "times_chosen": "rounds taken part in",
}


def learning(run: RunFolder) -> Section:
    """Accuracy and loss with the baselines beside."""
    if not run.rounds:
        return _nothing("learning", "Learning", "No round has been recorded.")
    return Section(
        name="learning",
        heading="Learning",
        pictures=(accuracy_picture(run), loss_picture(run)),
        tables=(_compared(run), *_goals(run), _round_by_round(run)),
    )


def clients(run: RunFolder) -> Section:
    """The spread of accuracy over clients, with the lowest tenth named."""
    spread, accuracy = client_accuracy(run), run.clients.get("accuracy")
    measured = accuracy if accuracy is not None and np.isfinite(accuracy).any() else None
    by_round = np.isfinite(column(run.rounds, "client_accuracy", "mean")).any()
    if spread is None and measured is None:
        return _nothing("clients", "Clients", "No client's accuracy has been recorded.")
    return Section(
        name="clients",
        heading="Clients",
        text=_participation(run.clients),
        pictures=(
            *(() if measured is None else (client_accuracy_picture(measured),)),
            *((client_rounds_picture(run),) if by_round else ()),
        ),
        tables=(
            *(() if spread is None else (_spread(spread),)),
            *(() if measured is None else (_lowest(run.clients, measured),)),
        ),
    )


def labels(arrays: Arrays) -> Section:
    """Which labels each client holds; ``arrays`` needs ``label_counts`` only, and ``population`` if there are more."""
    counts = arrays.get("label_counts")
    if counts is None:
        return _nothing("labels", "Data", "The partition has not been recorded.")
    everybody = int(arrays.get("population", len(counts)))
    table = Table(
        caption=f"Over {'all' if everybody == len(counts) else f'the first of {everybody:,}'} clients: {len(counts):,}",
        columns=("", "lowest", "median", "mean", "highest"),
        rows=(
            ("training examples", *_statistics(counts.sum(axis=1))),
            ("different labels", *_statistics((counts > 0).sum(axis=1))),
        ),
        wide=True,
    )
    picture = label_picture(counts)
    return Section(name="labels", heading="Data", text=(describe(counts),), pictures=(picture,), tables=(table,))


def bytes_moved(run: RunFolder) -> Section:
    """Bytes down and up."""
    if not run.rounds:
        return _nothing("traffic", "Traffic", "No round has been recorded.")
    trained = max(1, sum(record["round"] > 0 for record in run.rounds))
    down, up = (size.sum() for size in traffic(run))
    rows = tuple(
        (way, data_size(size), data_size(size / trained))
        for way, size in (("down", down), ("up", up), ("both", down + up))
    )
    table = Table(caption="Bytes, all phones together", columns=("", "in all", "mean round"), rows=rows)
    return Section(name="traffic", heading="Traffic", pictures=(traffic_picture(run),), tables=(table,))


def time_spent(run: RunFolder) -> Section:
    """Seconds by part."""
    parts, whole = part_seconds(run), run.summary.get("seconds", {})
    rows: list[tuple[Cell, ...]] = [
        (name, *(duration(float(over(seconds))) for over in (np.nansum, np.nanmean, np.nanmax)))
        for name, seconds in parts.items()
    ]
    if "seconds" in run.baselines:
        rows.append(("baselines", duration(run.baselines["seconds"]), NOTHING, NOTHING))
    if "total" in whole:
        rows.append(("total", duration(whole["total"]), NOTHING, NOTHING))
    if not rows:
        return _nothing("time", "Time", "No time has been recorded.")
    caption = (
        "Time by part (a round is evaluated and kept while the next one trains, and central training runs beside all; "
        "baselines are what was left after the last round; the total of a resumed run is its last process)"
    )
    table = Table(caption=caption, columns=("", "in all", "mean round", "longest round"), rows=tuple(rows))
    return Section(name="time", heading="Time", pictures=(time_picture(run),) if parts else (), tables=(table,))


def comparison(run: RunFolder) -> Section | None:
    """What a study measured side by side and what others published, where there is any of it."""
    measured, published = run.comparison, [result.model_dump() for result in run.config.report.published]
    if not measured and not published:
        return None
    results = [*measured.get("rows", ()), *published]
    if not measured and (last := last_measured(run)):
        results.insert(0, {**last, "name": "this run, training only", "seconds": _training_seconds(run)})
    tables = (*_agreement(measured), _results(results)) if results else _agreement(measured)
    curves = measured.get("curves", ())
    return Section(
        name="comparison",
        heading=measured.get("title") or "Beside published results",
        text=("Numbers that others published come from their hardware and software, as their source says.",),
        pictures=(epoch_losses_picture(curves),) if curves else (),
        tables=tables,
    )


def _compared(run: RunFolder) -> Table:
    columns = ("", "test accuracy", "test loss", "training examples processed")
    return Table(
        caption="Federated training and its baselines", columns=columns, rows=tuple(_compared_rows(run)), wide=True
    )


def _compared_rows(run: RunFolder) -> Iterator[tuple[Cell, ...]]:
    processed = dict(zip((record["round"] for record in run.rounds), examples_processed(run), strict=True))
    for name, record in (("last", last_measured(run)), ("best", best_measured(run))):
        if record:
            number = record["round"]
            yield f"federated, {name} round ({number})", *_measured(record), count(processed[number])
    if central := run.baselines.get("central"):
        yield "central", *_measured(central["curve"][-1]), count(central["curve"][-1]["examples"])
    if alone := run.baselines.get("local_only"):
        accuracy = alone["test_accuracy"]
        loss = float(np.mean(alone["test_loss"]))
        yield f"alone, mean of {len(accuracy)}", percent(alone_accuracy(run)), decimal(loss), NOTHING
        yield "alone, lowest", percent(min(accuracy)), NOTHING, NOTHING
        yield "alone, highest", percent(max(accuracy)), NOTHING, NOTHING


def _measured(record: Record) -> tuple[Cell, Cell]:
    return percent(record.get("test_accuracy")), decimal(record.get("test_loss"))


def _goals(run: RunFolder) -> tuple[Table, ...]:
    goals = run.summary.get("rounds_to")
    if not goals:
        return ()
    columns = ("test accuracy", *(f"{100 * float(goal):.10g} %" for goal in goals))
    row = ("rounds", *(count(rounds) for rounds in goals.values()))
    return (
        Table(caption=f"Rounds to reach an accuracy ({NOTHING}: not reached)", columns=columns, rows=(row,), wide=True),
    )


def _round_by_round(run: RunFolder) -> Table:
    every = -(-len(run.rounds) // _ROWS)
    shown = [record for i, record in enumerate(run.rounds) if i % every == 0 or i == len(run.rounds) - 1]
    return Table(
        caption="Round by round" + (f", one in {every} and the last" if every > 1 else ""),
        columns=("round", "clients", *(heading for heading, _ in _ROUND_FIELDS.values())),
        rows=tuple(
            (
                str(record["round"]),
                count(len(record["clients"])),
                *(write(record.get(field)) for field, (_, write) in _ROUND_FIELDS.items()),
            )
            for record in shown
        ),
        folded=True,
    )


def _participation(arrays: Arrays) -> tuple[Cell, ...]:
    chosen = arrays.get("times_chosen")
    if chosen is None:
        return ()
    lowest, highest, mean = count(chosen.min()), count(chosen.max()), mean_count(chosen.mean())
    never = count((chosen == 0).sum())
    return "A client took part in ", lowest, " to ", highest, " rounds, ", mean, " on average; ", never, " in none."


def _spread(spread: Record) -> Table:
    rows = tuple((words, percent(spread[name])) for name, words in _SPREAD_FIELDS.items() if name in spread)
    return Table(caption="Accuracy over clients", rows=rows)


def _lowest(arrays: Arrays, accuracy: NDArray[np.float64]) -> Table:
    worst = worst_tenth(accuracy)
    fields = {name: heading for name, heading in _CLIENT_FIELDS.items() if name in arrays}
    more = f", of which the lowest {_WORST}" if len(worst) > _WORST else ""
    return Table(
        caption=f"The lowest tenth of clients: {len(worst):,}{more}",
        columns=("client", "accuracy", *fields.values()),
        rows=tuple(
            (str(client), percent(float(accuracy[client])), *(count(int(arrays[name][client])) for name in fields))
            for client in worst[:_WORST].tolist()
        ),
    )


def _statistics(values: NDArray[Any]) -> tuple[Cell, ...]:
    return count(values.min()), mean_count(np.median(values)), mean_count(values.mean()), count(values.max())


def _training_seconds(run: RunFolder) -> float | None:
    train = part_seconds(run).get("train")
    return None if train is None else float(np.nansum(train))


def _results(records: Sequence[Record]) -> Table:
    rows = tuple(
        (row["name"], *_measured(row), duration(row.get("seconds")), row.get("source") or "this run folder")
        for row in records
    )
    columns = ("", "test accuracy", "test loss", "time", "source")
    return Table(caption="Results side by side", columns=columns, rows=rows, wide=True)


def _agreement(measured: Record) -> tuple[Table, ...]:
    entries = measured.get("agreement")
    if not entries:
        return ()
    rows = tuple(
        (
            entry["what"],
            decimal(entry["value"]),
            decimal(entry["allowed"]),
            "agrees" if entry["value"] <= entry["allowed"] else "differs",
        )
        for entry in entries
    )
    columns = ("", "largest difference", "allowed", "verdict")
    return (Table(caption="Agreement", columns=columns, rows=rows),)


def _nothing(name: str, heading: str, why: str) -> Section:
    return Section(name=name, heading=heading, text=(why,))
