"""What is said of a mistake in a config: the key, what was given, what is allowed, in one line."""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from fedsim.poisoning_settings import Poisoning
from fedsim.privacy_settings import Privacy
from fedsim.strategy_settings import Strategy, Table


def _variants(tag: str, union: Any) -> dict[str, type[Table]]:
    """The tables that a union is of, by the value of ``tag`` that says which."""
    return {get_args(table.model_fields[tag].annotation)[0]: table for table in get_args(union)}


TAGGED: Mapping[str, tuple[str, Mapping[str, type[Table]]]] = {
    "strategy": ("name", _variants("name", Strategy)),
    "privacy": ("mechanism", _variants("mechanism", Privacy)),
    "poisoning": ("attack", _variants("attack", Poisoning)),
}
"""The tables of a config that are one of several: the key that says which, and these."""


_SAYS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "tuple_type": "must be a list of tables",
    "missing": "is missing",
}


def line(detail: Any, config: type[BaseModel]) -> str:
    """One pydantic error of a ``config`` as one line: key, value, what is allowed."""
    kind, context = detail["type"], detail.get("ctx", {})
    if not detail["loc"] and kind == "value_error":
        return str(context["error"])
    key = ".".join(map(str, _without_variant(detail["loc"]))) or "config"
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {_suggest(detail['loc'], config)}"
    if kind == "union_tag_invalid":
        tag, tables = TAGGED[key]
        return f"{key}.{tag} = {shown(str(detail['input'].get(tag)))}: must be {one_of(tables)}"
    if kind == "literal_error":
        says = f"must be {context['expected'].replace(chr(39), '')}"
    elif bound := next((word for word in ("gt", "ge", "lt", "le") if word in context), None):
        words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
        says = f"must be {words[bound]} {context[bound]}"
    else:
        says = _SAYS.get(kind, detail["msg"])
    return f"{key}: {says}" if kind == "missing" else f"{key} = {shown(detail['input'])}: {says}"


def _without_variant(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A key's path as the config has it: pydantic adds which of several tables it took one for."""
    return location[:1] + location[2:] if location and location[0] in TAGGED else location


def shown(value: Any) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, str) else value
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_of(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def _suggest(location: tuple[str | int, ...], config: type[BaseModel]) -> str:
    """What is allowed where an unknown key stood, and the nearest name to what was written."""
    table: type[BaseModel] = config
    if location[0] in TAGGED:
        table = TAGGED[str(location[0])][1][str(location[1])]
    else:
        for part in location[:-1]:
            if isinstance(part, str):
                annotation = table.model_fields[part].annotation
                table = get_args(annotation)[0] if get_args(annotation) else annotation  # pyright: ignore[reportAssignmentType]
    allowed = list(table.model_fields)
    near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"allowed here: {', '.join(allowed)}"
