from __future__ import annotations

import asyncio
import copy
import dataclasses
import inspect
import pickle
import re
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import fastapi
import msgspec
import pytest
from fastapi.encoders import jsonable_encoder

from asynqpy.broker.messages import TaskMessage
from asynqpy.errors import PayloadError
from asynqpy.options import TaskOptions
from asynqpy.task import ActiveTask, CancelCause, Task, TaskInfo, TaskState, current_task
from asynqpy.task import running_task as running

DEADLINE = datetime(2026, 1, 15, tzinfo=UTC)


class User(msgspec.Struct):
    user_id: int


class Written:
    """Takes results."""

    def __init__(self) -> None:
        self.data: list[bytes] = []

    async def write(self, data: bytes) -> None:
        self.data.append(data)


def active(payload: bytes = b"", **fields: Any) -> ActiveTask:
    message = TaskMessage(type="email:welcome", id="a1", payload=payload, max_retry=25, **fields)
    return ActiveTask(message, deadline=DEADLINE.timestamp(), write_result=Written().write)


# ── what is enqueued ────────────────────────────────────────────────────────────────────────


def test_payload_is_encoded_once_when_the_task_is_made() -> None:
    payload = {"user_id": 42}
    task = Task("email:welcome", payload)
    payload["user_id"] = 43
    assert task.payload == b'{"user_id":42}'


def test_absent_payload_is_not_an_empty_one() -> None:
    assert Task("t").payload is None
    assert Task("t", b"").payload == b""


def test_task_keeps_its_options_and_shows_its_headers() -> None:
    task = Task("t", headers={"trace": "abc"}, max_retry=3)
    assert task.options == {"headers": {"trace": "abc"}, "max_retry": 3}
    assert task.headers == {"trace": "abc"}
    assert Task("t").headers == {}


def test_headers_changed_after_the_check_change_no_task() -> None:
    headers: dict[str, Any] = {}
    task = Task("t", headers=headers)
    headers["trace"] = 5
    assert task.headers == task.options["headers"] == {}


@pytest.mark.parametrize("name", ["type", "payload", "options", "headers"])
def test_task_is_frozen(name: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Task("t"), name, "u")


def test_options_that_are_shown_are_a_copy() -> None:
    task = Task("t", queue="low", headers={"trace": "abc"})
    task.options["queue"] = "high"
    cast("dict[str, str]", task.headers)["trace"] = "other"
    cast("dict[str, str]", task.options["headers"])["trace"] = "other"
    assert task.options == {"queue": "low", "headers": {"trace": "abc"}}


def test_option_that_is_none_was_not_given() -> None:
    options: TaskOptions = {"headers": None, "process_in": None, "queue": None, "max_retry": 0}
    task = Task("t", **options)
    assert task.options == {"max_retry": 0}
    assert task.headers == {}


def test_equal_tasks_are_equal_and_have_one_hash() -> None:
    task, same = Task("t", {"a": 1}, queue="low"), Task("t", b'{"a":1}', queue="low")
    assert task == same
    assert len({task, same, Task("t", {"a": 1}), Task("t", {"a": 2})}) == 3
    assert Task("t") != Task("t", b"")


def test_task_survives_copy_and_pickle() -> None:
    task = Task("t", {"a": 1}, timeout=timedelta(seconds=5), headers={"trace": "abc"})
    assert copy.deepcopy(task) == pickle.loads(pickle.dumps(task)) == task


def test_repr_of_a_task_is_how_to_make_it() -> None:
    task = Task("t", "p", queue="low")
    assert repr(task) == "Task('t', b'p', **{'queue': 'low'})"


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ([""], {}, ValueError, "type must not be blank"),
        ([" \t"], {}, ValueError, "type must not be blank"),
        ([b"t"], {}, TypeError, "type must be a str, not bytes"),
        (["\ud800"], {}, ValueError, "type is not valid Unicode"),
        (["t", object()], {}, TypeError, "the payload of a 't' task must be .* object"),
        (["t", [float("nan")]], {}, ValueError, "the payload of a 't' task .* nan"),
        (["t", "\ud800"], {}, ValueError, "the payload of a 't' task .* surrogates"),
        (["t"], {"retries": 3}, TypeError, "unknown task option 'retries'; there are .*queue"),
        (["t"], {"max_retry": -1}, ValueError, "max_retry must be between 0 and"),
    ],
)
def test_bad_task_is_never_made(
    arguments: list[Any], options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Task(*arguments, **options)


def test_payload_within_itself_is_a_type_error() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match="what JSON can hold: maximum recursion depth"):
        Task("t", endless)


# ── what is looked at ───────────────────────────────────────────────────────────────────────


