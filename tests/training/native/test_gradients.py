"""One step of the engine moves the weights as one step of the reference does, whatever the network."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.coreml.contract import Contract
from fedsim.data.dataset import Examples
from fedsim.seeds import key
from fedsim.training import reference
from fedsim.training.native import library
from fedsim.training.native.engine import Engine, train_client
from fedsim.updates import LocalTraining, Weights
from tests.training.native.networks import SGD, Chain, chains, examples, lenet, start

ONE_STEP = replace(SGD, batch_size=64)
Train = Callable[[Weights, Examples, LocalTraining, np.uint64], list[float]]


def moved(train: Train, contract: Contract, data: Examples, training: LocalTraining) -> tuple[Weights, list[float]]:
    """How far ``train`` moves the weights, and the losses it reports."""
    weights = start(contract)
    before = weights.copy()
    losses = train(weights, data, training, key(5, "shuffle"))
    return weights - before, losses


def assert_alike(contract: Contract, data: Examples, training: LocalTraining, variant: str = "") -> None:
    """Slot by slot, the engine's movement is the reference's to 1e-5, but for the last bit of the weights."""
    engine = Engine(contract, variant)
    ours, our_losses = moved(lambda *rest: train_client(engine, *rest), contract, data, training)
    theirs, their_losses = moved(lambda *rest: reference.train_client(contract, *rest), contract, data, training)
    np.testing.assert_allclose(our_losses, their_losses, rtol=2e-6, atol=1e-6)
    ends = np.cumsum([slot.count for slot in contract.slots])[:-1]
    split = [np.split(array, ends) for array in (ours, theirs, start(contract))]
    for slot, our, their, weights in zip(contract.slots, *split, strict=True):
        close = 1e-5 * (np.linalg.norm(their) + 0.01 * np.linalg.norm(theirs)) + 2**-23 * np.linalg.norm(weights)
        assert np.linalg.norm(our - their) <= close, f"{slot.layer}.{slot.parameter}"


@settings(max_examples=150, deadline=None)
@given(
    chain=chains(),
    count=st.integers(1, 9),
    kind=st.sampled_from(("uint8", "float32")),
    loss=st.sampled_from(("cross_entropy", "mean_squared_error")),
)
def test_any_network(chain: Chain, count: int, kind: str, loss: str) -> None:
    if loss == "mean_squared_error":
        chain.dense(1)
    contract = chain.contract(loss)
    assert_alike(contract, examples(contract, count, kind=kind), ONE_STEP)


@settings(max_examples=25, deadline=None)
@given(chain=chains(), count=st.integers(1, 7), variant=st.sampled_from(library.VARIANTS))
def test_every_variant(chain: Chain, count: int, variant: str) -> None:
    if library.variant(variant):
        contract = chain.contract()
        assert_alike(contract, examples(contract, count), ONE_STEP, variant)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 20, 31, 32, 64])
def test_every_batch_size(count: int) -> None:
    contract = lenet()
    assert_alike(contract, examples(contract, count), ONE_STEP)


def test_network_without_dense_layers() -> None:
    chain = Chain((3, 7, 7)).convolve(20, (3, 3)).activate("relu").convolve(7, (1, 1))
    contract = chain.pool(function="average", is_global=True).contract()
    assert_alike(contract, examples(contract, 6), ONE_STEP)


def test_activation_on_the_input_and_two_in_a_row() -> None:
    chain = Chain((2, 5, 5)).activate("tanh").convolve(5, (2, 2)).activate("relu").activate("sigmoid")
    contract = chain.flatten("channel_last").dense(4).contract()
    assert_alike(contract, examples(contract, 6), ONE_STEP)


def test_the_first_of_equal_maxima_wins() -> None:
    """On a constant background all of a pooling's inputs are equal; the gradient goes where torch sends it."""
    inputs = np.zeros((4, 1, 9, 9), np.float32)
    inputs[:, :, 2:5, 3:6] = 1
    data = Examples(inputs=inputs, labels=np.array([0, 1, 2, 3]))
    for pooling in ({"kernel": (2, 2), "stride": (2, 2)}, {"kernel": (3, 3), "stride": (2, 2)}, {"is_global": True}):
        chain = Chain((1, 9, 9)).convolve(6, (3, 3)).convolve(18, (2, 2)).pool(function="max", **pooling)
        contract = chain.flatten("channel_first").dense(5).contract()
        assert_alike(contract, data, ONE_STEP)
