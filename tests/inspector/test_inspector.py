from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy import (
    BrokerUnavailableError,
    Client,
    Inspector,
    MalformedMessageError,
    QueueNotFoundError,
    RunningServer,
    ServeMux,
    Server,
    Task,
    TaskFilter,
    TaskNotFoundError,
    TaskState,
)
from tests import redis_state as state
from tests.damage import seed_healthy
from tests.eventually import eventually
from tests.redis_process import free_port
from tests.redis_state import ask, key, message, messages, task_key

QUEUE = "default"


async def test_queues_are_told_by_name_and_with_what_they_hold(
    inspector: Inspector, redis: Redis
) -> None:
    assert await inspector.queues() == []
    await seed_healthy(redis)
    await state.seed_pending(redis, message(queue="critical"))
    assert await inspector.queues() == ["critical", "default"]
    info = await inspector.get_queue_info(QUEUE)
    assert (info.queue, info.size, info.pending) == (QUEUE, 9, 2)
    assert info.memory_usage
    assert abs(info.timestamp - datetime.now(UTC)) < timedelta(seconds=60)
    infos = await inspector.get_queue_infos()
    assert [(it.queue, it.size, it.memory_usage) for it in infos] == [
        ("critical", 1, None),
        ("default", 9, None),
    ]
    assert [it.size for it in await inspector.get_queue_infos(["none", "critical"])] == [0, 1]


async def test_history_and_groups_of_a_queue(inspector: Inspector, redis: Redis) -> None:
    await seed_healthy(redis)
    await state.seed_aggregating(redis, *messages(2, group_key="a group"), at=1)
    days = await inspector.history(QUEUE, 7)
    assert len(days) == 7
    assert days[0].date > days[6].date
    found = await inspector.groups(QUEUE)
    assert [(it.group, it.size) for it in found] == [("a group", 2), ("well", 1)]


async def test_task_has_what_redis_knows_of_it(inspector: Inspector, redis: Redis) -> None:
    task = message(
        "t1", headers={"k": "v"}, retried=2, error_msg="boom", last_failed_at=1_700_000_000
    )
    await state.seed_retry(redis, task, at=1_900_000_000)
    found = await inspector.get_task(QUEUE, "t1")
    assert (found.id, found.queue, found.type, found.state) == (
        "t1",
        QUEUE,
        "email:welcome",
        TaskState.RETRY,
    )
    assert (found.payload, found.headers) == (b'{"user_id":42}', {"k": "v"})
    assert (found.retried, found.max_retry, found.last_error) == (2, 25, "boom")
    assert found.timeout == timedelta(minutes=30)
    assert found.last_failed_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert found.next_process_at == datetime.fromtimestamp(1_900_000_000, UTC)
    (listed,) = await inspector.list_tasks(QUEUE, "retry")
    assert listed == found


async def test_task_in_each_state_is_told_the_same_by_itself_and_in_its_list(
    inspector: Inspector, redis: Redis
) -> None:
    await seed_healthy(redis)
    seen: dict[str, TaskState] = {}
    for task_state in TaskState:
        group = "well" if task_state is TaskState.AGGREGATING else ""
        for task in await inspector.list_tasks(QUEUE, task_state, group=group):
            alone = await inspector.get_task(QUEUE, task.id)
            alone.next_process_at = task.next_process_at  # of a pending one it is now
            assert alone == task
            seen[task.id] = task.state
    assert seen == {
        "p": TaskState.PENDING,
        "locked": TaskState.PENDING,
        "a": TaskState.ACTIVE,
        "late": TaskState.ACTIVE,
        "s": TaskState.SCHEDULED,
        "r": TaskState.RETRY,
        "x": TaskState.ARCHIVED,
        "c": TaskState.COMPLETED,
        "g": TaskState.AGGREGATING,
    }


async def test_active_task_whose_lease_has_run_out_is_an_orphan(
    inspector: Inspector, redis: Redis
) -> None:
    await state.seed_active(redis, message("held"), lease=time.time() + 60)
    await state.seed_active(redis, message("orphan"), lease=time.time() - 60)
    found = await inspector.list_tasks(QUEUE, TaskState.ACTIVE)
    assert {task.id: task.is_orphaned for task in found} == {"held": False, "orphan": True}
    assert (await inspector.get_task(QUEUE, "orphan")).is_orphaned


async def test_result_comes_with_its_task(inspector: Inspector, redis_url: str) -> None:
    mux = ServeMux()

    @mux.handler("sum")
    async def add(task: Any) -> None:
        await task.write_result({"sum": 5})

    async with Client(redis_url) as client, Server(redis_url, concurrency=1).running(mux):
        await client.enqueue(Task("sum"), task_id="t1", retention=timedelta(hours=1))

        async def is_completed() -> bool:
            task = await inspector.get_task(QUEUE, "t1")
            return task.state is TaskState.COMPLETED

        await eventually(is_completed)
    task = await inspector.get_task(QUEUE, "t1")
    assert (task.result, task.retention) == (b'{"sum":5}', timedelta(hours=1))
    assert task.completed_at is not None


