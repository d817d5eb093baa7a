"""The linter against the verdicts of Apple's own validator, and the rules that go beyond it one by one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedsim.coreml.lint import Finding, device_trainable, lint
from fedsim.coreml.schema import Model
from fedsim.models.lenet import lenet_contract
from fedsim.updates import LocalTraining
from tests.coreml.validator_matrix import (
    MODELS,
    Array,
    batch_norm,
    convolution,
    dense,
    finish,
    halve,
    head,
    quantise,
    relu6,
    start,
)

VERDICTS: dict[str, str] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "coreml" / "validator_verdicts.json").read_text()
)
JUDGED = {name: verdict for name, verdict in VERDICTS.items() if not verdict.startswith("coremltools refuses")}
LAYER_IN_VERDICT = re.compile(r"layer \((\w+)\)|[Ll]ayer,? (?:named )?'(\w+)'|collision for: '(\w+)'")


def findings(b: Any) -> list[Finding]:
    return lint(b.spec.SerializeToString())


def said(b: Any) -> list[tuple[str, str, str]]:
    return [(finding.severity, finding.source, finding.layer) for finding in findings(b)]


def test_the_matrix_has_a_model_for_every_verdict():
    assert MODELS.keys() == VERDICTS.keys()


@pytest.mark.parametrize("name", JUDGED)
def test_agrees_with_apples_validator(name):
    errors = [finding for finding in lint(MODELS[name]().SerializeToString()) if finding.source == "validator"]
    assert bool(errors) == JUDGED[name].startswith("BAD"), errors


@pytest.mark.parametrize("name", [name for name, verdict in JUDGED.items() if LAYER_IN_VERDICT.search(verdict)])
def test_names_the_layer_that_apples_validator_names(name):
    named = next(filter(None, LAYER_IN_VERDICT.search(JUDGED[name]).groups()))
    errors = [finding for finding in lint(MODELS[name]().SerializeToString()) if finding.source == "validator"]
    assert named in {finding.layer for finding in errors}


@pytest.mark.parametrize("name", sorted(VERDICTS.keys() - JUDGED))
def test_the_other_models_cannot_be_built(name):
    error = re.match(r"coremltools refuses: (\w+)", VERDICTS[name]).group(1)
    with pytest.raises((TypeError, ValueError, AttributeError)) as raised:
        MODELS[name]()
    assert raised.typename == error


def test_every_finding_says_what_to_do():
    for build in (MODELS[name] for name in JUDGED):
        for finding in lint(build().SerializeToString()):
            assert finding.message
            assert finding.remedy


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_seed_network_has_nothing_to_complain_about(optimizer):
    training = LocalTraining(epochs=1, batch_size=16, optimizer=optimizer, learning_rate=0.01)
    assert lint(lenet_contract(training)) == []


def test_batch_norm_on_the_gradients_way_breaks_the_compiler():
    b = start()
    convolution(b, "c1", "x", "a")
    batch_norm(b, "bn", "a", "b")
    head(b, "b")
    assert said(finish(b, ["c1", "fc"])) == [("error", "compiler", "bn")]


def test_batch_norm_below_the_lowest_updatable_layer_is_fine():
    b = start()
    convolution(b, "c1", "x", "a")
    batch_norm(b, "bn", "a", "b")
    head(b, "b")
    assert findings(finish(b, ["fc"])) == []


def test_a_frozen_layer_above_an_updatable_one_breaks_the_compiler():
    b = start()
    convolution(b, "c1", "x", "a")
    convolution(b, "c2", "a", "b")
    head(b, "b")
    assert said(finish(b, ["c1"])) == [("error", "compiler", "c2"), ("error", "compiler", "fc")]


def test_a_frozen_layer_on_another_branch_is_fine():
    b = start(output=("z", Array(4, 8, 8)))
    convolution(b, "c0", "x", "side")
    convolution(b, "c1", "x", "z")
    assert findings(finish(b, ["c1"], mse=("z", Array(4, 8, 8)))) == []


def test_warns_of_an_updatable_convolution_of_several_groups():
    b = start()
    convolution(b, "c1", "x", "a", kernel=3, groups=4)
    head(b, "a")
    assert said(finish(b, ["c1", "fc"])) == [("warning", "compiler", "c1")]


def test_refuses_float16_in_an_updatable_layer_which_apples_validator_accepts():
    b = finish(head(start()))
    halve(b.layer_specs["fc"].innerProduct.weights)
    halve(b.layer_specs["fc"].innerProduct.bias)
    assert set(said(b)) == {("error", "fedsim", "fc")}


def test_refuses_a_label_for_every_pixel_which_apples_validator_accepts():
    (finding,) = lint(MODELS["cce with softmax over a map (conv head)"]().SerializeToString())
    assert (finding.severity, finding.source, finding.layer) == ("error", "fedsim", "loss")


def test_warns_of_float16_in_a_frozen_layer():
    b = start()
    convolution(b, "c1", "x", "a")
    head(b, "a")
    finish(b)
    halve(b.layer_specs["c1"].convolution.weights)
    halve(b.layer_specs["c1"].convolution.bias)
    assert said(b) == [("warning", "compiler", "c1")]


def test_all_mistakes_are_reported_at_once():
    b = finish(head(start()), adam=True)
    b.spec.specificationVersion = 3
    b.nn_spec.updateParams.epochs.defaultValue = 0
    b.nn_spec.updateParams.optimizer.adamOptimizer.ClearField("eps")
    words = " ".join(finding.message for finding in findings(b))
    assert "version 3" in words
    assert "epochs" in words
    assert "eps is missing" in words


@pytest.mark.parametrize("kind", ["pipeline", "mlProgram", "treeEnsembleClassifier"])
def test_another_kind_of_model_is_a_finding(kind):
    model = Model(isUpdatable=True, specificationVersion=4)
    getattr(model, kind).SetInParent()
    (finding,) = lint(model.SerializeToString())
    assert (finding.severity, finding.source) == ("error", "fedsim")
    assert kind in finding.message
    with pytest.raises(ValueError, match=kind):
        device_trainable(model.SerializeToString())


def test_garbage_is_refused():
    with pytest.raises(ValueError, match="not a Core ML model"):
        lint(b"\xff\xff\xff")


def test_everything_in_the_seed_network_can_be_trained():
    training = LocalTraining(epochs=1, batch_size=16, optimizer="sgd", learning_rate=0.01)
    assert device_trainable(lenet_contract(training)) == "all"


def test_a_residual_network_can_be_trained_after_its_last_addition():
    b = start()
    convolution(b, "c1", "x", "a")
    b.add_elementwise("add", ["a", "x"], "s", "ADD")
    convolution(b, "c2", "s", "b")
    assert device_trainable(head(b, "b").spec.SerializeToString()) == "tail(c2, fc)"


def test_with_relu6_before_the_classifier_only_that_can_be_trained():
    b = start()
    convolution(b, "c1", "x", "a")
    relu6(b)
    assert device_trainable(head(b, "b").spec.SerializeToString()) == "last"


@pytest.mark.parametrize("spoil", ["batch_norm", "quantise", "halve"])
def test_what_a_device_cannot_pass_ends_the_tail(spoil):
    b = start()
    convolution(b, "c1", "x", "a")
    batch_norm(b, "bn", "a", "a1") if spoil == "batch_norm" else convolution(b, "c2", "a", "a1")
    if spoil == "quantise":
        quantise(b.layer_specs["c2"].convolution.weights, 8, table=False)
    if spoil == "halve":
        halve(b.layer_specs["c2"].convolution.weights)
    assert device_trainable(head(b, "a1").spec.SerializeToString()) == "last"


def test_nothing_can_be_trained_through_a_softmax_under_squared_error():
    assert device_trainable(MODELS["mse on softmax output"]().SerializeToString()) == "none"


def test_nothing_can_be_trained_where_there_is_nothing_to_train():
    b = start()
    b.add_flatten("fl", 0, "x", "f")
    b.add_softmax("sm", "f", "prob")
    assert device_trainable(b.spec.SerializeToString()) == "none"


def test_a_regression_with_one_dense_layer_is_all_trainable():
    b = start(output=("z", Array(5)))
    b.add_flatten("fl", 0, "x", "f")
    dense(b, "fc", "f", "z")
    assert device_trainable(finish(b, mse=("z", Array(5))).spec.SerializeToString()) == "all"
