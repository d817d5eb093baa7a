"""The engine on arm64, whose NEON the portable vectors become: compiled with setup.py's flags, run in an emulator."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fedsim.coreml.contract import Contract
from fedsim.data.dataset import Examples
from fedsim.data.partition import Shards
from fedsim.seeds import key, words
from fedsim.training.native import engine as native
from fedsim.training.native import library
from fedsim.updates import LocalTraining, Weights
from tests.training.native.emulated import Emulated, build_driver
from tests.training.native.exercise import networks
from tests.training.native.networks import SGD, Chain, examples, lenet, start

pytestmark = pytest.mark.slow

COMPILERS = {"g++": ["aarch64-linux-gnu-g++"], "clang++": ["clang++", "--target=aarch64-linux-gnu"]}
"""Apple's is a clang; here it borrows the other's headers and linker."""
EMULATOR, DISASSEMBLER = "qemu-aarch64", "aarch64-linux-gnu-objdump"

# Weights by their slot's movement, see assert_alike: the most that was measured is 4e-7 after one step, and 6e-7 after
# fifteen, in which differences may grow.
ONE_STEP, MANY_STEPS = 1e-6, 1e-5

# Far from zero, Adam's first step is as long for a gradient of 1e-6 as for one of 1: with this epsilon, differences in
# rounding stay differences in rounding.
ADAM = replace(SGD, optimizer="adam", learning_rate=0.01, epsilon=0.1)
MOMENTUM = replace(SGD, epochs=3, batch_size=8, learning_rate=0.05, momentum=0.9, proximal_mu=0.1)


@pytest.fixture(scope="module", params=COMPILERS.values(), ids=COMPILERS.keys())
def arm64(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    """The engine by each compiler; skips where a tool is missing."""
    tools = (request.param[0], "aarch64-linux-gnu-g++", EMULATOR, DISASSEMBLER)
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"needs {missing[0]} (Debian: g++-aarch64-linux-gnu, clang, qemu-user)")
    folder = tmp_path_factory.mktemp("arm64")
    return Emulated([EMULATOR, str(build_driver(request.param, folder))], folder)


@contextmanager
def running_on(machine: Emulated) -> Iterator[None]:
    """Engines opened and used in here are those of ``machine``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "library", lambda: machine)
        patch.setattr(native, "address", machine.address)
        yield


def trained(
    contract: Contract, data: Examples, clients: native.Cohort, training: LocalTraining, threads: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The clients' stack and losses."""
    return native.train_clients(native.Engine(contract), start(contract), data, clients, training, threads=threads)


def one_client(rows: int) -> native.Cohort:
    """A client that walks through this many rows once."""
    return native.Cohort(counts=np.array([rows]), orders=np.arange(rows))


def assert_alike(contract: Contract, ours: Weights, theirs: Weights, tolerance: float) -> None:
    """Weight by weight the same but for the last bit, and for ``tolerance`` of its slot's largest movement.

    A gradient is a sum that the machines form in another order, and with a rounding more or less a term: they differ
    by a few times 2**-24 of its largest terms, whatever is left of the sum.
    """
    ends = np.cumsum([slot.count for slot in contract.slots])[:-1]
    split = [np.split(weights, ends) for weights in (ours, theirs, start(contract))]
    for slot, our, their, before in zip(contract.slots, *split, strict=True):
        allowed = tolerance * np.abs(their - before).max() + 2**-23 * np.abs(their)
        assert (np.abs(our - their) <= allowed).all(), f"{slot.layer}.{slot.parameter}"


@pytest.mark.parametrize("training", [SGD, ADAM], ids=lambda training: training.optimizer)
@pytest.mark.parametrize("kind", ["uint8", "float32"])
@pytest.mark.parametrize("contract", networks())
def test_a_step_is_that_of_this_machine(
    arm64: Emulated, contract: Contract, kind: str, training: LocalTraining
) -> None:
    data, one_step = examples(contract, 20, kind=kind), replace(training, batch_size=20)
    theirs, their_losses = trained(contract, data, one_client(20), one_step)
    with running_on(arm64):
        ours, our_losses = trained(contract, data, one_client(20), one_step)
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-6)
    assert_alike(contract, ours[0], theirs[0], ONE_STEP)


@pytest.mark.parametrize("contract", networks())
def test_an_evaluation_is_that_of_this_machine(arm64: Emulated, contract: Contract) -> None:
    data = examples(contract, 50)
    their_losses, their_correct = native.evaluate(native.Engine(contract), start(contract), data)
    with running_on(arm64):
        our_losses, our_correct = native.evaluate(native.Engine(contract), start(contract), data)
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-6, atol=1e-6 * their_losses.max())
    np.testing.assert_array_equal(our_correct, their_correct)


