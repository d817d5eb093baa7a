"""Protobuf's wire format, against protobuf itself and case by case."""

import pytest
from google.protobuf.wrappers_pb2 import UInt64Value
from hypothesis import given
from hypothesis import strategies as st

from fedsim.coreml.wire import read_fields, read_varint


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_numbers_are_those_that_protobuf_wrote(value, behind):
    data = UInt64Value(value=value).SerializeToString()
    assert read_fields(data, (0, len(data))).number(1) == value
    if value:
        assert read_varint(data + behind, 1, len(data + behind)) == (value, len(data))


@given(st.binary(max_size=40))
def test_any_bytes_are_read_within_their_bounds_or_refused(data):
    try:
        fields, refusal = read_fields(data, (0, len(data))).by_number, ""
    except ValueError as error:
        fields, refusal = {}, str(error)
    assert refusal == "" or refusal.startswith("malformed model: ")
    for wire, value in (field for values in fields.values() for field in values):
        assert isinstance(value, int) if wire == 0 else 0 < value[0] <= value[1] <= len(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("08", "the number at byte 1 does not end"),
        ("08" + "ff" * 10 + "00", "the number at byte 1 does not end"),
        ("0a05414243", "a field at byte 2 runs past the end"),
        ("0d000000", "a field at byte 1 runs past the end"),
        ("0900000000000000", "a field at byte 1 runs past the end"),
        ("0b", "wire type 3 before byte 1"),
        ("0f", "wire type 7 before byte 1"),
    ],
)
def test_broken_messages_are_refused(data, words):
    data = bytes.fromhex(data)
    with pytest.raises(ValueError, match=words):
        read_fields(data, (0, len(data)))


def test_a_field_of_another_kind_or_number_of_times_is_refused():
    fields = read_fields(bytes.fromhex("0801 0802 1201 41 1201 42"), (0, 10))
    assert fields.spans(2) == [(6, 7), (9, 10)]
    assert fields.spans(3) == []
    assert fields.span(3) is None
    assert fields.number(3) == 0
    for read, number, words in (
        (fields.number, 1, "field 1 is not a single number"),
        (fields.number, 2, "field 2 is not a single number"),
        (fields.spans, 1, "field 1 is not length-delimited"),
        (fields.span, 2, "field 2 occurs 2 times, expected once"),
    ):
        with pytest.raises(ValueError, match=words):
            read(number)
