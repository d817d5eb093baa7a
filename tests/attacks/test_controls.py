"""Controls: attacks that must succeed where models learn by heart, and must not where there is nothing to find."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedsim.attacks.membership import Scores, lira_offline, lira_online, loss_threshold, rmia
from fedsim.attacks.roc import Figures
from fedsim.coreml.contract import read_contract
from fedsim.models.lenet import lenet_contract
from tests.attacks.overfit import BY_HEART, Overfit, each_in_turn, overfit, small_network

Attack = Callable[[int, NDArray[np.int64]], Scores]


def attacks(victims: Overfit, shadows: Overfit) -> dict[str, Attack]:
    """Every attack on models of ``victims`` by means of the others' places among ``shadows``."""
    target, drawn = victims.confidences, victims.population
    asked, seen, population = shadows.confidences, shadows.members, shadows.population
    return {
        "lira online": lambda victim, others: lira_online(target[victim], asked[others], seen[others]),
        "lira offline": lambda victim, others: lira_offline(target[victim], asked[others], seen[others]),
        "rmia": lambda victim, others: rmia(
            target[victim], asked[others], seen[others], drawn[victim], population[others]
        ),
        "loss": lambda victim, _: loss_threshold(target[victim]),
    }


def measured(found: Overfit) -> dict[str, Figures]:
    return {name: each_in_turn(found, attack) for name, attack in attacks(found, found).items()}


def rate(found: Figures, level: float) -> float:
    return next(quoted.rate for quoted in found.quoted if quoted.level == level) or 0.0


def test_attacks_find_what_was_learnt_by_heart(learnt_by_heart: Overfit) -> None:
    found = measured(learnt_by_heart)
    assert found["loss"].area_interval[0] > 0.65
    assert found["lira online"].area > 0.8
    assert found["lira online"].area_interval[0] > found["rmia"].area_interval[1]
    for name in ("lira online", "lira offline", "rmia"):
        assert found[name].area_interval[0] > found["loss"].area_interval[1], name
        assert rate(found[name], 0.01) > 0.12 > 3 * rate(found["loss"], 0.01), name


@pytest.mark.parametrize("name", ["lira online", "lira offline", "rmia", "loss"])
def test_who_is_a_member_by_lot_is_not_to_be_found(learnt_by_heart: Overfit, name: str) -> None:
    """The lots are drawn anew for every victim, so its scores and the truth have nothing to do with each other."""
    lots = np.random.default_rng(5).random(learnt_by_heart.members.shape) < 0.5
    low, high = each_in_turn(learnt_by_heart, attacks(learnt_by_heart, learnt_by_heart)[name], lots).area_interval
    assert low < 0.5 < high


def test_models_of_other_data_say_nothing_about_these(learnt_by_heart: Overfit) -> None:
    """Victims that saw 300 other digits: whoever is a member of the shadows is no more likely to be one of theirs."""
    elsewhere = overfit(small_network(), models=16, examples=300, first=300)
    for name, attack in attacks(elsewhere, learnt_by_heart).items():
        low, high = each_in_turn(learnt_by_heart, attack).area_interval
        assert low < 0.5 < high, name


@pytest.mark.slow
def test_lira_on_the_seeds_lenet() -> None:
    """24 LeNets, each on a random half of 600 digits, 60 epochs."""
    found = measured(overfit(read_contract(lenet_contract(BY_HEART)), models=24, examples=600))
    assert found["lira online"].area >= 0.65
    assert rate(found["lira online"], 0.01) >= 0.04
    assert found["loss"].area_interval[0] > 0.5
    for name in ("lira offline", "rmia"):
        assert found[name].area_interval[0] > found["loss"].area_interval[1], name
