"""The strategies a config can name, each with its own parameters, as Flower names them."""

from typing import Literal, Union, get_args

from pydantic import BaseModel, ConfigDict, Field


class Table(BaseModel):
    """One TOML table: frozen, strictly typed, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FedAvg(Table):
    """McMahan et al. 2017."""

    name: Literal["FedAvg"] = "FedAvg"


class FedAvgM(Table):
    """Server momentum, Hsu et al. 2019."""

    name: Literal["FedAvgM"]
    server_learning_rate: float = Field(default=1.0, gt=0)
    server_momentum: float = Field(default=0.9, ge=0, lt=1)


class FedProx(Table):
    """Li et al. 2020; the phones implement the proximal term."""

    name: Literal["FedProx"]
    proximal_mu: float = Field(default=0.01, ge=0)


class FedAdam(Table):
    """Reddi et al. 2021; Flower's defaults."""

    name: Literal["FedAdam"]
    eta: float = Field(default=0.1, gt=0)
    eta_l: float = Field(default=0.1, gt=0)
    beta_1: float = Field(default=0.9, ge=0, lt=1)
    beta_2: float = Field(default=0.99, ge=0, lt=1)
    tau: float = Field(default=1e-3, gt=0)


class FedYogi(Table):
    """Reddi et al. 2021; Flower's defaults."""

    name: Literal["FedYogi"]
    eta: float = Field(default=0.01, gt=0)
    eta_l: float = Field(default=0.0316, gt=0)
    beta_1: float = Field(default=0.9, ge=0, lt=1)
    beta_2: float = Field(default=0.99, ge=0, lt=1)
    tau: float = Field(default=1e-3, gt=0)


class FedAdagrad(Table):
    """Reddi et al. 2021; Flower's defaults."""

    name: Literal["FedAdagrad"]
    eta: float = Field(default=0.1, gt=0)
    eta_l: float = Field(default=0.1, gt=0)
    tau: float = Field(default=1e-3, gt=0)


class QFedAvg(Table):
    """Li et al. 2020 (q-FFL). ``client_learning_rate`` is ``training.learning_rate`` where it is not given."""

    name: Literal["QFedAvg"]
    q: float = Field(default=0.1, ge=0)
    client_learning_rate: float | None = Field(default=None, gt=0)


class FedMedian(Table):
    """Yin et al. 2018."""

    name: Literal["FedMedian"]


class FedTrimmedAvg(Table):
    """Yin et al. 2018; ``beta`` is the share cut off at each end."""

    name: Literal["FedTrimmedAvg"]
    beta: float = Field(default=0.2, ge=0, lt=0.5)


class Krum(Table):
    """Blanchard et al. 2017."""

    name: Literal["Krum"]
    num_malicious_nodes: int = Field(default=0, ge=0)


class MultiKrum(Table):
    """Blanchard et al. 2017, but for the mean: Flower weighs it by the examples that phones say they hold."""

    name: Literal["MultiKrum"]
    num_malicious_nodes: int = Field(default=0, ge=0)
    num_nodes_to_select: int = Field(default=1, ge=1)


class Bulyan(Table):
    """El Mhamdi et al. 2018, but for the selection: Flower takes the best Krum scores of one round of scoring.

    The paper selects one by one, scoring anew what is left each time, and mostly selects others; its proof is of that.
    A phone that fails is missing: of fewer than ``4 * num_malicious_nodes + 3`` Flower makes no new model.
    """

    name: Literal["Bulyan"]
    num_malicious_nodes: int = Field(default=0, ge=0)


class NormClip(Table):
    """Sun et al. 2019; no update counts for more than ``clip``, in Euclidean norm."""

    name: Literal["NormClip"]
    clip: float = Field(default=3.0, gt=0)


class GeometricMedian(Table):
    """RFA, Pillutla et al. 2022; ``iterations`` of Weiszfeld's algorithm, distances ``smoothing`` at least."""

    name: Literal["GeometricMedian"]
    smoothing: float = Field(default=1e-6, gt=0)
    iterations: int = Field(default=10, ge=1)


class CentredClipping(Table):
    """Karimireddy et al. 2021; no update counts for more than ``radius`` from the round before's, in Euclidean norm."""

    name: Literal["CentredClipping"]
    radius: float = Field(default=3.0, gt=0)
    iterations: int = Field(default=1, ge=1)


Strategy = Union[  # noqa: UP007 (pyright reads the members off it below)
    FedAvg,
    FedAvgM,
    FedProx,
    FedAdam,
    FedYogi,
    FedAdagrad,
    QFedAvg,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
    Bulyan,
    NormClip,
    GeometricMedian,
    CentredClipping,
]
STRATEGY_NAMES = tuple(get_args(member.model_fields["name"].annotation)[0] for member in get_args(Strategy))
LINEAR = ("FedAvg", "FedAvgM", "FedProx", "FedAdam", "FedYogi", "FedAdagrad")
"""Those that read nothing off a cohort but the mean of its models, weighted by examples."""
