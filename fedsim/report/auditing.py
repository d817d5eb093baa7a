"""What an audit found beside what was claimed: bars of epsilon, and the numbers behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsim.attacks.auditing import Audit, ceiling
from fedsim.report.drawing import BLUE, INK, LINES, ORANGE, QUIET, Picture, svg
from fedsim.report.layout import Section, Table
from fedsim.report.numbers import count, decimal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (704, 190)
_DECIDES = "f-DP in one run"
_NEEDS = {
    _DECIDES: "a Gaussian trade-off curve, or one above it",
    "one run": "nothing",
    "Clopper-Pearson": "canaries that do not depend on each other",
}


def audit_section(audit: Audit) -> Section:
    """The audit in a sentence, as bars and as a table."""
    bounds = tuple(
        (name, decimal(bound), decimal(limit), _NEEDS[name])
        for (name, bound), limit in zip(_bounds(audit).items(), _limits(audit), strict=True)
    )
    return Section(
        name="audit",
        heading="Claimed and audited",
        text=(verdict(audit),),
        pictures=(audit_picture(audit),),
        tables=(
            Table(
                caption=f"Lower bounds on epsilon at delta {audit.delta:g}, each at {100 * audit.confidence:g} %",
                columns=("", "epsilon is at least", "most that could show", "holds for mechanisms with"),
                rows=bounds,
            ),
            Table(
                caption="What was guessed",
                rows=(
                    ("canaries", count(audit.canaries)),
                    ("memberships guessed", count(audit.guesses)),
                    ("right", count(audit.correct)),
                    ("area under the ROC curve", decimal(audit.auc)),
                ),
            ),
        ),
    )


def verdict(audit: Audit) -> str:
    """What the audit says about the claim, and what it cannot say, in a sentence."""
    found, claimed, limit = audit.bounds.one_run_fdp, audit.claimed_epsilon, _limits(audit)[0]
    if audit.refuted:
        return f"The claim does not hold: epsilon is {found:.2f} or more, where {claimed:.4g} was claimed."
    if limit <= claimed:
        doubt = f"With every guess right it would be {limit:.2f}: this audit could not have refuted the claim."
    else:
        doubt = "An audit can find a fault; it cannot prove a claim."
    if beyond := [name for name, bound in _bounds(audit).items() if name != _DECIDES and bound > claimed]:
        doubt += (
            f" The bound by {' and '.join(beyond)} lies beyond the claim, which is not for it to decide: of several "
            "bounds one may well be wrong. An audit with more canaries can tell."
        )
    return f"Epsilon is {found:.2f} or more, which agrees with the claim of {claimed:.4g}. {doubt}"


def audit_picture(audit: Audit) -> Picture:
    """The claimed epsilon over the three audited lower bounds."""
    title = "Epsilon, claimed and audited"
    found = "; ".join(f"{name} at least {bound:.2f}" for name, bound in _bounds(audit).items())
    return Picture(
        title=title,
        svg=svg(
            lambda figure: _draw(figure, audit),
            name="audit",
            title=title,
            description=f"Claimed {audit.claimed_epsilon:.2f}; {found}.",
            size=_SIZE,
        ),
        caption=(
            f"Lower bounds on epsilon at delta {audit.delta:g} and {100 * audit.confidence:g} % confidence, from "
            f"{audit.correct:,} right of {audit.guesses:,} guesses at memberships of {audit.canaries:,} canaries. One "
            "bound decides, chosen before the audit: the claim (dashed) is refuted where the f-DP bar goes beyond it. "
            "The upright mark is where a bar would end with every guess right. Mahloujifar et al. 2024; Steinke et al. "
            "2023; Clopper-Pearson limits over 30 thresholds."
        ),
        wide=True,
    )


def _draw(figure: Figure, audit: Audit) -> None:
    axes = figure.add_axes((0.17, 0.2, 0.75, 0.66), facecolor="none")
    rows = {"claimed": audit.claimed_epsilon, **_bounds(audit)}
    for row, (name, epsilon) in enumerate(rows.items()):
        hue = ORANGE if name == _DECIDES and audit.refuted else QUIET if name == "claimed" else BLUE
        axes.barh(row, epsilon, height=0.5, color=hue)
        axes.annotate(
            f"{epsilon:.2f}", (epsilon, row), xytext=(4, 0), textcoords="offset points", color=INK, va="center"
        )
    axes.plot(_limits(audit), range(1, len(rows)), "|", color=INK, markersize=14)
    axes.axvline(audit.claimed_epsilon, color=QUIET, linestyle=LINES[1], linewidth=1.0)
    axes.set_yticks(range(len(rows)), labels=list(rows))
    axes.grid(visible=False, axis="y")
    axes.set(xlim=(0, 1.08 * max(*rows.values(), *_limits(audit))), ylim=(len(rows) - 0.5, -0.5), xlabel="epsilon")


def _bounds(audit: Audit) -> dict[str, float]:
    found = audit.bounds
    return dict(zip(_NEEDS, (found.one_run_fdp, found.one_run, found.clopper_pearson), strict=True))


def _limits(audit: Audit) -> tuple[float, float, float]:
    most = ceiling(audit.canaries, delta=audit.delta, confidence=audit.confidence, guesses=audit.guesses)
    return most.one_run_fdp, most.one_run, most.clopper_pearson
