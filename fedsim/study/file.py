"""What a study's TOML file may say, and which of it is refused before its cells are looked at."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from fedsim.attacking.attack import KINDS
from fedsim.config import ConfigError, read_toml
from fedsim.strategy_settings import Table


def _different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise PydanticCustomError("repeated", "must differ from one another: a run made twice is one run")
    return seeds


Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1), AfterValidator(_different)
]


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
    seeds: Seeds | None = None
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
    seeds: Seeds = (0,)
    grid: dict[str, Any] = Field(default_factory=dict)
    cells: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    skip: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    quick: Quick = Quick()
    measure: Annotated[tuple[str, ...], Field(strict=False)] = ()
    numbers: Annotated[tuple[str, ...], Field(strict=False)] = ()
    figures: Annotated[tuple[Figure, ...], Field(strict=False)] = ()


def read_file(path: Path) -> StudyFile:
    """The study file at ``path``; raises `ConfigError` with one line for each key that is unknown or amiss."""
    try:
        file = StudyFile.model_validate(read_toml(path))
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_line(detail)}" for detail in error.errors())) from None
    if strangers := [kind for kind in file.measure if kind not in KINDS]:
        raise ConfigError(f"measure: {strangers[0]}: is no attack; allowed are {', '.join(KINDS)}")
    return file


def _line(detail: Any) -> str:
    """One pydantic error as one line."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        table = {"figures": Figure, "quick": Quick}.get(str(detail["loc"][0]), StudyFile)
        return f"{key}: unknown key; allowed here: {', '.join(table.model_fields)}"
    if detail["type"] == "missing":
        return f"{key}: is missing"
    return f"{key}: {detail['msg'][0].lower()}{detail['msg'][1:]}, got {str(detail['input'])[:60]}"
