"""The sections that say what was run: the model and its files, every setting, the machine, and the command."""

import json
from typing import Any

from fedsim.report.folder import Record, RunFolder
from fedsim.report.layout import Section, Table
from fedsim.report.numbers import Cell, count, data_size


def model(run: RunFolder) -> Section:
    """The trained model: its size, its ids, the files that hold it."""
    facts = run.summary.get("model", {})
    rows: list[tuple[Cell, ...]] = []
    if facts:
        rows = [
            ("weights", count(facts["parameters"])),
            ("architecture id", facts["architecture_id"]),
            ("weights id", facts["weights_id"]),
        ]
    if digest := run.summary.get("partition_digest"):
        rows.append(("partition digest", digest))
    rows += [(name, data_size(size)) for name, size in run.models.items()]
    if not rows:
        return Section(name="model", heading="Model", text=("No model has been written.",))
    table = Table(caption="The trained model and its files", rows=tuple(rows), wide=True)
    return Section(name="model", heading="Model", tables=(table,))


def settings(run: RunFolder) -> Section:
    """The whole resolved configuration, a table for each of its tables."""
    config = run.config.model_dump(mode="json")
    tables = {name: value for name, value in config.items() if isinstance(value, dict)}
    single = {name: value for name, value in config.items() if name not in tables}
    return Section(
        name="settings",
        heading="Configuration",
        tables=tuple(_facts(name, values) for name, values in (("run", single), *tables.items()) if values),
    )


def environment(run: RunFolder) -> Section:
    """The machine and the software."""
    if not run.environment:
        return Section(name="environment", heading="Environment", text=("The environment has not been recorded.",))
    facts = {name: value for name, value in run.environment.items() if name not in {"packages", "command"}}
    tables = (_facts("machine and software", facts),)
    if packages := run.environment.get("packages"):
        tables += (_facts("packages", packages),)
    return Section(name="environment", heading="Environment", tables=tables)


def command(run: RunFolder) -> Section:
    """The command that reproduces the run."""
    given = run.environment.get("command")
    if not given:
        return Section(name="command", heading="Reproduce", text=("The command has not been recorded.",))
    text = ("Equal settings and seed give equal numbers, for any number of workers:",)
    return Section(name="command", heading="Reproduce", text=text, command=given)


def _facts(caption: str, values: Record) -> Table:
    rows = tuple((name, _written(value)) for name, value in values.items())
    return Table(caption=caption, rows=rows)


def _written(value: Any) -> str:
    """A value as it is, in JSON where it is no text."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
