from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from asynqpy.client import Client
from asynqpy.errors import BrokerFullError, SkipRetry
from asynqpy.server.server import Server
from asynqpy.task import ActiveTask, Task
from tests import redis_state as state
from tests.eventually import eventually
from tests.redis_process import RedisProcess, start_redis
from tests.server.gate import Gate
from tests.server.servers import serving
from tests.trouble.voice import complaints, told
from tests.trouble.work import enqueue


@pytest.fixture
def small_redis() -> Iterator[RedisProcess]:
    with start_redis("--maxmemory", "0", "--maxmemory-policy", "noeviction") as server:
        yield server


def fill(server: RedisProcess) -> None:
    """Leave no byte, and room for none that tasks may free."""
    used = server.ask("INFO", "memory")["used_memory"]
    server.ask("CONFIG", "SET", "maxmemory", str(used // 2))


async def test_a_full_redis_refuses_what_is_new_with_an_error_of_its_own(
    small_redis: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client(small_redis.url) as client:
        await client.ping()
        fill(small_redis)
        for _ in range(2):
            with pytest.raises(BrokerFullError, match="nothing was written") as refused:
                await client.enqueue(Task("email:welcome"))
            assert "maxmemory" in str(refused.value)
        small_redis.ask("CONFIG", "SET", "maxmemory", "0")
        await client.enqueue(Task("email:welcome"))
    assert complaints(caplog) == []


async def test_workers_drain_a_full_redis_whatever_becomes_of_the_tasks(
    small_redis: RedisProcess,
) -> None:
    runs: list[str] = []

    async def handler(task: ActiveTask) -> None:
        runs.append(task.id)
        if task.type == "archived":
            raise SkipRetry("no")
        if task.type == "retried" and task.retried == 0:
            raise ValueError("once")

    tasks = [Task("done"), Task("kept", retention=3600), Task("archived"), Task("retried")]
    async with (
        Client(small_redis.url) as client,
        Redis.from_url(small_redis.url, protocol=2) as redis,
    ):
        for task in tasks:
            for n in range(20):
                await client.enqueue(task, task_id=f"{task.type}{n}")
        await client.enqueue(Task("done", process_in=1), task_id="late")
        fill(small_redis)
        async with serving(small_redis.url, handler, retry_delay=lambda retried, error, task: 0):
            await eventually(lambda: len(runs) == 101, within=20)
            await eventually(lambda: is_settled(redis))
        assert len(await state.scores(redis, "completed")) == 20
        assert len(await state.scores(redis, "archived")) == 20
        assert await state.invariants(redis) == []


async def is_settled(redis: Redis) -> bool:
    return await state.listed(redis, "active") == []


async def test_leases_and_presence_hold_while_redis_is_full(
    small_redis: RedisProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Server, "_heartbeat_interval", 0.5)
    gate = Gate()
    async with (
        Redis.from_url(small_redis.url, protocol=2) as redis,
        serving(small_redis.url, gate),
    ):
        await enqueue(small_redis.url, "a")
        await eventually(lambda: gate.running)
        fill(small_redis)
        presence = await state.dump(redis, "asynq:servers")
        (lease,) = (await state.scores(redis, "lease")).values()

        async def are_renewed() -> bool:
            (later,) = (await state.scores(redis, "lease")).values()
            servers = await state.dump(redis, "asynq:servers")
            return later > lease and servers != presence

        await eventually(are_renewed)
        (key,) = await state.dump(redis, "asynq:servers:*")
        assert await state.ask(redis, "TTL", key) >= 0
        assert len(await state.dump(redis, "asynq:workers:*")) == 1
        gate.open()
    assert told(caplog, "maxmemory") == 0
    assert complaints(caplog) == []


async def test_shutdown_hands_tasks_back_to_a_full_redis(small_redis: RedisProcess) -> None:
    gate = Gate()
    async with Redis.from_url(small_redis.url, protocol=2) as redis:
        async with serving(small_redis.url, gate, shutdown_timeout=timedelta(seconds=0.1)):
            await enqueue(small_redis.url, "a")
            await eventually(lambda: gate.running)
            fill(small_redis)
        assert await state.listed(redis, "pending") == ["a"]
        assert await state.dump(redis, "asynq:servers:*") == {}
