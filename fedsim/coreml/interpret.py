"""Runs a contract's network in torch: the forward pass and the loss, as functions of the weights they are given.

Blobs are ``[batch, channels, height, width]``. After a convolution they lie in memory channel last, in which torch's
CPU poolings are several times faster; the first convolution of a grey image is fastest on what it is given.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.coreml.contract import Contract
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
    InnerProduct,
    Layer,
    Multiply,
    Pad,
    Permute,
    Pooling,
    ReduceMean,
    Reshape,
    Scale,
    Softmax,
    Split,
    Threshold,
    TransposedConvolution,
    Upsample,
    Valid,
)
from fedsim.coreml.shapes import input_blob
from fedsim.coreml.windows import cut_pixels, padding_pixels
from fedsim.updates import LocalTraining

Parameters = Mapping[tuple[str, str], Tensor]
"""(layer, parameter) -> tensor of the slot's shape."""


def parameters(contract: Contract, flat: Tensor) -> dict[tuple[str, str], Tensor]:
    """The flat ``[P]`` vector as one tensor a slot, in slot order: views, so that changing one changes the other.

    They are no leaves of a graph through ``flat``; to train, call ``requires_grad_()`` on each.

    Raises:
        ValueError: ``flat`` is not of shape ``[P]``.
    """
    if flat.shape != (contract.parameters,):
        raise ValueError(f"expected weights of shape [{contract.parameters}], got {list(flat.shape)}")
    runs = flat.detach().split([slot.count for slot in contract.slots])
    return {(slot.layer, slot.parameter): run.view(slot.shape) for slot, run in zip(contract.slots, runs, strict=True)}


def forward(contract: Contract, parameters: Parameters, x: Tensor) -> dict[str, Tensor]:
    """Every blob of the network for inputs ``x [B, *input_shape]``, by name, layer after layer as the file has them."""
    return _run(contract, contract.graph, parameters, x)


def logits(contract: Contract, parameters: Parameters, x: Tensor) -> Tensor:
    """What the loss is computed from, as ``[B, values]``: the softmax's input, or the output that is to be regressed.

    The same bits as ``forward`` gives, but only the layers that matter are run, and in a faster order.
    """
    blob = _loss_blob(contract)
    return _run(contract, fast_order(contract.graph, blob), parameters, x)[blob].flatten(1)


