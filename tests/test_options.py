from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynqpy.broker.messages import TaskMessage, TaskState
from asynqpy.options import (
    Draft,
    TaskOptions,
    check_positive,
    draft,
    merge,
    seconds,
    validate,
)

#: Examples may take their time: the machine has other work too.
unhurried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOW = 1_700_000_000.25


def at(offset: float, zone: timezone = UTC) -> datetime:
    """The instant ``offset`` seconds from NOW."""
    return datetime.fromtimestamp(NOW + offset, zone)


def a_draft(payload: bytes | None = b"p", **options: Any) -> Draft:
    return draft("email:welcome", payload, options_of(**options), NOW, token="token")


def message_of(**options: Any) -> TaskMessage:
    return a_draft(**options).task.message


def options_of(**options: Any) -> TaskOptions:
    return cast("TaskOptions", options)


# ── defaults ────────────────────────────────────────────────────────────────────────────────


def test_defaults_are_those_of_asynq() -> None:
    message = message_of()
    assert message == TaskMessage(
        type="email:welcome",
        payload=b"p",
        id=message.id,
        queue="default",
        max_retry=25,
        timeout=1_800,
    )
    assert uuid.UUID(message.id).version == 4


def test_id_is_new_for_each_task() -> None:
    assert message_of().id != message_of().id


def test_task_without_delay_or_group_is_pending_now() -> None:
    made = a_draft()
    assert (made.task.state, made.task.score, made.task.lock_ttl) == (TaskState.PENDING, 0, 0)
    assert made.next_process_at == NOW


def test_timeout_of_half_an_hour_holds_when_neither_limit_is_given() -> None:
    assert message_of(timeout=0).timeout == 1_800


def test_deadline_alone_sets_no_timeout() -> None:
    message = message_of(deadline=at(60))
    assert (message.timeout, message.deadline) == (0, 1_700_000_060)


def test_timeout_and_deadline_may_stand_together() -> None:
    message = message_of(timeout=5, deadline=at(60))
    assert (message.timeout, message.deadline) == (5, 1_700_000_060)


@pytest.mark.parametrize("given", [{}, {"min_replicas": 0}, {"min_replicas": None}])
def test_task_waits_for_no_replica_unless_it_is_told_to(given: dict[str, Any]) -> None:
    assert a_draft(**given).task.min_replicas == 0


def test_replicas_are_no_matter_of_the_message() -> None:
    made = a_draft(min_replicas=2, task_id="a")
    assert made.task.min_replicas == 2
    assert made.task.message == message_of(task_id="a")


def test_max_retry_zero_stays_zero() -> None:
    assert message_of(max_retry=0).max_retry == 0


def test_headers_and_group_are_in_the_message() -> None:
    message = message_of(headers={"trace": "abc"}, group="g1")
    assert (message.headers, message.group_key) == ({"trace": "abc"}, "g1")


@pytest.mark.parametrize("name", TaskOptions.__annotations__)
def test_none_is_the_same_as_absent(name: str) -> None:
    options = options_of(task_id="a1") | options_of(**{name: None})
    validate(options)
    absent = options_of(task_id="a1") if name != "task_id" else options_of()
    made, expected = draft("t", b"p", options, NOW), draft("t", b"p", absent, NOW)
    if name == "task_id":
        assert made.task.message.id != expected.task.message.id
    else:
        assert made == expected


# ── rounding ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "stored"),
    [(0.001, 1), (1, 1), (1.5, 2), (timedelta(microseconds=1), 1), (timedelta(minutes=1), 60)],
)
def test_durations_are_rounded_up(given: Any, stored: int) -> None:
    message = message_of(timeout=given, retention=given)
    assert (message.timeout, message.retention) == (stored, stored)


def test_instants_are_rounded_down() -> None:
    made = a_draft(process_at=at(10.7), deadline=at(60.7))
    assert (made.task.score, made.task.message.deadline) == (1_700_000_010, 1_700_000_060)
    assert made.next_process_at == NOW + 10.7


@pytest.mark.parametrize("soon", [0.001, 0.5, 0.75, 0.9])
def test_deadline_within_this_second_is_not_stored_as_past(soon: float) -> None:
    assert message_of(deadline=at(soon)).deadline == 1_700_000_001