async def test_pages_follow_each_other(inspector: Inspector, redis: Redis) -> None:
    await state.seed_archived(redis, *messages(70), at=1)
    pages = [await inspector.list_tasks(QUEUE, "archived", page=n) for n in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [30, 30, 10, 0]
    assert len({task.id for page in pages for task in page}) == 70
    assert len(await inspector.list_tasks(QUEUE, "archived", size=700)) == 70


async def test_stream_has_all_tasks_and_those_that_fit(inspector: Inspector, redis: Redis) -> None:
    await state.seed_pending(redis, *messages(450))
    await state.seed_pending(redis, *messages(5, prefix="sms", type="sms:send", payload=b'{"n":1}'))
    assert len([task async for task in inspector.iter_tasks(QUEUE, "pending")]) == 455
    for where in (TaskFilter(type="sms:*"), TaskFilter(payload={"n": 1})):
        found = [task async for task in inspector.iter_tasks(QUEUE, "pending", where=where)]
        assert [task.id for task in found] == [f"sms{n}" for n in range(5)]
    old = TaskFilter(older_than=60)  # they were seeded as of 2023
    assert len([it async for it in inspector.iter_tasks(QUEUE, "pending", where=old)]) == 455


@pytest.mark.parametrize(
    ("task_state", "older"),
    [
        ("pending", True),
        ("retry", True),
        ("archived", True),
        ("completed", True),
        ("aggregating", True),
        ("scheduled", False),
        ("active", False),
    ],
)
async def test_age_is_that_in_the_state(
    inspector: Inspector, redis: Redis, task_state: str, older: bool
) -> None:
    """Of states that have no age, nothing is old, and nothing is new."""
    now = int(time.time())
    hour_ago = now - 3_600
    fields = {"last_failed_at": hour_ago, "completed_at": hour_ago, "group_key": "g"}
    task = message("t1", **fields)
    seeds = {
        "pending": lambda: state.seed_pending(redis, task),
        "active": lambda: state.seed_active(redis, task, lease=hour_ago),
        "scheduled": lambda: state.seed_scheduled(redis, task, at=hour_ago),
        "retry": lambda: state.seed_retry(redis, task, at=now),
        "archived": lambda: state.seed_archived(redis, task, at=hour_ago),
        "completed": lambda: state.seed_completed(redis, task, until=now + 60),
        "aggregating": lambda: state.seed_aggregating(redis, task, at=hour_ago),
    }
    await seeds[task_state]()
    if task_state == "pending":
        await ask(redis, "HSET", task_key(QUEUE, "t1"), "pending_since", hour_ago * 10**9)

    async def found(where: TaskFilter) -> list[str]:
        group = "g" if task_state == "aggregating" else ""
        stream = inspector.iter_tasks(QUEUE, task_state, group=group, where=where)
        return [task.id async for task in stream]

    assert await found(TaskFilter(older_than=3_000)) == (["t1"] if older else [])
    assert await found(TaskFilter(older_than=4_000)) == []
    assert await found(TaskFilter(newer_than=4_000)) == (["t1"] if older else [])


async def test_records_that_cannot_be_read_are_left_out_of_lists_and_told_alone(
    inspector: Inspector, redis: Redis
) -> None:
    await state.seed_archived(redis, *messages(3), at=1)
    await ask(redis, "HSET", task_key(QUEUE, "t1"), "msg", b"\xff\xff")
    await ask(redis, "HSET", task_key(QUEUE, "t2"), "state", "odd")
    assert [task.id for task in await inspector.list_tasks(QUEUE, "archived")] == ["t0", "t2"]
    for task_id in ("t1", "t2"):
        with pytest.raises(MalformedMessageError):
            await inspector.get_task(QUEUE, task_id)


async def test_servers_are_told_with_what_they_run(inspector: Inspector, redis_url: str) -> None:
    mux = ServeMux()

    @mux.handler("wait")
    async def wait(task: Any) -> None:
        await eventually(lambda: False)

    server = Server(redis_url, concurrency=3, queues={QUEUE: 2, "low": 1}, shutdown_timeout=0)
    async with Client(redis_url) as client, server.running(mux):
        await client.enqueue(Task("wait", {"n": 1}), task_id="t1")
        shown: list[RunningServer] = []

        async def is_shown() -> bool:
            shown[:] = await inspector.servers()
            return bool(shown and shown[0].workers)

        await eventually(is_shown, within=20)
        (found,) = shown
        assert (found.info.concurrency, found.info.queues) == (3, {QUEUE: 2, "low": 1})
        assert found.info.status == "active"
        (worker,) = found.workers
        assert (worker.task_id, worker.task_type, worker.task_payload) == ("t1", "wait", b'{"n":1}')
        await inspector.cancel_processing("t1")

        async def is_cancelled() -> bool:
            return (await inspector.get_task(QUEUE, "t1")).state is TaskState.RETRY

        await eventually(is_cancelled)
    assert await inspector.servers() == []


async def test_there_are_no_schedulers_until_one_shows_itself(inspector: Inspector) -> None:
    assert await inspector.scheduler_entries() == []
    assert await inspector.scheduler_enqueue_events("e1") == []


async def test_slot_of_a_queue_is_that_of_its_keys(inspector: Inspector) -> None:
    assert await inspector.cluster_key_slot("low") == 15214


# What is not there, and what makes no sense.


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_queue_info", ()),
        ("history", (1,)),
        ("groups", ()),
        ("list_tasks", ("pending",)),
        ("get_task", ("t1",)),
        ("run_task", ("t1",)),
        ("archive_task", ("t1",)),
        ("delete_task", ("t1",)),
        ("reschedule_task", ("t1", datetime(2030, 1, 1, tzinfo=UTC))),
        ("update_task_payload", ("t1", {})),
        ("requeue_task", ("t1",)),
        ("run_all_tasks", ("retry",)),
        ("archive_all_tasks", ("retry",)),
        ("delete_all_tasks", ("aggregating",)),
        ("pause_queue", ()),
        ("unpause_queue", ()),
        ("delete_queue", ()),
    ],
)
async def test_queue_that_does_not_exist_is_an_error(
    inspector: Inspector, method: str, arguments: tuple[Any, ...]
) -> None:
    options = {"group": "g"} if "aggregating" in arguments else {}
    with pytest.raises(QueueNotFoundError, match="there is no queue 'nope'"):
        await getattr(inspector, method)("nope", *arguments, **options)


