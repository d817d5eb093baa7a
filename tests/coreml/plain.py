"""Core ML's layers in NumPy, one output number at a time in float64, from the words of NeuralNetwork.proto alone.

Shares no code with the interpreter or with ``fedsim.coreml.shapes``: padding and sizes are worked out here again.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fedsim.coreml import layers as L

Arrays = Mapping[str, np.ndarray]


def run(graph: Sequence[L.Layer], weights: Mapping[tuple[str, str], np.ndarray], name: str, x: np.ndarray) -> dict:
    """Every blob for inputs ``x [B, C, H, W]``."""
    blobs = {name: x.astype(np.float64)}
    for layer in graph:
        arrays = {key: value.astype(np.float64) for (owner, key), value in weights.items() if owner == layer.name}
        outputs = outputs_of(layer, arrays, [blobs[source] for source in layer.inputs])
        blobs.update(zip(layer.outputs, outputs, strict=True))
    return blobs


def outputs_of(layer: L.Layer, arrays: Arrays, inputs: list[np.ndarray]) -> list[np.ndarray]:
    x = inputs[0]
    match layer:
        case L.Add() if len(inputs) == 1:
            return [x + layer.constant]
        case L.Add():
            return [np.sum(np.broadcast_arrays(*inputs), axis=0)]
        case L.Multiply() if len(inputs) == 1:
            return [x * layer.constant]
        case L.Multiply():
            return [np.prod(np.broadcast_arrays(*inputs), axis=0)]
        case L.Concat():
            return [np.concatenate(inputs, axis=1)]
        case L.Split():
            return np.split(x, len(layer.outputs), axis=1)
        case L.Convolution():
            return [convolution(layer, arrays, x)]
        case L.TransposedConvolution():
            return [transposed_convolution(layer, arrays, x)]
        case L.InnerProduct():
            y = np.array([arrays["weights"] @ example.ravel() for example in x])
            return [(y + arrays.get("bias", 0.0))[:, :, None, None]]
        case L.BatchNorm():
            gamma, beta, mean, variance = (column(arrays[key]) for key in ("gamma", "beta", "mean", "variance"))
            return [gamma * (x - mean) / np.sqrt(variance + layer.epsilon) + beta]
        case L.Pooling():
            return [pooling(layer, x)]
        case L.Scale():
            return [x * column(arrays["scale"]) + column(arrays.get("bias", np.zeros(1)))]
        case L.Bias():
            return [x + column(arrays["bias"])]
        case L.Pad():
            amounts = ((0, 0), (0, 0), (layer.amounts.top, layer.amounts.bottom))
            amounts = (*amounts, (layer.amounts.left, layer.amounts.right))
            if layer.fill == "constant":
                return [np.pad(x, amounts, constant_values=layer.value)]
            return [np.pad(x, amounts, mode={"reflection": "reflect", "replication": "edge"}[layer.fill])]
        case L.Upsample():
            return [upsampled(layer, x)]
        case _:
            return [elementwise_or_reshaped(layer, x)]


def elementwise_or_reshaped(layer: L.Layer, x: np.ndarray) -> np.ndarray:
    match layer:
        case L.Activation(function=function, alpha=alpha, beta=beta):
            return {
                "relu": lambda: np.maximum(0, x),
                "leaky_relu": lambda: np.where(x >= 0, x, alpha * x),
                "sigmoid": lambda: 1 / (1 + np.exp(-x)),
                "tanh": lambda: np.tanh(x),
                "hard_sigmoid": lambda: np.minimum(np.maximum(alpha * x + beta, 0), 1),
                "linear": lambda: alpha * x + beta,
            }[function]()
        case L.ClampedReLU():
            return np.minimum(np.where(x >= 0, x, layer.alpha * x), layer.beta)
        case L.Clip():
            return np.minimum(np.maximum(x, layer.low), layer.high)
        case L.Threshold():
            return np.maximum(layer.alpha, layer.scale * x + layer.shift)
        case L.Softmax():
            powers = np.exp(x - x.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)
        case L.ReduceMean():
            return x.mean(axis=tuple({"C": 1, "H": 2, "W": 3}[axis] for axis in layer.axes), keepdims=True)
        case L.Permute():
            return x.transpose(0, *(axis + 1 for axis in layer.axes))
        case L.Flatten(order="channel_first"):
            return np.array([example.ravel() for example in x])[:, :, None, None]
        case L.Flatten():
            return np.array([example.transpose(1, 2, 0).ravel() for example in x])[:, :, None, None]
        case L.Reshape(shape=shape, order="channel_first"):
            return np.array([example.ravel().reshape(shape) for example in x])
        case L.Reshape(shape=(channels, height, width)):
            flat = [example.transpose(1, 2, 0).ravel() for example in x]
            return np.array([row.reshape(height, width, channels).transpose(2, 0, 1) for row in flat])
        case _:
            raise AssertionError(layer)


def convolution(layer: L.Convolution, arrays: Arrays, x: np.ndarray) -> np.ndarray:
    reach = [(size - 1) * step + 1 for size, step in zip(layer.kernel, layer.dilation, strict=True)]
    amounts, (rows, columns) = placed(layer.padding, x.shape[2:], reach, layer.stride)
    padded = np.pad(x, ((0, 0), (0, 0), *amounts))
    per_group = layer.output_channels // layer.groups
    y = np.empty((len(x), layer.output_channels, rows, columns))
    for o in range(layer.output_channels):
        group = o // per_group
        share = padded.reshape(len(x), layer.groups, -1, *padded.shape[2:])[:, group]
        for i in range(rows):
            for j in range(columns):
                top, left = i * layer.stride[0], j * layer.stride[1]
                window = share[
                    :, :, top : top + reach[0] : layer.dilation[0], left : left + reach[1] : layer.dilation[1]
                ]
                y[:, o, i, j] = (window * arrays["weights"][o]).sum(axis=(1, 2, 3))
    return y + column(arrays.get("bias", np.zeros(1)))


def transposed_convolution(layer: L.TransposedConvolution, arrays: Arrays, x: np.ndarray) -> np.ndarray:
    """Each input pixel stamps its kernel onto the output; then ``same`` trims to stride times the input."""
    full = [(size - 1) * s + k for size, s, k in zip(x.shape[2:], layer.stride, layer.kernel, strict=True)]
    y = np.zeros((len(x), layer.output_channels, *full))
    ins, outs = layer.input_channels // layer.groups, layer.output_channels // layer.groups
    for c in range(layer.input_channels):
        first = c // ins * outs
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                top, left = i * layer.stride[0], j * layer.stride[1]
                stamp = x[:, c, i, j][:, None, None, None] * arrays["weights"][c]
                y[:, first : first + outs, top : top + layer.kernel[0], left : left + layer.kernel[1]] += stamp
    y += column(arrays.get("bias", np.zeros(1)))
    if isinstance(layer.padding, L.Same):
        for axis in (0, 1):
            excess = full[axis] - x.shape[2 + axis] * layer.stride[axis]
            before = excess // 2 if layer.padding.asymmetry == "bottom_right_heavy" else excess - excess // 2
            y = np.take(y, range(before, before + x.shape[2 + axis] * layer.stride[axis]), axis=2 + axis)
    return y


def pooling(layer: L.Pooling, x: np.ndarray) -> np.ndarray:
    if layer.is_global:
        return (x.max if layer.function == "max" else x.mean)(axis=(2, 3), keepdims=True)
    amounts, (rows, columns) = placed(layer.padding, x.shape[2:], layer.kernel, layer.stride)
    padded = np.pad(x, ((0, 0), (0, 0), *amounts), constant_values=np.nan)
    y = np.empty((*x.shape[:2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, left = i * layer.stride[0], j * layer.stride[1]
            window = padded[:, :, top : top + layer.kernel[0], left : left + layer.kernel[1]]
            if layer.function == "max":
                y[:, :, i, j] = np.nanmax(window, axis=(2, 3))
            elif layer.exclude_padding:
                y[:, :, i, j] = np.nanmean(window, axis=(2, 3))
            else:
                y[:, :, i, j] = np.nansum(window, axis=(2, 3)) / math.prod(layer.kernel)
    return y


def placed(padding: object, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> tuple[list, list]:
    """Padding before and after, and number of windows, for height and width."""
    amounts, counts = [], []
    for axis, (size, k, s) in enumerate(zip(sizes, kernel, stride, strict=True)):
        match padding:
            case L.Valid():
                before, after = [(padding.top, padding.bottom), (padding.left, padding.right)][axis]
                count = (size + before + after - k) // s + 1
            case L.Same(asymmetry=asymmetry):
                count = math.ceil(size / s)
                total = max(0, (count - 1) * s + k - size)
                small, large = total // 2, total - total // 2
                before, after = (small, large) if asymmetry == "bottom_right_heavy" else (large, small)
            case L.IncludeLastPixel(height=height, width=width):
                before = (height, width)[axis]
                count = math.ceil((size + 2 * before - k) / s) + 1
                if (height > 0 or width > 0) and (count - 1) * s >= size + before:
                    count -= 1
                after = max(0, (count - 1) * s + k - size - before)
        amounts.append((before, after))
        counts.append(count)
    return amounts, counts


def upsampled(layer: L.Upsample, x: np.ndarray) -> np.ndarray:
    """UpsampleLayerParams, mode DEFAULT: ``spacing = (Xin - Xin / Xout) / (Xout - 1)``, points at most ``Xin - 1``."""
    height, width = x.shape[2] * layer.factors[0], x.shape[3] * layer.factors[1]
    y = np.empty((*x.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            if layer.method == "nearest":
                y[:, :, i, j] = x[:, :, i // layer.factors[0], j // layer.factors[1]]
                continue
            (top, down), (left, right) = grid_point(i, x.shape[2], height), grid_point(j, x.shape[3], width)
            low = x[:, :, top, left] * (1 - right) + x[:, :, top, min(left + 1, x.shape[3] - 1)] * right
            below = min(top + 1, x.shape[2] - 1)
            high = x[:, :, below, left] * (1 - right) + x[:, :, below, min(left + 1, x.shape[3] - 1)] * right
            y[:, :, i, j] = low * (1 - down) + high * down
    return y


def grid_point(i: int, size: int, enlarged: int) -> tuple[int, float]:
    """The pixel at or before sample ``i`` and how far beyond it the sample lies."""
    spacing = (size - size / enlarged) / (enlarged - 1) if enlarged > 1 else 0.0
    at = min(size - 1.0, max(0.0, i * spacing))
    return int(at), at - int(at)


def column(array: np.ndarray) -> np.ndarray:
    """An array of one number, or one a channel, shaped to spread over maps."""
    return array.reshape(-1, 1, 1) if array.ndim == 1 else array
