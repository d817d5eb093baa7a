"""The way of the gradient through a network of protobuf messages: from the loss back to the layers that are trained."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

TRAINABLE = ("convolution", "innerProduct")
"""Kinds of layer that fedsim and coremltools can mark updatable; Apple's validator knows one more, an LSTM."""

_PASSING = (*TRAINABLE, "uniDirectionalLSTM", "flatten", "pooling", "batchnorm")
_PASSING_ACTIVATIONS = ("ReLU", "sigmoid", "tanh")


@dataclass(frozen=True, kw_only=True)
class Backward:
    """``sources[i]`` are the positions of the layers that layer i reads from, ``loss`` those that the loss reads from.

    ``cross_entropy`` says that the loss takes the gradient of its softmax along.
    """

    layers: tuple[Any, ...]
    sources: tuple[tuple[int, ...], ...]
    loss: tuple[int, ...]
    cross_entropy: bool


def read_backward(network: Any) -> Backward:
    """The graph of a ``NeuralNetwork`` message; without a loss, cross entropy on the last layer is assumed."""
    producers: dict[str, int] = {}
    sources: list[tuple[int, ...]] = []
    for position, layer in enumerate(network.layers):
        sources.append(tuple(producers[name] for name in layer.input if name in producers))
        producers.update(dict.fromkeys(layer.output, position))
    losses = network.updateParams.lossLayers
    kind = losses[0].WhichOneof("LossLayerType") if losses else None
    read = [getattr(losses[0], kind).input] if kind else list(network.layers[-1].output)
    return Backward(
        layers=tuple(network.layers),
        sources=tuple(sources),
        loss=tuple(producers[name] for name in read if name in producers),
        cross_entropy=kind != "meanSquaredErrorLossLayer",
    )


def from_loss(graph: Backward) -> Iterator[tuple[Any, bool]]:
    """Each layer that the loss depends on, breadth first, and whether the gradient can pass it (Apple's validator)."""
    seen, queue = set[int](), deque([graph.loss])
    while queue:
        for position in queue.popleft():
            if position not in seen:
                seen.add(position)
                layer = graph.layers[position]
                passes = _passes(layer) or (graph.cross_entropy and position in graph.loss and _is(layer, "softmax"))
                yield layer, passes
                queue.append(graph.sources[position])


def above_updatable(graph: Backward) -> list[Any]:
    """The layers through which a gradient must pass on its way from the loss to some updatable layer."""
    leads = [False] * len(graph.layers)
    for position, sources in enumerate(graph.sources):
        leads[position] = any(leads[source] or graph.layers[source].isUpdatable for source in sources)
    reached = {id(layer) for layer, _ in from_loss(graph)}
    return [layer for layer, leads in zip(graph.layers, leads, strict=True) if leads and id(layer) in reached]


def _passes(layer: Any) -> bool:
    kind = layer.WhichOneof("layer")
    if kind == "activation":
        return layer.activation.WhichOneof("NonlinearityType") in _PASSING_ACTIVATIONS
    return kind in _PASSING


def _is(layer: Any, kind: str) -> bool:
    return layer.WhichOneof("layer") == kind
