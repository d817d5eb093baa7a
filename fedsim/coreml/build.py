"""Builds an updatable Core ML model file from layers, without coremltools and without a Mac."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.coreml.contract import Loss
from fedsim.coreml.encode import write_layer
from fedsim.coreml.layers import ClampedReLU, Layer, parameter_shapes
from fedsim.coreml.schema import Model, serialize
from fedsim.coreml.settings import Allowed, Between, OneOf, check_settings, write_allowed, write_settings
from fedsim.coreml.shapes import Shape, blob_shapes
from fedsim.updates import LocalTraining

ALLOWED: Mapping[str, Allowed] = {
    "epochs": OneOf(values=tuple(range(1, 21))),
    "batch_size": OneOf(values=(1, 2, 4, 8, 16, 20, 32, 64, 128)),
    **{key: Between(low=0.0, high=1.0) for key in ("learning_rate", "momentum", "beta1", "beta2", "epsilon")},
}
"""What our phones accept by default: the sets that Core ML wants for whole numbers, [0, 1] for the others."""

_FLOAT32, _DOUBLE, _INT32 = 65568, 65600, 131104
"""Values of ArrayFeatureType.ArrayDataType (FeatureTypes.proto)."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """The model's input: an array of rank 1 ``(channels,)`` or 3 ``(channels, height, width)``, in float32."""

    name: str
    shape: tuple[int, ...]


def build_model(
    *,
    layers: Sequence[Layer],
    input: Input,
    loss: Loss,
    training: LocalTraining,
    weights: Mapping[tuple[str, str], NDArray[np.float32]] | None = None,
    allowed: Mapping[str, Allowed] = ALLOWED,
    shuffle_seed: int | None = None,
    description: str = "",
) -> bytes:
    """The bytes of an updatable model: equal to what coremltools' NeuralNetworkBuilder writes for the same network.

    The loss, called ``lossLayer``, reads the last layer's output, which is the model's output too; its target is
    called ``<output>_true``: an int32 class for cross entropy, an array like the output for mean squared error.
    ``weights`` by (layer, parameter); what is missing is zero. ``training`` become the file's defaults.

    Raises:
        ValueError: the layers do not fit together, a weight does not fit its layer, or ``training`` is not ``allowed``.
    """
    shapes = blob_shapes(layers, input.name, input.shape)
    check_settings(training, training.optimizer, allowed)
    output = layers[-1].outputs[0]
    version = 5 if any(isinstance(layer, ClampedReLU) for layer in layers) else 4
    model = Model(specificationVersion=version, isUpdatable=True)
    _describe(model.description, input, output, shapes[output], loss)
    model.description.metadata.author = "fedsim"
    model.description.metadata.shortDescription = description
    left = dict(weights or {})
    for layer in layers:
        own = {name: left.pop((layer.name, name)) for name in parameter_shapes(layer) if (layer.name, name) in left}
        write_layer(model.neuralNetwork.layers.add(), layer, own)
    for layer_name, name in left:
        raise ValueError(f"weights for {layer_name}.{name} are given, but there is no such parameter")
    update = model.neuralNetwork.updateParams
    _write_loss(update.lossLayers.add(), loss, output)
    write_allowed(update, training.optimizer, allowed)
    write_settings(update, training)
    if shuffle_seed is not None:
        update.seed.defaultValue = shuffle_seed
    return serialize(model)


def _describe(description: Any, input: Input, output: str, shape: Shape, loss: Loss) -> None:
    declared = shape[:1] if shape[1:] == (1, 1) else shape
    target_shape, target_type = ((1,), _INT32) if loss == "cross_entropy" else (declared, _DOUBLE)
    _describe_array(description.input.add(), input.name, input.shape, _FLOAT32)
    _describe_array(description.output.add(), output, declared, _FLOAT32)
    _describe_array(description.trainingInput.add(), input.name, input.shape, _FLOAT32)
    _describe_array(description.trainingInput.add(), f"{output}_true", target_shape, target_type)


def _describe_array(feature: Any, name: str, shape: tuple[int, ...], kind: int) -> None:
    feature.name = name
    feature.type.multiArrayType.shape.extend(shape)
    feature.type.multiArrayType.dataType = kind


def _write_loss(message: Any, loss: Loss, output: str) -> None:
    message.name = "lossLayer"
    kinds = {"cross_entropy": "categoricalCrossEntropyLossLayer", "mean_squared_error": "meanSquaredErrorLossLayer"}
    body = getattr(message, kinds[loss])
    body.input, body.target = output, f"{output}_true"