@unhurried
@given(st.floats(0.001, 1e9), st.floats(0, 1))
def test_deadline_is_never_stored_as_past(ahead: float, fraction: float) -> None:
    now = 1_700_000_000 + fraction
    instant = datetime.fromtimestamp(now + ahead, UTC)
    stored = draft("t", None, options_of(deadline=instant), now).task.message.deadline
    assert stored > now


def test_time_zone_of_an_instant_does_not_matter() -> None:
    east = timezone(timedelta(hours=9))
    made = a_draft(process_at=at(10, east), deadline=at(60, east))
    assert (made.task.score, made.task.message.deadline) == (1_700_000_010, 1_700_000_060)


# ── where a task goes ───────────────────────────────────────────────────────────────────────


def test_delayed_task_is_scheduled() -> None:
    made = a_draft(process_in=timedelta(minutes=1))
    assert (made.task.state, made.task.score) == (TaskState.SCHEDULED, 1_700_000_060)
    assert made.next_process_at == NOW + 60


@pytest.mark.parametrize("offset", [-86_400, -0.001, 0])
def test_process_at_in_the_past_means_now(offset: float) -> None:
    made = a_draft(process_at=at(offset))
    assert (made.task.state, made.next_process_at) == (TaskState.PENDING, NOW)


def test_process_in_nothing_means_now() -> None:
    assert a_draft(process_in=0).task.state is TaskState.PENDING


def test_grouped_task_is_aggregating_with_the_time_it_joined() -> None:
    made = a_draft(group="g1")
    assert (made.task.state, made.task.score) == (TaskState.AGGREGATING, 1_700_000_000)
    assert made.next_process_at is None


def test_delayed_task_of_a_group_waits_in_scheduled() -> None:
    made = a_draft(group="g1", process_in=60)
    assert (made.task.state, made.task.message.group_key) == (TaskState.SCHEDULED, "g1")


def test_token_goes_only_with_an_id_of_the_caller() -> None:
    assert a_draft(task_id="a1").task.token == "token"
    assert a_draft().task.token == ""


# ── unique ──────────────────────────────────────────────────────────────────────────────────


def test_lock_is_named_by_type_payload_and_queue() -> None:
    assert message_of(unique=10).unique_key == (
        "asynq:{default}:unique:email:welcome:83878c91171338902e0fe0fb97a8c47a"
    )
    assert message_of(unique=10, queue="low").unique_key.startswith("asynq:{low}:unique:")


def test_lock_tells_no_payload_from_an_empty_one() -> None:
    absent = a_draft(None, unique=10).task.message
    empty = a_draft(b"", unique=10).task.message
    assert absent.unique_key == "asynq:{default}:unique:email:welcome:"
    assert empty.unique_key == absent.unique_key + "d41d8cd98f00b204e9800998ecf8427e"
    assert absent.payload == empty.payload == b""


def test_task_that_is_not_unique_has_no_lock() -> None:
    assert message_of().unique_key == ""


@pytest.mark.parametrize(
    ("options", "ttl"),
    [
        ({"unique": 10}, 10),
        ({"unique": 0.2}, 1),
        ({"unique": timedelta(milliseconds=1_500)}, 2),
        ({"unique": 10, "process_in": 100}, 110),
        ({"unique": 0.5, "process_in": 100.75}, 102),
        ({"unique": 10, "process_at": at(100)}, 110),
        ({"unique": 10, "process_at": at(-100)}, 10),
        ({"unique": 10, "group": "g1"}, 10),
    ],
)
def test_lock_lasts_for_delay_and_ttl_rounded_up(options: dict[str, Any], ttl: int) -> None:
    assert a_draft(**options).task.lock_ttl == ttl


# ── precedence ──────────────────────────────────────────────────────────────────────────────


def test_options_of_the_call_come_over_those_of_the_task() -> None:
    merged = merge(options_of(queue="low", max_retry=3), options_of(queue="critical"))
    assert merged == {"queue": "critical", "max_retry": 3}


