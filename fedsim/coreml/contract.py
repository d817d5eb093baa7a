"""The contract between server, phones and simulation: one updatable Core ML file, read and checked."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from fedsim.coreml.decode import read_layer
from fedsim.coreml.frozen import Constant, read_constant
from fedsim.coreml.layers import Layer, Softmax, is_updatable, parameter_shapes
from fedsim.coreml.schema import parse_model, serialize
from fedsim.coreml.settings import Allowed, check_settings, read_settings, write_settings
from fedsim.coreml.shapes import Shape, blob_shapes
from fedsim.coreml.weights import Slot, parameter_count, scan, write_weights
from fedsim.updates import LocalTraining, Weights

Loss = Literal["cross_entropy", "mean_squared_error"]
NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
"""The fields of Model that hold a network one can update."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """All that one updatable model file says.

    ``file`` is canonical; ``slots`` lays out the flat ``float32[P]`` vector; ``frozen`` holds the other weights by
    (layer, parameter), decoded to float32. A batch of inputs is ``float32[B, *input_shape]``. ``output_name`` is the
    blob that the loss reads, ``target_name`` what a phone calls the label. ``training`` are the file's defaults and
    ``allowed`` what a phone accepts instead, by key of LocalTraining; a key without an entry is free. All of it follows
    from ``file``: contracts of equal files are equal.
    """

    file: bytes
    graph: tuple[Layer, ...]
    slots: tuple[Slot, ...]
    frozen: Mapping[tuple[str, str], Constant] = field(compare=False)
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    target_name: str
    loss: Loss
    training: LocalTraining
    allowed: Mapping[str, Allowed] = field(compare=False)
    shuffle_seed: int | None

    @property
    def parameters(self) -> int:
        """P: how many weights a phone trains and sends."""
        return parameter_count(self.slots)

    @property
    def classes(self) -> int:
        """How many values the loss reads an example: under cross entropy, the classes the model tells apart."""
        return math.prod(blob_shapes(self.graph, self.input_name, self.input_shape)[self.output_name])


def read_contract(data: bytes) -> Contract:
    """The contract that a ``.mlmodel`` file holds; legal but unusual encodings are made canonical first.

    Raises:
        ValueError: ``data`` is not a model, or not one that can be trained here; says what stands in the way.
    """
    model = parse_model(data)
    network, update = _updatable_network(model)
    graph = tuple(read_layer(layer) for layer in network.layers)
    _check_names(graph)
    input_name, input_shape = _input(model.description)
    shapes = blob_shapes(graph, input_name, input_shape)
    loss, output_name, target_name = _loss(model.description, update, graph, shapes)
    training, allowed = read_settings(update)
    file = serialize(model)
    return Contract(
        file=file,
        graph=graph,
        slots=scan(file),
        frozen=_frozen(network, graph),
        input_name=input_name,
        input_shape=input_shape,
        output_name=output_name,
        target_name=target_name,
        loss=loss,
        training=training,
        allowed=allowed,
        shuffle_seed=update.seed.defaultValue if update.HasField("seed") else None,
    )


def with_training(contract: Contract, training: LocalTraining) -> Contract:
    """The same contract with ``training`` as its file's defaults; weights and everything else stay.

    ``epsilon_form``, ``proximal_mu`` and ``weight_decay``, for which a file has no place, are kept beside it.

    Raises:
        ValueError: as ``check_training``.
    """
    check_training(contract, training)
    model = parse_model(contract.file)
    write_settings(_updatable_network(model)[1], training)
    file = serialize(model)
    return replace(contract, file=file, slots=scan(file), training=training)


def check_training(contract: Contract, training: LocalTraining) -> None:
    """Refuses training settings that a phone with this contract would refuse.

    ``shuffle``, ``epsilon_form``, ``proximal_mu`` and ``weight_decay`` are not constrained by a model file.

    Raises:
        ValueError: names the key, the value given and what is allowed.
    """
    check_settings(training, contract.training.optimizer, contract.allowed)


def architecture_id(contract: Contract) -> str:
    """SHA-256 of the file with its updatable weights zeroed: equal for two files that differ in nothing else."""
    zeros = np.zeros(contract.parameters, np.float32)
    return hashlib.sha256(write_weights(contract.file, contract.slots, zeros)).hexdigest()


def weights_id(vector: Weights) -> str:
    """SHA-256 of a flat weight vector's little-endian float32 bytes."""
    return hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()


