"""Times every partitioner on MNIST's labels and prints a dated Markdown table.

python -m experiments.benchmarks.partitioners --out experiments/benchmarks/results
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from os import cpu_count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Dataset
from fedsim.data.partition import Partition, digest, label_counts, load, save, sizes
from fedsim.data.partitioners import NAMES, mirror, partition
from fedsim.data.sources import load as load_data
from fedsim.seeds import generator

SEED = 0
ALPHA, CLASSES_PER_CLIENT, MIN_EXAMPLES = 0.3, 2, 1


def main() -> None:
    options = _options()
    dataset = load_data("mnist")
    started = datetime.now(UTC)
    text = report(dataset, options.clients, options.repeats, started)
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"partitioners_{started:%Y-%m-%d}.md").write_text(text)


def report(dataset: Dataset, clients: int, repeats: int, started: datetime) -> str:
    """The whole result file: what was measured, on what, and a row for each thing timed."""
    lines = [
        f"# Partitioners, {started:%Y-%m-%d}",
        "",
        f"{len(dataset.train.labels):,} examples of {dataset.name} among {clients:,} clients; "
        f"alpha {ALPHA}, {CLASSES_PER_CLIENT} classes per client, at least {MIN_EXAMPLES} example; "
        f"median and slowest of {repeats} runs after one to warm up.",
        "",
        f"Command: `python -m experiments.benchmarks.partitioners --clients {clients} --repeats {repeats}`",
        f"Machine: {_processor()}, {cpu_count()} cores, {platform.system()} {platform.machine()}",
        f"Versions: Python {platform.python_version()}, NumPy {np.__version__}",
        "",
        "| what | median, s | slowest, s | examples a client |",
        "| --- | ---: | ---: | --- |",
    ]
    return "\n".join([*lines, *_rows(dataset, clients, repeats), ""])


def _rows(dataset: Dataset, clients: int, repeats: int) -> Iterator[str]:
    labels, test_labels = dataset.train.labels, dataset.test.labels
    for name in NAMES:
        times = _times(lambda name=name: _dealt(name, labels, clients), repeats)
        yield _row(name, times, _span(_dealt(name, labels, clients)))
    dealt = _dealt("dirichlet", labels, clients)
    counts = label_counts(dealt, labels, dataset.classes)
    yield _row("label counts", _times(lambda: label_counts(dealt, labels, dataset.classes), repeats))
    times = _times(lambda: mirror(counts, test_labels, generator(SEED, "mirror")), repeats)
    yield _row("mirror, of dirichlet", times, _span(mirror(counts, test_labels, generator(SEED, "mirror"))))
    yield _row("digest", _times(lambda: digest(dealt), repeats))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "partition.npz"
        yield _row("save", _times(lambda: save(dealt, path), repeats))
        yield _row("load", _times(lambda: load(path), repeats))


def _dealt(name: str, labels: NDArray[np.int64], clients: int) -> Partition:
    return partition(
        name,
        labels,
        clients,
        generator(SEED, "partition"),
        alpha=ALPHA,
        classes_per_client=CLASSES_PER_CLIENT,
        min_examples=MIN_EXAMPLES,
    )


def _row(what: str, times: list[float], held: str = "") -> str:
    return f"| {what} | {statistics.median(times):.3f} | {max(times):.3f} | {held} |"


def _span(dealt: Partition) -> str:
    return f"{sizes(dealt).min()} to {sizes(dealt).max()}"


def _times(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of so many runs, after one that is not counted."""
    times: list[float] = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return times[1:]


def _processor() -> str:
    """What the machine calls its processor."""
    names = Path("/proc/cpuinfo")
    if names.exists():
        for line in names.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="folder to put the result file in")
    return parser.parse_args()


if __name__ == "__main__":
    main()
