"""The small network that trains best on MNIST under example-level privacy: bounded activations, 26,010 weights.

Papernot, Thakurta, Song, Chien and Erlingsson 2021, who found that tanh keeps gradients short where ReLU does not; the
same network is Tramèr and Boneh's baseline of 2021.
"""

from fedsim.coreml.layers import Flatten, Layer, Softmax
from fedsim.models.digits import activation, convolution, dense, digits_contract, pooling
from fedsim.updates import LocalTraining

LAYERS: tuple[Layer, ...] = (
    convolution("conv1", "image", "outConv1", channels=(1, 16), kernel=8, stride=2, padding=2),
    activation("tanh1", "outConv1", "outTanh1", "tanh"),
    pooling("pooling1", "outTanh1", "outPooling1", "max", stride=1),
    convolution("conv2", "outPooling1", "outConv2", channels=(16, 32), kernel=4, stride=2),
    activation("tanh2", "outConv2", "outTanh2", "tanh"),
    pooling("pooling2", "outTanh2", "outPooling2", "max", stride=1),
    Flatten(name="flatten1", inputs=("outPooling2",), outputs=("outFlatten1",)),
    dense("hidden1", "outFlatten1", "outHidden1", channels=(512, 32)),
    activation("tanh3", "outHidden1", "outTanh3", "tanh"),
    dense("hidden2", "outTanh3", "outHidden2", channels=(32, 10)),
    Softmax(name="softmax", inputs=("outHidden2",), outputs=("output",)),
)


def tanh_cnn_contract(training: LocalTraining) -> bytes:
    """The network as an updatable model file: see `digits_contract`.

    >>> from fedsim.coreml.contract import read_contract
    >>> training = LocalTraining(epochs=1, batch_size=20, optimizer="sgd", learning_rate=0.05, momentum=0.9)
    >>> read_contract(tanh_cnn_contract(training)).parameters
    26010
    """
    return digits_contract(LAYERS, training, "CNN with tanh for MNIST digits, trainable on the device")
