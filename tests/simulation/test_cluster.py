"""More machines: real Ray nodes compute the bits of one machine, whoever joins, fails or is killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from fedsim import ConfigError, resume, run
from fedsim.config import command_line
from fedsim.federation import set_up
from fedsim.simulation.cluster import Crew, Node, connected
from fedsim.simulation.engines import open_engine
from fedsim.simulation.grid import FederationGrid, Phones
from fedsim.training.native import library
from fedsim.updates import Mean, Orders, Updates
from tests.small import small_config, small_dataset, write_small_dataset

ROOT = Path(__file__).parent.parent.parent
RESULTS = ("rounds.jsonl", "model.safetensors", "model.mlmodel")
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
LONG = {"federation": {"clients": 12, "cohort": 12, "rounds": 5}, "training": {"epochs": 20}}
MESSAGE = "cluster: lost "


def spawn(*words: str, code: str = "from fedsim.cli import main; main()") -> "subprocess.Popen[str]":
    """The command in a process of its own, which hears interrupts and finds what is tested here."""
    command = [sys.executable, "-c", code, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def finished(process: "subprocess.Popen[str]") -> str:
    """What a process that succeeds says on stderr."""
    shown, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert all(line.startswith("{") for line in shown.splitlines()), shown
    return errors


def upto(process: "subprocess.Popen[str]", number: int) -> None:
    """Waits until a run that prints JSON has finished that round."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("round") == number:
            return
    raise AssertionError(process.communicate()[1])


