"""Labels read off the classifier's bias: sure for one example, counted for batches, refused without such a bias."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from fedsim.attacks.label_recovery import label_recovery_rate, recover_labels
from fedsim.coreml.build import Input, build_model
from fedsim.coreml.contract import read_contract
from fedsim.coreml.layers import InnerProduct, Softmax
from fedsim.updates import LocalTraining
from tests.attacks.lenet5 import ONE_STEP, STEPS_OF_ONE, digits, fresh_weights, lenet5, update_of


@pytest.mark.parametrize("row", range(6))
@pytest.mark.parametrize("function", ["tanh", "relu"])
def test_one_label_is_certain(row: int, function: Literal["tanh", "relu"]) -> None:
    contract = lenet5(function)
    weights, examples = fresh_weights(contract), digits(row)
    update = update_of(contract, weights, examples, ONE_STEP)
    for scale in (1.0, 0.01):  # clipped or not
        assert recover_labels(contract, scale * update, ONE_STEP, 1).tolist() == examples.labels.tolist()


@pytest.mark.parametrize("training", [replace(ONE_STEP, batch_size=16), replace(ONE_STEP, momentum=0.9), STEPS_OF_ONE])
def test_labels_of_a_batch_or_of_several_are_counted(training: LocalTraining) -> None:
    contract = lenet5()
    weights = fresh_weights(contract)
    rates = []
    for first in range(0, 32, 16):
        examples = digits(*range(first, first + 16))
        update = update_of(contract, weights, examples, training)
        found = recover_labels(contract, update, training, 16)
        rates.append(label_recovery_rate(found, examples.labels))
    assert np.mean(rates) >= 0.9


@pytest.mark.parametrize("rows", [(0, 11, 1, 2), (7, 4, 3, 6), (12, 10, 7, 3), (8, 6, 3, 0)])
def test_labels_that_repeat_are_counted_over_many_steps_and_at_any_scale(rows: tuple[int, ...]) -> None:
    """Five epochs in one batch: what the first of them teach makes the later gradients shorter."""
    contract, training = lenet5(), replace(ONE_STEP, epochs=5)
    weights, examples = fresh_weights(contract), digits(*rows)
    update = update_of(contract, weights, examples, training)
    for scale in (1.0, 0.01):
        found = recover_labels(contract, scale * update, training, len(rows))
        assert found.tolist() == sorted(examples.labels.tolist())


def test_without_a_bias_labels_are_refused() -> None:
    dense = InnerProduct(
        name="dense",
        inputs=("in",),
        outputs=("scores",),
        input_channels=4,
        output_channels=3,
        has_bias=False,
        updatable=True,
    )
    graph = (dense, Softmax(name="softmax", inputs=("scores",), outputs=("out",)))
    contract = read_contract(
        build_model(layers=graph, input=Input(name="in", shape=(4,)), loss="cross_entropy", training=ONE_STEP)
    )
    with pytest.raises(ValueError, match=r"ends in dense\.weights of 12 values under cross_entropy"):
        recover_labels(contract, np.zeros(12), ONE_STEP, 1)