async def test_stream_of_a_queue_that_does_not_exist_is_an_error(inspector: Inspector) -> None:
    with pytest.raises(QueueNotFoundError):
        async for _ in inspector.iter_tasks("nope", "pending"):
            pass


@pytest.mark.parametrize("method", ["get_task", "run_task", "archive_task", "delete_task"])
async def test_task_that_does_not_exist_is_an_error(
    inspector: Inspector, redis: Redis, method: str
) -> None:
    await state.seed_pending(redis, message("t1"))
    with pytest.raises(TaskNotFoundError, match="queue 'default' has no task 't2'"):
        await getattr(inspector, method)(QUEUE, "t2")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda it: it.get_queue_info("a{b}"), ValueError),
        (lambda it: it.get_queue_info(5), TypeError),
        (lambda it: it.history(QUEUE, 0), ValueError),
        (lambda it: it.history(QUEUE, "7"), TypeError),
        (lambda it: it.list_tasks(QUEUE, "running"), ValueError),
        (lambda it: it.list_tasks(QUEUE, "aggregating"), ValueError),
        (lambda it: it.list_tasks(QUEUE, "pending", group="g"), ValueError),
        (lambda it: it.list_tasks(QUEUE, "pending", page=0), ValueError),
        (lambda it: it.list_tasks(QUEUE, "pending", size=0), ValueError),
        (lambda it: it.list_tasks(QUEUE, "pending", size=1.5), TypeError),
        (lambda it: it.get_task(QUEUE, ""), ValueError),
        (lambda it: it.reschedule_task(QUEUE, "t1", datetime(2030, 1, 1)), ValueError),
        (lambda it: it.update_task_payload(QUEUE, "t1", object()), TypeError),
        (lambda it: it.requeue_task(QUEUE, "t1", headers={"a": 1}), TypeError),
        (lambda it: it.scheduler_enqueue_events("e1", page=0), ValueError),
        (lambda it: it.cancel_processing(" "), ValueError),
    ],
)
async def test_bad_arguments_are_refused(
    inspector: Inspector, redis: Redis, call: Any, error: type[Exception]
) -> None:
    await ask(redis, "SADD", "asynq:queues", QUEUE)
    with pytest.raises(error):
        await call(inspector)


async def test_redis_that_is_away_is_told() -> None:
    async with Inspector(f"redis://127.0.0.1:{free_port()}") as inspector:
        with pytest.raises(BrokerUnavailableError):
            await inspector.queues()


def test_inspector_names_its_redis_without_the_password() -> None:
    assert repr(Inspector("redis://:s3cret@host:6379/1")) == "<Inspector <Broker host:6379/1>>"


async def test_key_of_the_queue_is_not_touched_by_looking(
    inspector: Inspector, redis: Redis
) -> None:
    await seed_healthy(redis)
    before = await state.dump(redis)
    for task_state in TaskState:
        group = "well" if task_state is TaskState.AGGREGATING else ""
        await inspector.list_tasks(QUEUE, task_state, group=group)
    await inspector.get_queue_info(QUEUE)
    await inspector.get_task(QUEUE, "a")
    assert await state.dump(redis) == before
    assert key(QUEUE, "pending") in before
