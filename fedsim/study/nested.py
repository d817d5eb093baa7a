"""Nested tables, as in a study's file: laid over one another, looked into by dotted keys, put into words."""

from collections.abc import Mapping
from typing import Any

from fedsim.config import ConfigError

Tables = Mapping[str, Any]


def merged(tables: Tables, more: Tables, above: str = "") -> dict[str, Any]:
    """``tables`` with ``more`` laid over: tables are merged key by key, all else is replaced.

    Raises `ConfigError` where a table of ``more`` would be laid over what is none.

    >>> merged({"data": {"partition": "iid", "min_examples": 2}}, {"data": {"partition": "shards"}})
    {'data': {'partition': 'shards', 'min_examples': 2}}
    """
    both = {key: merged({}, value) if isinstance(value, Mapping) else value for key, value in tables.items()}
    for key, value in more.items():
        if not isinstance(value, Mapping):
            both[key] = value
            continue
        under = both.get(key, {})
        if not isinstance(under, Mapping):
            raise ConfigError(f"{above}{key} = {under}: must be a table, as the study sets keys in it")
        both[key] = merged(under, value, f"{above}{key}.")
    return both


def at(tables: Any, key: str) -> Any:
    """What stands at a dotted key of nested tables and lists, counted from 0; None where nothing does."""
    for part in key.split("."):
        if isinstance(tables, Mapping):
            tables = tables.get(part)
        else:
            tables = dict(enumerate(tables)).get(int(part)) if isinstance(tables, list) and part.isdecimal() else None
    return tables


def flat(tables: Tables, above: str = "") -> dict[str, Any]:
    """Nested tables as one, of dotted keys.

    >>> flat({"data": {"partition": "iid"}, "seed": 3})
    {'data.partition': 'iid', 'seed': 3}
    """
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def worded(value: Any) -> str:
    """An axis' value for people: words alone, numbers behind their key.

    >>> worded({"name": "FedTrimmedAvg", "beta": 0.2}), worded(0.5), worded(None)
    ('FedTrimmedAvg, beta 0.2', '0.5', '–')
    """
    if isinstance(value, Mapping):
        parts = (part if isinstance(part, str) else f"{key} {worded(part)}" for key, part in value.items())
        return ", ".join(parts).replace("_", " ") or "–"
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value is None else str(value).replace("_", " ")


def nested(key: str, value: Any) -> dict[str, Any]:
    """The tables that have ``value`` at a dotted key, and nothing else.

    >>> nested("data.alpha", 0.5)
    {'data': {'alpha': 0.5}}
    """
    first, dot, rest = key.partition(".")
    return {first: nested(rest, value) if dot else value}


def agrees(tables: Any, pattern: Any) -> bool:
    """Whether all that ``pattern`` says stands in ``tables``, too."""
    if not isinstance(pattern, Mapping):
        return tables == pattern
    return isinstance(tables, Mapping) and all(agrees(tables.get(key), value) for key, value in pattern.items())
