"""``flwr run`` on a real SuperLink with real SuperNodes, on loopback: the same bits as ``fedsim run``."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fedsim import run
from fedsim.config import command_line
from tests.small import small_config, write_small_dataset

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
REMOTE_CLIENTS = (2, 5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    """A server and whatever it starts, ended together at the end."""
    with (folder / f"{Path(command[0]).name}-{time.monotonic_ns()}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)


def wait_for(port: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on {port} after {seconds} s")


OPEN: dict[str, str | float] = {"mechanism": "none"}
PRIVATE: list[dict[str, str | float]] = [
    {"mechanism": "central", "sampling": "cyclic", "noise_multiplier": 0.5},
    {"mechanism": "local", "noise_multiplier": 0.5},
    {"mechanism": "dp_sgd", "noise_multiplier": 0.5},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "privacy"),
    [((), OPEN), *((REMOTE_CLIENTS, privacy) for privacy in (OPEN, *PRIVATE))],
    ids=["all simulated", "two SuperNodes", *(f"two SuperNodes, {privacy['mechanism']}" for privacy in PRIVATE)],
)
def test_flwr_run_gives_the_numbers_of_fedsim_run(
    tmp_path: Path, nodes: tuple[int, ...], privacy: dict[str, str | float]
) -> None:
    source, home, port = tmp_path / "small.npz", tmp_path / "home", free_port()
    write_small_dataset(source)
    home.mkdir()
    (home / "config.toml").write_text(f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    # Every client takes part in every round, so that the SuperNodes do, too.
    federation = {"clients": 8, "cohort": 8, "rounds": 2}
    tables = {"data": {"source": str(source)}, "federation": federation, "privacy": privacy}
    config = small_config(tmp_path / "flower", **tables)
    settings = [*command_line(config).split()[3::2], f"output.folder={tmp_path / 'flower'}"]
    with ExitStack() as servers:
        link = ["flower-superlink", "--insecure", "--port", str(port), "--disable-runtime-dependency-installation"]
        servers.enter_context(running([str(BIN / link[0]), *link[1:]], environment, tmp_path))
        wait_for(port, 60)
        for client in nodes:
            node = ["--insecure", "--superlink", f"127.0.0.1:{port}", "--node-config", f"partition-id={client}"]
            node += ["--port", str(free_port())]
            servers.enter_context(running([str(BIN / "flower-supernode"), *node], environment, tmp_path))
        time.sleep(8 if nodes else 0)  # a SuperNode says it is online only in the SuperLink's log
        command = [str(BIN / "flwr"), "run", str(ROOT), "here", "--stream"]
        command += ["--run-config", f'settings="{" ".join(settings)}"']
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert "test accuracy" in shown.stdout, shown.stdout + shown.stderr
    stacked = {"aggregation": "stacked"}  # as real phones are: each sends its own model
    ours = run(small_config(tmp_path / "ours", **tables, speed=stacked))
    for name in ("rounds.jsonl", "model.safetensors", "model.mlmodel"):
        assert (tmp_path / "flower" / name).read_bytes() == (ours.folder / name).read_bytes(), name
    logs = "".join(path.read_text() for path in tmp_path.glob("flower-supernode-*.log"))
    assert logs.count("Receiving: train message") == 2 * len(nodes)
    assert json.loads((tmp_path / "flower" / "summary.json").read_text())["status"] == "finished"
