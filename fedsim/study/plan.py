"""A study as a value: a TOML file's grid multiplied out into cells, each checked before anything runs."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from fedsim.config import ConfigError, RunConfig, from_mapping, override
from fedsim.data.dataset import digest
from fedsim.data.sources import load
from fedsim.federation import read_model, resolved
from fedsim.privacy_settings import NoPrivacy
from fedsim.settings import Model, Training
from fedsim.study.file import Figure, StudyFile, read_file
from fedsim.study.nested import Tables, agrees, at, flat, merged, nested, worded
from fedsim.updates import LocalTraining

EPSILON = "privacy.epsilon"
"""What a cell is to spend, in its config, and what was spent, in a run's summary."""
BASE: Tables = {"baselines": {"central": False, "local_only": 0}, "speed": {"workers": 1}}
"""What a cell has where the file says nothing else: no baselines, and one core, as cells share the others."""
NOT_TOLD_APART = ("output", "speed")
"""Tables that say how a run is made and watched, not what it learns: those that differ in nothing else are one run."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of a study: what it has on each axis (``choices``), and its config, which each seed completes.

    ``files`` are the digests of what the config only names (`named_files`).
    """

    choices: Tables
    config: RunConfig
    files: Mapping[str, str]

    @property
    def epsilon(self) -> float | None:
        """What its runs are to spend: infinite without noise, and None where that follows from a noise multiplier."""
        privacy = self.config.privacy
        if isinstance(privacy, NoPrivacy) or privacy.noise_multiplier == 0:
            return math.inf
        return privacy.epsilon if privacy.noise_multiplier is None else None

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
        shown = [figure.show for figure in self.file.figures]
        spent = [EPSILON for figure in self.file.figures if figure.against == EPSILON]
        return tuple(dict.fromkeys(("test_accuracy", *self.file.numbers, *shown, *spent)))


def read_study(path: Path, overrides: Iterable[str] = (), *, quick: bool = False) -> Study:
    """The study in a TOML file, with ``key.path=value`` set in its base.

    Raises `ConfigError` with one line for each unknown key, for each cell that cannot be run, for cells that differ in
    nothing that tells runs apart, and for an override that the grid would overrule.
    """
    file = read_file(path)
    axes, seeds, base, extra = _axes(file.grid, "grid"), file.seeds, merged(BASE, file.base), file.cells
    _check_skip(axes, base, file.skip)
    if quick:
        base, seeds = merged(base, file.quick.base), file.quick.seeds or seeds
        axes = _shortened(axes, _axes(file.quick.grid, "quick.grid"))
        extra = extra if file.quick.cells is None else file.quick.cells
    overrides = tuple(overrides)
    _check_chosen(overrides, axes, extra)
    base = override(base, overrides)
    if "seed" in base:
        raise ConfigError("base.seed: a study takes its seeds from seeds")
    cells = _checked(list(_points(axes, base, extra, file.skip)))
    _check_figures(file.figures, cells)
    return Study(name=path.stem + "-quick" * quick, file=file, axes=tuple(axes), seeds=seeds, cells=cells)


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The config of one run of a cell."""
    return config.model_copy(update={"seed": seed})


def config_hash(config: RunConfig, files: Mapping[str, str]) -> str:
    """The name of a run's folder: 16 hexadecimal digits of the SHA-256 of all that can change what it learns.

    ``files`` are what `named_files` found.
    """
    tables = config.model_dump(mode="json", exclude=set(NOT_TOLD_APART))
    return hashlib.sha256(json.dumps({**tables, **files}, sort_keys=True).encode()).hexdigest()[:16]


def named_files(source: str, contract: str | None) -> dict[str, str]:
    """SHA-256 of the data and of the contract that ``data.source`` and ``model.contract`` name, by these keys.

    The package's own MNIST is not among them: it is always the same. Raises `ConfigError` for what cannot be read.
    """
    files: dict[str, str] = {}
    try:
        if source != "mnist":
            files["data.source"] = digest(load(source))
        if contract is not None:
            files["model.contract"] = hashlib.sha256(Path(contract).expanduser().read_bytes()).hexdigest()
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    return files


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


def _check_chosen(overrides: Sequence[str], axes: Mapping[str, Sequence[Any]], extra: Sequence[Tables]) -> None:
    """Whether what the cells say for themselves tells runs apart, and overrules no override."""
    chosen = [nested(axis, value) for axis, values in axes.items() for value in values]
    decided = dict.fromkeys(key for tables in (*chosen, *extra) for key in flat(tables))
    for key in decided:
        if key == "seed":
            raise ConfigError("seed: a study takes its seeds from seeds; cells cannot choose theirs")
        if key.startswith(tuple(f"{table}." for table in NOT_TOLD_APART)):
            raise ConfigError(
                f"{key}: does not change what a run learns, so cells cannot differ in it; allowed is base.{key}"
            )
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
        for choices, tables in _product(axes, base):
            if not any(agrees(tables, pattern) for pattern in skip):
                yield choices, tables
    for added in extra:
        yield {axis: at(added, axis) for axis in axes} if axes else added, merged(base, added)


def _product(axes: Mapping[str, Sequence[Any]], base: Tables) -> Iterator[tuple[Tables, Tables]]:
    for values in product(*axes.values()):
        choices = dict(zip(axes, values, strict=True))
        tables: Tables = base
        for key, value in choices.items():
            tables = merged(tables, nested(key, value))
        yield choices, tables


def _check_skip(axes: Mapping[str, Sequence[Any]], base: Tables, skip: Sequence[Tables]) -> None:
    """Whether each pattern leaves something out of the whole grid; overrides and ``[quick]`` may take that away."""
    points = [tables for _, tables in _product(axes, base)]
    for number, pattern in enumerate(skip, 1):
        if not any(agrees(tables, pattern) for tables in points):
            raise ConfigError(f"skip {number}: {worded(flat(pattern))}: no cell of the grid has that")


def _checked(points: Sequence[tuple[Tables, Tables]]) -> tuple[Cell, ...]:
    """The cells; a mistake that all of them share is said once."""
    cells: list[Cell] = []
    wrong: dict[str, str] = {}

    @cache
    def read(model: Model, training: Training) -> LocalTraining:
        return read_model(RunConfig(model=model, training=training)).training

    digests = cache(named_files)
    for choices, tables in points:
        try:
            config = from_mapping(tables)
            config = resolved(config, read(config.model, config.training))
            files = digests(config.data.source, config.model.contract)
        except ConfigError as error:
            name = ", ".join(f"{key} = {worded(value)}" for key, value in choices.items())
            wrong[name] = "; ".join(str(error).splitlines())
        else:
            cells.append(Cell(choices=choices, config=config, files=files))
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
            told_by_runs = field == "against" and key == EPSILON
            if key is not None and not told_by_runs and all(cell.value(key) is None for cell in cells):
                raise ConfigError(f"figures {number}: {field} = {key}: no cell has that; name an axis or a config key")
        for cell in cells:
            x = cell.epsilon if figure.against == EPSILON else cell.value(figure.against)
            where = (*(worded(cell.value(key)) for _, key in keys[:2] if key is not None), worded(x))
            if x is not None and (other := drawn.setdefault(where, cell)) is not cell:
                raise ConfigError(
                    f"figures {number}: draws two cells at one place, {other} and {cell}; tell them apart by series "
                    "or panels"
                )
