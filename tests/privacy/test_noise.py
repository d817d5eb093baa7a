"""Gaussian noise: its law and its keys."""

import numpy as np
from scipy.stats import kstest

from fedsim.privacy.noise import gaussian


def test_noise_is_gaussian_of_its_deviation_and_of_no_other():
    drawn = gaussian(0, "noise", 1, size=100_000, deviation=0.3)
    assert kstest(drawn, "norm", (0, 0.3)).pvalue > 1e-4
    assert kstest(drawn, "norm", (0, 0.31)).pvalue < 1e-4
    assert not gaussian(0, "noise", 1, size=4, deviation=0.0).any()


def test_noise_of_other_rounds_clients_and_seeds_is_independent():
    keys = [(0, "noise", 1), (0, "noise", 2), (1, "noise", 1), (0, "local noise", 1, 0), (0, "local noise", 1, 1)]
    drawn = np.stack([gaussian(*key, size=20_000, deviation=1.0) for key in keys])
    assert np.abs(np.corrcoef(drawn) - np.eye(len(keys))).max() < 5 / np.sqrt(20_000)
