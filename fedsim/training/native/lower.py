"""Lowers a contract's graph to a short program of plain numbers, which the C++ engine runs (``program.hpp``)."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedsim.coreml.contract import Contract
from fedsim.coreml.layers import Activation, Convolution, Flatten, InnerProduct, Layer, Order, Pair, Pooling, Valid
from fedsim.coreml.shapes import Shape, blob_shapes, input_blob
from fedsim.coreml.windows import padding_pixels

BLOCK, WIDE, TILE = 16, 32, 10
"""``kBlock``, ``kWide`` and ``kTile`` of program.hpp, which says what they are."""

CONVOLUTION, GROUPED_CONVOLUTION, MAX_POOLING, AVERAGE_POOLING, DENSE = range(5)
NO_ACTIVATION = 0
ACTIVATIONS = {"relu": 1, "sigmoid": 2, "tanh": 3}
LOSSES = {"cross_entropy": 0, "mean_squared_error": 1}

STEP_FIELDS = (
    *("kind", "activation", "pooled", "trainable", "has_bias", "input_gradient"),
    *("in_channels", "in_height", "in_width", "out_channels", "out_height", "out_width"),
    *("kernel_height", "kernel_width", "stride_height", "stride_width", "dilation_height", "dilation_width", "groups"),
    *("pad_top", "pad_left", "pad_bottom", "pad_right", "count_padding", "weights", "bias"),
)
"""``Step`` of program.hpp; every field is an int64."""

PLACEMENT = np.dtype([(name, np.int64) for name in ("vector", "image", "rows", "columns", "row_table", "column_table")])
"""``Placement`` of program.hpp."""

Numbers = NDArray[np.int64]


class Unsupported(ValueError):
    """A network that the engine cannot run, though the reference loop can. The message names the layer."""


_NO_PADDING = Valid()


@dataclass(frozen=True, kw_only=True)
class Step:
    """``Step`` of program.hpp, which says what the fields mean, before its weights have a place.

    ``layer`` is the layer that has the weights, ``order`` how a dense layer's columns run over its input.
    """

    layer: str
    kind: int
    inputs: Shape
    outputs: Shape
    activation: int = NO_ACTIVATION
    pooled: bool = False
    trainable: bool = False
    has_bias: bool = False
    input_gradient: bool = False
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    padding: Valid = _NO_PADDING
    count_padding: bool = False
    order: Order = "channel_first"


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """What the engine is given, in the layouts of program.hpp.

    ``steps`` is ``int64[steps, fields]``; ``image`` is ``float32``, all weights in the engine's layout with the
    frozen ones in place and zeros elsewhere. ``values`` counts the logits or regressed values of one example.
    """

    steps: Numbers
    placements: NDArray[np.void]
    tables: NDArray[np.int32]
    image: NDArray[np.float32]
    loss: int
    values: int
    parameters: int
    input_shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Matrix:
    """Where a parameter's number (row, column) lies in the image: ``start + rows[row] + columns[column]``."""

    start: int
    rows: Numbers
    columns: Numbers


def lower(contract: Contract) -> Program:
    """The program of a contract's network.

    Convolutions (stride, dilation, groups, any padding), max and average poolings, ReLU, sigmoid, tanh, flatten and
    inner products, one after another, with dense layers last. A 2 x 2 max pooling and a ReLU, in either order, join
    the convolution before them.

    Raises:
        Unsupported: any other layer, or these in another arrangement.
    """
    steps = _marked(_steps(contract))
    matrices, starts, size = _matrices(steps)
    placements, tables = _placements(contract, matrices)
    return Program(
        steps=np.array([_row(step, *start) for step, start in zip(steps, starts, strict=True)], np.int64),
        placements=placements,
        tables=tables,
        image=_frozen_image(contract, matrices, size),
        loss=LOSSES[contract.loss],
        values=steps[-1].outputs[0],
        parameters=contract.parameters,
        input_shape=contract.input_shape,
    )