@pytest.mark.parametrize("name", TaskOptions.__annotations__)
def test_none_in_the_call_leaves_the_option_of_the_task(name: str) -> None:
    base = {"queue": "low", "process_in": 5, "headers": {"a": "1"}, "unique": 9, "max_retry": 0}
    assert merge(options_of(**base), options_of(**{name: None})) == base
    assert merge(options_of(**{name: None}), options_of(**base)) == base


def test_merging_leaves_both_sides_as_they_were() -> None:
    base, over = options_of(process_in=5, headers={"a": "1"}), options_of(process_at=at(60))
    merge(base, over)
    assert base == {"process_in": 5, "headers": {"a": "1"}}
    assert over == {"process_at": at(60)}


def test_merged_options_share_no_headers_with_those_they_came_from() -> None:
    base, over = options_of(headers={}), options_of(headers={})
    merged = merge(base, over)
    assert merged["headers"] is not base["headers"]
    assert merged["headers"] is not over["headers"]
    assert merge(base, options_of())["headers"] is not base["headers"]


@pytest.mark.parametrize(
    ("base", "over", "due"),
    [
        ({"process_in": 5}, {"process_at": at(60)}, 60),
        ({"process_at": at(60)}, {"process_in": 5}, 5),
        ({"process_at": at(60)}, {"queue": "low"}, 60),
        ({}, {"process_at": at(60), "process_in": 5}, 5),
        ({}, {"process_in": 5, "process_at": at(60)}, 60),
        ({"process_at": at(9)}, {"process_in": 5, "process_at": at(60)}, 60),
        ({"process_in": 9}, {"process_at": at(60), "process_in": 5}, 5),
    ],
)
def test_process_at_and_process_in_share_a_slot_and_the_last_wins(
    base: dict[str, Any], over: dict[str, Any], due: float
) -> None:
    merged = merge(options_of(**base), options_of(**over))
    made = draft("t", None, merged, NOW)
    assert made.next_process_at == NOW + due


def test_last_of_process_at_and_process_in_wins_within_one_task_too() -> None:
    assert a_draft(process_in=5, process_at=at(60)).next_process_at == NOW + 60
    assert a_draft(process_at=at(60), process_in=5).next_process_at == NOW + 5


def test_headers_are_merged_one_by_one() -> None:
    base = options_of(headers={"trace": "abc", "user": "1"})
    merged = merge(base, options_of(headers={"user": "2", "lang": "de"}))
    assert merged["headers"] == {"trace": "abc", "user": "2", "lang": "de"}


# ── validation ──────────────────────────────────────────────────────────────────────────────


def test_every_option_may_be_given_at_once() -> None:
    options = options_of(
        queue="low",
        task_id="a1",
        max_retry=0,
        timeout=timedelta(seconds=1),
        deadline=at(60),
        process_at=at(1),
        process_in=0,
        unique=0.1,
        retention=0,
        group="g1",
        headers={"k": "", "": "v"},
        min_replicas=0,
    )
    validate(options)
    assert options.keys() == TaskOptions.__annotations__.keys()


