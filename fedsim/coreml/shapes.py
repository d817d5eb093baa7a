"""The shape of every blob of a network; working them out checks that the layers fit together."""

import math
from collections.abc import Sequence

from fedsim.coreml.layers import (
    Add,
    BatchNorm,
    Bias,
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
    Split,
    TransposedConvolution,
    Upsample,
)
from fedsim.coreml.windows import padding_pixels, transposed_size, window_counts

Shape = tuple[int, int, int]
"""Channels, height, width."""

_LARGEST_BLOB = 2**26
"""Numbers in one blob; what is larger is a mistake, not a network for a phone."""


def input_blob(shape: tuple[int, ...]) -> Shape:
    """How Core ML lays out a model input of rank 1 or 3.

    >>> input_blob((10,)), input_blob((3, 32, 32))
    ((10, 1, 1), (3, 32, 32))

    Raises:
        ValueError: any other rank, or a size below one.
    """
    match shape:
        case (channels,) if channels > 0:
            return channels, 1, 1
        case (channels, height, width) if min(shape) > 0:
            return channels, height, width
        case _:
            raise ValueError(f"the input's shape is {list(shape)}; expected [channels] or [channels, height, width]")


def blob_shapes(graph: Sequence[Layer], input_name: str, input_shape: tuple[int, ...]) -> dict[str, Shape]:
    """The shape of the input and of each layer's outputs, in the order in which they come about.

    >>> flatten = Flatten(name="flatten", inputs=("image",), outputs=("flat",))
    >>> blob_shapes([flatten], "image", (1, 28, 28))
    {'image': (1, 28, 28), 'flat': (784, 1, 1)}

    Raises:
        ValueError: a layer reads a blob that does not exist yet, writes one that does, has a setting that makes no
            sense, or does not fit its input; the message names the layer.
    """
    shapes = {input_name: input_blob(input_shape)}
    for layer in graph:
        try:
            for name, shape in zip(layer.outputs, _output_shapes(layer, shapes), strict=True):
                if name in shapes:
                    raise ValueError(f"writes blob {name}, which exists already")
                if min(shape) < 1 or math.prod(shape) > _LARGEST_BLOB:
                    raise ValueError(f"would write blob {name} of shape {list(shape)}")
                shapes[name] = shape
        except ValueError as error:
            raise ValueError(f"layer {layer.name} {error}") from None
    return shapes


