"""Distributed noise: sums that never wrap, norms that hold, Skellam's law, and what rounding costs."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard
from scipy.special import ive
from scipy.stats import chisquare, skellam

from fedsim.privacy.clipping import clip
from fedsim.privacy.distributed import (
    FINEST,
    Encoding,
    _hadamard,
    decode,
    encode,
    encoding,
    modular,
    noise,
    share,
    signs,
)
from fedsim.seeds import generator

BY_CHANCE = 1e-4
LENET = {"clip": 0.2, "dimension": 61_706, "cohort": 100, "rounds": 100, "noise_multiplier": 0.94}


def draws(count, number=1):
    return [generator(0, "rounding", number, client) for client in range(count)]


def round_trip(how: Encoding, updates, number=1):
    turn = signs(how, generator(0, "signs", number))
    numbers = encode(how, updates, turn, draws(len(updates), number))
    return numbers, decode(how, modular(how, modular(how, numbers).sum(axis=0)), turn)


def test_the_transform_is_the_hadamard_matrix_and_its_own_inverse():
    for size in (1, 2, 8, 32, 128):
        rows = np.random.default_rng(size).standard_normal((3, size))
        np.testing.assert_allclose(_hadamard(rows), rows @ hadamard(size) / math.sqrt(size), atol=1e-12)
        np.testing.assert_allclose(_hadamard(_hadamard(rows)), rows, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 70),
    st.integers(1, 12),
    st.floats(1e-3, 1e3),
    st.sampled_from([16, 20, 32]),
    st.sampled_from(["equal", "one-hot", "opposed", "zero", "any"]),
    st.integers(0, 99),
)
def test_sums_decode_to_the_sums_of_updates_and_never_wrap(dimension, cohort, longest, bits, kind, seed):
    """Equal updates reach furthest in the sum, one-hot ones spread most, and all are of the whole clip.

    A coordinate of the decoded error is a sum of cohort * padded roundings' errors, each at most one step and divided
    by the root of padded.
    """
    how = encoding(clip=longest, dimension=dimension, bits=bits, cohort=cohort, rounds=10, noise_multiplier=1.0)
    rng = np.random.default_rng(seed)
    row = rng.standard_normal(dimension)
    updates = {
        "equal": np.tile(row, (cohort, 1)),
        "one-hot": np.tile(np.eye(1, dimension), (cohort, 1)),
        "opposed": row * np.where(np.arange(cohort) % 2, 1, -1)[:, np.newaxis],
        "zero": np.zeros((cohort, dimension)),
        "any": rng.standard_normal((cohort, dimension)),
    }[kind]
    updates, _ = clip(1e6 * longest * updates, longest)
    numbers, total = round_trip(how, updates, seed)
    assert np.linalg.norm(numbers, axis=1).max() <= how.l2
    assert np.abs(numbers).sum(axis=1).max() <= how.l1
    assert np.abs(numbers).max() <= how.bound * how.scale + 1
    worst = math.sqrt(how.padded) * cohort * (1 / how.scale + 1e-5 * longest)
    np.testing.assert_allclose(total, updates.sum(axis=0), rtol=0, atol=worst)


def adversary(how: Encoding):
    """Updates of the whole clip which the round's own signs turn into a single coordinate: cut, and all alike."""
    turn = signs(how, generator(0, "signs", 1))
    return np.tile((turn / math.sqrt(how.padded) * how.clip)[: how.dimension], (how.cohort, 1))


def test_not_even_updates_made_for_it_wrap():
    how = encoding(clip=1.0, dimension=4096, bits=14, cohort=100, rounds=100, noise_multiplier=0.5)
    assert how.bound < how.clip / 4
    numbers, _ = round_trip(how, adversary(how))
    total = numbers.sum(axis=0)
    assert np.abs(total).max() >= 0.99 * how.cohort * how.bound * how.scale
    assert np.abs(numbers).max() <= how.bound * how.scale + 1
    room = 2 ** (how.bits - 1) - np.abs(total).max()
    assert room > 0
    assert chance_of_noise_from(room, how, 100) < 1e-9