NEVER = datetime.max.replace(tzinfo=timezone(-timedelta(hours=12)))
"""A moment of the year 10000, in UTC."""


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"queue": ""}, ValueError, "queue must not be blank"),
        ({"queue": " \n"}, ValueError, "queue must not be blank"),
        ({"retry": None}, TypeError, "unknown task option 'retry'"),
        ({"queue": "a{b"}, ValueError, "queue 'a{b' must not contain braces"),
        ({"queue": "}"}, ValueError, "must not contain braces"),
        ({"queue": "\udcff"}, ValueError, "queue is not valid Unicode"),
        ({"task_id": ""}, ValueError, "task_id must not be blank"),
        ({"task_id": 7}, TypeError, "task_id must be a str, not int"),
        ({"group": "\t"}, ValueError, "group must not be blank"),
        ({"group": b"g"}, TypeError, "group must be a str, not bytes"),
        ({"max_retry": -1}, ValueError, "max_retry must be between 0 and 2147483647, not -1"),
        ({"max_retry": 2**31}, ValueError, "max_retry must be between"),
        ({"max_retry": True}, TypeError, "max_retry must be an int, not bool"),
        ({"max_retry": "3"}, TypeError, "max_retry must be an int, not str"),
        ({"max_retry": 3.0}, TypeError, "max_retry must be an int, not float"),
        ({"min_replicas": -1}, ValueError, "min_replicas must be between 0 and"),
        ({"min_replicas": True}, TypeError, "min_replicas must be an int, not bool"),
        ({"timeout": -1}, ValueError, "timeout must be between 0 and 100 years, not -1"),
        ({"timeout": "5s"}, TypeError, "timeout must be a timedelta or seconds, not str"),
        ({"timeout": True}, TypeError, "timeout must be a timedelta or seconds, not bool"),
        ({"timeout": float("nan")}, ValueError, "timeout must be between"),
        ({"timeout": float("inf")}, ValueError, "timeout must be between"),
        ({"timeout": 10**400}, ValueError, "timeout must be between"),
        ({"retention": timedelta(-1)}, ValueError, "retention must be between"),
        ({"retention": timedelta.max}, ValueError, "retention must be between"),
        ({"process_in": -0.1}, ValueError, "process_in must be between"),
        ({"unique": 0}, ValueError, "unique must be longer than 0"),
        ({"unique": timedelta(0)}, ValueError, "unique must be longer than 0"),
        ({"unique": -1}, ValueError, "unique must be between"),
        ({"unique": True}, TypeError, "unique must be a timedelta or seconds, not bool"),
        ({"deadline": datetime(2030, 1, 1)}, ValueError, r"deadline .* write datetime.now\(UTC\)"),
        ({"process_at": datetime(2030, 1, 1)}, ValueError, "process_at must have a time zone"),
        ({"process_at": 1_700_000_000}, TypeError, "process_at must be a datetime, not int"),
        ({"process_at": NEVER}, ValueError, "process_at must be within the years 1 to 9999"),
        ({"headers": ["a"]}, TypeError, "headers must be a mapping of str to str, not list"),
        ({"headers": {"a": 1}}, TypeError, "headers must map str to str, not 'a' to 1"),
        ({"headers": {1: "a"}}, TypeError, "headers must map str to str, not 1 to 'a'"),
        ({"headers": {"a": "\ud800"}}, ValueError, r"headers\['a'\] is not valid Unicode"),
        ({"headers": {"\ud800": "a"}}, ValueError, "headers key is not valid Unicode"),
        ({"retry": 3}, TypeError, "unknown task option 'retry'; there are deadline, group, .*"),
    ],
)
def test_option_that_makes_no_sense_is_refused(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        validate(options_of(**options))


@pytest.mark.parametrize("offset", [-86_400, -0.001, 0])
def test_deadline_that_has_passed_is_refused(offset: float) -> None:
    with pytest.raises(ValueError, match=r"^the deadline 2023-11-1\dT.* has passed$"):
        a_draft(deadline=at(offset))


@unhurried
@given(st.one_of(st.floats(0, 3e9), st.timedeltas(timedelta(0), timedelta(days=36_000))))
def test_durations_are_seconds_whatever_they_are_given_as(value: float | timedelta) -> None:
    expected = value.total_seconds() if isinstance(value, timedelta) else value
    assert seconds("timeout", value) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.5, 0.5), (timedelta(minutes=1), 60.0)])
def test_positive_duration_is_seconds(value: Any, expected: float) -> None:
    assert check_positive("patience", value) == expected


@pytest.mark.parametrize("value", [0, timedelta(0)])
def test_positive_duration_is_more_than_nothing(value: Any) -> None:
    with pytest.raises(ValueError, match="patience must be longer than 0"):
        check_positive("patience", value)


def test_ids_that_are_made_are_random_uuids_of_version_four() -> None:
    ids = [a_draft().task.message.id for _ in range(2_000)]
    uuids = [uuid.UUID(made) for made in ids]
    assert [str(each) for each in uuids] == ids
    assert {(each.version, each.variant) for each in uuids} == {(4, uuid.RFC_4122)}
    assert len(set(ids)) == 2_000
    values = [{each.int >> bit & 1 for each in uuids} for bit in range(128)]
    assert values.count({0, 1}) == 122  # all but those of version and variant