def test_info_lays_every_field_of_a_message_out() -> None:
    message = TaskMessage(
        type="t",
        id="a1",
        payload=b"p",
        queue="low",
        max_retry=5,
        retried=2,
        error_msg="boom",
        timeout=30,
        deadline=1_700_003_600,
        last_failed_at=1_700_000_000,
        retention=3_600,
        completed_at=1_700_000_100,
        group_key="g1",
        headers={"k": "v"},
    )
    assert TaskInfo.of(message, TaskState.COMPLETED, result=b"r") == TaskInfo(
        id="a1",
        queue="low",
        type="t",
        payload=b"p",
        headers={"k": "v"},
        state=TaskState.COMPLETED,
        max_retry=5,
        retried=2,
        last_error="boom",
        last_failed_at=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        timeout=timedelta(seconds=30),
        deadline=datetime(2023, 11, 14, 23, 13, 20, tzinfo=UTC),
        group="g1",
        retention=timedelta(hours=1),
        completed_at=datetime(2023, 11, 14, 22, 15, tzinfo=UTC),
        result=b"r",
    )


def test_info_says_none_for_what_is_not_set() -> None:
    info = TaskInfo.of(TaskMessage(type="t", id="a1"), TaskState.ACTIVE)
    unset = ["last_failed_at", "timeout", "deadline", "next_process_at", "retention"]
    assert [getattr(info, name) for name in [*unset, "completed_at", "result"]] == [None] * 7


def test_info_takes_negative_durations_of_go_for_none() -> None:
    message = TaskMessage(type="t", id="a1", timeout=-1, retention=-1)
    info = TaskInfo.of(message, TaskState.PENDING)
    assert (info.timeout, info.retention) == (None, None)


def test_states_are_the_words_of_the_wire() -> None:
    assert [str(state) for state in TaskState] == [
        "active",
        "pending",
        "scheduled",
        "retry",
        "archived",
        "completed",
        "aggregating",
    ]


# ── what is handled ─────────────────────────────────────────────────────────────────────────


def test_active_task_shows_what_the_handler_needs() -> None:
    task = active(b"p", queue="low", retried=2, headers={"k": "v"})
    shown = (task.type, task.payload, task.headers, task.id, task.queue, task.retried)
    assert shown == ("email:welcome", b"p", {"k": "v"}, "a1", "low", 2)
    assert (task.max_retry, task.deadline, task.cancel_cause) == (25, DEADLINE, None)


def test_repr_of_an_active_task_counts_attempts_and_keeps_its_payload_to_itself() -> None:
    task = active(b"secret", queue="low", retried=2)
    assert repr(task) == "<ActiveTask email:welcome a1 in low, attempt 3 of 26>"


def test_payload_is_read_as_json_or_as_a_model() -> None:
    task = active(b'{"user_id":42}')
    assert task.json() == {"user_id": 42}
    assert task.json(User) == User(42)


def test_payload_of_another_shape_is_a_payload_error() -> None:
    with pytest.raises(PayloadError, match=re.escape("Expected `int`, got `str` - at `$.user_id`")):
        active(b'{"user_id":"x"}').json(User)


@pytest.mark.parametrize(
    ("result", "data"),
    [(b"raw", b"raw"), ("text", b"text"), ({"n": 1}, b'{"n":1}'), (None, b""), (User(1), None)],
)
async def test_result_is_written_as_a_payload_would_be(result: object, data: bytes | None) -> None:
    written = Written()
    task = ActiveTask(
        TaskMessage(type="t", id="a1"), deadline=DEADLINE.timestamp(), write_result=written.write
    )
    length = await task.write_result(result)
    assert written.data == [b'{"user_id":1}' if data is None else data]
    assert length == len(written.data[0])


async def test_result_that_json_cannot_hold_writes_nothing() -> None:
    with pytest.raises(TypeError, match="object is nothing that JSON can hold"):
        await active().write_result({"a": object()})


async def test_async_handler_that_would_block_its_loop_is_told_to_await() -> None:
    with pytest.raises(RuntimeError, match="in async def, await instead"):
        active().wait_for(asyncio.get_running_loop().create_future())


def test_coroutine_that_is_refused_is_closed() -> None:
    task = active()
    coroutine = task.write_result(b"done")
    with pytest.raises(RuntimeError, match="await instead"):
        task.wait_for(coroutine)
    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"


def test_there_is_no_current_task_outside_of_a_handler() -> None:
    with pytest.raises(LookupError, match="no task is being handled here"):
        current_task()


async def test_current_task_is_that_of_the_context_also_in_its_threads_and_children() -> None:
    task = active()

    async def handle() -> None:
        running.set(task)
        child = asyncio.create_task(asyncio.to_thread(current_task))
        assert current_task() is await child is task

    await asyncio.create_task(handle())
    with pytest.raises(LookupError):
        current_task()


def test_causes_of_cancellation_read_as_words() -> None:
    assert f"{CancelCause.LEASE_LOST}" == "lease lost"


def test_task_info_is_a_dataclass_as_web_frameworks_return_them() -> None:
    info = TaskInfo.of(TaskMessage(type="t", id="a1", payload=b"{}"), TaskState.PENDING)
    app = fastapi.FastAPI()

    @app.get("/")
    async def show() -> TaskInfo:
        return info

    assert jsonable_encoder(info)["id"] == "a1"
