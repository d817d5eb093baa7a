"""Models that probe one rule each of Apple's validator, built with coremltools.

``vectors/coreml/validator_verdicts.json`` holds what the validator of apple/coremltools, compiled for Linux, said to
each; "coremltools refuses" marks those that coremltools' own builder does not let one build.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from coremltools.models import datatypes
from coremltools.models.neural_network import AdamParams, NeuralNetworkBuilder, SgdParams

Array = datatypes.Array
_RANDOM = np.random.default_rng(0)

MODELS: dict[str, Callable[[], Any]] = {}
"""Name of the case -> function that builds its ``Model`` message, or raises what coremltools objects with."""


def case(name: str) -> Callable[[Callable[[], NeuralNetworkBuilder]], None]:
    """Files the builder made by a function under ``name``."""

    def file(build: Callable[[], NeuralNetworkBuilder]) -> None:
        MODELS[name] = lambda: build().spec

    return file


def numbers(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def start(*, input: Any = None, output: tuple[str, Any] = ("prob", Array(5)), exact: bool = False) -> Any:
    features = [("x", input or Array(4, 8, 8))], [output]
    return NeuralNetworkBuilder(*features, disable_rank5_shape_mapping=exact, use_float_arraytype=True)


def convolution(
    b: Any,
    name: str,
    source: str,
    to: str,
    *,
    channels: tuple[int, int] = (4, 4),
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    mode: str = "same",
    bias: bool = True,
    **options: Any,
) -> None:
    inputs, outputs = channels
    weights = numbers(kernel, kernel, inputs // groups, outputs)
    sizes = (inputs // groups, outputs, kernel, kernel, stride, stride)
    arrays = (weights, numbers(outputs) if bias else None, bias)
    b.add_convolution(name, *sizes, mode, groups, *arrays, input_name=source, output_name=to, **options)


def dense(b: Any, name: str, source: str, to: str, *, inputs: int = 256, outputs: int = 5) -> None:
    b.add_inner_product(name, numbers(outputs, inputs), numbers(outputs), inputs, outputs, True, source, to)


def batch_norm(b: Any, name: str, source: str, to: str) -> None:
    b.add_batchnorm(name, 4, numbers(4), numbers(4), numbers(4), abs(numbers(4)), source, to)


def head(b: Any, source: str = "x", inputs: int = 256) -> Any:
    """Flatten, dense layer ``fc``, softmax."""
    b.add_flatten("fl", 0, source, "f")
    dense(b, "fc", "f", "z", inputs=inputs)
    b.add_softmax("sm", "z", "prob")
    return b


def finish(b: Any, trained: Sequence[str] = ("fc",), *, mse: tuple[str, Any] | None = None, adam: bool = False) -> Any:
    """Marks layers updatable, adds a loss (cross entropy on ``prob`` or squared error), optimizer and epochs."""
    b.make_updatable(list(trained))
    with contextlib.redirect_stdout(io.StringIO()):
        if mse:
            b.set_mean_squared_error_loss("loss", mse)
        else:
            b.set_categorical_cross_entropy_loss("loss", "prob")
    if adam:
        b.set_adam_optimizer(AdamParams(batch=4))
    else:
        b.set_sgd_optimizer(SgdParams(lr=0.01, batch=4))
    b.set_epochs(1, [1, 2])
    return b


def between(name: str, add: Callable[[Any], object], *, numbers_after: int = 256, trained: Sequence[str] = ()) -> None:
    """x -> convolution c1 (updatable) -> the layer under test, from blob a to blob b -> head with fc (updatable)."""

    @case(f"between: {name}")
    def _() -> Any:
        b = start()
        convolution(b, "c1", "x", "a")
        add(b)
        return finish(head(b, "b", numbers_after), ["c1", *trained, "fc"])


def activation(function: str, *, called: str = "", parameters: Any = None) -> None:
    between(called or function.lower(), lambda b: b.add_activation("t", function, "a", "b", parameters))


def relu6(b: Any) -> None:
    b.add_unary("t0", "a", "t", "threshold", alpha=0.0)
    b.add_unary("t", "t", "b", "threshold", alpha=-6.0, scale=-1.0)


def pooling(kind: str) -> None:
    between(f"pooling {kind}", lambda b: b.add_pooling("t", 2, 2, 2, 2, kind, "VALID", "a", "b"), numbers_after=64)


activation("RELU")
activation("SIGMOID")
activation("TANH")
activation("LEAKYRELU", parameters=[0.1])
activation("ELU", parameters=[1.0])
activation("SIGMOID_HARD", parameters=[0.2, 0.5])
activation("LINEAR", parameters=[1.0, 0.0])
activation("PRELU", parameters=[np.array([0.1], np.float32)])
activation("SOFTPLUS")
between("relu6 as unary threshold", relu6)
between("clamped relu (v5)", lambda b: b.add_clamped_relu("t", "a", "b", 0.0, 6.0))
between("batchnorm (fixed statistics)", lambda b: batch_norm(b, "t", "a", "b"))
pooling("MAX")
pooling("AVERAGE")
pooling("L2")
between(
    "pooling global average",
    lambda b: b.add_pooling("t", 1, 1, 1, 1, "AVERAGE", "VALID", "a", "b", is_global=True),
    numbers_after=4,
)
between("add (residual with x)", lambda b: b.add_elementwise("t", ["a", "x"], "b", "ADD"))
between("multiply", lambda b: b.add_elementwise("t", ["a", "x"], "b", "MULTIPLY"))
between("concat", lambda b: b.add_elementwise("t", ["a", "x"], "b", "CONCAT"), numbers_after=512)
between("permute", lambda b: b.add_permute("t", (0, 2, 3, 1), "a", "b"))
between("reshape", lambda b: b.add_reshape("t", "a", "b", (4, 8, 8), 0))
between("upsample", lambda b: b.add_upsample("t", 2, 2, "a", "b"), numbers_after=1024)
between("padding", lambda b: b.add_padding("t", 1, 1, 1, 1, input_name="a", output_name="b"), numbers_after=400)
between("scale", lambda b: b.add_scale("t", np.array([2.0], np.float32), None, False, "a", "b"))
between("bias", lambda b: b.add_bias("t", np.array([2.0], np.float32), "a", "b"))
between("reduce mean", lambda b: b.add_reduce("t", "a", "b", "HW", "avg"), numbers_after=4)
between("lrn", lambda b: b.add_lrn("t", "a", "b", 1.0, 0.75, 5))
between("mvn", lambda b: b.add_mvn("t", "a", "b"))
between("crop", lambda b: b.add_crop("t", 1, 1, 1, 1, [], ["a"], "b"), numbers_after=144)
between("grouped conv (frozen)", lambda b: convolution(b, "t", "a", "b", kernel=3, groups=2))
between("depthwise conv (updatable)", lambda b: convolution(b, "t", "a", "b", kernel=3, groups=4), trained=["t"])
between(
    "dilated conv (updatable)",
    lambda b: convolution(b, "t", "a", "b", kernel=3, dilation_factors=[2, 2]),
    trained=["t"],
)
between(
    "deconv (updatable)",
    lambda b: convolution(b, "t", "a", "b", kernel=2, stride=2, mode="valid", is_deconv=True),
    numbers_after=1024,
    trained=["t"],
)
between("conv without bias (updatable)", lambda b: convolution(b, "t", "a", "b", bias=False), trained=["t"])
between("softmax in the middle", lambda b: b.add_softmax("t", "a", "b"))
between("batchnorm marked updatable", lambda b: batch_norm(b, "t", "a", "b"), trained=["t"])


@case("frozen: add, concat, permute, leaky relu, upsample, batchnorm below one updatable fc")
def _() -> Any:
    b = start()
    convolution(b, "c1", "x", "a")
    batch_norm(b, "bn", "a", "a1")
    b.add_activation("lr", "LEAKYRELU", "a1", "a2", [0.1])
    b.add_elementwise("ad", ["a2", "x"], "a3", "ADD")
    b.add_elementwise("cc", ["a3", "x"], "a4", "CONCAT")
    b.add_permute("pm", (0, 2, 3, 1), "a4", "a5")
    b.add_upsample("up", 2, 2, "a5", "a6")
    b.add_pooling("gp", 1, 1, 1, 1, "AVERAGE", "VALID", "a6", "a7", is_global=True)
    dense(b, "fc", "a7", "z", inputs=8)
    b.add_softmax("sm", "z", "prob")
    return finish(b)


@case("two branches: frozen add shallower than an updatable conv")
def _() -> Any:
    b = start()
    convolution(b, "c0", "x", "a0")
    convolution(b, "c1", "x", "a1")
    b.add_elementwise("ad", ["a0", "a1"], "s", "ADD")
    return finish(head(b, "s"), ["c1", "fc"])


@case("two losses")
def _() -> Any:
    b = finish(head(start()))
    losses = b.nn_spec.updateParams.lossLayers
    losses.add().CopyFrom(losses[0])
    losses[1].name = "loss2"
    return b


@case("mse on logits")
def _() -> Any:
    b = start(output=("z", Array(5)))
    b.add_flatten("fl", 0, "x", "f")
    dense(b, "fc", "f", "z")
    return finish(b, mse=("z", Array(5)))


@case("mse on softmax output")
def _() -> Any:
    return finish(head(start()), mse=("prob", Array(5)))


@case("mse on a dense map, updatable 1x1 conv (segmentation logits)")
def _() -> Any:
    b = start(output=("z", Array(3, 8, 8)))
    convolution(b, "c", "x", "z", channels=(4, 3))
    return finish(b, ["c"], mse=("z", Array(3, 8, 8)))


@case("mse on map after upsample")
def _() -> Any:
    b = start(output=("z", Array(3, 16, 16)))
    convolution(b, "c", "x", "a", channels=(4, 3))
    b.add_upsample("u", 2, 2, "a", "z")
    return finish(b, ["c"], mse=("z", Array(3, 16, 16)))


@case("cce with softmax over a map (conv head)")
def _() -> Any:
    b = start(output=("prob", Array(3, 8, 8)))
    convolution(b, "c", "x", "a", channels=(4, 3))
    b.add_softmax("sm", "a", "prob")
    return finish(b, ["c"])


@case("softmaxND with cce")
def _() -> Any:
    b = start(exact=True, input=Array(1, 6))
    dense(b, "fc", "x", "z", inputs=6)
    b.add_softmax_nd("sm", "z", "prob", -1)
    return finish(b)


@case("rank-exact mapping (v4 ND) fc + softmax")
def _() -> Any:
    b = start(exact=True, input=Array(1, 6))
    dense(b, "fc", "x", "z", inputs=6)
    b.add_softmax("sm", "z", "prob")
    return finish(b)


def edited(name: str, edit: Callable[[Any, Any], object]) -> None:
    """The plain head with SGD, after ``edit`` of its Model and NetworkUpdateParameters messages."""

    @case(name)
    def _() -> Any:
        b = finish(head(start()))
        edit(b.spec, b.nn_spec.updateParams)
        return b


def allow_range(field: Any, low: int, high: int) -> None:
    field.ClearField("set")
    field.range.minValue, field.range.maxValue = low, high


def sgd(update: Any) -> Any:
    return update.optimizer.sgdOptimizer


edited("default batch not in the set", lambda _, u: setattr(sgd(u).miniBatchSize, "defaultValue", 7))
edited("batch as a range 1..64", lambda _, u: allow_range(sgd(u).miniBatchSize, 1, 64))
edited("epochs as a range 1..100", lambda _, u: allow_range(u.epochs, 1, 100))
edited(
    "no allowed set for batch and epochs",
    lambda _, u: (u.epochs.ClearField("set"), sgd(u).miniBatchSize.ClearField("set")),
)
edited("sgd without momentum field", lambda _, u: sgd(u).ClearField("momentum"))
edited("shuffle false, no seed", lambda _, u: setattr(u.shuffle, "defaultValue", False))
edited(
    "layer updatable, bias weight-param not",
    lambda model, _: setattr(model.neuralNetwork.layers[1].innerProduct.bias, "isUpdatable", False),
)
edited("no training inputs", lambda model, _: model.description.ClearField("trainingInput"))
edited("loss named like a layer", lambda _, u: setattr(u.lossLayers[0], "name", "fc"))
edited("spec version 3", lambda model, _: setattr(model, "specificationVersion", 3))
edited("spec version 9", lambda model, _: setattr(model, "specificationVersion", 9))


def halve(array: Any) -> None:
    """Stores a ``WeightParams`` message's numbers as float16."""
    values = np.array(array.floatValue, np.float16)
    array.ClearField("floatValue")
    array.float16Value = values.tobytes()


