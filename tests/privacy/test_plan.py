"""Plans: what the accountant is told of a config, and that nobody is told less than is spent."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from fedsim.config import RunConfig, from_mapping
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.plan import Plan, noise_to_clip, plan
from fedsim.privacy.sampling import batches


def private_config(privacy: dict[str, Any], clients: int = 100, cohort: int = 20, rounds: int = 10) -> RunConfig:
    return from_mapping(
        {
            "federation": {"clients": clients, "cohort": cohort, "rounds": rounds},
            "training": {"epochs": 2, "batch_size": 20},
            "privacy": privacy,
        }
    )


def planned(privacy: dict[str, Any], **federation: int) -> Plan:
    config = private_config(privacy, **federation)
    found = plan(config, 1000, np.full(config.federation.clients, 60))
    assert found is not None
    return found


@pytest.mark.parametrize("noise_multiplier", [0.4, 2.0])
def test_what_dp_sgd_costs_is_said_of_the_worst_phone(noise_multiplier: float) -> None:
    """With little noise a phone of two batches pays more than one of a single batch, with much noise less."""
    config = private_config({"mechanism": "dp_sgd", "noise_multiplier": noise_multiplier}, clients=4, cohort=2)
    mixed, single, double = (plan(config, 1000, np.array(sizes)) for sizes in ([20, 40, 20, 40], [20] * 4, [40] * 4))
    assert mixed
    assert single
    assert double
    alone = [float(single.epsilon_by_round[-1]), float(double.epsilon_by_round[-1])]
    assert mixed.epsilon_by_round[-1] == max(alone)
    assert np.argmax(alone) == (1 if noise_multiplier < 1 else 0)


def test_dp_sgd_counts_the_steps_of_a_phones_turns() -> None:
    found = planned({"mechanism": "dp_sgd", "noise_multiplier": 1.0})
    assert batches(60, 20) == 3
    assert found.releases.rounds == 2 * 2 * 3  # turns, epochs, batches
    first, last = found.epsilon_by_round[[0, -1]]
    assert first < last
    assert found.epsilon_by_round.tolist() == [first] * 5 + [last] * 5


def test_local_noise_hides_which_of_any_two_updates_was_sent() -> None:
    local = planned({"mechanism": "local", "epsilon": 4.0})
    zeroed = planned({"mechanism": "central", "sampling": "cyclic", "epsilon": 4.0})
    assert local.noise_multiplier == pytest.approx(2 * zeroed.noise_multiplier, rel=1e-3)


def test_fixed_cohorts_spend_more_than_drawn_ones_at_the_same_noise() -> None:
    fixed, poisson = (planned({"sampling": sampling, "noise_multiplier": 2.0}) for sampling in ("fixed", "poisson"))
    assert fixed.epsilon_by_round[-1] > 2 * poisson.epsilon_by_round[-1]


def test_the_distributed_plan_meets_its_budget() -> None:
    found = planned({"mechanism": "distributed", "sampling": "cyclic", "epsilon": 4.0})
    assert found.epsilon_by_round[-1] == pytest.approx(4.0, rel=1e-3)
    assert found.epsilon_by_round[-1] <= 4.0
    assert found.encoding is not None
    assert found.encoding.variance == pytest.approx((found.noise_multiplier * found.encoding.l2) ** 2)


def test_a_round_that_may_be_empty_is_refused_where_phones_bring_the_noise() -> None:
    with pytest.raises(ValueError, match=r"federation\.cohort = 5: a round without phones"):
        planned({"mechanism": "distributed", "epsilon": 4.0}, cohort=5)


def test_a_budget_of_turns_is_cut_between_rounds() -> None:
    whole = planned({"noise_multiplier": 2.0, "sampling": "cyclic"}, rounds=40)
    cut = planned(
        {"noise_multiplier": 2.0, "sampling": "cyclic", "epsilon": float(whole.epsilon_by_round[11])}, rounds=40
    )
    assert cut.rounds >= 12
    assert cut.epsilon_by_round[-1] <= whole.epsilon_by_round[11]


CUT: dict[str, dict[str, Any]] = {
    "poisson": {"noise_multiplier": 1.0, "epsilon": 4.0},
    "fixed": {"sampling": "fixed", "noise_multiplier": 3.0, "epsilon": 6.0},
    "cyclic": {"sampling": "cyclic", "noise_multiplier": 2.0, "epsilon": 6.0},
    "local": {"mechanism": "local", "noise_multiplier": 4.0, "epsilon": 6.0},
    "distributed": {"mechanism": "distributed", "sampling": "cyclic", "noise_multiplier": 2.0, "epsilon": 6.0},
    "dp_sgd": {"mechanism": "dp_sgd", "noise_multiplier": 2.0, "epsilon": 8.0},
}


@pytest.mark.parametrize("name", CUT)
def test_a_plan_cut_by_its_budget_is_that_of_the_rounds_it_allows(name: str) -> None:
    """So what is told of it is what its rounds spend, and resuming with them goes on with the same noise."""
    cut = planned(CUT[name], rounds=200)
    assert cut.asked == 200
    assert 1 < cut.rounds < 200
    assert cut.epsilon_by_round[-1] == epsilon(cut.releases, cut.settings.delta)
    assert len(cut.epsilon_by_round) == cut.rounds
    again = planned(CUT[name], rounds=cut.rounds)
    np.testing.assert_equal(asdict(cut) | {"asked": cut.rounds}, asdict(again))
    without_budget = {key: value for key, value in CUT[name].items() if key != "epsilon"}
    longer = planned(without_budget, rounds=cut.rounds + 1)
    assert cut.epsilon_by_round[-1] <= CUT[name]["epsilon"] < longer.epsilon_by_round[-1]


def test_factorised_noise_allows_all_rounds_or_none() -> None:
    settings = {"mechanism": "matrix", "noise_multiplier": 2.0, "epsilon": 2.3}
    assert planned(settings, rounds=1).rounds == 1
    with pytest.raises(ValueError, match=r"epsilon = 2\.3: does not allow federation\.rounds = 20 at"):
        planned(settings, rounds=20)


def test_the_least_noise_that_does_for_all_phones_is_that_of_the_dearest() -> None:
    settings = {"mechanism": "dp_sgd", "epsilon": 3.0}
    config = private_config(settings, clients=4, cohort=2)
    mixed, *single = (plan(config, 1000, np.array(sizes)) for sizes in ([20, 60, 20, 60], [20] * 4, [60] * 4))
    assert mixed
    assert mixed.epsilon_by_round[-1] <= 3.0
    assert mixed.noise_multiplier == pytest.approx(max(one.noise_multiplier for one in single if one), rel=2e-4)


def test_what_dp_sgd_may_leak_is_less_than_an_example_of_a_phone() -> None:
    with pytest.raises(ValueError, match=r"privacy\.delta = 0\.02: must be less than 1 in the 60 examples of a phone"):
        planned({"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 0.02})


def test_noise_that_leaves_nothing_beside_an_adaptive_clips_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"it must be below 5, a tenth of the cohort"):
        planned({"noise_multiplier": 5.0, "clip_quantile": 0.5}, cohort=50)


def test_the_noise_of_a_rounds_mean_is_that_of_its_release() -> None:
    """An adaptive clip's updates get more than the multiplier, factorised noise is longer than what it is made of."""
    plain = planned({"noise_multiplier": 3.0}, cohort=50)
    adaptive = planned({"noise_multiplier": 3.0, "clip_quantile": 0.5}, cohort=50)
    assert plain.deviations.tolist() == [3.0] * 10
    assert noise_to_clip(plain) == pytest.approx(3 * np.sqrt(1000) / 50)
    assert adaptive.deviations == pytest.approx((3.0**-2 - 5.0**-2) ** -0.5)
    matrix = planned({"mechanism": "matrix", "noise_multiplier": 3.0})
    inverse = np.linalg.inv(
        np.sum([entry * np.eye(10, k=-lag) for lag, entry in enumerate(matrix.bands.tolist())], axis=0)
    )
    np.testing.assert_allclose(matrix.deviations, 3 * np.linalg.norm(inverse, axis=1))
    assert noise_to_clip(matrix) == pytest.approx(3 * np.linalg.norm(inverse) / np.sqrt(10) * np.sqrt(1000) / 20)