def loss(contract: Contract, parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """The mean loss over a batch, a scalar with gradient.

    Cross entropy (``y``: classes int64 ``[B]``) is computed from the softmax's input and never takes the logarithm of a
    probability. Mean squared error (``y``: float32, as many values an example as the output) is the mean over all
    values; Core ML does not document its own scale.
    """
    scores = logits(contract, parameters, x)
    if contract.loss == "cross_entropy":
        return F.cross_entropy(scores, y)
    return F.mse_loss(scores, y.reshape(scores.shape))


@lru_cache(maxsize=64)
def fast_order(graph: tuple[Layer, ...], blob: str) -> tuple[Layer, ...]:
    """The layers that ``blob`` depends on, each ReLU that feeds one max pooling and nothing else moved behind it.

    There it meets fewer numbers. Both are monotone and the largest of a window stays the largest, so outputs and
    gradients stay the same. Poolings with padding are left alone. The blob between the two holds other numbers.
    """
    needed, steps = {blob}, list[Layer]()
    for layer in reversed(graph):
        if needed.intersection(layer.outputs):
            needed.update(layer.inputs)
            steps.insert(0, layer)
    for i, relu in enumerate(steps):
        readers = [j for j, layer in enumerate(steps) if relu.outputs[0] in layer.inputs]
        match relu, [steps[j] for j in readers]:
            case Activation(function="relu"), [Pooling(function="max") as pooling] if pooling.padding == Valid():
                steps[i] = replace(pooling, inputs=relu.inputs, outputs=relu.outputs)
                steps[readers[0]] = replace(relu, inputs=relu.outputs, outputs=pooling.outputs)
            case _:
                pass
    return tuple(steps)


def make_optimizer(training: LocalTraining, parameters: Parameters) -> torch.optim.Optimizer:
    """A fresh optimizer, its state at zero, over these tensors.

    SGD is ``v = momentum * v + g; w -= lr * v``, to which all of Apple's documented forms are equal while the rate
    stays constant. Adam adds epsilon where ``training.epsilon_form`` says.
    """
    tensors = list(parameters.values())
    if training.optimizer == "sgd":
        return torch.optim.SGD(tensors, lr=training.learning_rate, momentum=training.momentum, fused=True)
    if training.epsilon_form == "mps":
        return MpsAdam(tensors, training)
    betas = (training.beta1, training.beta2)
    return torch.optim.Adam(tensors, lr=training.learning_rate, betas=betas, eps=training.epsilon, fused=True)


class MpsAdam(torch.optim.Optimizer):
    """Adam with epsilon added before the bias correction, as Apple's Metal Performance Shaders document it.

    ``w -= lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon)``, the "more efficient" order of Kingma & Ba
    2015, section 2.
    """

    def __init__(self, tensors: Iterable[Tensor], training: LocalTraining) -> None:
        super().__init__(tensors, {})
        self._training = training
        self._steps = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step along the gradients that the tensors hold; tensors without one stay as they are."""
        training = self._training
        self._steps += 1
        bias1, bias2 = 1 - training.beta1**self._steps, 1 - training.beta2**self._steps
        rate = training.learning_rate * math.sqrt(bias2) / bias1
        for tensor in (tensor for group in self.param_groups for tensor in group["params"]):
            if tensor.grad is None:
                continue
            state = self.state[tensor]
            if not state:
                state["m"], state["v"] = torch.zeros_like(tensor), torch.zeros_like(tensor)
            state["m"].lerp_(tensor.grad, 1 - training.beta1)
            state["v"].mul_(training.beta2).addcmul_(tensor.grad, tensor.grad, value=1 - training.beta2)
            tensor.addcdiv_(state["m"], state["v"].sqrt().add_(training.epsilon), value=-rate)


def _loss_blob(contract: Contract) -> str:
    """The blob that the loss is computed from: under cross entropy what its softmax reads."""
    if contract.loss == "mean_squared_error":
        return contract.output_name
    return next(layer.inputs[0] for layer in contract.graph if contract.output_name in layer.outputs)


def _run(contract: Contract, steps: Sequence[Layer], parameters: Parameters, x: Tensor) -> dict[str, Tensor]:
    arrays: dict[str, dict[str, Tensor]] = {}
    for (owner, name), constant in contract.frozen.items():
        arrays.setdefault(owner, {})[name] = torch.from_numpy(constant).to(x)
    for (owner, name), parameter in parameters.items():
        arrays.setdefault(owner, {})[name] = parameter
    blobs = {contract.input_name: x.reshape(len(x), *input_blob(contract.input_shape))}
    for layer in steps:
        outputs = _apply(layer, arrays.get(layer.name, {}), [blobs[name] for name in layer.inputs])
        blobs.update(zip(layer.outputs, outputs, strict=True))
    return blobs


def _apply(layer: Layer, arrays: Mapping[str, Tensor], inputs: list[Tensor]) -> Sequence[Tensor]:
    """A layer's outputs."""
    match layer:
        case Add():
            return [sum(inputs[1:], inputs[0]) if len(inputs) > 1 else inputs[0] + layer.constant]
        case Multiply():
            return [math.prod(inputs[1:], start=inputs[0]) if len(inputs) > 1 else inputs[0] * layer.constant]
        case Concat():
            return [torch.cat(inputs, 1)]
        case Split():
            return inputs[0].chunk(len(layer.outputs), 1)
        case Convolution():
            return [_convolution(layer, arrays, inputs[0])]
        case TransposedConvolution():
            return [_transposed_convolution(layer, arrays, inputs[0])]
        case InnerProduct():
            return [F.linear(inputs[0].flatten(1), arrays["weights"], arrays.get("bias"))[:, :, None, None]]
        case BatchNorm():
            mean, variance, gamma, beta = (arrays[name] for name in ("mean", "variance", "gamma", "beta"))
            return [F.batch_norm(inputs[0], mean, variance, gamma, beta, eps=layer.epsilon)]
        case Pooling():
            return [_pooling(layer, inputs[0])]
        case Scale():
            scaled = inputs[0] * _stretched(arrays["scale"])
            return [scaled if layer.bias_shape is None else scaled + _stretched(arrays["bias"])]
        case Bias():
            return [inputs[0] + _stretched(arrays["bias"])]
        case Activation() | ClampedReLU() | Clip() | Threshold() | Softmax():
            return [_elementwise(layer, inputs[0])]
        case Flatten() | Reshape() | Permute() | ReduceMean() | Pad() | Upsample():
            return [_rearranged(layer, inputs[0])]
        case _:
            assert_never(layer)


def _convolution(layer: Convolution, arrays: Mapping[str, Tensor], x: Tensor) -> Tensor:
    padded = _padded(x, padding_pixels(layer, x.shape[2], x.shape[3]))
    y = F.conv2d(padded, arrays["weights"], arrays.get("bias"), layer.stride, 0, layer.dilation, layer.groups)
    return y.contiguous(memory_format=torch.channels_last)


def _transposed_convolution(layer: TransposedConvolution, arrays: Mapping[str, Tensor], x: Tensor) -> Tensor:
    weights, bias, cut = arrays["weights"], arrays.get("bias"), cut_pixels(layer)
    y = F.conv_transpose2d(x, weights, bias, layer.stride, groups=layer.groups)
    return y[:, :, cut.top : y.shape[2] - cut.bottom, cut.left : y.shape[3] - cut.right]


def _pooling(layer: Pooling, x: Tensor) -> Tensor:
    if layer.is_global:
        return F.max_pool2d(x, (x.shape[2], x.shape[3])) if layer.function == "max" else x.mean((2, 3), keepdim=True)
    padding = padding_pixels(layer, x.shape[2], x.shape[3])
    if layer.function == "max":
        return F.max_pool2d(_padded(x, padding, -math.inf), layer.kernel, layer.stride)
    average = F.avg_pool2d(_padded(x, padding), layer.kernel, layer.stride)
    if not layer.exclude_padding or padding == Valid():
        return average
    share = F.avg_pool2d(_padded(torch.ones_like(x[:1, :1]), padding), layer.kernel, layer.stride)
    return average / share


def _elementwise(layer: Activation | ClampedReLU | Clip | Threshold | Softmax, x: Tensor) -> Tensor:
    match layer:
        case Softmax():
            return torch.softmax(x, 1)
        case Activation(function="relu"):
            return torch.relu(x)
        case Activation(function="sigmoid"):
            return torch.sigmoid(x)
        case Activation(function="tanh"):
            return torch.tanh(x)
        case Activation(function="leaky_relu"):
            return F.leaky_relu(x, layer.alpha)
        case Activation(function="hard_sigmoid"):
            return (layer.alpha * x + layer.beta).clamp(0, 1)
        case Activation():
            return layer.alpha * x + layer.beta
        case ClampedReLU():
            return F.leaky_relu(x, layer.alpha).clamp(max=layer.beta)
        case Clip():
            return x.clamp(layer.low, layer.high)
        case Threshold():
            return (layer.scale * x + layer.shift).clamp(min=layer.alpha)


def _rearranged(layer: Flatten | Reshape | Permute | ReduceMean | Pad | Upsample, x: Tensor) -> Tensor:
    match layer:
        case Flatten(order=order):
            flat = x.flatten(1) if order == "channel_first" else x.permute(0, 2, 3, 1).flatten(1)
            return flat[:, :, None, None]
        case Reshape(shape=shape, order="channel_first"):
            return x.reshape(len(x), *shape)
        case Reshape(shape=(channels, height, width)):
            return x.permute(0, 2, 3, 1).reshape(len(x), height, width, channels).permute(0, 3, 1, 2)
        case Permute(axes=(first, second, third)):
            return x.permute(0, first + 1, second + 1, third + 1)
        case ReduceMean(axes=axes):
            return x.mean(["BCHW".index(axis) for axis in axes], keepdim=True)
        case Pad(amounts=amounts):
            edges = (amounts.left, amounts.right, amounts.top, amounts.bottom)
            mode = {"constant": "constant", "reflection": "reflect", "replication": "replicate"}[layer.fill]
            return F.pad(x, edges, mode, layer.value if layer.fill == "constant" else None)
        case Upsample(factors=factors, method="nearest"):
            return x.repeat_interleave(factors[0], 2).repeat_interleave(factors[1], 3)
        case Upsample():
            return _bilinear(x, *layer.factors)


def _bilinear(x: Tensor, vertical: int, horizontal: int) -> Tensor:
    """Samples at ``i / factor``, at most at the last pixel: as between aligned corners of a map one pixel larger."""
    height, width = vertical * x.shape[2], horizontal * x.shape[3]
    larger = F.pad(x, (0, 1, 0, 1), "replicate")
    enlarged = F.interpolate(larger, (height + 1, width + 1), mode="bilinear", align_corners=True)
    return enlarged[:, :, :height, :width]


def _padded(x: Tensor, amounts: Valid, value: float = 0.0) -> Tensor:
    if amounts == Valid():
        return x
    return F.pad(x, (amounts.left, amounts.right, amounts.top, amounts.bottom), value=value)


def _stretched(array: Tensor) -> Tensor:
    """A stored array of rank 1 as ``[channels, 1, 1]``, so that it spreads over the map."""
    return array.reshape(-1, 1, 1) if array.dim() == 1 else array
