"""Where a model file keeps its updatable weights, and how to read and replace them without touching another byte.

The file is walked as protobuf wire format, without a protobuf library, so that the phone can do the same. A
``WeightParams.floatValue`` is one packed run of little-endian float32 whose place never depends on the values: the
slots are constants of the architecture.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedsim.coreml.wire import Fields, Span, read_fields, read_varint
from fedsim.updates import Weights

# Field numbers of Model.proto and NeuralNetwork.proto.
# Model: neuralNetwork, neuralNetworkClassifier, neuralNetworkRegressor. NeuralNetwork (and both others): layers.
_NETWORKS, _LAYERS = (500, 403, 303), 1
# NeuralNetworkLayer: name, isUpdatable, and the two of its kinds that can be updated.
_NAME, _LAYER_IS_UPDATABLE, _CONVOLUTION, _INNER_PRODUCT = 1, 10, 100, 140
# WeightParams: floatValue; isUpdatable; float16Value, rawValue, int8RawValue, quantization.
_FLOATS, _PARAMETER_IS_UPDATABLE, _NOT_FLOAT32 = 1, 50, (2, 30, 31, 40)


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One updatable parameter: float32 numbers of this shape from byte ``offset`` of the file on, not aligned."""

    layer: str
    parameter: Literal["weights", "bias"]
    shape: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def scan(data: bytes) -> tuple[Slot, ...]:
    """The updatable parameters of a canonical model file, in file order, each inside the file.

    Layers come in list order and in a layer the weights before the bias. Frozen layers are passed over.

    Raises:
        ValueError: the file is malformed, holds not exactly one neural network, or has an updatable parameter that is
            not one packed float32 run of its layer's size; the message names layer and parameter.
    """
    model = read_fields(data, (0, len(data)))
    networks = [span for number in _NETWORKS for span in model.spans(number)]
    if len(networks) != 1:
        raise ValueError(f"expected one neural network in the model file, found {len(networks)}")
    layers = read_fields(data, networks[0]).spans(_LAYERS)
    slots = tuple(slot for layer in layers for slot in _layer_slots(data, read_fields(data, layer)))
    if len({(slot.layer, slot.parameter) for slot in slots}) != len(slots):
        raise ValueError("two updatable layers share a name; give every layer a name of its own")
    return slots


def parameter_count(slots: tuple[Slot, ...]) -> int:
    """P, the length of the flat vector."""
    return sum(slot.count for slot in slots)


def read_weights(data: bytes, slots: tuple[Slot, ...]) -> Weights:
    """The updatable weights as one flat ``float32[P]``, in the slots' order, bit for bit.

    Raises:
        ValueError: a slot lies outside ``data``.
    """
    _check_inside(data, slots)
    runs = [np.frombuffer(data, "<f4", slot.count, slot.offset) for slot in slots]
    return np.concatenate([np.empty(0, np.float32), *runs], dtype=np.float32)


def write_weights(data: bytes, slots: tuple[Slot, ...], vector: Weights) -> bytes:
    """``data`` with its updatable weights replaced by ``vector``: the same length, every other byte as it was.

    Values go in bit for bit, among them -0.0, infinities and NaN.

    Raises:
        ValueError: ``vector`` is not ``float32[P]``, or a slot lies outside ``data``.
    """
    if vector.dtype != np.float32 or vector.shape != (parameter_count(slots),):
        raise ValueError(f"expected weights float32[{parameter_count(slots)}], got {vector.dtype}{list(vector.shape)}")
    _check_inside(data, slots)
    patched, start = bytearray(data), 0
    for slot in slots:
        run = vector[start : start + slot.count]
        patched[slot.offset : slot.offset + 4 * slot.count] = run.astype("<f4").tobytes()
        start += slot.count
    return bytes(patched)