def chance_of_noise_from(reach, how: Encoding, rounds):
    """The chance of any noise of that size in so many rounds, from the law itself: P(k) = exp(-v) I_k(v)."""
    beyond = np.arange(math.ceil(reach), math.ceil(reach + 2 * math.sqrt(how.variance)))
    return 2 * rounds * how.padded * ive(beyond, how.variance).sum()


@pytest.mark.parametrize("multiplier", [0.1, 0.94, 5.0])
@pytest.mark.parametrize("bits", [14, 16])
def test_the_noise_leaves_its_range_as_rarely_as_promised_and_not_much_more_rarely(multiplier, bits):
    how = encoding(**{**LENET, "noise_multiplier": multiplier}, bits=bits)
    room = 2 ** (bits - 1) - LENET["cohort"] * (how.bound * how.scale + 1)
    assert 1e-12 < chance_of_noise_from(room, how, LENET["rounds"]) <= 1e-9


def test_steps_are_no_finer_than_the_noise_can_be_drawn():
    """At 32 bits the noise has `FINEST` steps, and still Skellam's, here a Gaussian's, moments."""
    how = encoding(**LENET, bits=32)
    assert math.sqrt(how.variance) == pytest.approx(FINEST)
    drawn = noise(how, generator(0, "noise", 1)) / FINEST
    assert drawn.var() == pytest.approx(1, rel=5 * math.sqrt(2 / drawn.size))
    assert (drawn**4).mean() == pytest.approx(3, rel=5 * math.sqrt(96 / drawn.size) / 3)


def test_rounding_is_right_in_the_mean_and_short_by_the_bound():
    how = encoding(clip=1.0, dimension=256, bits=12, cohort=4, rounds=1, noise_multiplier=1.0)
    update, _ = clip(np.random.default_rng(1).standard_normal((1, 256)), 1.0)
    turn = signs(how, generator(0, "signs"))
    many = encode(how, np.repeat(update, 4000, axis=0), turn, draws(4000))
    rotated = _hadamard(update * turn)[0] * how.scale
    error = (many.mean(axis=0) - rotated) * math.sqrt(4000)
    assert np.abs(error).max() < 5 * 0.5
    assert np.abs(many - rotated).max() <= 1


def test_a_rounding_longer_than_the_bound_is_drawn_again():
    """Half-way values in every coordinate grow most: some first roundings exceed the bound, none that is returned."""
    how = encoding(clip=1.0, dimension=256, bits=12, cohort=4, rounds=1, noise_multiplier=1.0)
    level = math.floor(how.scale / 16) - 0.5
    turn = signs(how, generator(0, "signs"))
    rows = np.repeat(_hadamard(np.full((1, 256), level / how.scale)) * turn, 500, axis=0)
    how_short = replace(how, l2=math.sqrt(256 * (level**2 + 0.25)))
    numbers = encode(how_short, rows, turn, draws(500))
    first = np.floor(level + np.stack([draw.random(256) for draw in draws(500)]))
    assert 100 < (np.linalg.norm(first, axis=1) > how_short.l2).sum() < 400
    assert np.linalg.norm(numbers, axis=1).max() <= how_short.l2


def law(drawn, variance):
    """Chi-square of the draws against Skellam's probabilities, in classes of one number, the tails in one each."""
    reach = int(2.5 * math.sqrt(variance))
    at = np.arange(-reach, reach + 1)
    inner = skellam.pmf(at, variance / 2, variance / 2)
    tail = (1 - inner.sum()) / 2
    counts = np.bincount(np.clip(drawn, -reach - 1, reach + 1) + reach + 1, minlength=2 * reach + 3)
    return chisquare(counts, drawn.size * np.concatenate(([tail], inner, [tail]))).pvalue


