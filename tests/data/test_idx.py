"""The idx format, against bytes written by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsim.data import idx
from tests.data.idx_files import CODES, encode


@settings(deadline=None)
@given(st.sampled_from(sorted(CODES)).flatmap(lambda name: hnp.arrays(name, hnp.array_shapes(max_dims=4, max_side=4))))
def test_decode_undoes_encode(array):
    decoded = idx.decode(encode(array))
    assert decoded.dtype.name == array.dtype.name
    np.testing.assert_array_equal(decoded, array)
    assert not decoded.flags.writeable


def test_a_mapped_file_is_viewed_not_copied():
    data = np.frombuffer(encode(np.arange(6, dtype=np.uint8).reshape(2, 3)), np.uint8)
    assert np.shares_memory(idx.decode(data), data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "not an idx file: it starts with nothing"),
        ("00 00 08", "not an idx file: it starts with 00 00 08"),
        ("50 4b 03 04", "not an idx file: it starts with 50 4b 03 04"),
        ("00 00 0a 01 00 00 00 00", "not an idx file: it starts with 00 00 0a 01"),
        ("00 00 08 00", "not an idx file: it starts with 00 00 08 00"),
        ("00 00 08 02 00 00 00 01", "cut short: 8 bytes, an idx header of 2 dimensions has 12"),
        ("00 00 08 01 00 00 00 03 01 02", "10 bytes; its header [3] uint8 calls for 11"),
        ("00 00 08 01 00 00 00 01 01 02", "10 bytes; its header [1] uint8 calls for 9"),
        ("00 00 0d 01 ff ff ff ff", "8 bytes; its header [4294967295] float32 calls for 17,179,869,188"),
    ],
)
def test_bad_bytes_are_refused_in_one_line(data, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        idx.decode(bytes.fromhex(data))
    assert str(refusal.value) == message


@settings(deadline=None)
@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_decode_or_are_refused(data, plausible):
    data = b"\0\0\x08\x01\0\0\0" + data if plausible else data
    try:
        array = idx.decode(data)
    except ValueError:
        return
    assert encode(array) == data
