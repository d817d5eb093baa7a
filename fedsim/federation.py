"""What follows from a config before anything runs: data, contract, who holds which examples, the initial model."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.config import ConfigError, RunConfig
from fedsim.coreml.contract import Contract, read_contract, with_training
from fedsim.coreml.weights import read_weights
from fedsim.data import partition as partitions
from fedsim.data.dataset import Dataset
from fedsim.data.partition import Shards, shards_of
from fedsim.data.partitioners import mirror, partition
from fedsim.data.population import Population, population, shards_in
from fedsim.data.sources import load
from fedsim.models.initial import initial_weights
from fedsim.models.lenet import lenet_contract
from fedsim.seeds import generator, key
from fedsim.settings import Speed, Training
from fedsim.strategy_settings import LINEAR
from fedsim.training.native import library as native
from fedsim.training.native.lower import Unsupported, lower
from fedsim.updates import LocalTraining, Weights

log = logging.getLogger("fedsim")

ALPHA = 0.5
CLASSES_PER_CLIENT = 2
EXAMPLES_PER_CLIENT = 60
PANEL = 1000
"""How many phones of a population the figures of single phones are of."""
LENET_TRAINING = {
    "sgd": LocalTraining(epochs=2, batch_size=20, optimizer="sgd", learning_rate=0.05, momentum=0.9),
    "adam": LocalTraining(epochs=2, batch_size=20, optimizer="adam", learning_rate=0.001),
}


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Everything a run needs that follows from its config: the same in the simulation, on a server, in a client.

    ``partition`` and ``test_partition`` say what the first clients hold: all of them where the data are dealt, and
    `PANEL` of them where ``population`` says what any client draws.
    """

    config: RunConfig
    dataset: Dataset
    contract: Contract
    partition: Shards
    population: Population | None
    test_partition: Shards
    initial: Weights


def training_shards(federation: Federation, clients: NDArray[np.int64]) -> Shards:
    """The training examples that ``clients`` hold, whichever way they came by them."""
    if federation.population:
        return shards_in(federation.population, clients)
    return shards_of(federation.partition, clients)


def test_shards(federation: Federation, clients: NDArray[np.int64]) -> Shards:
    """The test examples that ``clients`` hold; none outside the panel of a population."""
    tested = len(federation.test_partition.offsets) - 1
    order, offsets = federation.test_partition.order, federation.test_partition.offsets
    with_nobody = Shards(order=order, offsets=np.append(offsets, offsets[-1]))
    return shards_of(with_nobody, np.minimum(clients, tested))


def set_up(config: RunConfig, given: Dataset | None = None) -> Federation:
    """Build everything that a mistake in ``config`` can break; raises `ConfigError` for each such mistake."""
    try:
        contract = read_model(config)
        config = resolved(config, contract.training, given)
        dataset = given or load(config.data.source)
        _check_fit(contract, dataset)
        drawn = _population(config, dataset) if config.data.partition == "sampled" else None
        dealt = shards_in(drawn, _panel(config)) if drawn else _partition(config, dataset)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    aggregation = config.speed.aggregation or ("streamed" if config.strategy.name in LINEAR else "stacked")
    engine = _engine(config.speed, contract)
    speed = config.speed.model_copy(update={"engine": engine, "aggregation": aggregation})
    counts = partitions.label_counts(dealt, dataset.train.labels, dataset.classes)
    return Federation(
        config=config.model_copy(update={"speed": speed}),
        dataset=dataset,
        contract=contract,
        partition=dealt,
        population=drawn,
        test_partition=mirror(counts, dataset.test.labels, generator(config.seed, "test partition")),
        initial=first_weights(config, contract),
    )


def _partition(config: RunConfig, dataset: Dataset) -> Shards:
    return partition(
        config.data.partition,
        dataset.train.labels,
        config.federation.clients,
        generator(config.seed, "partition"),
        alpha=config.data.alpha or ALPHA,
        classes_per_client=config.data.classes_per_client or CLASSES_PER_CLIENT,
        min_examples=config.data.min_examples,
    )


def _population(config: RunConfig, dataset: Dataset) -> Population:
    return population(
        key(config.seed, "population"),
        dataset.train.labels,
        config.data.examples_per_client or EXAMPLES_PER_CLIENT,
        config.data.classes_per_client,
    )


