"""Local training and evaluation in the native engine: the same functions as ``training.reference``, for many phones.

Nothing here imports torch. Calls let go of the interpreter lock, and one engine may be used from several threads.
"""

import ctypes
import math
import weakref
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedsim.coreml.contract import Contract
from fedsim.data.dataset import Examples
from fedsim.data.partition import Shards, sizes
from fedsim.seeds import Words
from fedsim.training.batches import epoch_orders
from fedsim.training.native import library
from fedsim.training.native.library import address, check
from fedsim.training.native.lower import Program, lower
from fedsim.updates import LocalTraining, Weights

Rows = NDArray[np.int64]

SLOTS = 32
"""A weighted sum over a cohort is formed in at most this many partial sums."""


class Engine:
    """A contract's network, ready to run; it holds memory of the C++ engine for as long as it lives.

    ``variant`` names one of `library.VARIANTS`; without it the best one for this processor runs.

    Raises:
        Unsupported: the network is not one that the engine runs (`lower`).
        RuntimeError: there is no engine, or no such variant, on this machine.
    """

    def __init__(self, contract: Contract, variant: str = "") -> None:
        loaded = library.library()
        found = library.variant(variant)
        if found is None:
            raise RuntimeError(f"the native engine's variant {variant or 'of any kind'} does not run on this processor")
        self.program: Program = lower(contract)
        self.variant: str = found
        program = self.program
        self.handle: int = loaded.fedsim_open(
            found.encode(),
            *(address(program.steps), len(program.steps)),
            *(address(program.placements), len(program.placements)),
            *(address(program.tables), len(program.tables)),
            *(address(program.image), len(program.image)),
            program.loss,
        )
        if not self.handle:
            raise MemoryError("there is not enough memory for the native engine")
        weakref.finalize(self, loaded.fedsim_close, self.handle)


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """An optimizer's state between two calls of `train_on`, in the engine's own layout; both arrays change."""

    moments: NDArray[np.float32]
    steps: Rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Cohort:
    """Who trains on what: client ``i`` walks through ``counts[i]`` examples an epoch.

    ``orders`` is ``int64[sum(counts) * epochs]``: every client's epochs one after another, then the next client's;
    each entry is a row of the data set.
    """

    counts: Rows
    orders: Rows


def cohort(held: Shards, keys: Words, training: LocalTraining) -> Cohort:
    """The cohort of phones that hold ``held``; the ``i``-th shuffles under ``keys[i]`` as in the reference loop."""
    counts = sizes(held)
    orders = epoch_orders(counts, keys, training.epochs, shuffle=training.shuffle)
    return Cohort(counts=counts, orders=held.order[orders + np.repeat(held.offsets[:-1], counts * training.epochs)])


