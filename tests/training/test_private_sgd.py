"""DP-SGD: its steps, its batches and its noise against the algorithm written out in NumPy, and against statistics."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedsim.data.dataset import Examples
from fedsim.training import reference
from fedsim.training.native.engine import Engine
from fedsim.training.native.engine import gradient_sum as native_gradient_sum
from fedsim.training.private_sgd import train_privately
from fedsim.updates import LocalTraining, Weights
from tests.training.test_reference import CLASSES, CONTRACT, FEATURES, some_examples, some_weights

TRAINING = LocalTraining(epochs=3, batch_size=5, optimizer="sgd", learning_rate=0.3, momentum=0.5)
DATA = some_examples(40)
OWN = np.arange(3, 36)
"""The phone's 33 rows: 7 steps an epoch at a rate of 1 / 7."""

Floats = NDArray[np.float64]


def torch_sum(weights: Weights, rows: NDArray[np.int64], clip: float) -> Floats:
    return reference.gradient_sum(CONTRACT, DATA, weights, rows, clip)


def by_hand(start: Weights, own: NDArray[np.int64], clip: float, noise: float, draw: np.random.Generator) -> Floats:
    """Algorithm 1 of Abadi et al. for softmax regression, with the gradients (p - onehot) xᵀ of one image each."""
    x, y = DATA.inputs.reshape(len(DATA.labels), -1).astype(np.float64), DATA.labels
    weights, velocity = start.astype(np.float64), np.zeros(len(start))
    for _ in range(3 * 7):
        total = np.zeros(len(start))
        for row in own[draw.random(33) < 1 / 7]:
            matrix, bias = weights[:-CLASSES].reshape(CLASSES, FEATURES), weights[-CLASSES:]
            powers = np.exp(matrix @ x[row] + bias)
            error = powers / powers.sum() - np.eye(CLASSES)[y[row]]
            gradient = np.concatenate([np.outer(error, x[row]).ravel(), error])
            total += gradient / max(1.0, np.linalg.norm(gradient) / clip)
        released = total + noise * clip * draw.standard_normal(len(start))
        velocity = 0.5 * velocity + released / (33 / 7)
        weights = weights - 0.3 * velocity
    return weights


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_it_is_the_published_algorithm(noise: float) -> None:
    weights = some_weights()
    train_privately(weights, OWN, torch_sum, TRAINING, 0.4, noise, np.random.default_rng(2))
    expected = by_hand(some_weights(), OWN, 0.4, noise, np.random.default_rng(2))
    moved = np.linalg.norm(expected - some_weights())
    assert np.linalg.norm(weights - expected) < 1e-5 * moved


def test_both_engines_take_the_same_steps() -> None:
    ends: list[Weights] = []
    for gradient_sum in (torch_sum, partial(native_gradient_sum, Engine(CONTRACT), DATA)):
        ends.append(some_weights())
        train_privately(ends[-1], OWN, gradient_sum, TRAINING, 0.4, 0.7, np.random.default_rng(2))
    assert np.linalg.norm(ends[0] - ends[1]) < 1e-5 * np.linalg.norm(ends[0] - some_weights())


def test_without_clip_and_noise_it_learns_what_sgd_learns() -> None:
    """All rows in every batch, no gradient as long as the clip: plain gradient descent, to the last example."""
    everything = replace(TRAINING, batch_size=40, epochs=60, shuffle=False)
    rows, private, plain, draw = np.arange(40), some_weights(), some_weights(), np.random.default_rng(1)
    train_privately(private, rows, partial(native_gradient_sum, Engine(CONTRACT), DATA), everything, 1e6, 0.0, draw)
    losses = reference.train_client(CONTRACT, plain, DATA, everything, np.uint64(1))
    assert losses[-1] < 0.7 * losses[0]
    assert np.linalg.norm(private - plain) < 1e-4 * np.linalg.norm(plain - some_weights())


@pytest.mark.parametrize(
    ("examples", "batch_size", "steps"), [(600, 20, 60), (601, 20, 62), (20, 20, 2), (7, 20, 2), (0, 20, 0)]
)
def test_there_are_as_many_steps_as_without_privacy(examples: int, batch_size: int, steps: int) -> None:
    assert len(drawn_batches(examples, batch_size, epochs=2)) == steps


def test_a_phone_without_examples_keeps_the_weights() -> None:
    weights = some_weights()
    train_privately(weights, OWN[:0], torch_sum, TRAINING, 0.4, 1.0, np.random.default_rng(1))
    np.testing.assert_array_equal(weights, some_weights())


