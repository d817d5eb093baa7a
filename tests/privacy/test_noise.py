"""Gaussian noise: its law, its keys, and sums that do not depend on order."""

import numpy as np
import pytest
from scipy.stats import kstest

from fedsim.privacy.noise import gaussian, gaussian_sum


def test_noise_is_gaussian_of_its_deviation_and_of_no_other():
    drawn = gaussian(0, "noise", 1, size=100_000, deviation=0.3)
    assert kstest(drawn, "norm", (0, 0.3)).pvalue > 1e-4
    assert kstest(drawn, "norm", (0, 0.31)).pvalue < 1e-4
    assert not gaussian(0, "noise", 1, size=4, deviation=0.0).any()


def test_noise_of_other_rounds_clients_and_seeds_is_independent():
    keys = [(0, "noise", 1), (0, "noise", 2), (1, "noise", 1), (0, "local noise", 1, 0), (0, "local noise", 1, 1)]
    drawn = np.stack([gaussian(*key, size=20_000, deviation=1.0) for key in keys])
    assert np.abs(np.corrcoef(drawn) - np.eye(len(keys))).max() < 5 / np.sqrt(20_000)


def test_a_sum_is_that_of_the_phones_own_noise_whatever_their_order():
    clients = np.array([5, 2, 9])
    total = gaussian_sum(0, "local noise", 3, clients, size=50, deviation=2.0)
    each = [gaussian(0, "local noise", 3, client, size=50, deviation=2.0) for client in (2, 5, 9)]
    np.testing.assert_allclose(total, np.sum(each, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(total, gaussian_sum(0, "local noise", 3, clients[::-1], size=50, deviation=2.0))
    assert not gaussian_sum(0, "local noise", 3, clients[:0], size=50, deviation=2.0).any()


def test_a_sums_deviation_grows_with_the_root_of_the_phones():
    total = gaussian_sum(0, "local noise", 1, np.arange(25), size=40_000, deviation=0.2)
    assert total.std() == pytest.approx(1.0, rel=5 / np.sqrt(80_000))
