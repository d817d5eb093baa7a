"""The privacy mechanisms a config can name, each with its own parameters."""

from typing import Literal

from pydantic import Field

from fedsim.strategy_settings import Table

NARROWEST, WIDEST = 1e-9, 1e9
"""The clips that there are."""


class NoPrivacy(Table):
    """Nothing is promised."""

    mechanism: Literal["none"] = "none"


class Budget(Table):
    """What every mechanism has: how much privacy is spent, and on what scale.

    ``epsilon`` and ``delta`` are the budget for the whole run, for which noise is calibrated; ``noise_multiplier`` is
    the standard deviation of the noise in multiples of ``clip``, for those who know it. With both, the run stops before
    its budget is exceeded; a multiplier of 0 clips and promises nothing. ``clip`` is the most that one unit's update
    may measure, in Euclidean norm. What is out of these bounds no accountant can count.
    """

    epsilon: float | None = Field(default=None, ge=1e-3, le=1e6)
    delta: float = Field(default=1e-5, ge=1e-12, lt=1)
    noise_multiplier: float | None = Field(default=None, ge=0, le=1e6)
    clip: float = Field(default=0.2, ge=NARROWEST, le=WIDEST)


class Central(Budget):
    """The server adds Gaussian noise to the sum of clipped updates (McMahan et al. 2018).

    With ``clip_quantile`` the clip follows that quantile of the updates' norms (Andrew et al. 2021), at
    ``clip_learning_rate``, and ``clip`` is where it begins.
    """

    mechanism: Literal["central"] = "central"
    sampling: Literal["poisson", "fixed", "cyclic"] = "poisson"
    clip_quantile: float | None = Field(default=None, gt=0, lt=1)
    clip_learning_rate: float = Field(default=0.2, gt=0, le=10)


class Local(Budget):
    """Each phone adds Gaussian noise to its own clipped update; the server may see each of them."""

    mechanism: Literal["local"]
    sampling: Literal["cyclic"] = "cyclic"


class Distributed(Budget):
    """Each phone adds a share of Skellam noise to a vector of ``bits``-bit integers, of which only sums are opened.

    Agarwal et al. 2021.
    """

    mechanism: Literal["distributed"]
    sampling: Literal["poisson", "cyclic"] = "poisson"
    bits: int = Field(default=16, ge=8, le=32)


class MatrixFactorisation(Budget):
    """The server's noise of one round takes back part of the rounds' before (Choquette-Choo et al. 2023).

    The whole run is one release, so that with both epsilon and multiplier all rounds are allowed or none.

    ``bands`` is over how many rounds it does so, at most the rounds between two turns of one phone; all of these, or
    64, where it is not given.
    """

    mechanism: Literal["matrix"]
    sampling: Literal["cyclic"] = "cyclic"
    bands: int | None = Field(default=None, ge=1)


class DpSgd(Budget):
    """Each phone trains by DP-SGD (Abadi et al. 2016), which protects examples: ``clip`` is of their gradients."""

    mechanism: Literal["dp_sgd"]
    sampling: Literal["cyclic"] = "cyclic"


Mechanism = Central | Local | Distributed | MatrixFactorisation | DpSgd
Privacy = NoPrivacy | Mechanism