def quantise(array: Any, bits: int, *, table: bool) -> None:
    """Stores a ``WeightParams`` message's numbers as ``bits`` zero bits each."""
    count = len(array.floatValue)
    array.ClearField("floatValue")
    array.rawValue = bytes((count * bits + 7) // 8)
    array.quantization.numberOfBits = bits
    if table:
        array.quantization.lookupTableQuantization.floatValue.extend([0.0] * 2**bits)
    else:
        array.quantization.linearQuantization.scale.append(0.1)
        array.quantization.linearQuantization.bias.append(0.0)


edited(
    "fp16 weights in the updatable layer (set by hand)",
    lambda model, _: halve(model.neuralNetwork.layers[1].innerProduct.weights),
)
edited(
    "int8 weights in the updatable layer",
    lambda model, _: quantise(model.neuralNetwork.layers[1].innerProduct.weights, 8, table=False),
)


def above_frozen(name: str, change: Callable[[Any], object], *, before_marking: bool = False) -> None:
    """A frozen convolution c1 below the head; ``change`` is done to its weights."""

    @case(name)
    def _() -> Any:
        b = start()
        convolution(b, "c1", "x", "x2")
        head(b, "x2")
        weights = b.layer_specs["c1"].convolution.weights
        if before_marking:
            change(weights)
            return finish(b)
        finish(b)
        change(weights)
        return b


above_frozen("fp16 weights in a frozen layer (set by hand)", halve)
above_frozen("make_updatable when a frozen layer is fp16", halve, before_marking=True)
above_frozen(
    "int8 weights in a frozen conv below the updatable layer", lambda weights: quantise(weights, 8, table=False)
)
above_frozen(
    "4-bit lut weights in a frozen conv below the updatable layer", lambda weights: quantise(weights, 4, table=True)
)


@case("make_updatable called before the losses, set_epochs twice")
def _() -> Any:
    b = finish(head(start()))
    b.set_epochs(2, [1, 2])
    return b


@case("uniLSTM updatable by make_updatable")
def _() -> Any:
    b = start(input=Array(6))
    gates = [numbers(5, 6)] * 4, [numbers(5, 5)] * 4
    b.add_unilstm("l", *gates, 5, 6, ["x", "h", "c"], ["y", "h2", "c2"])
    b.add_softmax("sm", "y", "prob")
    return finish(b, ["l"])


@case("classifier with string labels")
def _() -> Any:
    features = [("x", Array(4, 8, 8))], [("prob", Array(5))]
    b = head(NeuralNetworkBuilder(*features, mode="classifier", use_float_arraytype=True))
    b.set_class_labels(["a", "b", "c", "d", "e"], "label", "prob")
    return finish(b)
