"""Shadow models: who trains on what, and that the engine's are the reference loop's."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedsim.attacks.shadows import logits, random_halves, shadow_models
from fedsim.data.dataset import select
from fedsim.data.sources import load
from fedsim.models.initial import initial_weights
from fedsim.seeds import generator
from fedsim.training.native.engine import Engine
from tests.attacks.overfit import BY_HEART, small_network

TRAINING = replace(BY_HEART, epochs=2)


@given(st.integers(2, 9), st.integers(1, 40), st.integers(0, 5))
def test_each_example_is_in_half_of_the_models(models: int, examples: int, seed: int) -> None:
    members = random_halves(models, examples, np.random.default_rng(seed))
    assert members.shape == (models, examples)
    assert (members.sum(axis=0) == models // 2).all()


def test_halves_are_drawn_evenly_and_apart() -> None:
    members = random_halves(4, 20_000, np.random.default_rng(0))
    kinds = np.bincount(np.array([8, 4, 2, 1]) @ members, minlength=16)
    assert (np.flatnonzero(kinds) == [3, 5, 6, 9, 10, 12]).all()
    assert np.abs(kinds[kinds > 0] / 20_000 - 1 / 6).max() < 0.012  # 4.5 deviations


def test_the_engine_and_torch_train_and_ask_the_same_models() -> None:
    pool, contract = select(load("mnist").train, np.arange(90)), small_network(TRAINING)
    members = random_halves(3, 90, np.random.default_rng(0)) | (np.arange(90) < 5)
    start = initial_weights(contract, generator(0, "start"))
    native, torch = (
        shadow_models(contract, start, pool, members, TRAINING, seed=1, engine=engine)
        for engine in (Engine(contract), None)
    )
    np.testing.assert_allclose(native, torch, atol=2e-5)
    asked = [logits(contract, torch, pool, engine=engine) for engine in (Engine(contract), None)]
    np.testing.assert_allclose(*asked, atol=2e-4)


def test_a_model_depends_on_nothing_but_its_place_and_members() -> None:
    pool, contract = select(load("mnist").train, np.arange(60)), small_network(TRAINING)
    members, start = random_halves(4, 60, np.random.default_rng(0)), initial_weights(contract, generator(0, "start"))
    all_four, two = (
        shadow_models(contract, start, pool, members[:count], TRAINING, seed=1, engine=Engine(contract))
        for count in (4, 2)
    )
    np.testing.assert_array_equal(all_four[:2], two)
    assert not np.array_equal(all_four[0], all_four[1])
