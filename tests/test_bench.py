"""The benchmark's counts and arithmetic, and what its verb prints; never how fast anything is."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fedsim.bench import SGD, Work, forward_flops, measure, plain_module, shares, training_flops
from fedsim.coreml import interpret
from fedsim.coreml.contract import Contract, read_contract
from fedsim.coreml.layers import Same
from fedsim.data.dataset import Examples
from fedsim.models.initial import initial_weights
from fedsim.models.lenet import lenet_contract
from fedsim.seeds import generator
from fedsim.training.native import library
from tests.training.native.networks import Chain, start

LENET = read_contract(lenet_contract(SGD))


def bench(*words: str, **variables: str) -> str:
    """What the verb prints, after a single turn."""
    command = [sys.executable, "-m", "fedsim", "bench", "--seconds", "0", *words]
    environment = {**os.environ, "COLUMNS": "200", **variables}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    return shown.stdout


def check_rates(rates: list[dict[str, Any]], mflop: dict[str, float]) -> None:
    for rate in rates:
        assert rate["samples_per_second"] > 0
        if rate["task"] == "train":
            assert rate["clients_per_second"] * rate["images"] == pytest.approx(rate["samples_per_second"])
        if rate["peak_gflops"] is not None:
            gflops = rate["samples_per_second"] * mflop[rate["task"]] / 1e3
            assert rate["of_peak"] == pytest.approx(gflops / rate["peak_gflops"])


def test_the_seeds_operations() -> None:
    """Outputs times inputs of one output, two operations each; conv1 alone has no gradient of its input to compute."""
    conv1, conv2, hidden1, hidden2 = 26 * 26 * 32 * 9, 12 * 12 * 32 * (4 * 32), 1152 * 500, 500 * 10
    assert forward_flops(LENET) == 2 * (conv1 + conv2 + hidden1 + hidden2)
    assert training_flops(LENET) == 4 * conv1 + 6 * (conv2 + hidden1 + hidden2) == 7_803_696


def chains() -> list[Contract]:
    """Strides, padding and poolings; layers that do not train first, in the middle and last."""
    return [
        LENET,
        Chain((4, 9, 7)).convolve(8, (3, 2), stride=(2, 1)).activate("relu").convolve(6, (2, 2), dilation=(1, 2))
        .pool(function="average", kernel=(2, 2), padding=Same()).dense(5).contract(),
        Chain((3, 8, 8)).convolve(5, (3, 3), updatable=False).convolve(7, (3, 3), padding=Same()).activate("tanh")
        .pool(function="max", kernel=(3, 3), stride=(2, 2)).dense(11, updatable=False).dense(3).contract(),
        Chain((20,)).dense(10).dense(10).dense(4, has_bias=False, updatable=False).contract(),
    ]  # fmt: skip


@pytest.mark.parametrize("contract", chains())
def test_operations_are_those_that_torch_counts(contract: Contract) -> None:
    parameters = interpret.parameters(contract, torch.from_numpy(start(contract)))
    for parameter in parameters.values():
        parameter.requires_grad_()
    inputs = torch.zeros(2, *contract.input_shape)
    with FlopCounterMode(display=False) as forward:
        outputs = interpret.logits(contract, parameters, inputs)
    with FlopCounterMode(display=False) as backward:
        outputs.sum().backward()
    assert forward.get_total_flops() == 2 * forward_flops(contract)
    assert forward.get_total_flops() + backward.get_total_flops() == 2 * training_flops(contract)


def test_a_group_sees_its_share_of_the_inputs() -> None:
    """Torch counts its weights' gradient as if it saw them all."""
    contract = Chain((6, 5, 5)).convolve(12, (3, 3), groups=3).dense(2).contract()
    grouped, dense = 12 * 3 * 3 * (3 * 3 * 2), 12 * 3 * 3 * 2
    assert forward_flops(contract) == 2 * (grouped + dense)
    assert training_flops(contract) == 4 * grouped + 6 * dense


def test_the_plain_module_is_the_seeds_network() -> None:
    weights = initial_weights(LENET, generator(1, "weights"))
    inputs = torch.from_numpy(generator(2, "inputs").random((3, 1, 28, 28), np.float32))
    theirs = interpret.logits(LENET, interpret.parameters(LENET, torch.from_numpy(weights)), inputs)
    torch.testing.assert_close(plain_module(weights)(inputs), theirs)


def test_shares_go_round() -> None:
    seven = Examples(inputs=np.zeros((7, 1, 1, 1), np.uint8), labels=np.zeros(7, np.int64))
    clients = shares(3, 3, seven)
    assert clients.counts.tolist() == [3, 3, 3]
    assert clients.orders.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]


def test_rates_follow_from_times() -> None:
    nap = partial(Work, task="train", samples=60, images=20)
    works = [
        nap(engine="native", workers=1, run=lambda: None),
        nap(engine="native", workers=2, run=lambda: None),
        nap(engine="torch module", workers=1, run=partial(time.sleep, 0.03)),
        nap(engine="torch fallback", workers=1, run=partial(time.sleep, 0.01)),
    ]
    alone, together, slow, fast = measure(works, {"train": 1e6}, None, 0.2)
    assert slow.samples_per_second <= 60 / 0.03
    assert 60 / 0.03 < fast.samples_per_second <= 60 / 0.01
    assert fast.clients_per_second == fast.samples_per_second / 20
    assert alone.over_torch == alone.samples_per_second / fast.samples_per_second
    assert [rate.over_torch for rate in (together, slow, fast)] == [None, None, None]
    assert {rate.of_peak for rate in (alone, together, slow, fast)} == {None}


@pytest.mark.slow
def test_for_machines_it_prints_one_object() -> None:
    found = json.loads(bench("--json"))
    assert found["mflop"] == {"train": 7.803696, "evaluate": 2.731024}
    assert found["cores"] == os.cpu_count()
    assert set(found["versions"]) == {"Python", "fedsim", "numpy", "torch"}
    check_rates(found["rates"], found["mflop"])
    native = [rate for rate in found["rates"] if rate["engine"] == "native"]
    if library.library_path() is None:
        assert native == []
        return
    assert found["variant"] == library.available()
    workers = {1, os.cpu_count()}
    expected = {
        (task, images, n) for task, images in (("train", 600), ("train", 60), ("evaluate", None)) for n in workers
    }
    assert {(rate["task"], rate["images"], rate["workers"]) for rate in native} == expected
    assert all(rate["of_peak"] > 0 for rate in found["rates"])
    assert all((rate["over_torch"] is not None) == (rate["workers"] == 1) for rate in native)


@pytest.mark.slow
def test_without_the_engine_it_says_so_and_shows_torch(tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"not a library")
    shown = bench(**{library.LIBRARY_VARIABLE: str(tmp_path / "broken.so")})
    assert "the native engine does not load" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert [line[:2] for line in lines if line[:1] in (["train"], ["evaluate"])] == [["train", "torch"]] * 4 + [
        ["evaluate", "torch"]
    ]
    assert "FMA peak by workers" not in shown
