"""The strategy a config names, Flower's own wherever it has one, and the wrapper that lets any strategy resume."""

import logging
import random
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedsim import robust_strategies
from fedsim.config import RunConfig
from fedsim.privacy_settings import NoPrivacy
from fedsim.seeds import flower_sampling

Scalar = bool | int | float | str


def build_strategy(config: RunConfig, learning_rate: float) -> Strategy:
    """The strategy that ``config.strategy`` names, set to draw ``federation.cohort`` phones a round.

    It is Flower's own, unmodified, or one of `robust_strategies` where Flower has none of that name. Phones are not
    asked to evaluate: the run evaluates the model once, centrally, and reads every client's accuracy off that pass.
    ``learning_rate`` is the phones', which QFedAvg needs to know. Where aggregation is streamed or private, the
    strategy meets one node, which stands for the cohort.
    """
    one = config.speed.aggregation == "streamed" or not isinstance(config.privacy, NoPrivacy)
    clients, cohort = (1, 1) if one else (config.federation.clients, config.federation.cohort)
    parameters: dict[str, Any] = config.strategy.model_dump(exclude={"name"})
    if parameters.get("client_learning_rate", 1.0) is None:
        parameters["client_learning_rate"] = learning_rate
    name = config.strategy.name
    with _flower_says_nothing():  # it would warn that nobody evaluates
        return getattr(flower if hasattr(flower, name) else robust_strategies, name)(
            fraction_train=cohort / clients,  # floored by Flower; min_train_nodes says it exactly
            min_train_nodes=cohort,
            min_available_nodes=cohort,
            fraction_evaluate=0.0,
            **parameters,
        )


def draw_cohort(seed: int, number: int, clients: int, cohort: int) -> NDArray[np.int64]:
    """The ``cohort`` of ``clients`` that round ``number`` trains, ``int64[cohort]``: those a stock strategy samples.

    The work does not grow with ``clients``.
    """
    with flower_sampling(seed, "cohort train", number):
        return np.array(random.sample(range(clients), cohort), np.int64)


@contextmanager
def _flower_says_nothing() -> Generator[None]:
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class ResumableStrategy(Strategy):
    """Any Flower strategy, able to begin at a later round, with cohorts that depend on seed and round alone.

    Flower's ``Strategy.start`` numbers its rounds from 1, cannot resume, draws cohorts from the global ``random``
    and keeps a server optimizer's moments inside the strategy. This wrapper uses only the public `Strategy`
    interface to mend that: it passes ``server_round + first_round - 1`` on (FedAdam's bias correction depends on
    it), draws each cohort under a key of its own (`seeds.flower_sampling`), and `state` and `restore` save and put
    back the moments. ``start`` itself is Flower's.

    ``on_replies(round, phase, messages, replies)`` sees every phase before the strategy aggregates it, and may
    raise to stop the run.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        seed: int,
        first_round: int = 1,
        on_replies: Callable[[int, str, list[Message], list[Message]], None],
    ) -> None:
        self.strategy = strategy
        self.seed = seed
        self.first_round = first_round
        self.on_replies = on_replies
        self._sent: list[Message] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Flower's, under this round's own key."""
        return self._configure("train", self.strategy.configure_train, server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Flower's, under this round's own key."""
        return self._configure("evaluate", self.strategy.configure_evaluate, server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Flower's, after ``on_replies`` has seen the replies."""
        return self.strategy.aggregate_train(*self._receive("train", server_round, replies))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Flower's, after ``on_replies`` has seen the replies."""
        return self.strategy.aggregate_evaluate(*self._receive("evaluate", server_round, replies))

    def summary(self) -> None:
        """Flower's."""
        self.strategy.summary()

    def _configure(
        self,
        phase: str,
        configure: Callable[[int, ArrayRecord, ConfigRecord, Grid], Iterable[Message]],
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> list[Message]:
        number = self._round(server_round)
        with flower_sampling(self.seed, f"cohort {phase}", number):
            self._sent = list(configure(number, arrays, config, grid))
        return self._sent

    def _receive(self, phase: str, server_round: int, replies: Iterable[Message]) -> tuple[int, list[Message]]:
        number, received = self._round(server_round), list(replies)
        self.on_replies(number, phase, self._sent, received)
        self._sent = []
        return number, received

    def _round(self, server_round: int) -> int:
        return server_round + self.first_round - 1


def state(strategy: Strategy) -> tuple[dict[str, NDArray[Any]], dict[str, Scalar]]:
    """Whatever a strategy carries from round to round: its arrays by ``kind:attribute:key``, and its scalars.

    Read off the strategy's attributes: an `ArrayRecord`, a dictionary or a list of arrays, a number, a text.
    What is of another kind (functions, settings objects) must be the same in every strategy of its config.
    """
    arrays: dict[str, NDArray[Any]] = {}
    scalars: dict[str, Scalar] = {}
    for name, value in vars(strategy).items():
        if isinstance(value, ArrayRecord):
            arrays |= {f"record:{name}:{key}": array.numpy() for key, array in value.items()}
        elif isinstance(value, dict) and value and all(isinstance(part, np.ndarray) for part in value.values()):
            arrays |= {f"dict:{name}:{key}": part for key, part in value.items()}
        elif isinstance(value, list) and value and all(isinstance(part, np.ndarray) for part in value):
            arrays |= {f"list:{name}:{index}": part for index, part in enumerate(value)}
        elif isinstance(value, Scalar):
            scalars[name] = value
    return arrays, scalars


def restore(strategy: Strategy, arrays: Mapping[str, NDArray[Any]], scalars: Mapping[str, Scalar]) -> None:
    """Put back what `state` read, bit for bit, into a strategy built from the same config."""
    parts: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
    for path, array in arrays.items():
        kind, name, key = path.split(":", 2)
        parts.setdefault((kind, name), {})[key] = array
    for (kind, name), values in parts.items():
        setattr(strategy, name, _assemble(kind, values))
    for name, value in scalars.items():
        setattr(strategy, name, value)


def _assemble(kind: str, values: dict[str, NDArray[Any]]) -> Any:
    if kind == "record":
        return ArrayRecord({key: Array(value) for key, value in values.items()})
    return values if kind == "dict" else [values[str(index)] for index in range(len(values))]


def exact_arrays(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """A record's arrays in their own dtype: what a checkpoint keeps, since FedAdam's model is ``float64``."""
    return {key: array.numpy() for key, array in record.items()}
