"""A study's file becomes the cells it says, and what is wrong with it is said before anything runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.config import ConfigError, from_mapping
from fedsim.study.nested import at, merged, worded
from fedsim.study.plan import config_hash, read_study, with_seed

SHIPPED = Path(__file__).parent.parent.parent / "experiments" / "studies"
STUDIES = ("attacks_under_dp", "non_iid", "privacy_accuracy", "privacy_settings", "robustness")


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(text: str) -> Path:
        path = tmp_path / "study.toml"
        path.write_text('title = "?"\n' + text)
        return path

    return written


def test_axes_combine_as_a_full_product_in_the_files_order(write: Any) -> None:
    study = read_study(write("[grid]\nfederation.cohort = [2, 4]\ntraining.epochs = [1, 2, 3]"))
    found = [(cell.config.federation.cohort, cell.config.training.epochs) for cell in study.cells]
    assert found == [(2, 1), (2, 2), (2, 3), (4, 1), (4, 2), (4, 3)]
    assert study.axes == ("federation.cohort", "training.epochs")
    assert study.seeds == (0,)
    assert {cell.config.baselines.central for cell in study.cells} == {False}
    assert {cell.config.speed.workers for cell in study.cells} == {1}


def test_tables_are_merged_into_the_table_their_axis_names(write: Any) -> None:
    text = """
    [base]
    privacy.clip = 0.5
    baselines.central = true
    [grid]
    "privacy.mechanism" = ["central", "local"]
    privacy = [{ epsilon = 1 }, { noise_multiplier = 0, clip = 0.1 }]
    """
    study = read_study(write(text))
    found = [(c.config.privacy.mechanism, *(at(c.config.model_dump(), f"privacy.{key}") for key in
              ("epsilon", "noise_multiplier", "clip"))) for c in study.cells]  # fmt: skip
    assert found == [(name, *rest) for name in ("central", "local") for rest in ((1, None, 0.5), (None, 0, 0.1))]
    assert all(cell.config.baselines.central for cell in study.cells)
    assert [worded(cell.value("privacy")) for cell in study.cells[:2]] == ["epsilon 1", "noise multiplier 0, clip 0.1"]


def test_cells_are_added_and_skipped_ones_left_out(write: Any) -> None:
    text = """
    [grid]
    federation.cohort = [2, 4]
    data = [{ partition = "iid" }, { partition = "shards" }]
    [[cells]]
    federation.cohort = 6
    [[skip]]
    federation.cohort = 4
    data.partition = "shards"
    [quick]
    grid.federation.cohort = [2]
    """
    study = read_study(write(text))
    found = [(cell.config.federation.cohort, cell.config.data.partition) for cell in study.cells]
    assert found == [(2, "iid"), (2, "shards"), (4, "iid"), (6, "iid")]
    assert len(read_study(write(text), quick=True).cells) == 3  # where nothing is left to skip
    assert study.cells[-1].value("federation.cohort") == 6
    assert study.cells[-1].value("data") is None


def test_quick_replaces_seeds_and_single_axes_and_merges_the_base(write: Any) -> None:
    text = """
    seeds = [0, 1, 2]
    base.federation = { clients = 50, rounds = 40 }
    [grid]
    federation.cohort = [2, 4, 8]
    training.epochs = [1, 2]
    [[cells]]
    federation.cohort = 9
    [quick]
    seeds = [5]
    base.federation.rounds = 2
    grid.federation.cohort = [2]
    cells = []
    """
    full, quick = read_study(write(text)), read_study(write(text), quick=True)
    assert (len(full.cells), full.seeds, full.name) == (7, (0, 1, 2), "study")
    assert (len(quick.cells), quick.seeds, quick.name) == (2, (5,), "study-quick")
    assert {(c.config.federation.clients, c.config.federation.rounds) for c in quick.cells} == {(50, 2)}
    kept = read_study(write(text.replace("cells = []", "")), quick=True)
    assert [cell.config.federation.cohort for cell in kept.cells] == [2, 2, 9]


def test_set_changes_the_base_beneath_the_axes(write: Any) -> None:
    path = write("[grid]\nfederation.cohort = [2, 4]")
    study = read_study(path, ["federation.rounds=3"])
    assert [(c.config.federation.cohort, c.config.federation.rounds) for c in study.cells] == [(2, 3), (4, 3)]


@pytest.mark.parametrize(
    ("setting", "decided"),
    [
        ("federation.cohort=9", "federation.cohort"),
        ("federation={cohort = 9}", "federation.cohort"),
        ("data.alpha=0.5", "data.alpha"),
        ("data.partition.x=1", "data.partition"),
        ("training.epochs=2", "training.epochs"),
    ],
)
def test_set_is_refused_where_the_cells_would_overrule_it(write: Any, setting: str, decided: str) -> None:
    text = """
    [grid]
    federation.cohort = [2, 4]
    data = [{ partition = "iid" }, { partition = "dirichlet", alpha = 0.1 }]
    [[cells]]
    training.epochs = 1
    """
    with pytest.raises(ConfigError) as caught:
        read_study(write(text), ["federation.rounds=3", "data.min_examples=2", setting])
    assert str(caught.value) == f"--set {setting}: the study's cells decide {decided}; allowed are keys they leave open"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sedes = [1]", "sedes: unknown key; allowed here: title, base, seeds, grid"),
        ("seeds = []", "seeds: tuple should have at least 1 item"),
        ("seeds = ['a']", "seeds.0: input should be a valid integer, got a"),
        ("seeds = [0, -1]", "seeds.1: input should be greater than or equal to 0, got -1"),
        ("seeds = [1, 2, 1]", "seeds: must differ from one another: a run made twice is one run, got [1, 2, 1]"),
        ("[quick]\nseeds = [3, 3]", "quick.seeds: must differ from one another"),
        ("[[figures]]\nx = 1", "figures.0.against: is missing"),
        ("quick.cell = []", "quick.cell: unknown key; allowed here: base, seeds, grid, cells"),
        ("measure = ['mood']", "measure: mood: is no attack; allowed are membership, "),
        ("[grid]\nfederation.cohort = 3", "grid.federation.cohort = 3: must be a list of at least one value"),
        ("[grid]\nfederation.cohotr = [3, 4]", "federation.cohotr: unknown key; did you mean cohort?"),
        ("base.seed = 3", "base.seed: a study takes its seeds from seeds"),
        ("[grid]\nseed = [1, 2]", "seed: a study takes its seeds from seeds; cells cannot choose theirs"),
        ("[[cells]]\nseed = 1", "seed: a study takes its seeds from seeds; cells cannot choose theirs"),
        (
            "[grid]\noutput.evaluate_every = [1, 5]",
            "output.evaluate_every: does not change what a run learns, so cells cannot differ in it; allowed is base",
        ),
        ("[grid]\nspeed = [{ workers = 2 }]", "speed.workers: does not change what a run learns"),
        ("[[cells]]\nspeed.engine = 'torch'", "speed.engine: does not change what a run learns"),
        (
            "[grid]\nfederation.cohort = [2, 4]\n[[skip]]\nfederatoin.cohort = 4",
            "skip 1: federatoin.cohort 4: no cell of the grid has that",
        ),
        (
            "base.federation = 3\n[grid]\nfederation.cohort = [2, 4]",
            "federation = 3: must be a table, as the study sets keys in it",
        ),
        ("base.data = { source = 'gone.npz' }", "data.source = gone.npz: cannot be read: No such file"),
        ("[grid]\ndata.alpha = [1]\n[quick]\ngrid.model = [1]", "quick.grid.model: is no axis of grid"),
        ("[[figures]]\nagainst = 'data.alhpa'", "figures 1: against = data.alhpa: no cell has that"),
        ("[[skip]]\nbaselines.central = false", "skip: leaves no cell to run"),
        (
            "[grid]\nfederation.cohort = [2, 4]\ntraining.epochs = [1, 2]\n[[figures]]\nagainst = 'federation.cohort'",
            "figures 1: draws two cells at one place, federation.cohort = 2, training.epochs = 1 and",
        ),
    ],
)
def test_a_mistake_is_one_line(write: Any, text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_study(write(text), quick="quick" in text)
    first = str(caught.value).splitlines()[0]
    assert line in first
    assert len(str(caught.value).splitlines()) <= 2


def test_every_bad_cell_is_named_before_anything_runs(write: Any) -> None:
    text = "[grid]\nfederation.cohort = [2, 400]\ntraining.learning_rate = [0.1, 3]"
    with pytest.raises(ConfigError) as caught:
        read_study(write(text))
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == [
        "cell federation.cohort = 2, training.learning_rate = 3",
        "cell federation.cohort = 400, training.learning_rate = 0.1",
        "cell federation.cohort = 400, training.learning_rate = 3",
    ]


def test_the_hash_is_of_all_that_changes_results_and_of_nothing_else() -> None:
    config = from_mapping({})
    same = from_mapping({**config.model_dump(), "output": {"folder": "elsewhere"}, "speed": {"workers": 7}})
    assert config_hash(same, {}) == config_hash(config, {})
    read = from_mapping(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert config_hash(read, {}) == config_hash(config, {})
    others = [with_seed(config, 1), *(from_mapping(tables) for tables in ({"data": {"partition": "shards"}},
              {"federation": {"rounds": 21}}, {"privacy": {"epsilon": 1}}))]  # fmt: skip
    hashes = {config_hash(other, {}) for other in [config, *others]}
    assert len(hashes | {config_hash(config, {"data.source": found}) for found in "ab"}) == 7


def test_the_hash_is_the_same_in_every_process() -> None:
    code = (
        "from fedsim.study.plan import config_hash, from_mapping;"
        "print(config_hash(from_mapping({'data': {'partition': 'shards'}}), {}))"
    )
    said: set[str] = set()
    for seed in ("1", "2"):
        told = {**os.environ, "PYTHONHASHSEED": seed}
        shown = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True)
        said.add(shown.stdout.strip())
    assert said == {config_hash(from_mapping({"data": {"partition": "shards"}}), {})}


def test_what_follows_from_the_model_is_part_of_the_hash(write: Any) -> None:
    said, followed = (
        read_study(write(f"[base]\ntraining.learning_rate = 0.1{text}")).cells[0].config
        for text in ("\ntraining.epochs = 2\ntraining.batch_size = 20", "")
    )
    assert said == followed
    assert config_hash(said, {}) == config_hash(followed, {})


NESTED = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3))
TABLES = st.dictionaries(st.sampled_from("abc"), NESTED, max_size=3)


def clashes(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether ``other`` has a table, at any depth, where ``one`` has a number."""
    tables = [(one[key], value) for key, value in other.items() if key in one and isinstance(value, dict)]
    return any(not isinstance(under, dict) or clashes(under, value) for under, value in tables)


@given(TABLES, TABLES)
def test_merging_keeps_what_is_said_last_and_changes_neither(one: dict[str, Any], other: dict[str, Any]) -> None:
    before = json.dumps([one, other])
    if clashes(one, other):
        with pytest.raises(ConfigError, match="must be a table"):
            merged(one, other)
        return
    both = merged(one, other)
    assert json.dumps([one, other]) == before
    assert merged(one, {}) == one
    assert merged(both, other) == both
    assert set(both) == set(one) | set(other)
    for key, value in other.items():
        if not isinstance(value, dict):
            assert both[key] == value


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
def test_the_shipped_studies_can_be_run(name: str, quick: bool) -> None:
    study = read_study(SHIPPED / f"{name}.toml", quick=quick)
    assert len(study.cells) >= (2 if quick else 5)
    assert study.file.figures
