"""Layers as messages: defaults made explicit, and each setting that cannot be run refused in words."""

from typing import Any

import numpy as np
import pytest

from fedsim.coreml import layers as L
from fedsim.coreml.decode import read_layer
from fedsim.coreml.frozen import read_constant
from fedsim.coreml.schema import message_class


def message(**fields) -> Any:
    return message_class("NeuralNetworkLayer")(name="it", input=["x"], output=["y"], **fields)


ONE = {"name": "it", "inputs": ("x",), "outputs": ("y",)}

DEFAULTS = [
    (
        {"convolution": {"outputChannels": 2, "kernelChannels": 3, "valid": {}}},
        L.Convolution(**ONE, input_channels=3, output_channels=2, kernel=(3, 3), has_bias=False),
    ),
    (
        {"convolution": {"outputChannels": 2, "kernelChannels": 3, "isDeconvolution": True, "same": {}}},
        L.TransposedConvolution(
            **ONE, input_channels=3, output_channels=2, kernel=(3, 3), padding=L.Same(), has_bias=False
        ),
    ),
    ({"innerProduct": {}}, L.InnerProduct(**ONE, input_channels=0, output_channels=0, has_bias=False)),
    ({"batchnorm": {"channels": 3}}, L.BatchNorm(**ONE, channels=3, epsilon=float(np.float32(1e-5)))),
    (
        {"pooling": {"includeLastPixel": {}}},
        L.Pooling(
            **ONE, function="max", kernel=(3, 3), padding=L.IncludeLastPixel(), stride=(1, 1), exclude_padding=False
        ),
    ),
    ({"unary": {"type": 7}}, L.Threshold(**ONE, alpha=0.0, scale=1.0, shift=0.0)),
    ({"upsample": {}}, L.Upsample(**ONE, factors=(1, 1), method="nearest")),
    ({"permute": {}}, L.Permute(**ONE, axes=(0, 1, 2))),
    ({"reshape": {"targetShape": [1, 2, 3, 4]}}, L.Reshape(**ONE, shape=(2, 3, 4))),
    ({"padding": {"constant": {}}}, L.Pad(**ONE, fill="constant", amounts=L.Valid())),
    ({"flatten": {}}, L.Flatten(**ONE, order="channel_first")),
    ({"add": {}}, L.Add(**ONE, constant=0.0)),
    ({"multiply": {}}, L.Multiply(**ONE, constant=0.0)),
    ({"reduce": {"mode": 1}}, L.ReduceMean(**ONE, axes="CHW")),
]


@pytest.mark.parametrize(("fields", "layer"), DEFAULTS)
def test_what_is_not_set_has_the_value_that_the_format_gives_it(fields, layer):
    assert read_layer(message(**fields)) == layer


