"""The layers a contract's network is made of: plain data, with every default of Core ML's format made explicit.

One dataclass a kind of layer; the same objects are read from a file (``decode``), written to one (``encode``),
measured (``shapes``) and run (``interpret``). Blobs are ``[batch, channels, height, width]``: Core ML's rank-5 mapping
without its sequence axis. Pairs are (height, width). Numbers that the format stores in float32 are floats of that
precision. Each docstring names the message of Core ML's NeuralNetwork.proto whose meaning the class has.
"""

from dataclasses import dataclass
from typing import Literal

Pair = tuple[int, int]
Order = Literal["channel_first", "channel_last"]
Asymmetry = Literal["bottom_right_heavy", "top_left_heavy"]


@dataclass(frozen=True, kw_only=True)
class Valid:
    """Padding by fixed amounts; none by default (ValidPadding)."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


@dataclass(frozen=True, kw_only=True)
class Same:
    """As much padding as makes the output ``ceil(size / stride)``; an odd amount leans to one side (SamePadding)."""

    asymmetry: Asymmetry = "bottom_right_heavy"


@dataclass(frozen=True, kw_only=True)
class IncludeLastPixel:
    """Equal padding on both sides, and one window more if pixels would be left over (ValidCompletePadding)."""

    height: int = 0
    width: int = 0


@dataclass(frozen=True, kw_only=True)
class _Named:
    """What every layer has: a name of its own and the blobs it reads and writes."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Convolution(_Named):
    """Cross-correlation plus bias (ConvolutionLayerParams); weights ``(out, in / groups, height, width)``."""

    input_channels: int
    output_channels: int
    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    padding: Valid | Same = Valid()
    has_bias: bool = True
    updatable: bool = False


@dataclass(frozen=True, kw_only=True)
class TransposedConvolution(_Named):
    """The transpose of a convolution plus bias (``isDeconvolution``); weights ``(in, out / groups, height, width)``.

    Its padding is cut off the output. ``Same`` means an output of ``stride`` times the input.
    """

    input_channels: int
    output_channels: int
    kernel: Pair
    stride: Pair = (1, 1)
    groups: int = 1
    padding: Valid | Same = Valid()
    has_bias: bool = True
    updatable: bool = False


@dataclass(frozen=True, kw_only=True)
class InnerProduct(_Named):
    """A dense layer on the flattened input, channel first (InnerProductLayerParams); weights ``(out, in)``."""

    input_channels: int
    output_channels: int
    has_bias: bool = True
    updatable: bool = False


@dataclass(frozen=True, kw_only=True)
class BatchNorm(_Named):
    """``gamma * (x - mean) / sqrt(variance + epsilon) + beta`` with stored statistics (BatchnormLayerParams)."""

    channels: int
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class Activation(_Named):
    """A function of each element (ActivationParams).

    ========================  =============================================
    ``relu``                  ``max(x, 0)``
    ``leaky_relu``            ``x`` if ``x >= 0`` else ``alpha * x``
    ``sigmoid``, ``tanh``     as usual
    ``hard_sigmoid``          ``min(max(alpha * x + beta, 0), 1)``
    ``linear``                ``alpha * x + beta``
    ========================  =============================================
    """

    function: Literal["relu", "leaky_relu", "sigmoid", "tanh", "hard_sigmoid", "linear"]
    alpha: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ClampedReLU(_Named):
    """``min(x if x >= 0 else alpha * x, beta)`` (ClampedReLULayerParams)."""

    alpha: float
    beta: float


