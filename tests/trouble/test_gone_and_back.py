from __future__ import annotations

import asyncio
from itertools import count, takewhile

import pytest
from redis.asyncio import Redis

from asynqpy.client import Client
from asynqpy.errors import BrokerUnavailableError
from asynqpy.task import ActiveTask, Task
from tests import redis_state as state
from tests.eventually import eventually
from tests.server.servers import serving
from tests.trouble.conftest import MortalRedis
from tests.trouble.voice import told
from tests.trouble.work import is_refused

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


async def test_nothing_that_was_acknowledged_is_lost_when_redis_is_killed(
    mortal_redis: MortalRedis, eye: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    acknowledged: set[str] = set()
    runs: list[str] = []
    enough = asyncio.Event()

    async def handler(task: ActiveTask) -> None:
        await asyncio.sleep(0.01)
        runs.append(task.id)

    async def produce(client: Client) -> None:
        # Ended by a flag: redis-py loses a cancellation now and then.
        for n in takewhile(lambda _: not enough.is_set(), count()):
            try:
                info = await client.enqueue(Task("email:welcome"), task_id=f"t{n}")
            except BrokerUnavailableError:
                continue
            acknowledged.add(info.id)

    async def is_drained() -> bool:
        return not await state.dump(eye, "asynq:{default}:t:*")

    mortal_redis.start(*DURABLE)
    async with serving(mortal_redis.url, handler), Client(mortal_redis.url) as client:
        producing = asyncio.create_task(produce(client))
        await eventually(lambda: len(runs) > 50)
        mortal_redis.kill()
        assert await is_refused(client)
        await eventually(lambda: told(caplog, "is away"))
        mortal_redis.start(*DURABLE)
        known = len(acknowledged)
        await eventually(lambda: len(acknowledged) > known + 50)
        enough.set()
        await producing
        await eventually(lambda: acknowledged <= set(runs), within=10)
        await eventually(is_drained)
    assert len(runs) - len(set(runs)) <= 10  # those that were in flight
    assert told(caplog, "is away") == 1
    assert told(caplog, "is back after") == 1
