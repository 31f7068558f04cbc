"""asynqpy's Inspector beside Go's: the same answers, and the same traces in Redis."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from asynqpy import (
    Inspector,
    QueueNotEmptyError,
    SchedulerEnqueueEvent,
    SchedulerEntry,
    TaskInfo,
    TaskStateError,
)
from asynqpy.broker import asynq_pb2 as pb
from asynqpy.broker.broker import Broker
from tests.broker.factories import SERVER, WORKER
from tests.interop.go_program import GoError, GoProgram
from tests.interop.go_records import GoEntry, GoEvent, GoRunningTask, GoServer, GoTask
from tests.redis_state import (
    Dump,
    ask,
    dump,
    key,
    lock_key,
    message,
    messages,
    seed_active,
    seed_aggregating,
    seed_archived,
    seed_completed,
    seed_pending,
    seed_retry,
    seed_scheduled,
)

QUEUE = "default"

#: States in which a task rests until somebody or its time comes.
RESTING = ("pending", "scheduled", "retry", "archived", "completed", "aggregating")


@pytest.fixture
async def inspector(redis_url: str) -> Any:
    async with Inspector(redis_url) as inspector:
        yield inspector


async def seed(redis: Redis) -> None:
    """Three tasks in each state; the first of each has a lock, and the last all fields that it can have."""
    now = int(time.time())

    def three(name: str, **fields: Any) -> list[Any]:
        lock = lock_key(name=f"email:welcome:{name}")
        whole = {
            "retried": 2,
            "error_msg": "boom: é",
            "last_failed_at": now - 50,
            "deadline": now + 5_000,
            "retention": 60,
            "headers": {"trace": "abc"},
        }
        first = message(f"{name}0", unique_key=lock, **fields)
        return [first, message(f"{name}1", **fields), message(f"{name}2", **(fields | whole))]

    await seed_pending(redis, *three("pending"))
    for n, task in enumerate(three("active")):
        await seed_active(redis, task, lease=now + 60 * (n - 1))
    for n, task in enumerate(three("scheduled")):
        await seed_scheduled(redis, task, at=now + 300 - n)
    for n, task in enumerate(three("retry")):
        await seed_retry(redis, task, at=now + 200 - n)
    for n, task in enumerate(three("archived")):
        await seed_archived(redis, task, at=now - 100 - n)
    for n, task in enumerate(three("completed", completed_at=now - 5)):
        await seed_completed(redis, task, until=now + 100 - n)
    for n, task in enumerate(three("aggregating", group_key="g")):
        await seed_aggregating(redis, task, at=now - n)
    await seed_aggregating(redis, *messages(2, "h", group_key="another group"), at=now)
    await ask(redis, "HSET", key(QUEUE, "t:completed1"), "result", b"\x00result")
    since = (now - 90) * 1_000_000_000
    await ask(redis, "HSET", key(QUEUE, "t:pending0"), "pending_since", since)
    today = datetime.fromtimestamp(now, UTC).date()
    for n in range(3):
        await ask(redis, "SET", key(QUEUE, f"processed:{today - timedelta(days=n)}"), 10 + n)
        await ask(redis, "SET", key(QUEUE, f"failed:{today - timedelta(days=n)}"), n)
    await ask(redis, "SET", key(QUEUE, "processed"), 1_000)
    await ask(redis, "SET", key(QUEUE, "failed"), 30)


# Looking.


def as_go(task: TaskInfo, go: GoProgram) -> GoTask:
    """The record that Go's program makes of it."""

    def seconds(duration: timedelta | None) -> float:
        return 0.0 if duration is None else duration.total_seconds()

    return GoTask(
        id=task.id,
        queue=task.queue,
        type=task.type,
        payload=task.payload or None,
        headers=dict(task.headers) or None if go.has_headers else None,
        state=task.state,
        max_retry=task.max_retry,
        retried=task.retried,
        last_error=task.last_error,
        last_failed_at=task.last_failed_at,
        timeout=seconds(task.timeout),
        deadline=task.deadline,
        group=task.group,
        # Of a pending task it is the moment of the question.
        next_process_at=None if task.state == "pending" else task.next_process_at,
        is_orphaned=task.is_orphaned,
        retention=seconds(task.retention),
        completed_at=task.completed_at,
        result=task.result,
    )


def without_now(task: GoTask) -> GoTask:
    return msgspec.structs.replace(task, next_process_at=None) if task.state == "pending" else task


async def test_queue_info_is_that_of_go(go: GoProgram, inspector: Inspector, redis: Redis) -> None:
    await seed(redis)
    await ask(redis, "SET", key(QUEUE, "paused"), 1)
    theirs, ours = await go.queue(), await inspector.get_queue_info(QUEUE)
    for name in theirs.__struct_fields__:
        if name not in ("paused", "latency"):
            assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.is_paused is theirs.paused is True
    assert abs(ours.latency.total_seconds() - theirs.latency) < 10
    assert theirs.latency >= 90


