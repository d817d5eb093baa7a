"""The plain loop against softmax regression written out in numpy: batches, epochs, optimizers, FedProx's term."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fedsim.coreml.build import Input, build_model
from fedsim.coreml.contract import Contract, read_contract
from fedsim.coreml.layers import Flatten, InnerProduct, Softmax
from fedsim.data.dataset import Examples
from fedsim.seeds import key
from fedsim.training.batches import epoch_order, epoch_orders, shuffle_keys
from fedsim.training.reference import evaluate, train_client, trainer
from fedsim.updates import LocalTraining

FEATURES, CLASSES = 6, 3
PLAIN = LocalTraining(epochs=1, batch_size=4, optimizer="sgd", learning_rate=0.1, shuffle=False)
Floats = NDArray[np.float64]


def softmax_regression() -> Contract:
    """One dense layer: the smallest network there is, convex, with gradients one can write down."""
    return read_contract(
        build_model(
            layers=(
                Flatten(name="flatten", inputs=("x",), outputs=("flat",), order="channel_first"),
                InnerProduct(
                    name="dense",
                    inputs=("flat",),
                    outputs=("logits",),
                    input_channels=FEATURES,
                    output_channels=CLASSES,
                    updatable=True,
                ),
                Softmax(name="softmax", inputs=("logits",), outputs=("p",)),
            ),
            input=Input(name="x", shape=(FEATURES, 1, 1)),
            loss="cross_entropy",
            training=replace(PLAIN, batch_size=4, shuffle=True),
        )
    )


CONTRACT = softmax_regression()


def some_examples(count: int, seed: int = 0) -> Examples:
    generator = np.random.default_rng(seed)
    inputs = generator.standard_normal((count, FEATURES, 1, 1)).astype(np.float32)
    return Examples(inputs=inputs, labels=generator.integers(CLASSES, size=count))


def some_weights(seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(FEATURES * CLASSES + CLASSES).astype(np.float32)


def loss_and_gradient(weights: Floats, x: Floats, y: NDArray[np.int64]) -> tuple[float, Floats]:
    """Mean cross entropy of softmax(Wx + b) and its gradient, in float64: (p - onehot) xᵀ."""
    matrix, bias = weights[: FEATURES * CLASSES].reshape(CLASSES, FEATURES), weights[FEATURES * CLASSES :]
    logits = x @ matrix.T + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    error = (p - np.eye(CLASSES)[y]) / len(y)
    gradient = np.concatenate([(error.T @ x).ravel(), error.sum(axis=0)])
    return float(-np.log(p[np.arange(len(y)), y]).mean()), gradient


def trained_by_hand(examples: Examples, training: LocalTraining) -> tuple[Floats, list[float]]:
    """SGD with momentum and FedProx's term, batch by batch, the last one at its own size."""
    start = some_weights().astype(np.float64)
    weights, velocity, losses = start.copy(), np.zeros_like(start), []
    x, y = examples.inputs.reshape(len(examples.labels), -1).astype(np.float64), examples.labels
    for _ in range(training.epochs):
        total = 0.0
        for first in range(0, len(y), training.batch_size):
            rows = slice(first, first + training.batch_size)
            loss, gradient = loss_and_gradient(weights, x[rows], y[rows])
            total += loss * len(y[rows])
            velocity = training.momentum * velocity + gradient + training.proximal_mu * (weights - start)
            weights = weights - training.learning_rate * velocity
        losses.append(total / len(y))
    return weights, losses


@pytest.mark.parametrize("count", [1, 3, 4, 5, 11])
@pytest.mark.parametrize(
    "training",
    [
        PLAIN,
        replace(PLAIN, epochs=3),
        replace(PLAIN, momentum=0.9, epochs=2),
        replace(PLAIN, proximal_mu=0.7, epochs=2),
        replace(PLAIN, batch_size=64),
    ],
    ids=["one epoch", "three", "momentum", "FedProx", "one batch"],
)
def test_training_equals_the_same_written_out(training: LocalTraining, count: int) -> None:
    examples, weights = some_examples(count), some_weights()
    losses = train_client(CONTRACT, weights, examples, training, key(0, "shuffle"))
    by_hand, losses_by_hand = trained_by_hand(examples, training)
    np.testing.assert_allclose(weights, by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses, losses_by_hand, rtol=1e-5)


