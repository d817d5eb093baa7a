"""The seed app's network for MNIST: two convolutions and two dense layers, 585,958 weights.

The graph, its names and settings are those of JacopoMangiavacchi/MNIST-CoreML-Training, which trains it on an iPhone.
"""

from fedsim.coreml.layers import Flatten, Layer, Order, Softmax
from fedsim.models.digits import activation, convolution, dense, digits_contract, pooling
from fedsim.updates import LocalTraining


def layers(flatten: Order = "channel_first") -> tuple[Layer, ...]:
    """The graph; ``flatten`` orders hidden1's inputs: torch's way, or channel last as the seed app's file has it."""
    return (
        convolution("conv1", "image", "outConv1", channels=(1, 32), kernel=3),
        activation("relu1", "outConv1", "outRelu1", "relu"),
        pooling("pooling1", "outRelu1", "outPooling1", "max"),
        convolution("conv2", "outPooling1", "outConv2", channels=(32, 32), kernel=2),
        activation("relu2", "outConv2", "outRelu2", "relu"),
        pooling("pooling2", "outRelu2", "outPooling2", "max"),
        Flatten(name="flatten1", inputs=("outPooling2",), outputs=("outFlatten1",), order=flatten),
        dense("hidden1", "outFlatten1", "outHidden1", channels=(1152, 500)),
        activation("relu3", "outHidden1", "outRelu3", "relu"),
        dense("hidden2", "outRelu3", "outHidden2", channels=(500, 10)),
        Softmax(name="softmax", inputs=("outHidden2",), outputs=("output",)),
    )


def lenet_contract(training: LocalTraining, flatten: Order = "channel_first", shuffle_seed: int | None = None) -> bytes:
    """The network as an updatable model file: see `digits_contract`.

    >>> from fedsim.coreml.contract import read_contract
    >>> training = LocalTraining(epochs=1, batch_size=20, optimizer="sgd", learning_rate=0.05, momentum=0.9)
    >>> read_contract(lenet_contract(training)).parameters
    585958
    """
    return digits_contract(
        layers(flatten), training, "LeNet for MNIST digits, trainable on the device", shuffle_seed=shuffle_seed
    )
