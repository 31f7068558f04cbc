from __future__ import annotations

import pytest
from redis.asyncio import Redis

from asynqpy.client import Client
from asynqpy.task import Task
from tests import redis_state as state
from tests.eventually import eventually
from tests.server.servers import serving
from tests.trouble.voice import complaints
from tests.trouble.work import Work


async def test_scripts_that_redis_forgot_are_sent_again_without_a_word(
    redis: Redis, redis_url: str, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"t{n}" for n in range(20)]
    async with serving(redis_url, work), Client(redis_url) as client:
        for name in names:
            await state.ask(redis, "SCRIPT", "FLUSH")
            await client.enqueue(Task("email:welcome"), task_id=name)
        await eventually(lambda: sorted(work.done) == sorted(names))
    assert complaints(caplog) == []
    assert await state.counter(redis, "processed") == 20
    assert await state.invariants(redis) == []


async def test_a_redis_that_was_flushed_learns_its_queues_with_the_next_task(
    redis: Redis, redis_url: str
) -> None:
    async with Client(redis_url) as client:
        await client.enqueue(Task("email:welcome"))
        await state.ask(redis, "FLUSHALL")
        await state.ask(redis, "SCRIPT", "FLUSH")
        await client.enqueue(Task("email:welcome"))
        assert await state.ask(redis, "SMEMBERS", "asynq:queues") == {b"default"}
