"""The robust means that Flower lacks, as Flower strategies."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fedsim.messages import model_record, read_weights
from fedsim.robust import Stack, Vector, centred_clipping, clipped_mean, geometric_median


class RobustMean(FedAvg):
    """Flower's FedAvg, but for what a round's updates come to, which `combine` says.

    An update is what a phone's training added to the round's weights.
    """

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Flower's; the round's weights are kept until its replies are there."""
        self._weights = read_weights(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The round's weights with the combined update; nothing where no phone succeeded."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        contents = [reply.content for reply in valid]
        models = [read_weights(record) for content in contents for record in content.array_records.values()]
        update = self.combine(np.stack(models) - self._weights)
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        return model_record((self._weights + update).astype(np.float32)), metrics

    @abstractmethod
    def combine(self, updates: Stack) -> Vector:
        """What the updates ``[C, P]`` come to, ``float64[P]``."""


class NormClip(RobustMean):
    """The mean of updates of which none is longer than ``clip`` (Sun et al. 2019)."""

    def __init__(self, *, clip: float, **flower: Any) -> None:
        super().__init__(**flower)
        self.clip = clip

    def combine(self, updates: Stack) -> Vector:
        return clipped_mean(updates, np.zeros(updates.shape[1]), self.clip)


class GeometricMedian(RobustMean):
    """The updates' geometric median (RFA, Pillutla et al. 2022)."""

    def __init__(self, *, smoothing: float, iterations: int, **flower: Any) -> None:
        super().__init__(**flower)
        self.smoothing = smoothing
        self.iterations = iterations

    def combine(self, updates: Stack) -> Vector:
        return geometric_median(updates, self.smoothing, self.iterations)


class CentredClipping(RobustMean):
    """The mean of updates clipped to within ``radius`` of the round before's (Karimireddy et al. 2021).

    The paper's phones send momenta that they keep from round to round; ours begin every round afresh, and send what
    that came to. ``centre`` holds the last update, and nothing before the first.
    """

    def __init__(self, *, radius: float, iterations: int, **flower: Any) -> None:
        super().__init__(**flower)
        self.radius = radius
        self.iterations = iterations
        self.centre: list[NDArray[np.float64]] = []

    def combine(self, updates: Stack) -> Vector:
        before = self.centre[0] if self.centre else np.zeros(updates.shape[1])
        self.centre = [centred_clipping(updates, before, self.radius, self.iterations)]
        return self.centre[0]
