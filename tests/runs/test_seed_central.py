"""The seed's experiment in small: the interpreter and an independent torch model train alike; slow: the whole of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.seed_central import COMPARED_STEPS, STUDY, train_independently, train_interpreted
from fedsim.config import load
from fedsim.data.sources import load as load_data

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_interpreter_and_independent_model_agree_on_one_epoch(tmp_path: Path) -> None:
    mnist, source = load_data("mnist"), tmp_path / "part.npz"
    np.savez(
        source,
        x_train=mnist.train.inputs[:6400],
        y_train=mnist.train.labels[:6400],
        x_test=mnist.test.inputs[:1000],
        y_test=mnist.test.labels[:1000],
    )
    config = load(STUDY, [f"data.source={source}", "training.epochs=1"])
    ours, theirs = train_interpreted(config), train_independently(config)
    assert len(ours["losses"]) == len(theirs["losses"]) == len(theirs["interpreted_losses"]) == COMPARED_STEPS
    np.testing.assert_allclose(theirs["interpreted_losses"], theirs["losses"], atol=1e-5)
    assert ours["epoch_losses"] == pytest.approx(theirs["epoch_losses"], rel=0.05)
    assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=0.003)
    assert ours["test_accuracy"] > 0.7


@pytest.mark.slow
def test_the_whole_study_agrees_and_passes_98_percent(tmp_path: Path) -> None:
    result = tmp_path / "result.md"
    study = [sys.executable, "-m", "experiments.seed_central", "--out", str(tmp_path / "run"), "--result", str(result)]
    outcome = subprocess.run(study, cwd=ROOT, capture_output=True, text=True, timeout=2400, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert "iPhone 11" in page
    assert "MNIST-CoreML-Training" in page
    assert "| Core ML on an iPhone 11 | 248 | – |" in result.read_text()
