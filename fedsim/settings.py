"""The tables of a config, all but the strategy's: what may be said of a run, and what holds where it is not."""

from typing import Annotated, Literal

from pydantic import Field

from fedsim.strategy_settings import Table

MOST = 2**31 - 1


class Federation(Table):
    """Who takes part: ``clients`` phones exist, ``cohort`` of them train in each of ``rounds``."""

    clients: int = Field(default=100, ge=1, le=MOST)
    cohort: int = Field(default=10, ge=1, le=MOST)
    rounds: int = Field(default=20, ge=1, le=MOST)
    on_client_failure: Literal["stop", "continue"] = "stop"


class Data(Table):
    """Which examples, and how the phones hold them.

    ``source`` is ``mnist``, an ``.npz`` file or a folder of idx files; a scheme's own parameters may only be
    given with that scheme, and take the value said here where they are not: ``alpha`` (0.5) belongs to
    dirichlet and quantity, ``classes_per_client`` (2) to pathological and shards. Under sampled each phone draws
    ``examples_per_client`` (60) for itself when it is asked, from all classes or ``classes_per_client`` of them: any
    number of phones can exist, and two may hold the same example.
    """

    source: str = "mnist"
    partition: Literal["iid", "dirichlet", "pathological", "shards", "quantity", "sampled"] = "iid"
    alpha: float | None = Field(default=None, gt=0)
    classes_per_client: int | None = Field(default=None, ge=1)
    examples_per_client: int | None = Field(default=None, ge=1, le=MOST)
    min_examples: int = Field(default=1, ge=1)


class Model(Table):
    """The network by ``name``, or a ``contract``: the path of an updatable Core ML file of one's own."""

    name: Literal["lenet", "lenet5", "tanh_cnn"] = "lenet"
    contract: str | None = None


class Training(Table):
    """How a phone trains in a round. What is not given is the model's own setting.

    ``weight_decay`` adds that multiple of the weights to their gradient; a model file has no place for it, so iPhones
    train without.
    """

    epochs: int | None = Field(default=None, ge=1, le=MOST)
    batch_size: int | None = Field(default=None, ge=1, le=MOST)
    optimizer: Literal["sgd", "adam"] | None = None
    learning_rate: float | None = Field(default=None, gt=0)
    momentum: float | None = Field(default=None, ge=0, lt=1)
    epsilon_form: Literal["torch", "mps"] | None = None
    weight_decay: float | None = Field(default=None, ge=0)


class Baselines(Table):
    """What stands beside the federated curve: ``central`` training, and ``local_only`` phones training alone."""

    central: bool = True
    local_only: int = Field(default=5, ge=0)


class Speed(Table):
    """What cannot change results: ``workers`` and ``cluster`` not a bit, the others not beyond rounding.

    Where they are not given, there is a worker for each core; the engine is ``native`` if it was built and can run
    the model, else ``torch``; the aggregation is ``streamed``, a running sum in place of a stack of every phone's
    model, if the strategy needs no more than the phones' mean and all of them are simulated, else ``stacked``.
    ``cluster`` is the address of a Ray cluster that this machine belongs to, ``host:port`` or ``auto``: the native
    engine trains on all its nodes, ``workers`` threads on each, with streamed aggregation. Empty: on this machine.
    """

    workers: int | None = Field(default=None, ge=1, le=1024)
    engine: Literal["native", "torch"] | None = None
    aggregation: Literal["streamed", "stacked"] | None = None
    cluster: str = ""


class Output(Table):
    """``folder`` is the run's own folder, ``runs/<time>`` where it is not given.

    The model is tested every ``evaluate_every`` rounds and kept every ``checkpoint_every``; before the first round it
    is tested, too, and after the last it is both.
    """

    folder: str | None = None
    evaluate_every: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=1, ge=1)


class Published(Table):
    """A result of somebody else's to stand beside ours, with its source."""

    name: str
    source: str
    seconds: float | None = Field(default=None, gt=0)
    test_accuracy: float | None = Field(default=None, ge=0, le=1)


class Report(Table):
    """What the report adds: a ``title``, and results of others in its comparison."""

    title: str | None = None
    published: Annotated[tuple[Published, ...], Field(strict=False)] = ()