async def test_history_and_groups_are_those_of_go(
    go: GoProgram, inspector: Inspector, redis: Redis
) -> None:
    await seed(redis)
    ours = [
        (it.queue, it.date, it.processed, it.failed) for it in await inspector.history(QUEUE, 7)
    ]
    assert ours == [(it.queue, it.date, it.processed, it.failed) for it in await go.history()]
    groups = [(it.group, it.size) for it in await inspector.groups(QUEUE)]
    assert groups == sorted((it.group, it.size) for it in await go.groups())
    assert await inspector.queues() == sorted(await go.queues())


@pytest.mark.parametrize("state", ["active", *RESTING])
async def test_tasks_are_listed_as_by_go(
    go: GoProgram, inspector: Inspector, redis: Redis, state: str
) -> None:
    await seed(redis)
    group = "g" if state == "aggregating" else ""
    for page, size in ((1, 30), (1, 2), (2, 2), (3, 2)):
        theirs = await go.tasks(state, group=group, page=page, size=size)
        ours = await inspector.list_tasks(QUEUE, state, group=group, page=page, size=size)
        assert [as_go(it, go) for it in ours] == [without_now(it) for it in theirs]
        assert bool(ours) == (page < 3)
    for number in range(3):
        task = await inspector.get_task(QUEUE, f"{state}{number}")
        task.is_orphaned = False  # Go tells that in its lists only
        assert as_go(task, go) == without_now(await go.task(task.id))


async def test_servers_and_what_they_run_are_those_of_go(
    go: GoProgram, inspector: Inspector, redis: Redis
) -> None:
    await Broker(redis).write_server_state(SERVER, [WORKER], 60)
    (theirs,) = await go.servers()
    (ours,) = await inspector.servers()
    info = ours.info
    assert theirs == GoServer(
        id=info.server_id,
        host=info.host,
        pid=info.pid,
        concurrency=info.concurrency,
        queues=dict(info.queues),
        strict_priority=info.strict_priority,
        started=info.start_time,
        status=info.status,
        workers=[
            GoRunningTask(
                id=it.task_id,
                type=it.task_type,
                payload=it.task_payload or None,
                queue=it.queue,
                started=it.start_time,
                deadline=it.deadline,
            )
            for it in ours.workers
        ],
    )


async def test_schedulers_and_what_they_enqueued_are_those_of_go(
    go: GoProgram, inspector: Inspector, redis: Redis
) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    options = ['Queue("low")', "MaxRetry(5)", "Timeout(30s)", "Unique(1h0m0s)"]
    entries = [
        SchedulerEntry(
            id=f"e{n}",
            spec="@every 30s",
            task_type="email:digest",
            task_payload=b"p",
            enqueue_options=options,
            next_enqueue_time=at,
            prev_enqueue_time=at if n else None,
        )
        for n in range(3)
    ]
    name = "asynq:schedulers:{h:1:s}"
    await ask(redis, "LPUSH", name, *(it.encode() for it in entries))
    await ask(redis, "ZADD", "asynq:schedulers", time.time() + 60, name)
    for n in range(5):
        event = SchedulerEnqueueEvent(task_id=f"t{n}", enqueue_time=at + timedelta(seconds=n))
        score = int(event.enqueue_time.timestamp())
        await ask(redis, "ZADD", "asynq:scheduler_history:e1", score, event.encode())

    ours = [
        GoEntry(
            id=it.id,
            spec=it.spec,
            type=it.task_type,
            payload=it.task_payload,
            options=list(it.enqueue_options),
            next=it.next_enqueue_time,
            prev=it.prev_enqueue_time,
        )
        for it in await inspector.scheduler_entries()
    ]
    # Go gives them in the order of the list, into which the last registered was pushed first.
    assert list(reversed(ours)) == await go.entries()
    for page in (1, 2):
        events = await inspector.scheduler_enqueue_events("e1", page=page, size=3)
        expected = [GoEvent(id=it.task_id, enqueued_at=it.enqueue_time) for it in events]
        assert expected == await go.events("e1", page=page, size=3)
        assert len(expected) == (3 if page == 1 else 2)


# Steering: both do the same to the same, and then Redis is looked at.

#: What asynqpy writes and Go does not: since when a task is pending that was run. Its latency would be 0, or, of a task
#: that was pending before, that of its first life; for the same reason archiving forgets it.
OURS = b"pending_since"


