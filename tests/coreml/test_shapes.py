"""Shapes that follow from known networks, and every way in which layers do not fit together."""

import re

import pytest

from fedsim.coreml import layers as L
from fedsim.coreml.shapes import blob_shapes, input_blob
from fedsim.models.lenet import layers as lenet_layers

ONE = {"name": "it", "inputs": ("x",), "outputs": ("y",)}
MAP = (4, 6, 8)


def convolution(**settings) -> L.Convolution:
    return L.Convolution(**ONE | {"input_channels": 4, "output_channels": 4, "kernel": (3, 3)} | settings)


def transposed(**settings) -> L.TransposedConvolution:
    return L.TransposedConvolution(**ONE | {"input_channels": 4, "output_channels": 2, "kernel": (3, 3)} | settings)


def pooling(**settings) -> L.Pooling:
    return L.Pooling(**ONE | {"function": "max", "kernel": (3, 3), "stride": (2, 2)} | settings)


def test_the_seed_networks_blobs_have_these_shapes():
    assert blob_shapes(lenet_layers(), "image", (1, 28, 28)) == {
        "image": (1, 28, 28),
        "outConv1": (32, 26, 26),
        "outRelu1": (32, 26, 26),
        "outPooling1": (32, 13, 13),
        "outConv2": (32, 12, 12),
        "outRelu2": (32, 12, 12),
        "outPooling2": (32, 6, 6),
        "outFlatten1": (1152, 1, 1),
        "outHidden1": (500, 1, 1),
        "outRelu3": (500, 1, 1),
        "outHidden2": (10, 1, 1),
        "output": (10, 1, 1),
    }


def test_a_vector_is_a_map_of_one_pixel():
    assert input_blob((7,)) == (7, 1, 1)
    assert input_blob((3, 4, 5)) == (3, 4, 5)


