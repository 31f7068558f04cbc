"""Payloads: bytes on the wire, JSON for whoever does not care for bytes."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import msgspec

from asynqpy.errors import PayloadError

T = TypeVar("T")


def encode(payload: object) -> bytes | None:
    """Bytes of a payload: bytes as they are, text as UTF-8, anything else as JSON, ``None`` as none at all.

    JSON takes dict, list, tuple, str, numbers, bool, dataclasses, ``msgspec.Struct`` and pydantic models (by their
    aliases); sets, datetimes, UUIDs, enums, and bytes inside (base64) as msgspec writes them. Raises ``TypeError`` or
    ``ValueError`` for what JSON cannot hold.
    """
    if payload is None:
        return None
    if isinstance(payload, _BYTES):
        return bytes(payload)
    if isinstance(payload, str):
        return payload.encode("utf-8")
    data = _JSON.encode(payload)
    # msgspec writes NaN and infinities as null: the handler would read a different payload than was given.
    if b"null" in data:
        _refuse_non_finite(msgspec.to_builtins(payload, enc_hook=_encode_unknown))
    return data


def _encode_unknown(value: Any) -> Any:
    """msgspec asks here about types it does not know."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"{type(value).__name__} is nothing that JSON can hold")


#: Made once, as is the tuple: a payload is encoded for every task.
_JSON = msgspec.json.Encoder(enc_hook=_encode_unknown)
_BYTES = (bytes, bytearray, memoryview)


def decode(data: bytes, model: Any) -> Any:
    """Read JSON as ``model``: a dataclass, ``msgspec.Struct``, ``TypedDict``, pydantic model or any type msgspec knows.

    Raises ``PayloadError`` naming what is wrong and where.
    """
    name = model.__name__ if isinstance(model, type) else str(model).removeprefix("typing.")
    if not data:
        raise PayloadError(f"the payload is not JSON of {name}: it is empty")
    try:
        if hasattr(model, "model_validate_json"):
            return _decode_pydantic(model, data)
        return msgspec.json.decode(data, type=model, dec_hook=_decode_unknown)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"the payload is not JSON of {name}: {error}") from error


def _decode_unknown(model: Any, value: Any) -> Any:
    """msgspec asks here about types inside of a model that it does not know."""
    if hasattr(model, "model_validate_json"):
        return _decode_pydantic(model, msgspec.json.encode(value))
    raise TypeError(f"{model.__name__} is no type that JSON can be read as")


def _decode_pydantic(model: Any, data: bytes) -> Any:
    try:
        return model.model_validate_json(data)
    except ValueError as error:
        raise ValueError(_in_one_line(error)) from error


def _in_one_line(error: Any) -> str:
    """What pydantic found wrong, without the values of the payload and the links to its manual."""
    found = [(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors()]
    return "; ".join(f"{place}: {text}" if place else text for place, text in found)


def _refuse_non_finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number that JSON can hold")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_non_finite(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_non_finite(item)
