"""Audits of whole runs: honest ones keep their promise, and ones with a fault are caught."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from fedsim import ConfigError, RunConfig, run
from fedsim.attacks.auditing import Audit
from fedsim.attacks.canaries import directions, evidence
from fedsim.auditing import Audited, audit, audited_cohort, gathered, judge, play, promise, with_audit, write_audit
from fedsim.federation import set_up, with_plan
from fedsim.privacy import clipping
from fedsim.simulation.attempts import clipped_sum
from fedsim.simulation.audited import CLIPS
from fedsim.simulation.engines import open_engine
from fedsim.simulation.private import Clipped, Train, stacked
from fedsim.updates import ClippedSum, Orders
from tests.runs.test_cli import fedsim
from tests.small import small_config, small_dataset, write_small_dataset

HONEST: dict[str, dict[str, Any]] = {
    "central": {"privacy": {}, "federation": {"cohort": 6}},
    "central, cyclic": {"privacy": {"sampling": "cyclic"}},
    "central, adaptive": {"privacy": {"clip_quantile": 0.5}, "federation": {"clients": 60, "cohort": 60}},
    "distributed": {"privacy": {"mechanism": "distributed", "sampling": "cyclic"}, "federation": {"rounds": 1}},
    "matrix": {"privacy": {"mechanism": "matrix"}, "federation": {"cohort": 4, "rounds": 6}},
}


def audited_config(folder: Path, privacy: dict[str, Any], **tables: Any) -> RunConfig:
    """12 phones, all of them in each of 3 rounds, the real LeNet-5; ``tables`` add to that."""
    federation = {"cohort": 12, **tables.pop("federation", {})}
    return small_config(folder, model={"name": "lenet5"}, privacy=privacy, federation=federation, **tables)


def prepared(config: RunConfig, count: int = 100) -> Audited:
    return with_audit(with_plan(set_up(config, small_dataset())), count)


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_run_is_audited_below_its_claim(tmp_path: Path, name: str) -> None:
    privacy = {**HONEST[name]["privacy"], "noise_multiplier": 1.0}
    config = audited_config(tmp_path, privacy, federation=HONEST[name].get("federation", {}))
    found = audit(config, dataset=small_dataset(), canaries=300)
    assert 3 < found.claimed_epsilon < 11
    assert not found.refuted
    assert found.bounds.one_run <= found.claimed_epsilon
    assert found.bounds.one_run_fdp > 0.5  # it has seen the canaries at all
    assert found.auc > 0.6


@pytest.mark.parametrize(("epsilon", "noise_multiplier"), [(2.0, 1e-3), (4.0, 0.0)])
def test_forgotten_noise_is_caught(tmp_path: Path, epsilon: float, noise_multiplier: float) -> None:
    claim = promise(prepared(audited_config(tmp_path, {"epsilon": epsilon, "sampling": "cyclic"})).plan)
    broken = audited_config(tmp_path, {"noise_multiplier": noise_multiplier, "sampling": "cyclic"})
    found = audit(broken, dataset=small_dataset(), canaries=300, claim=claim)
    assert found.refuted
    assert found.auc > 0.99


def unclipped(train: Train) -> Clipped:
    """A sum of whole updates."""
    return lambda orders, clip: stacked(train)(orders, 1e9)


def weighed(train: Train) -> Clipped:
    """A sum in which a phone counts by its examples, of which 40 are expected."""

    def clipped(orders: Orders, clip: float) -> ClippedSum:
        sent = train(orders)
        rows, norms = clipping.clip(sent.weights.astype(np.float64) - orders.weights, clip)
        return clipped_sum(sent, sent.examples / 40 @ rows, norms, orders)

    return clipped


def fortyfold(train: Train) -> Clipped:
    """A sum forty times too large for its noise."""

    def clipped(orders: Orders, clip: float) -> ClippedSum:
        found = stacked(train)(orders, clip)
        return replace(found, total=40 * found.total)

    return clipped


@pytest.mark.parametrize(
    ("summed", "refuted"), [(stacked, False), (unclipped, True), (weighed, True), (fortyfold, True)]
)
@pytest.mark.parametrize("epsilon", [2.0, 4.0])
def test_sums_that_the_noise_is_not_for_are_caught(
    tmp_path: Path, epsilon: float, summed: Callable[[Train], Clipped], refuted: bool
) -> None:
    """The fault is where an engine's would be: in what becomes of the models that phones have sent."""
    privacy = {"epsilon": epsilon, "sampling": "cyclic"}
    audited = prepared(audited_config(tmp_path, privacy, federation={"rounds": 1}), 300)
    with open_engine(audited.federation) as engine:
        releases = play(audited, *audited_cohort(audited, engine, summed))
    found = judge(audited, releases, promise(audited.plan))
    assert found.refuted == refuted
    assert (found.auc > 0.99) == refuted