def _steps(contract: Contract) -> list[Step]:
    """The layers from the input to what the loss is computed from, fused where that is possible."""
    shapes = blob_shapes(contract.graph, contract.input_name, contract.input_shape)
    goal = contract.output_name
    if contract.loss == "cross_entropy":
        goal = next(layer.inputs[0] for layer in contract.graph if goal in layer.outputs)
    steps: list[Step] = []
    blob, flatten = contract.input_name, Flatten(name="", inputs=(), outputs=())
    for layer in contract.graph:
        if blob == goal:
            break
        if layer.inputs != (blob,) or len(layer.outputs) != 1:
            raise Unsupported(f"layer {layer.name} branches or joins; the native engine runs plain chains of layers")
        if isinstance(layer, Flatten):
            flatten = layer if math.prod(shapes[blob][1:]) > 1 else flatten
        else:
            inputs = steps[-1].outputs if steps else input_blob(contract.input_shape)
            if shapes[blob] != inputs and not isinstance(layer, InnerProduct | Activation):
                raise Unsupported(f"layer {layer.name} reads a flattened map; the native engine has dense layers there")
            steps = _with_layer(steps, layer, inputs, shapes[layer.outputs[0]], flatten.order)
        blob = layer.outputs[0]
    if not steps or (steps[-1].kind != DENSE and shapes[blob] != (steps[-1].outputs[0], 1, 1)):
        raise Unsupported(
            f"blob {blob}, from which the loss is computed, is a map; end the network in one value a class"
        )
    return steps


def _with_layer(steps: list[Step], layer: Layer, inputs: Shape, outputs: Shape, order: Order) -> list[Step]:
    """The steps with one more layer, as a step of its own or as part of the last one."""
    last = steps[-1] if steps else None
    after_dense = last is not None and last.kind == DENSE
    match layer:
        case InnerProduct():
            return [*steps, _dense(layer, inputs, outputs, order)]
        case Activation(function=function) if function in ACTIVATIONS:
            if last is not None and last.activation == NO_ACTIVATION:
                return [*steps[:-1], replace(last, activation=ACTIVATIONS[function])]
            if not after_dense:
                return [*steps, replace(_identity(layer, inputs), activation=ACTIVATIONS[function])]
        case Convolution() if not after_dense:
            return [*steps, _convolution(layer, inputs, outputs)]
        case Pooling() if not after_dense:
            if last is not None and _joins(last, layer):
                return [*steps[:-1], replace(last, pooled=True, outputs=outputs)]
            return [*steps, _pooling(layer, inputs, outputs)]
        case _:
            pass
    place = "" if not after_dense else " after a dense layer"
    raise Unsupported(f"layer {layer.name} ({type(layer).__name__}{place}) is not one that the native engine runs")


def _convolution(layer: Convolution, inputs: Shape, outputs: Shape) -> Step:
    return Step(
        layer=layer.name,
        kind=CONVOLUTION if layer.groups == 1 else GROUPED_CONVOLUTION,
        inputs=inputs,
        outputs=outputs,
        trainable=layer.updatable,
        has_bias=layer.has_bias,
        kernel=layer.kernel,
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
        padding=padding_pixels(layer, *inputs[1:]),
    )


def _pooling(layer: Pooling, inputs: Shape, outputs: Shape) -> Step:
    return Step(
        layer=layer.name,
        kind=MAX_POOLING if layer.function == "max" else AVERAGE_POOLING,
        inputs=inputs,
        outputs=outputs,
        kernel=inputs[1:] if layer.is_global else layer.kernel,
        stride=(1, 1) if layer.is_global else layer.stride,
        padding=Valid() if layer.is_global else padding_pixels(layer, *inputs[1:]),
        count_padding=not layer.exclude_padding,
    )


def _dense(layer: InnerProduct, inputs: Shape, outputs: Shape, order: Order) -> Step:
    return Step(
        layer=layer.name,
        kind=DENSE,
        inputs=inputs,
        outputs=outputs,
        trainable=layer.updatable,
        has_bias=layer.has_bias,
        order=order,
    )


def _identity(layer: Layer, shape: Shape) -> Step:
    """Something for an activation to follow: the average of one number."""
    return Step(layer=layer.name, kind=AVERAGE_POOLING, inputs=shape, outputs=shape)


def _joins(last: Step, pooling: Pooling) -> bool:
    """Whether a pooling becomes part of a convolution. ReLU and a maximum may change places: where they differ in
    which of equal numbers wins, nothing flows back."""
    halving = pooling.function == "max" and not pooling.is_global and pooling.kernel == pooling.stride == (2, 2)
    plain = halving and padding_pixels(pooling, *last.outputs[1:]) == Valid()
    return plain and last.kind == CONVOLUTION and not last.pooled and last.activation in (NO_ACTIVATION, 1)


def _marked(steps: list[Step]) -> list[Step]:
    """The steps that have to hand a gradient on to a trainable one marked so."""
    trains = [any(step.trainable for step in steps[:place]) for place in range(len(steps))]
    return [replace(step, input_gradient=before) for step, before in zip(steps, trains, strict=True)]


