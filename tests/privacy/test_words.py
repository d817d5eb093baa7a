"""What people are told of a plan is what the plan says."""

import math
import re
from functools import cache
from typing import Any

import numpy as np
import pytest

from fedsim.config import from_mapping
from fedsim.privacy.accounting import epsilon, projected_epsilon
from fedsim.privacy.plan import Plan, plan
from fedsim.privacy.words import NOT_COVERED, Explanation, explain, projection, promise, statement

PARAMETERS = 61_706
TRAINING = {"epochs": 1, "batch_size": 20, "optimizer": "sgd"}
WAYS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "central, poisson": (
        {}, "add or remove one client", "as if that client had not been there", "privacy loss distributions (dp-acc",
    ),
    "central, fixed": (
        {"sampling": "fixed"}, "replace one client by another", "as if another client had been in its place",
        "Renyi divergences, or the exact curve without amplification, whichever is less (dp-acc",
    ),
    "central, cyclic": (
        {"sampling": "cyclic"}, "leave out what one client contributes",
        "as if that client had contributed nothing in its turns", "the exact curve of Gaussian noise (dp-acc",
    ),
    "local": (
        {"mechanism": "local"}, "replace one client's updates by any others",
        "as if that client had sent any other updates",
        "the exact curve of Gaussian noise (dp-acc",
    ),
    "distributed, poisson": (
        {"mechanism": "distributed"}, "add or remove one client", "as if that client had not been there",
        "Renyi divergences of Skellam noise",
    ),
    "distributed, cyclic": (
        {"mechanism": "distributed", "sampling": "cyclic"}, "leave out what one client contributes",
        "as if that client had contributed nothing in its turns", "Renyi divergences of Skellam noise",
    ),
    "matrix": (
        {"mechanism": "matrix"}, "leave out what one client contributes",
        "as if that client had contributed nothing in its turns", "the exact curve of Gaussian noise (dp-acc",
    ),
    "dp_sgd": (
        {"mechanism": "dp_sgd"}, "replace one example's gradients by zeros",
        "as if that example's gradients had been zeros",
        "privacy loss distributions (dp-acc",
    ),
}  # fmt: skip


def planned(privacy: dict[str, Any], *, clients: int = 200, cohort: int = 50, rounds: int = 12) -> Plan:
    size = {"clients": clients, "cohort": cohort, "rounds": rounds}
    config = from_mapping({"federation": size, "training": TRAINING, "privacy": {"noise_multiplier": 1.5} | privacy})
    found = plan(config, PARAMETERS, np.full(clients, 60))
    assert found is not None
    return found


@cache
def plan_of(way: str) -> Plan:
    return planned(WAYS[way][0])


def text(said: Explanation) -> str:
    return "\n".join(said.paragraphs)


@pytest.mark.parametrize("way", WAYS)
def test_a_promise_is_the_plans(way: str) -> None:
    _, adjacency, otherwise, accountant = WAYS[way]
    private = plan_of(way)
    said, spent = explain(private), float(private.epsilon_by_round[-1])
    assert spent == epsilon(private.releases, 1e-5)
    unit = "one example of one phone" if way == "dp_sgd" else "one client, with all its examples"
    assert said.promise == f"Promised: epsilon {spent:.4g} at delta 1e-05 for {unit}."
    assert f"{otherwise}, but for a chance of 1e-05 ({adjacency})" in text(said)
    assert f"Counted over 12 rounds by {accountant}" in text(said)
    factor = re.search(r"at most (\S+) times as likely", text(said))
    assert factor
    power, number = factor[1].startswith("e^"), float(factor[1].removeprefix("e^").replace(",", ""))
    assert number == pytest.approx(spent if power else math.exp(spent), rel=6e-3)
    assert said.not_covered == NOT_COVERED
    assert "whoever knows the seed" in said.paragraphs[-1]


@pytest.mark.parametrize("way", WAYS)
def test_who_takes_part_is_a_condition_or_a_cap(way: str) -> None:
    private = plan_of(way)
    told = next(paragraph for paragraph in explain(private).paragraphs if paragraph.startswith("Who takes part: "))
    assert statement(private)["sampling"] in told
    if private.settings.sampling == "cyclic":
        assert "No client takes part in more than 3 rounds, at least 4 rounds apart; who does, and when" in told
    else:
        assert told.endswith("it holds only against those who do not learn which clients were drawn.")
    once = explain(planned({"sampling": "cyclic"}, rounds=4))
    assert "in more than 1 round; who does" in text(once)


