"""The seed app's network for MNIST: two convolutions and two dense layers, 585,958 weights.

The graph, its names and settings are those of JacopoMangiavacchi/MNIST-CoreML-Training, which trains it on an iPhone.
"""

from fedsim.coreml.build import ALLOWED, Input, build_model
from fedsim.coreml.layers import Activation, Convolution, Flatten, InnerProduct, Layer, Order, Pooling, Softmax
from fedsim.coreml.settings import Allowed, OneOf
from fedsim.updates import LocalTraining

IMAGE = Input(name="image", shape=(1, 28, 28))


def layers(flatten: Order = "channel_first") -> tuple[Layer, ...]:
    """The graph; ``flatten`` orders hidden1's inputs: torch's way, or channel last as the seed app's file has it."""
    return (
        _convolution("conv1", "image", "outConv1", channels=(1, 32), kernel=3),
        _relu("relu1", "outConv1", "outRelu1"),
        _halving("pooling1", "outRelu1", "outPooling1"),
        _convolution("conv2", "outPooling1", "outConv2", channels=(32, 32), kernel=2),
        _relu("relu2", "outConv2", "outRelu2"),
        _halving("pooling2", "outRelu2", "outPooling2"),
        Flatten(name="flatten1", inputs=("outPooling2",), outputs=("outFlatten1",), order=flatten),
        _dense("hidden1", "outFlatten1", "outHidden1", channels=(1152, 500)),
        _relu("relu3", "outHidden1", "outRelu3"),
        _dense("hidden2", "outRelu3", "outHidden2", channels=(500, 10)),
        Softmax(name="softmax", inputs=("outHidden2",), outputs=("output",)),
    )


def lenet_contract(training: LocalTraining, flatten: Order = "channel_first", shuffle_seed: int | None = None) -> bytes:
    """The network as an updatable model file with zero weights, cross entropy and these training defaults.

    A phone may set what ``fedsim.coreml.build.ALLOWED`` says, and this number of epochs and this batch size.

    >>> from fedsim.coreml.contract import read_contract
    >>> training = LocalTraining(epochs=1, batch_size=20, optimizer="sgd", learning_rate=0.05, momentum=0.9)
    >>> read_contract(lenet_contract(training)).parameters
    585958

    Raises:
        ValueError: another setting is outside what ``ALLOWED`` says.
    """
    return build_model(
        layers=layers(flatten),
        input=IMAGE,
        loss="cross_entropy",
        training=training,
        allowed={**ALLOWED, **{key: _with(ALLOWED[key], getattr(training, key)) for key in ("epochs", "batch_size")}},
        shuffle_seed=shuffle_seed,
        description="LeNet for MNIST digits, trainable on the device",
    )


def _with(allowed: Allowed, value: int) -> Allowed:
    """The set with one value more."""
    return OneOf(values=tuple(sorted({*allowed.values, value}))) if isinstance(allowed, OneOf) else allowed


def _convolution(name: str, source: str, output: str, channels: tuple[int, int], kernel: int) -> Convolution:
    return Convolution(
        name=name,
        inputs=(source,),
        outputs=(output,),
        input_channels=channels[0],
        output_channels=channels[1],
        kernel=(kernel, kernel),
        updatable=True,
    )


def _dense(name: str, source: str, output: str, channels: tuple[int, int]) -> InnerProduct:
    return InnerProduct(
        name=name,
        inputs=(source,),
        outputs=(output,),
        input_channels=channels[0],
        output_channels=channels[1],
        updatable=True,
    )


def _relu(name: str, source: str, output: str) -> Activation:
    return Activation(name=name, inputs=(source,), outputs=(output,), function="relu")


def _halving(name: str, source: str, output: str) -> Pooling:
    return Pooling(name=name, inputs=(source,), outputs=(output,), function="max", kernel=(2, 2), stride=(2, 2))
