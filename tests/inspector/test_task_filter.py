from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from asynqpy import TaskFilter, TaskInfo, TaskState
from asynqpy.broker.messages import TaskMessage


def task(payload: bytes = b"", error: str = "", type: str = "email:welcome") -> TaskInfo:
    message = TaskMessage(type=type, id="t1", payload=payload, error_msg=error)
    return TaskInfo.of(message, TaskState.ARCHIVED)


def test_filter_that_asks_for_nothing_fits_everything() -> None:
    assert TaskFilter().fits(task(b"\xff"), None)


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("email:welcome", True),
        ("email:*", True),
        ("*:w?lcome", True),
        ("email", False),
        ("EMAIL:*", False),
    ],
)
def test_type_is_a_pattern(pattern: str, fits: bool) -> None:
    assert TaskFilter(type=pattern).fits(task(), None) is fits


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({"user.id": 42}, True),
        ({"user.id": 42, "tags.1": "b"}, True),
        ({"user.id": "42"}, False),
        ({"user.id": 42, "tags.1": "a"}, False),
        ({"user": {"id": 42}}, True),
        ({"tags.9": None}, False),
        ({"tags.x": None}, False),
        ({"nothing": None}, True),
        ({"missing": None}, False),
        ({"user.id.deeper": 42}, False),
    ],
)
def test_payload_fields_are_looked_up_by_their_path(fields: dict[str, Any], fits: bool) -> None:
    payload = b'{"user": {"id": 42}, "tags": ["a", "b"], "nothing": null}'
    assert TaskFilter(payload=fields).fits(task(payload), None) is fits


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe", b"not json", b"[1]", b"7"])
def test_payload_without_the_field_does_not_fit(payload: bytes) -> None:
    assert not TaskFilter(payload={"id": 1}).fits(task(payload), None)


def test_error_is_a_part_of_the_text_in_whatever_case() -> None:
    assert TaskFilter(error="timeout").fits(task(error="Bank TIMEOUT: 30 s"), None)
    assert not TaskFilter(error="timeout").fits(task(error="no such user"), None)


@pytest.mark.parametrize(
    ("older", "newer", "age", "fits"),
    [
        (60, None, 61.0, True),
        (60, None, 59.0, False),
        (None, timedelta(minutes=1), 59.0, True),
        (None, timedelta(minutes=1), 61.0, False),
        (10, 60, 30.0, True),
        (10, 60, 5.0, False),
        (60, None, None, False),
        (None, 60, None, False),
    ],
)
def test_age_is_between_the_bounds(
    older: float | None, newer: float | timedelta | None, age: float | None, fits: bool
) -> None:
    assert TaskFilter(older_than=older, newer_than=newer).fits(task(), age) is fits


def test_everything_that_is_given_has_to_fit() -> None:
    where = TaskFilter(type="email:*", error="boom", payload={"id": 1})
    assert where.fits(task(b'{"id":1}', "boom"), None)
    assert not where.fits(task(b'{"id":2}', "boom"), None)
    assert not where.fits(task(b'{"id":1}', ""), None)
    assert not where.fits(task(b'{"id":1}', "boom", type="sms"), None)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"type": 5}, TypeError),
        ({"error": b"boom"}, TypeError),
        ({"payload": [("id", 1)]}, TypeError),
        ({"older_than": 0}, ValueError),
        ({"newer_than": -1}, ValueError),
        ({"older_than": "1h"}, TypeError),
    ],
)
def test_filter_that_makes_no_sense_is_refused(bad: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        TaskFilter(**bad)
