"""One attack on one finished run: `attack(folder, kind)` writes ``attacks/<kind>.json`` and a page beside it.

Each module of `KINDS` says which numbers its result has on top, for studies to ask for as ``attacks.<kind>.<number>``.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedsim import results
from fedsim.attacking import membership, properties
from fedsim.attacking.finished import FinishedRun, read_finished
from fedsim.config import ConfigError
from fedsim.data.dataset import Dataset
from fedsim.report.layout import Section
from fedsim.report.page import write_page

Attack = Callable[[FinishedRun], tuple[dict[str, Any], tuple[Section, ...]]]
"""Plays an attacker: the result as JSON takes it, and the sections of the page."""


def _inversion(run: FinishedRun) -> tuple[dict[str, Any], tuple[Section, ...]]:
    from fedsim.attacking import inversion  # here, as torch takes a second that only its own attack should pay

    return inversion.attack(run)


KINDS: dict[str, Attack] = {
    "membership": membership.attack,
    "inversion": _inversion,
    "properties": properties.attack,
}
FOLDER = "attacks"


def attack(folder: Path, kind: str, *, dataset: Dataset | None = None) -> dict[str, Any]:
    """Attack the finished run in ``folder``; returns what ``attacks/<kind>.json`` then holds.

    Equal runs give equal results but for ``seconds``. ``dataset`` is given again where the run was given one.

    Raises `ConfigError` for an unknown ``kind``, and where the folder holds no run that can be attacked so.
    """
    if kind not in KINDS:
        raise ConfigError(f"attack = {kind}: allowed are {', '.join(KINDS)}")
    began = time.perf_counter()
    run = read_finished(folder, dataset)
    try:
        (folder / FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder / FOLDER}: cannot be written ({error.strerror})") from None
    found, sections = KINDS[kind](run)
    result = {"kind": kind, **found, "seconds": time.perf_counter() - began}
    results.write_json(folder / FOLDER / f"{kind}.json", result)
    write_page(
        folder / FOLDER / f"{kind}.html",
        title=f"Attack: {kind}",
        lead=(found["sentence"],),
        sections=sections,
    )
    return result
