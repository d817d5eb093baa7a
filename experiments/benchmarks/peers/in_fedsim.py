"""The job in fedsim: ``in_fedsim JOB.json``, with ``evaluating`` behind it if every round is to be tested, as usual.

fedsim has no switch for testing the model; without the word there are ten test images instead of all.
"""

import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from experiments.benchmarks.peers.job import given_job, report
from fedsim import run
from fedsim.config import from_mapping
from fedsim.data.dataset import from_arrays


def main() -> None:
    job, marks = given_job(), list[float]()
    config = from_mapping(
        {
            "seed": job.seed,
            "federation": {"clients": job.clients, "cohort": job.cohort, "rounds": job.rounds},
            "training": {
                "epochs": 1,
                "batch_size": job.batch_size,
                "learning_rate": job.learning_rate,
                "momentum": 0.0,
            },
            "baselines": {"central": False, "local_only": 0},
            "output": {"folder": f"{job.folder}/run"},
        }
    )
    tested = None if "evaluating" in sys.argv else 10
    with np.load(job.data) as arrays:
        test_images, test_labels = arrays["test_images"][:tested], arrays["test_labels"][:tested]
        dataset = from_arrays("mnist", arrays["images"], arrays["labels"], test_images, test_labels)
    record = run(config, dataset=dataset, listen=lambda row: marks.append(time.monotonic()))
    model = load_file(Path(record.folder) / "model.safetensors")
    layers = ("conv1", "conv2", "hidden1", "hidden2")
    trained = [model[f"{layer}.{kind}"] for layer in layers for kind in ("weights", "bias")]
    report(job, marks, trained, ["fedsim", "flwr", "numpy"])


if __name__ == "__main__":
    main()
