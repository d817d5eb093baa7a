"""Small random networks of every kind of layer, for Hypothesis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fedsim.coreml import layers as L
from fedsim.coreml.build import Input
from fedsim.coreml.shapes import Shape, blob_shapes

FLOATS = st.floats(-2, 2, width=32).map(lambda value: value + 0.0)  # coremltools does not write -0.0
SIDES = st.sampled_from(["bottom_right_heavy", "top_left_heavy"])
ORDERS = st.sampled_from(["channel_first", "channel_last"])


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network that ends in a dense layer ``dense`` and a softmax, with weights for every parameter."""

    layers: tuple[L.Layer, ...]
    input: Input
    weights: dict[tuple[str, str], np.ndarray]
    generator: np.random.Generator


@st.composite
def networks(draw: Any) -> Network:
    """One to four random layers, two of which may read earlier blobs, then a dense classifier of three classes."""
    shape = tuple(draw(st.integers(1, high)) for high in (4, 7, 7))
    graph: list[L.Layer] = []
    shapes: dict[str, Shape] = {"in": shape}
    for index in range(draw(st.integers(1, 4))):
        source = draw(st.sampled_from(list(shapes)))
        graph.append(_layer(draw, f"layer{index}", source, f"blob{index}", shapes))
        shapes = blob_shapes(graph, "in", shape)
    last = list(shapes)[-1]
    graph += classifier(last, int(np.prod(shapes[last])))
    return with_weights(graph, Input(name="in", shape=shape), draw(st.integers(0, 2**32 - 1)))


def classifier(source: str, inputs: int) -> list[L.Layer]:
    return [
        L.InnerProduct(
            name="dense",
            inputs=(source,),
            outputs=("scores",),
            input_channels=inputs,
            output_channels=3,
            updatable=True,
        ),
        L.Softmax(name="softmax", inputs=("scores",), outputs=("prob",)),
    ]


def with_weights(graph: Sequence[L.Layer], input: Input, seed: int) -> Network:
    """The network with standard normal weights; variances are positive."""
    generator = np.random.default_rng(seed)
    weights = {
        (layer.name, parameter): generator.standard_normal(shape).astype(np.float32)
        for layer in graph
        for parameter, shape in L.parameter_shapes(layer).items()
    }
    weights = {key: abs(values) if key[1] == "variance" else values for key, values in weights.items()}
    return Network(layers=tuple(graph), input=input, weights=weights, generator=generator)


def _layer(draw: Any, name: str, source: str, to: str, shapes: dict[str, Shape]) -> L.Layer:
    channels, height, width = shapes[source]
    one: dict[str, Any] = {"name": name, "inputs": (source,), "outputs": (to,)}
    kinds = ["convolution", "transposed", "pooling", "global", "batch_norm", "activation", "clamped", "clip"]
    kinds += ["threshold", "flatten", "reshape", "permute", "softmax", "constant", "combine", "concat", "split"]
    kinds += ["reduce", "pad", "upsample", "scale", "bias", "inner_product"]
    match draw(st.sampled_from(kinds)):
        case "convolution":
            return _convolution(draw, one, shapes[source])
        case "transposed":
            return _transposed(draw, one, shapes[source])
        case "pooling":
            return _pooling(draw, one, shapes[source])
        case "global":
            return L.Pooling(**one, function=draw(st.sampled_from(["max", "average"])), is_global=True)
        case "batch_norm":
            return L.BatchNorm(**one, channels=channels, epsilon=draw(st.floats(0.125, 1, width=32)))
        case "activation":
            plain = st.sampled_from(["relu", "sigmoid", "tanh"])
            if draw(st.booleans()):
                return L.Activation(**one, function=draw(plain))
            if draw(st.booleans()):
                return L.Activation(**one, function="leaky_relu", alpha=draw(FLOATS))
            function = draw(st.sampled_from(["hard_sigmoid", "linear"]))
            return L.Activation(**one, function=function, alpha=draw(FLOATS), beta=draw(FLOATS))
        case "clamped":
            return L.ClampedReLU(**one, alpha=draw(FLOATS), beta=draw(FLOATS))
        case "clip":
            return L.Clip(**one, low=-0.5, high=draw(st.floats(0, 2, width=32)))
        case "threshold":
            return L.Threshold(**one, alpha=draw(FLOATS), scale=draw(st.sampled_from([1.0, -1.0])), shift=draw(FLOATS))
        case "flatten":
            return L.Flatten(**one, order=draw(ORDERS))
        case "reshape":
            return L.Reshape(**one, shape=draw(st.permutations(shapes[source]).map(tuple)), order=draw(ORDERS))
        case "permute":
            return L.Permute(**one, axes=draw(st.permutations((0, 1, 2)).map(tuple)))
        case "softmax":
            return L.Softmax(**one)
        case "constant":
            return draw(st.sampled_from([L.Add, L.Multiply]))(**one, constant=draw(FLOATS))
        case "combine":
            fitting = [(1, 1, 1), (channels, 1, 1), (1, height, width), (channels, height, width)]
            others = st.sampled_from([blob for blob, shape in shapes.items() if shape in fitting])
            inputs = (source, *draw(st.lists(others, min_size=1, max_size=2)))
            return draw(st.sampled_from([L.Add, L.Multiply]))(name=name, inputs=inputs, outputs=(to,))
        case "concat":
            others = [blob for blob, shape in shapes.items() if shape[1:] == (height, width)]
            return L.Concat(name=name, inputs=(source, draw(st.sampled_from(others))), outputs=(to,))
        case "split":
            parts = draw(st.sampled_from([count for count in (1, 2, 3, 4) if channels % count == 0]))
            return L.Split(name=name, inputs=(source,), outputs=tuple(f"{to}.{part}" for part in range(parts)))
        case "reduce":
            return L.ReduceMean(**one, axes=draw(st.sampled_from(["CHW", "HW", "C", "H", "W"])))
        case "pad":
            return _pad(draw, one, height, width)
        case "upsample":
            factors = draw(st.integers(1, 2)), draw(st.integers(1, 2))
            return L.Upsample(**one, factors=factors, method=draw(st.sampled_from(["nearest", "bilinear"])))
        case "scale":
            array = st.sampled_from([(1,), (channels,), (1, height, width), (channels, height, width)])
            return L.Scale(**one, scale_shape=draw(array), bias_shape=draw(st.none() | array))
        case "bias":
            array = st.sampled_from([(1,), (channels,), (1, height, width), (channels, height, width)])
            return L.Bias(**one, shape=draw(array))
        case _:
            inputs, outputs = channels * height * width, draw(st.integers(1, 5))
            return L.InnerProduct(
                **one, input_channels=inputs, output_channels=outputs, has_bias=draw(st.booleans()), updatable=True
            )


