"""Settings that are each allowed but cannot hold together."""

from collections.abc import Iterable

from fedsim.mistakes import one_of, shown
from fedsim.poisoning_settings import LabelFlip, Poisoning, forges_updates
from fedsim.privacy_settings import Central, DpSgd, MatrixFactorisation, NoPrivacy, Privacy
from fedsim.settings import Data, Federation, Speed, Training
from fedsim.strategy_settings import LINEAR, Bulyan, Krum, MultiKrum, Strategy

FEWEST_FOR_ADAPTIVE_CLIP = 40
LEAST_NOISE = 1e-6


def impossible(
    federation: Federation,
    data: Data,
    strategy: Strategy,
    training: Training,
    speed: Speed,
    privacy: Privacy,
    poisoning: Poisoning,
) -> Iterable[str]:
    """Every pair of settings that cannot both hold, in a line each."""
    if federation.cohort > federation.clients:
        yield f"federation.cohort = {federation.cohort}: must be at most federation.clients = {federation.clients}"
    yield from _of_another_scheme(data)
    if speed.aggregation == "streamed" and strategy.name not in LINEAR:
        yield f"speed.aggregation = streamed: {strategy.name} needs every phone's model; allowed with {one_of(LINEAR)}"
    if speed.cluster:
        yield from _on_a_cluster(speed, strategy, privacy)
    yield from _too_few_for(strategy, federation.cohort)
    yield from _no_such_attack(poisoning, speed, privacy)
    if not isinstance(privacy, NoPrivacy):
        yield from _void(privacy, federation, data, strategy)
    if isinstance(privacy, DpSgd) and training.optimizer not in (None, "sgd"):
        yield f"training.optimizer = {training.optimizer}: DP-SGD is SGD; allowed with privacy.mechanism = dp_sgd: sgd"


def _of_another_scheme(data: Data) -> Iterable[str]:
    for key, schemes in (
        ("alpha", ("dirichlet", "quantity")),
        ("classes_per_client", ("pathological", "shards", "sampled")),
        ("examples_per_client", ("sampled",)),
    ):
        if (value := getattr(data, key)) is not None and data.partition not in schemes:
            yield (
                f"data.{key} = {value}: belongs to data.partition = {one_of(schemes)}, "
                f"and data.partition is {data.partition}"
            )


def _on_a_cluster(speed: Speed, strategy: Strategy, privacy: Privacy) -> Iterable[str]:
    given = f"speed.cluster = {speed.cluster}"
    _, colon, port = speed.cluster.rpartition(":")
    if speed.cluster != "auto" and not (colon and port.isdecimal()):
        yield f"{given}: must be host:port, as ray start prints it, or auto"
    if speed.engine == "torch":
        yield f"{given}: nodes train in the native engine; allowed with speed.engine = native, not torch"
    if speed.aggregation == "stacked":
        yield f"{given}: nodes send sums; allowed with speed.aggregation = streamed, not stacked"
    if strategy.name not in LINEAR:
        yield f"{given}: {strategy.name} needs every phone's model; allowed with {one_of(LINEAR)}"
    if not isinstance(privacy, NoPrivacy):
        yield f"{given}: nodes do not clip; allowed with privacy.mechanism = none, not {privacy.mechanism}"


def _too_few_for(strategy: Strategy, cohort: int) -> Iterable[str]:
    if isinstance(strategy, Krum | MultiKrum | Bulyan):
        times = 4 if isinstance(strategy, Bulyan) else 2
        needed = times * strategy.num_malicious_nodes + 3
        if cohort < needed:
            yield (
                f"federation.cohort = {cohort}: {strategy.name} with strategy.num_malicious_nodes = "
                f"{strategy.num_malicious_nodes} needs at least {needed}"
            )
    if isinstance(strategy, MultiKrum) and strategy.num_nodes_to_select > cohort:
        yield (
            f"strategy.num_nodes_to_select = {strategy.num_nodes_to_select}: must be at most "
            f"federation.cohort = {cohort}"
        )


def _no_such_attack(poisoning: Poisoning, speed: Speed, privacy: Privacy) -> Iterable[str]:
    pair = (poisoning.source, poisoning.target) if isinstance(poisoning, LabelFlip) else (None, None)
    if pair != (None, None) and (None in pair or pair[0] == pair[1]):
        yield f"poisoning.source, target = {shown(pair)}: must be two different labels, or neither given"
    if not forges_updates(poisoning):
        return
    given = f"poisoning.attack = {poisoning.attack}"
    if speed.aggregation == "streamed":
        yield f"{given}: changes single phones' models; allowed with speed.aggregation = stacked, not streamed"
    if speed.cluster:
        yield f"{given}: changes single phones' models, and the nodes of speed.cluster send sums; leave it empty"
    if isinstance(privacy, DpSgd):
        yield f"{given}: changes what phones send, which by privacy.mechanism = dp_sgd is what they trained to"


def _void(privacy: Privacy, federation: Federation, data: Data, strategy: Strategy) -> Iterable[str]:
    """What would make the epsilon that a run states untrue."""
    given = f"privacy.mechanism = {privacy.mechanism}"
    if isinstance(privacy, NoPrivacy):
        return
    if privacy.epsilon is None and privacy.noise_multiplier is None:
        yield f"{given}: needs privacy.epsilon, the budget, or privacy.noise_multiplier"
    if privacy.epsilon is not None and privacy.noise_multiplier == 0:
        yield "privacy.noise_multiplier = 0: spends an infinite epsilon; leave privacy.epsilon out"
    if privacy.noise_multiplier and privacy.noise_multiplier < LEAST_NOISE:
        yield f"privacy.noise_multiplier = {privacy.noise_multiplier}: must be 0 or at least {LEAST_NOISE:g}"
    if strategy.name not in LINEAR:
        yield (
            f"{given}: its noise covers a mean with equal weights, and {strategy.name} chooses or weighs phones by "
            f"what they send; allowed with {one_of(LINEAR)}"
        )
    if not isinstance(privacy, DpSgd) and privacy.delta >= 1 / federation.clients:
        yield (
            f"privacy.delta = {privacy.delta}: must be less than 1 / federation.clients = {1 / federation.clients:g}; "
            "publishing one phone's data whole would satisfy it"
        )
    if isinstance(privacy, Central) and privacy.clip_quantile and federation.cohort < FEWEST_FOR_ADAPTIVE_CLIP:
        yield (
            f"privacy.clip_quantile = {privacy.clip_quantile}: fewer than {FEWEST_FOR_ADAPTIVE_CLIP} phones a round "
            f"cannot hide the count it takes; federation.cohort is {federation.cohort}"
        )
    most = min(federation.clients // max(1, federation.cohort), federation.rounds)
    if isinstance(privacy, MatrixFactorisation) and privacy.bands and privacy.bands > most:
        yield (
            f"privacy.bands = {privacy.bands}: must be at most {most}, the rounds between two turns of a phone, or all "
            f"(federation.clients = {federation.clients}, federation.cohort = {federation.cohort}, federation.rounds = "
            f"{federation.rounds})"
        )
    if isinstance(privacy, DpSgd) and data.partition == "sampled":
        yield (
            f"data.partition = sampled: may deal a phone an example twice, which {given} protects once; allowed are "
            "the other partitions"
        )
