"""Figures of attacks, against scipy, brute force and simulated coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsim.attacks.roc import clopper_pearson, curve, figures

cases = st.tuples(
    st.lists(st.integers(-3, 3), min_size=2, max_size=30), st.lists(st.integers(-3, 3), min_size=2, max_size=30)
)


def together(inside: list[int], outside: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(inside + outside, np.float64), np.arange(len(inside) + len(outside)) < len(inside)


@given(cases)
def test_the_area_is_the_mann_whitney_statistic(case: tuple[list[int], list[int]]) -> None:
    inside, outside = case
    expected = stats.mannwhitneyu(inside, outside, method="asymptotic").statistic / (len(inside) * len(outside))
    assert figures(*together(inside, outside)).area == pytest.approx(float(expected), abs=1e-12)


@given(cases)
def test_the_curve_holds_exactly_what_thresholds_can_reach(case: tuple[list[int], list[int]]) -> None:
    scores, members = together(*case)
    points = {(0.0, 0.0)} | {
        (float((scores[~members] >= level).mean()), float((scores[members] >= level).mean())) for level in scores
    }
    found = curve(scores, members)
    assert set(zip(found.false_positives.tolist(), found.true_positives.tolist(), strict=True)) == points
    area = np.trapezoid(found.true_positives, found.false_positives)
    assert area == pytest.approx(figures(scores, members).area, abs=1e-12)


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.8, 0.95, 0.999]))
def test_intervals_are_the_exact_ones(successes: int, failures: int, confidence: float) -> None:
    trials = successes + failures + 1
    exact = stats.binomtest(successes, trials).proportion_ci(confidence, method="exact")
    assert clopper_pearson(successes, trials, confidence) == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0, 2.9])
@pytest.mark.parametrize(("count", "others"), [(80, 120), (10, 90), (90, 10), (4, 16), (16, 4)])
def test_the_interval_of_the_area_covers_the_truth_as_often_as_it_says(count: int, others: int, shift: float) -> None:
    """Up to areas of 0.98, where most small groups are told apart without an error; there it is wider than it must."""
    draw = np.random.default_rng(0)
    members, truth = np.arange(count + others) < count, stats.norm.cdf(shift / np.sqrt(2))
    intervals = [figures(draw.normal(shift * members, 1), members).area_interval for _ in range(600)]
    covered = sum(low <= truth <= high for low, high in intervals)
    assert covered / len(intervals) >= 0.92
    if min(count, others) >= 80:
        assert stats.binomtest(covered, len(intervals), 0.95).pvalue > 0.001


@pytest.mark.parametrize("count", [2, 5, 40])
def test_groups_without_any_variance_have_the_exact_interval(count: int) -> None:
    """Of ``count`` pairs that have nobody in common each is told rightly with the area's chance."""
    low = stats.binomtest(count, count).proportion_ci(0.95, method="exact").low
    for inside, area, expected in ((1, 1.0, (low, 1.0)), (-1, 0.0, (0.0, 1 - low)), (0, 0.5, (low / 2, 1 - low / 2))):
        found = figures(*together([inside] * count, [0] * (count + 3)))
        assert found.area == area
        assert found.area_interval == pytest.approx(expected, abs=1e-9)


def test_a_rate_is_quoted_only_where_there_are_non_members_to_tell_it_by() -> None:
    draw = np.random.default_rng(0)
    for others, quoted, resolved in (
        (999, (False, True, True), (False, False, True)),
        (10_000, (True,) * 3, (True,) * 3),
    ):
        members = np.arange(500 + others) < 500
        found = figures(draw.normal(2 * members, 1), members)
        assert found.non_members == others
        assert found.resolution == 1 / others
        assert tuple(one.rate is not None for one in found.quoted) == quoted
        assert tuple(one.resolved for one in found.quoted) == resolved
        for one in found.quoted:
            if one.rate is not None and one.interval is not None:
                expected = stats.norm.sf(stats.norm.isf(one.level) - 2)
                assert one.interval[0] <= one.rate <= one.interval[1]
                assert one.rate == pytest.approx(expected, abs=0.12)


def test_a_false_positive_rate_is_never_exceeded() -> None:
    scores, members = together([3, 2, 1], [2] * 10 + [0] * 90)
    assert [one.rate for one in figures(scores, members, (0.05, 0.1)).quoted] == [1 / 3, 1.0]


def test_figures_need_two_of_each() -> None:
    with pytest.raises(ValueError, match="1 members and 3 non-members"):
        figures(np.arange(4.0), np.array([True, False, False, False]))
