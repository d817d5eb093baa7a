"""A run as a value: `RunConfig` from a typed TOML file and dotted overrides; what does not fit is refused in a line."""

import json
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from fedsim.impossible import impossible
from fedsim.mistakes import line, shown
from fedsim.poisoning_settings import NoPoisoning, Poisoning
from fedsim.privacy_settings import NoPrivacy, Privacy
from fedsim.settings import Baselines, Data, Federation, Model, Output, Report, Speed, Training
from fedsim.strategy_settings import FedAvg, Strategy, Table


class ConfigError(ValueError):
    """A request that cannot be run. One line a mistake: the key, what was given, what is allowed."""


class RunConfig(Table):
    """Everything that decides a run: equal configs give equal bits.

    What ``output``, ``speed.workers`` and ``speed.cluster`` say does not matter to them.
    """

    seed: int = Field(default=0, ge=0)
    federation: Federation = Federation()
    strategy: Annotated[Strategy, Field(discriminator="name")] = FedAvg()
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    privacy: Annotated[Privacy, Field(discriminator="mechanism")] = NoPrivacy()
    poisoning: Annotated[Poisoning, Field(discriminator="attack")] = NoPoisoning()
    baselines: Baselines = Baselines()
    speed: Speed = Speed()
    output: Output = Output()
    report: Report = Report()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        tables = self.federation, self.data, self.strategy, self.training, self.speed, self.privacy, self.poisoning
        if mistakes := list(impossible(*tables)):
            raise ValueError("\n".join(mistakes))
        return self


def load(path: Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML file (none: the defaults) and apply ``key.path=value`` overrides, later ones winning.

    Raises `ConfigError` naming every key that is unknown, of the wrong type, out of range or impossible.
    """
    return from_mapping(override(read_toml(path) if path else {}, overrides))


def from_mapping(tables: Mapping[str, Any]) -> RunConfig:
    """The config that plain nested dictionaries describe, as in TOML or ``config.json``."""
    tables = dict(tables)
    if isinstance(strategy := tables.get("strategy"), Mapping):
        tables["strategy"] = {"name": "FedAvg", **strategy}
    if isinstance(privacy := tables.get("privacy"), Mapping):
        tables["privacy"] = {"mechanism": "central", **privacy}
    if isinstance(poisoning := tables.get("poisoning"), Mapping):
        tables["poisoning"] = {"attack": "none", **poisoning}
    try:
        return RunConfig.model_validate(tables)
    except ValidationError as error:
        raise ConfigError("\n".join(line(detail, RunConfig) for detail in error.errors())) from None


def from_flower(run_config: Mapping[str, Any]) -> RunConfig:
    """The config that ``flwr run`` describes: its one key, ``settings``, holds overrides as a shell would split them.

    One key, because Flower wants every key that may be set declared in ``pyproject.toml`` with a default of its own.

    >>> from_flower({"settings": "federation.clients=12 strategy.name=FedMedian"}).strategy.name
    'FedMedian'
    """
    settings = str(run_config.get("settings", ""))
    try:
        overrides = shlex.split(settings)
    except ValueError as error:
        raise ConfigError(f"settings = {shown(settings)}: cannot be split into key=value ({error})") from None
    return load(None, overrides)


def with_cluster(config: RunConfig, address: str) -> RunConfig:
    """The same config with ``speed.cluster = address``; raises `ConfigError` where it does not allow that."""
    tables = config.model_dump(mode="json")
    return from_mapping({**tables, "speed": {**tables["speed"], "cluster": address}})


def command_line(config: RunConfig) -> str:
    """The ``fedsim run`` command that has this config: every setting that is not its default, but the folder.

    >>> command_line(from_mapping({"data": {"partition": "dirichlet", "alpha": 0.3}}))
    'fedsim run --set data.partition=dirichlet --set data.alpha=0.3'
    """
    given, default = (value.model_dump(mode="json", exclude={"output"}) for value in (config, RunConfig()))
    settings = (shlex.quote(f"{key}={_as_toml(value)}") for key, value in _differences(given, default))
    return " ".join(["fedsim run", *(f"--set {setting}" for setting in settings)])


def _differences(given: Mapping[str, Any], default: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in given.items():
        if isinstance(value, dict):
            yield from _differences(value, default.get(key, {}), f"{path}{key}.")
        elif value is not None and value != default.get(key):
            yield f"{path}{key}", value


def _as_toml(value: Any) -> str:
    """The inverse of `_toml_value`."""
    if isinstance(value, str):
        return value if _toml_value(value.strip()) == value else _as_toml_item(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_as_toml_item, value))}]"
    return json.dumps(value)


def _as_toml_item(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_as_toml_item(part)}' for key, part in value.items() if part is not None)}}}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which JSON leaves bare and TOML forbids


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises `ConfigError` in a line where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text, so not TOML") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


def override(tables: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """``tables`` with ``key.path=value`` set in them, in place; raises `ConfigError` for what is no such thing."""
    for setting in overrides:
        key, equals, text = setting.partition("=")
        if not equals or not all(parts := key.strip().split(".")):
            raise ConfigError(f"--set {setting}: must be key=value, such as --set data.alpha=0.3")
        table = tables
        for part in parts[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {setting}: {part} is a value, not a table")
        table[parts[-1]] = _toml_value(text.strip())
    return tables


def _toml_value(text: str) -> Any:
    """The TOML value that ``text`` is, or the text itself, so that words need no quotes on a command line."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except ValueError:  # a TOMLDecodeError, or Python's on a number of thousands of digits
        return text
    return parsed["value"] if len(parsed) == 1 else text
