"""Randomness: a stream a key, the same for ever, and Flower's sampling under a key of ours."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
from flwr.serverapp.strategy.strategy_utils import sample_nodes
from hypothesis import assume, given
from hypothesis import strategies as st

from fedsim.seeds import flower_sampling, generator, key, words
from fedsim.simulation.grid import FederationGrid
from tests.simulation import arithmetic_phones

Key = tuple[int, str, *tuple[int, ...]]
keys = st.tuples(st.integers(0, 2**64), st.text(max_size=4), st.lists(st.integers(0, 2**40), max_size=3)).map(
    lambda parts: (parts[0], parts[1], *parts[2])
)


@pytest.fixture(autouse=True)
def untouched_global_random() -> Iterator[None]:
    """Whatever a test of this file does, the global states are afterwards what they were."""
    before, before_numpy = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    yield
    assert random.getstate() == before
    np.testing.assert_array_equal(np.random.get_state()[1], before_numpy)  # noqa: NPY002


@pytest.mark.parametrize(
    ("key", "integers", "normal"),
    [
        ((0, "shuffle", 1, 7), [3792387490, 968114800, 2954223515], -1.4269528119127144),
        ((1, "shuffle", 1, 7), [3668467330, 3270783869, 266025535], 0.14298082447084381),
        ((0, "cohort", 3), [2366021118, 2810680448, 1443182603], -0.8116162306164347),
        ((2**63, "partition"), [2464010189, 3365372736, 693331686], -0.5788267434657786),
    ],
)
def test_streams_are_those_of_every_run_before(key: Key, integers: list[int], normal: float) -> None:
    assert generator(*key).integers(2**32, size=3).tolist() == integers
    assert generator(*key).standard_normal() == normal


@pytest.mark.parametrize(
    ("key", "sample"),
    [
        ((0, "cohort train", 1), [80, 79, 71, 43, 32, 63, 34, 77, 46, 67]),
        ((7, "cohort train", 1), [18, 83, 75, 53, 0, 29, 99, 97, 3, 5]),
        ((0, "cohort train", 2), [47, 34, 55, 70, 74, 93, 19, 67, 48, 6]),
    ],
)
def test_samples_are_those_of_every_run_before(key: Key, sample: list[int]) -> None:
    with flower_sampling(*key):
        assert random.sample(range(100), 10) == sample


@given(keys)
def test_equal_keys_give_equal_streams_whatever_was_drawn_before(key: Key) -> None:
    first = generator(*key).random(8)
    generator(*key).random(100)
    np.testing.assert_array_equal(generator(*key).random(8), first)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_a_whole_number_is_one_key_of_whatever_type_it_is(kind: type[np.integer]) -> None:
    assert generator(3, "shuffle", kind(2), kind(7)).random() == generator(3, "shuffle", 2, 7).random()


@given(keys, keys)
def test_different_keys_give_different_streams(one: Key, other: Key) -> None:
    assume(one != other)
    assert generator(*one).integers(2**63, size=2).tolist() != generator(*other).integers(2**63, size=2).tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "a", 1, 23), (0, "a", 12, 3)),
        ((0, "a", 1), (0, "a1")),
        ((0, "a", 1), (0, "a", 1, 0)),
        ((0, "a', 1"), (0, "a", 1)),
        ((1, "a", 0), (0, "a", 1)),
    ],
)
def test_keys_that_look_alike_are_not(one: Key, other: Key) -> None:
    assert generator(*one).random() != generator(*other).random()


def test_streams_of_neighbouring_keys_are_uncorrelated() -> None:
    """64 clients by 4096 normal draws: correlations of independent streams lie within 5.5 / sqrt(4096), and fill it."""
    draws = np.stack([generator(0, "noise", 1, client).standard_normal(4096) for client in range(64)])
    pairs = np.corrcoef(draws)[np.triu_indices(64, k=1)] * np.sqrt(4096)
    assert np.abs(pairs).max() < 5.5
    assert pairs.std() == pytest.approx(1, abs=0.1)
    assert pairs.mean() == pytest.approx(0, abs=5 / np.sqrt(len(pairs)))


def test_first_draws_over_keys_are_uniform() -> None:
    """One draw each from 8000 keys, sorted: within Kolmogorov's 1e-6 bound, 2.7 / sqrt(8000), of the uniform ones."""
    draws = np.sort([generator(seed, "cohort", number).random() for seed in range(80) for number in range(100)])
    assert np.abs(draws - np.linspace(0, 1, 8000)).max() < 2.7 / np.sqrt(8000)


def test_flowers_own_sampling_follows_the_key_alone() -> None:
    grid = FederationGrid(arithmetic_phones(30))

    def draw(seed: int, number: int) -> list[int]:
        with flower_sampling(seed, "cohort train", number):
            return sample_nodes(grid, 10, 10)[0]

    first = draw(5, 2)
    with flower_sampling(9, "something else"):  # whatever state the global generator is in
        assert draw(5, 2) == first
        random.random()
        assert draw(5, 2) == first
    assert len({tuple(draw(seed, number)) for seed in range(4) for number in range(4)}) == 16


def test_the_global_state_returns_even_when_flower_raises() -> None:
    before = random.getstate()
    with pytest.raises(ValueError, match="larger"), flower_sampling(0, "cohort train", 1):
        random.sample(range(3), 4)
    assert random.getstate() == before


def test_inside_the_context_the_state_goes_on() -> None:
    with flower_sampling(0, "cohort train", 1):
        first, second = random.random(), random.random()
    assert first != second


def splitmix64(state: int) -> Iterator[int]:
    """SplitMix64 as its authors' Java has it: a state that grows by a constant, and its mix."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        yield mixed ^ (mixed >> 31)


@given(st.integers(0, 2**64 - 1))
def test_words_are_those_of_splitmix64(start: int) -> None:
    plain = splitmix64(start)
    assert words(np.uint64(start), np.arange(20)).tolist() == [next(plain) for _ in range(20)]


def test_words_of_many_keys_are_each_keys_own() -> None:
    clients = words(key(3, "shuffle", 1), np.arange(50))
    together = words(clients[:, np.newaxis], np.arange(8))
    for row, own in zip(together, clients, strict=True):
        np.testing.assert_array_equal(row, words(own, np.arange(8)))


def test_keys_differ_with_seed_purpose_and_parts() -> None:
    assert (
        len({int(key(*parts)) for parts in ((0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "a", 1, 0))})
        == 6
    )
    assert int(key(0, "shuffle", 1)) == 9837687980467847450


def test_words_over_clients_and_positions_are_uncorrelated() -> None:
    """64 clients' words by 4096 positions, as for `generator`."""
    draws = words(words(key(0, "noise"), np.arange(64))[:, np.newaxis], np.arange(4096)) / 2.0**64
    pairs = np.corrcoef(draws)[np.triu_indices(64, k=1)] * np.sqrt(4096)
    assert np.abs(pairs).max() < 5.5
    assert pairs.std() == pytest.approx(1, abs=0.1)
    flat = np.sort(draws.ravel())
    assert np.abs(flat - np.linspace(0, 1, len(flat))).max() < 2.7 / np.sqrt(len(flat))
