"""Losses, correctness and predictions against the reference's."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.dataset import Examples, batch_inputs
from fedsim.training import reference
from fedsim.training.native.engine import Engine, evaluate, predict
from tests.training.native.networks import Chain, chains, examples, lenet, start


@settings(max_examples=30, deadline=None)
@given(chain=chains(), count=st.integers(0, 9))
def test_as_the_reference(chain: Chain, count: int) -> None:
    contract = chain.contract()
    data = examples(contract, count)
    ours, our_correct = evaluate(Engine(contract), start(contract), data)
    theirs, their_correct = reference.evaluate(contract, start(contract), data)
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)
    two = np.sort(predict(Engine(contract), start(contract), data), axis=1)[:, -2:]
    clear = two[:, 1] - two[:, 0] > 1e-4
    np.testing.assert_array_equal(our_correct[clear], their_correct[clear])


def test_blocks_threads_and_rows_change_nothing() -> None:
    contract = lenet()
    data, engine = examples(contract, 137, kind="uint8"), Engine(contract)
    losses, correct = evaluate(engine, start(contract), data)
    for threads in (2, 3):
        np.testing.assert_array_equal(evaluate(engine, start(contract), data, threads=threads)[0], losses)
    rows = np.array([136, 0, 55, 55])
    some, some_correct = evaluate(engine, start(contract), data, rows=rows)
    np.testing.assert_array_equal(some, losses[rows])
    np.testing.assert_array_equal(some_correct, correct[rows])


def test_losses_come_from_the_predictions() -> None:
    contract = lenet()
    data, engine = examples(contract, 9), Engine(contract)
    logits = predict(engine, start(contract), data).astype(np.float64)
    chosen = logits[np.arange(9), data.labels]
    losses, correct = evaluate(engine, start(contract), data)
    np.testing.assert_allclose(losses, np.log(np.exp(logits).sum(axis=1)) - chosen, rtol=1e-6)
    np.testing.assert_array_equal(correct, logits.argmax(axis=1) == data.labels)


def test_regression() -> None:
    contract = Chain((5,)).dense(3).contract("mean_squared_error")
    inputs = np.arange(20, dtype=np.float32).reshape(4, 5)
    targets = np.arange(12).reshape(4, 3)
    data, engine = Examples(inputs=inputs, labels=targets), Engine(contract)
    weights = start(contract)
    values = inputs @ weights[:15].reshape(3, 5).T + weights[15:]
    np.testing.assert_allclose(predict(engine, weights, data), values, rtol=1e-5)
    losses, correct = evaluate(engine, weights, data)
    np.testing.assert_allclose(losses, ((values - targets) ** 2).mean(axis=1), rtol=1e-5)
    assert not correct.any()


def test_every_byte_is_divided_as_batch_inputs_does() -> None:
    """A dense layer of identity weights hands the inputs through."""
    contract = Chain((256,)).dense(256).contract("mean_squared_error")
    weights = np.concatenate([np.eye(256, dtype=np.float32).ravel(), np.zeros(256, np.float32)])
    data = Examples(inputs=np.arange(256, dtype=np.uint8)[np.newaxis], labels=np.zeros((1, 256), np.int64))
    np.testing.assert_array_equal(predict(Engine(contract), weights, data), batch_inputs(data.inputs))
