from __future__ import annotations

import asyncio
import threading
import time

import pytest
from redis.asyncio import Redis

from asynqpy.server.server import ServerState
from asynqpy.task import ActiveTask, CancelCause
from tests.eventually import eventually
from tests.redis_process import free_port, start_redis
from tests.redis_state import (
    counter,
    invariants,
    listed,
    message,
    messages,
    seed_pending,
    states,
    stored_message,
)
from tests.server.gate import Gate
from tests.server.parts import returns
from tests.server.servers import a_server, left_behind, serving


async def assert_handed_back(redis: Redis, *task_ids: str) -> None:
    assert sorted(await listed(redis, "pending")) == sorted(task_ids)
    assert [(await stored_message(redis, i)).retried for i in task_ids] == [0] * len(task_ids)
    assert await counter(redis, "failed") == 0
    assert await invariants(redis) == []


async def test_shutdown_waits_for_handlers_to_end(redis_url: str, redis: Redis) -> None:
    gate = Gate()
    await seed_pending(redis, *messages(3))
    async with serving(redis_url, gate, shutdown_timeout=60) as server:
        await eventually(lambda: gate.running == 3)
        closing = asyncio.create_task(server.shutdown())
        await eventually(lambda: server.state is ServerState.CLOSED)
        gate.open()
        await closing
    assert await counter(redis, "processed") == 3
    assert left_behind() == []


async def test_shutdown_hands_unfinished_tasks_back_in_time(redis_url: str, redis: Redis) -> None:
    gate = Gate()
    await seed_pending(redis, *messages(5))
    async with serving(redis_url, gate, concurrency=3, shutdown_timeout=0.3) as server:
        await eventually(lambda: gate.running == 3)
        started = time.monotonic()
        await server.shutdown()
        assert 0.3 <= time.monotonic() - started < 2.3
    assert gate.running == 0
    await assert_handed_back(redis, *(f"t{n}" for n in range(5)))
    assert left_behind() == []


async def test_handler_learns_of_the_shutdown_and_may_still_finish(
    redis_url: str, redis: Redis
) -> None:
    causes = []
    started = asyncio.Event()

    async def handler(task: ActiveTask) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            causes.append(error.args[0])

    await seed_pending(redis, message())
    async with serving(redis_url, handler, shutdown_timeout=0):
        await started.wait()
    assert causes == [CancelCause.SHUTDOWN]
    assert await states(redis, "t1") == [""]
    assert await counter(redis, "processed") == 1


async def test_handler_that_ignores_its_cancellation_does_not_hold_the_shutdown_up(
    redis_url: str, redis: Redis
) -> None:
    go_on, ended = asyncio.Event(), asyncio.Event()

    async def stubborn(task: ActiveTask) -> None:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue
        ended.set()

    await seed_pending(redis, message())
    async with serving(redis_url, stubborn, shutdown_timeout=0.1) as server:
        await eventually(lambda: "1 of 10 running" in repr(server))
        async with asyncio.timeout(2.1):
            await server.shutdown()
    await assert_handed_back(redis, "t1")
    go_on.set()
    await ended.wait()
    await eventually(lambda: left_behind() == [])


async def test_plain_handler_that_runs_on_does_not_hold_the_shutdown_up(
    redis_url: str, redis: Redis
) -> None:
    started, go_on = threading.Event(), threading.Event()

    def handler(task: ActiveTask) -> None:
        started.set()
        go_on.wait(10)

    await seed_pending(redis, message())
    async with serving(redis_url, handler, shutdown_timeout=0.1) as server:
        await eventually(started.is_set)
        async with asyncio.timeout(2.1):
            await server.shutdown()
    await assert_handed_back(redis, "t1")
    go_on.set()
    await eventually(lambda: left_behind() == [])


async def test_slow_error_handler_does_not_hold_the_shutdown_up_nor_lose_the_outcome(
    redis_url: str, redis: Redis
) -> None:
    told = asyncio.Event()

    async def handler(task: ActiveTask) -> None:
        raise ValueError("no")

    async def error_handler(task: ActiveTask, error: BaseException) -> None:
        told.set()
        await asyncio.Event().wait()

    await seed_pending(redis, message())
    async with serving(redis_url, handler, error_handler=error_handler, shutdown_timeout=0.1):
        await told.wait()
    assert await states(redis, "t1") == ["retry"]
    assert left_behind() == []


