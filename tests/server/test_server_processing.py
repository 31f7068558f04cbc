"""Tasks from the client to their end, through a whole server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from asynqpy.client import Client
from asynqpy.errors import SkipRetry, TaskCancelledError
from asynqpy.handler import AsyncHandler
from asynqpy.mux import ServeMux
from asynqpy.task import ActiveTask, CancelCause, Task, current_task
from tests.eventually import eventually
from tests.redis_state import (
    ask,
    counter,
    dump,
    invariants,
    key,
    listed,
    scores,
    states,
    stored_message,
    task_hash,
)
from tests.server.gate import Gate
from tests.server.servers import serving


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        yield client


async def has_state(redis: Redis, task_id: str, state: str) -> bool:
    return await states(redis, task_id) == [state]


def at_once(*_: object) -> float:
    return 0.0


async def test_task_is_processed_and_nothing_is_left_of_it(
    client: Client, redis_url: str, redis: Redis
) -> None:
    seen = []

    async def handler(task: ActiveTask) -> None:
        seen.append((task.type, task.json(), dict(task.headers), task.retried, task.max_retry))

    async with serving(redis_url, handler):
        await client.enqueue(
            Task("email:welcome", {"user_id": 42}, headers={"trace": "abc"}, max_retry=5)
        )
        await eventually(lambda: counter(redis, "processed"))
    assert seen == [("email:welcome", {"user_id": 42}, {"trace": "abc"}, 0, 5)]
    left = {name for name in await dump(redis) if "processed" not in name}
    assert left == {"asynq:queues"}


async def test_failed_task_is_retried_until_it_succeeds(
    client: Client, redis_url: str, redis: Redis
) -> None:
    attempts = []

    async def handler(task: ActiveTask) -> None:
        attempts.append(task.retried)
        if task.retried < 2:
            raise ValueError("not yet")

    async with serving(redis_url, handler, retry_delay=at_once):
        await client.enqueue(Task("email:welcome"))
        await eventually(lambda: attempts == [0, 1, 2])
        await eventually(lambda: is_empty(redis))
    assert (await counter(redis, "processed"), await counter(redis, "failed")) == (3, 2)


async def is_empty(redis: Redis) -> bool:
    return not await ask(redis, "KEYS", "asynq:{default}:t:*")


async def test_task_that_fails_for_good_is_archived_with_its_error(
    client: Client, redis_url: str, redis: Redis
) -> None:
    told = []

    async def handler(task: ActiveTask) -> None:
        raise ValueError("never")

    async with serving(
        redis_url,
        handler,
        retry_delay=at_once,
        error_handler=lambda task, error: told.append((task.retried, str(error))),
    ):
        await client.enqueue(Task("email:welcome"), task_id="t1", max_retry=1)
        await eventually(lambda: has_state(redis, "t1", "archived"))
    stored = await stored_message(redis, "t1")
    assert (stored.error_msg, stored.retried) == ("ValueError: never", 1)
    assert told == [(0, "never"), (1, "never")]
    assert await invariants(redis) == []


async def test_result_is_kept_for_the_retention_and_then_deleted(
    client: Client, redis_url: str, redis: Redis
) -> None:
    async def handler(task: ActiveTask) -> None:
        await task.write_result(b"sent")

    async with serving(redis_url, handler):
        await client.enqueue(Task("email:welcome"), task_id="t1", retention=timedelta(hours=1))
        await eventually(lambda: has_state(redis, "t1", "completed"))
        assert (await task_hash(redis, "t1"))["result"] == b"sent"
        await ask(redis, "ZADD", key("default", "completed"), 1, "t1")
        await eventually(lambda: has_state(redis, "t1", ""))


async def test_scheduled_task_runs_when_its_time_has_come(
    client: Client, redis_url: str, redis: Redis
) -> None:
    gate = Gate()
    gate.open()
    async with serving(redis_url, gate):
        await client.enqueue(Task("email:reminder"), task_id="t1", process_in=0.5)
        await eventually(lambda: gate.started == ["t1"])


async def test_result_is_written_from_the_thread_of_a_plain_handler(
    client: Client, redis_url: str, redis: Redis
) -> None:
    threads = []

    def handler(task: ActiveTask) -> None:
        assert current_task() is task
        threads.append(threading.current_thread())
        task.wait_for(task.write_result({"in": "thread"}))

    async with serving(redis_url, handler):
        await client.enqueue(Task("report:monthly"), task_id="t1", retention=60)
        await eventually(lambda: has_state(redis, "t1", "completed"))
    assert (await task_hash(redis, "t1"))["result"] == b'{"in":"thread"}'
    assert threads[0] is not threading.main_thread()


async def test_current_task_is_its_own_for_each_of_many_at_once(
    client: Client, redis_url: str, redis: Redis
) -> None:
    agreed = []

    async def below() -> str:
        await asyncio.sleep(0)
        return current_task().id

    async def handler(task: ActiveTask) -> None:
        first = await below()
        agreed.append(first == task.id == await asyncio.create_task(below()))

    async with serving(redis_url, handler):
        await client.enqueue_many(Task("email:welcome") for _ in range(20))
        await eventually(lambda: len(agreed) == 20)
    assert all(agreed)


async def test_plain_handlers_run_side_by_side(client: Client, redis_url: str) -> None:
    together = threading.Barrier(3)

    def handler(task: ActiveTask) -> None:
        together.wait(5)

    async with serving(redis_url, handler, concurrency=3) as server:
        await client.enqueue_many(Task("report:monthly") for _ in range(3))
        await eventually(lambda: "0 of 3 running" in repr(server) and not together.n_waiting)
    assert not together.broken


async def test_mux_finds_the_handler_and_middleware_surrounds_it(
    client: Client, redis_url: str, redis: Redis
) -> None:
    steps: list[str] = []
    mux = ServeMux()

    @mux.handler("email:")
    async def email(task: ActiveTask) -> None:
        steps.append("email")

    @mux.handler("email:welcome")
    def welcome(task: ActiveTask) -> None:
        steps.append("welcome")

    async def middleware(task: ActiveTask, call_next: AsyncHandler) -> None:
        steps.append("before")
        await call_next(task)
        steps.append("after")

    mux.use(middleware)
    async with serving(redis_url, mux, concurrency=1):
        await client.enqueue_many([Task("email:welcome"), Task("email:goodbye")])
        await eventually(lambda: len(steps) == 6)
    assert steps == ["before", "welcome", "after", "before", "email", "after"]


async def test_type_without_a_handler_is_retried(
    client: Client, redis_url: str, redis: Redis
) -> None:
    async with serving(redis_url, ServeMux()):
        await client.enqueue(Task("email:welcome"), task_id="t1")
        await eventually(lambda: has_state(redis, "t1", "retry"))
    assert "handler not found" in (await stored_message(redis, "t1")).error_msg


async def test_payload_that_the_handler_cannot_read_archives_the_task(
    client: Client, redis_url: str, redis: Redis
) -> None:
    async def handler(task: ActiveTask) -> None:
        task.json(int)

    async with serving(redis_url, handler):
        await client.enqueue(Task("email:welcome", {"user_id": 42}), task_id="t1")
        await eventually(lambda: has_state(redis, "t1", "archived"))


async def test_running_task_is_cancelled_by_whoever_publishes_its_id(
    client: Client, redis_url: str, redis: Redis
) -> None:
    told = []
    gate = Gate()
    async with serving(
        redis_url, gate, error_handler=lambda task, error: told.append((task.cancel_cause, error))
    ):
        await client.enqueue(Task("email:welcome"), task_id="t1")
        await eventually(lambda: gate.running)
        await eventually(lambda: cancel_reaches_the_server(redis))
        await eventually(lambda: has_state(redis, "t1", "retry"))
    assert (await stored_message(redis, "t1")).error_msg == "context canceled"
    assert told[0][0] is CancelCause.REQUESTED
    assert isinstance(told[0][1], TaskCancelledError)


async def cancel_reaches_the_server(redis: Redis) -> bool:
    return bool(await ask(redis, "PUBLISH", "asynq:cancel", "t1"))


async def test_task_past_its_timeout_is_retried(
    client: Client, redis_url: str, redis: Redis
) -> None:
    async with serving(redis_url, Gate()):
        await client.enqueue(Task("email:welcome"), task_id="t1", timeout=1)
        await eventually(lambda: has_state(redis, "t1", "retry"))
    assert (await stored_message(redis, "t1")).error_msg == "context deadline exceeded"


async def test_what_is_no_failure_burns_no_retry(
    client: Client, redis_url: str, redis: Redis
) -> None:
    async def handler(task: ActiveTask) -> None:
        raise ConnectionError("rate limited")

    def is_failure(error: BaseException) -> bool:
        return not isinstance(error, ConnectionError)

    async with serving(redis_url, handler, is_failure=is_failure):
        await client.enqueue(Task("email:welcome"), task_id="t1")
        await eventually(lambda: has_state(redis, "t1", "retry"))
    assert (await stored_message(redis, "t1")).retried == 0
    assert await counter(redis, "failed") == 0


async def test_strict_priority_empties_the_higher_queue_first(
    client: Client, redis_url: str, redis: Redis
) -> None:
    order: list[str] = []

    async def handler(task: ActiveTask) -> None:
        order.append(task.queue)

    await client.enqueue_many((Task("t") for _ in range(5)), queue="low")
    await client.enqueue_many((Task("t") for _ in range(5)), queue="critical")
    queues = {"low": 1, "critical": 9}
    async with serving(redis_url, handler, concurrency=1, queues=queues, strict_priority=True):
        await eventually(lambda: len(order) == 10)
    assert order == ["critical"] * 5 + ["low"] * 5


async def test_orphan_of_a_dead_worker_is_run(client: Client, redis_url: str, redis: Redis) -> None:
    told, gate = [], Gate()
    await client.enqueue(Task("email:welcome"), task_id="t1")
    await ask(redis, "RPOPLPUSH", key("default", "pending"), key("default", "active"))
    await ask(redis, "HSET", key("default", "t:t1"), "state", "active")
    await ask(redis, "ZADD", key("default", "lease"), 1_700_000_000, "t1")
    async with serving(redis_url, gate, error_handler=lambda task, e: told.append(str(e))):
        await eventually(lambda: gate.running, within=10)
        gate.open()
    assert told == ["asynq: task lease expired"]


async def test_skip_retry_archives_at_once(client: Client, redis_url: str, redis: Redis) -> None:
    async def handler(task: ActiveTask) -> None:
        raise SkipRetry("no such user")

    async with serving(redis_url, handler):
        await client.enqueue(Task("email:welcome"), task_id="t1")
        await eventually(lambda: has_state(redis, "t1", "archived"))
    assert list(await scores(redis, "archived")) == ["t1"]
    assert await listed(redis, "active") == []
