"""What malicious phones came to: how often the attack succeeded, beside the accuracy on clean examples, by round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedsim.poisoning_settings import Backdoor, LabelFlip, NoPoisoning, Poisoning
from fedsim.report.drawing import BLUE, LINES, ORANGE, Picture, label_ends, plot_area, plot_line, svg
from fedsim.report.folder import Record, RunFolder, column
from fedsim.report.layout import Section, Table
from fedsim.report.numbers import Cell, count, mean_count, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (340, 240)
_ACCURACY, _SUCCESS = "clean accuracy", "attack success"


def poisoning(run: RunFolder) -> Section | None:
    """Success and clean accuracy by round, where there are malicious phones by the config."""
    attack = run.config.poisoning
    if isinstance(attack, NoPoisoning):
        return None
    if not run.rounds:
        return Section(name="poisoning", heading="Poisoning", text=("No round has been recorded.",))
    return Section(
        name="poisoning",
        heading="Poisoning",
        text=_participation(run, attack.fraction),
        pictures=(_picture(run, attack),),
        tables=(_table(run),),
    )


def _curves(run: RunFolder) -> dict[str, NDArray[np.float64]]:
    curves = {_ACCURACY: column(run.rounds, "test_accuracy"), _SUCCESS: column(run.rounds, "attack_success")}
    return {name: values for name, values in curves.items() if np.isfinite(values).any()}


def _picture(run: RunFolder, attack: Poisoning) -> Picture:
    curves = _curves(run)
    title = "The attack, by round"
    return Picture(
        title=title,
        svg=svg(
            lambda figure: _draw(figure, column(run.rounds, "round"), curves),
            name="poisoning",
            title=title,
            description=" ".join(f"{name}: {_ends(values)[1]:.2%} at the end." for name, values in curves.items()),
            size=_SIZE,
        ),
        caption=f"Clean accuracy: the global model on the test set as it is. {_meaning(attack)}",
    )


def _meaning(attack: Poisoning) -> str:
    if isinstance(attack, Backdoor):
        return (
            f"Attack success: the share of the test examples that are not {attack.target} and are labelled "
            f"{attack.target} once they bear the trigger."
        )
    if isinstance(attack, LabelFlip):
        which = f"test examples of label {attack.source} that are labelled {attack.target}"
        every = "test examples that are labelled as the malicious phones relabel theirs"
        return f"Attack success: the share of the {every if attack.source is None else which}."
    return f"The attack {attack.attack} wants any harm: what it comes to is the accuracy that is lost."


def _participation(run: RunFolder, fraction: float) -> tuple[Cell, ...]:
    share = percent(fraction)
    trained = [record for record in run.rounds if record["round"] > 0]
    if not trained:
        return share, " of the clients are malicious."
    malicious = column(trained, "malicious")
    lowest, highest, mean = count(malicious.min()), count(malicious.max()), mean_count(malicious.mean())
    come = (share, " of the clients are malicious; of a round's, ", lowest, " to ", highest, ", ", mean, " on average.")
    return *come, *_idle(trained)


def _idle(trained: list[Record]) -> tuple[Cell, ...]:
    """In how many rounds an attack that goes by its z had none."""
    z = column(trained, "z")
    known = z[np.isfinite(z)]
    if not (known == 0).any():
        return ()
    idle, rounds = count((known == 0).sum()), count(len(known))
    why = " rounds the attack was idle: with so few malicious phones its z is 0, and they sent their honest mean."
    return " In ", idle, " of ", rounds, why


def _table(run: RunFolder) -> Table:
    rows = tuple((name, *map(percent, _ends(values))) for name, values in _curves(run).items())
    caption = f"{run.config.poisoning.attack} against {run.config.strategy.name}"
    return Table(caption=caption, columns=("", "before training", "last round"), rows=rows)


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return float(known[0]), float(known[-1])


def _draw(figure: Figure, rounds: NDArray[np.float64], curves: dict[str, NDArray[np.float64]]) -> None:
    axes = plot_area(figure, unit="%", x_label="round", ends=list(curves))
    axes.set_ylim(0, 100)
    ends: list[tuple[float, str, str]] = []
    for (name, values), hue, line in zip(curves.items(), (BLUE, ORANGE), LINES, strict=False):
        plot_line(axes, rounds, 100 * values, hue=hue, line=line)
        ends.append((100 * _ends(values)[1], name, hue))
    axes.set_xlim(0, max(1, rounds.max()))
    axes.locator_params(axis="x", integer=True, nbins=5)
    label_ends(axes, ends)
