"""Says before a phone does whether a model can be trained on it, and what to change if not.

The rules are Apple's, told in our own words: those of the open-source validator in apple/coremltools (``mlmodel/src``),
and two of the device's compiler that its users found out (apple/coremltools issues 492 and 1983).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fedsim.coreml.backward import TRAINABLE, above_updatable, from_loss, read_backward
from fedsim.coreml.contract import NETWORKS
from fedsim.coreml.schema import parse_model


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing in a model that stands in the way (``error``) or is unproven (``warning``).

    ``source`` is who objects: Apple's validator when the model is compiled, the device's compiler when training begins,
    or fedsim. ``layer`` is empty where the model as a whole is meant.
    """

    severity: Literal["error", "warning"]
    source: Literal["validator", "compiler", "fedsim"]
    layer: str
    message: str
    remedy: str


def lint(data: bytes) -> list[Finding]:
    """Everything that keeps the model file ``data`` from being trained on an iPhone; no errors means it should be.

    Raises:
        ValueError: ``data`` is not a Core ML model.
    """
    model = parse_model(data)
    kind = model.WhichOneof("Type")
    if kind not in NETWORKS:
        remedy = "build one neural network; of a pipeline, take the updatable network out"
        return [_fedsim("", f"the model is of kind {kind}, not one neural network", remedy)]
    network = getattr(model, kind)
    if not network.layers:
        return [_validator("", "the network has no layers", "add layers")]
    return [finding for rule in _RULES for finding in rule(model, network)]


def device_trainable(data: bytes) -> str:
    """How much of a network a phone could train if every layer that may be were marked updatable.

    ``"all"`` its convolutions and dense layers, ``"tail(a, b)"`` those named, ``"last"`` one of several, or ``"none"``.
    The walk goes breadth first from the loss and ends at the first layer that the gradient cannot pass.

    Raises:
        ValueError: ``data`` is not a neural network.
    """
    model = parse_model(data)
    kind = model.WhichOneof("Type")
    if kind not in NETWORKS or not getattr(model, kind).layers:
        raise ValueError(f"the model is of kind {kind}; expected a neural network with layers")
    graph = read_backward(getattr(model, kind))
    reached: set[str] = set()
    for layer, passes in from_loss(graph):
        trainable = layer.WhichOneof("layer") in TRAINABLE
        if not passes or layer.WhichOneof("layer") == "batchnorm" or (trainable and not _all_float32(layer)):
            break
        if trainable:
            reached.add(layer.name)
    candidates = [layer.name for layer in graph.layers if layer.WhichOneof("layer") in TRAINABLE]
    if not reached:
        return "none"
    if reached.issuperset(candidates):
        return "all"
    return "last" if len(reached) == 1 else f"tail({', '.join(name for name in candidates if name in reached)})"


def _validator(layer: str, message: str, remedy: str) -> Finding:
    return Finding(severity="error", source="validator", layer=layer, message=message, remedy=remedy)


def _compiler(layer: str, message: str, remedy: str) -> Finding:
    return Finding(severity="error", source="compiler", layer=layer, message=message, remedy=remedy)


def _fedsim(layer: str, message: str, remedy: str) -> Finding:
    return Finding(severity="error", source="fedsim", layer=layer, message=message, remedy=remedy)


def _warning(layer: str, message: str, remedy: str) -> Finding:
    return Finding(severity="warning", source="compiler", layer=layer, message=message, remedy=remedy)


def _model(model: Any, network: Any) -> Iterator[Finding]:
    if not model.isUpdatable:
        yield _validator("", "the model is not marked updatable", "build it with build_model or make_updatable")
    if model.specificationVersion < 4:
        yield _validator("", f"the model has specification version {model.specificationVersion}", "set it to 4")
    names = [layer.name for layer in (*network.layers, *network.updateParams.lossLayers)]
    for name, times in Counter(names).items():
        if times > 1:
            yield _validator(name, f"{times} layers or losses have this name", "give each a name of its own")


def _updatable_layers(model: Any, network: Any) -> Iterator[Finding]:
    updatable = [layer for layer in network.layers if layer.isUpdatable]
    if not updatable:
        yield _validator("", "no layer is updatable", "mark the last dense layer and as many before it as you want")
    for layer in updatable:
        kind = layer.WhichOneof("layer")
        if kind == "uniDirectionalLSTM":
            yield _fedsim(layer.name, "LSTM layers crash in training and are not supported", "freeze it")
        elif kind not in TRAINABLE:
            yield _validator(layer.name, f"a layer of kind {kind} cannot be updatable", "freeze it")
        else:
            yield from _updatable_weights(layer, getattr(layer, kind))
            if kind == "convolution" and layer.convolution.nGroups > 1:
                yield _warning(
                    layer.name,
                    "nobody has reported whether a device trains a convolution of several groups",
                    "try it on a phone, or train only what comes after it",
                )


