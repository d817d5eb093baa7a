"""Writes layers as Core ML's protobuf messages, field for field as coremltools' NeuralNetworkBuilder would."""

from collections.abc import Mapping
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from fedsim.coreml.layers import (
    Activation,
    Add,
    BatchNorm,
    Bias,
    ClampedReLU,
    Clip,
    Concat,
    Convolution,
    Flatten,
    IncludeLastPixel,
    InnerProduct,
    Layer,
    Multiply,
    Pad,
    Permute,
    Pooling,
    ReduceMean,
    Reshape,
    Same,
    Scale,
    Softmax,
    Split,
    Threshold,
    TransposedConvolution,
    Upsample,
    Valid,
    is_updatable,
    parameter_shapes,
)


def write_layer(message: Any, layer: Layer, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Fills an empty ``NeuralNetworkLayer`` message; a parameter that ``weights`` lacks is written as zeros.

    Raises:
        ValueError: an array is not of its parameter's shape, or not finite; names layer and parameter.
    """
    message.name = layer.name
    message.input.extend(layer.inputs)
    message.output.extend(layer.outputs)
    body = _write_body(message, layer)
    for name, shape in parameter_shapes(layer).items():
        with np.errstate(over="ignore"):
            values = np.asarray(weights.get(name, np.zeros(shape)), np.float32)
        if values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"{layer.name}.{name} of shape {values.shape}; expected finite numbers of shape {shape}")
        getattr(body, name).floatValue.extend(values.ravel().tolist())
    if is_updatable(layer):
        message.isUpdatable = True
        body.weights.isUpdatable = True
        body.bias.isUpdatable = True  # coremltools marks it where there is no bias, too


def _write_body(message: Any, layer: Layer) -> Any:
    """Fills the field of ``message`` that holds the layer's own settings, and returns it."""
    match layer:
        case Convolution() | TransposedConvolution():
            return _convolution(message.convolution, layer)
        case InnerProduct():
            return _inner_product(message.innerProduct, layer)
        case BatchNorm():
            return _set(message.batchnorm, channels=layer.channels, epsilon=layer.epsilon)
        case Activation():
            return _activation(message.activation, layer)
        case ClampedReLU():
            return _set(message.clampedReLU, alpha=layer.alpha, beta=layer.beta)
        case Clip():
            return _set(message.clip, minVal=layer.low, maxVal=layer.high)
        case Threshold():
            return _threshold(message.unary, layer)
        case Pooling():
            return _pooling(message.pooling, layer)
        case Flatten():
            return _set(message.flatten, mode=_ORDERS[layer.order])
        case Softmax():
            return _set(message.softmax)
        case Reshape() | Permute() | Concat() | Split() | Pad() | Upsample():
            return _write_rearrangement(message, layer)
        case Add() | Multiply() | ReduceMean() | Scale() | Bias():
            return _write_arithmetic(message, layer)
        case _:
            assert_never(layer)


def _write_rearrangement(message: Any, layer: Reshape | Permute | Concat | Split | Pad | Upsample) -> Any:
    match layer:
        case Reshape():
            return _set(message.reshape, targetShape=layer.shape, mode=_ORDERS[layer.order])
        case Permute():
            return _set(message.permute, axis=(0, *(axis + 1 for axis in layer.axes)))
        case Concat():
            return _set(message.concat)
        case Split():
            return _set(message.split, nOutputs=len(layer.outputs))
        case Pad():
            return _pad(message.padding, layer)
        case Upsample():
            mode = {"nearest": 0, "bilinear": 1}[layer.method]
            return _set(message.upsample, scalingFactor=layer.factors, mode=mode)


def _write_arithmetic(message: Any, layer: Add | Multiply | ReduceMean | Scale | Bias) -> Any:
    match layer:
        case Add():
            return _set(message.add, alpha=layer.constant)
        case Multiply():
            return _set(message.multiply, alpha=layer.constant)
        case ReduceMean():
            average, axes = 1, {"CHW": 0, "HW": 1, "C": 2, "H": 3, "W": 4}
            return _set(message.reduce, mode=average, epsilon=1e-6, axis=axes[layer.axes])
        case Scale():
            body = _set(message.scale, shapeScale=layer.scale_shape, hasBias=layer.bias_shape is not None)
            return _set(body, shapeBias=layer.bias_shape or ())
        case Bias():
            return _set(message.bias, shape=layer.shape)


_ORDERS = {"channel_first": 0, "channel_last": 1}


def _set(message: Any, **fields: Any) -> Any:
    """Marks a message as present, assigns its single fields and extends its repeated ones."""
    message.SetInParent()
    for name, value in fields.items():
        if isinstance(value, tuple):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message


def _convolution(body: Any, layer: Convolution | TransposedConvolution) -> Any:
    transposed = isinstance(layer, TransposedConvolution)
    _set(
        body,
        outputChannels=layer.output_channels,
        kernelChannels=layer.input_channels // (1 if transposed else layer.groups),
        nGroups=layer.groups,
        kernelSize=layer.kernel,
        stride=layer.stride,
        dilationFactor=(1, 1) if transposed else layer.dilation,
        isDeconvolution=transposed,
        hasBias=layer.has_bias,
    )
    _write_padding(body, layer.padding)
    return body


def _inner_product(body: Any, layer: InnerProduct) -> Any:
    channels = {"inputChannels": layer.input_channels, "outputChannels": layer.output_channels}
    return _set(body, **channels, hasBias=layer.has_bias)


def _activation(body: Any, layer: Activation) -> Any:
    match layer.function:
        case "relu":
            _set(body.ReLU)
        case "sigmoid":
            _set(body.sigmoid)
        case "tanh":
            _set(body.tanh)
        case "leaky_relu":
            _set(body.leakyReLU, alpha=layer.alpha)
        case "hard_sigmoid":
            _set(body.sigmoidHard, alpha=layer.alpha, beta=layer.beta)
        case "linear":
            _set(body.linear, alpha=layer.alpha, beta=layer.beta)
    return body


def _threshold(body: Any, layer: Threshold) -> Any:
    threshold = 7
    return _set(body, type=threshold, alpha=layer.alpha, epsilon=1e-6, shift=layer.shift, scale=layer.scale)


def _pooling(body: Any, layer: Pooling) -> Any:
    _set(
        body,
        type={"max": 0, "average": 1}[layer.function],
        kernelSize=layer.kernel,
        stride=layer.stride,
        avgPoolExcludePadding=layer.exclude_padding,
        globalPooling=layer.is_global,
    )
    if isinstance(layer.padding, IncludeLastPixel):
        _set(body.includeLastPixel, paddingAmounts=(layer.padding.height, layer.padding.width))
    else:
        _write_padding(body, layer.padding)
    return body


def _pad(body: Any, layer: Pad) -> Any:
    match layer.fill:
        case "constant":
            _set(body.constant, value=layer.value)
        case "reflection":
            _set(body.reflection)
        case "replication":
            _set(body.replication)
    _write_edges(body.paddingAmounts, layer.amounts)
    return body


def _write_padding(body: Any, padding: Valid | Same) -> None:
    match padding:
        case Valid():
            _write_edges(body.valid.paddingAmounts, padding)
        case Same(asymmetry=asymmetry):
            _set(body.same, asymmetryMode={"bottom_right_heavy": 0, "top_left_heavy": 1}[asymmetry])


def _write_edges(amounts: Any, edges: Valid) -> None:
    amounts.borderAmounts.add(startEdgeSize=edges.top, endEdgeSize=edges.bottom)
    amounts.borderAmounts.add(startEdgeSize=edges.left, endEdgeSize=edges.right)