@contextmanager
def nodes(head: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[Cluster, Any]]:
    """A cluster of two nodes on this machine, every one with processes of its own; and the second."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
    try:
        yield cluster, cluster.add_node(**other)
    finally:
        cluster.shutdown()


def assert_same_results(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with nodes(NODE, NODE) as (cluster, _):
        yield cluster


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a run long enough to lose a node in."""
    path = tmp_path_factory.mktemp("data") / "small.npz"
    write_small_dataset(path)
    config = small_config(Path(), data={"source": str(path)}, **LONG)
    return [*command_line(config).split()[1:], "--json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Path:
    """The folder of that run on this machine alone."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    assert finished(spawn(*words, "--set", f"output.folder={folder}")) == ""
    return folder


@pytest.mark.slow
def test_two_nodes_compute_what_one_machine_does(
    cluster: Cluster, words: list[str], whole: Path, tmp_path: Path
) -> None:
    process = spawn(*words, "--set", f"output.folder={tmp_path / 'run'}", "--cluster", cluster.address)
    assert finished(process) == ""
    assert_same_results(tmp_path / "run", whole)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["speed"]["cluster"] == cluster.address


@pytest.mark.slow
def test_a_node_that_is_killed_takes_nothing_with_it(
    cluster: Cluster, words: list[str], whole: Path, tmp_path: Path
) -> None:
    doomed = cluster.add_node(**NODE)
    process = spawn(*words, "--set", f"output.folder={tmp_path / 'run'}", "--cluster", cluster.address)
    upto(process, 1)
    doomed.kill_raylet()
    (warning,) = finished(process).splitlines()
    cluster.remove_node(doomed, allow_graceful=False)
    assert warning.startswith(MESSAGE)
    assert_same_results(tmp_path / "run", whole)


@pytest.mark.slow
def test_where_no_node_is_left_the_head_goes_on_alone(words: list[str], whole: Path, tmp_path: Path) -> None:
    with nodes({**NODE, "num_cpus": 0}, NODE) as (cluster, doomed):
        process = spawn(*words, "--set", f"output.folder={tmp_path / 'run'}", "--cluster", cluster.address)
        upto(process, 1)
        doomed.kill_raylet()
        (warning,) = finished(process).splitlines()
    assert warning.startswith(MESSAGE)
    assert "this machine is left alone" in warning
    assert_same_results(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_node_without_the_engine_is_left_out(cluster: Cluster, words: list[str], whole: Path, tmp_path: Path) -> None:
    broken = cluster.add_node(**NODE, env_vars={"FEDSIM_NATIVE_LIBRARY": "no such file"})
    process = spawn(*words, "--set", f"output.folder={tmp_path / 'run'}", "--cluster", cluster.address)
    (warning,) = finished(process).splitlines()
    cluster.remove_node(broken)
    assert warning.startswith(MESSAGE)
    assert "the native engine does not load" in warning
    assert_same_results(tmp_path / "run", whole)


@pytest.mark.slow
def test_what_a_cluster_began_one_machine_can_finish(
    cluster: Cluster, words: list[str], whole: Path, tmp_path: Path
) -> None:
    process = spawn(*words, "--set", f"output.folder={tmp_path / 'run'}", "--cluster", cluster.address)
    upto(process, 2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert finished(spawn("resume", str(tmp_path / "run"), "--json", "--cluster", "")) == ""
    assert_same_results(tmp_path / "run", whole)


@pytest.mark.slow
def test_nodes_join_and_leave(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    with connected(cluster.address):
        crew = Crew(set_up(small_config(Path()), small_dataset()))
        assert len(crew.ready(60)) == 2
        third = cluster.add_node(**NODE)
        assert len(crew.ready(60)) == 3
        assert not caplog.messages
        cluster.remove_node(third)
        assert len(crew.ready(60)) == 2
    (warning,) = caplog.messages
    assert warning.endswith(", 2 left: it has left the cluster")


@pytest.mark.slow
def test_a_failing_phone_is_named(cluster: Cluster) -> None:
    """Its first example has a label that does not exist."""
    good = small_dataset()
    found: list[Mean] = []
    for address in ("", cluster.address):
        federation = set_up(small_config(Path(), speed={"cluster": address}), good)
        labels = good.train.labels.copy()
        labels[federation.partition.order[federation.partition.offsets[3]]] = 99
        spoilt = replace(federation, dataset=replace(good, train=replace(good.train, labels=labels)))
        orders = Orders(
            round=1, clients=np.array([5, 3, 8]), weights=federation.initial, training=federation.contract.training
        )
        with open_engine(spoilt) as engine:
            found.append(engine.mean(orders))
    assert [failure.client for failure in found[1].failures] == [3]
    assert found[1].clients.tolist() == [5, 8]
    np.testing.assert_array_equal(found[1].weights, found[0].weights)


def test_a_proof_tells_engines_apart() -> None:
    federation = set_up(small_config(Path()), small_dataset())
    variants = [name for name in library.VARIANTS if library.variant(name)]
    assert Node(federation, 2, variants[0]).proof() == Node(federation, 1, variants[0]).proof()
    assert len({Node(federation, 1, name).proof() for name in variants}) == len(variants)


def test_an_address_without_a_cluster_is_one_line(tmp_path: Path) -> None:
    config = small_config(tmp_path / "run", speed={"cluster": "127.0.0.1:1"})
    with pytest.raises(ConfigError, match=r"^speed.cluster = 127.0.0.1:1: cannot be joined \(.*refused\)$"):
        run(config, dataset=small_dataset())
    assert not (tmp_path / "run").exists()


def test_real_phones_are_on_no_cluster(tmp_path: Path) -> None:
    config = small_config(tmp_path / "run", speed={"cluster": "127.0.0.1:1"})
    nobody = Phones(clients=0, train=_never, evaluate=_never)
    with pytest.raises(ConfigError, match=r"^speed.cluster = 127.0.0.1:1: all phones must be simulated"):
        run(config, dataset=small_dataset(), inner=FederationGrid(nobody))


def _never(orders: Orders) -> Updates:
    raise AssertionError(orders)


def test_an_engine_that_cannot_run_the_model_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.LIBRARY_VARIABLE, "no such file")
    library.library.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"^speed.cluster = auto: the native engine does not load: "):
            set_up(small_config(Path(), speed={"cluster": "auto"}), small_dataset())
    finally:
        monkeypatch.undo()
        library.library.cache_clear()


def test_without_ray_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from fedsim.cli import main; main()"
    folder = f"output.folder={tmp_path / 'run'}"
    process = spawn("run", "--set", folder, "--cluster", "127.0.0.1:1", code=code)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    (line,) = errors.splitlines()
    assert line.startswith("speed.cluster = 127.0.0.1:1: needs Ray (")
    assert line.endswith("pip install 'fedsim[ray]'")
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_be_spread_is_not_resumed_on_a_cluster(tmp_path: Path) -> None:
    record = run(small_config(tmp_path / "run", speed={"aggregation": "stacked"}), dataset=small_dataset())
    (record.folder / "summary.json").unlink()
    with pytest.raises(ConfigError, match=r"allowed with speed\.aggregation = streamed, not stacked"):
        resume(record.folder, dataset=small_dataset(), cluster="auto")