def _output_shapes(layer: Layer, shapes: dict[str, Shape]) -> list[Shape]:
    _check_names(layer, shapes)
    inputs = [shapes[name] for name in layer.inputs]
    match layer:
        case Add() | Multiply():
            return [_stretched(inputs)]
        case Concat():
            if len({shape[1:] for shape in inputs}) > 1:
                raise ValueError(f"joins maps of different sizes {[list(shape) for shape in inputs]}")
            return [(sum(shape[0] for shape in inputs), *inputs[0][1:])]
        case Split(outputs=parts):
            channels, height, width = inputs[0]
            if channels % len(parts):
                raise ValueError(f"splits {channels} channels into {len(parts)} unequal parts")
            return [(channels // len(parts), height, width)] * len(parts)
        case _:
            return [_output_shape(layer, *inputs[0])]


def _output_shape(layer: Layer, channels: int, height: int, width: int) -> Shape:
    """What a layer of one input and one output makes of a blob of this shape."""
    match layer:
        case Convolution() | TransposedConvolution():
            _check_convolution(layer, channels)
            transposed = isinstance(layer, TransposedConvolution)
            size = transposed_size(layer, height, width) if transposed else window_counts(layer, height, width)
            return (layer.output_channels, *size)
        case InnerProduct(input_channels=expected, output_channels=outputs):
            _check_channels(channels * height * width, expected)
            return outputs, 1, 1
        case BatchNorm(channels=expected):
            _check_channels(channels, expected)
            return channels, height, width
        case Pooling(is_global=True):
            return channels, 1, 1
        case Pooling():
            _check_pooling(layer, height, width)
            return (channels, *window_counts(layer, height, width))
        case Flatten():
            return channels * height * width, 1, 1
        case Reshape(shape=shape):
            if min(shape) < 1 or math.prod(shape) != channels * height * width:
                raise ValueError(f"cannot turn shape {[channels, height, width]} into {list(shape)}")
            return shape
        case Permute(axes=(first, second, third)):
            sizes = (channels, height, width)
            return sizes[first], sizes[second], sizes[third]
        case ReduceMean(axes=axes):
            return 1 if "C" in axes else channels, 1 if "H" in axes else height, 1 if "W" in axes else width
        case Pad(amounts=amounts):
            _check_border(layer, height, width)
            return channels, height + amounts.top + amounts.bottom, width + amounts.left + amounts.right
        case Upsample(factors=(vertical, horizontal)):
            return channels, height * vertical, width * horizontal
        case Scale(scale_shape=scale, bias_shape=bias):
            _check_array(scale, channels, height, width)
            _check_array(bias or (1,), channels, height, width)
            return channels, height, width
        case Bias(shape=shape):
            _check_array(shape, channels, height, width)
            return channels, height, width
        case _:
            return channels, height, width


def _check_names(layer: Layer, shapes: dict[str, Shape]) -> None:
    many_inputs, many_outputs = isinstance(layer, Add | Multiply | Concat), isinstance(layer, Split)
    if not layer.inputs or (len(layer.inputs) > 1 and not many_inputs):
        raise ValueError(f"has {len(layer.inputs)} inputs, expected {'one or more' if many_inputs else 'one'}")
    if not layer.outputs or (len(layer.outputs) > 1 and not many_outputs):
        raise ValueError(f"has {len(layer.outputs)} outputs, expected {'one or more' if many_outputs else 'one'}")
    missing = [name for name in layer.inputs if name not in shapes]
    if missing:
        raise ValueError(f"reads blob {missing[0]}, which no layer before it writes")


def _check_channels(given: int, expected: int) -> None:
    if given != expected:
        raise ValueError(f"expects {expected} channels, its input has {given}")


def _check_convolution(layer: Convolution | TransposedConvolution, channels: int) -> None:
    _check_channels(channels, layer.input_channels)
    dilation = layer.dilation if isinstance(layer, Convolution) else (1, 1)
    if min(*layer.kernel, *layer.stride, *dilation, layer.groups) < 1:
        raise ValueError("has a kernel, stride, dilation or number of groups below one")
    if layer.input_channels % layer.groups or layer.output_channels % layer.groups:
        raise ValueError(f"has {layer.groups} groups, which divide its channels unequally")
    too_small = any(kernel < stride for kernel, stride in zip(layer.kernel, layer.stride, strict=True))
    if isinstance(layer, TransposedConvolution) and isinstance(layer.padding, Same) and too_small:
        raise ValueError(f"has 'same' padding with a kernel {layer.kernel} smaller than its stride {layer.stride}")


def _check_pooling(layer: Pooling, height: int, width: int) -> None:
    """Among other things, that every window covers a pixel: a maximum or average of padding alone has no meaning."""
    if min(*layer.kernel, *layer.stride) < 1:
        raise ValueError("has a kernel or stride below one")
    if isinstance(layer.padding, IncludeLastPixel) and layer.function == "average" and not layer.exclude_padding:
        raise ValueError("averages over the padding of windows to the last pixel; set avgPoolExcludePadding")
    padding, (rows, columns) = padding_pixels(layer, height, width), window_counts(layer, height, width)
    first_outside = padding.top >= layer.kernel[0] or padding.left >= layer.kernel[1]
    last_down, last_across = (rows - 1) * layer.stride[0], (columns - 1) * layer.stride[1]
    if first_outside or last_down >= padding.top + height or last_across >= padding.left + width:
        raise ValueError(f"pads so much that some of its windows of {layer.kernel} hold nothing but padding")


def _check_border(layer: Pad, height: int, width: int) -> None:
    amounts = layer.amounts
    too_wide = max(amounts.top, amounts.bottom) >= height or max(amounts.left, amounts.right) >= width
    if layer.fill == "reflection" and too_wide:
        raise ValueError(f"mirrors a border wider than its input of {height} x {width}")


def _check_array(shape: tuple[int, ...], channels: int, height: int, width: int) -> None:
    """ScaleLayerParams and BiasLayerParams: ``[1]``, ``[C]``, ``[1, H, W]`` or ``[C, H, W]``."""
    if shape not in ((1,), (channels,), (1, height, width), (channels, height, width)):
        raise ValueError(f"stores an array of shape {list(shape)} for a blob of {[channels, height, width]}")


def _stretched(inputs: list[Shape]) -> Shape:
    """The shape to which all ``inputs`` stretch along their axes of size one (AddLayerParams, MultiplyLayerParams)."""
    channels, height, width = (max(sizes) for sizes in zip(*inputs, strict=True))
    whole = (channels, height, width)
    if any(size not in (1, full) for shape in inputs for size, full in zip(shape, whole, strict=True)):
        raise ValueError(f"combines shapes that do not match: {[list(shape) for shape in inputs]}")
    return whole