def _panel(config: RunConfig) -> NDArray[np.int64]:
    return np.arange(min(PANEL, config.federation.clients))


def first_weights(config: RunConfig, contract: Contract) -> Weights:
    """What round 1 starts from: the weights in a contract of one's own, else fresh ones of the config's seed."""
    if config.model.contract is not None:
        return read_weights(contract.file, contract.slots)
    return initial_weights(contract, generator(config.seed, "initial weights"))


def read_model(config: RunConfig) -> Contract:
    """The contract that ``config.model`` names, with ``config.training`` as its defaults.

    Raises `ConfigError` for a file that is no contract, and for a setting that it does not allow.
    """
    given = {key: value for key, value in config.training.model_dump().items() if value is not None}
    if config.model.contract is None:
        training = replace(LENET_TRAINING[config.training.optimizer or "sgd"], **given)
        with _naming("training."):
            contract = read_contract(lenet_contract(training))
    else:
        with _naming(f"model.contract = {config.model.contract}: "):
            contract = read_contract(_read_file(config.model.contract))
        training = replace(contract.training, **given)
    if "epsilon_form" in given and training.optimizer != "adam":
        raise ConfigError(
            f"training.epsilon_form = {training.epsilon_form}: belongs to training.optimizer = adam, "
            f"not {training.optimizer}"
        )
    with _naming("training."):
        return with_training(contract, training)


@contextmanager
def _naming(prefix: str) -> Generator[None]:
    """Says of a refusal which part of the config it is about."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{prefix}{error}") from error


def _read_file(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"model.contract = {path}: cannot be read ({error.strerror})") from None


def _check_fit(contract: Contract, dataset: Dataset) -> None:
    """Whether the model can learn this data set at all; raises ValueError in words."""
    if contract.loss != "cross_entropy":
        raise ValueError(f"model.contract: its loss is {contract.loss}; a run trains classifiers, by cross_entropy")
    shape = dataset.train.inputs.shape[1:]
    if shape != contract.input_shape:
        raise ValueError(
            f"data.source: examples are {list(shape)}, and the model's input {contract.input_name} is "
            f"{list(contract.input_shape)}"
        )
    if dataset.classes > contract.classes:
        raise ValueError(f"data.source: {dataset.classes} classes, and the model tells {contract.classes} apart")


def resolved(config: RunConfig, training: LocalTraining, dataset: Dataset | None = None) -> RunConfig:
    """The config with every setting said that followed from something else; ``training`` is `read_model`'s."""
    data = config.data
    if data.partition in ("dirichlet", "quantity"):
        data = data.model_copy(update={"alpha": data.alpha or ALPHA})
    if data.partition in ("pathological", "shards"):
        data = data.model_copy(update={"classes_per_client": data.classes_per_client or CLASSES_PER_CLIENT})
    if data.partition == "sampled":
        data = data.model_copy(update={"examples_per_client": data.examples_per_client or EXAMPLES_PER_CLIENT})
    if dataset:
        data = data.model_copy(update={"source": dataset.name})
    sgd = training.optimizer == "sgd"
    settings = Training(
        epochs=training.epochs,
        batch_size=training.batch_size,
        optimizer=training.optimizer,
        learning_rate=training.learning_rate,
        momentum=training.momentum if sgd else None,
        epsilon_form=None if sgd else training.epsilon_form,
        weight_decay=training.weight_decay,
    )
    return config.model_copy(update={"data": data, "training": settings})


def _engine(speed: Speed, contract: Contract) -> Literal["native", "torch"]:
    """The engine that is asked for, or the fastest that can run the contract; raises ConfigError where neither is."""
    if speed.engine == "torch":
        return "torch"
    try:
        native.available()
        lower(contract)
    except (RuntimeError, Unsupported) as reason:
        if speed.engine == "native" or speed.cluster:
            wanted = f"cluster = {speed.cluster}" if speed.cluster else "engine = native"
            raise ConfigError(f"speed.{wanted}: {reason}") from None
        log.warning("training in torch, several times slower: %s", reason)
        return "torch"
    return "native"
