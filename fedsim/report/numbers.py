"""How numbers are written on the page: rounded for reading, with their unit, and the exact value kept beside."""

import math
from collections.abc import Callable
from dataclasses import dataclass

GAP = "\N{NARROW NO-BREAK SPACE}"
NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Number:
    """A ``text`` to read and the ``value`` it rounds, which the page keeps in the element's ``value``."""

    value: float
    text: str


Cell = str | Number
"""What a table cell or a piece of a sentence may be."""


def percent(share: float | None) -> Cell:
    """A share as per cent with two decimals: the finest that 10,000 test images can tell.

    >>> percent(0.98525).text.split()
    ['98.52', '%']
    """
    return _number(share, lambda value: f"{100 * value:.2f}{GAP}%")


def decimal(value: float | None) -> Cell:
    """Four significant digits, for losses and differences."""
    return _number(value, lambda value: f"{value:.4g}")


def count(value: float | None) -> Cell:
    """A whole number with its thousands apart."""
    return _number(value, lambda value: f"{round(value):,}")


def mean_count(value: float | None) -> Cell:
    """The mean of whole numbers, with one decimal."""
    return _number(value, lambda value: f"{value:,.1f}")


def duration(seconds: float | None) -> Cell:
    """Seconds, as milliseconds, minutes or hours where that reads better.

    >>> [duration(seconds).text.replace(GAP, " ") for seconds in (0.0312, 41.26, 248, 7325)]
    ['31.2 ms', '41.3 s', '4 min 8 s', '2 h 2 min']
    """
    return _number(seconds, _duration)


def data_size(size: float | None) -> Cell:
    """Bytes in decimal units: 1 MB is 1,000,000 bytes.

    >>> [data_size(size).text.replace(GAP, " ") for size in (0, 999, 2_343_832, 234_383_200)]
    ['0 B', '999 B', '2.34 MB', '234 MB']
    """
    return _number(size, _data_size)


def _number(value: float | None, write: Callable[[float], str]) -> Cell:
    if value is None:
        return NOTHING
    return Number(value=value, text=write(value)) if math.isfinite(value) else "not finite"


def _duration(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.3g}{GAP}ms"
    if seconds < 10:
        return f"{seconds:.2f}{GAP}s"
    if seconds < 120:
        return f"{seconds:.1f}{GAP}s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60}{GAP}min {round(seconds) % 60}{GAP}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{GAP}h {minutes % 60}{GAP}min"


def _data_size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g}{GAP}{unit}"
        size /= 1000
    return f"{size:,.2f}{GAP}TB"