def _convolution(draw: Any, one: Any, shape: Shape) -> L.Convolution:
    channels, height, width = shape
    groups = draw(st.sampled_from([count for count in (1, 2, 3, 4) if channels % count == 0]))
    dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, (size - 1) // d + 1)) for size, d in zip((height, width), dilation, strict=True))
    edge = st.integers(0, 2)
    fixed = st.builds(L.Valid, top=edge, bottom=edge, left=edge, right=edge)
    return L.Convolution(
        **one,
        input_channels=channels,
        output_channels=groups * draw(st.integers(1, 2)),
        kernel=kernel,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        dilation=dilation,
        groups=groups,
        padding=draw(fixed | st.builds(L.Same, asymmetry=SIDES)),
        has_bias=draw(st.booleans()),
        updatable=draw(st.booleans()),
    )


def _transposed(draw: Any, one: Any, shape: Shape) -> L.TransposedConvolution:
    groups = draw(st.sampled_from([count for count in (1, 2, 3, 4) if shape[0] % count == 0]))
    stride = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel = draw(st.integers(stride[0], 3)), draw(st.integers(stride[1], 3))
    return L.TransposedConvolution(
        **one,
        input_channels=shape[0],
        output_channels=groups * draw(st.integers(1, 2)),
        kernel=kernel,
        stride=stride,
        groups=groups,
        padding=draw(st.just(L.Valid()) | st.builds(L.Same, asymmetry=SIDES)),
        has_bias=draw(st.booleans()),
        updatable=draw(st.booleans()),
    )


def _pooling(draw: Any, one: Any, shape: Shape) -> L.Pooling:
    _, height, width = shape
    kernel = draw(st.integers(1, min(height, 3))), draw(st.integers(1, min(width, 3)))
    down, across = st.integers(0, kernel[0] - 1), st.integers(0, kernel[1] - 1)
    fixed = st.builds(L.Valid, top=down, bottom=down, left=across, right=across)
    last = st.builds(L.IncludeLastPixel, height=down, width=across)
    padding = draw(fixed | st.builds(L.Same, asymmetry=SIDES) | last)
    longest = kernel if isinstance(padding, L.IncludeLastPixel) else (3, 3)
    return L.Pooling(
        **one,
        function=draw(st.sampled_from(["max", "average"])),
        kernel=kernel,
        stride=(draw(st.integers(1, longest[0])), draw(st.integers(1, longest[1]))),
        padding=padding,
        exclude_padding=isinstance(padding, L.IncludeLastPixel) or draw(st.booleans()),
    )


def _pad(draw: Any, one: Any, height: int, width: int) -> L.Pad:
    fill = draw(st.sampled_from(["constant", "reflection", "replication"]))
    down, across = st.integers(0, min(2, height - 1)), st.integers(0, min(2, width - 1))
    amounts = draw(st.builds(L.Valid, top=down, bottom=down, left=across, right=across))
    return L.Pad(**one, fill=fill, amounts=amounts, value=draw(FLOATS) if fill == "constant" else 0.0)