def _updatable_weights(layer: Any, body: Any) -> Iterator[Finding]:
    arrays = {"weights": body.weights, **({"bias": body.bias} if body.hasBias else {})}
    for name, array in arrays.items():
        if array.HasField("quantization"):
            yield _validator(layer.name, f"its {name} are quantised", "store them as float32, or freeze the layer")
        if array.float16Value:
            yield _fedsim(
                layer.name,
                f"its {name} are float16: too coarse for small steps",
                "store them as float32, or freeze the layer",
            )
        if not array.isUpdatable:
            yield _validator(layer.name, f"its {name} are not marked updatable", "mark weights and bias, or neither")


def _precision(model: Any, network: Any) -> Iterator[Finding]:
    for layer in network.layers:
        if layer.WhichOneof("layer") not in TRAINABLE:
            continue
        body = getattr(layer, layer.WhichOneof("layer"))
        halves = [bool(array.float16Value) for array in (body.weights, body.bias)]
        wholes = [len(array.floatValue) > 0 for array in (body.weights, body.bias)]
        if body.hasBias and any(halves) and any(wholes):
            yield _validator(layer.name, "its weights and bias differ in precision", "store both in the same one")
        elif any(halves) and not layer.isUpdatable:
            yield _warning(layer.name, "with float16 weights a whole network runs in float16", "store them as float32")


def _loss(model: Any, network: Any) -> Iterator[Finding]:
    losses = network.updateParams.lossLayers
    if len(losses) != 1:
        yield _validator("", f"the network has {len(losses)} losses", "give it exactly one")
        return
    name, kind = losses[0].name, losses[0].WhichOneof("LossLayerType")
    if kind is None:
        yield _validator(name, "the loss is of no known kind", "use cross entropy or mean squared error")
        return
    loss = getattr(losses[0], kind)
    producers = {output: layer for layer in network.layers for output in layer.output}
    source = producers.get(loss.input)
    if source is None:
        yield _validator(name, f"the loss reads {loss.input}, which no layer writes", "attach it to a layer's output")
    elif kind == "categoricalCrossEntropyLossLayer" and source.WhichOneof("layer") != "softmax":
        yield _validator(name, "cross entropy does not read a softmax", "end with a softmax layer (not softmaxND)")
    elif kind == "categoricalCrossEntropyLossLayer" and _is_map(model, loss.input):
        yield _fedsim(name, "cross entropy takes one label an example, not one a pixel", "use mean squared error")
    if loss.target in producers:
        yield _validator(name, f"the target {loss.target} is computed by the network", "make it a training input")
    yield from _training_inputs(model, name, loss.target)


def _is_map(model: Any, blob: str) -> bool:
    """Whether the model declares its output ``blob`` to have more than one pixel."""
    shapes = [feature.type.multiArrayType.shape for feature in model.description.output if feature.name == blob]
    return any(math.prod(shape[1:]) > 1 for shape in shapes)


def _training_inputs(model: Any, loss: str, target: str) -> Iterator[Finding]:
    description = model.description
    given = {feature.name for feature in description.trainingInput}
    if not given & {feature.name for feature in description.input}:
        yield _validator("", "no training input is an input of the model", "list the model's input among them")
    if not given & {target, description.predictedFeatureName}:
        yield _validator(loss, f"the target {target} is not a training input", "list it among the training inputs")


def _settings(model: Any, network: Any) -> Iterator[Finding]:
    update = network.updateParams
    kind = update.optimizer.WhichOneof("OptimizerType")
    if kind is None:
        yield _validator("", "there is no optimizer", "use SGD or Adam")
        return
    optimizer = getattr(update.optimizer, kind)
    names = ("learningRate", "miniBatchSize", *(("beta1", "beta2", "eps") if kind == "adamOptimizer" else ()))
    for name, message in (*((name, optimizer) for name in names), ("epochs", update)):
        if message.HasField(name):
            yield from _setting(name, getattr(message, name))
        else:
            yield _validator("", f"the training setting {name} is missing", f"give {name} a default and a constraint")
    if update.HasField("seed"):
        yield from _setting("seed", update.seed)


