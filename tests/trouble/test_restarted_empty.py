from __future__ import annotations

import pytest
from redis.asyncio import Redis

from asynqpy.client import Client
from tests import redis_state as state
from tests.eventually import eventually
from tests.server.gate import Gate
from tests.server.servers import serving
from tests.trouble.conftest import MortalRedis
from tests.trouble.voice import complaints
from tests.trouble.work import Work, enqueue, insist


async def test_a_server_and_a_client_go_on_with_a_redis_that_lost_everything(
    mortal_redis: MortalRedis, eye: Redis, work: Work
) -> None:
    mortal_redis.start()
    async with serving(mortal_redis.url, work), Client(mortal_redis.url) as client:
        await insist(client, "before")
        await eventually(lambda: work.done == ["before"])
        mortal_redis.kill()
        mortal_redis.start()
        await insist(client, "after")
        await eventually(lambda: work.done == ["before", "after"])
        assert await state.ask(eye, "SMEMBERS", "asynq:queues") == {b"default"}
        assert await state.invariants(eye) == []


async def test_a_task_that_ran_meanwhile_is_not_brought_back_from_the_dead(
    mortal_redis: MortalRedis, eye: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    mortal_redis.start()
    async with serving(mortal_redis.url, gate):
        await enqueue(mortal_redis.url, "a")
        await eventually(lambda: gate.running)
        mortal_redis.kill()
        mortal_redis.start()
        gate.open()
        await eventually(lambda: not gate.running)
        await enqueue(mortal_redis.url, "b")
        await eventually(lambda: gate.started == ["a", "b"])
    assert await state.invariants(eye) == []
    assert not await state.dump(eye, "asynq:{default}:t:*")
    assert not [line for line in complaints(caplog) if "is away" not in line]