REFUSED = [
    ({"convolution": {"valid": {}, "isDeconvolution": True, "outputShape": [4, 4]}}, "a fixed outputShape"),
    ({"convolution": {"valid": {"paddingAmounts": {"borderAmounts": [{}]}}}}, "has 1 border amounts, expected height"),
    ({"batchnorm": {"computeMeanVar": True}}, "computes statistics of its batch"),
    ({"batchnorm": {"instanceNormalization": True}}, "computes statistics of its batch"),
    ({"activation": {"PReLU": {}}}, "is an activation of kind PReLU, which fedsim does not run"),
    ({"pooling": {"type": 2, "valid": {}}}, "another type than MAX and AVERAGE"),
    ({"pooling": {}}, "does not say how it pads"),
    ({"reshape": {"targetShape": [2, 1, 2, 3]}}, r"reshapes to \[2, 1, 2, 3\]; expected \[channels, height, width\]"),
    ({"reshape": {"targetShape": [6]}}, r"reshapes to \[6\]"),
    ({"permute": {"axis": [1, 0, 2, 3]}}, r"permutes axes as \[1, 0, 2, 3\]"),
    ({"permute": {"axis": [0, 1, 1, 3]}}, r"permutes axes as \[0, 1, 1, 3\]"),
    ({"concat": {"sequenceConcat": True}}, "joins sequences; only channels"),
    ({"split": {"nOutputs": 2}}, "splits into 2 parts but names 1 outputs"),
    ({"reduce": {"mode": 0}}, "another operation than AVG"),
    ({"padding": {}}, "does not say what it pads with"),
    ({"upsample": {"fractionalScalingFactor": [1.5, 1.5]}}, "upsamples by a fraction"),
    ({"upsample": {"linearUpsampleMode": 1}}, "or by aligned corners"),
    ({"upsample": {"mode": 2}}, "another method than NN and BILINEAR"),
    ({"unary": {"type": 4}}, "another type than THRESHOLD"),
    ({"softmaxND": {}}, "is of kind softmaxND, which fedsim does not run; kinds it runs: convolution, innerProduct"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_what_cannot_be_run_is_refused_in_words(fields, words):
    with pytest.raises(ValueError, match=f"^layer it .*{words}") as raised:
        read_layer(message(**fields))
    assert "\n" not in str(raised.value)


LINEAR = {"numberOfBits": 8, "linearQuantization": {"scale": [2.0], "bias": [1.0]}}
ROWS = {"numberOfBits": 8, "linearQuantization": {"scale": [2.0, 3.0], "bias": [1.0, -1.0]}}
TABLE = {"numberOfBits": 2, "lookupTableQuantization": {"floatValue": [0.0, 10.0, 20.0, 30.0]}}

CONSTANTS = [
    ({"floatValue": [1, 2, 3, 4, 5, 6]}, [1, 2, 3, 4, 5, 6]),
    ({"float16Value": bytes.fromhex("003c00400042004400450046")}, [1, 2, 3, 4, 5, 6]),
    ({"rawValue": bytes([0, 1, 2, 3, 4, 255]), "quantization": LINEAR}, [1, 3, 5, 7, 9, 511]),
    ({"rawValue": bytes([0, 1, 2, 3, 4, 255]), "quantization": ROWS}, [1, 3, 5, 8, 11, 764]),
    ({"rawValue": bytes([0b00_01_10_11, 0b11_00_0000]), "quantization": TABLE}, [0, 10, 20, 30, 30, 0]),
]


@pytest.mark.parametrize(("fields", "values"), CONSTANTS)
def test_constants_are_decoded_from_every_precision(fields, values):
    decoded = read_constant("it.weights", message_class("WeightParams")(**fields), (2, 3))
    np.testing.assert_array_equal(decoded, np.array(values, np.float32).reshape(2, 3), strict=True)


BAD_CONSTANTS = [
    ({}, "is stored as nothing; expected one array of numbers"),
    ({"floatValue": [1.0], "float16Value": b"ab"}, "is stored as floatValue and float16Value"),
    ({"int8RawValue": bytes(6)}, "is stored as int8RawValue"),
    ({"floatValue": [1.0]}, r"holds 1 numbers, its shape \(2, 3\) needs 6"),
    ({"float16Value": bytes(11)}, "holds 11 bytes of float16, expected 12"),
    ({"rawValue": bytes(6)}, "holds 6 bytes, not 6 numbers of 0 bits"),
    ({"rawValue": bytes(5), "quantization": LINEAR}, "holds 5 bytes, not 6 numbers of 8 bits"),
    ({"rawValue": bytes(6), "quantization": {"numberOfBits": 8}}, "does not say how it is quantised"),
    (
        {"rawValue": bytes(2), "quantization": TABLE | {"lookupTableQuantization": {"floatValue": [0.0]}}},
        "has a table of 1 numbers, 2 bits need 4",
    ),
    (
        {"rawValue": bytes(6), "quantization": {"numberOfBits": 8, "linearQuantization": {"scale": [1.0, 2.0, 3.0]}}},
        "has 3 scales and 0 biases, expected 1 or 2",
    ),
]


@pytest.mark.parametrize(("fields", "words"), BAD_CONSTANTS)
def test_damaged_constants_are_refused_in_words(fields, words):
    with pytest.raises(ValueError, match=f"^it.weights {words}"):
        read_constant("it.weights", message_class("WeightParams")(**fields), (2, 3))
