"""Core ML's protobuf schema, so that models are parsed and written without coremltools.

``schema.binpb`` is a ``FileDescriptorSet`` of all that ``CoreML.Specification.Model`` can hold, taken from
coremltools 9 (BSD-3-Clause, see NOTICE) by ``tests/vectors/make_coreml_schema.py``. It lives in a pool of its own, so
that it does not clash with coremltools where both are loaded, as in the tests.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_POOL = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(Path(__file__).with_name("schema.binpb").read_bytes()).file:
    _POOL.AddSerializedFile(_file.SerializeToString())


def message_class(name: str) -> Any:
    """The class of the message ``CoreML.Specification.<name>``, such as ``"NeuralNetworkLayer"``."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"CoreML.Specification.{name}"))


Model: Any = message_class("Model")
"""The message that a ``.mlmodel`` file holds (Model.proto)."""


def parse_model(data: bytes) -> Any:
    """The ``Model`` message that ``data`` holds; fields newer than the schema are kept.

    Raises:
        ValueError: ``data`` is not a serialized model.
    """
    try:
        return Model.FromString(data)
    except DecodeError:
        raise ValueError(f"not a Core ML model: these {len(data)} bytes do not parse as one") from None


def serialize(model: Any) -> bytes:
    """The canonical bytes of a message: fields by number, numbers packed, maps by key; equal in, equal out."""
    return model.SerializeToString(deterministic=True)