def _row(step: Step, weights: int, bias: int) -> list[int]:
    """A step as a row of ``STEP_FIELDS``."""
    return [
        step.kind,
        step.activation,
        int(step.pooled),
        int(step.trainable),
        int(step.has_bias),
        int(step.input_gradient),
        *step.inputs,
        *step.outputs,
        *step.kernel,
        *step.stride,
        *step.dilation,
        step.groups,
        step.padding.top,
        step.padding.left,
        step.padding.bottom,
        step.padding.right,
        int(step.count_padding),
        weights,
        bias,
    ]


def _matrices(steps: list[Step]) -> tuple[dict[tuple[str, str], _Matrix], list[tuple[int, int]], int]:
    """Where in the image each parameter's numbers lie, where each step's weights and bias begin, and the image's size.

    A layer without a bias has room for one all the same, which stays zero.
    """
    matrices: dict[tuple[str, str], _Matrix] = {}
    starts: list[tuple[int, int]] = []
    end = 0
    for before, step in zip([None, *steps], steps, strict=False):
        if step.kind in (MAX_POOLING, AVERAGE_POOLING):
            starts.append((end, end))
            continue
        padded = before is not None and before.kind != DENSE
        rows, columns, count = _dense_layout(step, padded) if step.kind == DENSE else _convolution_layout(step)
        outputs = step.outputs[0]
        bias = _Matrix(start=end + count, rows=np.arange(outputs), columns=np.zeros(1, np.int64))
        matrices[step.layer, "weights"] = _Matrix(start=end, rows=rows, columns=columns)
        matrices[step.layer, "bias"] = bias
        starts.append((end, bias.start))
        end = bias.start + _round_up(outputs, WIDE if step.kind == DENSE else BLOCK)
    return matrices, starts, end


def _convolution_layout(step: Step) -> tuple[Numbers, Numbers, int]:
    """Row and column offsets of weights (out, in / groups, height, width), and how many floats they take."""
    share, (height, width), lanes = step.inputs[0] // step.groups, step.kernel, _round_up(step.outputs[0], BLOCK)
    taps = np.arange(height * width * share).reshape(height, width, share).transpose(2, 0, 1)
    return np.arange(step.outputs[0]), taps.ravel() * lanes, height * width * share * lanes


def _dense_layout(step: Step, padded: bool) -> tuple[Numbers, Numbers, int]:
    """The same of weights (out, in), of which the inputs are a map, perhaps one with padded channels."""
    channels, height, width = step.inputs
    stride = _round_up(channels, BLOCK) if padded else channels
    places = (np.arange(height * width) * stride)[:, None] + np.arange(channels)
    inputs = (places if step.order == "channel_last" else places.T).ravel()
    blocks = _round_up(height * width * stride, WIDE) // WIDE
    outputs = np.arange(step.outputs[0])
    rows = outputs // TILE * (blocks * TILE * WIDE) + outputs % TILE * WIDE
    tiles = _round_up(step.outputs[0], TILE) // TILE
    return rows, inputs // WIDE * (TILE * WIDE) + inputs % WIDE, tiles * blocks * TILE * WIDE


def _placements(
    contract: Contract, matrices: dict[tuple[str, str], _Matrix]
) -> tuple[NDArray[np.void], NDArray[np.int32]]:
    """Where the numbers of the contract's flat vector go."""
    rows: list[tuple[int, ...]] = []
    tables: list[Numbers] = []
    vector = used = 0
    for slot in contract.slots:
        matrix = matrices.get((slot.layer, slot.parameter))
        if matrix is None:
            raise Unsupported(f"layer {slot.layer} is updatable, but no part of what the loss is computed from")
        row_table, column_table = used, used + matrix.rows.size
        rows.append((vector, matrix.start, matrix.rows.size, matrix.columns.size, row_table, column_table))
        tables += [matrix.rows, matrix.columns]
        used = column_table + matrix.columns.size
        vector += slot.count
    return np.array(rows, PLACEMENT), np.concatenate(tables).astype(np.int32)


def _frozen_image(contract: Contract, matrices: dict[tuple[str, str], _Matrix], size: int) -> NDArray[np.float32]:
    image = np.zeros(size, np.float32)
    for key, constant in contract.frozen.items():
        if key in matrices:
            matrix = matrices[key]
            places = matrix.start + matrix.rows[:, None] + matrix.columns
            image[places] = constant.reshape(places.shape)
    return image


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
