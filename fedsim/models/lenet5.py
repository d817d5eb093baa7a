"""LeNet-5 for MNIST: two convolutions with average pooling and three dense layers, tanh between, 61,706 weights.

LeCun, Bottou, Bengio and Haffner 1998, figure 2, as it is built today: the image is padded where theirs was 32 x 32,
the second convolution sees all maps, the poolings have no weights of their own, and a softmax takes the place of the
radial basis functions.
"""

from fedsim.coreml.layers import Flatten, Layer, Softmax
from fedsim.models.digits import activation, convolution, dense, digits_contract, pooling
from fedsim.updates import LocalTraining

LAYERS: tuple[Layer, ...] = (
    convolution("conv1", "image", "outConv1", channels=(1, 6), kernel=5, padding=2),
    activation("tanh1", "outConv1", "outTanh1", "tanh"),
    pooling("pooling1", "outTanh1", "outPooling1", "average"),
    convolution("conv2", "outPooling1", "outConv2", channels=(6, 16), kernel=5),
    activation("tanh2", "outConv2", "outTanh2", "tanh"),
    pooling("pooling2", "outTanh2", "outPooling2", "average"),
    Flatten(name="flatten1", inputs=("outPooling2",), outputs=("outFlatten1",)),
    dense("hidden1", "outFlatten1", "outHidden1", channels=(400, 120)),
    activation("tanh3", "outHidden1", "outTanh3", "tanh"),
    dense("hidden2", "outTanh3", "outHidden2", channels=(120, 84)),
    activation("tanh4", "outHidden2", "outTanh4", "tanh"),
    dense("hidden3", "outTanh4", "outHidden3", channels=(84, 10)),
    Softmax(name="softmax", inputs=("outHidden3",), outputs=("output",)),
)


def lenet5_contract(training: LocalTraining) -> bytes:
    """The network as an updatable model file: see `digits_contract`.

    >>> from fedsim.coreml.contract import read_contract
    >>> training = LocalTraining(epochs=1, batch_size=20, optimizer="sgd", learning_rate=0.05, momentum=0.9)
    >>> read_contract(lenet5_contract(training)).parameters
    61706
    """
    return digits_contract(LAYERS, training, "LeNet-5 for MNIST digits, trainable on the device")