def drawn_batches(count: int, batch_size: int, epochs: int) -> list[NDArray[np.int64]]:
    """The batches that a phone's training asks the gradients of."""
    batches: list[NDArray[np.int64]] = []

    def listen(weights: Weights, rows: NDArray[np.int64], clip: float) -> Floats:
        batches.append(rows)
        return np.zeros(len(weights))

    training = replace(TRAINING, batch_size=batch_size, epochs=epochs)
    train_privately(np.zeros(2, np.float32), np.arange(count), listen, training, 1.0, 1.0, np.random.default_rng(7))
    return batches


def test_batches_are_poisson_samples() -> None:
    """Sizes are binomial, empty ones among them, and every row is drawn as often as any other."""
    batches = drawn_batches(count=40, batch_size=2, epochs=150)
    sizes = np.array([len(batch) for batch in batches])
    assert len(sizes) == 3000
    assert all(len(set(batch.tolist())) == len(batch) for batch in batches)
    found = np.bincount(np.minimum(sizes, 6), minlength=7)
    chances = np.append(stats.binom.pmf(np.arange(6), 40, 0.05), stats.binom.sf(5, 40, 0.05))
    assert stats.chisquare(found, 3000 * chances).pvalue > 1e-3
    assert stats.chisquare(np.bincount(np.concatenate(batches), minlength=40)).pvalue > 1e-3


def released_noise(clip: float, noise_multiplier: float) -> Floats:
    """What one step of rate 1 / 2 adds to 20,000 weights whose gradients are zero, undone to the sum's own scale."""
    weights, training = np.zeros(20_000, np.float32), replace(TRAINING, epochs=1, batch_size=2, momentum=0.0)
    start = weights.copy()
    train_privately(weights, np.arange(2), silent, training, clip, noise_multiplier, np.random.default_rng(11))
    return (start - weights).astype(np.float64) / training.learning_rate * 2


@pytest.mark.parametrize(("clip", "noise_multiplier"), [(0.1, 1.1), (3.0, 0.6)])
def test_noise_has_the_promised_deviation_and_no_other(clip: float, noise_multiplier: float) -> None:
    noise, promised = released_noise(clip, noise_multiplier), clip * noise_multiplier
    assert stats.kstest(noise, stats.norm(scale=promised).cdf).pvalue > 1e-3
    for wrong in (0.9 * promised, 1.1 * promised, promised / 2, promised * 2):
        assert stats.kstest(noise, stats.norm(scale=wrong).cdf).pvalue < 1e-6


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, 1e30])
def test_one_example_changes_a_step_by_the_clip_at_most(scale: float) -> None:
    """Neighbouring phones, every row in the one batch: what the row changes in the sum, whatever it holds."""
    inputs = DATA.inputs.copy()
    inputs[39] *= np.float32(scale)
    data, engine = Examples(inputs=inputs, labels=DATA.labels), Engine(CONTRACT)
    sums = [native_gradient_sum(engine, data, some_weights(), np.arange(count), 0.2) for count in (40, 39)]
    assert np.linalg.norm(sums[0] - sums[1]) <= 0.2 * (1 + 1e-12)


def silent(weights: Weights, rows: NDArray[np.int64], clip: float) -> Floats:
    """Gradients of zero."""
    return np.zeros(len(weights))


def test_pulls_that_need_no_data_are_added_after_the_noise() -> None:
    """Without rows drawn or noise, FedProx and weight decay alone move the weights."""
    training = replace(TRAINING, epochs=2, batch_size=33, momentum=0.0, weight_decay=0.1, proximal_mu=0.2)
    weights, start = some_weights(), some_weights().astype(np.float64)
    train_privately(weights, OWN, silent, training, 1.0, 0.0, np.random.default_rng(1))
    once = start - 0.3 * 0.1 * start
    twice = once - 0.3 * (0.1 * once + 0.2 * (once - start))
    np.testing.assert_allclose(weights, twice, rtol=1e-6)


def test_other_optimizers_are_refused() -> None:
    adam = replace(TRAINING, optimizer="adam")
    with pytest.raises(ValueError, match=r"training\.optimizer = adam: DP-SGD trains by sgd"):
        train_privately(some_weights(), OWN, torch_sum, adam, 1.0, 1.0, np.random.default_rng(1))