def test_clients_of_every_size_train_on(arm64: Emulated) -> None:
    """Momentum and the proximal term over many steps; as a stack and as a sum, on one thread and on two."""
    contract, sizes, shares = lenet(), (0, 1, 12, 33), np.array([0.1, 0.2, 0.3, 0.4])
    data = examples(contract, 40, kind="uint8")
    held = Shards(order=np.concatenate([np.arange(size) for size in sizes]), offsets=np.cumsum([0, *sizes]))
    clients = native.cohort(held, words(key(1, "shuffle"), np.arange(4)), MOMENTUM)
    theirs, their_losses = trained(contract, data, clients, MOMENTUM)
    with running_on(arm64):
        ours, our_losses = trained(contract, data, clients, MOMENTUM)
        again, _ = trained(contract, data, clients, MOMENTUM, threads=2)
        total, _ = native.sum_clients(native.Engine(contract), start(contract), data, clients, shares, MOMENTUM)
    np.testing.assert_array_equal(again, ours)
    np.testing.assert_array_equal(ours[0], start(contract))
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-6)
    for our, their in zip(ours[1:], theirs[1:], strict=True):
        assert_alike(contract, our, their, MANY_STEPS)
    np.testing.assert_allclose(total, shares @ ours.astype(np.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", [{"kernel": (2, 2), "stride": (2, 2)}, {"kernel": (3, 3)}, {"is_global": True}])
def test_the_first_of_equals_wins(arm64: Emulated, pooling: dict[str, object]) -> None:
    """A convolution of zeros makes every maximum a tie; which input its gradient meets tells who has won it."""
    chain = Chain((2, 9, 9)).convolve(18, (2, 2)).pool(function="max", **pooling)
    contract = chain.flatten("channel_first").dense(10).contract()
    data, weights = examples(contract, 20, kind="uint8"), start(contract)
    convolution = next(slot for slot in contract.slots if slot.parameter == "weights").count
    weights[:convolution] = 0
    one_step = replace(SGD, batch_size=20)
    theirs, _ = native.train_clients(native.Engine(contract), weights, data, one_client(20), one_step)
    with running_on(arm64):
        ours, _ = native.train_clients(native.Engine(contract), weights, data, one_client(20), one_step)
        _, correct = native.evaluate(native.Engine(contract), np.zeros_like(weights), data)
    moved = np.abs(theirs[0, :convolution])
    assert moved.min() > 0
    np.testing.assert_allclose(ours[0, :convolution], theirs[0, :convolution], rtol=0, atol=1e-6 * moved.max())
    np.testing.assert_array_equal(correct, data.labels == 0)


def test_what_is_not_a_number_stays_so(arm64: Emulated) -> None:
    contract = lenet()
    data = examples(contract, 4)
    data.inputs[1, 0, 5, 5] = np.nan
    with running_on(arm64):
        outputs = native.predict(native.Engine(contract), start(contract), data)
    assert np.isnan(outputs).all(axis=1).tolist() == [False, True, False, False]
    assert np.isfinite(outputs[[0, 2, 3]]).all()


def test_denormals_are_flushed(arm64: Emulated) -> None:
    contract = Chain((4,)).dense(40).dense(3).contract()
    data = Examples(inputs=np.zeros((8, 4), np.float32), labels=np.arange(8) % 3)
    denormal = np.full(contract.parameters, 1e-40, np.float32)
    with running_on(arm64):
        stack, _ = native.train_clients(native.Engine(contract), denormal, data, one_client(8), SGD)
    assert not stack[0, :-3].any()  # the last layer's biases have gradients


def test_vectors_are_neons(arm64: Emulated) -> None:
    """Nearly every multiply-add works on four floats at once."""
    kernels = next(arm64.folder.rglob("variant_baseline.o"))
    listing = subprocess.run([DISASSEMBLER, "-d", str(kernels)], capture_output=True, text=True, check=True).stdout
    operations = [line.split("\t")[2:] for line in listing.splitlines() if line.count("\t") > 2]
    on_vectors = sum(name == "fmla" and ".4s" in operands for name, operands, *_ in operations)
    on_scalars = sum(name in ("fmadd", "fmsub") for name, *_ in operations)
    assert on_vectors > 20 * on_scalars
