"""Inversion wins where it must and loses where it must; its simulated update is what a phone does."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.attacks.gradient_inversion import GEIPING, IDLG, Search, invert, simulated_update, total_variation
from fedsim.attacks.label_recovery import label_recovery_rate
from fedsim.attacks.reconstruction import blank, likeness, matched
from fedsim.coreml import interpret
from fedsim.coreml.contract import Contract
from fedsim.seeds import generator
from fedsim.updates import LocalTraining, Weights
from tests.attacks.lenet5 import (
    ONE_STEP,
    STEPS_OF_ONE,
    as_inputs,
    digits,
    fresh_weights,
    lenet5,
    update_of,
)

TANH = lenet5()
WEIGHTS = fresh_weights(TANH)
FAST = replace(IDLG, iterations=90)


def attack(
    rows: Sequence[int],
    *,
    update: Weights | np.ndarray | None = None,
    contract: Contract = TANH,
    weights: Weights = WEIGHTS,
    training: LocalTraining = ONE_STEP,
    search: Search = FAST,
    **known: Any,
) -> dict[str, Any]:
    """The figures of inverting the update that these digits cause, or the one given."""
    examples = digits(*rows)
    given = update_of(contract, weights, examples, training) if update is None else update
    drawn = generator(0, "inversion", *rows)
    found = invert(contract, weights, given, training, len(rows), drawn, search=search, **known)
    originals = as_inputs(examples)
    return {
        "label_recovery_rate": label_recovery_rate(found.labels, examples.labels),
        "blank_psnr": likeness(blank(originals), originals)["psnr_median"],
        **likeness(matched(found, originals), originals),
    }


@pytest.mark.parametrize(
    "training",
    [
        replace(ONE_STEP, batch_size=5),
        replace(ONE_STEP, batch_size=2, epochs=2, momentum=0.9),
        replace(ONE_STEP, batch_size=3, epochs=2, weight_decay=0.1, proximal_mu=0.5),
    ],
)
def test_the_simulated_update_is_a_phones(training: LocalTraining) -> None:
    """To within float32, in which phones train."""
    examples = digits(0, 1, 2, 3, 4)
    parameters = interpret.parameters(TANH, torch.from_numpy(WEIGHTS.astype(np.float64)))
    for tensor in parameters.values():
        tensor.requires_grad_()
    x, y = torch.from_numpy(as_inputs(examples)), torch.from_numpy(examples.labels)
    simulated = simulated_update(TANH, parameters, x, y, training).detach().numpy()
    assert simulated.dtype == np.float64
    np.testing.assert_allclose(simulated, update_of(TANH, WEIGHTS, examples, training), atol=2e-7)


def test_the_simulated_update_has_its_derivative() -> None:
    """Along a random direction, against a central difference."""
    parameters = interpret.parameters(TANH, torch.from_numpy(WEIGHTS.astype(np.float64)))
    for tensor in parameters.values():
        tensor.requires_grad_()
    draw = generator(0, "direction")
    x, y = torch.from_numpy(draw.random((2, 1, 28, 28))), torch.tensor([3, 7])
    towards, weighting = (torch.from_numpy(draw.standard_normal(shape)) for shape in (x.shape, TANH.parameters))

    def value(x: torch.Tensor) -> torch.Tensor:
        return simulated_update(TANH, parameters, x, y, STEPS_OF_ONE) @ weighting

    moved = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(moved), moved)
    step = 1e-5 * towards
    difference = (value(x + step) - value(x - step)).item() / 2e-5
    assert (gradient * towards).sum().item() == pytest.approx(difference, rel=1e-6)


def test_total_variation_of_a_checkerboard_is_two_and_of_an_even_image_none() -> None:
    board = torch.arange(6)[:, None] + torch.arange(6)[None, :]
    assert total_variation((board % 2).double()[None, None]).item() == 2
    assert total_variation(torch.ones(1, 1, 6, 6)).item() == 0


def test_one_digit_is_rebuilt_and_clipping_changes_nothing() -> None:
    plain = attack([0])
    clipped = attack([1], update=0.01 * update_of(TANH, WEIGHTS, digits(1), ONE_STEP))
    for figures in (plain, clipped):
        assert figures["label_recovery_rate"] == 1
        assert figures["psnr_median"] >= 25
        assert figures["ssim_median"] >= 0.9


def test_under_the_noise_of_local_privacy_nothing_is_found() -> None:
    """A noise multiplier of 1: a deviation of the clip in every coordinate."""
    update = update_of(TANH, WEIGHTS, digits(0), ONE_STEP)
    noised = update + np.linalg.norm(update) * generator(0, "noise").standard_normal(len(update))
    figures = attack([0], update=noised, labels=digits(0).labels)
    assert figures["psnr_median"] <= 8 < figures["blank_psnr"]
    assert figures["ssim_median"] <= 0.2


@pytest.mark.parametrize("search", [replace(IDLG, iterations=3, restarts=2), replace(GEIPING, iterations=8)])
def test_equal_generators_give_equal_bits_on_any_number_of_threads(search: Search) -> None:
    update = update_of(TANH, WEIGHTS, digits(0, 1), STEPS_OF_ONE)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(invert(TANH, WEIGHTS, update, STEPS_OF_ONE, 2, generator(0, "inversion"), search=search))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert found[0].images.tobytes() == found[1].images.tobytes()
    assert found[0].labels.tolist() == found[1].labels.tolist()
    assert 0 <= found[0].images.min() <= found[0].images.max() <= 1


def test_restarts_find_whose_batch_a_label_is_of() -> None:
    """Of two labels in two batches of one; dealt wrongly, the update cannot be matched."""
    training = replace(STEPS_OF_ONE, learning_rate=0.5)
    update = update_of(TANH, WEIGHTS, digits(0, 1), training)
    search = replace(IDLG, iterations=48, restarts=5)
    found = invert(TANH, WEIGHTS, update, training, 2, generator(0, "inversion"), search=search)
    assert found.labels.tolist() == digits(0, 1).labels.tolist()


def test_what_cannot_be_inverted_is_refused() -> None:
    draw = generator(0, "inversion")
    update = np.zeros(TANH.parameters)
    with pytest.raises(ValueError, match="phones train with adam; only updates of sgd"):
        invert(TANH, WEIGHTS, update, replace(ONE_STEP, optimizer="adam"), 1, draw)
    with pytest.raises(ValueError, match=r"an update of shape \[61706\], got \[3\]"):
        invert(TANH, WEIGHTS, update[:3], ONE_STEP, 1, draw)


@pytest.mark.slow
def test_six_digits_are_rebuilt_and_their_labels_read() -> None:
    figures = [attack([row], search=IDLG) for row in range(6)]
    assert [one["label_recovery_rate"] for one in figures] == [1.0] * 6
    assert np.median([one["psnr_median"] for one in figures]) >= 40


@pytest.mark.slow
def test_batches_are_rebuilt_by_either_search() -> None:
    assert attack([0, 1, 2, 3], search=IDLG)["psnr_median"] >= 40
    assert attack([0, 1, 2, 3], search=GEIPING)["psnr_median"] >= 30
    assert attack(range(8), search=IDLG)["psnr_median"] >= 25


@pytest.mark.slow
def test_several_steps_need_several_steps_to_be_simulated() -> None:
    update = update_of(TANH, WEIGHTS, digits(0, 1, 2, 3), STEPS_OF_ONE)
    labels = digits(0, 1, 2, 3).labels
    unrolled = attack([0, 1, 2, 3], update=update, training=STEPS_OF_ONE, search=IDLG, labels=labels)
    as_one = attack([0, 1, 2, 3], update=update, training=replace(ONE_STEP, batch_size=4), search=IDLG, labels=labels)
    assert unrolled["psnr_median"] >= 40
    assert as_one["psnr_median"] <= 15


@pytest.mark.slow
def test_in_a_sum_of_64_nobody_is_found() -> None:
    updates = np.stack([update_of(TANH, WEIGHTS, digits(row), ONE_STEP) for row in range(64)])
    total = updates.sum(axis=0)
    figures = attack([0], update=total, labels=digits(0).labels)
    assert figures["psnr_median"] <= 8
    together = attack(
        range(64), update=total, training=replace(ONE_STEP, batch_size=64), search=replace(IDLG, iterations=150)
    )
    assert together["psnr_median"] <= together["blank_psnr"] + 3
