"""What the lowering makes of a graph, what it refuses, and that its layout neither loses nor repeats a weight."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from fedsim.coreml.contract import read_contract
from fedsim.coreml.layers import Add, Permute
from fedsim.models.lenet import lenet_contract
from fedsim.seeds import key
from fedsim.training.native.engine import Engine, train_client
from fedsim.training.native.lower import CONVOLUTION, DENSE, STEP_FIELDS, Program, Unsupported, lower
from tests.training.native.networks import SGD, Chain, chains, examples, lenet, start


def column(program: Program, name: str) -> list[int]:
    """One field of every step."""
    return program.steps[:, STEP_FIELDS.index(name)].tolist()


def test_lenet_is_four_steps() -> None:
    program = lower(read_contract(lenet_contract(SGD)))
    assert column(program, "kind") == [CONVOLUTION, CONVOLUTION, DENSE, DENSE]
    assert column(program, "pooled") == [1, 1, 0, 0]
    assert column(program, "activation") == [1, 1, 1, 0]
    assert column(program, "input_gradient") == [0, 1, 1, 1]
    assert column(program, "out_height") == [13, 6, 1, 1]
    assert (program.values, program.parameters) == (10, 585_958)


def test_gradients_stop_behind_the_first_trainable_layer() -> None:
    chain = Chain((1, 8, 8)).convolve(4, (3, 3), updatable=False).convolve(4, (3, 3)).dense(5, updatable=False).dense(3)
    program = lower(chain.contract())
    assert column(program, "trainable") == [0, 1, 0, 1]
    assert column(program, "input_gradient") == [0, 0, 1, 1]


def test_a_tanh_is_not_pulled_through_a_pooling() -> None:
    """Unlike a ReLU's, its ties may carry gradients."""
    chain = Chain((1, 8, 8)).convolve(4, (3, 3)).activate("tanh").pool(function="max", kernel=(2, 2), stride=(2, 2))
    assert column(lower(chain.dense(3).contract()), "pooled") == [0, 0, 0]


@settings(max_examples=40, deadline=None)
@given(chain=chains())
def test_every_weight_has_one_place(chain: Chain) -> None:
    program = lower(chain.contract())
    places = []
    for place in program.placements:
        rows = program.tables[place["row_table"] :][: place["rows"]].astype(np.int64)
        columns = program.tables[place["column_table"] :][: place["columns"]]
        places.append((place["image"] + rows[:, None] + columns).ravel())
    every = np.concatenate(places)
    assert len(every) == len(np.unique(every)) == program.parameters
    assert every.min() >= 0
    assert every.max() < len(program.image)
    assert not program.image[every].any()


@settings(max_examples=25, deadline=None)
@given(chain=chains())
def test_weights_come_back_as_they_went(chain: Chain) -> None:
    contract = chain.contract()
    weights = start(contract)
    train_client(Engine(contract), weights, examples(contract, 3), replace(SGD, learning_rate=0.0), key(1, "s"))
    np.testing.assert_array_equal(weights, start(contract))


def refused(chain: Chain, *more: object) -> Chain:
    """The chain with a layer that the builder has and the engine has not."""
    for kind in more:
        chain.layers.append(kind)  # type: ignore[arg-type]
    return chain


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (
            refused((c := Chain((4, 6, 6)).convolve(4, (3, 3))), Permute(axes=(0, 2, 1), **c.names())),
            "layer1 .Permute.",
        ),
        (Chain((4, 6, 6)).convolve(4, (3, 3)).activate("linear"), "layer1 .Activation."),
        (Chain((4,)).dense(4).activate("relu").activate("tanh"), "layer2 .Activation after a dense layer."),
        (Chain((4,)).dense(4).convolve(3, (1, 1)), "layer1 .Convolution after a dense layer."),
        (Chain((4, 6, 6)).flatten("channel_first").convolve(3, (1, 1)), "layer1 reads a flattened map"),
        (
            refused(Chain((4,)).dense(4), Add(name="sum", inputs=("blob0", "input"), outputs=("blob1",))),
            "layer sum branches or joins",
        ),
    ],
)
def test_other_networks_are_refused_by_name(chain: Chain, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        lower(chain.dense(3).contract())


def test_a_softmax_below_a_regression_is_refused() -> None:
    contract = lenet()
    with pytest.raises(Unsupported, match="Softmax after a dense layer"):
        lower(replace(contract, loss="mean_squared_error"))