def test_the_proximal_term_pulls_towards_the_global_model() -> None:
    examples, far, near = some_examples(40), some_weights(), some_weights()
    many = replace(PLAIN, epochs=20)
    train_client(CONTRACT, far, examples, many, key(0, "shuffle"))
    train_client(CONTRACT, near, examples, replace(many, proximal_mu=1.0), key(0, "shuffle"))
    assert np.linalg.norm(near - some_weights()) < 0.7 * np.linalg.norm(far - some_weights())


def test_optimizer_state_starts_at_zero_every_time() -> None:
    training = replace(PLAIN, momentum=0.9)
    examples, once, again = some_examples(8), some_weights(), some_weights()
    train_client(CONTRACT, once, examples, training, key(0, "shuffle"))
    train_client(CONTRACT, some_weights(2), examples, training, key(0, "shuffle"))
    train_client(CONTRACT, again, examples, training, key(0, "shuffle"))
    np.testing.assert_array_equal(once, again)


def test_an_epoch_shows_every_example_once_in_an_order_of_its_own() -> None:
    first, second = (epoch_order(10, key(0, "shuffle"), epoch, shuffle=True) for epoch in range(2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    assert epoch_order(10, key(0, "shuffle"), 1, shuffle=False).tolist() == list(range(10))


def test_orders_are_every_phones_own_whatever_company_it_is_in() -> None:
    counts, keys = np.array([5, 0, 1, 12]), shuffle_keys(4, 9, np.array([3, 1, 8, 2]))
    together = np.split(epoch_orders(counts, keys, 3, shuffle=True), np.cumsum(counts * 3)[:-1])
    for count, own, order in zip(counts.tolist(), keys, together, strict=True):
        expected = [epoch_order(count, own, epoch, shuffle=True) for epoch in range(3)]
        np.testing.assert_array_equal(order, np.concatenate(expected))
    plain = epoch_orders(counts, keys, 3, shuffle=False)
    assert plain.tolist() == [*range(5)] * 3 + [0] * 3 + [*range(12)] * 3


def test_every_permutation_is_as_likely_as_any() -> None:
    """24,000 orders of four examples: chi squared of the 24 permutations within five deviations of its mean, 23."""
    orders = epoch_orders(np.full(24_000, 4), shuffle_keys(0, 1, np.arange(24_000)), 1, shuffle=True).reshape(-1, 4)
    _, times = np.unique(orders, axis=0, return_counts=True)
    assert len(times) == 24
    assert abs(np.square(times - 1000).sum() / 1000 - 23) < 5 * np.sqrt(46)


def test_a_trainer_goes_on_where_it_stopped() -> None:
    training = replace(PLAIN, momentum=0.9)
    examples, whole, parts = some_examples(20), some_weights(), some_weights()
    trainer(CONTRACT, whole, examples, training)(np.arange(20))
    train = trainer(CONTRACT, parts, examples, training)
    losses = [train(np.arange(8)), train(np.arange(8, 20))]
    np.testing.assert_array_equal(whole, parts)
    assert losses[0] != losses[1]


def test_evaluation_equals_the_same_written_out() -> None:
    examples, weights = some_examples(230), some_weights()
    losses, correct = evaluate(CONTRACT, weights, examples)
    x = examples.inputs.reshape(230, -1).astype(np.float64)
    by_hand = [loss_and_gradient(weights.astype(np.float64), x[[i]], examples.labels[[i]])[0] for i in range(230)]
    np.testing.assert_allclose(losses, by_hand, rtol=1e-5, atol=1e-6)
    matrix = weights[: FEATURES * CLASSES].reshape(CLASSES, FEATURES)
    logits = x @ matrix.T + weights[FEATURES * CLASSES :]
    np.testing.assert_array_equal(correct, logits.argmax(axis=1) == examples.labels)


def test_evaluation_leaves_the_weights_alone() -> None:
    weights = some_weights()
    evaluate(CONTRACT, weights, some_examples(5))
    np.testing.assert_array_equal(weights, some_weights())
