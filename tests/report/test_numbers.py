"""A number as it is read is the rounding of the number that is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.report.numbers import Cell, Number, count, data_size, decimal, duration, mean_count, percent
from tests.report.reading import number_in


def assert_rounds(cell: Cell, value: float) -> None:
    assert isinstance(cell, Number)
    assert cell.value == value
    said, slack = number_in(" ".join(cell.text.split()))
    assert said == pytest.approx(value, abs=slack * 1.001, rel=1e-9)


@given(st.floats(0, 1))
def test_percent(share: float) -> None:
    assert_rounds(percent(share), share)


@given(st.floats(1e-12, 1e12) | st.just(0.0))
def test_decimal(value: float) -> None:
    assert_rounds(decimal(value), value)


@given(st.integers(0, 10**12))
def test_count(value: int) -> None:
    assert_rounds(count(value), value)


@given(st.floats(0, 1e9))
def test_mean_count(value: float) -> None:
    assert_rounds(mean_count(value), value)


@given(st.floats(0, 1e6))
def test_duration(seconds: float) -> None:
    assert_rounds(duration(seconds), seconds)


@given(st.integers(0, 10**12 - 10**9))
def test_data_size(size: int) -> None:
    assert_rounds(data_size(size), size)


@pytest.mark.parametrize("write", [percent, decimal, count, mean_count, duration, data_size])
def test_what_is_no_number_is_not_written_as_one(write: object) -> None:
    assert callable(write)
    assert write(None) == "–"
    assert write(float("nan")) == write(float("inf")) == "not finite"
