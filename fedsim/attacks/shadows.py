"""Shadow models: what an attacker trains for itself to learn how models treat what they have and have not seen."""

import numpy as np
from numpy.typing import NDArray

from fedsim.coreml.contract import Contract
from fedsim.data.dataset import Examples, batch_inputs, select
from fedsim.data.partition import Shards
from fedsim.seeds import key, words
from fedsim.training.native import engine as native
from fedsim.updates import LocalTraining, Weights

Stack = NDArray[np.float32]


def random_halves(models: int, examples: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which model trains on what, ``bool[models, examples]``: each example in ``models // 2`` of them, drawn evenly."""
    return generator.random((models, examples)).argsort(axis=0) < models // 2


def shadow_models(
    contract: Contract,
    weights: Weights,
    pool: Examples,
    members: NDArray[np.bool_],
    training: LocalTraining,
    *,
    seed: int,
    engine: native.Engine | None,
    threads: int = 1,
) -> Stack:
    """Models trained from ``weights`` on their ``members`` ``bool[K, N]`` of the ``pool``: ``float32[K, P]``.

    To the native ``engine`` they are one cohort of ``K`` phones, trained in one call; without one the torch reference
    trains them in turn, on the same batches. Model ``k`` shuffles under its own key of ``seed``, whatever ``K`` is.
    """
    rows = [np.flatnonzero(own) for own in members]
    keys = words(key(seed, "shadow models"), np.arange(len(rows)))
    if engine is not None:
        offsets = np.concatenate(([0], np.cumsum(members.sum(axis=1)))).astype(np.int64)
        cohort = native.cohort(Shards(order=np.concatenate(rows), offsets=offsets), keys, training)
        return native.train_clients(engine, weights, pool, cohort, training, threads=threads)[0]
    from fedsim.training import reference  # here, as torch takes a second that only its own attacks should pay

    stack = np.tile(weights, (len(rows), 1))
    for model, own, shuffle in zip(stack, rows, keys, strict=True):
        reference.train_client(contract, model, select(pool, own), training, shuffle)
    return stack


def logits(
    contract: Contract, stack: Stack, examples: Examples, *, engine: native.Engine | None, threads: int = 1
) -> NDArray[np.float32]:
    """What each model of ``stack`` ``[K, P]`` says of every example, ``float32[K, N, classes]``."""
    if engine is not None:
        return np.stack([native.predict(engine, model, examples, threads=threads) for model in stack])
    import torch

    from fedsim.coreml import interpret
    from fedsim.training.reference import EVALUATION_BATCH

    def predict(model: Weights) -> NDArray[np.float32]:
        parameters = interpret.parameters(contract, torch.tensor(model))
        batches = np.split(
            batch_inputs(examples.inputs), range(EVALUATION_BATCH, len(examples.labels), EVALUATION_BATCH)
        )
        found = [interpret.logits(contract, parameters, torch.from_numpy(batch)).numpy() for batch in batches]
        return np.concatenate(found)

    with torch.inference_mode():
        return np.stack([predict(model) for model in stack])