@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (1, 0, 1), (1, 2, 3, 4), (-1, 2, 2)])
def test_inputs_of_another_rank_or_size_are_refused(shape):
    with pytest.raises(ValueError, match=re.escape(f"the input's shape is {list(shape)}; expected [channels]")):
        input_blob(shape)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (convolution(), (4, 4, 6)),
        (convolution(padding=L.Same(), stride=(2, 3)), (4, 3, 3)),
        (convolution(dilation=(2, 3)), (4, 2, 2)),
        (convolution(padding=L.Valid(top=1, left=2)), (4, 5, 8)),
        (transposed(stride=(2, 2)), (2, 13, 17)),
        (transposed(stride=(2, 2), padding=L.Same()), (2, 12, 16)),
        (transposed(stride=(2, 2), padding=L.Valid(top=1, bottom=1)), (2, 11, 17)),
        (pooling(), (4, 2, 3)),
        (pooling(padding=L.IncludeLastPixel()), (4, 3, 4)),
        (pooling(padding=L.IncludeLastPixel(height=1, width=1)), (4, 4, 5)),
        (pooling(is_global=True), (4, 1, 1)),
        (L.Upsample(**ONE, factors=(2, 3)), (4, 12, 24)),
        (L.Permute(**ONE, axes=(2, 0, 1)), (8, 4, 6)),
        (L.ReduceMean(**ONE, axes="C"), (1, 6, 8)),
        (L.Pad(**ONE, fill="constant", amounts=L.Valid(top=1, right=2)), (4, 7, 10)),
        (L.Concat(name="it", inputs=("x", "x", "x"), outputs=("y",)), (12, 6, 8)),
    ],
)
def test_a_layers_output_has_this_shape(layer, shape):
    assert blob_shapes([layer], "x", MAP)["y"] == shape


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (convolution(input_channels=3), "layer it expects 3 channels, its input has 4"),
        (convolution(kernel=(7, 1)), r"layer it would write blob y of shape \[4, 0, 8\]"),
        (convolution(kernel=(0, 1)), "layer it has a kernel, stride, dilation or number of groups below one"),
        (convolution(groups=3), "layer it has 3 groups, which divide its channels unequally"),
        (convolution(groups=4, output_channels=6), "layer it has 4 groups, which divide its channels unequally"),
        (convolution(groups=0), "layer it has a kernel, stride, dilation or number of groups below one"),
        (transposed(stride=(4, 1), padding=L.Same()), r"'same' padding with a kernel \(3, 3\) smaller than its stride"),
        (transposed(padding=L.Valid(top=9)), r"layer it would write blob y of shape \[2, -1, 10\]"),
        (pooling(stride=(0, 1)), "layer it has a kernel or stride below one"),
        (pooling(padding=L.Valid(top=3)), "layer it pads so much .*nothing but padding"),
        (pooling(padding=L.Valid(right=9)), "layer it pads so much .*nothing but padding"),
        (
            pooling(kernel=(1, 1), stride=(4, 4), padding=L.IncludeLastPixel()),
            "layer it pads so much .*nothing but padding",
        ),
        (
            pooling(function="average", exclude_padding=False, padding=L.IncludeLastPixel()),
            "layer it averages over the padding of windows to the last pixel; set avgPoolExcludePadding",
        ),
        (L.InnerProduct(**ONE, input_channels=4, output_channels=2), "layer it expects 4 channels, its input has 192"),
        (L.BatchNorm(**ONE, channels=5, epsilon=1.0), "layer it expects 5 channels, its input has 4"),
        (L.Reshape(**ONE, shape=(4, 6, 9)), r"layer it cannot turn shape \[4, 6, 8\] into \[4, 6, 9\]"),
        (L.Reshape(**ONE, shape=(-4, -6, 8)), r"layer it cannot turn shape \[4, 6, 8\] into \[-4, -6, 8\]"),
        (L.Split(name="it", inputs=("x",), outputs=("y", "z", "w")), "layer it splits 4 channels into 3 unequal parts"),
        (L.Scale(**ONE, scale_shape=(6,)), r"layer it stores an array of shape \[6\] for a blob of \[4, 6, 8\]"),
        (L.Scale(**ONE, scale_shape=(1,), bias_shape=(4, 1, 1)), "layer it stores an array of shape"),
        (L.Bias(**ONE, shape=(1, 6)), "layer it stores an array of shape"),
        (L.Upsample(**ONE, factors=(0, 1)), "layer it would write blob y"),
        (L.Upsample(**ONE, factors=(2**20, 2**20)), "layer it would write blob y"),
        (
            L.Pad(**ONE, fill="reflection", amounts=L.Valid(bottom=6)),
            "layer it mirrors a border wider than its input of 6 x 8",
        ),
        (L.Softmax(name="it", inputs=(), outputs=("y",)), "layer it has 0 inputs, expected one"),
        (L.Softmax(name="it", inputs=("x", "x"), outputs=("y",)), "layer it has 2 inputs, expected one"),
        (L.Add(name="it", inputs=(), outputs=("y",)), "layer it has 0 inputs, expected one or more"),
        (L.Split(name="it", inputs=("x",), outputs=()), "layer it has 0 outputs, expected one or more"),
        (L.Softmax(name="it", inputs=("z",), outputs=("y",)), "layer it reads blob z, which no layer before it writes"),
        (L.Softmax(name="it", inputs=("x",), outputs=("x",)), "layer it writes blob x, which exists already"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_in_words(layer, words):
    with pytest.raises(ValueError, match=words) as raised:
        blob_shapes([layer], "x", MAP)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (
            L.Add(name="it", inputs=("x", "half"), outputs=("y",)),
            r"layer it combines shapes that do not match: \[\[4, 6, 8\], \[2, 6, 8\]\]",
        ),
        (L.Concat(name="it", inputs=("x", "small"), outputs=("y",)), "layer it joins maps of different sizes"),
    ],
)
def test_blobs_that_do_not_match_are_refused_in_words(layer, words):
    split = L.Split(name="split", inputs=("x",), outputs=("half", "other"))
    reduce = L.ReduceMean(name="reduce", inputs=("x",), outputs=("small",), axes="H")
    with pytest.raises(ValueError, match=words):
        blob_shapes([split, reduce, layer], "x", MAP)