@pytest.mark.parametrize("cohort", [1, 3, 40])
def test_the_shares_of_a_cohort_sum_to_the_whole_noise_in_law(cohort):
    how = replace(
        encoding(clip=1.0, dimension=2**15, bits=16, cohort=40, rounds=1, noise_multiplier=1.0), variance=30.0
    )
    shares = np.sum([share(how, cohort, generator(5, "share", 1, phone)) for phone in range(cohort)], axis=0)
    for drawn in (shares, noise(how, generator(5, "noise", 1))):
        assert law(drawn, 30.0) > BY_CHANCE
        assert law(drawn, 33.0) < BY_CHANCE
        assert law(drawn, 27.0) < BY_CHANCE


@pytest.mark.parametrize("multiplier", [0.94, 0.0])
def test_a_rounds_error_is_the_noise_of_multiplier_and_clip(multiplier):
    """At 16 bits, 100 phones and LeNet's size: a deviation of z C within 1 %, of which the parts are known exactly."""
    how = encoding(**{**LENET, "noise_multiplier": multiplier}, bits=16)
    updates, _ = clip(np.random.default_rng(2).standard_normal((8, 61_706)), 0.2)
    turn = signs(how, generator(0, "signs", 1))
    total = np.zeros(how.padded, np.int64)
    for client in range(100):
        total += encode(how, updates[client % 8 : client % 8 + 1], turn, [generator(0, "rounding", 1, client)])[0]
    total = modular(how, total + noise(how, generator(0, "noise", 1)))
    error = decode(how, total, turn) - updates[np.arange(100) % 8].sum(axis=0)
    rounding = 100 / 6 / how.scale**2
    assert error.var() == pytest.approx(how.deviation**2 + rounding, rel=5 * math.sqrt(2 / 61_706))
    assert abs(error.mean()) < 5 * error.std() / math.sqrt(61_706)
    if multiplier:
        assert error.std() == pytest.approx(multiplier * 0.2, rel=0.02)
        assert rounding < 1e-4 * error.var()


def test_phones_encode_alike_alone_and_together_and_an_empty_cohort_is_no_phones():
    how = encoding(**LENET | {"dimension": 500}, bits=16)
    updates, _ = clip(np.random.default_rng(2).standard_normal((5, 500)), 0.2)
    turn = signs(how, generator(0, "signs", 1))
    together = encode(how, updates, turn, draws(5))
    alone = [encode(how, updates[[phone]], turn, [draws(5)[phone]])[0] for phone in range(5)]
    np.testing.assert_array_equal(together, alone)
    assert encode(how, updates[:0], turn, []).shape == (0, how.padded)


def test_sensitivities_are_the_papers():
    """Kairouz et al. 2021, theorem 1, with beta = exp(-1/2), which makes its root 1; |v|_1 <= sqrt(d) |v|_2."""
    how = encoding(**LENET, bits=16)
    long = how.clip * how.scale
    assert how.l2**2 == pytest.approx(long**2 + 65_536 / 4 + (long + 256 / 2))
    assert how.l1 == pytest.approx(256 * how.l2)
    assert how.variance == pytest.approx((0.94 * how.l2) ** 2)


@pytest.mark.parametrize("bits", [8, 10])
def test_too_few_bits_are_refused(bits):
    with pytest.raises(ValueError, match=f"^{bits} bits are too few for 61706 weights, cohorts of 100 and .* 0.94; "):
        encoding(**LENET, bits=bits)


def test_updates_that_are_not_clipped_are_refused():
    how = encoding(clip=1.0, dimension=4, bits=16, cohort=4, rounds=1, noise_multiplier=1.0)
    for update in ([[1.0, 0.1, 0, 0]], [[np.nan, 0, 0, 0]]):
        with pytest.raises(ValueError, match="clipped to 1, got a norm of"):
            encode(how, np.array(update), signs(how, generator(0, "signs")), draws(1))
