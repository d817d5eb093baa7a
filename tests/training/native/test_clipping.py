"""Clipped sums: what NumPy makes of the stack in float64, whatever the norms; no phone adds more than the clip."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.dataset import Examples
from fedsim.seeds import generator
from fedsim.training import reference
from fedsim.training.native import library
from fedsim.training.native.engine import Cohort, Engine, gradient_sum, sum_clipped, train_clients
from tests.training.native.networks import Chain, chains, examples, lenet, start
from tests.training.native.test_cohorts import CONTRACT, DATA, TRAINING, drawn_cohort

Floats = np.typing.NDArray[np.float64]


def clipped(updates: Floats, clip: float) -> tuple[Floats, Floats]:
    """The sum of the rows, each scaled down to ``clip``, and their norms: the definition."""
    norms = np.linalg.norm(updates, axis=1)
    factors = np.array([min(1.0, clip / norm) if norm else 1.0 for norm in norms])
    return factors @ updates, norms


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), max_size=40),
    exponent=st.integers(-12, 12),
    variant=st.sampled_from(library.VARIANTS),
)
def test_it_is_the_clipped_sum_of_the_stack(sizes: list[int], exponent: int, variant: str) -> None:
    if not library.variant(variant):
        return
    engine, clients, clip = Engine(CONTRACT, variant), drawn_cohort(sizes), 2.0**exponent
    stack, losses = train_clients(engine, start(CONTRACT), DATA, clients, TRAINING)
    total, norms, own_losses = sum_clipped(engine, start(CONTRACT), DATA, clients, clip, TRAINING, threads=2)
    expected, lengths = clipped(stack.astype(np.float64) - start(CONTRACT), clip)
    np.testing.assert_allclose(norms, lengths, rtol=1e-12)
    np.testing.assert_allclose(total, expected, rtol=0, atol=1e-12 * min(clip, max(lengths, default=0.0)) * 40)
    np.testing.assert_array_equal(own_losses, losses)


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=70), threads=st.integers(2, 5))
def test_threads_change_nothing(sizes: list[int], threads: int) -> None:
    engine, clients = Engine(CONTRACT), drawn_cohort(sizes)
    one, many = (sum_clipped(engine, start(CONTRACT), DATA, clients, 0.1, TRAINING, threads=n) for n in (1, threads))
    for alone, together in zip(one, many, strict=True):
        np.testing.assert_array_equal(alone, together)


@settings(max_examples=60, deadline=None)
@given(clip=st.floats(1e-30, 1e30), rate=st.floats(1e-12, 1e37), chain=chains())
def test_nobody_adds_more_than_the_clip(clip: float, rate: float, chain: Chain) -> None:
    """One step at any learning rate moves the weights by anything up to what a float can hold."""
    contract = chain.contract()
    data, engine = examples(contract, 3), Engine(contract)
    training = replace(TRAINING, epochs=1, batch_size=3, learning_rate=rate)
    alone = Cohort(counts=np.array([3]), orders=np.arange(3))
    total, norms, _ = sum_clipped(engine, start(contract), data, alone, clip, training)
    if np.isnan(norms[0]):
        assert not total.any()
    else:
        assert np.linalg.norm(total) == pytest.approx(min(clip, norms[0]), rel=1e-12)


def test_a_client_that_diverges_adds_nothing() -> None:
    inputs = DATA.inputs.astype(np.float32) / 255
    inputs[7] = np.inf
    inputs[8] = np.nan
    data = Examples(inputs=inputs, labels=DATA.labels)
    counts, training = np.array([2, 1, 2, 1]), replace(TRAINING, epochs=1)
    together = Cohort(counts=counts, orders=np.array([0, 1, 7, 2, 3, 8]))
    sound = Cohort(counts=counts[[0, 2]], orders=np.array([0, 1, 2, 3]))
    engine = Engine(CONTRACT)
    total, norms, _ = sum_clipped(engine, start(CONTRACT), data, together, 0.1, training)
    expected, lengths, _ = sum_clipped(engine, start(CONTRACT), data, sound, 0.1, training)
    np.testing.assert_array_equal(total, expected)
    np.testing.assert_array_equal(norms, [lengths[0], np.nan, lengths[1], np.nan])


def test_what_ran_before_changes_nothing() -> None:
    """Sums are kept from call to call: a larger cohort before must leave no trace."""
    used, small = Engine(CONTRACT), drawn_cohort([5, 3])
    sum_clipped(used, start(CONTRACT), DATA, drawn_cohort([4] * 40), 3.0, TRAINING, threads=2)
    after, _, _ = sum_clipped(used, start(CONTRACT), DATA, small, 0.5, TRAINING)
    fresh, _, _ = sum_clipped(Engine(CONTRACT), start(CONTRACT), DATA, small, 0.5, TRAINING)
    np.testing.assert_array_equal(after, fresh)


def test_clients_without_examples_and_cohorts_without_clients_add_nothing() -> None:
    for sizes in ([], [0], [0] * 40):
        total, norms, losses = sum_clipped(Engine(CONTRACT), start(CONTRACT), DATA, drawn_cohort(sizes), 1.0, TRAINING)
        assert total.shape == (CONTRACT.parameters,)
        assert not total.any()
        assert norms.tolist() == [0.0] * len(sizes)
        assert losses.shape == (len(sizes), 2)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_other_clips_are_refused(clip: float) -> None:
    with pytest.raises(ValueError, match=r"clip = .*: allowed are numbers above 0"):
        sum_clipped(Engine(CONTRACT), start(CONTRACT), DATA, drawn_cohort([1]), clip, TRAINING)


@settings(max_examples=30, deadline=None)
@given(chain=chains(), count=st.integers(0, 6), clip=st.floats(0.01, 100))
def test_sums_of_gradients_are_those_of_torch(chain: Chain, count: int, clip: float) -> None:
    contract = chain.contract()
    data, weights = examples(contract, 5), start(contract)
    rows = generator(6, "rows").integers(0, 5, count)
    ours = gradient_sum(Engine(contract), data, weights, rows, clip)
    theirs = reference.gradient_sum(contract, data, weights, rows, clip)
    # A gradient is told from weights in float32, before and after it was subtracted: their last bit is lost.
    close = 1e-5 * np.linalg.norm(theirs) + 2**-23 * count * np.linalg.norm(weights)
    assert np.linalg.norm(ours - theirs) <= close


def test_a_gradient_that_is_not_finite_counts_as_zero_in_both_engines() -> None:
    contract = lenet()
    inputs = examples(contract, 3).inputs.copy()
    inputs[1] = np.inf
    data, weights = Examples(inputs=inputs, labels=np.array([0, 1, 2])), start(contract)
    for every, finite in (
        [gradient_sum(Engine(contract), data, weights, np.array(rows), 1.0) for rows in ([0, 1, 2], [0, 2])],
        [reference.gradient_sum(contract, data, weights, np.array(rows), 1.0) for rows in ([0, 1, 2], [0, 2])],
    ):
        np.testing.assert_array_equal(every, finite)
        assert every.any()
