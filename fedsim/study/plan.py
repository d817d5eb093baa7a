"""A study as a value: a TOML file's grid multiplied out into cells, each checked before anything runs."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from fedsim.attacking.attack import KINDS
from fedsim.config import ConfigError, RunConfig, from_mapping, override, read_toml
from fedsim.federation import read_model, resolved
from fedsim.settings import Model, Training
from fedsim.strategy_settings import Table
from fedsim.updates import LocalTraining

Tables = Mapping[str, Any]

BASE: Tables = {"baselines": {"central": False, "local_only": 0}, "speed": {"workers": 1}}
"""What a cell has where the file says nothing else: no baselines, and one core, as cells share the others."""


class Figure(Table):
    """One figure of the page: a number of the summary ``show``n ``against`` a key, in ``series``, a picture a panel.

    Keys are axes of the grid, or any keys of a config. Against numbers it is curves, against words a table of tints.
    """

    show: str = "test_accuracy"
    against: str
    series: str | None = None
    panels: str | None = None


class Quick(Table):
    """What ``--quick`` puts in the place of the file's own: base merged; seeds, single axes and cells replaced."""

    base: dict[str, Any] = Field(default_factory=dict)
    seeds: Annotated[tuple[int, ...] | None, Field(strict=False, min_length=1)] = None
    grid: dict[str, Any] = Field(default_factory=dict)
    cells: Annotated[tuple[dict[str, Any], ...] | None, Field(strict=False)] = None


class StudyFile(Table):
    """The keys of a study's TOML file.

    ``base`` is what all cells share. An axis of ``grid`` is a config key with its values; a value that is a table is
    merged into the table that the key names. ``cells`` are added to the product as they stand, and what agrees with a
    table in ``skip`` is left out of it. ``numbers`` are dotted paths into a run's summary, for the table; ``measure``
    names the attacks to mount on every finished run.
    """

    title: str
    base: dict[str, Any] = Field(default_factory=dict)
    seeds: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (0,)
    grid: dict[str, Any] = Field(default_factory=dict)
    cells: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    skip: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    quick: Quick = Quick()
    measure: Annotated[tuple[str, ...], Field(strict=False)] = ()
    numbers: Annotated[tuple[str, ...], Field(strict=False)] = ()
    figures: Annotated[tuple[Figure, ...], Field(strict=False)] = ()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of a study: what it has on each axis (``choices``), and its config, which each seed completes."""

    choices: Tables
    config: RunConfig

    def value(self, key: str) -> Any:
        """What this cell has at an axis, or at a dotted key of its config; None where there is no such key."""
        if (chosen := self.choices.get(key)) is not None:
            return chosen
        found = at(self.config.model_dump(mode="json"), key)
        return None if key in self.choices and isinstance(found, Mapping) else found

    def __str__(self) -> str:
        return ", ".join(f"{key} = {worded(value)}" for key, value in self.choices.items()) or "the base"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A checked study: every cell can be run, with every seed."""

    name: str
    file: StudyFile
    axes: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]

    @property
    def numbers(self) -> tuple[str, ...]:
        """The paths of all numbers that the table holds: accuracy first, then as the file names them."""
        return tuple(
            dict.fromkeys(("test_accuracy", *self.file.numbers, *(figure.show for figure in self.file.figures)))
        )


def read_study(path: Path, overrides: Iterable[str] = (), *, quick: bool = False) -> Study:
    """The study in a TOML file, with ``key.path=value`` set in its base.

    Raises `ConfigError` with one line for each unknown key, for each cell that cannot be run, and for an override that
    the grid would overrule.
    """
    try:
        file = StudyFile.model_validate(read_toml(path))
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_line(detail)}" for detail in error.errors())) from None
    if strangers := [kind for kind in file.measure if kind not in KINDS]:
        raise ConfigError(f"measure: {strangers[0]}: is no attack; allowed are {', '.join(KINDS)}")
    axes, seeds, base, extra = _axes(file.grid, "grid"), file.seeds, merged(BASE, file.base), file.cells
    if quick:
        base, seeds = merged(base, file.quick.base), file.quick.seeds or seeds
        axes = _shortened(axes, _axes(file.quick.grid, "quick.grid"))
        extra = extra if file.quick.cells is None else file.quick.cells
    overrides = tuple(overrides)
    _check_overrides(overrides, axes, extra)
    base = override(base, overrides)
    if "seed" in base:
        raise ConfigError("base.seed: a study takes its seeds from seeds")
    cells = _checked(list(_points(axes, base, extra, file.skip)))
    _check_figures(file.figures, cells)
    return Study(name=path.stem + "-quick" * quick, file=file, axes=tuple(axes), seeds=seeds, cells=cells)


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The config of one run of a cell."""
    return config.model_copy(update={"seed": seed})


def config_hash(config: RunConfig) -> str:
    """The name of a run's folder: 16 hexadecimal digits of the SHA-256 of all that can change its result."""
    tables = config.model_dump(mode="json", exclude={"output", "speed"})
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()[:16]


