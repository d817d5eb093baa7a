"""The scores themselves, against torch, scipy and loops that do what the papers say, example by example."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit

from fedsim.attacks.membership import (
    OFFLINE_A,
    confidence,
    lira_offline,
    lira_online,
    loss_threshold,
    rmia,
    turns,
)
from fedsim.attacks.roc import figures
from fedsim.attacks.shadows import random_halves

MODELS, EXAMPLES = 8, 40


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Target, shadows and members of examples that differ in how hard they are and in how much they are learnt."""
    draw = np.random.default_rng(1)
    members = random_halves(MODELS, EXAMPLES, draw)
    hard, learnt = draw.normal(0, 3, EXAMPLES), draw.exponential(2, EXAMPLES)
    shadows = hard + learnt * members + draw.normal(0, 1, members.shape)
    return hard + draw.normal(0, 1, EXAMPLES), shadows, members


def test_confidence_and_loss_are_those_of_torch() -> None:
    draw = np.random.default_rng(2)
    logits, labels = draw.normal(0, 4, (3, 50, 7)).astype(np.float32), draw.integers(0, 7, 50)
    found = confidence(logits, labels)
    for row, scores in zip(found, torch.from_numpy(logits).double(), strict=True):
        losses = torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels), reduction="none")
        chances = torch.exp(-losses).numpy()
        np.testing.assert_allclose(loss_threshold(row), -losses.numpy(), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(row, np.log(chances / (1 - chances)), rtol=1e-6)


def test_confidence_tells_apart_what_probabilities_cannot() -> None:
    logits = np.array([[40.0, 0.0, 0.0], [80.0, 0.0, 0.0]], np.float32)
    found = confidence(logits, np.zeros(2, np.int64))
    np.testing.assert_allclose(found, [40 - np.log(2), 80 - np.log(2)])
    assert expit(found[0]) == expit(found[1]) == 1


def test_lira_is_the_papers_example_by_example(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    target, shadows, members = drawn
    online = lira_online(target, shadows, members, pooled=False)
    offline = lira_offline(target, shadows, members, pooled=False)
    for example in range(EXAMPLES):
        seen, unseen = (shadows[chosen[:, example], example] for chosen in (members, ~members))
        ratio = stats.norm(seen.mean(), seen.std(ddof=1)).logpdf(target[example])
        ratio -= stats.norm(unseen.mean(), unseen.std(ddof=1)).logpdf(target[example])
        assert online[example] == pytest.approx(ratio)
        chance = stats.norm(unseen.mean(), unseen.std(ddof=1)).cdf(target[example])
        assert stats.norm.cdf(offline[example]) == pytest.approx(chance)


def test_pooled_variances_are_the_mean_of_all_examples(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    target, shadows, members = drawn
    columns = [shadows[~members[:, example], example] for example in range(EXAMPLES)]
    variance = np.mean([column.var(ddof=1) for column in columns])  # as many models each, so a plain mean
    expected = (target - [column.mean() for column in columns]) / np.sqrt(variance)
    np.testing.assert_allclose(lira_offline(target, shadows, members), expected)


def test_offline_attacks_do_not_look_at_models_that_saw_the_example(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    target, shadows, members = drawn
    other = np.where(members, 1e3, shadows)
    drawn_target, drawn_shadows = np.linspace(-2, 2, 9), np.zeros((MODELS, 9))
    np.testing.assert_array_equal(lira_offline(target, shadows, members), lira_offline(target, other, members))
    found = [rmia(target, given, members, drawn_target, drawn_shadows, online=False) for given in (shadows, other)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_rmia_is_the_papers_pair_by_pair(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray], online: bool, gamma: float
) -> None:
    target, shadows, members = drawn
    draw = np.random.default_rng(3)
    population, population_shadows = draw.normal(0, 3, 25), draw.normal(0, 3, (MODELS, 25))
    found = rmia(target, shadows, members, population, population_shadows, online=online, gamma=gamma)
    for x in range(EXAMPLES):
        unseen = expit(shadows[~members[:, x], x]).mean()
        seen = expit(shadows[members[:, x], x]).mean() if online else OFFLINE_A * unseen + 1 - OFFLINE_A
        ratio = expit(target[x]) / ((seen + unseen) / 2)
        beaten = 0
        for z in range(25):
            mean = expit(population_shadows[:, z]).mean()
            beaten += ratio / (expit(population[z]) / ((mean + OFFLINE_A * mean + 1 - OFFLINE_A) / 2)) >= gamma
        assert found[x] == beaten / 25


def test_with_gaussian_confidences_lira_reaches_what_no_attack_exceeds() -> None:
    """Shifted by one deviation where seen, the likelihood ratio's area is ``Phi(1 / sqrt(2))``: Neyman and Pearson."""
    draw, models, examples = np.random.default_rng(4), 200, 4000
    members, truth = random_halves(models, examples, draw), draw.random(examples) < 0.5
    hard = draw.normal(0, 5, examples)
    shadows = hard + members + draw.normal(0, 1, members.shape)
    target = hard + truth + draw.normal(0, 1, examples)
    low, high = figures(lira_online(target, shadows, members), truth).area_interval
    assert low < stats.norm.cdf(1 / np.sqrt(2)) < high
    assert figures(loss_threshold(target), truth).area < 0.6  # which does not know who is hard


def test_too_few_shadow_models_are_refused() -> None:
    target, shadows = np.zeros(3), np.zeros((2, 3))
    one_each = np.array([[True] * 3, [False] * 3])
    with pytest.raises(ValueError, match="a variance needs two shadow models"):
        lira_online(target, shadows, one_each)
    with pytest.raises(ValueError, match="every example needs a shadow model that saw it"):
        rmia(target, shadows, ~np.zeros((2, 3), np.bool_), target, shadows)


def test_everyone_is_the_victim_once() -> None:
    assert [(victim, others.tolist()) for victim, others in turns(3)] == [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])]