def named_weights(slots: tuple[Slot, ...], vector: Weights) -> dict[str, Weights]:
    """The flat ``float32[P]`` vector as one array a slot, called ``layer.parameter``; views, in slot order."""
    ends = np.cumsum([slot.count for slot in slots])
    runs = np.split(vector, ends[:-1])
    return {f"{slot.layer}.{slot.parameter}": run.reshape(slot.shape) for slot, run in zip(slots, runs, strict=True)}


def _check_inside(data: bytes, slots: tuple[Slot, ...]) -> None:
    for slot in slots:
        if slot.offset < 0 or slot.offset + 4 * slot.count > len(data):
            raise ValueError(f"{slot.layer}.{slot.parameter} lies outside the file; scan the file for its own slots")


def _layer_slots(data: bytes, layer: Fields) -> Iterator[Slot]:
    if not layer.number(_LAYER_IS_UPDATABLE):
        return
    name = _text(data, layer.span(_NAME))
    match layer.span(_CONVOLUTION), layer.span(_INNER_PRODUCT):
        case (start, end), None:
            yield from _convolution_slots(data, name, read_fields(data, (start, end)))
        case None, (start, end):
            yield from _inner_product_slots(data, name, read_fields(data, (start, end)))
        case _:
            raise ValueError(f"layer {name} is updatable but neither a convolution nor an inner product; freeze it")


def _convolution_slots(data: bytes, name: str, layer: Fields) -> Iterator[Slot]:
    """ConvolutionLayerParams: 1 outputChannels, 2 kernelChannels, 10 nGroups, 20 kernelSize, 60 isDeconvolution,
    70 hasBias, 90 weights, 91 bias."""
    outputs, channels, groups = layer.number(1), layer.number(2), max(layer.number(10), 1)
    kernel = _kernel(data, name, layer.span(20))
    shape = (channels, outputs // groups, *kernel) if layer.number(60) else (outputs, channels, *kernel)
    yield _slot(data, name, "weights", shape, layer.span(90))
    if layer.number(70):
        yield _slot(data, name, "bias", (outputs,), layer.span(91))


def _inner_product_slots(data: bytes, name: str, layer: Fields) -> Iterator[Slot]:
    """InnerProductLayerParams: 1 inputChannels, 2 outputChannels, 10 hasBias, 20 weights, 21 bias."""
    inputs, outputs = layer.number(1), layer.number(2)
    yield _slot(data, name, "weights", (outputs, inputs), layer.span(20))
    if layer.number(10):
        yield _slot(data, name, "bias", (outputs,), layer.span(21))


def _slot(
    data: bytes, layer: str, parameter: Literal["weights", "bias"], shape: tuple[int, ...], span: Span | None
) -> Slot:
    what = f"{layer}.{parameter}"
    if span is None:
        raise ValueError(f"{what} is missing")
    values = read_fields(data, span)
    if any(number in values.by_number for number in _NOT_FLOAT32):
        raise ValueError(f"{what} is updatable but not float32; store it as float32 or freeze {layer}")
    if not values.number(_PARAMETER_IS_UPDATABLE):
        raise ValueError(f"{what} is not marked updatable although {layer} is; mark both or neither")
    start, end = values.span(_FLOATS) or (0, 0)
    if start == end or end - start != 4 * math.prod(shape):
        raise ValueError(f"{what} holds {(end - start) / 4:g} numbers, its shape {shape} needs {math.prod(shape)}")
    return Slot(layer=layer, parameter=parameter, shape=shape, offset=start)


def _kernel(data: bytes, name: str, span: Span | None) -> tuple[int, int]:
    """Two packed numbers; an unset kernelSize means 3 x 3."""
    if span is None:
        return 3, 3
    height, middle = read_varint(data, *span)
    width, end = read_varint(data, middle, span[1])
    if end != span[1]:
        raise ValueError(f"the kernel of layer {name} is not two numbers")
    return height, width


def _text(data: bytes, span: Span | None) -> str:
    try:
        return "" if span is None else data[slice(*span)].decode()
    except UnicodeDecodeError:
        raise ValueError("malformed model: a layer's name is not UTF-8") from None