@pytest.mark.parametrize("way", WAYS)
def test_trust_is_asked_for_where_it_is_needed(way: str) -> None:
    said = text(explain(plan_of(way)))
    assert ("it must be trusted with them" in said) == way.startswith(("central", "matrix"))
    assert ("Nobody else need be trusted" in said) == (way in ("local", "dp_sgd"))
    assert ("secure aggregation" in said) == way.startswith("distributed")


@pytest.mark.parametrize("way", WAYS)
def test_what_is_hypothetical_is_marked(way: str) -> None:
    private = plan_of(way)
    found = projection(private)
    marked = [paragraph for paragraph in explain(private).paragraphs if paragraph.startswith("Hypothetical: ")]
    assert (found is not None) == bool(marked) == way.startswith("central")
    if found:
        epsilon_there = projected_epsilon(private.releases, 1e-7, population=1_000_000, cohort=10_000)
        assert found == {"epsilon": epsilon_there, "delta": 1e-7, "clients": 1_000_000, "cohort": 10_000}
        assert f"would spend epsilon {epsilon_there:.3g} at delta 1e-07" in marked[0]
        assert marked[0].endswith("This says nothing of the clients that train here.")


def test_noise_is_told_in_clips() -> None:
    private = planned({"sampling": "cyclic"})
    ratio = 1.5 * math.sqrt(PARAMETERS) / 50
    assert f"noise {ratio:.3g} times as long as the clip" in text(explain(private))
    assert "a round is mostly noise" in text(explain(private))
    assert "a round is mostly signal" in text(explain(planned({"sampling": "cyclic", "noise_multiplier": 0.1})))
    assert "noise of 1.5 times the clip, divided by the batch" in text(explain(planned({"mechanism": "dp_sgd"})))


def test_an_adaptive_clip_is_told() -> None:
    said = text(explain(planned({"sampling": "cyclic", "clip_quantile": 0.4, "clip": 3.0})))
    assert "The clip begins at 3 and follows the updates until 40% of them are within it" in said


def test_small_federations_are_told_so() -> None:
    few = {"clients": 20, "cohort": 10, "rounds": 4}
    central, local = planned({"sampling": "cyclic"}, **few), planned({"mechanism": "local"}, **few)
    assert "Few clients: what hides one of 20" in text(explain(central))
    assert "look at the hypothetical epsilon below" in text(explain(central))
    assert "Few clients" in text(explain(local))
    assert "hypothetical" not in text(explain(local))
    assert "Few clients" not in text(explain(planned({"sampling": "cyclic"}, clients=21, cohort=10)))
    assert "Few clients" not in text(explain(planned({"mechanism": "dp_sgd"}, **few)))


def test_a_budget_that_stops_the_run_is_told() -> None:
    private = planned({"sampling": "cyclic", "epsilon": 5.0})
    assert private.rounds < 12
    assert f"The budget of epsilon 5 is spent after {private.rounds} of the 12 rounds asked" in text(explain(private))
    assert "budget" not in text(explain(planned({"sampling": "cyclic"})))


def test_without_noise_nothing_is_promised() -> None:
    private = planned({"noise_multiplier": 0})
    said = explain(private)
    assert said.promise.startswith("No privacy is promised")
    assert not said.paragraphs
    assert not said.not_covered
    assert promise(statement(private)) == "none promised: no noise"


def test_a_promise_in_a_line_has_what_it_means_nothing_without() -> None:
    private = planned({"sampling": "cyclic"})
    assert promise(statement(private)) == (
        f"epsilon {private.epsilon_by_round[-1]:.4g} at delta 1e-05; leave out what one client contributes; "
        "clients in turns, 50 of 200 a round; no amplification is claimed"
    )


def test_a_model_whose_own_optimizer_is_not_sgd_is_refused() -> None:
    config = from_mapping({"privacy": {"mechanism": "dp_sgd", "noise_multiplier": 1.0}})
    own = config.training.model_copy(update=TRAINING | {"optimizer": "adam"})
    with pytest.raises(ValueError, match=r"^training\.optimizer = adam, the model's own: DP-SGD is SGD; allowed"):
        plan(config.model_copy(update={"training": own}), PARAMETERS, np.full(100, 60))
