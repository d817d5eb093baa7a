"""Populations: what a phone draws is its own affair, of the classes it chose, evenly, and costs nothing until asked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.partition import indices
from fedsim.data.population import population, shards_in
from fedsim.seeds import key

LABELS = np.random.default_rng(0).integers(0, 7, 3_000)
KEY = key(0, "population")


@given(
    clients=st.lists(st.integers(0, 10**6), max_size=20),
    examples=st.integers(1, 50),
    classes=st.none() | st.integers(1, 7),
)
def test_what_a_phone_holds_does_not_depend_on_who_is_asked_with_it(
    clients: list[int], examples: int, classes: int | None
) -> None:
    drawn = population(KEY, LABELS, examples, classes)
    together = shards_in(drawn, np.array(clients, np.int64))
    assert np.diff(together.offsets).tolist() == [examples] * len(clients)
    for place, client in enumerate(clients):
        own = indices(together, place)
        np.testing.assert_array_equal(own, shards_in(drawn, np.array([client])).order)
        assert ((own >= 0) & (own < len(LABELS))).all()
        assert len(set(LABELS[own].tolist())) <= (classes or 7)


def test_draws_are_even_over_examples() -> None:
    """A million draws over 3,000 examples: chi squared within five standard deviations of its mean."""
    held = shards_in(population(KEY, LABELS, 100, None), np.arange(10_000)).order
    expected = len(held) / len(LABELS)
    statistic = np.square(np.bincount(held, minlength=len(LABELS)) - expected).sum() / expected
    degrees = len(LABELS) - 1
    assert abs(statistic - degrees) < 5 * np.sqrt(2 * degrees)


def test_classes_are_chosen_without_replacement_and_shared_evenly() -> None:
    held = shards_in(population(KEY, LABELS, 40, 2), np.arange(5_000))
    of_phone = LABELS[held.order].reshape(5_000, 40)
    chosen = [set(row.tolist()) for row in of_phone]
    assert {len(classes) for classes in chosen} == {2}
    times = np.bincount([label for classes in chosen for label in classes], minlength=7)
    assert np.abs(times - 10_000 / 7).max() < 5 * np.sqrt(10_000 / 7)
    firsts = (of_phone == of_phone.min(axis=1, keepdims=True)).sum(axis=1)
    assert firsts.mean() == pytest.approx(20, abs=5 * np.sqrt(10 / 5_000))


def test_a_class_that_nobody_could_hold_is_not_chosen() -> None:
    labels = np.array([0, 0, 3, 3, 3])
    held = shards_in(population(KEY, labels, 10, 2), np.arange(50))
    assert set(held.order.tolist()) == set(range(5))
    with pytest.raises(ValueError, match=r"data.classes_per_client = 3: allowed are 1 to 2, the classes"):
        population(KEY, labels, 10, 3)


def test_what_is_drawn_is_the_same_in_every_version() -> None:
    drawn = shards_in(population(KEY, LABELS, 4, None), np.array([0, 999_999]))
    assert drawn.order.tolist() == [1080, 134, 1734, 188, 1895, 2584, 707, 866]
