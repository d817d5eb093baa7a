"""Contracts to train in the tests: small networks of every kind of layer, drawn or given."""

import math
from dataclasses import dataclass, field

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

from fedsim.coreml.build import Input as ModelInput
from fedsim.coreml.build import build_model
from fedsim.coreml.contract import Contract, Loss, read_contract
from fedsim.coreml.layers import (
    Activation,
    Convolution,
    Flatten,
    IncludeLastPixel,
    InnerProduct,
    Layer,
    Pair,
    Pooling,
    Same,
    Softmax,
    Valid,
)
from fedsim.coreml.shapes import Shape, blob_shapes
from fedsim.data.dataset import Examples
from fedsim.models.initial import initial_weights
from fedsim.seeds import generator
from fedsim.updates import LocalTraining, Weights

SGD = LocalTraining(epochs=1, batch_size=8, optimizer="sgd", learning_rate=0.5)


@dataclass
class Chain:
    """Layers one after another, each reading the last one's output."""

    shape: tuple[int, ...]
    layers: list[Layer] = field(default_factory=list[Layer])

    @property
    def output(self) -> Shape:
        """The last blob's shape."""
        return list(blob_shapes(self.layers, "input", self.shape).values())[-1]

    def names(self) -> dict[str, object]:
        """The next layer's name and blobs."""
        source = self.layers[-1].outputs[0] if self.layers else "input"
        return {"name": f"layer{len(self.layers)}", "inputs": (source,), "outputs": (f"blob{len(self.layers)}",)}

    def convolve(self, channels: int, kernel: Pair, **settings: object) -> "Chain":
        settings = {"updatable": True, **settings, **self.names()}
        size = self.output[0]
        self.layers.append(Convolution(input_channels=size, output_channels=channels, kernel=kernel, **settings))  # type: ignore[arg-type]
        return self

    def pool(self, **settings: object) -> "Chain":
        self.layers.append(Pooling(**settings, **self.names()))  # type: ignore[arg-type]
        return self

    def activate(self, function: str) -> "Chain":
        self.layers.append(Activation(function=function, **self.names()))  # type: ignore[arg-type]
        return self

    def flatten(self, order: str) -> "Chain":
        self.layers.append(Flatten(order=order, **self.names()))  # type: ignore[arg-type]
        return self

    def dense(self, outputs: int, **settings: object) -> "Chain":
        settings = {"updatable": True, **settings, **self.names()}
        self.layers.append(InnerProduct(input_channels=math.prod(self.output), output_channels=outputs, **settings))  # type: ignore[arg-type]
        return self

    def contract(self, loss: Loss = "cross_entropy", training: LocalTraining = SGD) -> Contract:
        """The chain as a model file, read back; cross entropy gets its softmax."""
        layers = list(self.layers)
        if loss == "cross_entropy":
            layers.append(Softmax(**self.names()))  # type: ignore[arg-type]
        constants = generator(1, "frozen")
        weights = {
            (layer.name, name): constants.normal(0, 0.3, shape).astype(np.float32)
            for layer in layers
            if isinstance(layer, Convolution | InnerProduct) and not layer.updatable
            for name, shape in _parameter_shapes(layer).items()
        }
        source = ModelInput(name="input", shape=self.shape)
        return read_contract(
            build_model(layers=layers, input=source, loss=loss, training=training, weights=weights, allowed={})
        )


def _parameter_shapes(layer: Convolution | InnerProduct) -> dict[str, tuple[int, ...]]:
    from fedsim.coreml.layers import parameter_shapes

    return parameter_shapes(layer)


def start(contract: Contract) -> Weights:
    """He's weights, and biases that are not zero."""
    weights = initial_weights(contract, generator(2, "weights"))
    return weights + generator(3, "biases").normal(0, 0.05, len(weights)).astype(np.float32)


def examples(contract: Contract, count: int, *, kind: str = "float32", seed: int = 4) -> Examples:
    """Noise to learn by heart."""
    draw = generator(seed, "examples")
    shape = (count, *contract.input_shape)
    if kind == "uint8":
        inputs = draw.integers(0, 256, shape).astype(np.uint8)
    else:
        inputs = draw.normal(0, 1, shape).astype(np.float32)
    classes = _values(contract)
    labels = draw.integers(0, classes, count) if contract.loss == "cross_entropy" else draw.integers(20, 30, count)
    return Examples(inputs=inputs, labels=labels)


