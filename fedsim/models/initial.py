"""Weights to start from."""

import math

import numpy as np

from fedsim.coreml.contract import Contract
from fedsim.coreml.layers import Layer, TransposedConvolution
from fedsim.coreml.weights import Slot
from fedsim.updates import Weights


def initial_weights(contract: Contract, generator: np.random.Generator) -> Weights:
    """Fresh weights ``float32[P]`` for any contract, drawn slot by slot in file order.

    Weights are normal with standard deviation ``sqrt(2 / fan_in)`` and biases zero, for ReLU networks (He et al. 2015,
    equation 10); ``fan_in`` counts the inputs of one output.
    """
    kinds = {layer.name: layer for layer in contract.graph}
    parts = [_he_normal(slot, kinds[slot.layer], generator) for slot in contract.slots]
    return np.concatenate(parts)


def _he_normal(slot: Slot, layer: Layer, generator: np.random.Generator) -> Weights:
    if slot.parameter == "bias":
        return np.zeros(slot.count, np.float32)
    deviation = math.sqrt(2 / _fan_in(slot, layer))
    return (deviation * generator.standard_normal(slot.count)).astype(np.float32)


def _fan_in(slot: Slot, layer: Layer) -> int:
    """Inputs of one output; a transposed convolution's weights lead with the inputs, of which a group sees a share."""
    if isinstance(layer, TransposedConvolution):
        return slot.shape[0] // layer.groups * math.prod(slot.shape[2:])
    return math.prod(slot.shape[1:])