def comparable(found: Dump) -> Dump:
    """Without what cannot be equal, since the two happen a moment apart."""
    kept: Dump = {}
    for name, value in found.items():
        kind = name.partition("}:")[2]
        if kind == "archived":
            kept[name] = {task_id: time.time() - at < 60 for task_id, at in value.items()}
        elif kind.startswith("t:"):
            kept[name] = _timeless(value)
        else:
            kept[name] = sorted(value) if isinstance(value, dict) else value
    return kept


def _timeless(record: dict[bytes, bytes]) -> dict[bytes, Any]:
    stored = pb.TaskMessage()
    stored.ParseFromString(record[b"msg"])
    stored.last_failed_at = stored.deadline = stored.completed_at = 0
    return {name: value for name, value in record.items() if name != OURS} | {b"msg": str(stored)}


async def both(
    redis: Redis, theirs: Any, ours: Any, *, refusals: tuple[type[Exception], ...] = ()
) -> tuple[Dump, Dump, bool]:
    """What either leaves behind, and whether they were refused."""
    dumps: list[Dump] = []
    refused: list[bool] = []
    for act, error in ((theirs, GoError), (ours, refusals)):
        await ask(redis, "FLUSHALL")
        await seed(redis)
        try:
            await act()
        except error:
            refused.append(True)
        else:
            refused.append(False)
        dumps.append(comparable(await dump(redis)))
    assert refused[0] == refused[1]
    return dumps[0], dumps[1], refused[0]


@pytest.mark.parametrize("state", ["active", *RESTING])
@pytest.mark.parametrize("action", ["run", "archive", "delete"])
async def test_one_task_is_steered_as_by_go(
    go: GoProgram, inspector: Inspector, redis: Redis, action: str, state: str
) -> None:
    method = getattr(inspector, f"{action}_task")
    theirs, ours, refused = await both(
        redis,
        lambda: go.act(action, id=f"{state}0"),
        lambda: method(QUEUE, f"{state}0"),
        refusals=(TaskStateError,),
    )
    assert ours == theirs
    is_there = {"run": "pending", "archive": "archived"}.get(action) == state
    assert refused == (is_there or state == "active")


LEAKED = {"pending", "aggregating"}


@pytest.mark.parametrize(
    ("action", "state"),
    [("run", it) for it in ("scheduled", "retry", "archived", "aggregating")]
    + [("archive", it) for it in ("pending", "scheduled", "retry", "aggregating")]
    + [("delete", it) for it in RESTING],
)
async def test_all_tasks_of_a_state_are_steered_as_by_go(
    go: GoProgram, inspector: Inspector, redis: Redis, action: str, state: str
) -> None:
    group = "g" if state == "aggregating" else ""
    counts: list[int] = []

    async def by_go() -> None:
        counts.append(await go.on_all(f"{action}-all", state, group=group))

    async def by_us() -> None:
        counts.append(await getattr(inspector, f"{action}_all_tasks")(QUEUE, state, group=group))

    theirs, ours, _ = await both(redis, by_go, by_us)
    assert counts == [3, 3]
    if action == "delete" and state in LEAKED:  # B20: Go deletes these without their locks
        assert theirs.pop(lock_key(name=f"email:welcome:{state}")) == f"{state}0".encode()
    assert ours == theirs


async def test_queue_is_paused_as_by_go(go: GoProgram, inspector: Inspector, redis: Redis) -> None:
    theirs, ours, _ = await both(
        redis, lambda: go.act("pause"), lambda: inspector.pause_queue(QUEUE)
    )
    name = key(QUEUE, "paused")
    assert abs(int(theirs.pop(name)) - int(ours.pop(name))) < 60
    assert ours == theirs


@pytest.mark.parametrize("action", ["remove", "remove-force"])
async def test_queue_is_deleted_where_go_deletes_it_and_wholly(
    go: GoProgram, inspector: Inspector, redis: Redis, action: str
) -> None:
    is_forced = action == "remove-force"
    _, _, refused = await both(
        redis,
        lambda: go.act(action),
        lambda: inspector.delete_queue(QUEUE, force=is_forced),
        refusals=(QueueNotEmptyError,),
    )
    assert refused  # it has active tasks

    async def at_rest() -> None:
        await ask(redis, "FLUSHALL")
        await seed(redis)
        gone = ("active", "lease", *(f"t:active{n}" for n in range(3)))
        await ask(redis, "DEL", *(key(QUEUE, it) for it in gone))

    if is_forced:
        await at_rest()
        await go.act(action)
        left = await dump(redis)
        # What Go leaves: completed tasks, groups with their tasks, counters, and all locks (B20).
        assert key(QUEUE, "completed") in left
        assert key(QUEUE, "g:g") in left
        assert lock_key(name="email:welcome:pending") in left
        await at_rest()
        await inspector.delete_queue(QUEUE, force=True)
        assert await dump(redis) == {}
