"""Gradient inversion of a finished run: training images rebuilt from its first round, beside the attack's best case.

``attacks/inversion.json`` has for studies the median PSNR of rebuilt images in dB, ``psnr_each``, ``psnr_sum`` and
``psnr_released``, beside ``psnr_control``, what the same attack gets from one step on one image, and ``psnr_blank``,
what an even image of the right brightness has; likewise ``ssim_...``, null for images under 11 by 11 pixels; and
``labels_each``, ``labels_sum``, ``labels_released`` and ``labels_control``, the share of labels that were read off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.attacking.finished import FinishedRun
from fedsim.attacking.first_round import NAMES, Collection, Views, by_view, first_round
from fedsim.attacks.gradient_inversion import GEIPING, IDLG, Search, invert
from fedsim.attacks.image_quality import Floats, psnr
from fedsim.attacks.label_recovery import label_recovery_rate
from fedsim.attacks.reconstruction import blank, likeness, matched
from fedsim.config import ConfigError
from fedsim.coreml.contract import Contract
from fedsim.coreml.layers import Activation, Pooling
from fedsim.data.dataset import Examples, batch_inputs, select
from fedsim.data.partition import indices
from fedsim.federation import training_examples, training_shards
from fedsim.report.layout import Section, Table
from fedsim.report.numbers import Cell, decimal, percent
from fedsim.report.reconstructions import ImageRow, reconstruction_picture
from fedsim.seeds import generator
from fedsim.updates import LocalTraining

Figures = dict[str, Any]

VICTIMS = 4
MOST_IMAGES, MOST_STEPS = 16, 16
"""Of a phone whose whole training is inverted: the longest, 16 epochs of 16, takes 72 s on LeNet-5."""
SMOOTH = replace(IDLG, iterations=100)
ROUGH = replace(GEIPING, iterations=60)
"""For networks with ReLUs or max pooling. All other searches together take about a minute of the seed app's."""
ASSUMED = (
    "The attacker sees round 1. It holds the weights that the server sent, the network and the training settings, but "
    "no example, and looks in {iterations} iterations for inputs in [0, 1] that would have caused what it sees. Labels "
    "it reads off the last bias. {taken} Only the direction of an update is matched, so clipping alone protects "
    "nothing. Figures are medians over {images} images; a PSNR near that of a blank image is nothing found."
)
WHOLE = "It simulates all steps of a phone's training, in an order of the examples that it guesses."
AS_ONE_STEP = (
    "A phone here trains on {examples} examples in {steps} steps, which this attack does not undo, though others may "
    "(Dimitrov et al. 2022 do with 50), so an update is taken for that of one step on one image, and what is found "
    "compared with the phone's first."
)
SUM = " What is seen of all phones together is taken for one step on the images of {victims} of them."
CONTROL = (
    " The control is the attack's best case on this network: each image alone in a single step, from the same weights "
    "at the same learning rate, and its update seen as it is."
)
RESISTS = (
    " ReLUs and max pooling have hardly a second derivative for the search to follow: a control near the blank image "
    "says that this attack fails on this network, not that every attack would."
)
CAPTION = "A column is one image of a phone of round 1, and under it what each attempt made of it, with its PSNR."


@dataclass(frozen=True, kw_only=True, eq=False)
class _Wanted:
    """The ``images [n, *input_shape]`` behind an update, their ``labels``, and which ``training`` it is taken for."""

    images: Floats
    labels: NDArray[np.int64]
    training: LocalTraining


def attack(run: FinishedRun) -> tuple[dict[str, Any], tuple[Section, ...]]:
    """Images of up to `VICTIMS` phones under each view; raises `ConfigError` where updates cannot be inverted."""
    views = first_round(run, select(run.federation.dataset.test, slice(0)))
    victims, taken = _victims(run, views)
    alone, together = _alone(victims), [_together(victims)]
    search = _search(run.federation.contract)
    try:
        control, best = _attempt(run, _updates(run, alone), alone, search, "control")
        attempts: dict[Collection, tuple[Floats, Figures]] = {
            name: _attempt(run, seen.view.updates, victims if name == "each" else together, search, name)
            for name, seen in views.items()
        }
    except ValueError as error:
        raise ConfigError(f"{run.folder}: {error}") from None
    originals = _originals(victims)
    found: dict[Collection, Figures] = {name: figures for name, (_, figures) in attempts.items()}
    nothing = likeness(blank(originals), originals)
    numbers = _numbers(found, best, nothing)
    about = taken + SUM.format(victims=len(victims)) + CONTROL + (RESISTS if search is ROUGH else "")
    result = {
        "sentence": f"Images of round 1 are rebuilt with a median PSNR of {numbers['psnr_each']:.1f} dB from each "
        f"update and {numbers['psnr_released']:.1f} dB from what the round releases; the attack's best case has "
        f"{numbers['psnr_control']:.1f} dB, a blank image {numbers['psnr_blank']:.1f} dB.",
        "assumed": ASSUMED.format(iterations=search.iterations, taken=about, images=len(originals)),
        **numbers,
        "clients": views["each"].clients[:VICTIMS].tolist(),
        "views": {name: {"who": seen.who, "held": seen.held, **found[name]} for name, seen in views.items()},
        "control": best,
        "blank": nothing,
    }
    firsts = np.cumsum([0, *(len(victim.labels) for victim in victims[:-1])])
    shown = {"the original": originals[firsts], "the control": control}
    shown |= {NAMES[name]: images[firsts] for name, (images, _) in attempts.items()}
    return result, (_section(result, views, shown),)


