"""The report of a run: self-contained, valid, the same every time, and safe with whatever text it is given."""

from pathlib import Path

import numpy as np
import pytest

from fedsim.report import write_partition_page, write_report
from tests.report.reading import Page, assert_self_contained, read_page, report, text_of, values_of
from tests.report.synthetic import read_json, write_json, write_run

SECTIONS = [
    "Learning",
    "Clients",
    "Data",
    "Traffic",
    "Time",
    "The seed's own experiment",
    "Model",
    "Configuration",
    "Environment",
    "Reproduce",
]
HOSTILE = "</title><script>alert('x')</script><img src=x onerror=alert(1)> & \"$5\" {{ 7*7 }}"


def test_the_page_is_where_it_should_be_and_in_order(finished: Path, page: Page) -> None:
    assert write_report(finished) == finished / "report.html"
    assert page.sections() == SECTIONS
    assert text_of(page.find(".//h1")) == "LeNet on MNIST, 100 clients"


def test_the_same_folder_gives_the_same_page(finished: Path, page: Page) -> None:
    write_report(finished)
    assert (finished / "report.html").read_text(encoding="utf-8") == page.source


def test_reads_only(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_report(folder)
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "report.html"}
    assert after == before


def test_nothing_outside_the_page_is_referred_to(page: Page) -> None:
    assert_self_contained(page)


def test_figures_have_names_descriptions_and_captions(page: Page) -> None:
    figures = list(page.root.iter("figure"))
    assert len(figures) == 8
    identifiers = [element.attrib["id"] for element in page.root.iter() if "id" in element.attrib]
    assert len(set(identifiers)) == len(identifiers)
    for figure in figures:
        svg = figure.find(".//svg")
        assert svg is not None
        assert svg.attrib["role"] == "img"
        title, description = (by_id(page, name) for name in svg.attrib["aria-labelledby"].split())
        assert title == text_of(figure.find("h3"))
        assert len(description) > 20
        assert len(text_of(figure.find("figcaption"))) > 60


def test_tables_have_captions_and_row_names(page: Page) -> None:
    for table in page.root.iter("table"):
        assert text_of(table.find("caption"))
        for row in table.findall("tbody/tr"):
            assert row[0].attrib["scope"] == "row"
            assert text_of(row[0])


def test_one_round_is_singular(tmp_path: Path) -> None:
    lead = report(write_run(tmp_path, clients=2, cohort=1, rounds=1)).find(".//p[@class='lead']")
    assert text_of(lead).startswith("After 1 round of FedAvg with 1 of 2 simulated phones a round")


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    config = read_json(folder / "config.json")
    config["report"]["title"] = HOSTILE
    config["data"]["source"] = config["model"]["contract"] = HOSTILE
    config["report"]["published"][0] |= {"name": HOSTILE, "source": HOSTILE}
    write_json(folder / "config.json", config)
    environment = read_json(folder / "environment.json")
    write_json(folder / "environment.json", {**environment, "command": HOSTILE, "cpu": HOSTILE})
    comparison = read_json(folder / "comparison.json")
    comparison["curves"] = [{"name": name, "epoch_losses": [1.0, 0.5]} for name in (HOSTILE, "<b>$1$ \\frac 日本")]
    comparison["title"] = HOSTILE
    write_json(folder / "comparison.json", comparison)
    page = report(folder)
    assert text_of(page.find(".//h1")) == page.find(".//title").text == HOSTILE
    assert page.find(".//pre/code").text == HOSTILE
    assert text_of(page.table("data")["source"][0]) == HOSTILE
    assert text_of(page.table("model")["contract"][0]) == HOSTILE
    assert text_of(page.table("Results side by side")[HOSTILE][-1]) == HOSTILE
    assert "<b>$1$ \\frac 日本" in [text_of(text) for text in page.figure("epochs").iter("text")]
    assert not list(page.root.iter("script"))
    assert_self_contained(page)


def test_a_large_federation_makes_a_small_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path, clients=10_000, cohort=100, rounds=1_000)
    page = report(folder)
    assert (folder / "report.html").stat().st_size < 3_000_000
    assert "Each column adds up 20 neighbouring clients" in page.text
    with np.load(folder / "clients.npz") as clients:
        measured = int(np.isfinite(clients["accuracy"]).sum())
    assert f"One client in {-(-measured // 400)} is drawn." in page.text
    rounds = page.table("Round by round, one in 6 and the last")
    assert list(rounds)[:2] + list(rounds)[-1:] == ["0", "6", "1000"]
    worst = page.table(f"The lowest tenth of clients: {measured // 10}, of which the lowest 10")
    assert len(worst) == 10


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run \(no config\.json\)"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    (folder / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is not JSON"):
        write_report(folder)


def test_a_config_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"federation": {"phones": 3}})
    with pytest.raises(ValueError, match=r"federation\.phones: unknown key"):
        write_report(tmp_path)


def test_settings_must_be_resolved(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    config = read_json(folder / "config.json")
    config["training"]["epochs"] = None
    write_json(folder / "config.json", config)
    with pytest.raises(ValueError, match=r"config\.json: training\.epochs is null"):
        write_report(folder)


def test_partition_page_needs_label_counts_only(tmp_path: Path) -> None:
    counts = np.array([[10, 0, 0], [0, 20, 0], [5, 5, 20]])
    np.savez(tmp_path / "clients.npz", label_counts=counts)
    assert write_partition_page(tmp_path) == tmp_path / "partition.html"
    page = read_page(tmp_path / "partition.html")
    assert page.sections() == ["Data"]
    assert values_of(page.table("Over all clients: 3")["training examples"]) == [10, 20, 20, 30]
    assert values_of(page.table("Over all clients: 3")["different labels"]) == [1, 1, pytest.approx(5 / 3), 3]
    assert_self_contained(page)


def test_partition_page_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no clients\.npz"):
        write_partition_page(tmp_path)
    np.savez(tmp_path / "clients.npz", examples=np.ones(3))
    with pytest.raises(ValueError, match="must hold label_counts, got examples"):
        write_partition_page(tmp_path)
    (tmp_path / "clients.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"clients\.npz is not an \.npz archive"):
        write_partition_page(tmp_path)


def by_id(page: Page, name: str) -> str:
    found = [element for element in page.root.iter() if element.attrib.get("id") == name]
    assert len(found) == 1
    return text_of(found[0])
