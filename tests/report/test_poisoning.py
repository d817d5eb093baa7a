"""The section on malicious phones: there where the config has them, and every number the folder's."""

from pathlib import Path
from typing import Any

import pytest

from tests.report.reading import Page, report, text_of, value_of, values_of
from tests.report.synthetic import read_json, read_lines, write_json, write_lines, write_run


def poisoned(folder: Path, **poisoning: Any) -> Page:
    """A run of 20 rounds with so many malicious phones as the round's number is after the last ten."""
    write_run(folder)
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "poisoning": poisoning})
    records = read_lines(folder / "rounds.jsonl")
    for record in records:
        record["malicious"] = record["round"] % 10
        if poisoning["attack"] in ("backdoor", "label_flip"):
            record["attack_success"] = record["round"] / 40
    write_lines(folder / "rounds.jsonl", records)
    return report(folder)


@pytest.mark.parametrize(
    ("poisoning", "meaning"),
    [
        ({"attack": "backdoor", "target": 3}, "that are not 3 and are labelled 3 once they bear the trigger"),
        ({"attack": "label_flip", "source": 1, "target": 7}, "test examples of label 1 that are labelled 7"),
        ({"attack": "label_flip"}, "labelled as the malicious phones relabel theirs"),
    ],
)
def test_success_stands_beside_clean_accuracy(tmp_path: Path, poisoning: dict[str, Any], meaning: str) -> None:
    page = poisoned(tmp_path, fraction=0.3, **poisoning)
    rounds = read_lines(tmp_path / "rounds.jsonl")
    section = page.find(".//section[@id='poisoning']")
    table = {name: values_of(cells) for name, cells in page.table(f"{poisoning['attack']} against FedAvg").items()}
    assert table == {
        "clean accuracy": [rounds[0]["test_accuracy"], rounds[-1]["test_accuracy"]],
        "attack success": [0.0, 0.5],
    }
    assert [value_of(number) for number in section.find("./p").iter("data")] == [0.3, 0, 9, 4.5]
    assert meaning in text_of(section.find(".//figcaption"))


def test_an_attack_without_an_aim_is_seen_in_the_accuracy(tmp_path: Path) -> None:
    page = poisoned(tmp_path, attack="sign_flip", fraction=0.2)
    assert list(page.table("sign_flip against FedAvg")) == ["clean accuracy"]
    assert "the accuracy that is lost" in text_of(page.find(".//section[@id='poisoning']//figcaption"))


def test_nothing_is_said_where_nobody_is_malicious(page: Page) -> None:
    assert "Poisoning" not in page.sections()