def _updatable_network(model: Any) -> tuple[Any, Any]:
    """The network and its update parameters."""
    kind = model.WhichOneof("Type")
    if kind in ("pipeline", "pipelineClassifier", "pipelineRegressor"):
        raise ValueError("the model is a pipeline; give its last, updatable network as a model of its own")
    if kind not in NETWORKS:
        raise ValueError(f"the model is of kind {kind}; expected {' or '.join(NETWORKS)}")
    if not model.isUpdatable:
        raise ValueError("the model is not updatable; mark its layers, a loss and an optimizer when building it")
    network = getattr(model, kind)
    if network.arrayInputShapeMapping != 0:
        raise ValueError("the model maps arrays exactly; build it with the rank-5 mapping, the default of coremltools")
    if network.preprocessing:
        raise ValueError("the model preprocesses images; take a plain array as input and scale the data beforehand")
    return network, network.updateParams


def _check_names(graph: tuple[Layer, ...]) -> None:
    name, times = Counter(layer.name for layer in graph).most_common(1)[0] if graph else ("", 0)
    if times > 1:
        raise ValueError(f"{times} layers are called {name}; give every layer a name of its own")
    if not any(is_updatable(layer) for layer in graph):
        raise ValueError("no layer of the model is updatable; mark at least the last dense layer")


def _input(description: Any) -> tuple[str, tuple[int, ...]]:
    if len(description.input) != 1:
        raise ValueError(f"the model has {len(description.input)} inputs; expected one")
    feature = description.input[0]
    if feature.type.WhichOneof("Type") != "multiArrayType":
        raise ValueError(f"the model's input {feature.name} is not an array; images cannot be trained on here")
    return feature.name, tuple(feature.type.multiArrayType.shape)


def _loss(description: Any, update: Any, graph: tuple[Layer, ...], shapes: dict[str, Shape]) -> tuple[Loss, str, str]:
    """Kind of loss, the blob it reads, the label's name among the training inputs."""
    if len(update.lossLayers) != 1:
        raise ValueError(f"the model has {len(update.lossLayers)} losses; expected one")
    kind = update.lossLayers[0].WhichOneof("LossLayerType")
    if kind is None:
        raise ValueError("the model's loss is of no known kind; expected cross entropy or mean squared error")
    layer = getattr(update.lossLayers[0], kind)
    if not any(layer.input in source.outputs for source in graph):
        raise ValueError(f"the model's loss reads {layer.input}, which no layer writes")
    names = {feature.name for feature in description.trainingInput}
    target = next((name for name in (layer.target, description.predictedFeatureName) if name in names), None)
    if target is None:
        raise ValueError(f"the loss's target {layer.target} is not among the training inputs {sorted(names)}")
    if kind == "meanSquaredErrorLossLayer":
        return "mean_squared_error", layer.input, target
    if not any(isinstance(source, Softmax) and layer.input in source.outputs for source in graph):
        raise ValueError(f"cross entropy reads {layer.input}, which is not the output of a softmax")
    if shapes[layer.input][1:] != (1, 1):
        raise ValueError(f"cross entropy reads a map of shape {list(shapes[layer.input])}; expected one value a class")
    return "cross_entropy", layer.input, target


def _frozen(network: Any, graph: tuple[Layer, ...]) -> dict[tuple[str, str], Constant]:
    """The weights of every layer that is not updatable."""
    constants: dict[tuple[str, str], Constant] = {}
    for message, layer in zip(network.layers, graph, strict=True):
        if not is_updatable(layer):
            body = getattr(message, message.WhichOneof("layer"))
            for name, shape in parameter_shapes(layer).items():
                constants[layer.name, name] = read_constant(f"{layer.name}.{name}", getattr(body, name), shape)
    return constants
