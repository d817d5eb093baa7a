"""Test examples shared out as training examples are, against the largest-remainder rule in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsim.data.partition import digest, indices, label_counts, sizes
from fedsim.data.partitioners import mirror
from fedsim.seeds import generator


@st.composite
def tables(draw):
    """Training examples by client and class, and test labels."""
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 4)))
    counts = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 20)))
    counts[0, 0] += 1
    labels = draw(st.lists(st.integers(0, shape[1] - 1), max_size=60))
    return counts, np.array(labels, np.int64)


@settings(deadline=None)
@given(tables(), st.integers(0, 99))
def test_parts_are_those_of_the_largest_remainder(table, seed):
    counts, labels = table
    mirrored = mirror(counts, labels, generator(seed, "mirror"))
    assert sorted(mirrored.order.tolist()) == list(range(len(labels)))
    dealt = label_counts(mirrored, labels, counts.shape[1])
    for label in range(counts.shape[1]):
        weights = counts[:, label].tolist() if counts[:, label].any() else counts.sum(axis=1).tolist()
        total = int((labels == label).sum())
        quotas = [Fraction(total * weight, sum(weights)) for weight in weights]
        extra = [part - int(quota) for part, quota in zip(dealt[:, label].tolist(), quotas, strict=True)]
        assert sum(dealt[:, label]) == total
        assert set(extra) <= {0, 1}
        up = [quota % 1 for quota, more in zip(quotas, extra, strict=True) if more]
        down = [quota % 1 for quota, more in zip(quotas, extra, strict=True) if not more]
        assert min(up, default=1) >= max(down, default=0)


def test_shares_that_come_out_even_are_met_exactly():
    counts = np.array([[600, 0, 60], [300, 0, 0], [300, 10, 0]])
    labels = np.repeat([0, 1, 2], [100, 50, 7])
    dealt = label_counts(mirror(counts, labels, generator(0, "mirror")), labels, 3)
    assert dealt.tolist() == [[50, 0, 7], [25, 0, 0], [25, 50, 0]]


def test_a_class_nobody_trains_on_goes_by_size():
    labels = np.ones(40, np.int64)
    assert sizes(mirror(np.array([[30, 0], [10, 0]]), labels, generator(0, "mirror"))).tolist() == [30, 10]


def test_ties_and_the_examples_themselves_are_drawn_at_random():
    counts, labels = np.ones((4, 1), np.int64), np.zeros(2, np.int64)
    mirrored = [mirror(counts, labels, generator(seed, "mirror")) for seed in range(400)]
    lucky = np.mean([sizes(partition) for partition in mirrored], axis=0)
    assert (abs(lucky - 0.5) < 4 * 0.5 / 20).all()
    first = np.mean([0 in indices(partition, 0) for partition in mirrored])
    assert abs(first - 0.25) < 4 * 0.4331 / 20


def test_more_clients_than_examples_leave_some_without():
    dealt = sizes(mirror(np.full((50, 2), 3), np.array([0, 1] * 10), generator(0, "mirror")))
    assert dealt.sum() == 20
    assert dealt.min() == 0


def test_equal_keys_give_equal_mirrors():
    counts, labels = np.ones((5, 3), np.int64), np.arange(60) % 3
    digests = [digest(mirror(counts, labels, generator(seed, "mirror"))) for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("counts", "labels", "message"),
    [
        ([[1, 2]], [0, 2], "test labels must be 0 to 1, the columns of label_counts"),
        ([[1, 2]], [-1], "test labels must be 0 to 1, the columns of label_counts"),
        ([[0, 0]], [0], "label_counts must hold at least one example"),
    ],
)
def test_what_cannot_be_mirrored_is_refused(counts, labels, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        mirror(np.array(counts), np.array(labels), generator(0, "mirror"))
