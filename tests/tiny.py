"""A federation that trains in milliseconds: four kinds of noisy 8 by 8 pictures, and one dense layer to tell them."""

from pathlib import Path
from typing import Any

import numpy as np

from fedsim.config import RunConfig
from fedsim.coreml.build import Input, build_model
from fedsim.coreml.layers import Flatten, InnerProduct, Softmax
from fedsim.data.dataset import Dataset, Examples
from fedsim.federation import set_up
from fedsim.messages import model_record, read_weights, training_record
from fedsim.seeds import generator
from fedsim.simulation.engines import open_engine
from fedsim.simulation.grid import FederationGrid, Phones
from fedsim.simulation.poisoned import poisoned, progress
from fedsim.strategies import ResumableStrategy, build_strategy
from fedsim.updates import LocalTraining
from tests.small import small_config

CLIENTS, CLASSES, SIDE = 10, 4, 8


def tiny_dataset(train: int = 800, test: int = 400) -> Dataset:
    """Each class a picture of its own, dark in the last corner, under noise; classes take turns."""
    random = generator(0, "tiny")
    pictures = random.uniform(0.2, 0.8, (CLASSES, 1, SIDE, SIDE))
    pictures[..., -3:, -3:] = 0.1

    def examples(count: int) -> Examples:
        labels = np.arange(count) % CLASSES
        noisy = pictures[labels] + 0.25 * random.standard_normal((count, 1, SIDE, SIDE))
        return Examples(inputs=(255 * np.clip(noisy, 0, 1)).astype(np.uint8), labels=labels)

    return Dataset(name="tiny", train=examples(train), test=examples(test), classes=CLASSES)


def tiny_config(folder: Path, **tables: Any) -> RunConfig:
    """10 phones, all of them in each of 8 rounds; ``tables`` add to that. Writes the model's file beside ``folder``."""
    contract = folder.with_suffix(".mlmodel")
    contract.write_bytes(_model())
    federation = {"clients": CLIENTS, "cohort": CLIENTS, "rounds": 8, **tables.pop("federation", {})}
    return small_config(folder, federation=federation, model={"contract": str(contract)}, **tables)


def _model() -> bytes:
    """All weights zero, from which one layer learns as well as from any."""
    dense = InnerProduct(
        name="dense",
        inputs=("flat",),
        outputs=("scores",),
        input_channels=SIDE * SIDE,
        output_channels=CLASSES,
        updatable=True,
    )
    return build_model(
        layers=(
            Flatten(name="flatten", inputs=("image",), outputs=("flat",), order="channel_first"),
            dense,
            Softmax(name="softmax", inputs=("scores",), outputs=("output",)),
        ),
        input=Input(name="image", shape=(1, SIDE, SIDE)),
        loss="cross_entropy",
        training=LocalTraining(epochs=1, batch_size=20, optimizer="sgd", learning_rate=0.1),
    )


def play(config: RunConfig) -> tuple[float, float]:
    """All rounds of a config as a run plays them, but nothing is written: final accuracy and attack success."""
    federation = set_up(config, tiny_dataset())
    with open_engine(federation) as opened:
        engine, size = poisoned(opened, federation), config.federation
        phones = Phones(clients=size.clients, train=engine.train, evaluate=engine.evaluate)
        strategy = build_strategy(federation.config, federation.contract.training.learning_rate)
        result = ResumableStrategy(strategy, seed=config.seed, on_replies=lambda *seen: None).start(
            FederationGrid(phones),
            model_record(federation.initial),
            num_rounds=size.rounds,
            train_config=training_record(federation.contract.training),
        )
        assert result.arrays is not None
        weights = read_weights(result.arrays)
        columns = progress(engine, federation)([], weights)
        return float(engine.score(weights)[1].mean()), columns.get("attack_success", float("nan"))
