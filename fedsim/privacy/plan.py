"""What a config's privacy comes to: the noise, the rounds that the budget allows, the epsilon, and who takes part."""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedsim.config import RunConfig
from fedsim.privacy import sampling
from fedsim.privacy.accounting import Releases, epsilon, epsilon_by_round, rounds_within
from fedsim.privacy.calibration import calibrate
from fedsim.privacy.clipping import SHARE_OF_COHORT, split_noise
from fedsim.privacy.distributed import Encoding, encoding
from fedsim.privacy.factorisation import optimised, row_lengths, sensitivity
from fedsim.privacy.skellam import IntegerVectors
from fedsim.privacy_settings import Central, Distributed, DpSgd, Local, MatrixFactorisation, Mechanism, NoPrivacy
from fedsim.settings import Federation

Real = NDArray[np.float64]

MOST_BANDS = 64
"""How many rounds' noise is kept in memory where nobody says."""
CLOSE_TO_BUDGET = 0.999
"""A calibrated run spends at least this share of its budget."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A private run before it begins.

    ``rounds`` is how many may be played, of ``asked`` that were wanted; ``epsilon_by_round`` is what is spent after
    each, ``float64[rounds]``. ``releases`` is what the accountant was told of the whole run. ``deviations`` are the
    standard deviations of the noise on each number of a round's sum of updates, in clips, ``float64[rounds]``; ``nan``
    under DP-SGD, whose noise is in steps. ``bands`` are the entries of a factorisation, a single 1 where the noise of
    rounds is independent.
    """

    settings: Mechanism
    seed: int
    clients: int
    cohort: int
    parameters: int
    asked: int
    rounds: int
    noise_multiplier: float
    epsilon_by_round: Real
    releases: Releases
    deviations: Real
    bands: Real
    encoding: Encoding | None


def plan(config: RunConfig, parameters: int, examples: NDArray[np.int64]) -> Plan | None:
    """The plan of ``config.privacy`` for a model of ``parameters`` weights, or None where nothing is promised.

    ``examples`` is how many each phone holds, ``int64[C]``, by which DP-SGD costs them differently: what is said is
    said of the worst. Noise that is not given is calibrated, in seconds. DP-SGD needs a batch size and epochs given.
    The plan of as many rounds as a plan allows is that plan, but for what was asked.

    Raises ``ValueError``, in one line, where the budget does not allow a single round, numbers have too few bits, or
    the noise is too much for the count that an adaptive clip takes.
    """
    settings, size = config.privacy, config.federation
    if isinstance(settings, NoPrivacy):
        return None
    bands, encoded = _bands(settings, size), None
    told = _releases(settings, config, examples, bands)
    noise = settings.noise_multiplier
    if isinstance(settings, Distributed):
        noise, encoded = _distributed(settings, size, parameters, told[0])
        told = [replace(told[0], integers=integer_vectors(encoded))]
    if noise is None:
        noise = _moves(settings) * _calibrated(_budget(settings), settings.delta, told)
    told = [replace(one, noise_multiplier=noise / _moves(settings)) for one in told]
    rounds = size.rounds
    if settings.epsilon is not None and settings.noise_multiplier is not None:
        rounds = min(_rounds_within(settings, size, one) for one in told)
    if not rounds:
        raise ValueError(
            f"privacy.epsilon = {settings.epsilon}: does not allow {_fewest(settings, size)} at "
            f"privacy.noise_multiplier = {noise}; allowed are more of either"
        )
    if rounds < size.rounds:
        shorter = config.model_copy(update={"federation": size.model_copy(update={"rounds": rounds})})
        cut = plan(shorter, parameters, examples)
        return cut and replace(cut, asked=size.rounds)
    spent = [epsilon_by_round(one, settings.delta, _counted(settings, size, one)) for one in told]
    return Plan(
        settings=settings,
        seed=config.seed,
        clients=size.clients,
        cohort=size.cohort,
        parameters=parameters,
        asked=size.rounds,
        rounds=rounds,
        noise_multiplier=noise,
        epsilon_by_round=np.max(spent, axis=0),
        releases=told[int(np.argmax([one[-1] for one in spent]))],
        deviations=_deviations(settings, size, noise, bands),
        bands=bands,
        encoding=encoded,
    )


