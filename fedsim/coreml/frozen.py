"""Weights that are never trained, decoded to float32 from whichever precision the file keeps them in."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Constant = NDArray[np.float32]


def read_constant(what: str, message: Any, shape: tuple[int, ...]) -> Constant:
    """The numbers of a ``WeightParams`` message as ``float32[*shape]``.

    float32 and float16 are taken as they are; quantised numbers are looked up in their table, or scaled and shifted
    by one pair for the whole array or one pair a first-axis row (WeightParams, QuantizationParams). ``what`` names
    the parameter in messages.

    Raises:
        ValueError: the numbers are missing, too few or too many, or in a form the format does not define.
    """
    count = math.prod(shape)
    forms = [name for name in ("floatValue", "float16Value", "rawValue", "int8RawValue") if len(getattr(message, name))]
    match forms:
        case ["floatValue"]:
            values = np.array(message.floatValue, np.float32)
        case ["float16Value"]:
            if len(message.float16Value) != 2 * count:
                raise ValueError(f"{what} holds {len(message.float16Value)} bytes of float16, expected {2 * count}")
            values = np.frombuffer(message.float16Value, "<f2").astype(np.float32)
        case ["rawValue"]:
            values = _dequantised(what, message, count, shape[0])
        case _:
            raise ValueError(f"{what} is stored as {' and '.join(forms) or 'nothing'}; expected one array of numbers")
    if values.size != count:
        raise ValueError(f"{what} holds {values.size} numbers, its shape {shape} needs {count}")
    return values.reshape(shape)


def _dequantised(what: str, message: Any, count: int, rows: int) -> Constant:
    bits, quantization = message.quantization.numberOfBits, message.quantization
    if not 1 <= bits <= 8 or len(message.rawValue) != -(-count * bits // 8):
        raise ValueError(f"{what} holds {len(message.rawValue)} bytes, not {count} numbers of {bits} bits")
    codes = _unpacked(message.rawValue, bits, count)
    match quantization.WhichOneof("QuantizationType"):
        case "lookupTableQuantization":
            table = np.array(quantization.lookupTableQuantization.floatValue, np.float32)
            if table.size != 2**bits:
                raise ValueError(f"{what} has a table of {table.size} numbers, {bits} bits need {2**bits}")
            return table[codes]
        case "linearQuantization":
            scale = np.array(quantization.linearQuantization.scale, np.float32)
            bias = np.array(quantization.linearQuantization.bias, np.float32)
            if not {scale.size, bias.size} <= {1, rows}:
                raise ValueError(f"{what} has {scale.size} scales and {bias.size} biases, expected 1 or {rows}")
            return (codes.reshape(rows, -1) * scale[:, None] + bias[:, None]).astype(np.float32).ravel()
        case _:
            raise ValueError(f"{what} does not say how it is quantised")


def _unpacked(raw: bytes, bits: int, count: int) -> NDArray[np.uint8]:
    """``count`` unsigned numbers of ``bits`` bits each, the most significant bit first, without gaps."""
    flat = np.unpackbits(np.frombuffer(raw, np.uint8), count=count * bits).reshape(count, bits)
    return np.right_shift(np.packbits(flat, axis=1).ravel(), 8 - bits).astype(np.uint8)