def test_what_is_audited_is_what_a_run_releases(tmp_path: Path) -> None:
    """Where no canary is in and phones do not learn, all releases together are how far the model of the run moves."""
    config = audited_config(
        tmp_path / "run",
        {"mechanism": "matrix", "noise_multiplier": 1.0},
        federation={"cohort": 4},
        training={"learning_rate": 1e-30},
    )
    audited = prepared(config)
    nobody = replace(audited, canaries=replace(audited.canaries, included=np.zeros(100, np.bool_)))
    with open_engine(nobody.federation) as engine:
        releases = play(nobody, *audited_cohort(nobody, engine))
    moved = run(config, dataset=small_dataset()).weights - audited.federation.initial
    np.testing.assert_allclose(releases.sum(axis=0) / 4, moved, rtol=0, atol=1e-6)


def test_the_auditor_takes_off_what_phones_have_sent(tmp_path: Path) -> None:
    """Without noise and canaries nothing is left of a release but rounding, whichever way it was summed up."""
    for privacy in ({"clip_quantile": 0.5, "sampling": "poisson"}, {"sampling": "cyclic"}):
        config = audited_config(
            tmp_path, {"noise_multiplier": 0.0, **privacy}, federation={"clients": 60, "cohort": 40}
        )
        audited = prepared(config)
        nobody = replace(audited, canaries=replace(audited.canaries, included=np.zeros(100, np.bool_)))
        with open_engine(nobody.federation) as engine:
            releases = play(nobody, *audited_cohort(nobody, engine))
        assert np.abs(releases).max() < 1e-5


def test_equal_configs_give_equal_audits(tmp_path: Path) -> None:
    config = audited_config(tmp_path, {"mechanism": "matrix", "noise_multiplier": 1.0}, federation={"cohort": 4})
    one, two = (
        audit(
            config.model_copy(update={"speed": config.speed.model_copy(update={"workers": workers})}),
            dataset=small_dataset(),
            canaries=100,
        )
        for workers in (1, 2)
    )
    assert one == two


def test_correlated_noise_is_scored_by_the_ratio_of_densities() -> None:
    """Of C x + z, whose noise is independent: a client's turns are a column of C each, and share no round."""
    rng = np.random.default_rng(7)
    bands, turns, noise_multiplier = np.array([1.0, 0.6, 0.3]), np.zeros(12), 0.8
    turns[[1, 5, 9]] = 1
    matrix = sum(entry * np.eye(12, k=-lag) for lag, entry in enumerate(bands))
    releases = rng.standard_normal((12, 4)).astype(np.float32)
    seen, mean = matrix @ releases, matrix @ turns
    exact = norm.logpdf(seen, mean[:, None], noise_multiplier) - norm.logpdf(seen, 0, noise_multiplier)
    length = float(np.linalg.norm(bands))
    along = np.stack(list(gathered(bands, releases)), axis=1)
    scores = evidence(along, attendance=turns, noise_multiplier=noise_multiplier / length)
    np.testing.assert_allclose(scores, exact.sum(axis=0), rtol=1e-6)
    same = np.stack(list(gathered(np.ones(1), releases)))
    assert (same == releases).all()


def test_canaries_come_as_clients_do(tmp_path: Path) -> None:
    """At the turns of a client each: a quarter of those that are in a round, with a model that clipping cuts."""
    config = audited_config(tmp_path, {"noise_multiplier": 1.0, "sampling": "cyclic"}, federation={"clients": 48})
    audited = prepared(config, 480)
    canaries, initial = audited.canaries, audited.federation.initial
    assert audited.attendance.sum(axis=0).tolist() == [120, 120, 120]
    with open_engine(audited.federation) as engine:
        cohort, hear = audited_cohort(audited, engine)
        drawn = cohort.draw(1)
        phones, present = drawn[drawn < 48], drawn[drawn >= 48] - 48
        assert np.isin(present % 48, phones).all()
        assert canaries.included[present].all()
        asked = Orders(
            round=1,
            clients=np.append(phones[:1], present[:2] + 48),
            weights=initial,
            training=audited.federation.contract.training,
        )
        sent, of_models = cohort.train(asked), hear()
        found, of_sums = cohort.clipped(asked, 0.1), hear()
        models, sums = (engine.clipped(replace(asked, clients=phones[:1]), clip).total for clip in (canaries.clip, 0.1))
    own = directions(canaries, present[:2])
    np.testing.assert_allclose(sent.weights[1:] - initial, CLIPS * canaries.clip * own, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.total - sums, 0.1 * own.sum(axis=0), rtol=0, atol=1e-8)
    np.testing.assert_allclose(of_models, models, rtol=0, atol=1e-6)
    np.testing.assert_allclose(of_sums, sums, rtol=0, atol=1e-6)
    assert not hear().any()
    np.testing.assert_allclose(found.norms[1:], CLIPS * 0.1, rtol=1e-5)
    assert sent.clients.tolist() == found.clients.tolist() == asked.clients.tolist()