def with_room(plan: Plan, phones: int) -> Plan:
    """The plan with room for so many ``phones`` more in a sum of whole numbers, and with what its coarser steps cost.

    The same one where no such sum is formed. Raises ``ValueError`` where numbers have too few bits.
    """
    if plan.encoding is None:
        return plan
    wider = encoding(
        clip=plan.encoding.clip,
        dimension=plan.encoding.dimension,
        bits=plan.encoding.bits,
        cohort=plan.encoding.cohort + phones,
        rounds=plan.rounds,
        noise_multiplier=plan.noise_multiplier,
    )
    releases = replace(plan.releases, integers=integer_vectors(wider))
    spent = epsilon_by_round(releases, plan.settings.delta)
    return replace(plan, encoding=wider, releases=releases, epsilon_by_round=spent)


def draw(plan: Plan, number: int) -> NDArray[np.int64]:
    """The clients of round ``number``, ascending: under Poisson sampling any number of them, or nobody."""
    draws = {"poisson": sampling.poisson, "fixed": sampling.fixed, "cyclic": sampling.cyclic}
    return draws[plan.settings.sampling](plan.seed, number, plan.clients, plan.cohort)


def participations(plan: Plan) -> int:
    """In how many rounds a client can take part at most; the cap that turns set, and all of them where coins decide."""
    if plan.settings.sampling != "cyclic":
        return plan.rounds
    return sampling.participations(plan.clients, plan.cohort, plan.rounds)


def noise_to_clip(plan: Plan) -> float | None:
    """The length of the noise in a round's mean, in clips, and in quadratic mean over the rounds; None under DP-SGD.

    Above about 1 a round is mostly noise, and only many rounds, or momentum, find the signal in it.
    """
    if isinstance(plan.settings, DpSgd):
        return None
    return float(np.sqrt(plan.parameters * np.square(plan.deviations).mean()) / plan.cohort)


def noise_id(plan: Plan) -> str:
    """The SHA-256 of all that a run's noise depends on and its config does not tell, such as a calibration."""
    numbers = (plan.rounds, plan.noise_multiplier, plan.bands.tolist(), plan.encoding)
    return hashlib.sha256(repr(numbers).encode()).hexdigest()


def integer_vectors(encoded: Encoding) -> IntegerVectors:
    """What the accountant must know of an encoding, in whose steps the noise multiplier counts."""
    return IntegerVectors(l2=encoded.l2, l1=encoded.l1)


def _budget(settings: Mechanism) -> float:
    assert settings.epsilon is not None  # a config without noise_multiplier has it
    return settings.epsilon


def _moves(settings: Mechanism) -> int:
    """How many clips apart two updates are that must look alike: what a phone sends by itself hides which it was."""
    return 2 if isinstance(settings, Local) else 1


def _calibrated(budget: float, delta: float, told: list[Releases]) -> float:
    """The least noise multiplier with which none of ``told`` spends more than its budget."""
    noise = 0.0
    for one in told:
        begun = replace(one, noise_multiplier=noise)
        if epsilon(begun, delta) > budget:
            noise = calibrate(budget, delta, begun)
    return noise


def _deviations(settings: Mechanism, size: Federation, noise_multiplier: float, bands: Real) -> Real:
    """`Plan.deviations`."""
    each = noise_multiplier
    if isinstance(settings, Central) and settings.clip_quantile is not None:
        each = split_noise(noise_multiplier, SHARE_OF_COHORT * size.cohort)
    elif isinstance(settings, Local):
        each *= math.sqrt(size.cohort)
    elif isinstance(settings, DpSgd):
        each = math.nan
    return each * row_lengths(bands, size.rounds)


def _fewest(settings: Mechanism, size: Federation) -> str:
    """The rounds that a budget allows together or not at all."""
    return f"federation.rounds = {size.rounds}" if isinstance(settings, MatrixFactorisation) else "one round"


def _bands(settings: Mechanism, size: Federation) -> Real:
    if not isinstance(settings, MatrixFactorisation):
        return np.ones(1)
    separation = sampling.separation(size.clients, size.cohort)
    count = settings.bands or min(separation, size.rounds, MOST_BANDS)
    turns = sampling.participations(size.clients, size.cohort, size.rounds)
    return optimised(count, size.rounds, turns, separation)


