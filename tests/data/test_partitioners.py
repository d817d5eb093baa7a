"""Every partitioner: each example exactly once, what each scheme promises, and the words for what cannot be done."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.partition import digest, indices, label_counts, sizes
from fedsim.data.partitioners import NAMES, partition
from fedsim.seeds import generator

SETTINGS = {"alpha": 0.5, "classes_per_client": 2, "min_examples": 0}


def deal(name, labels, clients, seed=0, **settings):
    return partition(name, np.asarray(labels), clients, generator(seed, "partition"), **SETTINGS | settings)


def labels_of(counts, seed=0):
    """So many examples of each class, in random order."""
    return generator(seed, "labels").permutation(np.repeat(np.arange(len(counts)), counts))


@st.composite
def requests(draw):
    """A request every scheme can serve: classes with at least as many examples as there are clients."""
    clients = draw(st.integers(1, 12))
    counts = draw(st.lists(st.integers(clients, 40), min_size=1, max_size=6))
    each = draw(st.integers(-(-len(counts) // clients), len(counts)))
    gaps = draw(st.integers(1, 3))  # classes need not be numbered without gaps
    alpha = draw(st.sampled_from([1e-300, 1e-6, 0.05, 0.5, 1.0, 100.0, 1e6]))
    labels = gaps * labels_of(counts, draw(st.integers(0, 9)))
    return labels, clients, {"alpha": alpha, "classes_per_client": each, "seed": draw(st.integers(0, 99))}


@settings(deadline=None)
@given(requests(), st.sampled_from(NAMES))
def test_every_example_is_dealt_exactly_once(request_, name):
    labels, clients, chosen = request_
    dealt = deal(name, labels, clients, **chosen)
    assert sorted(dealt.order.tolist()) == list(range(len(labels)))
    assert len(sizes(dealt)) == clients


@settings(deadline=None)
@given(requests(), st.sampled_from(["dirichlet", "quantity", "iid"]), st.data())
def test_every_client_gets_its_minimum_whatever_alpha(request_, name, data):
    labels, clients, chosen = request_
    least = data.draw(st.integers(0, len(labels) // clients))
    assert sizes(deal(name, labels, clients, min_examples=least, **chosen)).min() >= least


@settings(deadline=None)
@given(requests())
def test_iid_sizes_differ_by_one_at_most(request_):
    labels, clients, chosen = request_
    assert np.ptp(sizes(deal("iid", labels, clients, **chosen))) <= 1


def test_there_may_be_more_clients_than_examples_if_some_may_have_none():
    assert sorted(sizes(deal("iid", [0, 1, 2], 5)).tolist()) == [0, 0, 1, 1, 1]


@settings(deadline=None)
@given(requests())
def test_pathological_clients_hold_exactly_k_classes_each_cut_evenly(request_):
    labels, clients, chosen = request_
    held = label_counts(deal("pathological", labels, clients, **chosen), labels, int(labels.max()) + 1)
    assert ((held > 0).sum(axis=1) == chosen["classes_per_client"]).all()
    for column in held.T:
        shares = column[column > 0]
        assert not len(shares) or np.ptp(shares) <= 1


@settings(deadline=None)
@given(requests(), st.integers(1, 5))
def test_shards_are_dealt_whole(request_, each):
    labels, clients, chosen = request_
    shards = clients * each
    if shards > len(labels):
        with pytest.raises(ValueError, match="classes_per_client"):
            deal("shards", labels, clients, **chosen | {"classes_per_client": each})
        return
    dealt = deal("shards", labels, clients, **chosen | {"classes_per_client": each})
    whole = len(labels) // shards
    assert each * whole <= sizes(dealt).min() <= sizes(dealt).max() <= each * (whole + (len(labels) % shards > 0))
    # Sorted by label and cut, every class but the first can add one cut more: stretches of one label in one shard.
    held = label_counts(dealt, labels, int(labels.max()) + 1)
    assert (held > 0).sum() <= shards + len(np.unique(labels)) - 1


def test_shards_as_mcmahan_et_al_cut_mnist():
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    labels = labels_of(counts)
    held = label_counts(deal("shards", labels, 100), labels, 10)
    assert held.sum(axis=1).tolist() == [600] * 100
    assert (held > 0).sum(axis=1).max() <= 4
    assert (held > 0).sum() <= 209


def test_one_big_client_tops_the_others_up_to_the_minimum_and_no_more():
    held = sizes(deal("quantity", np.zeros(1000, np.int64), 10, alpha=1e-6, min_examples=5))
    assert sorted(held.tolist()) == [5] * 9 + [955]


def test_those_topped_up_take_from_every_client_that_can_spare():
    # Each of two classes goes to one client whole; ten others are topped up with twenty each.
    labels = labels_of([500, 500])
    held = label_counts(deal("dirichlet", labels, 12, alpha=1e-6, min_examples=20), labels, 2)
    givers = held.sum(axis=1) > 20
    assert held.sum(axis=1)[~givers].tolist() == [20] * 10
    # Hypergeometric: 200 of about 960 that can be spared, half of each class, with a standard deviation of 6.3.
    assert (abs(held[givers].sum(axis=0) - 400) < 26).all()


def test_a_draw_that_falls_short_is_drawn_again_not_topped_up():
    # A uniform split of 10,000 over ten clients gives all of them 100 with probability 0.9^9 = 0.39. Topping up the
    # other draws would leave clients at exactly 100, about one a draw; a fresh draw does so once in 120 draws.
    labels = np.zeros(10_000, np.int64)
    held = [sizes(deal("quantity", labels, 10, seed, alpha=1.0, min_examples=100)) for seed in range(50)]
    assert min(counts.min() for counts in held) >= 100
    assert sum((counts == 100).sum() for counts in held) < 5


@pytest.mark.parametrize("name", NAMES)
def test_examples_of_a_client_come_in_random_order(name):
    labels = np.repeat([0, 1], 500)
    for client in range(2):
        held = indices(deal(name, labels, 2, alpha=1e6), client)
        falls = (np.diff(held) < 0).mean()
        assert 0.4 < falls < 0.6


@pytest.mark.parametrize("name", NAMES)
def test_equal_keys_give_equal_partitions_and_other_keys_others(name):
    labels = labels_of([50] * 4)
    digests = [digest(deal(name, labels, 5, seed)) for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_clients_on_sixty_thousand_examples(name):
    labels = labels_of([6000] * 10)
    dealt = deal(name, labels, 10_000, min_examples=1)
    assert sizes(dealt).min() >= 1
    assert len(sizes(dealt)) == 10_000


MANY = labels_of([6000] * 10)


@pytest.mark.parametrize(
    ("name", "labels", "clients", "settings", "message"),
    [
        (
            "Dirichlet",
            [0, 1],
            2,
            {},
            "data.partition = Dirichlet: allowed are iid, dirichlet, pathological, shards, quantity",
        ),
        ("iid", [], 2, {}, "data.source: there are no examples to share out"),
        ("iid", [0, 1], 0, {}, "federation.clients = 0: at least 1"),
        ("iid", [0, 1], 2, {"min_examples": -1}, "data.min_examples = -1: at least 0"),
        ("dirichlet", [0, 1], 2, {"alpha": 0.0}, "data.alpha = 0.0: allowed are numbers above 0, up to 1,000,000"),
        ("quantity", [0, 1], 2, {"alpha": -1}, "data.alpha = -1: allowed are numbers above 0, up to 1,000,000"),
        ("dirichlet", [0, 1], 2, {"alpha": np.nan}, "data.alpha = nan: allowed are numbers above 0, up to 1,000,000"),
        ("quantity", [0, 1], 2, {"alpha": np.inf}, "data.alpha = inf: allowed are numbers above 0, up to 1,000,000"),
        *(
            (
                name,
                MANY,
                10_000,
                {"min_examples": 10},
                "data.min_examples = 10: 60,000 examples cannot give 10,000 clients 10 each; at most 6, "
                "or data.partition = sampled, where phones share them",
            )
            for name in NAMES
        ),
        (
            "pathological",
            MANY,
            10,
            {"classes_per_client": 11},
            "data.classes_per_client = 11: 10 clients share 10 classes; allowed are 1 to 10",
        ),
        (
            "pathological",
            MANY,
            3,
            {"classes_per_client": 3},
            "data.classes_per_client = 3: 3 clients share 10 classes; allowed are 4 to 10",
        ),
        (
            "pathological",
            [0, 1, 1, 1],
            2,
            {"classes_per_client": 2},
            "data.classes_per_client = 2: a class of 1 examples has 2 clients; lower it or federation.clients",
        ),
        (
            "pathological",
            [0, 1, 1, 1],
            2,
            {"classes_per_client": 1, "min_examples": 2},
            "data.min_examples = 2: pathological leaves a client 1; at most 1",
        ),
        (
            "shards",
            [0, 1, 1],
            2,
            {"classes_per_client": 2},
            "data.classes_per_client = 2: 3 examples make at least 1 and at most 1 shards for each of 2 clients",
        ),
        (
            "shards",
            MANY,
            100,
            {"classes_per_client": 0},
            "data.classes_per_client = 0: 60,000 examples make at least 1 and at most 600 shards "
            "for each of 100 clients",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(name, labels, clients, settings, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        deal(name, np.array(labels, np.int64), clients, **settings)
    assert str(refused.value) == message


@pytest.mark.parametrize("name", ["pathological", "shards"])
def test_a_minimum_the_draw_cannot_keep_is_refused_with_the_one_it_can(name):
    labels = labels_of([11, 12, 22])
    smallest = {seed: int(sizes(deal(name, labels, 6, seed)).min()) for seed in range(20)}
    assert min(smallest.values()) < 7
    for seed, least in smallest.items():
        assert sizes(deal(name, labels, 6, seed, min_examples=least)).min() == least
        if least < 7:
            message = rf"^data\.min_examples = 7: {name} leaves a client {least}; at most {least}$"
            with pytest.raises(ValueError, match=message):
                deal(name, labels, 6, seed, min_examples=7)


@pytest.mark.parametrize("name", ["iid", "pathological", "shards"])
def test_settings_a_scheme_has_no_use_for_are_not_looked_at(name):
    labels = labels_of([20] * 3)
    one, other = deal(name, labels, 4, alpha=0.5), deal(name, labels, 4, alpha=np.nan)
    assert digest(one) == digest(other)
