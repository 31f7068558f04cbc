from __future__ import annotations

import enum
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypedDict

import msgspec
import pytest
from pydantic import BaseModel, Field

from asynqpy.errors import PayloadError
from asynqpy.payload import decode, encode


@dataclass
class Point:
    x: int
    label: str | None = None


class PointStruct(msgspec.Struct):
    x: int
    label: str | None = None


class PointDict(TypedDict):
    x: int


class PointModel(BaseModel):
    x: int
    label: str | None = None


class Signup(BaseModel):
    user_id: int = Field(alias="userId")


@dataclass
class Route:
    stops: list[PointModel]


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"raw"), b"raw"),
        (memoryview(b"stride")[::2], b"srd"),
        ("grüße", "grüße".encode()),
        ("", b""),
        (b"", b""),
        (None, None),
    ],
)
def test_bytes_and_text_go_as_they_are(payload: object, data: bytes | None) -> None:
    assert encode(payload) == data


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        ({"user_id": 42}, b'{"user_id":42}'),
        ({}, b"{}"),
        ([1, "a", None], b'[1,"a",null]'),
        ((1, 2), b"[1,2]"),
        (0, b"0"),
        (False, b"false"),
        (1.5, b"1.5"),
        ({"a": {"b": None}}, b'{"a":{"b":null}}'),
        (Point(1), b'{"x":1,"label":null}'),
        (PointStruct(1), b'{"x":1,"label":null}'),
        (PointDict(x=1), b'{"x":1}'),
        (PointModel(x=1), b'{"x":1,"label":null}'),
        ([PointModel(x=1)], b'[{"x":1,"label":null}]'),
        ({1: "a"}, b'{"1":"a"}'),
        ({3}, b"[3]"),
        ({"raw": b"x"}, b'{"raw":"eA=="}'),
        (Colour.RED, b'"red"'),
        (date(2026, 1, 15), b'"2026-01-15"'),
        (datetime(2026, 1, 15, tzinfo=UTC), b'"2026-01-15T00:00:00Z"'),
        (uuid.UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (Decimal("0.1"), b'"0.1"'),
        (2**64, b"18446744073709551616"),
        (-(2**200), str(-(2**200)).encode()),
    ],
)
def test_anything_else_goes_as_json(payload: object, data: bytes) -> None:
    assert encode(payload) == data


def endless_list() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (object(), "object is nothing that JSON can hold"),
        ({"at": {"depth": object()}}, "object is nothing that JSON can hold"),
        (1j, "complex is nothing that JSON can hold"),
        (print, "builtin_function_or_method is nothing that JSON can hold"),
        (Point, "type is nothing that JSON can hold"),
        (generator(), "generator is nothing that JSON can hold"),
        ({(1, 2): 3}, "tuple is nothing that JSON can hold"),
        ({None: 3}, "NoneType is nothing that JSON can hold"),
        (ValueError("x"), "ValueError is nothing that JSON can hold"),
    ],
)
def test_what_json_has_no_form_for_is_a_type_error_that_names_it(
    payload: object, text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        encode(payload)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_number_that_json_lacks_is_refused_wherever_it_is(number: float) -> None:
    for payload in (
        number,
        [number],
        {"a": [1, {"b": number}]},
        (number,),
        {number, 1.0},
        msgspec.defstruct("Reading", [("value", float)])(number),
        [{"model": Measured(value=number)}],
    ):
        with pytest.raises(ValueError, match=f"{number} is no number that JSON can hold"):
            encode(payload)


class Measured(BaseModel):
    value: float


@pytest.mark.parametrize("payload", ["\ud800", ["\ud800"], {"\ud800": 1}])
def test_lone_surrogate_is_a_value_error(payload: object) -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        encode(payload)


def test_list_within_itself_is_a_recursion_error() -> None:
    with pytest.raises(RecursionError):
        encode(endless_list())


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (Any, {"x": 1, "label": "a"}),
        (dict[str, Any], {"x": 1, "label": "a"}),
        (Point, Point(1, "a")),
        (PointStruct, PointStruct(1, "a")),
        (PointDict, {"x": 1}),
        (PointModel, PointModel(x=1, label="a")),
        (PointModel | None, PointModel(x=1, label="a")),
    ],
)
def test_json_is_read_as_the_model_asked_for(model: Any, value: object) -> None:
    assert decode(b'{"x":1,"label":"a"}', model) == value


def test_pydantic_models_are_read_inside_of_other_types() -> None:
    assert decode(b'{"stops":[{"x":1},{"x":2}]}', Route) == Route(
        [PointModel(x=1), PointModel(x=2)]
    )


@pytest.mark.parametrize(
    "value", [Point(1), PointStruct(1), PointModel(x=1), Signup(userId=7), Route([PointModel(x=1)])]
)
def test_what_was_encoded_is_read_back_as_itself(value: object) -> None:
    data = encode(value)
    assert data is not None
    assert decode(data, type(value)) == value


def test_integers_of_any_size_come_back_exactly() -> None:
    assert decode(b'{"n":1180591620717411303424}', Any) == {"n": 2**70}


@pytest.mark.parametrize("model", [Point, PointStruct, PointDict])
def test_wrong_field_is_named_with_its_place(model: Any) -> None:
    text = rf"^the payload is not JSON of {model.__name__}: Expected `int`, got `str` - at `\$.x`$"
    with pytest.raises(PayloadError, match=text):
        decode(b'{"x":"secret"}', model)


@pytest.mark.parametrize("model", [Point, PointStruct, PointDict, PointModel])
def test_missing_field_is_named(model: Any) -> None:
    with pytest.raises(PayloadError, match=r"[Rr]equired.*`x`|x: Field required"):
        decode(b"{}", model)


def test_error_of_pydantic_is_one_line_without_the_payload() -> None:
    with pytest.raises(PayloadError) as caught:
        decode(b'{"x":"secret","label":3}', PointModel)
    assert str(caught.value) == (
        "the payload is not JSON of PointModel: x: Input should be a valid integer, unable to parse "
        "string as an integer; label: Input should be a valid string"
    )


def test_error_inside_of_a_container_has_both_places() -> None:
    with pytest.raises(PayloadError, match=r"x: Input should be .* - at `\$.stops\[0\]`$"):
        decode(b'{"stops":[{"x":"secret"}]}', Route)


@pytest.mark.parametrize("data", [b"nope", b"\xff\xfe", b'{"x":', b'"\\ud800"'])
@pytest.mark.parametrize("model", [Any, Point, PointModel])
def test_what_is_no_json_is_a_payload_error(data: bytes, model: Any) -> None:
    with pytest.raises(PayloadError, match=r"^the payload is not JSON of "):
        decode(data, model)


@pytest.mark.parametrize("model", [Any, Point, PointModel])
def test_empty_payload_is_called_so(model: Any) -> None:
    with pytest.raises(PayloadError, match=r"it is empty$"):
        decode(b"", model)


def test_json_nested_too_deep_is_a_payload_error() -> None:
    with pytest.raises(PayloadError, match="recursion"):
        decode(b"[" * 100_000, Any)


def test_generic_type_is_named_whole() -> None:
    with pytest.raises(PayloadError, match=r"JSON of list\[int\]: Expected `array`"):
        decode(b"{}", list[int])


def test_type_that_json_cannot_become_is_named() -> None:
    with pytest.raises(PayloadError, match="Odd is no type that JSON can be read as"):
        decode(b"{}", Odd)


class Odd:
    """Neither a dataclass nor anything else with fields."""
