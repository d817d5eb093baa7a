"""Stock strategies from a config: the right ones, exact cohorts, and resuming that equals running through."""

import gc
import inspect
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from hypothesis import example, given
from hypothesis import strategies as st

from fedsim import robust_strategies
from fedsim.config import RunConfig, from_mapping
from fedsim.messages import WEIGHTS, model_record, training_record
from fedsim.results import Checkpoint, read_checkpoint, write_checkpoint
from fedsim.seeds import generator
from fedsim.simulation.grid import FederationGrid
from fedsim.strategies import ResumableStrategy, Scalar, build_strategy, exact_arrays, restore, state
from fedsim.strategy_settings import STRATEGY_NAMES
from fedsim.updates import LocalTraining
from tests.simulation import Kind, arithmetic_phones

CLIENTS, COHORT, ROUNDS = 12, 8, 6
LEARNING_RATE = 0.25
INITIAL = generator(0, "initial").standard_normal(50, np.float32)
TRAINING = LocalTraining(epochs=1, batch_size=10, optimizer="sgd", learning_rate=LEARNING_RATE)

SETTINGS: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "FedAvgM": {"server_learning_rate": 0.9, "server_momentum": 0.8},
    "FedProx": {"proximal_mu": 0.3},
    "FedAdam": {"eta": 0.2, "eta_l": 0.3, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.01},
    "FedYogi": {"eta": 0.2, "eta_l": 0.3, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.01},
    "FedAdagrad": {"eta": 0.2, "eta_l": 0.3, "tau": 0.01},
    "QFedAvg": {"q": 0.3, "client_learning_rate": 0.5},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.3},
    "Krum": {"num_malicious_nodes": 2},
    "MultiKrum": {"num_malicious_nodes": 2, "num_nodes_to_select": 3},
    "Bulyan": {"num_malicious_nodes": 1},
    "NormClip": {"clip": 2.0},
    "GeometricMedian": {"smoothing": 1e-4, "iterations": 5},
    "CentredClipping": {"radius": 2.0, "iterations": 2},
}
ADAPTIVE = {"dict:current_arrays:weights", "dict:m_t:weights", "dict:v_t:weights"}
CARRIED = {
    "FedAvgM": {"record:current_arrays:weights", "list:momentum_vector:0"},
    "FedAdam": ADAPTIVE,
    "FedYogi": ADAPTIVE,
    "FedAdagrad": ADAPTIVE,
    "CentredClipping": {"list:centre:0"},
}
"""What each strategy takes from one round into the next."""


def config_of(name: str, clients: int = CLIENTS, cohort: int = COHORT, **settings: Any) -> RunConfig:
    federation = {"clients": clients, "cohort": cohort}
    return from_mapping({"federation": federation, "strategy": {"name": name, **settings}})


def configured(name: str) -> Strategy:
    return build_strategy(config_of(name, **SETTINGS[name]), LEARNING_RATE)


def fails(kind: Kind, number: int, client: int) -> bool:
    """One phone of round 2's cohort, and all of round 3's."""
    return (number == 2 and client == 5) or number == 3


def play(
    strategy: Strategy,
    *,
    rounds: int = ROUNDS,
    first_round: int = 1,
    model: ArrayRecord | None = None,
    on_model: Callable[[int, ArrayRecord], None] = lambda number, record: None,
) -> list[bytes]:
    """Rounds ``first_round`` to ``rounds`` as the run plays them; the model before the first and after each."""
    models: list[bytes] = []

    def keep(number: int, record: ArrayRecord) -> None:
        models.append(record[WEIGHTS].data)
        on_model(first_round - 1 + number, record)

    ResumableStrategy(strategy, seed=0, first_round=first_round, on_replies=lambda *seen: None).start(
        FederationGrid(arithmetic_phones(CLIENTS, fails)),
        model if model is not None else model_record(INITIAL.copy()),
        num_rounds=rounds - first_round + 1,
        train_config=training_record(TRAINING),
        evaluate_fn=keep,
    )
    return models


def bits(read: tuple[dict[str, Any], dict[str, Scalar]]) -> tuple[dict[str, bytes], dict[str, Scalar]]:
    """A strategy's state in a form that ``==`` compares to the last bit, dtype and shape included."""
    arrays, scalars = read
    return {key: Array(array).data for key, array in arrays.items()}, scalars


