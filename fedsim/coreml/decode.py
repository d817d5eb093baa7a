"""Reads the layers of a Core ML neural network from protobuf messages, or says in words why one cannot be run."""

from typing import Any, cast

import numpy as np

from fedsim.coreml.layers import (
    Activation,
    Add,
    Asymmetry,
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
    Order,
    Pad,
    Pair,
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
)

Names = dict[str, Any]
"""The settings that every kind of layer shares."""

_DEFAULT_EPSILON = float(np.float32(1e-5))


def read_layer(message: Any) -> Layer:
    """The layer that a ``NeuralNetworkLayer`` message describes, its defaults filled in.

    Raises:
        ValueError: a kind or a setting that fedsim does not run; the message names the layer.
    """
    kind = message.WhichOneof("layer")
    names: Names = {"name": message.name, "inputs": tuple(message.input), "outputs": tuple(message.output)}
    try:
        if kind not in _READERS:
            raise ValueError(f"is of kind {kind}, which fedsim does not run; kinds it runs: {', '.join(_READERS)}")
        if kind in ("convolution", "innerProduct"):
            names["updatable"] = message.isUpdatable
        elif message.isUpdatable:
            raise ValueError(f"is of kind {kind}, which cannot be updatable; freeze it")
        return _READERS[kind](getattr(message, kind), names)
    except ValueError as error:
        raise ValueError(f"layer {message.name} {error}") from None


def _convolution(given: Any, names: Names) -> Convolution | TransposedConvolution:
    groups = given.nGroups or 1
    settings: dict[str, Any] = {
        "output_channels": given.outputChannels,
        "kernel": _pair(given.kernelSize, (3, 3)),
        "stride": _pair(given.stride, (1, 1)),
        "groups": groups,
        "padding": _padding(given, "ConvolutionPaddingType"),
        "has_bias": given.hasBias,
    }
    if len(names["inputs"]) > 1:
        raise ValueError("takes its weights from another layer; store them in the convolution")
    if not given.isDeconvolution:
        dilation, channels = _pair(given.dilationFactor, (1, 1)), given.kernelChannels * groups
        return Convolution(**names, **settings, dilation=dilation, input_channels=channels)
    if given.outputShape:
        raise ValueError("is a deconvolution with a fixed outputShape; describe its output by padding instead")
    return TransposedConvolution(**names, **settings, input_channels=given.kernelChannels)


def _inner_product(given: Any, names: Names) -> InnerProduct:
    if given.int8DynamicQuantize:
        raise ValueError("quantises its input to int8; clear int8DynamicQuantize")
    channels = {"input_channels": given.inputChannels, "output_channels": given.outputChannels}
    return InnerProduct(**names, **channels, has_bias=given.hasBias)


def _batch_norm(given: Any, names: Names) -> BatchNorm:
    if given.computeMeanVar or given.instanceNormalization:
        raise ValueError("computes statistics of its batch; only stored mean and variance can be run")
    return BatchNorm(**names, channels=given.channels, epsilon=given.epsilon or _DEFAULT_EPSILON)


def _activation(given: Any, names: Names) -> Activation:
    kind = given.WhichOneof("NonlinearityType")
    match kind:
        case "ReLU":
            return Activation(**names, function="relu")
        case "sigmoid" | "tanh":
            return Activation(**names, function=kind)
        case "leakyReLU":
            return Activation(**names, function="leaky_relu", alpha=given.leakyReLU.alpha)
        case "sigmoidHard":
            hard = given.sigmoidHard
            return Activation(**names, function="hard_sigmoid", alpha=hard.alpha, beta=hard.beta)
        case "linear":
            return Activation(**names, function="linear", alpha=given.linear.alpha, beta=given.linear.beta)
        case _:
            known = "ReLU, leakyReLU, sigmoid, tanh, sigmoidHard, linear"
            raise ValueError(f"is an activation of kind {kind}, which fedsim does not run; kinds it runs: {known}")


def _pooling(given: Any, names: Names) -> Pooling:
    functions = {0: "max", 1: "average"}
    if given.type not in functions:
        raise ValueError("is a pooling of another type than MAX and AVERAGE, whose formula Core ML does not publish")
    return Pooling(
        **names,
        function=cast(Any, functions[given.type]),
        kernel=_pair(given.kernelSize, (3, 3)),
        stride=_pair(given.stride, (1, 1)),
        padding=_pooling_padding(given),
        exclude_padding=given.avgPoolExcludePadding,
        is_global=given.globalPooling,
    )


def _flatten(given: Any, names: Names) -> Flatten:
    return Flatten(**names, order=_order(given.mode))


def _reshape(given: Any, names: Names) -> Reshape:
    match list(given.targetShape):
        case [channels, height, width] | [1, channels, height, width]:
            return Reshape(**names, shape=(channels, height, width), order=_order(given.mode))
        case other:
            raise ValueError(f"reshapes to {other}; expected [channels, height, width]")


def _permute(given: Any, names: Names) -> Permute:
    axes = list(given.axis) or [0, 1, 2, 3]
    if axes[0] != 0 or sorted(axes) != [0, 1, 2, 3]:
        raise ValueError(f"permutes axes as {axes}; expected 0 and then 1, 2, 3 in any order")
    return Permute(**names, axes=(axes[1] - 1, axes[2] - 1, axes[3] - 1))


