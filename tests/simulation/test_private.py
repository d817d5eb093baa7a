"""A cohort that answers privately, on phones whose training is arithmetic: what one client can change in it."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedsim.config import RunConfig, from_mapping
from fedsim.federation import set_up, with_plan
from fedsim.privacy.plan import Plan, draw, participations, plan
from fedsim.simulation.engines import open_engine
from fedsim.simulation.grid import Phones
from fedsim.simulation.private import About, Cohort, cohort_of, first_state, private_phone, stacked
from fedsim.updates import ClippedSum, LocalTraining, Orders, Updates
from tests.simulation import arithmetic_phones
from tests.small import small_config, small_dataset

PARAMETERS = 500
TRAINING = LocalTraining(epochs=2, batch_size=10, optimizer="sgd", learning_rate=0.25)


def config_of(mechanism: str, **privacy: float | str) -> RunConfig:
    return from_mapping(
        {
            "federation": {"clients": 12, "cohort": 6, "rounds": 4},
            "training": {"epochs": 2, "batch_size": 10},
            "privacy": {"mechanism": mechanism, "noise_multiplier": 0.0, "clip": 0.5, "delta": 1e-3, **privacy},
        }
    )


def planned(mechanism: str, **privacy: float | str) -> Plan:
    found = plan(config_of(mechanism, **privacy), PARAMETERS, np.full(12, 30))
    assert found is not None
    return found


def answers(plan: Plan, phones: Phones, rounds: int = 1) -> tuple[list[NDArray[np.float32]], list[About]]:
    """What the phone that stands for the cohort answers in the first rounds, and what is noted of them."""
    noted: list[About] = []

    def note(orders: Orders, found: ClippedSum, about: About) -> None:
        noted.append({**about, "clients": found.clients.tolist(), "failures": len(found.failures)})

    cohort = Cohort(draw=partial(draw, plan), train=phones.train, clipped=stacked(phones.train))
    one = private_phone(plan, cohort, first_state(plan, []), note)
    models: list[NDArray[np.float32]] = []
    for number in range(1, rounds + 1):
        weights = np.zeros(plan.parameters, np.float32)
        orders = Orders(round=number, clients=np.array([0]), weights=weights, training=TRAINING)
        updates = one.train(orders)
        assert updates.examples.tolist() == [1]  # no count of phones or examples leaves
        assert not updates.metrics
        models.append(updates.weights[0])
    return models, noted


def without(phones: Phones, client: int) -> Phones:
    """The same phones, of which one sends what it was sent: an update of zeros."""

    def train(orders: Orders) -> Updates:
        updates = phones.train(orders)
        weights = updates.weights.copy()
        weights[updates.clients == client] = orders.weights
        return replace(updates, weights=weights)

    return replace(phones, train=train)


def shouting(phones: Phones, client: int, factor: float) -> Phones:
    """The same phones, of which one sends an update many times as long."""

    def train(orders: Orders) -> Updates:
        updates = phones.train(orders)
        weights = updates.weights.copy()
        weights[updates.clients == client] *= np.float32(factor)
        return replace(updates, weights=weights)

    return replace(phones, train=train)


@pytest.mark.parametrize("sampling", ["poisson", "fixed", "cyclic"])
@given(client=st.integers(0, 11), factor=st.sampled_from([0.0, 1.0, 1e3, 1e30]))
def test_one_client_moves_the_answer_by_a_clip_over_the_expected_cohort(
    sampling: str, client: int, factor: float
) -> None:
    honest = arithmetic_phones(12)
    plan = planned("central", sampling=sampling)
    (with_it,), _ = answers(plan, shouting(honest, client, factor))
    (without_it,), _ = answers(plan, without(honest, client))
    assert np.linalg.norm(with_it - without_it) <= 0.5 / 6 * (1 + 1e-5)


def test_dropouts_are_zeros_and_the_divisor_stays() -> None:
    everybody, some = arithmetic_phones(12), arithmetic_phones(12, lambda kind, number, client: client % 2 == 0)
    plan = planned("central", sampling="cyclic")
    zeros = everybody
    for client in range(0, 12, 2):
        zeros = without(zeros, client)
    (dropped,), (noted,) = answers(plan, some)
    (zeroed,), _ = answers(plan, zeros)
    np.testing.assert_allclose(dropped, zeroed, atol=1e-7)
    assert noted["failures"] == sum(client % 2 == 0 for client in draw(plan, 1).tolist())


def test_a_sum_with_a_share_of_noise_missing_is_not_opened() -> None:
    plan = planned("distributed", sampling="cyclic", noise_multiplier=0.5)
    silent = int(draw(plan, 1)[0])
    (model,), (noted,) = answers(plan, arithmetic_phones(12, lambda kind, number, client: client == silent))
    assert noted["opened"] is False
    assert not model.any()
    (model,), (noted,) = answers(plan, arithmetic_phones(12))
    assert noted["opened"] is True
    assert model.any()


def test_distributed_sums_are_the_central_ones_up_to_rounding() -> None:
    (central,), _ = answers(planned("central", sampling="cyclic"), arithmetic_phones(12))
    (opened,), _ = answers(planned("distributed", sampling="cyclic"), arithmetic_phones(12))
    assert np.linalg.norm(central - opened) < 0.02 * np.linalg.norm(central)


def test_a_phone_takes_part_as_often_as_its_cap_and_no_more() -> None:
    capped = planned("central", sampling="cyclic")
    _, noted = answers(capped, arithmetic_phones(12), rounds=4)
    times = np.bincount([client for about in noted for client in about["clients"]], minlength=12)
    assert times.max() == participations(capped) == 2


@pytest.mark.parametrize("start", [0.2, 20.0])
def test_a_clip_that_is_too_long_or_too_short_goes_to_the_quantile(start: float) -> None:
    config = from_mapping(
        {
            "federation": {"clients": 400, "cohort": 200, "rounds": 40},
            "privacy": {"noise_multiplier": 0.5, "clip": start, "clip_quantile": 0.5, "delta": 1e-4},
        }
    )
    adaptive = plan(config, 20, np.full(400, 30))
    assert adaptive is not None
    _, noted = answers(adaptive, arithmetic_phones(400), rounds=40)
    assert np.mean([about["unclipped"] for about in noted[-5:]]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("aggregation", "asked"), [("streamed", [32, 8]), ("stacked", [40])])
def test_phones_whose_updates_are_stacked_are_asked_all_at_once(
    tmp_path: Path, aggregation: str, asked: list[int]
) -> None:
    """So those that collude know one another, and real ones do not wait for one another."""
    federation = with_plan(
        set_up(
            small_config(
                tmp_path / "run",
                federation={"clients": 40, "cohort": 40, "rounds": 1},
                privacy={"mechanism": "local", "noise_multiplier": 1.0, "delta": 1e-3},
                speed={"aggregation": aggregation},
            ),
            small_dataset(),
        )
    )
    private, phones, sizes = federation.plan, arithmetic_phones(40), list[int]()
    assert private

    def train(orders: Orders) -> Updates:
        sizes.append(len(orders.clients))
        return phones.train(orders)

    with open_engine(federation) as engine:
        cohort = cohort_of(federation, engine, partial(draw, private), train)
        one = private_phone(private, cohort, first_state(private, []), lambda *_: None)
        one.train(Orders(round=1, clients=np.array([0]), weights=federation.initial, training=TRAINING))
    assert sizes == asked
