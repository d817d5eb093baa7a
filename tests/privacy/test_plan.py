"""Plans: what the accountant is told of a config, and that nobody is told less than is spent."""

from typing import Any

import numpy as np
import pytest

from fedsim.config import RunConfig, from_mapping
from fedsim.privacy.plan import Plan, plan
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
