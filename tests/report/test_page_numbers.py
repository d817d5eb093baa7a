"""Every number on the page is the run folder's."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.report.reading import Page, number_in, report, text_of, value_of, values_of
from tests.report.synthetic import read_json, read_lines, write_json, write_run

TIMES = (
    "Time by part (a round is evaluated and kept while the next one trains, and central training runs beside all; "
    "baselines are what was left after the last round; the total of a resumed run is its last process)"
)


def test_every_number_reads_as_the_value_it_keeps(page: Page) -> None:
    numbers = list(page.root.iter("data"))
    assert len(numbers) > 200
    for number in numbers:
        said, slack = number_in(text_of(number))
        assert said == pytest.approx(float(number.attrib["value"]), abs=slack * 1.001, rel=1e-12), text_of(number)


def test_headline_numbers_are_the_folders(finished: Path, page: Page) -> None:
    summary, baselines = read_json(finished / "summary.json"), read_json(finished / "baselines.json")
    sentence = [value_of(number) for number in page.find(".//p[@class='lead']").iter("data")]
    alone = np.mean(baselines["local_only"]["test_accuracy"])
    central = baselines["central"]["curve"][-1]["test_accuracy"]
    assert sentence == [20, 10, 100, summary["test_accuracy"], central, pytest.approx(alone)]
    figures = {text_of(pair[0]): value_of(pair[1]) for pair in page.root.findall(".//dl/div")}
    assert figures == {
        "test accuracy": summary["test_accuracy"],
        "test loss": summary["test_loss"],
        "accuracy of the lowest tenth of clients": summary["client_accuracy"]["worst_decile_mean"],
        "rounds to 98 %": summary["rounds_to"]["0.98"],
        "sent down and up": summary["bytes"]["down"] + summary["bytes"]["up"],
        "time in all": summary["seconds"]["total"],
        "weights in the model": summary["model"]["parameters"],
        "peak memory": summary["peak_memory_bytes"],
    }


def test_learning_tables_are_the_folders(finished: Path, page: Page) -> None:
    rounds, baselines = read_lines(finished / "rounds.jsonl"), read_json(finished / "baselines.json")
    processed = np.cumsum([record["examples"] for record in rounds]).tolist()
    best = max(rounds, key=lambda record: record["test_accuracy"])
    end, alone = baselines["central"]["curve"][-1], baselines["local_only"]["test_accuracy"]
    table = {name: values_of(cells) for name, cells in page.table("Federated training and its baselines").items()}
    assert table == {
        "federated, last round (20)": [rounds[-1]["test_accuracy"], rounds[-1]["test_loss"], processed[-1]],
        f"federated, best round ({best['round']})": [
            best["test_accuracy"],
            best["test_loss"],
            processed[best["round"]],
        ],
        "central": [end["test_accuracy"], end["test_loss"], end["examples"]],
        "alone, mean of 5": [
            pytest.approx(np.mean(alone)),
            pytest.approx(np.mean(baselines["local_only"]["test_loss"])),
            "–",
        ],
        "alone, lowest": [min(alone), "–", "–"],
        "alone, highest": [max(alone), "–", "–"],
    }
    goals = read_json(finished / "summary.json")["rounds_to"].values()
    assert values_of(page.table("Rounds to reach an accuracy (–: not reached)")["rounds"]) == shown(*goals)


def test_the_table_of_rounds_is_the_folders(finished: Path, page: Page) -> None:
    fields = ("examples", "train_loss", "test_loss", "test_accuracy", "failures", "bytes_down", "bytes_up")
    table = page.table("Round by round")
    for record in read_lines(finished / "rounds.jsonl"):
        cells = values_of(table[str(record["round"])])
        assert cells == [len(record["clients"]), *shown(*(record[field] for field in fields))]


def test_client_tables_are_the_folders(finished: Path, page: Page) -> None:
    spread = read_json(finished / "summary.json")["client_accuracy"]
    table = {name: value_of(cells[0]) for name, cells in page.table("Accuracy over clients").items()}
    assert list(table.values()) == [spread[name] for name in ("mean", "p10", "worst_decile_mean", "min", "max")]
    with np.load(finished / "clients.npz") as clients:
        accuracy = clients["accuracy"]
        worst = page.table("The lowest tenth of clients: 10")
        assert [float(name) for name in worst] == sorted(range(100), key=lambda client: accuracy[client])[:10]
        for name, cells in worst.items():
            fields = ("accuracy", "examples", "test_examples", "times_chosen")
            assert values_of(cells) == [clients[field][int(name)] for field in fields]
        mean = np.mean([value_of(cells[0]) for cells in worst.values()])
        assert mean == pytest.approx(table["mean of the lowest tenth"])
        chosen = clients["times_chosen"]
    numbers = [value_of(number) for number in page.find(".//section[@id='clients']/p").iter("data")]
    assert numbers == [chosen.min(), chosen.max(), chosen.mean(), (chosen == 0).sum()]


def test_data_table_and_sentence_are_the_folders(finished: Path, page: Page) -> None:
    with np.load(finished / "clients.npz") as clients:
        counts = clients["label_counts"]
    sizes, held = counts.sum(axis=1), (counts > 0).sum(axis=1)
    table = page.table("Over all clients: 100")
    for name, values in (("training examples", sizes), ("different labels", held)):
        assert values_of(table[name]) == [values.min(), np.median(values), values.mean(), values.max()]
    share = max(row.max() / row.sum() for row in counts)
    sentence = text_of(page.find(".//section[@id='labels']/p"))
    numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", sentence)]
    assert numbers == [sizes.min(), sizes.max(), held.min(), held.max(), round(100 * share)]


def test_cost_tables_are_the_folders(finished: Path, page: Page) -> None:
    summary, timings = read_json(finished / "summary.json"), read_lines(finished / "timings.jsonl")
    down, up = summary["bytes"]["down"], summary["bytes"]["up"]
    traffic = {name: values_of(cells) for name, cells in page.table("Bytes, all phones together").items()}
    assert traffic == {"down": [down, down / 20], "up": [up, up / 20], "both": [down + up, (down + up) / 20]}
    time = {name: values_of(cells) for name, cells in page.table(TIMES).items()}
    for part in ("train", "evaluate", "aggregate", "checkpoint"):
        seconds = [record["seconds"][part] for record in timings if part in record["seconds"]]
        assert time.pop(part) == pytest.approx([sum(seconds), sum(seconds) / len(seconds), max(seconds)])
    assert time == {
        "baselines": [read_json(finished / "baselines.json")["seconds"], "–", "–"],
        "total": [summary["seconds"]["total"], "–", "–"],
    }


def test_comparison_tables_are_the_folders(finished: Path, page: Page) -> None:
    comparison = read_json(finished / "comparison.json")
    published = read_json(finished / "config.json")["report"]["published"]
    table = page.table("Results side by side")
    for row in [*comparison["rows"], *published]:
        expected = shown(row["test_accuracy"], row.get("test_loss"), row["seconds"])
        assert values_of(table.pop(row["name"])) == [*expected, row["source"]]
    assert not table
    agreement = page.table("Agreement")
    for entry in comparison["agreement"]:
        assert values_of(agreement[entry["what"]]) == [entry["value"], entry["allowed"], "agrees"]


def test_a_difference_beyond_what_is_allowed_is_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    entry = {"what": "test accuracy", "value": 0.002, "allowed": 0.001}
    write_json(folder / "comparison.json", {"title": "A study", "agreement": [entry]})
    assert values_of(report(folder).table("Agreement")["test accuracy"]) == [0.002, 0.001, "differs"]


def test_published_results_stand_beside_this_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    (folder / "comparison.json").unlink()
    seconds = sum(record["seconds"].get("train", 0.0) for record in read_lines(folder / "timings.jsonl"))
    summary = read_json(folder / "summary.json")
    page = report(folder)
    assert "Beside published results" in page.sections()
    here = values_of(page.table("Results side by side")["this run, training only"])
    assert here == [summary["test_accuracy"], summary["test_loss"], pytest.approx(seconds), "this run folder"]


def test_configuration_model_environment_and_command_are_the_folders(finished: Path, page: Page) -> None:
    config, environment = read_json(finished / "config.json"), read_json(finished / "environment.json")
    assert text_of(page.table("run")["seed"][0]) == "0"
    for name, table in config.items():
        if isinstance(table, dict) and name != "report":
            assert {key: text_of(cells[0]) for key, cells in page.table(name).items()} == {
                key: written(value) for key, value in table.items()
            }
    assert '"iPhone 11, Core ML"' in text_of(page.table("report")["published"][0])
    machine = page.table("machine and software")
    for key in ("fedsim", "python", "platform", "cpu", "cores", "commit", "started"):
        assert text_of(machine[key][0]) == str(environment[key])
    assert {key: text_of(cells[0]) for key, cells in page.table("packages").items()} == environment["packages"]
    model = page.table("The trained model and its files")
    summary = read_json(finished / "summary.json")
    assert value_of(model["weights"][0]) == summary["model"]["parameters"]
    assert value_of(model["architecture id"][0]) == summary["model"]["architecture_id"]
    assert value_of(model["weights id"][0]) == summary["model"]["weights_id"]
    assert value_of(model["partition digest"][0]) == summary["partition_digest"]
    for name in ("model.safetensors", "model.mlmodel"):
        assert value_of(model[name][0]) == (finished / name).stat().st_size
    assert page.find(".//pre/code").text == environment["command"]


def test_local_epochs_count_as_examples_processed(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    config = read_json(folder / "config.json")
    config["training"]["epochs"] = 3
    write_json(folder / "config.json", config)
    examples = sum(record["examples"] for record in read_lines(folder / "rounds.jsonl"))
    table = report(folder).table("Federated training and its baselines")
    assert value_of(table["federated, last round (20)"][2]) == 3 * examples


def shown(*values: float | None) -> list[float | str]:
    return ["–" if value is None else value for value in values]


def written(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
