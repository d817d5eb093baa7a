"""What our networks for handwritten digits share: their input, their parts, and how they become a model file."""

from collections.abc import Sequence
from typing import Literal

from fedsim.coreml.build import ALLOWED, Input, build_model
from fedsim.coreml.layers import Activation, Convolution, InnerProduct, Layer, Pair, Pooling, Valid
from fedsim.coreml.settings import Allowed, OneOf
from fedsim.updates import LocalTraining

IMAGE = Input(name="image", shape=(1, 28, 28))


def digits_contract(
    layers: Sequence[Layer], training: LocalTraining, description: str, shuffle_seed: int | None = None
) -> bytes:
    """The network as an updatable model file with zero weights, cross entropy and these training defaults.

    A phone may set what ``fedsim.coreml.build.ALLOWED`` says, and this number of epochs and this batch size.

    Raises:
        ValueError: another setting is outside what ``ALLOWED`` says.
    """
    return build_model(
        layers=layers,
        input=IMAGE,
        loss="cross_entropy",
        training=training,
        allowed={**ALLOWED, **{key: _with(ALLOWED[key], getattr(training, key)) for key in ("epochs", "batch_size")}},
        shuffle_seed=shuffle_seed,
        description=description,
    )


def _with(allowed: Allowed, value: int) -> Allowed:
    """The set with one value more."""
    return OneOf(values=tuple(sorted({*allowed.values, value}))) if isinstance(allowed, OneOf) else allowed


def convolution(
    name: str, source: str, output: str, channels: Pair, kernel: int, stride: int = 1, padding: int = 0
) -> Convolution:
    """A trainable convolution by a square kernel, from ``channels[0]`` to ``channels[1]`` of them."""
    return Convolution(
        name=name,
        inputs=(source,),
        outputs=(output,),
        input_channels=channels[0],
        output_channels=channels[1],
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=Valid(top=padding, bottom=padding, left=padding, right=padding),
        updatable=True,
    )


def dense(name: str, source: str, output: str, channels: Pair) -> InnerProduct:
    """A trainable dense layer, from ``channels[0]`` numbers to ``channels[1]``."""
    return InnerProduct(
        name=name,
        inputs=(source,),
        outputs=(output,),
        input_channels=channels[0],
        output_channels=channels[1],
        updatable=True,
    )


def activation(name: str, source: str, output: str, function: Literal["relu", "tanh"]) -> Activation:
    """``function`` of each number."""
    return Activation(name=name, inputs=(source,), outputs=(output,), function=function)


def pooling(name: str, source: str, output: str, function: Literal["max", "average"], stride: int = 2) -> Pooling:
    """The maximum or average of 2 x 2 windows that lie ``stride`` apart."""
    return Pooling(
        name=name, inputs=(source,), outputs=(output,), function=function, kernel=(2, 2), stride=(stride, stride)
    )
