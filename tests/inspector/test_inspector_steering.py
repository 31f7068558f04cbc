"""What the Inspector changes."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from asynqpy import Inspector, QueueNotEmptyError, TaskFilter, TaskNotFoundError, TaskStateError
from tests import redis_state as state
from tests.damage import seed_healthy
from tests.redis_state import (
    ask,
    dump,
    invariants,
    key,
    listed,
    message,
    messages,
    scores,
    states,
    stored_message,
    task_key,
)

QUEUE = "default"


async def test_tasks_are_run_archived_and_deleted_one_by_one(
    inspector: Inspector, redis: Redis
) -> None:
    await seed_healthy(redis)
    await inspector.run_task(QUEUE, "r")
    await inspector.archive_task(QUEUE, "s")
    await inspector.delete_task(QUEUE, "p")
    await inspector.run_task(QUEUE, "g")
    assert await states(redis, "r", "s", "p", "g") == ["pending", "archived", "", "pending"]
    assert await listed(redis, "pending") == ["locked", "r", "g"]
    assert await invariants(redis) == []


@pytest.mark.parametrize(
    ("method", "task_id", "text"),
    [
        ("run_task", "a", "task 'a' of queue 'default' is active, and cannot be run"),
        ("run_task", "p", "is pending, and cannot be run"),
        ("archive_task", "x", "is archived, and cannot be archived"),
        ("delete_task", "a", "is active, and cannot be deleted"),
        ("delete_task", "set", "is aggregating, and cannot be deleted"),
    ],
)
async def test_state_that_does_not_allow_it_is_named(
    inspector: Inspector, redis: Redis, method: str, task_id: str, text: str
) -> None:
    await seed_healthy(redis)
    before = await dump(redis)
    with pytest.raises(TaskStateError, match=text) as caught:
        await getattr(inspector, method)(QUEUE, task_id)
    assert (caught.value.task_id, caught.value.queue) == (task_id, QUEUE)
    assert f"is {caught.value.state}" in text
    assert await dump(redis) == before


async def test_task_that_is_in_no_list_is_for_the_doctor(
    inspector: Inspector, redis: Redis
) -> None:
    await state.seed_retry(redis, message("t1"), at=1)
    await ask(redis, "DEL", key(QUEUE, "retry"))
    with pytest.raises(TaskStateError, match="in none of its lists: the doctor can heal that"):
        await inspector.run_task(QUEUE, "t1")


async def test_task_is_rescheduled(inspector: Inspector, redis: Redis) -> None:
    await seed_healthy(redis)
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    for task_id in ("s", "r", "x", "p"):
        await inspector.reschedule_task(QUEUE, task_id, at)
        assert (await inspector.get_task(QUEUE, task_id)).next_process_at == at
    assert await states(redis, "s", "r", "x", "p") == ["scheduled", "retry", *["scheduled"] * 2]
    assert await invariants(redis) == []


@pytest.mark.parametrize("task_id", ["s", "r", "x", "locked", "g"])
async def test_payload_of_a_waiting_task_is_replaced_and_nothing_else(
    inspector: Inspector, redis: Redis, task_id: str
) -> None:
    await seed_healthy(redis)
    before = await dump(redis)
    expected = await stored_message(redis, task_id)
    await inspector.update_task_payload(QUEUE, task_id, {"user_id": 43})
    expected.payload = b'{"user_id":43}'
    assert await stored_message(redis, task_id) == expected
    after = await dump(redis)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {task_key(QUEUE, task_id)}
    assert after.keys() == before.keys()


async def test_payload_can_be_taken_away(inspector: Inspector, redis: Redis) -> None:
    await state.seed_scheduled(redis, message("t1"), at=time.time() + 99)
    await inspector.update_task_payload(QUEUE, "t1", None)
    assert (await stored_message(redis, "t1")).payload == b""


async def test_payload_of_a_running_task_is_not_replaced(
    inspector: Inspector, redis: Redis
) -> None:
    await seed_healthy(redis)
    with pytest.raises(TaskStateError, match="is active, and cannot be edited"):
        await inspector.update_task_payload(QUEUE, "a", b"new")
    with pytest.raises(TaskNotFoundError):
        await inspector.update_task_payload(QUEUE, "none", b"new")


async def test_what_asynqpy_does_not_know_of_a_message_stays_in_it(
    inspector: Inspector, redis: Redis
) -> None:
    field_99 = b"\x9a\x06\x05later"
    await state.seed_scheduled(redis, message("t1"), at=time.time() + 99)
    await ask(
        redis, "HSET", task_key(QUEUE, "t1"), "msg", message("t1").SerializeToString() + field_99
    )
    await inspector.update_task_payload(QUEUE, "t1", b"new")
    assert field_99 in await ask(redis, "HGET", task_key(QUEUE, "t1"), "msg")


async def test_task_is_requeued_as_if_it_were_new(inspector: Inspector, redis: Redis) -> None:
    task = message("t1", retried=25, error_msg="boom", completed_at=5, headers={"a": "1"})
    await state.seed_archived(redis, task, at=time.time())
    await inspector.requeue_task(QUEUE, "t1", payload="fixed", headers={"b": "2"})
    stored = await stored_message(redis, "t1")
    assert (stored.payload, dict(stored.headers)) == (b"fixed", {"b": "2"})
    assert (stored.retried, stored.completed_at, stored.error_msg) == (0, 0, "boom")
    assert await listed(redis, "pending") == ["t1"]
    assert await invariants(redis) == []


async def test_requeued_task_keeps_its_payload_unless_another_is_given(
    inspector: Inspector, redis: Redis
) -> None:
    await state.seed_retry(redis, message("t1", retried=3), at=1)
    await inspector.requeue_task(QUEUE, "t1")
    stored = await stored_message(redis, "t1")
    assert (stored.payload, stored.retried) == (b'{"user_id":42}', 0)


# All, or those that fit.


async def test_all_tasks_of_a_state_are_moved_with_progress(
    inspector: Inspector, redis: Redis
) -> None:
    await state.seed_many(redis, "retry", {f"t{n}": n for n in range(600)})
    told: list[tuple[int, int]] = []
    count = await inspector.run_all_tasks(
        QUEUE, "retry", on_progress=lambda done, total: told.append((done, total))
    )
    assert count == 600
    assert told == [(250, 600), (500, 600), (600, 600)]
    assert len(await listed(redis, "pending")) == 600
    assert await inspector.archive_all_tasks(QUEUE, "pending") == 600
    assert await inspector.delete_all_tasks(QUEUE, "archived") == 600
    assert await dump(redis) == {"asynq:queues": {b"default"}}


async def test_only_those_that_fit_are_moved(inspector: Inspector, redis: Redis) -> None:
    await state.seed_archived(redis, *messages(5, error_msg="bank timeout"), at=time.time())
    await state.seed_archived(redis, *messages(4, "x", error_msg="no user"), at=time.time())
    where = TaskFilter(error="timeout")
    assert await inspector.run_all_tasks(QUEUE, "archived", where=where) == 5
    assert sorted(await listed(redis, "pending")) == [f"t{n}" for n in range(5)]
    assert await inspector.delete_all_tasks(QUEUE, "archived", where=where) == 0
    assert sorted(await scores(redis, "archived")) == ["x0", "x1", "x2", "x3"]


async def test_tasks_of_a_group_are_moved(inspector: Inspector, redis: Redis) -> None:
    await seed_healthy(redis)
    assert await inspector.run_all_tasks(QUEUE, "aggregating", group="well") == 1
    assert await inspector.delete_all_tasks(QUEUE, "aggregating", group="none") == 0
    assert await invariants(redis) == []


async def test_what_comes_after_the_beginning_is_not_meant(
    inspector: Inspector, redis: Redis
) -> None:
    await state.seed_many(redis, "pending", {f"t{n}": 0 for n in range(250)})

    seeding: list[asyncio.Task[None]] = []

    def told(done: int, total: int) -> None:
        seeding.append(asyncio.create_task(state.seed_pending(redis, message("new"))))

    await inspector.delete_all_tasks(QUEUE, "pending", on_progress=told)
    await asyncio.gather(*seeding)
    assert await listed(redis, "pending") == ["new"]


async def test_interrupted_work_is_done_as_far_as_it_went_and_can_be_taken_up(
    inspector: Inspector, redis: Redis
) -> None:
    await state.seed_many(redis, "archived", {f"t{n}": time.time() for n in range(600)})

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await inspector.delete_all_tasks(QUEUE, "archived", on_progress=interrupt)
    assert len(await scores(redis, "archived")) == 350
    assert await invariants(redis) == []
    assert await inspector.delete_all_tasks(QUEUE, "archived") == 350


@pytest.mark.parametrize(
    ("method", "task_state"),
    [
        ("run_all_tasks", "pending"),
        ("run_all_tasks", "active"),
        ("archive_all_tasks", "archived"),
        ("archive_all_tasks", "active"),
        ("delete_all_tasks", "active"),
    ],
)
async def test_state_whose_tasks_cannot_be_moved_is_refused(
    inspector: Inspector, redis: Redis, method: str, task_state: str
) -> None:
    await seed_healthy(redis)
    with pytest.raises(TaskStateError, match=f"{task_state} tasks cannot be"):
        await getattr(inspector, method)(QUEUE, task_state)


# Queues.


async def test_queue_is_paused_and_unpaused(inspector: Inspector, redis: Redis) -> None:
    await seed_healthy(redis)
    assert [await inspector.pause_queue(QUEUE), await inspector.pause_queue(QUEUE)] == [True, False]
    assert (await inspector.get_queue_info(QUEUE)).is_paused
    assert await inspector.unpause_queue(QUEUE)
    assert not await inspector.unpause_queue(QUEUE)


async def test_queue_with_nothing_but_completed_tasks_is_deleted(
    inspector: Inspector, redis: Redis
) -> None:
    await state.seed_completed(redis, *messages(3), until=time.time() + 99)
    await ask(redis, "SET", key(QUEUE, "processed"), 3)
    await inspector.delete_queue(QUEUE)
    assert await dump(redis) == {}


async def test_queue_with_tasks_is_deleted_by_force_alone(
    inspector: Inspector, redis: Redis
) -> None:
    lock = state.lock_key()
    await state.seed_pending(redis, message("p", unique_key=lock), *messages(600))
    await state.seed_retry(redis, message("r"), at=1)
    await state.seed_archived(redis, message("x"), at=1)
    await state.seed_aggregating(redis, message("g", group_key="well"), at=1)
    before = await dump(redis)
    with pytest.raises(QueueNotEmptyError, match=r"has 604 tasks; force deletes them too"):
        await inspector.delete_queue(QUEUE)
    assert await dump(redis) == before
    told: list[tuple[int, int]] = []
    await inspector.delete_queue(
        QUEUE, force=True, on_progress=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (604, 604)
    assert await dump(redis) == {}


@pytest.mark.parametrize("task_id", ["a", "set"])
async def test_queue_that_is_at_work_is_not_deleted_even_by_force(
    inspector: Inspector, redis: Redis, task_id: str
) -> None:
    await seed_healthy(redis)
    if task_id == "set":
        await ask(redis, "DEL", key(QUEUE, "active"), key(QUEUE, "lease"))
    before = await dump(redis)
    with pytest.raises(QueueNotEmptyError, match="being worked on"):
        await inspector.delete_queue(QUEUE, force=True)
    assert await dump(redis) == before
