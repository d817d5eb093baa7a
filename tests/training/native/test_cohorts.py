"""Many clients: the same bits for any number of threads, in any company, as a stack and as a sum."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.dataset import select
from fedsim.data.partition import Shards
from fedsim.seeds import generator
from fedsim.training.batches import shuffle_keys
from fedsim.training.native.engine import (
    SLOTS,
    Cohort,
    Engine,
    cohort,
    new_state,
    sum_clients,
    sum_slots,
    train_client,
    train_clients,
    train_on,
)
from tests.training.native.networks import SGD, examples, lenet, start

TRAINING = replace(SGD, epochs=2, batch_size=7, learning_rate=0.05)
CONTRACT = lenet()
DATA = examples(CONTRACT, 90, kind="uint8")


def drawn_cohort(sizes: list[int]) -> Cohort:
    """Clients of these sizes, their examples drawn from the data."""
    rows = [generator(7, "rows", client).integers(0, 90, size) for client, size in enumerate(sizes)]
    held = Shards(order=np.concatenate([np.empty(0, np.int64), *rows]), offsets=np.cumsum([0, *sizes]))
    return cohort(held, shuffle_keys(8, 1, np.arange(len(sizes))), TRAINING)


def test_rows_are_what_clients_train_alone() -> None:
    engine = Engine(CONTRACT)
    clients = drawn_cohort([20, 0, 1, 33])
    stack, losses = train_clients(engine, start(CONTRACT), DATA, clients, TRAINING, threads=2)
    for client, size in enumerate([20, 0, 1, 33]):
        rows = generator(7, "rows", client).integers(0, 90, size)
        weights = start(CONTRACT)
        own = train_client(engine, weights, select(DATA, rows), TRAINING, shuffle_keys(8, 1, np.arange(4))[client])
        np.testing.assert_array_equal(stack[client], weights)
        np.testing.assert_array_equal(losses[client], own)


def test_a_client_without_examples_keeps_the_weights() -> None:
    stack, losses = train_clients(Engine(CONTRACT), start(CONTRACT), DATA, drawn_cohort([0]), TRAINING)
    np.testing.assert_array_equal(stack[0], start(CONTRACT))
    assert np.isnan(losses).all()


def test_no_clients_at_all() -> None:
    total, losses = sum_clients(Engine(CONTRACT), start(CONTRACT), DATA, drawn_cohort([]), np.zeros(0), TRAINING)
    assert losses.shape == (0, 2)
    assert not total.any()


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(0, 25), min_size=1, max_size=40), threads=st.integers(2, 5))
def test_threads_change_nothing(sizes: list[int], threads: int) -> None:
    engine, clients = Engine(CONTRACT), drawn_cohort(sizes)
    shares = generator(9, "shares").random(len(sizes))
    alone = train_clients(engine, start(CONTRACT), DATA, clients, TRAINING, threads=1)
    together = train_clients(engine, start(CONTRACT), DATA, clients, TRAINING, threads=threads)
    for one, many in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, many)
    sums = [sum_clients(engine, start(CONTRACT), DATA, clients, shares, TRAINING, threads=n) for n in (1, threads)]
    np.testing.assert_array_equal(sums[0][0], sums[1][0])
    np.testing.assert_array_equal(sums[0][1], alone[1])
    exact = shares @ alone[0].astype(np.float64)
    bound = 1e-6 * (shares @ np.abs(alone[0].astype(np.float64)))
    assert (np.abs(sums[0][0] - exact) <= bound + 1e-12).all()


def test_what_ran_before_changes_nothing() -> None:
    """Workers are kept from call to call: a larger batch before must leave no trace."""
    used, clients = Engine(CONTRACT), drawn_cohort([20, 9])
    large = replace(TRAINING, batch_size=40, optimizer="adam", epochs=1)
    data = examples(CONTRACT, 90, seed=11)
    train_clients(used, start(CONTRACT), data, Cohort(counts=np.array([90]), orders=np.arange(90)), large)
    after, _ = train_clients(used, start(CONTRACT), DATA, clients, TRAINING)
    fresh, _ = train_clients(Engine(CONTRACT), start(CONTRACT), DATA, clients, TRAINING)
    np.testing.assert_array_equal(after, fresh)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_training_on_is_training_through(name: str) -> None:
    settings = {"sgd": {}, "momentum": {"momentum": 0.9}, "adam": {"optimizer": "adam", "learning_rate": 1e-3}}[name]
    training = replace(TRAINING, epochs=1, **settings)
    engine, order = Engine(CONTRACT), generator(3, "order").permutation(90)
    whole, parts = start(CONTRACT), start(CONTRACT)
    loss = train_on(engine, whole, DATA, order, training, new_state(engine, training))
    state = new_state(engine, training)
    pieces = [train_on(engine, parts, DATA, piece, training, state) for piece in np.split(order, [14, 21, 70])]
    np.testing.assert_array_equal(parts, whole)
    assert np.average(pieces, weights=[14, 7, 49, 20]) == pytest.approx(loss, rel=1e-12)
    assert state.steps[0] == 13


def test_orders_that_name_no_row_are_refused() -> None:
    engine = Engine(CONTRACT)
    for row in (-1, 90):
        wrong = Cohort(counts=np.array([1]), orders=np.array([row, 0]))
        with pytest.raises(ValueError, match="does not exist"):
            train_clients(engine, start(CONTRACT), DATA, wrong, TRAINING)


def test_arrays_of_another_shape_are_refused() -> None:
    engine, clients = Engine(CONTRACT), drawn_cohort([3])
    with pytest.raises(ValueError, match=r"weights is float32\[5\]; expected float32"):
        train_clients(engine, np.zeros(5, np.float32), DATA, clients, TRAINING)
    with pytest.raises(ValueError, match="orders is int64"):
        train_clients(engine, start(CONTRACT), DATA, Cohort(counts=np.array([4]), orders=clients.orders), TRAINING)
    with pytest.raises(ValueError, match="out is"):
        train_clients(engine, start(CONTRACT), DATA, clients, TRAINING, out=np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="batch_size = 0"):
        train_clients(engine, start(CONTRACT), DATA, clients, replace(TRAINING, batch_size=0))


@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 70), machines=st.integers(1, 4), data=st.data())
def test_partial_sums_of_several_machines_add_up_to_one_machines_sum(
    count: int, machines: int, data: st.DataObject
) -> None:
    engine, slots = Engine(CONTRACT), min(count, SLOTS)
    machine_of = np.array(data.draw(st.lists(st.integers(0, machines - 1), min_size=slots, max_size=slots)))
    whole = drawn_cohort([1 + place % 3 for place in range(count)])
    starts = np.cumsum(whole.counts * TRAINING.epochs)[:-1]
    orders = np.split(whole.orders, starts)
    shares = generator(9, "shares").random(count)
    expected, _ = sum_clients(engine, start(CONTRACT), DATA, whole, shares, TRAINING)
    rows = np.empty((slots, CONTRACT.parameters), np.float32)
    for machine in range(machines):
        mine = np.flatnonzero(machine_of == machine)
        places = np.flatnonzero(np.isin(np.arange(count) % slots, mine))
        part = Cohort(
            counts=whole.counts[places], orders=np.concatenate([np.empty(0, np.int64), *(orders[p] for p in places)])
        )
        rows[mine], _ = sum_slots(engine, start(CONTRACT), DATA, part, shares[places], TRAINING, len(mine), threads=2)
    total = rows[0].copy()
    for row in rows[1:]:
        total += row
    np.testing.assert_array_equal(total, expected)