async def test_abort_cuts_the_wait_of_a_shutdown_short(redis_url: str, redis: Redis) -> None:
    gate = Gate()
    await seed_pending(redis, message())
    async with serving(redis_url, gate, shutdown_timeout=3600) as server:
        await eventually(lambda: gate.running)
        closing = asyncio.create_task(server.shutdown())
        await eventually(lambda: server.state is ServerState.CLOSED)
        server.abort()
        async with asyncio.timeout(2):
            await closing
    await assert_handed_back(redis, "t1")


async def test_stopped_server_takes_nothing_more_but_finishes_what_runs(
    redis_url: str, redis: Redis
) -> None:
    gate = Gate()
    await seed_pending(redis, message("t1"))
    async with serving(redis_url, gate) as server:
        await eventually(lambda: gate.running)
        await server.stop()
        await server.stop()
        await seed_pending(redis, message("t2"))
        gate.open()
        await eventually(lambda: counter(redis, "processed"))
    assert gate.started == ["t1"]
    assert await states(redis, "t1", "t2") == ["", "pending"]


async def test_every_caller_of_shutdown_returns_when_all_has_stopped(
    redis_url: str, redis: Redis
) -> None:
    server = a_server(redis_url)
    await server.start(returns)
    await asyncio.gather(*(server.shutdown() for _ in range(3)))
    await server.shutdown()
    assert left_behind() == []


async def test_handler_that_would_wait_for_its_own_servers_shutdown_is_told_what_to_do(
    redis_url: str, redis: Redis
) -> None:
    told: list[str] = []
    closing: list[asyncio.Task[None]] = []

    async def handler(task: ActiveTask) -> None:
        if told:
            closing.append(asyncio.create_task(server.shutdown()))
            return
        with pytest.raises(RuntimeError) as caught:
            await server.shutdown()
        told.append(str(caught.value))

    await seed_pending(redis, message("t1"))
    async with serving(redis_url, handler) as server:
        await eventually(lambda: counter(redis, "processed"))
        assert "asyncio.create_task(server.shutdown())" in told[0]
        assert server.state is ServerState.ACTIVE
        await seed_pending(redis, message("t2"))
        await eventually(lambda: closing)
        await closing[0]
    assert await states(redis, "t1", "t2") == ["", ""]
    assert left_behind() == []


async def test_shutdown_whose_caller_is_cancelled_goes_on(redis_url: str, redis: Redis) -> None:
    gate = Gate()
    await seed_pending(redis, message())
    async with serving(redis_url, gate) as server:
        await eventually(lambda: gate.running)
        closing = asyncio.create_task(server.shutdown())
        await eventually(lambda: server.state is ServerState.CLOSED)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        gate.open()
    assert await counter(redis, "processed") == 1
    assert left_behind() == []


async def test_shutdown_without_redis_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    redis = start_redis(port=port)
    async with serving(redis.url, Gate(), shutdown_timeout=0.1) as server:
        redis.kill()
        async with asyncio.timeout(5):
            await server.shutdown()
    assert left_behind() == []


async def test_leases_are_kept_while_the_shutdown_waits(redis_url: str, redis: Redis) -> None:
    gate = Gate()
    await seed_pending(redis, message())
    server = a_server(redis_url, shutdown_timeout=60)
    server._heartbeat_interval = 0.05
    async with server.running(gate):
        await eventually(lambda: gate.running)
        closing = asyncio.create_task(server.shutdown())
        await eventually(lambda: lease_moves(redis))
        gate.open()
        await closing
    assert await counter(redis, "processed") == 1


async def lease_moves(redis: Redis) -> bool:
    """Whether a lease set to end at once was extended since."""
    key = "asynq:{default}:lease"
    score = await redis.zscore(key, "t1")
    if score is not None and score > 1_700_000_100:
        fraction = score % 1
        await redis.zadd(key, {"t1": 1_700_000_000 + fraction})
        await eventually(lambda: is_extended(redis, key))
        return True
    return False


async def is_extended(redis: Redis, key: str) -> bool:
    score = await redis.zscore(key, "t1")
    return score is not None and score > 1_700_000_100