def _values(contract: Contract) -> int:
    return blob_shapes(contract.graph, contract.input_name, contract.input_shape)[contract.output_name][0]


def lenet(training: LocalTraining = SGD) -> Contract:
    """A LeNet small enough to train in a test; its convolutions join their poolings."""
    chain = Chain((1, 12, 12)).convolve(8, (3, 3)).activate("relu").pool(function="max", kernel=(2, 2), stride=(2, 2))
    chain.convolve(20, (2, 2)).pool(function="max", kernel=(2, 2), stride=(2, 2)).activate("relu")
    return chain.flatten("channel_first").dense(33).activate("relu").dense(10).contract(training=training)


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    """Up to three convolutions or poolings with activations between them, then up to two dense layers."""
    size = st.integers(1, 9)
    chain = Chain(draw(st.tuples(st.integers(1, 4), size, size)))
    for _ in range(draw(st.integers(0, 3))):
        layer = draw(st.sampled_from(("convolve", "group", "pool", "halve")))
        if layer in ("convolve", "group"):
            _draw_convolution(draw, chain, grouped=layer == "group")
        elif layer == "halve" and min(chain.output[1:]) >= 2:
            chain.pool(function="max", kernel=(2, 2), stride=(2, 2))
        elif layer == "pool":
            _draw_pooling(draw, chain)
        _draw_activation(draw, chain)
    if draw(st.booleans()):
        chain.flatten(draw(st.sampled_from(("channel_first", "channel_last"))))
    for _ in range(draw(st.integers(0, 1))):
        chain.dense(draw(st.integers(1, 45)), has_bias=draw(st.booleans()), updatable=draw(st.booleans()))
        _draw_activation(draw, chain)
    return chain.dense(draw(st.integers(2, 24)), has_bias=draw(st.booleans()))


def _draw_activation(draw: st.DrawFn, chain: Chain) -> None:
    function = draw(st.sampled_from(("none", "relu", "relu", "sigmoid", "tanh")))
    if function != "none":
        chain.activate(function)


def _draw_convolution(draw: st.DrawFn, chain: Chain, *, grouped: bool) -> None:
    channels, height, width = chain.output
    groups = draw(st.sampled_from([n for n in range(1, channels + 1) if channels % n == 0])) if grouped else 1
    outputs = groups * draw(st.integers(1, 4)) if grouped else draw(st.integers(1, 40))
    pads = st.integers(0, 2)
    padding = draw(
        st.one_of(
            st.builds(Same, asymmetry=st.sampled_from(("bottom_right_heavy", "top_left_heavy"))),
            st.builds(Valid, top=pads, bottom=pads, left=pads, right=pads),
        )
    )
    room = (
        (height, width)
        if isinstance(padding, Same)
        else (height + padding.top + padding.bottom, width + padding.left + padding.right)
    )
    kernel = (draw(st.integers(1, min(5, room[0]))), draw(st.integers(1, min(5, room[1]))))
    widest = [1 if k == 1 else (size - 1) // (k - 1) for k, size in zip(kernel, room, strict=True)]
    chain.convolve(
        outputs,
        kernel,
        groups=groups,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        dilation=tuple(draw(st.integers(1, max(1, min(2, most)))) for most in widest),
        padding=padding,
        has_bias=draw(st.booleans()),
        updatable=draw(st.sampled_from((True, True, False))),
    )


def _draw_pooling(draw: st.DrawFn, chain: Chain) -> None:
    _, height, width = chain.output
    function = draw(st.sampled_from(("max", "average")))
    if draw(st.booleans()):
        chain.pool(function=function, is_global=True)
        return
    kernel = (draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width))))
    pads = [st.integers(0, size - 1) for size in kernel]
    padding = draw(
        st.one_of(
            st.builds(Same, asymmetry=st.sampled_from(("bottom_right_heavy", "top_left_heavy"))),
            st.builds(Valid, top=pads[0], bottom=pads[0], left=pads[1], right=pads[1]),
            st.builds(IncludeLastPixel, height=pads[0], width=pads[1]),
        )
    )
    exclude = isinstance(padding, IncludeLastPixel) or draw(st.booleans())
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    chain.pool(function=function, kernel=kernel, stride=stride, padding=padding, exclude_padding=exclude)
    try:
        blob_shapes(chain.layers, "input", chain.shape)
    except ValueError:  # windows of nothing but padding are no pooling
        reject()
