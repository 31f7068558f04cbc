from __future__ import annotations

from datetime import timedelta

import pytest
from redis.asyncio import Redis

from asynqpy.client import Client
from asynqpy.errors import DuplicateTaskError
from asynqpy.task import Task
from tests import redis_state as state
from tests.eventually import eventually
from tests.server.gate import Gate
from tests.server.servers import serving
from tests.trouble.conftest import MortalRedis
from tests.trouble.work import enqueue, insist

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


async def test_a_running_task_is_neither_lost_nor_run_twice(
    mortal_redis: MortalRedis, eye: Redis
) -> None:
    gate = Gate()
    mortal_redis.start(*DURABLE)
    async with serving(mortal_redis.url, gate, concurrency=1):
        await enqueue(mortal_redis.url, "a", "b")
        await eventually(lambda: gate.running)
        mortal_redis.stop()
        mortal_redis.start(*DURABLE)
        assert list(await state.scores(eye, "lease")) == ["a"]
        gate.open()
        await eventually(lambda: gate.started == ["a", "b"])
    assert await state.counter(eye, "processed") == 2
    assert await state.invariants(eye) == []


async def test_scheduled_tasks_and_unique_locks_are_still_there(
    mortal_redis: MortalRedis, eye: Redis
) -> None:
    mortal_redis.start(*DURABLE)
    task = Task("email:welcome", process_in=timedelta(hours=1), unique=timedelta(hours=2))
    async with Client(mortal_redis.url) as client:
        await insist(client, "a", task)
        mortal_redis.stop()
        mortal_redis.start(*DURABLE)
        with pytest.raises(DuplicateTaskError):
            await insist(client, "b", task)
    assert list(await state.scores(eye, "scheduled")) == ["a"]
