"""Runs every path of the engine once, without torch: what `test_sanitizers` runs in a process of its own."""

from dataclasses import replace

import numpy as np

from fedsim.coreml.contract import Contract
from fedsim.coreml.layers import Same, Valid
from fedsim.data.partition import Shards
from fedsim.seeds import key, words
from fedsim.training.native import library
from fedsim.training.native.engine import Engine, cohort, evaluate, predict, sum_clients, sum_clipped, train_clients
from tests.training.native.networks import SGD, Chain, examples, lenet, start

SLOW = replace(SGD, learning_rate=0.001)
TRAININGS = (
    SLOW,
    replace(SLOW, batch_size=1, momentum=0.5, proximal_mu=0.1),
    replace(SLOW, epochs=2, batch_size=33, optimizer="adam"),
)


def networks() -> list[Contract]:
    """One network for every kind of step, with odd sizes and strides."""
    odd = Valid(top=2, bottom=0, left=1, right=2)
    halve = {"function": "max", "kernel": (2, 2), "stride": (2, 2)}
    return [
        lenet(),
        Chain((3, 7, 9)).convolve(17, (3, 2), stride=(2, 3), padding=odd).activate("sigmoid").dense(11).contract(),
        Chain((4, 8, 8)).convolve(40, (5, 5), padding=Same()).pool(**halve).convolve(36, (3, 3), dilation=(1, 1))
        .pool(**halve).activate("tanh").dense(3).contract(),
        Chain((6, 5, 5)).convolve(6, (3, 3), groups=6, padding=Same()).activate("relu").convolve(12, (2, 2), groups=3)
        .pool(function="average", kernel=(2, 2), padding=Same()).pool(function="max", is_global=True)
        .dense(9, has_bias=False).contract(),
        Chain((2, 9, 9)).pool(function="max", kernel=(3, 3), stride=(2, 2), padding=Valid(top=1, left=1))
        .convolve(3, (2, 2), dilation=(2, 2), updatable=False).convolve(5, (1, 1)).flatten("channel_last")
        .dense(2).contract(),
        Chain((45,)).dense(31).activate("relu").dense(1).contract("mean_squared_error"),
    ]  # fmt: skip


def exercise(contract: Contract, variant: str) -> None:
    """Trains and evaluates clients of several sizes, with two threads."""
    engine, weights = Engine(contract, variant), start(contract)
    sizes = (0, 1, 12, 33)
    order = np.concatenate([np.arange(size) for size in sizes])
    held = Shards(order=order, offsets=np.cumsum([0, *sizes]))
    for kind in ("uint8", "float32"):
        data = examples(contract, 40, kind=kind)
        for training in TRAININGS:
            clients = cohort(held, words(key(1, "shuffle"), np.arange(4)), training)
            stack, _ = train_clients(engine, weights, data, clients, training, threads=2)
            sum_clients(engine, weights, data, clients, np.full(4, 0.25), training, threads=2)
            sum_clipped(engine, weights, data, clients, 0.1, training, threads=2)
            evaluate(engine, stack[-1], data, threads=2)
            assert np.isfinite(predict(engine, stack[-1], data)).all()


if __name__ == "__main__":
    for name in library.VARIANTS:
        if library.variant(name):
            for network in networks():
                exercise(network, name)
    print("done")