def _releases(settings: Mechanism, config: RunConfig, examples: NDArray[np.int64], bands: Real) -> list[Releases]:
    """What the accountant is told, but for the noise; under DP-SGD once for phones of each number of batches."""
    size, training = config.federation, config.training
    if isinstance(settings, DpSgd):
        if training.optimizer == "adam":
            raise ValueError(
                "training.optimizer = adam, the model's own: DP-SGD is SGD; "
                "allowed with privacy.mechanism = dp_sgd: sgd"
            )
        most = int(examples.max())
        if settings.delta >= 1 / most:
            raise ValueError(
                f"privacy.delta = {settings.delta}: must be less than 1 in the {most} examples of a phone; publishing "
                "one of them whole would satisfy it"
            )
        assert training.epochs
        assert training.batch_size
        turns = sampling.participations(size.clients, size.cohort, size.rounds)
        steps = sorted({sampling.batches(held, training.batch_size) for held in examples.tolist() if held})
        one = Releases(noise_multiplier=0, rounds=turns * training.epochs, cohort=1, population=1, sampling="poisson")
        return [replace(one, rounds=one.rounds * batches, population=batches) for batches in steps]
    moved = None
    if len(bands) > 1:
        turns = sampling.participations(size.clients, size.cohort, size.rounds)
        moved = sensitivity(bands, size.rounds, turns, sampling.separation(size.clients, size.cohort))
    return [
        Releases(
            noise_multiplier=0,
            rounds=size.rounds,
            cohort=size.cohort,
            population=size.clients,
            sampling=settings.sampling,
            sensitivity=moved,
        )
    ]


def _counted(settings: Mechanism, size: Federation, told: Releases) -> NDArray[np.int64]:
    """How many rounds the accountant counts after each of ours: DP-SGD's are the steps of the phone's turns."""
    rounds = np.arange(1, size.rounds + 1)
    if not isinstance(settings, DpSgd):
        return rounds
    turns = np.array([sampling.participations(size.clients, size.cohort, number) for number in rounds.tolist()])
    return turns * (told.rounds // int(turns[-1]))


def _rounds_within(settings: Mechanism, size: Federation, told: Releases) -> int:
    """How many of our rounds the budget allows."""
    allowed = rounds_within(_budget(settings), settings.delta, told)
    return int(np.searchsorted(_counted(settings, size, told), allowed, side="right"))


def _distributed(
    settings: Distributed, size: Federation, parameters: int, releases: Releases
) -> tuple[float, Encoding]:
    """The noise multiplier and the encoding, each of which depends on the other, though little."""
    most = size.cohort
    if settings.sampling == "poisson":
        _check_that_somebody_comes(settings, size)
        most = sampling.largest_cohort(size.clients, size.cohort, size.rounds)
    shape = {"clip": settings.clip, "dimension": parameters, "bits": settings.bits, "cohort": most}
    encode = partial(encoding, **shape, rounds=size.rounds)
    if settings.noise_multiplier is not None:
        return settings.noise_multiplier, encode(noise_multiplier=settings.noise_multiplier)
    noise, budget, attempt = 1.0, _budget(settings), 0
    while True:
        encoded = encode(noise_multiplier=noise)
        told = replace(releases, noise_multiplier=noise, integers=integer_vectors(encoded))
        if CLOSE_TO_BUDGET * budget <= epsilon(told, settings.delta) <= budget:
            return noise, encoded
        attempt += 1
        noise = calibrate(budget, settings.delta, told) * (1 + 1e-5 * attempt)


def _check_that_somebody_comes(settings: Distributed, size: Federation) -> None:
    """Noise that phones bring is missing where none comes, and that a round is empty would tell of the one who did."""
    empty = size.rounds * (1 - size.cohort / size.clients) ** (size.clients - 1)
    if empty > settings.delta / 1000:
        raise ValueError(
            f"federation.cohort = {size.cohort}: a round without phones, which would be without noise, is too likely "
            f"({empty:.1g} in {size.rounds} rounds); allowed are larger cohorts, or privacy.mechanism = central"
        )