def merged(tables: Tables, more: Tables) -> dict[str, Any]:
    """``tables`` with ``more`` laid over: tables are merged key by key, all else is replaced.

    >>> merged({"data": {"partition": "iid", "min_examples": 2}}, {"data": {"partition": "shards"}})
    {'data': {'partition': 'shards', 'min_examples': 2}}
    """
    both = {key: merged({}, value) if isinstance(value, Mapping) else value for key, value in tables.items()}
    for key, value in more.items():
        under = both.get(key)
        both[key] = merged(under if isinstance(under, Mapping) else {}, value) if isinstance(value, Mapping) else value
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


def _axes(grid: Tables, where: str, above: str = "") -> dict[str, Sequence[Any]]:
    """Dotted keys to lists of values, in the file's order."""
    axes: dict[str, Sequence[Any]] = {}
    for key, value in grid.items():
        if isinstance(value, Mapping):
            axes |= _axes(value, where, f"{above}{key}.")
        elif isinstance(value, list) and value:
            axes[f"{above}{key}"] = value
        else:
            raise ConfigError(f"{where}.{above}{key} = {value}: must be a list of at least one value")
    return axes


def _shortened(axes: dict[str, Sequence[Any]], quick: dict[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    if strangers := [axis for axis in quick if axis not in axes]:
        raise ConfigError(f"quick.grid.{strangers[0]}: is no axis of grid; allowed here: {', '.join(axes) or 'none'}")
    return axes | quick


def _check_overrides(overrides: Sequence[str], axes: Mapping[str, Sequence[Any]], extra: Sequence[Tables]) -> None:
    """Whether any override would be overruled by what the cells say for themselves."""
    chosen = [_nested(axis, value) for axis, values in axes.items() for value in values]
    decided = dict.fromkeys(key for tables in (*chosen, *extra) for key in flat(tables))
    for setting in overrides:
        key = setting.partition("=")[0].strip()
        for other in decided:
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                raise ConfigError(
                    f"--set {setting}: the study's cells decide {other}; allowed are keys they leave open"
                )


def _points(
    axes: Mapping[str, Sequence[Any]], base: Tables, extra: Sequence[Tables], skip: Sequence[Tables]
) -> Iterator[tuple[Tables, Tables]]:
    """The choices and the tables of every cell, those of the product first."""
    if axes or not extra:
        for values in product(*axes.values()):
            choices = dict(zip(axes, values, strict=True))
            tables: Tables = base
            for key, value in choices.items():
                tables = merged(tables, _nested(key, value))
            if not any(_agrees(tables, pattern) for pattern in skip):
                yield choices, tables
    for added in extra:
        yield {axis: at(added, axis) for axis in axes} if axes else added, merged(base, added)


def _nested(key: str, value: Any) -> dict[str, Any]:
    first, dot, rest = key.partition(".")
    return {first: _nested(rest, value) if dot else value}


def _agrees(tables: Any, pattern: Any) -> bool:
    if not isinstance(pattern, Mapping):
        return tables == pattern
    return isinstance(tables, Mapping) and all(_agrees(tables.get(key), value) for key, value in pattern.items())


def _checked(points: Sequence[tuple[Tables, Tables]]) -> tuple[Cell, ...]:
    """The cells; a mistake that all of them share is said once."""
    cells: list[Cell] = []
    wrong: dict[str, str] = {}

    @cache
    def read(model: Model, training: Training) -> LocalTraining:
        return read_model(RunConfig(model=model, training=training)).training

    for choices, tables in points:
        try:
            config = from_mapping(tables)
            config = resolved(config, read(config.model, config.training))
        except ConfigError as error:
            name = ", ".join(f"{key} = {worded(value)}" for key, value in choices.items())
            wrong[name] = "; ".join(str(error).splitlines())
        else:
            cells.append(Cell(choices=choices, config=config))
    if len(set(wrong.values())) == 1 and len(wrong) == len(points):
        raise ConfigError(next(iter(wrong.values())))
    if wrong:
        raise ConfigError("\n".join(f"cell {name}: {reason}" for name, reason in wrong.items()))
    if not cells:
        raise ConfigError("skip: leaves no cell to run")
    return tuple(cells)


def _check_figures(figures: Sequence[Figure], cells: Sequence[Cell]) -> None:
    """Whether every key that a figure is drawn by exists, and no two cells would be drawn on one another."""
    for number, figure in enumerate(figures, 1):
        keys = [(field, getattr(figure, field)) for field in ("panels", "series", "against")]
        drawn: dict[tuple[str, ...], Cell] = {}
        for field, key in keys:
            if key is not None and all(cell.value(key) is None for cell in cells):
                raise ConfigError(f"figures {number}: {field} = {key}: no cell has that; name an axis or a config key")
        for cell in cells:
            where = tuple(worded(cell.value(key)) for _, key in keys if key is not None)
            if cell.value(figure.against) is not None and (other := drawn.setdefault(where, cell)) is not cell:
                raise ConfigError(
                    f"figures {number}: draws two cells at one place, {other} and {cell}; tell them apart by series "
                    "or panels"
                )


def _line(detail: Any) -> str:
    """One pydantic error as one line."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        table = {"figures": Figure, "quick": Quick}.get(str(detail["loc"][0]), StudyFile)
        return f"{key}: unknown key; allowed here: {', '.join(table.model_fields)}"
    if detail["type"] == "missing":
        return f"{key}: is missing"
    return f"{key}: {detail['msg'][0].lower()}{detail['msg'][1:]}, got {str(detail['input'])[:60]}"
