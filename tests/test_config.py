"""Every bad config in a table with its line, and what Hypothesis can say of good ones."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedsim.config import (
    ConfigError,
    RunConfig,
    command_line,
    from_flower,
    from_mapping,
    load,
    with_cluster,
)
from fedsim.strategy_settings import LINEAR, STRATEGY_NAMES

NAMES = (
    "FedAvg, FedAvgM, FedProx, FedAdam, FedYogi, FedAdagrad, QFedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum, "
    "Bulyan, NormClip, GeometricMedian or CentredClipping"
)
LINEAR_NAMES = "FedAvg, FedAvgM, FedProx, FedAdam, FedYogi or FedAdagrad"
TABLES = "seed, federation, strategy, data, model, training, privacy, poisoning, baselines, speed, output, report"

BAD = [
    (["federation.clients=ten"], "federation.clients = ten: must be a whole number"),
    (["federation.clients=0"], "federation.clients = 0: must be at least 1"),
    (["federation.clients=true"], "federation.clients = true: must be a whole number"),
    (["federation.rounds=2.5"], "federation.rounds = 2.5: must be a whole number"),
    (["federation.cohort=200"], "federation.cohort = 200: must be at most federation.clients = 100"),
    (["federation.on_client_failure=ask"], "federation.on_client_failure = ask: must be stop or continue"),
    (["seed=-1"], "seed = -1: must be at least 0"),
    (
        ["data.alhpa=0.3"],
        "data.alhpa: unknown key; did you mean alpha? allowed here: source, partition, alpha, classes_per_client, "
        "examples_per_client, min_examples",
    ),
    (
        ["data.alpha=0.3"],
        "data.alpha = 0.3: belongs to data.partition = dirichlet or quantity, and data.partition is iid",
    ),
    (["data.partition=dirichlet", "data.alpha=0"], "data.alpha = 0: must be more than 0.0"),
    (
        ["data.partition=dirichlet", "data.classes_per_client=2"],
        "data.classes_per_client = 2: belongs to data.partition = pathological, shards or sampled, "
        "and data.partition is dirichlet",
    ),
    (
        ["data.partition=diri"],
        "data.partition = diri: must be iid, dirichlet, pathological, shards, quantity or sampled",
    ),
    (["data.source=7"], "data.source = 7: must be a text"),
    (["strategy.name=FedFoo"], f"strategy.name = FedFoo: must be {NAMES}"),
    (["strategy.eta=0.1"], "strategy.eta: unknown key; allowed here: name"),
    (
        ["strategy.name=FedAdam", "strategy.server_momentum=0.1"],
        "strategy.server_momentum: unknown key; allowed here: name, eta, eta_l, beta_1, beta_2, tau",
    ),
    (["strategy.name=FedTrimmedAvg", "strategy.beta=0.5"], "strategy.beta = 0.5: must be less than 0.5"),
    (["strategy=3"], "strategy = 3: must be a table"),
    (
        ["strategy.name=Bulyan", "strategy.num_malicious_nodes=3"],
        "federation.cohort = 10: Bulyan with strategy.num_malicious_nodes = 3 needs at least 15",
    ),
    (
        ["strategy.name=Krum", "strategy.num_malicious_nodes=4"],
        "federation.cohort = 10: Krum with strategy.num_malicious_nodes = 4 needs at least 11",
    ),
    (
        ["strategy.name=MultiKrum", "strategy.num_nodes_to_select=11"],
        "strategy.num_nodes_to_select = 11: must be at most federation.cohort = 10",
    ),
    (["strategy.name=NormClip", "strategy.clip=0"], "strategy.clip = 0: must be more than 0.0"),
    (
        ["poisoning.attack=sybil"],
        "poisoning.attack = sybil: must be none, label_flip, backdoor, sign_flip, scaling, little_is_enough "
        "or inner_product",
    ),
    (["poisoning.fraction=0.1"], "poisoning.fraction: unknown key; allowed here: attack"),
    (
        ["poisoning.attack=backdoor", "poisoning.targte=1"],
        "poisoning.targte: unknown key; did you mean target? "
        "allowed here: fraction, attack, target, share, size, boost",
    ),
    (["poisoning.attack=scaling", "poisoning.fraction=1.5"], "poisoning.fraction = 1.5: must be at most 1.0"),
    (
        ["poisoning.attack=label_flip", "poisoning.source=1"],
        "poisoning.source, target = [1, null]: must be two different labels, or neither given",
    ),
    (
        ["poisoning.attack=label_flip", "poisoning.source=1", "poisoning.target=1"],
        "poisoning.source, target = [1, 1]: must be two different labels, or neither given",
    ),
    (
        ["poisoning.attack=sign_flip", "speed.aggregation=streamed"],
        "poisoning.attack = sign_flip: changes single phones' models; allowed with speed.aggregation = stacked, "
        "not streamed",
    ),
    (
        ["poisoning.attack=backdoor", "poisoning.boost=5", "speed.cluster=auto"],
        "poisoning.attack = backdoor: changes single phones' models, and the nodes of speed.cluster send sums; "
        "leave it empty",
    ),
    (
        ["privacy.epsilon=0"],
        "privacy.epsilon = 0: must be at least 0.001",
    ),
    (
        ["privacy.delta=1e-5"],
        "privacy.mechanism = central: needs privacy.epsilon, the budget, or privacy.noise_multiplier",
    ),
    (
        ["privacy.mechanism=magic"],
        "privacy.mechanism = magic: must be none, central, local, distributed, matrix or dp_sgd",
    ),
    (
        ["privacy.epsilon=8", "privacy.noise_multiplier=0"],
        "privacy.noise_multiplier = 0: spends an infinite epsilon; leave privacy.epsilon out",
    ),
    (
        ["privacy.epsilon=8", "strategy.name=FedMedian"],
        "privacy.mechanism = central: its noise covers a mean with equal weights, and FedMedian chooses or weighs "
        f"phones by what they send; allowed with {LINEAR_NAMES}",
    ),
    (
        ["privacy.epsilon=8", "privacy.delta=0.01"],
        "privacy.delta = 0.01: must be less than 1 / federation.clients = 0.01; publishing one phone's data whole "
        "would satisfy it",
    ),
    (
        ["privacy.epsilon=8", "privacy.clip_quantile=0.5"],
        "privacy.clip_quantile = 0.5: fewer than 40 phones a round cannot hide the count it takes; "
        "federation.cohort is 10",
    ),
    (
        ["privacy.mechanism=matrix", "privacy.epsilon=8", "privacy.bands=11"],
        "privacy.bands = 11: must be at most 10, the rounds between two turns of a phone, or all (federation.clients = "
        "100, federation.cohort = 10, federation.rounds = 20)",
    ),
    (
        ["privacy.mechanism=matrix", "privacy.epsilon=8", "privacy.bands=6", "federation.rounds=5"],
        "privacy.bands = 6: must be at most 5, the rounds between two turns of a phone, or all (federation.clients = "
        "100, federation.cohort = 10, federation.rounds = 5)",
    ),
    (["privacy.noise_multiplier=1e-200"], "privacy.noise_multiplier = 1e-200: must be 0 or at least 1e-06"),
    (["privacy.noise_multiplier=1e200"], "privacy.noise_multiplier = 1e+200: must be at most 1000000.0"),
    (["privacy.epsilon=1e300"], "privacy.epsilon = 1e+300: must be at most 1000000.0"),
    (["privacy.epsilon=8", "privacy.delta=1e-15"], "privacy.delta = 1e-15: must be at least 1e-12"),
    (["privacy.epsilon=8", "privacy.clip=1e-30"], "privacy.clip = 1e-30: must be at least 1e-09"),
    (
        ["privacy.epsilon=8", "privacy.clip_quantile=0.5", "privacy.clip_learning_rate=2000"],
        "privacy.clip_learning_rate = 2000: must be at most 10.0",
    ),
    (
        ["privacy.mechanism=dp_sgd", "privacy.epsilon=8", "data.partition=sampled"],
        "data.partition = sampled: may deal a phone an example twice, which privacy.mechanism = dp_sgd protects once; "
        "allowed are the other partitions",
    ),
    (
        ["privacy.mechanism=local", "privacy.epsilon=8", "privacy.sampling=poisson"],
        "privacy.sampling = poisson: must be cyclic",
    ),
    (
        ["privacy.mechanism=distributed", "privacy.epsilon=8", "privacy.sampling=fixed"],
        "privacy.sampling = fixed: must be poisson or cyclic",
    ),
    (
        ["privacy.mechanism=dp_sgd", "privacy.epsilon=8", "training.optimizer=adam"],
        "training.optimizer = adam: DP-SGD is SGD; allowed with privacy.mechanism = dp_sgd: sgd",
    ),
    (
        ["privacy.mechanism=dp_sgd", "privacy.epsilon=8", "poisoning.attack=scaling"],
        "poisoning.attack = scaling: changes what phones send, which by privacy.mechanism = dp_sgd is what they "
        "trained to",
    ),
    (
        ["privacy.epsilon=8", "speed.cluster=auto"],
        "speed.cluster = auto: nodes do not clip; allowed with privacy.mechanism = none, not central",
    ),
    (["training.learning_rate=nan"], "training.learning_rate = NaN: must be a finite number"),
    (["training.learning_rate=fast"], "training.learning_rate = fast: must be a number"),
    (["training.momentum=1"], "training.momentum = 1: must be less than 1.0"),
    (["training=3"], "training = 3: must be a table"),
    (["baselines.central=1"], "baselines.central = 1: must be true or false"),
    (["speed.engine=gpu"], "speed.engine = gpu: must be native or torch"),
    (
        ["speed.aggregation=streamed", "strategy.name=Krum"],
        "speed.aggregation = streamed: Krum needs every phone's model; "
        "allowed with FedAvg, FedAvgM, FedProx, FedAdam, FedYogi or FedAdagrad",
    ),
    (
        ["speed.cluster=10.0.0.5"],
        "speed.cluster = 10.0.0.5: must be host:port, as ray start prints it, or auto",
    ),
    (["speed.cluster=6379"], "speed.cluster = 6379: must be a text"),
    (
        ["speed.cluster=auto", "speed.engine=torch"],
        "speed.cluster = auto: nodes train in the native engine; allowed with speed.engine = native, not torch",
    ),
    (
        ["speed.cluster=auto", "speed.aggregation=stacked"],
        "speed.cluster = auto: nodes send sums; allowed with speed.aggregation = streamed, not stacked",
    ),
    (
        ["speed.cluster=auto", "strategy.name=FedMedian"],
        f"speed.cluster = auto: FedMedian needs every phone's model; allowed with {', '.join(LINEAR[:-1])} "
        f"or {LINEAR[-1]}",
    ),
    (["foo=1"], f"foo: unknown key; allowed here: {TABLES}"),
    (["sede=1"], f"sede: unknown key; did you mean seed? allowed here: {TABLES}"),
    (["seed"], "--set seed: must be key=value, such as --set data.alpha=0.3"),
    (["data..alpha=1"], "--set data..alpha=1: must be key=value, such as --set data.alpha=0.3"),
    (["seed=1", "seed.x=2"], "--set seed.x=2: seed is a value, not a table"),
    (["report.published=[{name='a'}]"], "report.published.0.source: is missing"),
]


@pytest.mark.parametrize(("overrides", "line"), BAD, ids=[" ".join(overrides) for overrides, _ in BAD])
def test_a_bad_config_is_refused_in_one_line(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(None, overrides)
    assert str(refusal.value) == line


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as refusal:
        load(None, ["seed=x", "data.alhpa=1", "training.epochs=0"])
    assert [line.split(" ")[0] for line in str(refusal.value).splitlines()] == [
        "seed",
        "data.alhpa:",
        "training.epochs",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"seed = ", "is not TOML"), (b"\xff\xfe", "is not UTF-8 text, so not TOML"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as refusal:
        load(path)
    assert str(refusal.value).startswith(str(path))


def test_a_cluster_is_put_in_and_taken_out_again() -> None:
    config = load(None, ["seed=3"])
    there = with_cluster(config, "10.0.0.5:6379")
    assert there == load(None, ["seed=3", "speed.cluster=10.0.0.5:6379"])
    assert with_cluster(there, "") == config
    with pytest.raises(ConfigError, match="host:port"):
        with_cluster(config, "somewhere")


def test_a_file_is_overridden_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('seed = 4\n[data]\npartition = "dirichlet"\nalpha = 0.1\n')
    config = load(path, ["data.alpha=0.3", "federation.clients = 20"])
    assert (config.seed, config.data.alpha, config.federation.clients) == (4, 0.3, 20)
    assert config.data.partition == "dirichlet"


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().seed = 3  # pyright: ignore[reportAttributeAccessIssue]


CONFIGS = st.builds(
    lambda **tables: from_mapping(tables),
    seed=st.integers(0, 2**62),
    federation=st.integers(10, 500).map(lambda clients: {"clients": clients}),
    strategy=st.sampled_from(STRATEGY_NAMES).map(lambda name: {"name": name}),
    data=st.one_of(
        st.fixed_dictionaries({"partition": st.just("dirichlet"), "alpha": st.floats(1e-3, 1e3)}),
        st.fixed_dictionaries({"partition": st.just("shards"), "classes_per_client": st.integers(1, 9)}),
        st.fixed_dictionaries({"source": st.text(min_size=1).filter(str.strip)}),
    ),
    report=st.text().map(lambda title: {"title": title}),
)


@given(CONFIGS)
def test_json_brings_a_config_back(config: RunConfig) -> None:
    assert from_mapping(config.model_dump(mode="json")) == config


@given(CONFIGS)
def test_its_command_brings_a_config_back(config: RunConfig) -> None:
    words = shlex.split(command_line(config))
    assert words[:2] == ["fedsim", "run"]
    assert words[2::2] == ["--set"] * (len(words) // 2 - 1)
    assert load(None, words[3::2]) == config


def test_a_published_result_survives_the_command() -> None:
    published = {"name": 'an "old" phone', "source": "it's said", "seconds": 248.0}
    config = from_mapping({"report": {"published": [published]}})
    assert load(None, shlex.split(command_line(config))[3::2]) == config


@given(CONFIGS)
def test_flowers_one_key_brings_a_config_back(config: RunConfig) -> None:
    settings = command_line(config).removeprefix("fedsim run").replace("--set ", "")
    assert from_flower({"settings": settings}) == config
