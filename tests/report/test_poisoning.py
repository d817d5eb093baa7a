"""The section on malicious phones: there where the config has them, and every number the folder's."""

from pathlib import Path
from typing import Any

import pytest

from fedsim.report import write_report
from fedsim.report.folder import RunFolder, read_run_folder
from fedsim.report.layout import Section
from fedsim.report.numbers import Number
from fedsim.report.poisoning import poisoning
from tests.report.reading import Page, read_page, text_of, value_of, values_of
from tests.report.synthetic import read_json, read_lines, write_json, write_lines, write_run

BACKDOOR: dict[str, Any] = {"attack": "backdoor", "fraction": 0.3, "target": 3}


def poisoned(folder: Path, attack: dict[str, Any]) -> RunFolder:
    """A run of 20 rounds, of whose phones as many are malicious as the last digit of the round's number says."""
    write_run(folder)
    config = read_json(folder / "config.json")
    speed = {**config["speed"], "aggregation": "stacked"}
    write_json(folder / "config.json", {**config, "speed": speed, "poisoning": attack})
    records = read_lines(folder / "rounds.jsonl")
    for record in records:
        record["malicious"] = record["round"] % 10
        if attack["attack"] == "little_is_enough":
            record["z"] = 0.4 * (record["malicious"] > 2) if record["round"] else None
        if attack["attack"] in ("backdoor", "label_flip"):
            record["attack_success"] = record["round"] / 40
    write_lines(folder / "rounds.jsonl", records)
    return read_run_folder(folder)


def section_of(run: RunFolder) -> Section:
    section = poisoning(run)
    assert section is not None
    return section


def test_success_stands_beside_clean_accuracy_on_the_page(tmp_path: Path) -> None:
    rounds = poisoned(tmp_path, BACKDOOR).rounds
    page = read_page(write_report(tmp_path))
    section = page.find(".//section[@id='poisoning']")
    table = {name: values_of(cells) for name, cells in page.table("backdoor against FedAvg").items()}
    assert table == {
        "clean accuracy": [rounds[0]["test_accuracy"], rounds[-1]["test_accuracy"]],
        "attack success": [0.0, 0.5],
    }
    assert [value_of(number) for number in section.find("./p").iter("data")] == [0.3, 0, 9, 4.5]
    assert "that are not 3 and are labelled 3 once they bear" in text_of(section.find(".//figcaption"))


@pytest.mark.parametrize(
    ("attack", "meaning"),
    [
        ({"attack": "label_flip", "source": 1, "target": 7}, "the test examples of label 1 that are labelled 7."),
        ({"attack": "label_flip"}, "that are labelled as the malicious phones relabel theirs."),
        ({"attack": "sign_flip"}, "what it comes to is the accuracy that is lost."),
    ],
)
def test_it_says_what_success_is(tmp_path: Path, attack: dict[str, Any], meaning: str) -> None:
    section = section_of(poisoned(tmp_path, attack))
    assert section.pictures[0].caption.endswith(meaning)
    aimed = attack["attack"] == "label_flip"
    assert [row[0] for row in section.tables[0].rows] == ["clean accuracy", *["attack success"] * aimed]


def test_rounds_in_which_the_attack_was_idle_are_counted(tmp_path: Path) -> None:
    """Of 20, those with a last digit of 0, 1 or 2."""
    text = section_of(poisoned(tmp_path / "idle", {"attack": "little_is_enough", "fraction": 0.3})).text
    assert "the attack was idle" in str(text[-1])
    assert [part.value for part in text[-4:] if isinstance(part, Number)] == [6, 20]
    always = section_of(poisoned(tmp_path / "never", {"attack": "sign_flip", "fraction": 0.3})).text
    assert "idle" not in str(always)


def test_before_the_first_round_only_the_fraction_is_known(tmp_path: Path) -> None:
    poisoned(tmp_path, BACKDOOR)
    write_lines(tmp_path / "rounds.jsonl", read_lines(tmp_path / "rounds.jsonl")[:1])
    section = section_of(read_run_folder(tmp_path))
    assert [part.value for part in section.text if isinstance(part, Number)] == [0.3]
    write_lines(tmp_path / "rounds.jsonl", [])
    assert section_of(read_run_folder(tmp_path)).text == ("No round has been recorded.",)


def test_nothing_is_said_where_nobody_is_malicious(page: Page) -> None:
    assert "Poisoning" not in page.sections()
