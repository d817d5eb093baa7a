"""A run as a value: `RunConfig` from a typed TOML file and dotted overrides; what does not fit is refused in a line."""

import difflib
import json
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from fedsim.privacy_settings import MECHANISMS, NoPrivacy, Privacy
from fedsim.settings import Baselines, Data, Federation, Model, Output, Published, Report, Speed, Training
from fedsim.strategy_settings import LINEAR, STRATEGY_NAMES, Bulyan, FedAvg, Krum, MultiKrum, Strategy, Table


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
    baselines: Baselines = Baselines()
    speed: Speed = Speed()
    output: Output = Output()
    report: Report = Report()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if mistakes := list(_impossible(self)):
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
    try:
        return RunConfig.model_validate(tables)
    except ValidationError as error:
        raise ConfigError("\n".join(_line(detail) for detail in error.errors())) from None


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
        raise ConfigError(f"settings = {_shown(settings)}: cannot be split into key=value ({error})") from None
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


def _impossible(config: RunConfig) -> Iterable[str]:
    """Every pair of settings that cannot both hold, in a line each."""
    federation, data, strategy = config.federation, config.data, config.strategy
    if federation.cohort > federation.clients:
        yield f"federation.cohort = {federation.cohort}: must be at most federation.clients = {federation.clients}"
    for key, schemes in (
        ("alpha", ("dirichlet", "quantity")),
        ("classes_per_client", ("pathological", "shards", "sampled")),
        ("examples_per_client", ("sampled",)),
    ):
        if (value := getattr(data, key)) is not None and data.partition not in schemes:
            yield (
                f"data.{key} = {value}: belongs to data.partition = {_one_of(schemes)}, "
                f"and data.partition is {data.partition}"
            )
    if config.speed.aggregation == "streamed" and strategy.name not in LINEAR:
        yield f"speed.aggregation = streamed: {strategy.name} needs every phone's model; allowed with {_one_of(LINEAR)}"
    if config.speed.cluster:
        yield from _impossible_on_a_cluster(config)
    if isinstance(strategy, Krum | MultiKrum | Bulyan):
        times = 4 if isinstance(strategy, Bulyan) else 2
        needed = times * strategy.num_malicious_nodes + 3
        if federation.cohort < needed:
            yield (
                f"federation.cohort = {federation.cohort}: {strategy.name} with strategy.num_malicious_nodes = "
                f"{strategy.num_malicious_nodes} needs at least {needed}"
            )
    if isinstance(strategy, MultiKrum) and strategy.num_nodes_to_select > federation.cohort:
        yield (
            f"strategy.num_nodes_to_select = {strategy.num_nodes_to_select}: must be at most "
            f"federation.cohort = {federation.cohort}"
        )


def _impossible_on_a_cluster(config: RunConfig) -> Iterable[str]:
    speed, strategy = config.speed, config.strategy.name
    given = f"speed.cluster = {speed.cluster}"
    _, colon, port = speed.cluster.rpartition(":")
    if speed.cluster != "auto" and not (colon and port.isdecimal()):
        yield f"{given}: must be host:port, as ray start prints it, or auto"
    if speed.engine == "torch":
        yield f"{given}: nodes train in the native engine; allowed with speed.engine = native, not torch"
    if speed.aggregation == "stacked":
        yield f"{given}: nodes send sums; allowed with speed.aggregation = streamed, not stacked"
    if strategy not in LINEAR:
        yield f"{given}: {strategy} needs every phone's model; allowed with {_one_of(LINEAR)}"


VARIANTS: dict[str, type[Table]] = {
    **dict(zip(STRATEGY_NAMES, get_args(Strategy), strict=True)),
    **dict(zip(MECHANISMS, get_args(Privacy), strict=True)),
}
"""The tables of which a config holds one of several, by the name that says which."""


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


def _line(detail: Any) -> str:
    """One pydantic error as one line: key, value, what is allowed."""
    kind, context = detail["type"], detail.get("ctx", {})
    if not detail["loc"] and kind == "value_error":
        return str(context["error"])
    location = [part for part in detail["loc"] if part not in VARIANTS]
    key = ".".join(str(part) for part in location) or "config"
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {_suggest(detail['loc'])}"
    if kind == "union_tag_invalid":
        tag, names = ("mechanism", MECHANISMS) if key == "privacy" else ("name", STRATEGY_NAMES)
        return f"{key}.{tag} = {_shown(str(detail['input'].get(tag)))}: must be {_one_of(names)}"
    if kind == "literal_error":
        says = f"must be {context['expected'].replace(chr(39), '')}"
    elif bound := next((word for word in ("gt", "ge", "lt", "le") if word in context), None):
        words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
        says = f"must be {words[bound]} {context[bound]}"
    else:
        says = _SAYS.get(kind, detail["msg"])
    return f"{key}: {says}" if kind == "missing" else f"{key} = {_shown(detail['input'])}: {says}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, str) else value
    return text if len(text) <= 60 else f"{text[:57]}..."


def _one_of(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def _suggest(location: tuple[str | int, ...]) -> str:
    """What is allowed where an unknown key stood, and the nearest name to what was written."""
    table: type[BaseModel] = RunConfig
    for part in location[:-1]:
        if part in VARIANTS:
            table = VARIANTS[str(part)]
        elif isinstance(part, str) and part not in ("strategy", "privacy"):
            annotation = table.model_fields[part].annotation
            table = Published if part == "published" else annotation  # pyright: ignore[reportAssignmentType]
    allowed = list(table.model_fields)
    near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"allowed here: {', '.join(allowed)}"
