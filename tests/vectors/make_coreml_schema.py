"""Writes fedsim/coreml/schema.binpb, the messages a Core ML model is made of, from coremltools' own descriptors.

Run as ``python tests/vectors/make_coreml_schema.py`` from the repository's root, with coremltools installed.
"""

from collections.abc import Iterator
from pathlib import Path

from coremltools.proto import Model_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet


def schema() -> FileDescriptorSet:
    """Every message and enum that ``Model`` can hold, file by file, each file after the files it imports."""
    wanted = reachable(Model_pb2.Model.DESCRIPTOR)
    files = [stripped(file, wanted) for file in imports_first(Model_pb2.DESCRIPTOR, set())]
    return FileDescriptorSet(file=files)


def reachable(root: Descriptor) -> set[str]:
    """Full names of the messages and enums that ``root``'s fields lead to, with the messages they are declared in."""
    found: set[str] = set()
    pending: list[Descriptor | EnumDescriptor | None] = [root]
    while pending:
        kind = pending.pop()
        if kind is None or kind.full_name in found:
            continue
        found.add(kind.full_name)
        pending.append(kind.containing_type)
        if isinstance(kind, Descriptor):
            pending += [field.message_type or field.enum_type for field in kind.fields]
    return found


def imports_first(file: FileDescriptor, seen: set[str]) -> Iterator[FileDescriptor]:
    """``file`` and all it imports, each once, imported files first."""
    if file.name in seen:
        return
    seen.add(file.name)
    for imported in file.dependencies:
        yield from imports_first(imported, seen)
    yield file


def stripped(file: FileDescriptor, wanted: set[str]) -> FileDescriptorProto:
    """``file`` without the messages and enums that are not in ``wanted``."""
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    _strip(proto.message_type, proto.enum_type, proto.package, wanted)
    return proto


def _strip(messages: list[DescriptorProto], enums: list, scope: str, wanted: set[str]) -> None:
    for kinds in (messages, enums):
        for index in reversed(range(len(kinds))):
            if f"{scope}.{kinds[index].name}" not in wanted:
                del kinds[index]
    for message in messages:
        _strip(message.nested_type, message.enum_type, f"{scope}.{message.name}", wanted)


if __name__ == "__main__":
    target = Path(__file__).parents[2] / "fedsim" / "coreml" / "schema.binpb"
    target.write_bytes(schema().SerializeToString(deterministic=True))
    print(f"{target.name}: {target.stat().st_size} bytes")