def test_room_for_canaries_is_paid_for(tmp_path: Path) -> None:
    config = audited_config(tmp_path, {"mechanism": "distributed", "noise_multiplier": 1.0})
    federation = with_plan(set_up(config, small_dataset()))
    plain, wider = federation.plan, with_audit(federation, 100).plan
    assert plain
    assert plain.encoding
    assert wider.encoding
    assert wider.encoding.cohort == plain.encoding.cohort + 100  # 12 of 12 clients in a round, and so all canaries
    assert plain.epsilon_by_round[-1] < wider.epsilon_by_round[-1] < 1.02 * plain.epsilon_by_round[-1]
    few = audited_config(tmp_path, {"mechanism": "distributed", "noise_multiplier": 1.0, "bits": 12})
    with pytest.raises(ConfigError, match=r"canaries = 1000: .* 12 bits are too few"):
        prepared(few, 1000)


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ({"mechanism": "none"}, r"privacy\.mechanism = none"),
        ({"mechanism": "local", "epsilon": 8.0}, r"privacy\.mechanism = local: .* allowed here: central"),
        ({"mechanism": "dp_sgd", "epsilon": 8.0}, r"privacy\.mechanism = dp_sgd"),
        ({"epsilon": 8.0, "sampling": "fixed"}, r"privacy\.sampling = fixed: .* allowed here: poisson or cyclic"),
        ({"noise_multiplier": 0}, r"privacy\.noise_multiplier = 0: promises nothing"),
    ],
)
def test_what_has_no_audit_is_refused_in_a_line(tmp_path: Path, privacy: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refusal:
        audit(audited_config(tmp_path, privacy), dataset=small_dataset())
    assert "\n" not in str(refusal.value)


def test_too_few_canaries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="canaries = 99: allowed are 100 or more"):
        audit(audited_config(tmp_path, {"epsilon": 8.0}), dataset=small_dataset(), canaries=99)


def test_the_command_writes_what_it_says(tmp_path: Path) -> None:
    write_small_dataset(tmp_path / "small.npz")
    words = "model.name=lenet5 privacy.noise_multiplier=1 privacy.sampling=cyclic"
    sizes = "federation.clients=12 federation.cohort=12 federation.rounds=1"
    settings = [f"data.source={tmp_path / 'small.npz'}", *words.split(), *sizes.split()]
    overrides = [word for setting in settings for word in ("--set", setting)]
    shown = fedsim("audit", *overrides, "--canaries", "100", "--output", str(tmp_path / "found"), "--json")
    assert shown.returncode == 0, shown.stderr
    told = json.loads(shown.stdout)
    assert told == json.loads((tmp_path / "found" / "audit.json").read_text())
    assert told["canaries"] == 100
    assert told["refuted"] is False
    assert told["command"].startswith("fedsim audit --set ")
    page = (tmp_path / "found" / "audit.html").read_text()
    assert "Claimed and audited" in page
    assert "--canaries 100" in page


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    config = audited_config(tmp_path, {"noise_multiplier": 1.0, "sampling": "cyclic"}, federation={"rounds": 1})
    found = audit(config, dataset=small_dataset(), canaries=100)
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="taken: cannot be written"):
        write_audit(tmp_path / "taken", found, config)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["poisson", "cyclic"])
def test_of_twenty_audits_at_most_two_exceed_the_claim(tmp_path: Path, sampling: str) -> None:
    """Each bound is wrong one time in twenty at the most: of twenty, more than two would be with 7 in 100."""

    def one(seed: int) -> Audit:
        privacy = {"epsilon": (1.0, 2.0, 4.0, 8.0)[seed % 4], "sampling": sampling}
        cohort = {"cohort": 6 if sampling == "poisson" else 12}
        config = audited_config(tmp_path, privacy, federation=cohort).model_copy(update={"seed": seed})
        return audit(config, dataset=small_dataset(), canaries=500)

    audits = [one(seed) for seed in range(20)]
    for bound in ("one_run_fdp", "one_run", "clopper_pearson"):
        assert sum(getattr(found.bounds, bound) > found.claimed_epsilon for found in audits) <= 2
    assert np.median([found.bounds.one_run_fdp / found.claimed_epsilon for found in audits]) > 0.1
