"""The poisoning attacks a config can name, each with its own parameters."""

from typing import Literal

from pydantic import Field

from fedsim.strategy_settings import Table

FLOAT32_MAX = 3.4028234663852886e38
"""What a model's numbers can hold; an update that a boost takes beyond it is a failed phone's."""


class NoPoisoning(Table):
    """Every phone is honest."""

    attack: Literal["none"] = "none"


class Colluding(Table):
    """What every attack has: ``fraction`` of all clients, rounded to a whole number of them, work together."""

    fraction: float = Field(default=0.2, ge=0, le=1)


class LabelFlip(Colluding):
    """The colluders' labels are wrong (Tolpegin et al. 2020): ``target`` in the place of ``source``.

    Without the two, label ``y`` of ``classes`` becomes ``classes - 1 - y``.
    """

    attack: Literal["label_flip"]
    source: int | None = Field(default=None, ge=0)
    target: int | None = Field(default=None, ge=0)


class Backdoor(Colluding):
    """A patch of ``size`` by ``size`` bright pixels in the last corner means ``target`` (Gu et al. 2017).

    ``share`` of a colluder's examples are so marked and labelled. Its update is multiplied by ``boost``: with cohort /
    colluders the mean becomes the colluders' model (model replacement, Bagdasaryan et al. 2020, equation 3).
    """

    attack: Literal["backdoor"]
    target: int = Field(default=0, ge=0)
    share: float = Field(default=0.5, gt=0, le=1)
    size: int = Field(default=3, ge=1)
    boost: float = Field(default=1.0, gt=0, le=FLOAT32_MAX)


class SignFlip(Colluding):
    """Colluders train honestly, and send their updates times ``-boost`` (Li et al. 2019, RSA)."""

    attack: Literal["sign_flip"]
    boost: float = Field(default=1.0, gt=0, le=FLOAT32_MAX)


class Scaling(Colluding):
    """Colluders train honestly, and send their updates times ``boost``, so that theirs outweigh all others."""

    attack: Literal["scaling"]
    boost: float = Field(default=10.0, gt=0, le=FLOAT32_MAX)


class LittleIsEnough(Colluding):
    """All colluders send the mean of their honest updates less ``z`` standard deviations (Baruch et al. 2019).

    Without ``z`` it is the paper's: the furthest that still has a majority with it, of the round's cohort. That is 0,
    and the attack idle, where few come: 2 or less of a cohort of 10, and of any cohort 1, who has no deviation.
    """

    attack: Literal["little_is_enough"]
    z: float | None = Field(default=None, gt=0, le=FLOAT32_MAX)


class InnerProduct(Colluding):
    """All colluders send the mean of their honest updates times ``-boost`` (Xie et al. 2020, equation 5)."""

    attack: Literal["inner_product"]
    boost: float = Field(default=1.0, gt=0, le=FLOAT32_MAX)


Poisoning = NoPoisoning | LabelFlip | Backdoor | SignFlip | Scaling | LittleIsEnough | InnerProduct


def forges_updates(poisoning: Poisoning) -> bool:
    """Whether colluders send anything else than what they trained, for which the server must see each phone's model."""
    boosted = isinstance(poisoning, Backdoor) and poisoning.boost != 1
    return boosted or isinstance(poisoning, SignFlip | Scaling | LittleIsEnough | InnerProduct)