def train_clients(
    engine: Engine,
    weights: Weights,
    examples: Examples,
    clients: Cohort,
    training: LocalTraining,
    *,
    threads: int = 1,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Train a cohort's clients from ``weights``: the stack ``float32[C, P]`` and mean losses ``float64[C, epochs]``.

    The result depends on neither ``threads`` nor the company a client is in, bit for bit. Batches, optimizer and
    losses are those of `training.reference.train_client`. A client without examples keeps the weights, and its loss is
    not a number. ``out`` is the stack to fill.

    Raises:
        ValueError: an array is not of the type or shape described, or an order names a row that does not exist.
    """
    stack = np.empty((len(clients.counts), engine.program.parameters), np.float32) if out is None else out
    _expect("out", stack, np.float32, (len(clients.counts), engine.program.parameters))
    losses = _train(engine, weights, examples, clients, training, threads, stack=stack)
    return stack, losses


def sum_clients(
    engine: Engine,
    weights: Weights,
    examples: Examples,
    clients: Cohort,
    shares: NDArray[np.float64],
    training: LocalTraining,
    *,
    threads: int = 1,
) -> tuple[Weights, NDArray[np.float64]]:
    """As `train_clients`, but ``shares @ stack`` as ``float32[P]`` in place of the stack, whose memory is never needed.

    The sum is formed in float32 in at most `SLOTS` partial sums, fixed by the clients' places in the cohort: it is the
    same for any number of threads, and within rounding that of the stack.
    """
    _expect("shares", shares, np.float64, (len(clients.counts),))
    total, slots = np.zeros(engine.program.parameters, np.float32), min(len(clients.counts), SLOTS)
    losses = _train(engine, weights, examples, clients, training, threads, slots, shares=shares, sum=total)
    return total, losses


def sum_clipped(
    engine: Engine,
    weights: Weights,
    examples: Examples,
    clients: Cohort,
    clip: float,
    training: LocalTraining,
    *,
    threads: int = 1,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The sum ``float64[P]`` of the clients' updates, each scaled down to a norm of ``clip`` where it is longer.

    And their Euclidean norms before that, ``float64[C]``, and the losses as in `train_clients`. An update is what
    training adds to the weights; from there on all is float64, so no client adds more than ``clip`` beyond that
    rounding, whatever it trained on. An update that is not finite counts as zero, and its norm is not a number. The sum
    is formed in slots as `sum_clients`' is, and as independent of ``threads``.

    Raises:
        ValueError: the clip is not above 0, or as in `train_clients`.
    """
    if not clip > 0:
        raise ValueError(f"clip = {clip}: allowed are numbers above 0")
    count = len(clients.counts)
    total, norms = np.zeros(engine.program.parameters, np.float64), np.empty(count, np.float64)
    results = {"norms": norms, "clipped": total}
    losses = _train(engine, weights, examples, clients, training, threads, min(count, SLOTS), clip, **results)
    return total, norms, losses


def gradient_sum(engine: Engine, examples: Examples, weights: Weights, rows: Rows, clip: float) -> NDArray[np.float64]:
    """The sum ``float64[P]`` over ``rows`` of the loss's gradients, each scaled down to ``clip`` where it is longer.

    Twin of ``reference``'s: the clipped sum of clients with one example each, who take one step of plain SGD at a
    learning rate of 1, turned round.
    """
    step = LocalTraining(epochs=1, batch_size=1, optimizer="sgd", learning_rate=1.0)
    singles = Cohort(counts=np.ones(len(rows), np.int64), orders=rows)
    moved, _, _ = sum_clipped(engine, weights, examples, singles, clip, step)
    return -moved


def sum_slots(
    engine: Engine,
    weights: Weights,
    examples: Examples,
    clients: Cohort,
    shares: NDArray[np.float64],
    training: LocalTraining,
    slots: int,
    *,
    threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The partial sums ``float32[slots, P]`` that `sum_clients` would form of slots' clients, for several machines.

    Of a cohort of ``C``, slot ``s`` of ``S = min(C, SLOTS)`` holds the places ``p`` with ``p % S == s``. ``clients``
    are those of some slots, in the order of their places, with their ``shares`` of the whole. The rows for all slots,
    added up in float32 in the order of slots, are `sum_clients`' sum, bit for bit.
    """
    _expect("shares", shares, np.float64, (len(clients.counts),))
    sums = np.zeros((slots, engine.program.parameters), np.float32)
    losses = _train(engine, weights, examples, clients, training, threads, slots, shares=shares, sums=sums)
    return sums, losses


def train_client(
    engine: Engine,
    weights: Weights,
    examples: Examples,
    training: LocalTraining,
    key: np.uint64,
) -> list[float]:
    """Train ``weights`` in place on one phone's examples; the mean loss of every epoch. Twin of ``reference``'s."""
    count = len(examples.labels)
    everything = Shards(order=np.arange(count), offsets=np.array([0, count]))
    alone = cohort(everything, np.array([key]), training)
    _, losses = train_clients(engine, weights, examples, alone, training, out=weights[np.newaxis])
    return losses[0].tolist()


def new_state(engine: Engine, training: LocalTraining) -> State:
    """The optimizer's state before the first step."""
    moments = 2 if training.optimizer == "adam" else int(training.momentum > 0)
    return State(moments=np.zeros((moments, len(engine.program.image)), np.float32), steps=np.zeros(1, np.int64))


def train_on(
    engine: Engine, weights: Weights, examples: Examples, order: Rows, training: LocalTraining, state: State
) -> float:
    """Train ``weights`` in place on rows ``order`` once, going on from ``state``; the mean loss.

    Cut where a batch ends, an order trained in parts gives the weights that it gives in one piece, bit for bit.
    FedProx's term pulls towards the weights at the start of each part.
    """
    expected = (len(new_state(engine, training).moments), len(engine.program.image))
    _expect("state.moments", state.moments, np.float32, expected)
    once = replace(training, epochs=1)
    losses = _train(
        engine,
        weights,
        examples,
        Cohort(counts=np.array([len(order)]), orders=order),
        once,
        1,
        stack=weights[np.newaxis],
        state=state.moments,
        state_steps=state.steps,
    )
    return float(losses[0, 0])


def evaluate(
    engine: Engine, weights: Weights, examples: Examples, *, rows: Rows | None = None, threads: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Loss ``float64[N]`` and correctness ``bool[N]`` of every example, or of ``rows`` of them in that order.

    An example's loss is its cross entropy, and its prediction the first largest logit; under mean squared error it
    is the mean over its values, and nothing is correct. Results do not depend on ``threads``, bit for bit.
    """
    losses, correct, _ = _evaluate(engine, weights, examples, rows, threads, outputs=False)
    return losses, correct


def predict(
    engine: Engine, weights: Weights, examples: Examples, *, rows: Rows | None = None, threads: int = 1
) -> NDArray[np.float32]:
    """The logits, or the regressed values, of every example: ``float32[N, values]``."""
    return _evaluate(engine, weights, examples, rows, threads, outputs=True)[2]


def multiply_adds(rounds: int, variant: str = "") -> float:
    """Runs ``rounds`` rounds of multiply-adds in registers on this thread; how many floating-point operations it was.

    Timed, this is the most that this core can do: what `experiments/benchmarks` measure the engine against.
    """
    return float(library.library().fedsim_multiply_adds(variant.encode(), rounds))


def _train(
    engine: Engine,
    weights: Weights,
    examples: Examples,
    clients: Cohort,
    training: LocalTraining,
    threads: int,
    slots: int = 0,
    clip: float = 0.0,
    **results: NDArray[np.float32] | NDArray[np.float64] | Rows,
) -> NDArray[np.float64]:
    """Runs a `TrainJob` that writes to ``results``, by their names in program.hpp; the losses."""
    _expect("weights", weights, np.float32, (engine.program.parameters,))
    _expect("counts", clients.counts, np.int64, (len(clients.counts),))
    if training.epochs < 1 or training.batch_size < 1:
        raise ValueError(f"epochs = {training.epochs}, batch_size = {training.batch_size}: both must be 1 or more")
    if min(clients.counts, default=0) < 0:
        raise ValueError(f"a client has {min(clients.counts)} examples; allowed: 0 or more")
    _expect("orders", clients.orders, np.int64, (int(clients.counts.sum()) * training.epochs,))
    given, kept = _examples(engine, examples)
    losses = np.empty((len(clients.counts), training.epochs), np.float64)
    job = library.TrainJob(
        weights=address(weights),
        examples=given,
        training=_training(training, int(max(clients.counts, default=1))),
        clients=len(clients.counts),
        counts=address(clients.counts),
        orders=address(clients.orders),
        threads=threads,
        slots=slots,
        clip=clip,
        losses=address(losses),
        **{name: address(array) for name, array in results.items()},
    )
    check(library.library().fedsim_train(engine.handle, ctypes.byref(job)))
    del kept
    return losses


def _evaluate(
    engine: Engine, weights: Weights, examples: Examples, rows: Rows | None, threads: int, *, outputs: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float32]]:
    _expect("weights", weights, np.float32, (engine.program.parameters,))
    order = np.arange(len(examples.labels)) if rows is None else rows
    _expect("rows", order, np.int64, (len(order),))
    given, kept = _examples(engine, examples)
    losses, correct = np.empty(len(order), np.float64), np.empty(len(order), np.bool_)
    values = np.empty((len(order), engine.program.values) if outputs else 0, np.float32)
    job = library.EvaluateJob(
        weights=address(weights),
        examples=given,
        count=len(order),
        order=address(order),
        threads=threads,
        losses=address(losses),
        correct=address(correct),
        outputs=address(values) if outputs else None,
    )
    check(library.library().fedsim_evaluate(engine.handle, ctypes.byref(job)))
    del kept
    return losses, correct, values


def _examples(engine: Engine, examples: Examples) -> tuple[library.Examples, list[NDArray[np.generic]]]:
    """The structure, and the arrays that must live as long as it does."""
    program, count = engine.program, len(examples.labels)
    inputs = np.ascontiguousarray(examples.inputs)
    if inputs.dtype.name not in ("uint8", "float32") or inputs.size != count * math.prod(program.input_shape):
        given = f"{inputs.dtype}{list(inputs.shape)}"
        raise ValueError(f"inputs are {given}; expected uint8 or float32 [{count}, {list(program.input_shape)}]")
    classes, targets = None, None
    if program.loss == 0:
        classes = np.ascontiguousarray(examples.labels, np.int64)
    else:
        targets = np.ascontiguousarray(examples.labels, np.float32)
    labels = targets if classes is None else classes
    values = 1 if classes is not None else program.values
    if labels is None or labels.size != count * values:
        raise ValueError(f"labels have shape {list(examples.labels.shape)}; expected {values} an example")
    given = library.Examples(
        inputs=address(inputs),
        inputs_are_bytes=int(inputs.dtype == np.uint8),
        classes=address(classes),
        targets=address(targets),
        rows=count,
    )
    return given, [inputs, labels]


def _training(training: LocalTraining, most: int) -> library.Training:
    """The settings; a batch is never larger than the largest client, lest memory be set aside for nothing."""
    return library.Training(
        epochs=training.epochs,
        batch_size=max(1, min(training.batch_size, most)),
        adam=int(training.optimizer == "adam"),
        epsilon_first=int(training.epsilon_form == "mps"),
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        beta1=training.beta1,
        beta2=training.beta2,
        epsilon=training.epsilon,
        proximal_mu=training.proximal_mu,
        weight_decay=training.weight_decay,
    )


def _expect(name: str, array: NDArray[np.generic], kind: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != kind or array.shape != shape or not array.flags.c_contiguous:
        expected = f"{np.dtype(kind)}{list(shape)}"
        raise ValueError(f"{name} is {array.dtype}{list(array.shape)}; expected {expected}, contiguous")
