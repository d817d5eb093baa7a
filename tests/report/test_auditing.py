"""The audit's section: the sentence says what the numbers do, and the numbers are the audit's."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from fedsim.attacks.auditing import Audit, Bounds, ceiling
from fedsim.report.auditing import audit_picture, audit_section, verdict
from fedsim.report.numbers import Number
from fedsim.report.page import write_page
from tests.report.reading import read_page


def audit(claimed: float, *, clopper_pearson: float = 0.87) -> Audit:
    return Audit(
        claimed_epsilon=claimed,
        delta=1e-5,
        confidence=0.95,
        canaries=1000,
        guesses=250,
        correct=209,
        auc=0.7303,
        bounds=Bounds(one_run=1.34, one_run_fdp=2.19, clopper_pearson=clopper_pearson),
    )


@pytest.mark.parametrize(
    ("claimed", "words"),
    [
        (4.0, "Epsilon is 2.19 or more, which agrees with the claim of 4. An audit can find a fault"),
        (2.0, "The claim does not hold: epsilon is 2.19 or more, where 2 was claimed."),
        (9.0, "With every guess right it would be 7.86: this audit could not have refuted the claim."),
    ],
)
def test_the_verdict_says_what_was_found(claimed: float, words: str) -> None:
    assert words in verdict(audit(claimed))


def test_the_numbers_are_the_audits() -> None:
    bounds, guessed = audit_section(audit(4.0)).tables
    most = ceiling(1000, delta=1e-5, guesses=250)
    values = [tuple(cell.value for cell in row if isinstance(cell, Number)) for row in bounds.rows]
    assert values == [(2.19, most.one_run_fdp), (1.34, most.one_run), (0.87, most.clopper_pearson)]
    assert [row[1].value for row in guessed.rows if isinstance(row[1], Number)] == [1000, 250, 209, 0.7303]


def test_a_bound_that_does_not_decide_is_said_to_lie_beyond_the_claim() -> None:
    """Page, picture, sentence and ``refuted``, which is the exit code, go by the same bound."""
    shown = audit(4.0, clopper_pearson=4.5)
    assert not shown.refuted
    assert "agrees with the claim of 4." in verdict(shown)
    assert "The bound by Clopper-Pearson lies beyond the claim, which is not for it to decide" in verdict(shown)
    assert "lies beyond" not in verdict(audit(4.0))
    assert "lies beyond" not in verdict(audit(2.0, clopper_pearson=4.5))
    picture = audit_picture(shown)
    assert "var(--orange" not in picture.svg
    assert "refuted where the f-DP bar goes beyond it" in picture.caption


def test_a_bar_that_refutes_has_another_colour() -> None:
    agrees, refutes = audit_picture(audit(4.0)).svg, audit_picture(audit(2.0)).svg
    assert "var(--orange" in refutes
    assert "var(--orange" not in agrees
    assert "Claimed 4.00; f-DP in one run at least 2.19" in "".join(ElementTree.fromstring(agrees).itertext())


def test_the_section_is_part_of_a_page(tmp_path: Path) -> None:
    shown = audit(4.0)
    page = read_page(write_page(tmp_path / "audit.html", title="Audit", sections=(audit_section(shown),)))
    assert verdict(shown) in page.text
