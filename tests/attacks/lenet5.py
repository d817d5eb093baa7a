"""LeNet-5 as a contract, MNIST digits, and the updates they cause: what the attacks here are tried on."""

from dataclasses import replace
from typing import Literal

import numpy as np

from fedsim.coreml import layers as L
from fedsim.coreml.build import Input, build_model
from fedsim.coreml.contract import Contract, read_contract
from fedsim.data.dataset import Examples, batch_inputs, select
from fedsim.data.sources import load
from fedsim.seeds import generator
from fedsim.training.reference import train_client
from fedsim.updates import LocalTraining, Weights

ONE_STEP = LocalTraining(epochs=1, batch_size=8, optimizer="sgd", learning_rate=0.1, shuffle=False)
STEPS_OF_ONE = replace(ONE_STEP, batch_size=1)


def lenet5(function: Literal["tanh", "relu"] = "tanh", pooling: Literal["average", "max"] = "average") -> Contract:
    """LeCun et al. 1998 as everybody builds it today, 61,706 weights, all zero."""
    graph = (
        _convolution("conv1", "image", channels=(1, 6), padding=2),
        L.Activation(name="act1", inputs=("conv1",), outputs=("act1",), function=function),
        _halving("pool1", "act1", pooling),
        _convolution("conv2", "pool1", channels=(6, 16), padding=0),
        L.Activation(name="act2", inputs=("conv2",), outputs=("act2",), function=function),
        _halving("pool2", "act2", pooling),
        L.Flatten(name="flat", inputs=("pool2",), outputs=("flat",)),
        _dense("dense1", "flat", channels=(400, 120)),
        L.Activation(name="act3", inputs=("dense1",), outputs=("act3",), function=function),
        _dense("dense2", "act3", channels=(120, 84)),
        L.Activation(name="act4", inputs=("dense2",), outputs=("act4",), function=function),
        _dense("dense3", "act4", channels=(84, 10)),
        L.Softmax(name="softmax", inputs=("dense3",), outputs=("output",)),
    )
    return read_contract(
        build_model(layers=graph, input=Input(name="image", shape=(1, 28, 28)), loss="cross_entropy", training=ONE_STEP)
    )


def fresh_weights(contract: Contract, seed: int = 0) -> Weights:
    """Uniform within ``1 / sqrt(fan_in)``, as torch starts its layers: what published attacks were run on."""
    fan_ins = {slot.layer: int(np.prod(slot.shape[1:])) for slot in contract.slots if slot.parameter == "weights"}
    draw = generator(seed, "weights")
    parts = [draw.uniform(-1, 1, slot.count) / np.sqrt(fan_ins[slot.layer]) for slot in contract.slots]
    return np.concatenate(parts).astype(np.float32)


def digits(*rows: int) -> Examples:
    """Training digits of MNIST by their numbers."""
    return select(load("mnist").train, np.array(rows))


def as_inputs(examples: Examples) -> np.ndarray:
    return batch_inputs(examples.inputs).astype(np.float64)


def update_of(contract: Contract, weights: Weights, examples: Examples, training: LocalTraining) -> Weights:
    """What a phone sends, in float32 as it trains: the trained model less ``weights``."""
    trained = weights.copy()
    train_client(contract, trained, examples, training, np.uint64(0))
    return trained - weights


def _convolution(name: str, source: str, channels: tuple[int, int], padding: int) -> L.Convolution:
    return L.Convolution(
        name=name,
        inputs=(source,),
        outputs=(name,),
        input_channels=channels[0],
        output_channels=channels[1],
        kernel=(5, 5),
        padding=L.Valid(top=padding, bottom=padding, left=padding, right=padding),
        updatable=True,
    )


def _halving(name: str, source: str, pooling: Literal["average", "max"]) -> L.Pooling:
    return L.Pooling(name=name, inputs=(source,), outputs=(name,), function=pooling, kernel=(2, 2), stride=(2, 2))


def _dense(name: str, source: str, channels: tuple[int, int]) -> L.InnerProduct:
    return L.InnerProduct(
        name=name,
        inputs=(source,),
        outputs=(name,),
        input_channels=channels[0],
        output_channels=channels[1],
        updatable=True,
    )
