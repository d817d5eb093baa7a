"""Who trains: the samplers' laws by tests that turn wrong ones down, and what turns promise, for any sizes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from fedsim.privacy.sampling import cyclic, fixed, largest_cohort, participations, poisson, separation

BY_CHANCE = 1e-4


def coin_flips(draws, clients, cohort):
    """By the definition: a flip for each client."""
    return [np.flatnonzero(draw.random(clients) < cohort / clients) for draw in draws.spawn(2000)]


def fit(cohorts, clients, cohort):
    """The chances of sizes so odd, and of clients and of pairs met so unevenly, if the cohorts were coin flips.

    Sizes in classes that expect 5 cohorts or more; pairs at every distance round the circle of clients.
    """
    sizes = np.bincount([len(drawn) for drawn in cohorts], minlength=clients + 1)
    law = binom.pmf(np.arange(clients + 1), clients, cohort / clients) * len(cohorts)
    low, high = np.flatnonzero(law >= 5)[[0, -1]]
    seen, expected = np.split(sizes, [low + 1, high]), np.split(law, [low + 1, high])
    met = np.bincount(np.concatenate(cohorts), minlength=clients)
    member = np.zeros((len(cohorts), clients))
    for row, drawn in zip(member, cohorts, strict=True):
        row[drawn] = 1
    pairs = member.T @ member
    met_in_pairs = np.array([np.trace(np.roll(pairs, -far, axis=1)) for far in range(1, clients // 2)])
    return (
        chisquare(
            np.concatenate(([seen[0].sum()], seen[1], [seen[2].sum()])),
            np.concatenate(([expected[0].sum()], expected[1], [expected[2].sum()])),
        ).pvalue,
        chisquare(met).pvalue,
        chisquare(met_in_pairs).pvalue,
    )


def rounds_of(sampler, clients, cohort):
    return [sampler(7, number, clients, cohort) for number in range(1, 2001)]


def test_poisson_has_the_law_of_coin_flips():
    assert min(fit(rounds_of(poisson, 40, 12), 40, 12)) > BY_CHANCE
    assert min(fit(coin_flips(np.random.default_rng(0), 40, 12), 40, 12)) > BY_CHANCE


def test_the_test_turns_fixed_cohorts_turns_and_favourites_down():
    sizes, _, _ = fit(rounds_of(fixed, 40, 12), 40, 12)
    assert sizes < BY_CHANCE
    favourites = [np.unique(np.minimum(drawn, 38)) for drawn in rounds_of(poisson, 40, 12)]
    assert fit(favourites, 40, 12)[1] < BY_CHANCE
    neighbours = [np.unique(drawn // 2 * 2 + np.arange(2)[:, np.newaxis]) for drawn in rounds_of(poisson, 40, 8)]
    assert fit(neighbours, 40, 12)[2] < BY_CHANCE


def test_fixed_cohorts_are_any_of_their_size():
    cohorts = rounds_of(fixed, 40, 12)
    assert {len(drawn) for drawn in cohorts} == {12}
    _, clients, pairs = fit(cohorts, 40, 12)
    assert min(clients, pairs) > BY_CHANCE


def test_small_chances_give_empty_cohorts_and_certainty_everybody():
    assert any(len(drawn) == 0 for drawn in rounds_of(poisson, 40, 1))
    np.testing.assert_array_equal(poisson(0, 1, 40, 40), np.arange(40))


@pytest.mark.parametrize("sampler", [poisson, fixed, cyclic])
def test_cohorts_follow_seed_and_round_alone_ascend_and_differ(sampler):
    first = sampler(3, 5, 1000, 50)
    sampler(3, 6, 1000, 50)
    np.testing.assert_array_equal(sampler(3, 5, 1000, 50), first)
    assert (np.diff(first) > 0).all()
    assert first.dtype == np.int64
    assert not np.array_equal(first, sampler(3, 6, 1000, 50))
    assert not np.array_equal(first, sampler(4, 5, 1000, 50))


@pytest.mark.parametrize("sampler", [poisson, fixed, cyclic])
@pytest.mark.parametrize("cohort", [0, 11])
def test_a_cohort_that_cannot_be_is_refused(sampler, cohort):
    with pytest.raises(ValueError, match=f"at most the 10 clients, got {cohort}"):
        sampler(0, 1, 10, cohort)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 60), st.data())
def test_turns_keep_what_they_promise(seed, clients, data):
    cohort = data.draw(st.integers(1, clients))
    rounds = data.draw(st.integers(1, 25))
    cohorts = [cyclic(seed, number, clients, cohort) for number in range(1, rounds + 1)]
    assert all(len(np.unique(drawn)) == cohort for drawn in cohorts)
    for client in range(clients):
        took_part = [number for number, drawn in enumerate(cohorts) if client in drawn]
        assert len(took_part) <= participations(clients, cohort, rounds) == math.ceil(rounds * cohort / clients)
        assert len(took_part) >= rounds * cohort // clients
        assert all(gap >= separation(clients, cohort) for gap in np.diff(took_part))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 3000))
def test_turns_come_to_everybody_once_before_they_come_twice(seed, clients):
    first_turns = np.concatenate([cyclic(seed, number, clients, 1) for number in range(1, min(clients, 20) + 1)])
    assert len(np.unique(first_turns)) == len(first_turns)
    np.testing.assert_array_equal(cyclic(seed, 1, clients, clients), np.arange(clients))


@pytest.mark.parametrize("clients", [3, 50])
def test_every_client_is_as_likely_to_begin_and_with_every_other(clients):
    """First rounds of two clients, over seeds; a test that turns an order down which the seed only rotates."""
    rounds = np.array([cyclic(seed, 1, clients, 2) for seed in range(1200)])
    assert chisquare(np.bincount(rounds.ravel(), minlength=clients)).pvalue > BY_CHANCE
    likely = np.arange(clients - 1, 0, -1) / (clients * (clients - 1) / 2) * len(rounds)
    gaps = np.bincount(rounds[:, 1] - rounds[:, 0], minlength=clients)[1:]
    assert chisquare(gaps, likely).pvalue > BY_CHANCE
    starts = np.random.default_rng(0).integers(clients, size=len(rounds))
    rotated = np.sort((starts[:, np.newaxis] + np.arange(2)) % clients, axis=1)
    if clients > 3:
        gaps = np.bincount(rotated[:, 1] - rotated[:, 0], minlength=clients)[1:]
        assert chisquare(gaps, likely).pvalue < BY_CHANCE


def test_turns_of_a_million_meet_each_client_once():
    met = np.concatenate([cyclic(0, number, 1_000_000, 10_000) for number in (1, 2, 50, 99, 100)])
    assert len(np.unique(met)) == 50_000


def test_the_largest_cohort_is_the_binomial_laws():
    bound = largest_cohort(1000, 100, 100)
    assert 100 * binom.sf(bound, 1000, 0.1) <= 1e-9 < 100 * binom.sf(bound - 1, 1000, 0.1)
    assert largest_cohort(50, 50, 10) == 50
