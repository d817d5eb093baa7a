"""Weights to start from."""

import math

import numpy as np

from fedsim.coreml.contract import Contract
from fedsim.coreml.layers import Activation, Layer, TransposedConvolution
from fedsim.coreml.weights import Slot
from fedsim.updates import Weights

SIGMOIDS = {"tanh", "sigmoid", "hard_sigmoid"}
"""The activations that level off on both sides."""


def initial_weights(contract: Contract, generator: np.random.Generator) -> Weights:
    """Fresh weights ``float32[P]`` for any contract, drawn slot by slot in file order.

    Weights are normal with standard deviation ``sqrt(gain / fan_in)`` and biases zero; ``fan_in`` counts the inputs of
    one output. The gain is 1 in a network all of whose activations are sigmoids (LeCun et al. 1998, Efficient BackProp,
    equation 16), tanh among them, and otherwise 2, as half of what meets a ReLU is lost (He et al. 2015, equation 10).
    """
    kinds = {layer.name: layer for layer in contract.graph}
    functions = {layer.function for layer in contract.graph if isinstance(layer, Activation)}
    gain = 1 if functions and functions <= SIGMOIDS else 2
    return np.concatenate([_normal(slot, kinds[slot.layer], gain, generator) for slot in contract.slots])


def _normal(slot: Slot, layer: Layer, gain: int, generator: np.random.Generator) -> Weights:
    if slot.parameter == "bias":
        return np.zeros(slot.count, np.float32)
    deviation = math.sqrt(gain / _fan_in(slot, layer))
    return (deviation * generator.standard_normal(slot.count)).astype(np.float32)


def _fan_in(slot: Slot, layer: Layer) -> int:
    """Inputs of one output; a transposed convolution's weights lead with the inputs, of which a group sees a share."""
    if isinstance(layer, TransposedConvolution):
        return slot.shape[0] // layer.groups * math.prod(slot.shape[2:])
    return math.prod(slot.shape[1:])