@dataclass(frozen=True, kw_only=True)
class Clip(_Named):
    """``min(max(x, low), high)`` (ClipLayerParams)."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Threshold(_Named):
    """``max(scale * x + shift, alpha)`` (UnaryFunctionLayerParams of type THRESHOLD)."""

    alpha: float
    scale: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Pooling(_Named):
    """Maximum or average over windows, or over the whole map if ``is_global`` (PoolingLayerParams).

    Padding never wins a maximum. With ``exclude_padding`` it does not count in an average's divisor either.
    """

    function: Literal["max", "average"]
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Valid | Same | IncludeLastPixel = Valid()
    exclude_padding: bool = True
    is_global: bool = False


@dataclass(frozen=True, kw_only=True)
class Flatten(_Named):
    """All of a map as channels, in this order (FlattenLayerParams)."""

    order: Order = "channel_first"


@dataclass(frozen=True, kw_only=True)
class Reshape(_Named):
    """The same numbers in another shape ``(channels, height, width)``, read and laid out in ``order``
    (ReshapeLayerParams)."""

    shape: tuple[int, int, int]
    order: Order = "channel_first"


@dataclass(frozen=True, kw_only=True)
class Permute(_Named):
    """Output axis i is input axis ``axes[i]``, counting channels 0, height 1, width 2 (PermuteLayerParams)."""

    axes: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Softmax(_Named):
    """Softmax over the channels (SoftmaxLayerParams)."""


@dataclass(frozen=True, kw_only=True)
class Add(_Named):
    """The sum of the inputs, sizes of one stretched; a single input gains ``constant`` (AddLayerParams)."""

    constant: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Multiply(_Named):
    """The product of the inputs, sizes of one stretched; a single input is scaled (MultiplyLayerParams)."""

    constant: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Concat(_Named):
    """The inputs' channels one after another (ConcatLayerParams)."""


@dataclass(frozen=True, kw_only=True)
class Split(_Named):
    """The channels in equal shares, one an output (SplitLayerParams)."""


@dataclass(frozen=True, kw_only=True)
class ReduceMean(_Named):
    """The mean over the named axes, which become one (ReduceLayerParams of mode AVG)."""

    axes: Literal["CHW", "HW", "C", "H", "W"]


@dataclass(frozen=True, kw_only=True)
class Pad(_Named):
    """A border of a constant, of the mirrored or of the repeated edge (PaddingLayerParams)."""

    fill: Literal["constant", "reflection", "replication"]
    amounts: Valid
    value: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Upsample(_Named):
    """A map enlarged by whole factors; bilinear samples at ``i / factor`` (UpsampleLayerParams, mode DEFAULT)."""

    factors: Pair
    method: Literal["nearest", "bilinear"] = "nearest"


@dataclass(frozen=True, kw_only=True)
class Scale(_Named):
    """Multiplication by a stored array, then addition of another if ``bias_shape`` is given (ScaleLayerParams).

    Shapes are ``(1,)``, ``(channels,)``, ``(1, height, width)`` or ``(channels, height, width)``.
    """

    scale_shape: tuple[int, ...]
    bias_shape: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Bias(_Named):
    """Addition of a stored array, of a shape as in ``Scale`` (BiasLayerParams)."""

    shape: tuple[int, ...]


Layer = (
    Convolution | TransposedConvolution | InnerProduct | BatchNorm | Activation | ClampedReLU | Clip | Threshold
    | Pooling | Flatten | Reshape | Permute | Softmax | Add | Multiply | Concat | Split | ReduceMean | Pad | Upsample
    | Scale | Bias
)  # fmt: skip
"""Any layer. ``match`` over it; the type checker knows when a kind is missing."""


def parameter_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Name and shape of each array that ``layer`` stores, in file order; the names are the format's own."""
    match layer:
        case Convolution():
            weights = (layer.output_channels, layer.input_channels // layer.groups, *layer.kernel)
            return _with_bias(weights, layer.output_channels, layer.has_bias)
        case TransposedConvolution():
            weights = (layer.input_channels, layer.output_channels // layer.groups, *layer.kernel)
            return _with_bias(weights, layer.output_channels, layer.has_bias)
        case InnerProduct():
            return _with_bias((layer.output_channels, layer.input_channels), layer.output_channels, layer.has_bias)
        case BatchNorm():
            return dict.fromkeys(("gamma", "beta", "mean", "variance"), (layer.channels,))
        case Scale(scale_shape=scale, bias_shape=bias):
            return {"scale": scale} if bias is None else {"scale": scale, "bias": bias}
        case Bias():
            return {"bias": layer.shape}
        case _:
            return {}


def is_updatable(layer: Layer) -> bool:
    """Whether a phone trains this layer."""
    match layer:
        case Convolution() | TransposedConvolution() | InnerProduct():
            return layer.updatable
        case _:
            return False


def _with_bias(weights: tuple[int, ...], channels: int, has_bias: bool) -> dict[str, tuple[int, ...]]:
    return {"weights": weights, "bias": (channels,)} if has_bias else {"weights": weights}
