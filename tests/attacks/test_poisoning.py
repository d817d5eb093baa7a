"""Poisoning as functions on arrays: closed forms, and what the attacks are made to slip past."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.attacks.poisoning import aim, colluders, deviations, flipped, forged, poisoned, stamped, unnoticed
from fedsim.data.dataset import Examples
from fedsim.poisoning_settings import (
    Backdoor,
    InnerProduct,
    LabelFlip,
    LittleIsEnough,
    NoPoisoning,
    Scaling,
    SignFlip,
    forges_updates,
)
from fedsim.seeds import generator
from tests import slow_aggregators as slow

UPDATES = generator(0, "updates").standard_normal((5, 8), np.float32)
BACKDOOR = Backdoor(attack="backdoor", target=2, size=2)


def examples(kind: type = np.uint8) -> Examples:
    inputs = generator(0, "images").integers(0, 200, (12, 1, 5, 6)).astype(kind)
    return Examples(inputs=inputs, labels=np.arange(12) % 4)


@given(st.integers(1, 1000), st.floats(0, 1), st.integers(0, 2**32))
def test_colluders_are_so_many_and_each_once(clients: int, fraction: float, seed: int) -> None:
    found = colluders(clients, fraction, generator(seed, "colluders"))
    assert len(found) == round(fraction * clients)
    assert (np.diff(found) > 0).all()
    assert ((found >= 0) & (found < clients)).all()
    np.testing.assert_array_equal(found, colluders(clients, fraction, generator(seed, "colluders")))


def test_flipping_twice_is_nothing_and_a_pair_flips_its_source_only() -> None:
    labels = np.arange(10)
    np.testing.assert_array_equal(flipped(flipped(labels, 10, None, None), 10, None, None), labels)
    assert flipped(labels, 10, 3, 8).tolist() == [0, 1, 2, 8, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("kind", "bright"), [(np.uint8, 255), (np.float32, 1)])
def test_the_trigger_is_bright_and_the_rest_untouched(kind: type, bright: int) -> None:
    given = examples(kind).inputs
    marked = stamped(given, 2)
    assert (marked[:, :, 3:, 4:] == bright).all()
    rest = np.ones((5, 6), bool)
    rest[3:, 4:] = False
    np.testing.assert_array_equal(marked[..., rest], given[..., rest])
    assert marked.dtype == given.dtype
    assert not np.shares_memory(marked, given)


def test_what_is_poisoned() -> None:
    given = examples()
    backdoored = poisoned(BACKDOOR, given, 4)
    assert (backdoored.labels == 2).all()
    np.testing.assert_array_equal(backdoored.inputs, stamped(given.inputs, 2))
    relabelled = poisoned(LabelFlip(attack="label_flip"), given, 4)
    np.testing.assert_array_equal(relabelled.labels, 3 - given.labels)
    assert relabelled.inputs is given.inputs


def test_success_is_counted_on_examples_of_other_labels() -> None:
    given = examples()
    wanted = aim(BACKDOOR, given, 4)
    assert wanted is not None
    assert wanted.labels.tolist() == [2] * 9
    np.testing.assert_array_equal(wanted.inputs, stamped(given.inputs[given.labels != 2], 2))
    pair = aim(LabelFlip(attack="label_flip", source=1, target=3), given, 4)
    assert pair is not None
    assert pair.labels.tolist() == [3] * 3
    np.testing.assert_array_equal(pair.inputs, given.inputs[given.labels == 1])
    assert aim(SignFlip(attack="sign_flip"), given, 4) is None
    assert aim(NoPoisoning(), given, 4) is None


def test_forged_updates_in_closed_form() -> None:
    mean, deviation = UPDATES.mean(axis=0), UPDATES.std(axis=0)
    for attack, expected in (
        (SignFlip(attack="sign_flip", boost=3.0), -3 * UPDATES),
        (Scaling(attack="scaling", boost=7.0), 7 * UPDATES),
        (InnerProduct(attack="inner_product", boost=2.0), np.tile(-2 * mean, (5, 1))),
        (LittleIsEnough(attack="little_is_enough", z=1.5), np.tile(mean - 1.5 * deviation, (5, 1))),
        (BACKDOOR.model_copy(update={"boost": 4.0}), 4 * UPDATES),
    ):
        sent = forged(attack, UPDATES, 10)
        assert sent.dtype == np.float32
        np.testing.assert_allclose(sent, expected, rtol=1e-6, atol=1e-6)
        assert forges_updates(attack)
    for attack in (NoPoisoning(), BACKDOOR, LabelFlip(attack="label_flip")):
        np.testing.assert_array_equal(forged(attack, UPDATES, 10), UPDATES)
        assert not forges_updates(attack)


def test_model_replacement_puts_the_colluders_model_in_the_means_place() -> None:
    """Where the honest ones have converged, and so send nothing."""
    stack = np.zeros((10, 8), np.float32)
    stack[3] = forged(BACKDOOR.model_copy(update={"boost": 10.0}), UPDATES[:1], 10)[0]
    np.testing.assert_allclose(stack.mean(axis=0), UPDATES[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("cohort", "colluding", "z"),
    [(50, 24, 1.4260768722728472), (10, 2, 0.0), (10, 4, 0.4307272992954576), (10, 1, 0.0), (2, 1, 0.0), (4, 4, 0.0)],
)
def test_how_far_is_unnoticed(cohort: int, colluding: int, z: float) -> None:
    assert unnoticed(cohort, colluding) == pytest.approx(z, abs=1e-12)


@pytest.mark.parametrize(("colluding", "given", "z"), [(1, 1.5, 0.0), (2, 1.5, 1.5), (2, None, 0.0), (4, None, 0.43)])
def test_where_the_attack_is_idle_colluders_send_their_mean(colluding: int, given: float | None, z: float) -> None:
    attack = LittleIsEnough(attack="little_is_enough", z=given)
    assert deviations(attack, 10, colluding) == pytest.approx(z, abs=0.001)
    honest = np.tile(UPDATES[:colluding].mean(axis=0), (colluding, 1))
    assert np.array_equal(forged(attack, UPDATES[:colluding], 10), honest) == (z == 0)


def test_a_little_slips_past_krum_where_a_flipped_sign_does_not() -> None:
    """The honest updates are one direction and noise; 12 of 30 phones collude, and Krum expects them."""
    honest = generator(0, "honest").normal(0.3, 1.0, (30, 100)).astype(np.float32)
    chosen = []
    for attack in (LittleIsEnough(attack="little_is_enough"), SignFlip(attack="sign_flip", boost=3.0)):
        stack = honest.copy()
        stack[:12] = forged(attack, honest[:12], 30)
        chosen.append(int(np.argmin(slow.krum_scores(stack.astype(np.float64), 12))))
    assert chosen[0] < 12 <= chosen[1]
