"""The generated module against the schema it was generated from: ``make proto`` keeps them one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from asynqpy.broker import asynq_pb2

SCHEMA = Path(__file__).parents[2] / "protos" / "asynq.proto"

MESSAGE = re.compile(r"^message (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^  ((?:repeated )?[\w.]+|map<\w+, \w+>) (\w+) = (\d+);$", re.MULTILINE)

SCALARS = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_STRING: "string",
}

#: Number, type and name of a field, the type as the schema spells it.
Field = tuple[int, str, str]


def written_messages() -> dict[str, list[Field]]:
    """Each message of the schema with its fields."""
    text = re.sub(r"//.*", "", SCHEMA.read_text(encoding="utf-8"))
    return {
        message: [(int(number), kind, name) for kind, name, number in FIELD.findall(body)]
        for message, body in MESSAGE.findall(text)
    }


def generated_fields(message: Descriptor) -> Iterator[Field]:
    for field in message.fields:
        yield field.number, _kind(field), field.name


def _kind(field: FieldDescriptor) -> str:
    nested = field.message_type
    if nested is None:
        scalar = SCALARS[field.type]
        return f"repeated {scalar}" if isinstance(field.default_value, list) else scalar
    if nested.GetOptions().map_entry:
        key, value = (_kind(part) for part in nested.fields)
        return f"map<{key}, {value}>"
    return nested.full_name


def test_the_same_messages_are_generated_as_are_written() -> None:
    assert list(asynq_pb2.DESCRIPTOR.message_types_by_name) == list(written_messages())


@pytest.mark.parametrize("message", written_messages())
def test_the_same_fields_are_generated_as_are_written(message: str) -> None:
    generated = asynq_pb2.DESCRIPTOR.message_types_by_name[message]
    assert list(generated_fields(generated)) == written_messages()[message]


def test_the_schema_reader_misses_no_field() -> None:
    text = re.sub(r"//.*", "", SCHEMA.read_text(encoding="utf-8"))
    assert text.count(" = ") - 1 == sum(map(len, written_messages().values()))  # 1: `syntax =`


def test_a_program_with_its_own_schema_of_asynq_can_import_ours() -> None:
    """Protobuf keeps one pool of names per process: ours must not be the ones Go's file gives."""
    assert asynq_pb2.DESCRIPTOR.package == "asynqpy.broker"
    assert asynq_pb2.DESCRIPTOR.name == "asynqpy/broker/asynq.proto"
