"""The schema file against coremltools' own descriptors, and the field numbers that the scanner takes from it."""

import subprocess
import sys
from pathlib import Path

import coremltools.proto.Model_pb2 as theirs
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from fedsim.coreml import schema
from tests.vectors import make_coreml_schema


def messages(root: Descriptor) -> dict[str, Descriptor]:
    """Every message that ``root`` can hold, by full name."""
    found, pending = {}, [root]
    while pending:
        message = pending.pop()
        if message.full_name not in found:
            found[message.full_name] = message
            pending += [field.message_type for field in message.fields if field.message_type]
    return found


def facts(field: FieldDescriptor) -> tuple:
    kind = field.message_type or field.enum_type
    oneof = field.containing_oneof.name if field.containing_oneof else None
    values = [(value.name, value.number) for value in field.enum_type.values] if field.enum_type else None
    return (
        field.name,
        field.number,
        field.type,
        field.is_repeated,
        field.is_packed,
        oneof,
        kind and kind.full_name,
        values,
    )


def test_every_message_has_the_fields_it_has_in_coremltools():
    ours, reference = messages(schema.Model.DESCRIPTOR), messages(theirs.Model.DESCRIPTOR)
    assert len(ours) > 250
    assert ours.keys() == reference.keys()
    for name, message in ours.items():
        assert list(map(facts, message.fields)) == list(map(facts, reference[name].fields)), name


def test_the_file_is_what_its_script_makes():
    file = Path(schema.__file__).with_name("schema.binpb")
    assert file.read_bytes() == make_coreml_schema.schema().SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("message", "numbers"),
    [
        ("Model", {"neuralNetwork": 500, "neuralNetworkClassifier": 403, "neuralNetworkRegressor": 303}),
        ("NeuralNetwork", {"layers": 1}),
        ("NeuralNetworkClassifier", {"layers": 1}),
        ("NeuralNetworkRegressor", {"layers": 1}),
        ("NeuralNetworkLayer", {"name": 1, "isUpdatable": 10, "convolution": 100, "innerProduct": 140}),
        ("ConvolutionLayerParams", {"outputChannels": 1, "kernelChannels": 2, "nGroups": 10, "kernelSize": 20}),
        ("ConvolutionLayerParams", {"isDeconvolution": 60, "hasBias": 70, "weights": 90, "bias": 91}),
        (
            "InnerProductLayerParams",
            {"inputChannels": 1, "outputChannels": 2, "hasBias": 10, "weights": 20, "bias": 21},
        ),
        ("WeightParams", {"floatValue": 1, "float16Value": 2, "rawValue": 30, "int8RawValue": 31}),
        ("WeightParams", {"quantization": 40, "isUpdatable": 50}),
    ],
)
def test_the_scanners_field_numbers_are_those_of_coremltools(message, numbers):
    fields = messages(theirs.Model.DESCRIPTOR)[f"CoreML.Specification.{message}"].fields_by_name
    assert {name: fields[name].number for name in numbers} == numbers


def test_reading_a_contract_imports_neither_coremltools_nor_torch():
    code = "import sys, fedsim.models.lenet, fedsim.coreml.lint; print({'coremltools', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_equal_messages_have_equal_bytes():
    """Plain serialisation may write a map in any order; ours may not."""
    pairs = [(f"key{i}", str(i)) for i in range(20)]
    models = []
    for order in (pairs, pairs[::-1]):
        model = schema.Model()
        for key, value in order:
            model.description.metadata.userDefined[key] = value
        models.append(schema.serialize(model))
    assert models[0] == models[1]
    assert schema.serialize(schema.parse_model(models[0])) == models[0]


@pytest.mark.parametrize("data", [b"\xff", b"\x12\x05abc", b"not a model at all"])
def test_what_is_no_model_is_refused(data):
    with pytest.raises(ValueError, match=f"not a Core ML model: these {len(data)} bytes"):
        schema.parse_model(data)