@pytest.fixture(scope="module", autouse=True)
def short_collections() -> Iterator[None]:
    """QFedAvg and Bulyan have Flower collect garbage once a reply: without the whole test run's heap, that is quick."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_a_config_becomes_flowers_own_class_with_its_settings(name: str) -> None:
    strategy = configured(name)
    assert type(strategy) is getattr(flower, name, None) or getattr(robust_strategies, name)
    assert {key: getattr(strategy, key) for key in SETTINGS[name]} == SETTINGS[name]


@pytest.mark.parametrize("name", ["FedAdam", "FedYogi", "FedAdagrad"])
def test_the_adaptive_strategies_have_flowers_defaults(name: str) -> None:
    ours = config_of(name).strategy.model_dump(exclude={"name"})
    flowers = inspect.signature(getattr(flower, name)).parameters
    assert ours == {key: flowers[key].default for key in ours}


@pytest.mark.parametrize(("given_rate", "used"), [(None, LEARNING_RATE), (0.5, 0.5)])
def test_qfedavg_knows_the_phones_learning_rate(given_rate: float | None, used: float) -> None:
    strategy = build_strategy(config_of("QFedAvg", client_learning_rate=given_rate), LEARNING_RATE)
    assert vars(strategy)["client_learning_rate"] == used


@st.composite
def federations(draw: st.DrawFn) -> tuple[str, int, int]:
    """A strategy, a number of clients and a cohort that the config allows."""
    name = draw(st.sampled_from(STRATEGY_NAMES))
    fewest = 3 if name in ("Krum", "MultiKrum", "Bulyan") else 1
    clients = draw(st.integers(fewest, 120))
    return name, clients, draw(st.integers(fewest, clients))


@given(federations(), st.integers(0, 2**32), st.integers(1, 1000))
@example(("FedAvg", 100, 29), 0, 1)  # 29 / 100 * 100 is less than 29
@example(("FedAvg", 1, 1), 0, 1)
def test_exactly_the_cohort_is_drawn(federation: tuple[str, int, int], seed: int, number: int) -> None:
    name, clients, cohort = federation
    grid = FederationGrid(arithmetic_phones(clients))
    drawn = cohort_of(build_strategy(config_of(name, clients, cohort), LEARNING_RATE), grid, seed, number)
    assert len(drawn) == len(set(drawn)) == cohort
    assert set(drawn) <= set(range(clients))


def cohort_of(strategy: Strategy, grid: FederationGrid, seed: int, number: int) -> list[int]:
    """The clients that train in one round, without playing it."""
    resumable = ResumableStrategy(strategy, seed=seed, first_round=number, on_replies=lambda *seen: None)
    messages = resumable.configure_train(1, model_record(INITIAL), ConfigRecord(), grid)
    return [grid.client_of(message.metadata.dst_node_id) for message in messages]


def test_a_cohort_follows_from_seed_and_round_alone() -> None:
    grid, strategy = FederationGrid(arithmetic_phones(100)), build_strategy(config_of("FedAvg", 100, 10), LEARNING_RATE)
    first = {(seed, number): cohort_of(strategy, grid, seed, number) for seed in range(3) for number in range(1, 6)}
    other = build_strategy(config_of("FedMedian", 100, 10), LEARNING_RATE)
    for (seed, number), cohort in reversed(first.items()):
        random.seed(seed + 10 * number)
        before = random.getstate()
        assert cohort_of(other, grid, seed, number) == cohort
        assert random.getstate() == before
    assert len({tuple(cohort) for cohort in first.values()}) == len(first)
    assert first[0, 1] == [80, 79, 71, 43, 32, 63, 34, 77, 46, 67]


def test_rounds_are_numbered_on_and_seen_before_they_are_aggregated() -> None:
    seen: list[tuple[int, str, int, int, int]] = []

    def watch(number: int, phase: str, messages: list[Message], replies: list[Message]) -> None:
        seen.append((number, phase, len(messages), len(replies), sum(reply.has_error() for reply in replies)))

    grid = FederationGrid(arithmetic_phones(CLIENTS, fails))
    strategy = ResumableStrategy(configured("FedAvg"), seed=0, first_round=3, on_replies=watch)
    result = strategy.start(grid, model_record(INITIAL.copy()), num_rounds=2, train_config=training_record(TRAINING))
    assert seen == [
        (3, "train", COHORT, COHORT, COHORT),
        (3, "evaluate", 0, 0, 0),
        (4, "train", COHORT, COHORT, 0),
        (4, "evaluate", 0, 0, 0),
    ]
    assert list(result.train_metrics_clientapp) == [2]


def test_on_replies_may_stop_the_run_before_the_replies_count() -> None:
    def stop(number: int, phase: str, messages: list[Message], replies: list[Message]) -> None:
        raise RuntimeError("a phone failed")

    adam, grid = configured("FedAdam"), FederationGrid(arithmetic_phones(CLIENTS))
    strategy = ResumableStrategy(adam, seed=0, on_replies=stop)
    with pytest.raises(RuntimeError, match="a phone failed"):
        strategy.start(grid, model_record(INITIAL), num_rounds=1, train_config=training_record(TRAINING))
    assert "dict:m_t:weights" not in state(adam)[0]


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_state_is_what_is_carried_and_restore_puts_it_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    strategy, fresh = configured(name), configured(name)
    play(strategy, rounds=4)
    arrays, scalars = state(strategy)
    assert set(arrays) == CARRIED.get(name, set())
    write_checkpoint(tmp_path, Checkpoint(round=4, model={}, arrays=arrays, scalars=scalars))
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint is not None
    restore(fresh, checkpoint.arrays, checkpoint.scalars)
    assert bits(state(fresh)) == bits((arrays, scalars))


def test_scalars_and_long_lists_come_back_as_they_were(tmp_path: Path) -> None:
    """What a strategy of one's own may carry beside the stock ones' moments: each value in its own type and place."""
    carried = {"rounds": 3, "rate": 0.1 + 0.2, "warm": True, "phase": "late"}
    moments = [np.full(2, index, np.float64) for index in range(12)]
    strategy, fresh = configured("FedAvg"), configured("FedAvg")
    vars(strategy).update(carried, moments=moments)
    arrays, scalars = state(strategy)
    write_checkpoint(tmp_path, Checkpoint(round=1, model={}, arrays=arrays, scalars=scalars))
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint is not None
    restore(fresh, checkpoint.arrays, checkpoint.scalars)
    for name, value in carried.items():
        assert (vars(fresh)[name], type(vars(fresh)[name])) == (value, type(value))
    np.testing.assert_array_equal(vars(fresh)["moments"], moments)


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_resuming_after_any_round_equals_running_through(name: str, tmp_path: Path) -> None:
    through = configured(name)

    def keep(number: int, record: ArrayRecord) -> None:
        arrays, scalars = state(through)
        kept = Checkpoint(round=number, model=exact_arrays(record), arrays=arrays, scalars=scalars)
        write_checkpoint(tmp_path / str(number), kept)

    models = play(through, on_model=keep)
    assert [number for number in range(1, ROUNDS + 1) if models[number] == models[number - 1]] == [3]
    for done in range(ROUNDS):
        checkpoint = read_checkpoint(tmp_path / str(done))
        assert checkpoint is not None
        assert checkpoint.round == done
        again = configured(name)
        restore(again, checkpoint.arrays, checkpoint.scalars)
        model = ArrayRecord({key: Array(array) for key, array in checkpoint.model.items()})
        assert play(again, first_round=done + 1, model=model) == models[done:], f"resumed after round {done}"
        assert bits(state(again)) == bits(state(through))


@pytest.mark.parametrize("name", CARRIED)
def test_resuming_without_the_state_would_not(name: str) -> None:
    model: list[ArrayRecord] = []
    models = play(configured(name), on_model=lambda number, record: model.append(record))
    assert play(configured(name), first_round=5, model=model[4])[-1] != models[-1]


def test_resuming_fedadam_in_the_wrong_round_would_not() -> None:
    """Its bias correction goes by the number of the round: the cohort and the moments alone are not enough."""
    grid = FederationGrid(arithmetic_phones(CLIENTS))
    config = training_record(TRAINING)
    early, late = configured("FedAdam"), configured("FedAdam")
    replies = list(grid.send_and_receive(early.configure_train(1, model_record(INITIAL), config, grid)))
    late.configure_train(1, model_record(INITIAL), config, grid)
    (one, _), (other, _) = early.aggregate_train(1, replies), late.aggregate_train(2, replies)
    assert one is not None
    assert other is not None
    assert one[WEIGHTS].data != other[WEIGHTS].data
