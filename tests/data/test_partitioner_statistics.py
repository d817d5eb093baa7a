"""The partitioners' randomness against closed forms, with tests that also turn the wrong distribution down."""

import math

import numpy as np
import pytest

from fedsim.data.partition import label_counts, sizes
from fedsim.data.partitioners import _systematic, partition
from fedsim.seeds import generator

CLASSES = 20
PER_CLASS = 1000
LABELS = np.repeat(np.arange(CLASSES), PER_CLASS)


def deal(name, clients, seed, *, labels=LABELS, alpha=1.0, classes_per_client=2):
    settings = {"alpha": alpha, "classes_per_client": classes_per_client, "min_examples": 0}
    return partition(name, labels, clients, generator(seed, "partition"), **settings)


def dirichlet_shares(alpha, clients, draws):
    """The share of every class that every client gets, ``[draws * CLASSES, clients]``."""
    counts = [label_counts(deal("dirichlet", clients, seed, alpha=alpha), LABELS, CLASSES) for seed in range(draws)]
    return np.concatenate([count.T for count in counts]) / PER_CLASS


def quantity_shares(alpha, clients, draws):
    """The share of all examples that every client gets, ``[draws, clients]``."""
    labels = np.zeros(4000, np.int64)
    held = [sizes(deal("quantity", clients, seed, labels=labels, alpha=alpha)) for seed in range(draws)]
    return np.array(held) / len(labels)


def moments_fit(shares, alpha):
    """Whether mean and variance of the shares are those of Dirichlet(alpha), within four standard errors.

    Of C clients each one's share has mean 1/C and variance (1/C)(1 - 1/C) / (C alpha + 1). A row of shares is one
    draw: the squares are averaged within it first, so that the standard errors are those of independent values.
    """
    clients, error = shares.shape[1], 1 / math.sqrt(len(shares))
    mean, variance = 1 / clients, (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    squares = ((shares - mean) ** 2).mean(axis=1)
    means_fit = abs(shares.mean(axis=0) - mean) < 4 * shares.std(axis=0) * error
    return bool(means_fit.all()) and abs(squares.mean() - variance) < 4 * squares.std() * error


def follows(sample, distribution):
    """Kolmogorov-Smirnov: whether the sample may come from it, refused by chance once in a thousand times."""
    expected = distribution(np.sort(sample))
    steps = np.arange(len(sample) + 1) / len(sample)
    distance = max((steps[1:] - expected).max(), (expected - steps[:-1]).max())
    return distance * math.sqrt(len(sample)) < 1.95


SHARES = {"dirichlet": (dirichlet_shares, 50), "quantity": (quantity_shares, 1000)}

BETA = {
    # A share of Dirichlet(alpha) over C clients is Beta(alpha, (C - 1) alpha); these have simple forms.
    (0.5, 2): lambda x: 2 / math.pi * np.arcsin(np.sqrt(x)),
    (1.0, 2): lambda x: x,
    (2.0, 2): lambda x: 3 * x**2 - 2 * x**3,
    (1.0, 10): lambda x: 1 - (1 - x) ** 9,
}


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0, 10.0])
def test_shares_have_the_mean_and_variance_of_their_alpha_and_of_no_other(name, alpha):
    make, draws = SHARES[name]
    shares = make(alpha, 10, draws)
    assert moments_fit(shares, alpha)
    assert not moments_fit(shares, 2 * alpha)
    assert not moments_fit(shares, alpha / 2)


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize(("alpha", "clients"), BETA)
def test_shares_follow_the_beta_distribution_of_their_alpha_and_no_other(name, alpha, clients):
    make, draws = SHARES[name]
    share = make(alpha, clients, draws)[:, -1]
    for key, distribution in BETA.items():
        assert follows(share, distribution) == (key == (alpha, clients))


def chi_squared(counts):
    """Pearson's statistic for clients and classes being independent."""
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(("name", "independent"), [("iid", True), ("quantity", True), ("dirichlet", False)])
def test_labels_do_not_depend_on_the_client_where_they_should_not(name, independent):
    freedom = 9 * (CLASSES - 1)
    for seed in range(10):
        statistic = chi_squared(label_counts(deal(name, 10, seed, alpha=10.0), LABELS, CLASSES))
        assert (abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)) == independent


def test_pathological_clients_choose_their_classes_uniformly():
    clients, each = 1000, 3
    held = label_counts(deal("pathological", clients, 0, classes_per_client=each), LABELS, CLASSES) > 0
    chance = each / CLASSES
    together = chance * (each - 1) / (CLASSES - 1)
    assert (abs(held.mean(axis=0) - chance) < 4.5 * math.sqrt(chance * (1 - chance) / clients)).all()
    pairs = (held.T.astype(float) @ held / clients)[np.triu_indices(CLASSES, 1)]
    assert (abs(pairs - together) < 4.5 * math.sqrt(together * (1 - together) / clients)).all()


def test_shards_are_dealt_at_random():
    # 20 classes cut into 40 shards of half a class each: both halves go to one of 20 clients with chance 1/39.
    alone = [(label_counts(deal("shards", 20, seed), LABELS, CLASSES) == PER_CLASS).sum() for seed in range(200)]
    expected = 20 / 39
    assert abs(np.mean(alone) - expected) < 4 * math.sqrt(expected / 200)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 50.0])
def test_a_draw_is_met_to_less_than_one_example_and_exactly_on_average(alpha):
    random = generator(0, "systematic")
    proportions = random.dirichlet(np.full(8, alpha))
    counts = np.array([np.bincount(_systematic(proportions, 57, random), minlength=8) for _ in range(4000)])
    assert (abs(counts - 57 * proportions) < 1).all()
    remainder = 57 * proportions % 1
    assert (abs(counts.mean(axis=0) - 57 * proportions) < 4 * np.sqrt(remainder * (1 - remainder) / 4000) + 1e-9).all()