def _victims(run: FinishedRun, views: Views) -> tuple[list[_Wanted], str]:
    """What is looked for of each victim, and in words what its update is taken for."""
    federation, training = run.federation, views["each"].view.training
    held = training_shards(federation, views["each"].clients[:VICTIMS])
    every = training_examples(federation)
    phones = [select(every, indices(held, row)) for row in range(len(held.offsets) - 1)]
    whole = [
        _Wanted(images=batch_inputs(own.inputs).astype(np.float64), labels=own.labels, training=training)
        for own in phones
    ]
    most = max(len(own.labels) for own in phones)
    steps = training.epochs * -(-most // training.batch_size)
    if most <= MOST_IMAGES and steps <= MOST_STEPS:
        return whole, WHOLE
    return _alone(whole), AS_ONE_STEP.format(examples=most, steps=steps)


def _alone(victims: Sequence[_Wanted]) -> list[_Wanted]:
    """The first image of each victim, in one step of its own."""
    return [_in_one_step(victim.images[:1], victim.labels[:1], victim.training) for victim in victims]


def _together(victims: Sequence[_Wanted]) -> _Wanted:
    """The images of all victims, in one step."""
    images, labels = (
        np.concatenate(parts) for parts in zip(*((one.images, one.labels) for one in victims), strict=True)
    )
    return _in_one_step(images, labels, victims[0].training)


def _in_one_step(images: Floats, labels: NDArray[np.int64], training: LocalTraining) -> _Wanted:
    step = replace(training, epochs=1, batch_size=len(labels), momentum=0.0, shuffle=False)
    return _Wanted(images=images, labels=labels, training=step)


def _search(contract: Contract) -> Search:
    """L-BFGS needs a smooth network to find its way."""
    rough = any(
        (isinstance(layer, Activation) and layer.function in ("relu", "leaky_relu", "hard_sigmoid"))
        or (isinstance(layer, Pooling) and layer.function == "max")
        for layer in contract.graph
    )
    return ROUGH if rough else SMOOTH


def _updates(run: FinishedRun, wanted: Sequence[_Wanted]) -> NDArray[np.float32]:
    """What phones would send that train as wanted, ``float32[n, P]``."""
    from fedsim.training.reference import train_client

    initial = run.federation.initial
    models = np.tile(initial, (len(wanted), 1))
    for model, one in zip(models, wanted, strict=True):
        examples = Examples(inputs=one.images.astype(np.float32), labels=one.labels)
        train_client(run.federation.contract, model, examples, one.training, np.uint64(0))
    return models - initial


def _attempt(
    run: FinishedRun, updates: NDArray[np.float32], wanted: Sequence[_Wanted], search: Search, name: str
) -> tuple[Floats, Figures]:
    """What the search makes of the first rows of ``updates``, one for each that is wanted.

    The rebuilt images ``[n, *input_shape]`` that stand for the originals, and their figures.
    """
    seed, contract, initial = run.federation.config.seed, run.federation.contract, run.federation.initial
    draws = [generator(seed, f"inversion: {name}", row) for row in range(len(wanted))]
    pairs = [
        (invert(contract, initial, update, one.training, len(one.labels), draw, search=search), one)
        for update, one, draw in zip(updates[: len(wanted)], wanted, draws, strict=True)
    ]
    images = np.concatenate([matched(rebuilt, one.images) for rebuilt, one in pairs])
    rates = [label_recovery_rate(rebuilt.labels, one.labels) for rebuilt, one in pairs]
    return images, {
        "labels": float(np.average(rates, weights=[len(one.labels) for one in wanted])),
        "distances": [rebuilt.distance for rebuilt, _ in pairs],
        **likeness(images, _originals(wanted)),
    }


def _originals(wanted: Sequence[_Wanted]) -> Floats:
    return np.concatenate([one.images for one in wanted])


def _numbers(found: Mapping[Collection, Figures], control: Figures, nothing: Figures) -> dict[str, Any]:
    """What a study plots, of each measure."""
    numbers: dict[str, Any] = {}
    for name, figure in (("psnr", "psnr_median"), ("ssim", "ssim_median"), ("labels", "labels")):
        numbers |= by_view(name, {view: one.get(figure) for view, one in found.items()})
        numbers[f"{name}_control"] = control.get(figure)
    return numbers | {f"{name}_blank": nothing.get(f"{name}_median") for name in ("psnr", "ssim")}


def _section(result: dict[str, Any], views: Views, shown: Mapping[str, Floats]) -> Section:
    table = Table(
        caption="Likeness of rebuilt images to the originals",
        columns=("what is seen", "by whom", "median PSNR, dB", "best PSNR, dB", "median SSIM", "labels read off"),
        rows=(
            ("control: one image, one step", "–", *_cells(result["control"])),
            *((NAMES[name], seen.who, *_cells(result["views"][name])) for name, seen in views.items()),
            ("nothing: a blank image", "–", *_cells(result["blank"])),
        ),
        wide=True,
    )
    first = next(iter(shown.values()))
    rows = [ImageRow(name=name, images=images, notes=_notes(images, first)) for name, images in shown.items()]
    are_images = first.ndim == 4 and first.shape[1] in (1, 3)
    picture = reconstruction_picture(rows, caption=CAPTION) if are_images else None
    return Section(
        name="images",
        heading="Images of the phones",
        text=(result["assumed"],),
        pictures=(picture,) if picture else (),
        tables=(table,),
    )


def _cells(figures: Figures) -> tuple[Cell, ...]:
    psnrs = decimal(figures["psnr_median"]), decimal(figures["psnr_best"])
    return *psnrs, decimal(figures.get("ssim_median")), percent(figures.get("labels"))


def _notes(images: Floats, originals: Floats) -> tuple[str, ...]:
    """The PSNR of each; nothing under the originals themselves."""
    if images is originals:
        return ()
    return tuple(f"{psnr(image, original):.1f} dB" for image, original in zip(images, originals, strict=True))
