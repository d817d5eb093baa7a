"""Reading models as other tools write them, or refusing them in words; changing training settings; the two ids."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from coremltools.models import _QUANTIZATION_MODE_LINEAR_QUANTIZATION as LINEAR
from coremltools.models import _QUANTIZATION_MODE_LINEAR_SYMMETRIC as LINEAR_SYMMETRIC
from coremltools.models.neural_network import quantization_utils

from fedsim.coreml.contract import (
    Contract,
    architecture_id,
    check_training,
    read_contract,
    weights_id,
    with_training,
)
from fedsim.coreml.schema import parse_model, serialize
from fedsim.coreml.settings import Between, OneOf
from fedsim.coreml.weights import read_weights, write_weights
from fedsim.models.initial import initial_weights
from fedsim.models.lenet import lenet_contract
from fedsim.updates import LocalTraining
from tests.coreml.validator_matrix import MODELS, Array, convolution, dense, finish, halve, head, start

SGD = LocalTraining(epochs=2, batch_size=20, optimizer="sgd", learning_rate=0.05, momentum=0.9)
ADAM = LocalTraining(epochs=2, batch_size=20, optimizer="adam", learning_rate=0.001, beta2=0.99, epsilon=1e-7)


@pytest.fixture
def lenet() -> Contract:
    return read_contract(lenet_contract(SGD, shuffle_seed=7))


def with_weights(contract: Contract, weights: np.ndarray) -> Contract:
    return replace(contract, file=write_weights(contract.file, contract.slots, weights))


def edited(edit: Callable[[Any, Any, Any], object], training: LocalTraining = SGD) -> bytes:
    """The seed network after ``edit`` of its model, network and update parameters."""
    model = parse_model(lenet_contract(training, shuffle_seed=7))
    edit(model, model.neuralNetwork, model.neuralNetwork.updateParams)
    return serialize(model)


def read(b: Any) -> Contract:
    return read_contract(b.spec.SerializeToString())


def test_everything_the_file_says_is_read(lenet):
    assert lenet.parameters == 585_958
    assert lenet.classes == 10
    assert (lenet.input_name, lenet.input_shape) == ("image", (1, 28, 28))
    assert (lenet.output_name, lenet.target_name, lenet.loss) == ("output", "output_true", "cross_entropy")
    assert lenet.training == SGD
    assert lenet.shuffle_seed == 7
    assert not lenet.frozen
    assert lenet.allowed == {
        "epochs": OneOf(values=tuple(range(1, 21))),
        "batch_size": OneOf(values=(1, 2, 4, 8, 16, 20, 32, 64, 128)),
        "learning_rate": Between(low=0, high=1),
        "momentum": Between(low=0, high=1),
    }


def test_adams_settings_are_read():
    contract = read_contract(lenet_contract(ADAM))
    assert contract.training == ADAM
    assert contract.shuffle_seed is None
    assert contract.allowed.keys() == {"epochs", "batch_size", "learning_rate", "beta1", "beta2", "epsilon"}


def test_training_inputs_are_found_by_name_in_any_order():
    def reverse(model, *_):
        inputs = model.description.trainingInput
        inputs.insert(0, inputs.pop())

    assert read_contract(edited(reverse)).target_name == "output_true"


def test_other_names_are_as_good():
    b = start(output=("verdict", Array(5)))
    b.add_flatten("fl", 0, "x", "f")
    dense(b, "fc", "f", "z")
    contract = read(finish(b, mse=("z", Array(5))))
    assert (contract.input_name, contract.output_name, contract.target_name) == ("x", "z", "z_true")
    assert contract.loss == "mean_squared_error"


def test_an_absent_momentum_is_zero_and_stays_zero():
    data = edited(lambda _, n, u: u.optimizer.sgdOptimizer.ClearField("momentum"))
    contract = read_contract(data)
    assert contract.training == replace(SGD, momentum=0.0)
    check_training(contract, replace(SGD, momentum=0.0))
    with pytest.raises(ValueError, match=r"momentum = 0.9 is not allowed by the model; allowed: 0 to 0"):
        check_training(contract, SGD)
    assert with_training(contract, contract.training).file == data


def test_an_absent_seed_is_none():
    assert read_contract(edited(lambda _, n, u: u.ClearField("seed"))).shuffle_seed is None


def test_an_absent_shuffle_is_false():
    assert read_contract(edited(lambda _, n, u: u.ClearField("shuffle"))).training.shuffle is False


def test_constraints_may_be_ranges():
    def widen(_, network, update):
        update.epochs.range.minValue, update.epochs.range.maxValue = 1, 100
        batch = update.optimizer.sgdOptimizer.miniBatchSize
        batch.range.minValue, batch.range.maxValue = 1, 64

    allowed = read_contract(edited(widen)).allowed
    assert (allowed["epochs"], allowed["batch_size"]) == (Between(low=1, high=100), Between(low=1, high=64))


def test_an_absent_constraint_allows_anything():
    def free(_, network, update):
        update.epochs.ClearField("set")
        update.optimizer.sgdOptimizer.miniBatchSize.ClearField("set")

    contract = read_contract(edited(free))
    assert contract.allowed.keys() == {"learning_rate", "momentum"}
    check_training(contract, replace(SGD, epochs=1000, batch_size=7))


def test_a_classifier_takes_its_label_as_target():
    contract = read_contract(MODELS["classifier with string labels"]().SerializeToString())
    assert (contract.output_name, contract.target_name, contract.classes) == ("prob", "label", 5)
    assert contract.parameters == 5 * 256 + 5


def test_a_regressor_is_read():
    model = parse_model(MODELS["mse on logits"]().SerializeToString())
    model.neuralNetworkRegressor.ParseFromString(serialize(model.neuralNetwork))
    assert read_contract(serialize(model)).loss == "mean_squared_error"


def test_a_newer_specification_and_unknown_fields_are_kept():
    data = edited(lambda model, *_: setattr(model, "specificationVersion", 9)) + b"\xf8\x7f\x05"
    assert read_contract(data).file.endswith(b"\xf8\x7f\x05")


@pytest.mark.parametrize("store", [None, halve])
def test_frozen_layers_are_read_as_float32(store):
    b = start()
    convolution(b, "c1", "x", "a")
    head(b, "a")
    finish(b)
    arrays = b.layer_specs["c1"].convolution
    expected = {name: np.array(getattr(arrays, name).floatValue, np.float32) for name in ("weights", "bias")}
    if store:
        expected = {name: values.astype(np.float16).astype(np.float32) for name, values in expected.items()}
        store(arrays.weights)
        store(arrays.bias)
    contract = read(b)
    assert contract.frozen.keys() == {("c1", "weights"), ("c1", "bias")}
    np.testing.assert_array_equal(
        contract.frozen["c1", "weights"], expected["weights"].reshape(4, 4, 1, 1), strict=True
    )
    np.testing.assert_array_equal(contract.frozen["c1", "bias"], expected["bias"], strict=True)
    assert {slot.layer for slot in contract.slots} == {"fc"}


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("mode", [LINEAR, LINEAR_SYMMETRIC, "table"])
def test_quantised_frozen_layers_are_what_coremltools_dequantises(bits, mode):
    b = start()
    convolution(b, "c1", "x", "a", kernel=3)
    head(b, "a")
    finish(b)
    weights = b.layer_specs["c1"].convolution.weights
    if mode == "table":
        quantise_by_table(weights, bits)
    else:
        quantization_utils._quantize_wp_field(weights, bits, mode, (4, 4, 3, 3))
    contract = read(b)
    quantization_utils._dequantize_wp(weights, (4, 4, 3, 3))
    expected = np.array(weights.floatValue, np.float32).reshape(4, 4, 3, 3)
    np.testing.assert_allclose(contract.frozen["c1", "weights"], expected, rtol=1e-6, atol=1e-7)


def quantise_by_table(weights: Any, bits: int) -> None:
    """Codes into a random table; the k-means of coremltools needs a package of its own."""
    generator = np.random.default_rng(bits)
    codes = generator.integers(0, 2**bits, len(weights.floatValue))
    weights.ClearField("floatValue")
    weights.rawValue = quantization_utils._convert_array_to_nbit_quantized_bytes(codes, bits).tobytes()
    weights.quantization.numberOfBits = bits
    weights.quantization.lookupTableQuantization.floatValue.extend(generator.standard_normal(2**bits).tolist())


def move_into_a_pipeline(model, network, update):
    inner = parse_model(serialize(model))
    model.pipeline.models.append(inner)


def freeze(model, network, update):
    for layer in network.layers:
        layer.isUpdatable = False


def cross_entropy(update: Any) -> Any:
    return update.lossLayers[0].categoricalCrossEntropyLossLayer


def sgd(update: Any) -> Any:
    return update.optimizer.sgdOptimizer


REFUSED_MODELS = [
    (move_into_a_pipeline, "is a pipeline; give its last, updatable network as a model of its own"),
    (lambda m, n, u: m.mlProgram.SetInParent(), "of kind mlProgram; expected neuralNetwork or"),
    (lambda m, n, u: m.ClearField("isUpdatable"), "is not updatable; mark its layers"),
    (lambda m, n, u: setattr(n, "arrayInputShapeMapping", 1), "maps arrays exactly; build it with the rank-5 mapping"),
    (lambda m, n, u: n.preprocessing.add(), "preprocesses images; take a plain array"),
    (freeze, "no layer of the model is updatable"),
    (lambda m, n, u: n.ClearField("layers"), "no layer of the model is updatable"),
    (lambda m, n, u: m.description.input.add(), "has 2 inputs; expected one"),
    (lambda m, n, u: m.description.input[0].type.imageType.SetInParent(), "input image is not an array"),
    (lambda m, n, u: m.description.input[0].type.multiArrayType.shape.append(2), r"shape is \[1, 28, 28, 2\]"),
    (lambda m, n, u: m.description.input[0].type.multiArrayType.ClearField("shape"), r"shape is \[\]"),
    (lambda m, n, u: u.lossLayers.add(), "has 2 losses; expected one"),
    (lambda m, n, u: u.lossLayers[0].ClearField("categoricalCrossEntropyLossLayer"), "loss is of no known kind"),
    (lambda m, n, u: setattr(cross_entropy(u), "input", "no"), "loss reads no, which no layer writes"),
    (lambda m, n, u: setattr(cross_entropy(u), "input", "image"), "loss reads image, which no layer writes"),
    (lambda m, n, u: setattr(cross_entropy(u), "input", "outHidden2"), "outHidden2, which is not the output of a soft"),
    (lambda m, n, u: setattr(cross_entropy(u), "target", "y"), r"target y is not among .* \['image', 'output_true'\]"),
    (lambda m, n, u: u.ClearField("optimizer"), "has no optimizer; expected SGD or Adam"),
    (lambda m, n, u: u.ClearField("epochs"), "settings lack epochs"),
    (lambda m, n, u: sgd(u).ClearField("learningRate"), "settings lack learningRate"),
    (lambda m, n, u: setattr(u.epochs, "defaultValue", 0), "epochs = 0 is not possible; allowed: 1 or more"),
    (lambda m, n, u: setattr(sgd(u).miniBatchSize, "defaultValue", 7), "batch_size = 7 is not allowed by the model"),
    (lambda m, n, u: setattr(sgd(u).learningRate, "defaultValue", float("nan")), "learning_rate = nan is not possible"),
]


@pytest.mark.parametrize(("edit", "words"), REFUSED_MODELS)
def test_a_model_that_cannot_be_trained_here_is_refused_in_words(edit, words):
    with pytest.raises(ValueError, match=words) as raised:
        read_contract(edited(edit))
    assert "\n" not in str(raised.value)


CONV1, RELU1, POOLING1, FLATTEN1, HIDDEN1 = 0, 1, 2, 6, 7
REFUSED_LAYERS = [
    (
        CONV1,
        lambda it: halve(it.convolution.weights),
        "conv1.weights is updatable but not float32; store it as float32",
    ),
    (CONV1, lambda it: setattr(it.convolution.bias, "isUpdatable", False), "conv1.bias is not marked updatable"),
    (CONV1, lambda it: it.convolution.weights.floatValue.pop(), "conv1.weights holds 287 numbers"),
    (CONV1, lambda it: it.convolution.ClearField("valid"), "layer conv1 does not say how it pads"),
    (CONV1, lambda it: it.convolution.stride.append(1), "layer conv1 has a setting of 3 numbers"),
    (CONV1, lambda it: it.convolution.stride.__setitem__(0, 0), "layer conv1 has a kernel, stride.*below one"),
    (CONV1, lambda it: setattr(it.convolution, "nGroups", 3), "layer conv1 expects 3 channels, its input has 1"),
    (CONV1, lambda it: it.input.append("image"), "layer conv1 takes its weights from another layer"),
    (CONV1, lambda it: setattr(it.convolution.same, "asymmetryMode", 5), "layer conv1 has an unknown asymmetry"),
    (RELU1, lambda it: it.activation.ELU.SetInParent(), "layer relu1 is an activation of kind ELU"),
    (RELU1, lambda it: it.activation.Clear(), "layer relu1 is an activation of kind None"),
    (
        RELU1,
        lambda it: setattr(it, "isUpdatable", True),
        "layer relu1 is of kind activation, which cannot be updatable",
    ),
    (RELU1, lambda it: setattr(it, "name", "conv1"), "2 layers are called conv1"),
    (RELU1, lambda it: it.input.__setitem__(0, "nowhere"), "layer relu1 reads blob nowhere"),
    (RELU1, lambda it: it.input.append("outConv1"), "layer relu1 has 2 inputs, expected one"),
    (RELU1, lambda it: it.output.append("more"), "layer relu1 has 2 outputs, expected one"),
    (RELU1, lambda it: it.output.__setitem__(0, "image"), "layer relu1 writes blob image, which exists already"),
    (
        RELU1,
        lambda it: it.lrn.SetInParent(),
        "layer relu1 is of kind lrn, which fedsim does not run; kinds it runs: co",
    ),
    (RELU1, lambda it: it.ClearField("activation"), "layer relu1 is of kind None"),
    (POOLING1, lambda it: setattr(it.pooling, "type", 2), "layer pooling1 is a pooling of another type than MAX"),
    (POOLING1, lambda it: it.pooling.kernelSize.__setitem__(0, 40), "layer pooling1 would write blob .* of shape"),
    (POOLING1, lambda it: it.upsample.scalingFactor.extend([9999, 9999]), "layer pooling1 would write blob"),
    (FLATTEN1, lambda it: setattr(it.flatten, "mode", 3), "layer flatten1 has an unknown order 3"),
    (HIDDEN1, lambda it: setattr(it.innerProduct, "inputChannels", 9), "layer hidden1 expects 9 channels, .* has 1152"),
    (HIDDEN1, lambda it: setattr(it.innerProduct, "int8DynamicQuantize", True), "layer hidden1 quantises its input"),
]


@pytest.mark.parametrize(("position", "edit", "words"), REFUSED_LAYERS)
def test_a_layer_that_cannot_be_run_is_refused_in_words(position, edit, words):
    with pytest.raises(ValueError, match=words) as raised:
        read_contract(edited(lambda model, network, update: edit(network.layers[position])))
    assert "\n" not in str(raised.value)


def test_a_softmax_over_a_map_under_cross_entropy_is_refused():
    data = MODELS["cce with softmax over a map (conv head)"]().SerializeToString()
    with pytest.raises(ValueError, match=r"cross entropy reads a map of shape \[3, 8, 8\]"):
        read_contract(data)


@pytest.mark.parametrize(
    "name",
    ["frozen: add, concat, permute, leaky relu, upsample, batchnorm below one updatable fc", "spec version 3"],
)
def test_what_a_phone_would_refuse_may_still_be_simulated(name):
    assert read_contract(MODELS[name]().SerializeToString()).parameters > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 21}, "epochs = 21 is not allowed by the model; allowed: 1, 2, 3, .*, 20"),
        ({"epochs": 0}, "epochs = 0 is not possible; allowed: 1 or more"),
        ({"batch_size": 10}, "batch_size = 10 is not allowed by the model; allowed: 1, 2, 4, 8, 16, 20, 32, 64, 128"),
        ({"learning_rate": 1.5}, "learning_rate = 1.5 is not allowed by the model; allowed: 0 to 1"),
        ({"learning_rate": -0.1}, "learning_rate = -0.1 is not possible; allowed: 0 or more"),
        ({"learning_rate": float("inf")}, "learning_rate = inf is not possible"),
        ({"momentum": 1.01}, "momentum = 1.01 is not allowed by the model; allowed: 0 to 1"),
        ({"optimizer": "adam"}, "optimizer = adam is not allowed by the model; allowed: sgd"),
        ({"beta1": 0.5}, "beta1 = 0.5 has no effect with sgd; leave it at 0.9"),
    ],
)
def test_training_settings_that_a_phone_would_refuse_are_refused(lenet, change, words):
    for act in (check_training, with_training):
        with pytest.raises(ValueError, match=words):
            act(lenet, replace(SGD, **change))


def test_momentum_makes_no_sense_with_adam():
    with pytest.raises(ValueError, match=r"momentum = 0\.9 has no effect with adam; leave it at 0.0"):
        check_training(read_contract(lenet_contract(ADAM)), replace(ADAM, momentum=0.9))


def test_what_a_file_cannot_hold_is_free(lenet):
    check_training(lenet, replace(SGD, shuffle=False, epsilon_form="mps", proximal_mu=0.1))


@pytest.mark.parametrize("training", [SGD, ADAM])
def test_other_training_settings_are_written_and_nothing_else_changes(training):
    contract = read_contract(lenet_contract(training))
    weights = initial_weights(contract, np.random.default_rng(0))
    contract = with_weights(contract, weights)
    other = replace(training, epochs=20, batch_size=4, learning_rate=0.125, shuffle=False)
    changed = with_training(contract, other)
    assert vars(changed) == vars(contract) | {"file": changed.file, "slots": changed.slots, "training": other}
    assert vars(read_contract(changed.file)) == vars(changed)
    np.testing.assert_array_equal(read_weights(changed.file, changed.slots), weights)
    assert with_training(changed, training).file == contract.file


def test_the_architecture_id_does_not_depend_on_the_weights_but_on_all_else(lenet):
    weights = initial_weights(lenet, np.random.default_rng(0))
    assert architecture_id(with_weights(lenet, weights)) == architecture_id(lenet)
    others = [
        with_training(lenet, replace(SGD, epochs=1)),
        read_contract(lenet_contract(SGD)),
        read_contract(lenet_contract(SGD, flatten="channel_last", shuffle_seed=7)),
    ]
    assert len({architecture_id(contract) for contract in (lenet, *others)}) == 4


def test_contracts_of_equal_files_are_equal():
    data = MODELS["int8 weights in a frozen conv below the updatable layer"]().SerializeToString()
    one, same, other = read_contract(data), read_contract(data), read_contract(lenet_contract(SGD))
    assert one == same
    assert {one, same, other} == {one, other}


def test_the_ids_are_sha256_of_the_zeroed_file_and_of_the_vectors_bytes(lenet):
    assert architecture_id(lenet) == hashlib.sha256(lenet.file).hexdigest()
    vector = np.array([1, -2, 0.5], np.float32)
    assert weights_id(vector) == hashlib.sha256(bytes.fromhex("0000803f000000c00000003f")).hexdigest()
    assert weights_id(vector) != weights_id(-vector)