def _softmax(given: Any, names: Names) -> Softmax:
    return Softmax(**names)


def _add(given: Any, names: Names) -> Add:
    return Add(**names, constant=given.alpha)


def _multiply(given: Any, names: Names) -> Multiply:
    return Multiply(**names, constant=given.alpha)


def _concat(given: Any, names: Names) -> Concat:
    if given.sequenceConcat:
        raise ValueError("joins sequences; only channels can be joined")
    return Concat(**names)


def _split(given: Any, names: Names) -> Split:
    if given.nOutputs != len(names["outputs"]):
        raise ValueError(f"splits into {given.nOutputs} parts but names {len(names['outputs'])} outputs")
    return Split(**names)


def _reduce(given: Any, names: Names) -> ReduceMean:
    average, axes = 1, {0: "CHW", 1: "HW", 2: "C", 3: "H", 4: "W"}
    if given.mode != average or given.axis not in axes:
        raise ValueError("reduces by another operation than AVG over CHW, HW, C, H or W")
    return ReduceMean(**names, axes=cast(Any, axes[given.axis]))


def _pad(given: Any, names: Names) -> Pad:
    fill, amounts = given.WhichOneof("PaddingType"), _edges(given.paddingAmounts)
    if fill is None:
        raise ValueError("does not say what it pads with; set constant, reflection or replication")
    return Pad(**names, fill=fill, amounts=amounts, value=given.constant.value)


def _upsample(given: Any, names: Names) -> Upsample:
    if given.fractionalScalingFactor or given.linearUpsampleMode != 0:
        raise ValueError("upsamples by a fraction or by aligned corners; only whole factors in mode DEFAULT can be run")
    methods = {0: "nearest", 1: "bilinear"}
    if given.mode not in methods:
        raise ValueError("upsamples by another method than NN and BILINEAR")
    return Upsample(**names, factors=_pair(given.scalingFactor, (1, 1)), method=cast(Any, methods[given.mode]))


def _scale(given: Any, names: Names) -> Scale:
    return Scale(
        **names, scale_shape=tuple(given.shapeScale), bias_shape=tuple(given.shapeBias) if given.hasBias else None
    )


def _bias(given: Any, names: Names) -> Bias:
    return Bias(**names, shape=tuple(given.shape))


def _unary(given: Any, names: Names) -> Threshold:
    threshold = 7
    if given.type != threshold:
        raise ValueError("is a unary function of another type than THRESHOLD")
    return Threshold(**names, alpha=given.alpha, scale=given.scale or 1.0, shift=given.shift)


def _clamped_relu(given: Any, names: Names) -> ClampedReLU:
    return ClampedReLU(**names, alpha=given.alpha, beta=given.beta)


def _clip(given: Any, names: Names) -> Clip:
    return Clip(**names, low=given.minVal, high=given.maxVal)


_READERS = {
    "convolution": _convolution,
    "innerProduct": _inner_product,
    "batchnorm": _batch_norm,
    "activation": _activation,
    "pooling": _pooling,
    "flatten": _flatten,
    "softmax": _softmax,
    "add": _add,
    "multiply": _multiply,
    "concat": _concat,
    "split": _split,
    "permute": _permute,
    "reshape": _reshape,
    "reduce": _reduce,
    "padding": _pad,
    "upsample": _upsample,
    "scale": _scale,
    "bias": _bias,
    "unary": _unary,
    "clampedReLU": _clamped_relu,
    "clip": _clip,
}
"""From the name of the layer's field in NeuralNetworkLayer."""


def _pair(values: Any, default: Pair) -> Pair:
    match list(values):
        case []:
            return default
        case [height, width]:
            return height, width
        case other:
            raise ValueError(f"has a setting of {len(other)} numbers where height and width are expected")


def _order(mode: int) -> Order:
    if mode not in (0, 1):
        raise ValueError(f"has an unknown order {mode}; expected CHANNEL_FIRST or CHANNEL_LAST")
    return "channel_last" if mode else "channel_first"


def _padding(given: Any, choice: str) -> Valid | Same:
    match given.WhichOneof(choice):
        case "valid":
            return _edges(given.valid.paddingAmounts)
        case "same":
            sides: dict[int, Asymmetry] = {0: "bottom_right_heavy", 1: "top_left_heavy"}
            if given.same.asymmetryMode not in sides:
                raise ValueError("has an unknown asymmetry of its 'same' padding")
            return Same(asymmetry=sides[given.same.asymmetryMode])
        case _:
            raise ValueError("does not say how it pads; set valid or same")


def _pooling_padding(given: Any) -> Valid | Same | IncludeLastPixel:
    if given.WhichOneof("PoolingPaddingType") != "includeLastPixel":
        return _padding(given, "PoolingPaddingType")
    height, width = _pair(given.includeLastPixel.paddingAmounts, (0, 0))
    return IncludeLastPixel(height=height, width=width)


def _edges(amounts: Any) -> Valid:
    """BorderAmounts: height, then width; none at all means zero."""
    edges = [(edge.startEdgeSize, edge.endEdgeSize) for edge in amounts.borderAmounts]
    match edges:
        case []:
            return Valid()
        case [(top, bottom), (left, right)]:
            return Valid(top=top, bottom=bottom, left=left, right=right)
        case _:
            raise ValueError(f"has {len(edges)} border amounts, expected height and width")
