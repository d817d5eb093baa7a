"""What follows from a config before anything runs: data, contract, who holds which examples, the initial model."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.attacks.poisoning import colluders, poisoned
from fedsim.config import ConfigError, RunConfig
from fedsim.coreml.contract import Contract, read_contract, with_training
from fedsim.coreml.weights import read_weights
from fedsim.data import partition as partitions
from fedsim.data.dataset import Dataset, Examples
from fedsim.data.partition import Shards, shards_of, sizes
from fedsim.data.partitioners import mirror, partition
from fedsim.data.population import Population, population, shards_in
from fedsim.data.sources import load
from fedsim.models.initial import initial_weights
from fedsim.models.networks import NETWORKS
from fedsim.poisoning_settings import Backdoor, LabelFlip, NoPoisoning, forges_updates
from fedsim.privacy.plan import Plan, plan
from fedsim.seeds import generator, key, words
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


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Everything a run needs that follows from its config: the same in the simulation, on a server, in a client.

    ``partition`` and ``test_partition`` say what the first clients hold: all of them where the data are dealt, and
    `PANEL` of them where ``population`` says what any client draws. ``malicious`` clients, ``int64[...]`` ascending,
    do what ``config.poisoning`` says; all else here is as if they were honest. ``plan`` is what privacy comes to
    (`with_plan`).
    """

    config: RunConfig
    dataset: Dataset
    contract: Contract
    partition: Shards
    population: Population | None
    test_partition: Shards
    malicious: NDArray[np.int64]
    initial: Weights
    plan: Plan | None = None


def with_plan(federation: Federation) -> Federation:
    """The federation with the plan of its privacy, and no more rounds than the budget allows; takes seconds if any.

    Raises `ConfigError` where the budget does not allow one round.
    """
    config = federation.config
    try:
        planned = plan(config, federation.contract.parameters, sizes(federation.partition))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if planned is None:
        return federation
    if planned.rounds < planned.asked:
        log.warning("the privacy budget allows %d of %d rounds", planned.rounds, planned.asked)
    rounds = config.federation.model_copy(update={"rounds": planned.rounds})
    return replace(federation, config=config.model_copy(update={"federation": rounds}), plan=planned)


def training_shards(federation: Federation, clients: NDArray[np.int64]) -> Shards:
    """The rows of `training_examples` that ``clients`` hold, whichever way they came by them."""
    drawn = federation.population
    held = shards_in(drawn, clients) if drawn else shards_of(federation.partition, clients)
    if not isinstance(federation.config.poisoning, LabelFlip | Backdoor):
        return held
    malicious = np.repeat(np.isin(clients, federation.malicious), sizes(held))
    marked = malicious & _is_marked(federation.config, held.order)
    return Shards(order=held.order + marked * len(federation.dataset.train.labels), offsets=held.offsets)


def training_examples(federation: Federation) -> Examples:
    """The training set; where malicious phones change theirs, followed by all of it as they would have it.

    So a changed example takes its own place in what a phone holds, and in its batches.
    """
    attack, dataset = federation.config.poisoning, federation.dataset
    if not isinstance(attack, LabelFlip | Backdoor):
        return dataset.train
    clean, changed = dataset.train, poisoned(attack, dataset.train, dataset.classes)
    inputs: Any = np.concatenate([clean.inputs, changed.inputs])
    return Examples(inputs=inputs, labels=np.concatenate([clean.labels, changed.labels]))


def _is_marked(config: RunConfig, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these examples a malicious phone would change: each with the share's chance, whoever holds it."""
    share = config.poisoning.share if isinstance(config.poisoning, Backdoor) else 1.0
    return words(key(config.seed, "marked examples"), rows) / 2.0**64 < share


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
        _check_attack(config, dataset)
        drawn = _population(config, dataset) if config.data.partition == "sampled" else None
        dealt = shards_in(drawn, _panel(config)) if drawn else _partition(config, dataset)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    streamable = config.strategy.name in LINEAR and not forges_updates(config.poisoning)
    aggregation = config.speed.aggregation or ("streamed" if streamable else "stacked")
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
        malicious=_malicious(config),
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


def _malicious(config: RunConfig) -> NDArray[np.int64]:
    fraction = 0.0 if isinstance(config.poisoning, NoPoisoning) else config.poisoning.fraction
    return colluders(config.federation.clients, fraction, generator(config.seed, "malicious clients"))


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
        network = NETWORKS[config.model.name]
        training = replace(network.training[config.training.optimizer or "sgd"], **given)
        with _naming("training."):
            contract = read_contract(network.contract(training))
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


def _check_attack(config: RunConfig, dataset: Dataset) -> None:
    """Whether what the attack is about exists in this data set; raises ValueError in words."""
    attack, shape = config.poisoning, dataset.test.inputs.shape[1:]
    if not isinstance(attack, LabelFlip | Backdoor):
        return
    labels = {"target": attack.target, **({"source": attack.source} if isinstance(attack, LabelFlip) else {})}
    for name, label in labels.items():
        if label is not None and label not in dataset.test.labels:
            raise ValueError(f"poisoning.{name} = {label}: no test example of {dataset.name} has this label")
    if isinstance(attack, Backdoor) and (len(shape) < 2 or attack.size > min(shape[-2:])):
        raise ValueError(
            f"poisoning.size = {attack.size}: the trigger must fit into an example, and these are {list(shape)}"
        )


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
