"""fedsim beside its peers on the same work, in one run: Flower's Ray simulation, pfl, BlazeFL and a plain torch loop.

python -m experiments.benchmarks.peers --out experiments/benchmarks/results/peers_DATE.md

Every peer has a virtual environment of its own, made on first use (a few gigabytes). A peer that does not install or
does not run stands in the result with the reason.
"""

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np

from experiments.benchmarks.peers.contestants import CONTESTANTS, Refused, interpreter, newest_python
from experiments.benchmarks.peers.job import INITIAL, Job
from experiments.benchmarks.peers.measure import measure
from experiments.benchmarks.peers.page import Bout, page
from fedsim import RunConfig
from fedsim.coreml.weights import named_weights
from fedsim.data.sources import load
from fedsim.federation import set_up
from fedsim.seeds import generator

SEED = 0


def main() -> None:
    options, started, load_before = _options(), datetime.now(UTC), os.getloadavg()[0]
    makers = {"BlazeFL": options.blazefl_python}
    pythons = {
        contestant.name: interpreter(contestant, options.environments, makers.get(contestant.name, sys.executable))
        for contestant in CONTESTANTS
    }
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        write_data(data)
        bouts = compete(jobs(str(data), options.rounds), pythons, options.repeats, options.limit)
    command = f"python -m experiments.benchmarks.peers --repeats {options.repeats} --rounds {options.rounds}"
    text = page(bouts, command, started, (load_before, os.getloadavg()[0]))
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


def compete(jobs: list[Job], pythons: dict[str, str | Refused], repeats: int, limit: float) -> list[Bout]:
    """Everybody once a repeat at every job, in turn, for the machine's moods to meet all alike."""
    bouts = [Bout(job=job, runs={contestant.name: [] for contestant in CONTESTANTS}) for job in jobs]
    for _, bout, contestant in product(range(repeats), bouts, CONTESTANTS):
        python = pythons[contestant.name]
        run = python if isinstance(python, Refused) else measure(contestant, python, bout.job, limit)
        bout.runs[contestant.name].append(run)
        print(f"{bout.job.images} images a client, {contestant.name}: {run}", file=sys.stderr)
    return bouts


def jobs(data: str, rounds: int) -> list[Job]:
    """The two workloads: as many images a round, by few clients and by many."""
    return [
        Job(data=data, clients=clients, images=60_000 // clients, cohort=clients // 10, rounds=rounds, seed=SEED)
        for clients in (100, 1000)
    ]


def write_data(path: Path) -> None:
    """MNIST in random order and fedsim's first weights of this seed, as `Job` says."""
    mnist = load("mnist")
    order = generator(SEED, "peers").permutation(len(mnist.train.labels))
    federation = set_up(RunConfig(seed=SEED))
    first = named_weights(federation.contract.slots, federation.initial).values()
    arrays = {"images": mnist.train.inputs[order], "labels": mnist.train.labels[order]}
    arrays |= {"test_images": mnist.test.inputs, "test_labels": mnist.test.labels}
    arrays |= dict(zip(INITIAL, first, strict=True))
    np.savez(path, allow_pickle=False, **arrays)


def _options() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fedsim-peers"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, help="how often everybody runs")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of every run, at least 2")
    parser.add_argument("--limit", type=float, default=300, help="seconds after which a run is given up")
    parser.add_argument("--out", type=Path, help="the markdown file to write")
    parser.add_argument("--environments", type=Path, default=cache, help="folder for the peers' environments")
    parser.add_argument("--blazefl-python", default=newest_python(), help="the interpreter for BlazeFL, 3.14 or newer")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"argument --rounds: {options.rounds} given, at least 2 allowed: the first stands apart")
    return options


if __name__ == "__main__":
    main()
