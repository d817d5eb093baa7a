"""Protobuf's wire format, as much of it as walking a model file needs, and no more trusting than it has to be.

https://protobuf.dev/programming-guides/encoding: a field is a tag (number and wire type) and a value, which is a varint
(wire type 0), eight bytes (1), a length and as many bytes (2), or four bytes (5). Core ML uses no groups (3, 4).
"""

from collections.abc import Iterator
from dataclasses import dataclass

Span = tuple[int, int]
"""First byte of a value and the byte after its last."""

_VARINT, _EIGHT_BYTES, _LENGTH_DELIMITED, _FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The fields of one message: number -> (wire type, varint or span) in order of occurrence."""

    by_number: dict[int, list[tuple[int, int | Span]]]

    def spans(self, number: int) -> list[Span]:
        """Every occurrence of a length-delimited field."""
        values = self.by_number.get(number, [])
        if any(wire != _LENGTH_DELIMITED for wire, _ in values):
            raise ValueError(f"malformed model: field {number} is not length-delimited")
        return [value for _, value in values if isinstance(value, tuple)]

    def span(self, number: int) -> Span | None:
        """The one occurrence of a length-delimited field, None if it is not there."""
        spans = self.spans(number)
        if len(spans) > 1:
            raise ValueError(f"malformed model: field {number} occurs {len(spans)} times, expected once")
        return spans[0] if spans else None

    def number(self, number: int) -> int:
        """The value of a varint field, 0 if it is not there: protobuf's default."""
        match self.by_number.get(number, [(_VARINT, 0)]):
            case [(_, int(value))]:
                return value
            case _:
                raise ValueError(f"malformed model: field {number} is not a single number")


def read_fields(data: bytes, span: Span) -> Fields:
    """The fields of the message that fills ``span``; all their spans lie within it.

    Raises:
        ValueError: ``span`` does not hold a whole message.
    """
    fields: dict[int, list[tuple[int, int | Span]]] = {}
    for number, wire, value in _walk(data, *span):
        fields.setdefault(number, []).append((wire, value))
    return Fields(by_number=fields)


def read_varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The unsigned 64-bit number that starts at ``start``, and the byte after it, at most ``end``.

    >>> read_varint(bytes([0b1010_1100, 0b0000_0010]), 0, 2)
    (300, 2)

    Raises:
        ValueError: the number does not end before ``end``, or not within ten bytes.
    """
    value = 0
    for index in range(start, min(start + 10, end)):
        value |= (data[index] & 127) << 7 * (index - start)
        if data[index] < 128:
            return value & (2**64 - 1), index + 1
    raise ValueError(f"malformed model: the number at byte {start} does not end")


def _walk(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int | Span]]:
    """Field number, wire type and value of each field of ``data[start:end]``."""
    while start < end:
        tag, start = read_varint(data, start, end)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, start = read_varint(data, start, end)
            yield number, wire, value
            continue
        if wire == _LENGTH_DELIMITED:
            length, start = read_varint(data, start, end)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"malformed model: wire type {wire} before byte {start}")
        if length > end - start:
            raise ValueError(f"malformed model: a field at byte {start} runs past the end of its message")
        yield number, wire, (start, start + length)
        start += length
