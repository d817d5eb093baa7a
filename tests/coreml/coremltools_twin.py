"""The same networks built with coremltools' NeuralNetworkBuilder: what our own builder is held to, byte for byte."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from coremltools.models import datatypes
from coremltools.models.neural_network import AdamParams, NeuralNetworkBuilder, SgdParams

from fedsim.coreml import layers as L
from fedsim.coreml.build import Input
from fedsim.updates import LocalTraining

Weights = Mapping[tuple[str, str], np.ndarray]


def built_by_coremltools(
    *,
    layers: Sequence[L.Layer],
    input: Input,
    output_shape: tuple[int, ...],
    loss: str,
    training: LocalTraining,
    weights: Weights,
    epochs: Sequence[int],
    batches: Sequence[int],
    shuffle_seed: int | None,
    description: str,
) -> Any:
    """The ``Model`` message for this network, with all ranges [0, 1]."""
    output = layers[-1].outputs[0]
    array = datatypes.Array
    features = [(input.name, array(*input.shape))], [(output, array(*output_shape))]
    b = NeuralNetworkBuilder(*features, use_float_arraytype=True)
    for layer in layers:
        own = {parameter: values for (name, parameter), values in weights.items() if name == layer.name}
        add_layer(b, layer, own)
    b.make_updatable([layer.name for layer in layers if L.is_updatable(layer)])
    with contextlib.redirect_stdout(io.StringIO()):
        if loss == "cross_entropy":
            b.set_categorical_cross_entropy_loss("lossLayer", output)
        else:
            b.set_mean_squared_error_loss("lossLayer", (output, array(*output_shape)))
    _set_optimizer(b, training, batches)
    b.set_epochs(training.epochs, list(epochs))
    b.set_shuffle(shuffle_seed)
    b.nn_spec.updateParams.shuffle.defaultValue = training.shuffle
    b.spec.description.metadata.author = "fedsim"
    b.spec.description.metadata.shortDescription = description
    return b.spec


def _set_optimizer(b: Any, training: LocalTraining, batches: Sequence[int]) -> None:
    if training.optimizer == "sgd":
        parameters: Any = SgdParams(lr=training.learning_rate, momentum=training.momentum)
        parameters.set_batch(training.batch_size, list(batches))
        b.set_sgd_optimizer(parameters)
    else:
        betas = {"beta1": training.beta1, "beta2": training.beta2}
        parameters = AdamParams(lr=training.learning_rate, **betas, eps=training.epsilon)
        parameters.set_batch(training.batch_size, list(batches))
        b.set_adam_optimizer(parameters)


def add_layer(b: Any, layer: L.Layer, weights: Mapping[str, np.ndarray]) -> None:
    """One layer through the builder's own method for it."""
    source, to, name = layer.inputs[0], layer.outputs[0], layer.name
    order = {"channel_first": 0, "channel_last": 1}
    match layer:
        case L.Convolution() | L.TransposedConvolution():
            _add_convolution(b, layer, weights)
        case L.InnerProduct():
            channels = (layer.input_channels, layer.output_channels)
            b.add_inner_product(name, weights["weights"], weights.get("bias"), *channels, layer.has_bias, source, to)
        case L.BatchNorm():
            arrays = [weights[key] for key in ("gamma", "beta", "mean", "variance")]
            b.add_batchnorm(name, layer.channels, *arrays, source, to, epsilon=layer.epsilon)
        case L.Activation():
            names = {"leaky_relu": "LEAKYRELU", "hard_sigmoid": "SIGMOID_HARD"}
            function = names.get(layer.function, layer.function.upper())
            b.add_activation(name, function, source, to, [layer.alpha, layer.beta])
        case L.ClampedReLU():
            b.add_clamped_relu(name, source, to, layer.alpha, layer.beta)
        case L.Clip():
            b.add_clip(name, source, to, layer.low, layer.high)
        case L.Threshold():
            b.add_unary(name, source, to, "threshold", alpha=layer.alpha, shift=layer.shift, scale=layer.scale)
        case L.Pooling():
            _add_pooling(b, layer)
        case L.Flatten():
            b.add_flatten(name, order[layer.order], source, to)
        case L.Reshape():
            b.add_reshape(name, source, to, layer.shape, order[layer.order])
        case L.Permute():
            b.add_permute(name, (0, *(axis + 1 for axis in layer.axes)), source, to)
        case L.Softmax():
            b.add_softmax(name, source, to)
        case L.Add():
            b.add_elementwise(name, list(layer.inputs), to, "ADD", layer.constant)
        case L.Multiply():
            b.add_elementwise(name, list(layer.inputs), to, "MULTIPLY", layer.constant)
        case L.Concat():
            b.add_elementwise(name, list(layer.inputs), to, "CONCAT")
        case L.Split():
            b.add_split(name, source, list(layer.outputs))
        case L.ReduceMean():
            b.add_reduce(name, source, to, layer.axes, "avg")
        case L.Pad(amounts=a):
            b.add_padding(name, a.left, a.right, a.top, a.bottom, layer.value, source, to, layer.fill)
        case L.Upsample():
            mode = {"nearest": "NN", "bilinear": "BILINEAR"}[layer.method]
            b.add_upsample(name, *layer.factors, source, to, mode)
        case L.Scale():
            shapes = {"shape_scale": list(layer.scale_shape), "shape_bias": list(layer.bias_shape or [1])}
            bias = weights.get("bias")
            b.add_scale(name, weights["scale"], bias, layer.bias_shape is not None, source, to, **shapes)
        case L.Bias():
            b.add_bias(name, weights["bias"], source, to, list(layer.shape))


def _add_convolution(b: Any, layer: L.Convolution | L.TransposedConvolution, weights: Mapping[str, np.ndarray]) -> None:
    transposed = isinstance(layer, L.TransposedConvolution)
    per_group = layer.input_channels // (1 if transposed else layer.groups)
    b.add_convolution(
        layer.name,
        per_group,
        layer.output_channels,
        *layer.kernel,
        *layer.stride,
        "same" if isinstance(layer.padding, L.Same) else "valid",
        layer.groups,
        weights["weights"].transpose((2, 3, 0, 1) if transposed else (2, 3, 1, 0)),
        weights.get("bias"),
        layer.has_bias,
        is_deconv=transposed,
        input_name=layer.inputs[0],
        output_name=layer.outputs[0],
        dilation_factors=[1, 1] if transposed else list(layer.dilation),
        **_padding(layer.padding),
    )


def _add_pooling(b: Any, layer: L.Pooling) -> None:
    kinds = {L.Valid: "VALID", L.Same: "SAME", L.IncludeLastPixel: "INCLUDE_LAST_PIXEL"}
    b.add_pooling(
        layer.name,
        *layer.kernel,
        *layer.stride,
        layer.function.upper(),
        kinds[type(layer.padding)],
        layer.inputs[0],
        layer.outputs[0],
        exclude_pad_area=layer.exclude_padding,
        is_global=layer.is_global,
        **_padding(layer.padding),
    )


def _padding(padding: L.Valid | L.Same | L.IncludeLastPixel) -> dict[str, Any]:
    match padding:
        case L.Valid():
            amounts = (padding.top, padding.bottom, padding.left, padding.right)
        case L.IncludeLastPixel():
            amounts = (padding.height, padding.height, padding.width, padding.width)
        case L.Same():
            return {"same_padding_asymmetry_mode": padding.asymmetry.upper()}
    return dict(zip(("padding_top", "padding_bottom", "padding_left", "padding_right"), amounts, strict=True))