def _setting(name: str, field: Any) -> Iterator[Finding]:
    positive, value = name in ("miniBatchSize", "epochs"), field.defaultValue
    match field.WhichOneof("AllowedValues"):
        case "set":
            allowed, least = value in field.set.values, min(field.set.values, default=1)
        case "range":
            allowed, least = field.range.minValue <= value <= field.range.maxValue, field.range.minValue
        case _:
            allowed, least = True, value
    if not allowed:
        yield _validator("", f"the default of {name}, {value}, is not among its allowed values", "widen them")
    if positive and min(value, least) <= 0:
        yield _validator("", f"{name} may be {min(value, least)}", "allow only values of one or more")


def _array_mapping(model: Any, network: Any) -> Iterator[Finding]:
    exact, modern = network.arrayInputShapeMapping != 0, [layer for layer in network.layers if _is_modern(layer)]
    if not exact:
        for layer in modern:
            remedy = "use older layers: of ReLU6, two unary thresholds below the updatable layers, or a plain ReLU"
            yield _validator(layer.name, f"{layer.WhichOneof('layer')} does not exist in the rank-5 mapping", remedy)
    if exact or modern or network.imageInputShapeMapping != 0:
        yield from _softmax_ranks(model, network)


def _softmax_ranks(model: Any, network: Any) -> Iterator[Finding]:
    features = (*model.description.input, *model.description.output)
    ranks = {feature.name: len(feature.type.multiArrayType.shape) for feature in features}
    for layer in network.layers:
        ranks.update(zip(layer.input, (tensor.rank for tensor in layer.inputTensor), strict=False))
        ranks.update(zip(layer.output, (tensor.rank for tensor in layer.outputTensor), strict=False))
        low = [rank for name in (*layer.input, *layer.output) if 0 < (rank := ranks.get(name, 3)) < 3]
        if layer.WhichOneof("layer") == "softmax" and low:
            remedy = "build with the rank-5 mapping (disable_rank5_shape_mapping=False)"
            yield _validator(layer.name, f"softmax needs rank 3 in the exact mapping, here it has {low[0]}", remedy)


def _gradient(model: Any, network: Any) -> Iterator[Finding]:
    graph, blockers = read_backward(network), list[str]()
    for layer, passes in from_loss(graph):
        if layer.isUpdatable:
            for blocker in blockers:
                remedy = f"replace {blocker}, or freeze {layer.name} and everything else before it"
                yield _validator(blocker, f"no gradient passes it on its way back to {layer.name}", remedy)
            blockers.clear()
        if not passes:
            blockers.append(layer.name)
    for layer in above_updatable(graph):
        kind = layer.WhichOneof("layer")
        if kind == "batchnorm":
            remedy = "fold it into the convolution before it, or freeze all layers before it"
            yield _compiler(layer.name, "a device cannot take the gradient of a batch normalisation", remedy)
        if kind in TRAINABLE and not layer.isUpdatable:
            remedy = "mark it updatable too, or freeze all layers before it"
            yield _compiler(layer.name, "a device cannot pass a gradient through a frozen layer", remedy)


_RULES: tuple[Callable[[Any, Any], Iterator[Finding]], ...] = (
    _model,
    _updatable_layers,
    _precision,
    _loss,
    _settings,
    _array_mapping,
    _gradient,
)


def _is_modern(layer: Any) -> bool:
    """Whether a layer, or the way it is used, came with iOS 13 or later; the format numbers those from 600 on."""
    match layer.WhichOneof("layer"):
        case None:
            return False
        case "convolution":
            return len(layer.input) != 1
        case "innerProduct":
            return layer.innerProduct.int8DynamicQuantize
        case "upsample":
            return layer.upsample.linearUpsampleMode != 0 or len(layer.upsample.fractionalScalingFactor) > 0
        case "reorganizeData":
            pixel_shuffle = 2
            return layer.reorganizeData.mode == pixel_shuffle
        case kind:
            return layer.DESCRIPTOR.fields_by_name[kind].number >= 600


def _all_float32(layer: Any) -> bool:
    """Whether a convolution or dense layer stores all its weights in float32."""
    body = getattr(layer, layer.WhichOneof("layer"))
    return len(body.weights.floatValue) > 0 and (len(body.bias.floatValue) > 0 or not body.hasBias)
